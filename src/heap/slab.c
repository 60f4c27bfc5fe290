#include "heap/inside.h"

#include <errno.h>
#include <string.h>

enum { SLAB_PAGES = 4, SLABS_IN_POOL = 16, MANY_SLABS = 16, GROWTH = 4 };

struct sm_class sm_classes[SM_CLASSES];
unsigned sm_page_shift;

/* --------------------------------------------------------------- classes */

/* Up to 128 every multiple of 16, then four classes to a doubling: at most a fifth is waste. */
static size_t
most_of(unsigned class)
{
	unsigned k;

	if (class < 8)
		return 16 * (size_t)(class + 1);
	k = class - 8;
	return ((size_t)128 << k / 4) + ((size_t)32 << k / 4) * (k % 4 + 1);
}

/* The fewest pages that hold `slots` and leave at most an eighth over. */
static uint32_t
slab_pages(size_t stride, size_t slots)
{
	size_t page = sm_os_page_bytes();
	size_t n = (slots * stride + SM_CANARY_BYTES + page - 1) / page;

	while (n < SLAB_PAGES && (n + 1) * page / stride <= SM_SLOTS_MOST)
		n++;
	while ((n * page - SM_CANARY_BYTES) % stride > n * page / 8)
		n++;
	return (uint32_t)n;
}

void
sm_class_start(void)
{
	size_t page = sm_os_page_bytes();

	sm_page_shift = (unsigned)__builtin_ctzll(page);
	for (unsigned i = 0; i < SM_CLASSES; i++) {
		struct sm_class *c = &sm_classes[i];
		size_t stride = most_of(i) + 2 * SM_CANARY_BYTES;

		c->stride = (uint32_t)stride;
		c->magic = ((UINT64_C(1) << SM_MAGIC_SHIFT) + stride - 1) / stride;
		c->least = (uint32_t)((stride + SM_CANARY_BYTES + page - 1) / page);
		c->pages = slab_pages(stride, stride > 2048 ? 4 : 8);
	}
}

/* ----------------------------------------------------------------- slabs */

void
sm_slab_link(struct sm_bin *b, struct sm_slab *s)
{
	struct sm_slab **head = &b->partial[s->elastic];

	s->prev = NULL;
	s->next = *head;
	if (s->next)
		s->next->prev = s;
	*head = s;
}

void
sm_slab_unlink(struct sm_bin *b, struct sm_slab *s)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		b->partial[s->elastic] = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->next = s->prev = NULL;
}

/* Of a class that has many, slabs are longer: each costs a guard, of which a process has few. */
static size_t
usual_pages(const struct sm_bin *b, const struct sm_class *k)
{
	size_t page = sm_os_page_bytes(), most = SM_SLOTS_MOST * (size_t)k->stride / page;
	size_t many = MANY_SLABS * page * k->pages;

	return b->locked_bytes < many ? k->pages
				      : sm_min_size(GROWTH * k->pages, most > k->pages ? most : k->pages);
}

/* In a small pool slabs are smaller too, so that several classes find room. */
static size_t
wanted_pages(const struct sm_bin *b, const struct sm_class *k)
{
	const struct sm_config *c = sm_config();
	size_t share = c->pool_bytes / c->page_bytes / SLABS_IN_POOL, usual = usual_pages(b, k);

	return share > usual ? usual : share > k->least ? share : k->least;
}

int
sm_slab_new(struct sm_bin *b, unsigned class, unsigned arena, enum sm_reach reach)
{
	const struct sm_class *k = &sm_classes[class];
	struct sm_run kind = { .kind = SM_KIND_SLAB, .class = class };
	struct sm_place at;
	struct sm_slab *s;
	int e = sm_run_get(wanted_pages(b, k), k->least, kind, reach, &at);

	if (e)
		return e;
	s = &at.region->slabs[at.page];
	memset(s, 0, sizeof(*s));
	s->base = at.region->base + (at.page << sm_page_shift);
	s->records = &at.region->records[at.page * sm_records_per_page()];
	s->bin = b;
	s->class = (uint8_t)class;
	s->arena = (uint8_t)arena;
	s->elastic = at.elastic;
	s->slots = s->free_slots = (uint16_t)sm_class_slots(class, at.pages);
	for (uint32_t i = 0; i < s->slots; i++)
		s->free[i / 64] |= UINT64_C(1) << i % 64;
	if (!s->elastic)
		b->locked_bytes += at.pages << sm_page_shift;
	b->empty++;
	sm_slab_check(s);
	sm_slab_link(b, s);
	return 0;
}

void
sm_slab_drop(struct sm_bin *b, struct sm_slab *s)
{
	struct sm_region *r = sm_region_of(s->base);
	size_t first = (size_t)(s - r->slabs), bytes = sm_run_at(r, first).pages << sm_page_shift;

	sm_slab_unlink(b, s);
	b->empty--;
	sm_assert_zero(s->base, bytes, s->base);
	if (!s->elastic)
		b->locked_bytes -= bytes;
	sm_run_shut(r, first);
	sm_run_put(r, first);
}

bool
sm_slab_give_back(struct sm_bin *b)
{
	struct sm_slab *s, *next;
	bool any = false;

	for (unsigned i = 0; i < 2; i++)
		for (s = b->empty ? b->partial[i] : NULL; s; s = b->empty ? next : NULL) {
			next = s->next;
			if (s->free_slots == s->slots) {
				sm_slab_drop(b, s);
				any = true;
			}
		}
	return any;
}
