#include "heap/inside.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

enum { RANDOM_BYTES = 256, SLAB_PAGES = 4, SLABS_IN_POOL = 16 };

struct sm_class sm_classes[SM_CLASSES];

/** What one class knows of its slabs. */
struct shelf {
	struct sm_lock lock;	 /* SM_RANK_CLASS */
	struct sm_slab *partial; /* slabs with a free slot; at most one of them is empty */
	size_t random_at;
	unsigned char random[RANDOM_BYTES]; /* decides slot order; its head seeds the next */
};

static struct shelf shelves[SM_CLASSES];

_Static_assert(RANDOM_BYTES > 2 * randombytes_SEEDBYTES, "a seed and then some");

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
	for (unsigned i = 0; i < SM_CLASSES; i++) {
		struct sm_class *c = &sm_classes[i];
		size_t stride = most_of(i) + 2 * SM_CANARY_BYTES, page = sm_os_page_bytes();

		c->stride = (uint32_t)stride;
		c->magic = ((UINT64_C(1) << SM_MAGIC_SHIFT) + stride - 1) / stride;
		c->least = (uint32_t)((stride + SM_CANARY_BYTES + page - 1) / page);
		c->pages = slab_pages(stride, stride > 2048 ? 4 : 8);
	}
}

unsigned
sm_class_of(size_t size)
{
	size_t step;
	unsigned shift;

	if (size <= 128)
		return size == 0 ? 0 : (unsigned)((size - 1) / 16);
	shift = 63 - (unsigned)__builtin_clzll(size - 1) - 7; /* size is in (128, 256] << shift */
	step = (size_t)32 << shift;
	return 8 + 4 * shift + (unsigned)((size - 1 - ((size_t)128 << shift)) / step);
}

/* ----------------------------------------------------------------- slabs */

static void
slab_check(const struct sm_slab *s)
{
	sm_check(s->slots > 0 && s->slots <= SM_SLOTS_MOST && s->free_slots <= s->slots);
	sm_check(s->base != NULL && sm_region_of(s->base) != NULL);
	(void)s;
}

static void
link_slab(struct shelf *sh, struct sm_slab *s)
{
	s->prev = NULL;
	s->next = sh->partial;
	if (s->next)
		s->next->prev = s;
	sh->partial = s;
}

static void
unlink_slab(struct shelf *sh, struct sm_slab *s)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		sh->partial = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->next = s->prev = NULL;
}

int
sm_slab_start(void)
{
	for (unsigned i = 0; i < SM_CLASSES; i++) {
		int e = sm_os_random(shelves[i].random, randombytes_SEEDBYTES);

		if (e)
			return e;
		shelves[i].lock = (struct sm_lock){ 0 };
		shelves[i].partial = NULL;
		shelves[i].random_at = RANDOM_BYTES; /* nothing but a seed yet */
	}
	return 0;
}

static uint32_t
random_below(struct shelf *sh, uint32_t n)
{
	uint16_t r;

	if (sh->random_at + sizeof(r) > RANDOM_BYTES) {
		randombytes_buf_deterministic(sh->random, RANDOM_BYTES, sh->random);
		sh->random_at = randombytes_SEEDBYTES;
	}
	memcpy(&r, sh->random + sh->random_at, sizeof(r));
	sh->random_at += sizeof(r);
	return r * n >> 16; /* Lemire 2019; n is at most 512, so the bias is under 1 in 128 */
}

/* In a small pool slabs are smaller too, so that several classes find room. */
static size_t
wanted_pages(const struct sm_class *k)
{
	const struct sm_config *c = sm_config();
	size_t share = c->pool_bytes / c->page_bytes / SLABS_IN_POOL;

	return share > k->pages ? k->pages : share > k->least ? share : k->least;
}

static int
slab_new(unsigned class, struct shelf *sh)
{
	const struct sm_class *k = &sm_classes[class];
	struct sm_run kind = { .kind = SM_KIND_SLAB, .class = class };
	struct sm_place at;
	struct sm_slab *s;
	int e = sm_run_get(wanted_pages(k), k->least, kind, &at);

	if (e)
		return e;
	s = &at.region->slabs[at.page];
	memset(s, 0, sizeof(*s));
	s->base = at.region->base + at.page * sm_os_page_bytes();
	s->slots = s->free_slots = sm_class_slots(class, at.pages);
	for (uint32_t i = 0; i < s->slots; i++)
		s->free[i / 64] |= UINT64_C(1) << i % 64;
	slab_check(s);
	link_slab(sh, s);
	return 0;
}

/* A random free slot: the first one from a random place on, around the end. */
static uint32_t
take_slot(struct shelf *sh, struct sm_slab *s)
{
	uint32_t from = random_below(sh, s->slots), words = (s->slots + 63) / 64;
	uint32_t at = from / 64;
	uint64_t bits = s->free[at] & ~UINT64_C(0) << from % 64;
	uint32_t slot;

	while (bits == 0) {
		at = at + 1 == words ? 0 : at + 1;
		bits = s->free[at];
	}
	slot = at * 64 + (uint32_t)__builtin_ctzll(bits);
	s->free[at] &= ~(UINT64_C(1) << slot % 64);
	if (--s->free_slots == 0)
		unlink_slab(sh, s);
	return slot;
}

static void
assert_zero(const unsigned char *bytes, size_t n, const void *ptr)
{
	if (!sm_is_zero(bytes, n))
		sm_die(SECMALLOC_FAULT_WRITE_AFTER_FREE, ptr);
}

static int
take_from_shelf(unsigned class, struct sm_slab **s, uint32_t *slot)
{
	struct shelf *sh = &shelves[class];
	int e = 0;

	sm_lock_take(&sh->lock, SM_RANK_CLASS);
	if (!sh->partial)
		e = slab_new(class, sh);
	if (e == 0) {
		*s = sh->partial;
		*slot = take_slot(sh, *s);
		slab_check(*s);
	}
	sm_lock_release(&sh->lock, SM_RANK_CLASS);
	return e;
}

int
sm_slab_alloc(const struct sm_wanted *w, struct sm_chunk **out, void **ptr)
{
	unsigned class = sm_class_of(w->size + w->align - SM_ALIGN_BYTES);
	uint32_t stride = sm_classes[class].stride, slot;
	unsigned char *first;
	struct sm_region *r;
	struct sm_slab *s;
	uintptr_t at;
	int e = take_from_shelf(class, &s, &slot);

	if (e && sm_slab_trim())
		e = take_from_shelf(class, &s, &slot);
	if (e)
		return e;
	r = sm_region_of(s->base);
	first = s->base + SM_ALIGN_BYTES + (size_t)slot * stride;
	at = sm_round_up((uintptr_t)first, w->align);
	assert_zero(first - SM_CANARY_BYTES, stride, (void *)at);
	*out = &r->records[(size_t)(s - r->slabs) * sm_records_per_page() + slot];
	(*out)->own_pages = 0;
	sm_chunk_begin(*out, (void *)at, w->size, at - (uintptr_t)first);
	*ptr = (void *)at;
	return 0;
}

static void
give_back(struct shelf *sh, struct sm_slab *s)
{
	struct sm_region *r = sm_region_of(s->base);
	size_t first = (size_t)(s - r->slabs);

	unlink_slab(sh, s);
	assert_zero(s->base, sm_run_at(r, first).pages * sm_os_page_bytes(), s->base);
	sm_run_put(r, first);
}

void
sm_slab_free(struct sm_region *r, size_t first, unsigned class, struct sm_chunk *c)
{
	struct shelf *sh = &shelves[class];
	struct sm_slab *s = &r->slabs[first];
	size_t slot = (size_t)(c - r->records) - first * sm_records_per_page();
	uint64_t bit = UINT64_C(1) << slot % 64;

	sm_lock_take(&sh->lock, SM_RANK_CLASS);
	sm_assert(slot < s->slots && !(s->free[slot / 64] & bit));
	s->free[slot / 64] |= bit;
	if (s->free_slots++ == 0)
		link_slab(sh, s);
	slab_check(s);
	if (s->free_slots == s->slots && (s->next || s->prev))
		give_back(sh, s);
	sm_lock_release(&sh->lock, SM_RANK_CLASS);
}

bool
sm_slab_trim(void)
{
	bool any = false;

	for (unsigned i = 0; i < SM_CLASSES; i++) {
		struct shelf *sh = &shelves[i];
		struct sm_slab *s, *next;

		sm_lock_take(&sh->lock, SM_RANK_CLASS);
		for (s = sh->partial; s; s = next) {
			next = s->next;
			if (s->free_slots == s->slots) {
				give_back(sh, s);
				any = true;
			}
		}
		sm_lock_release(&sh->lock, SM_RANK_CLASS);
	}
	return any;
}
