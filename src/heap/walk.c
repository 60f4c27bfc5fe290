#include "heap/inside.h"

enum { FETCHED = 8 };

static struct sm_chunk *
next_in_run(struct sm_walk *w, struct sm_region *r, const struct sm_run *run)
{
	size_t slots = run->kind == SM_KIND_SLAB ? sm_class_slots(run->class, run->pages) : 1;

	while (w->slot < slots) {
		struct sm_chunk *c = &r->records[w->page * sm_records_per_page() + w->slot++];

		if (sm_heap_live(c))
			return c;
	}
	return NULL;
}

/* Records of slabs lie far apart: those of the run that follows will be in the cache. */
static void
fetch_ahead(const struct sm_region *r, size_t page, const struct sm_run *run)
{
	size_t next = page + run->pages + 1; /* a guard page in between */
	const struct sm_chunk *c = &r->records[next * sm_records_per_page()];

	if (next >= r->pages)
		return;
	for (unsigned i = 0; i < FETCHED; i++)
		__builtin_prefetch(c + i, 1);
}

struct sm_chunk *
sm_heap_next(struct sm_walk *w)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_acquire);

	for (; w->region < n; w->region++, w->page = 0) {
		struct sm_region *r = &sm_regions[w->region];
		size_t used = atomic_load_explicit(&r->pages_used, memory_order_acquire);

		for (; w->page < used; w->page++, w->slot = 0) {
			struct sm_run run = sm_run_at(r, w->page);
			struct sm_chunk *c;

			if (!run.used || run.back != 0 || run.kind == SM_KIND_NONE ||
				run.kind == SM_KIND_GUARD)
				continue;
			if (w->slot == 0)
				fetch_ahead(r, w->page, &run);
			c = next_in_run(w, r, &run);
			if (c)
				return c;
		}
	}
	return NULL;
}
