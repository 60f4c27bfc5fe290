#include "heap/inside.h"

#include <errno.h>

enum { INHERITED_MOST = 128 };

struct sm_region sm_regions[SM_REGIONS_MOST];
_Atomic unsigned sm_region_count;

static struct {
	const unsigned char *base;
	size_t bytes;
} inherited[INHERITED_MOST]; /* the oldest are forgotten first */
static unsigned inherited_count;

/** The parts of a reservation in this order, each behind a page without access. */
enum part { WORDS, PINS, SLABS, RECORDS, RESTS, POOLS, PARTS };

static size_t
part_bytes(enum part part, size_t pages)
{
	switch (part) {
	case WORDS:
		return pages * sizeof(uint64_t);
	case PINS:
		return pages * sizeof(uint16_t);
	case SLABS:
		return pages * sizeof(struct sm_slab);
	case RECORDS:
		return pages * sm_records_per_page() * sizeof(struct sm_chunk);
	case RESTS:
		return pages * sm_records_per_page() * sizeof(struct sm_rest);
	default:
		return (pages / 2 + 1) * sizeof(struct sm_pool);
	}
}

int
sm_region_add(size_t pages)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);
	struct sm_region *r = &sm_regions[n];
	size_t page = sm_os_page_bytes(), start[PARTS];
	size_t bytes = (pages + 2) * page; /* a page without access on both sides */
	unsigned char *base;
	int e;

	if (n == SM_REGIONS_MOST || pages > SM_PAGES_MOST || pages > SIZE_MAX / 4 / page)
		return sm_fail(ENOMEM, "no address space for %zu more pages: ask for less", pages);
	for (enum part i = 0; i < PARTS; i++) {
		start[i] = bytes;
		bytes += sm_round_up(part_bytes(i, pages), page) + page;
	}
	e = sm_os_reserve(bytes, &r->reserved);
	if (e)
		return e;
	base = r->reserved;
	r->reserved_bytes = bytes;
	r->base = base + page;
	r->pages = pages;
	r->bytes = pages * page;
	r->pins = (uint16_t *)(void *)(base + start[PINS]);
	r->words = (_Atomic uint64_t *)(void *)(base + start[WORDS]);
	r->slabs = (struct sm_slab *)(void *)(base + start[SLABS]);
	r->records = (struct sm_chunk *)(void *)(base + start[RECORDS]);
	r->rests = (struct sm_rest *)(void *)(base + start[RESTS]);
	r->pools = (struct sm_pool *)(void *)(base + start[POOLS]);
	r->npools = 0;
	atomic_store_explicit(&r->pages_used, 0, memory_order_relaxed);
	return 0;
}

void
sm_region_publish(void)
{
	atomic_fetch_add_explicit(&sm_region_count, 1, memory_order_release);
}

/* Forgotten first: a child that is forked now must not look at what is unmapped. */
static void
drop(struct sm_region *r)
{
	void *reserved = r->reserved;
	size_t bytes = r->reserved_bytes;

	r->pages = r->bytes = r->npools = r->reserved_bytes = 0;
	r->reserved = NULL;
	atomic_store_explicit(&r->pages_used, 0, memory_order_relaxed);
	sm_os_unreserve(reserved, bytes);
}

void
sm_region_drop(void)
{
	drop(&sm_regions[atomic_load_explicit(&sm_region_count, memory_order_relaxed)]);
}

void
sm_region_reset(void)
{
	unsigned n = atomic_exchange(&sm_region_count, 0);

	for (unsigned i = 0; i < n; i++)
		drop(&sm_regions[i]);
}

void
sm_region_orphan(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);

	for (unsigned i = 0; i < n; i++) {
		struct sm_region *r = &sm_regions[i];
		unsigned char *words = (unsigned char *)r->words - sm_os_page_bytes();
		size_t data = (size_t)(words - (unsigned char *)r->reserved);
		unsigned at = inherited_count++ % INHERITED_MOST;

		inherited[at].base = r->reserved;
		inherited[at].bytes = data;
		sm_os_unreserve(words, r->reserved_bytes - data);
		r->reserved = NULL;
		drop(r);
	}
	atomic_store(&sm_region_count, 0);
}

bool
sm_region_inherited(const void *p)
{
	unsigned n = inherited_count < INHERITED_MOST ? inherited_count : INHERITED_MOST;

	for (unsigned i = 0; i < n; i++)
		if ((uintptr_t)p - (uintptr_t)inherited[i].base < inherited[i].bytes)
			return true;
	return false;
}

static int
commit_part(void *array, size_t size, size_t from, size_t n)
{
	size_t page = sm_os_page_bytes();
	uintptr_t start = ((uintptr_t)array + from * size) & ~(uintptr_t)(page - 1);
	uintptr_t end = sm_round_up((uintptr_t)array + (from + n) * size, page);

	return sm_os_commit((void *)start, end - start);
}

int
sm_region_open(struct sm_region *r, size_t first, size_t pages, size_t pool)
{
	size_t used = atomic_load_explicit(&r->pages_used, memory_order_relaxed);
	size_t end = first + pages, per = sm_records_per_page();
	int e;

	sm_assert(end <= r->pages);
	e = commit_part(r->pools, sizeof(*r->pools), pool, 1);
	if (e == 0 && end > used)
		e = commit_part(r->words, sizeof(*r->words), used, end - used);
	if (e == 0 && end > used)
		e = commit_part(r->pins, sizeof(*r->pins), used, end - used);
	if (e == 0)
		e = commit_part(r->slabs, sizeof(*r->slabs), first, pages);
	if (e == 0)
		e = commit_part(r->records, sizeof(*r->records), first * per, pages * per);
	if (e == 0 && sm_config()->tag_rest)
		e = commit_part(r->rests, sizeof(*r->rests), first * per, pages * per);
	if (e == 0 && end > used)
		atomic_store_explicit(&r->pages_used, end, memory_order_release);
	return e;
}
