#include "heap/inside.h"

#include <errno.h>
#include <string.h>

/* The chunk's end lies at the end of the run, within its alignment; its canary in front of it. */
int
sm_large_alloc(const struct sm_wanted *w, struct sm_chunk **out, void **ptr)
{
	size_t page = sm_os_page_bytes();
	size_t bytes = sm_round_up(w->size ? w->size : 1, w->align);
	size_t pages = (bytes + SM_CANARY_BYTES + page - 1) / page;
	struct sm_run kind = { .kind = SM_KIND_LARGE };
	struct sm_place at;
	size_t offset;
	int e = sm_run_get(pages, pages, kind, &at);

	if (e && sm_slab_trim())
		e = sm_run_get(pages, pages, kind, &at);
	if (e)
		return e;
	offset = pages * page - bytes;
	if (at.open_before && !sm_is_zero(at.region->base + at.page * page, pages * page))
		sm_die(SECMALLOC_FAULT_WRITE_AFTER_FREE, at.region->base + at.page * page + offset);
	*out = &at.region->records[at.page * sm_records_per_page()];
	*ptr = at.region->base + at.page * page + offset;
	(*out)->own_pages = 1;
	sm_chunk_begin(*out, *ptr, w->size, offset);
	return 0;
}

void
sm_large_free(struct sm_region *r, size_t first, struct sm_chunk *c)
{
	sm_assert(c == &r->records[first * sm_records_per_page()]);
	sm_run_put(r, first);
}

/* ----------------------------------------------------- what the program may do */

static int
set_pages(const struct sm_chunk *c, void *ptr, enum secmalloc_access a)
{
	struct sm_region *r = sm_region_of_record(c);
	size_t page = sm_os_page_bytes();
	size_t first = (size_t)(c - r->records) / sm_records_per_page();

	(void)ptr;
	return sm_os_access(r->base + first * page, sm_run_at(r, first).pages * page, a);
}

int
sm_heap_protect(struct sm_chunk *c, void *ptr, enum secmalloc_access a)
{
	int e;

	if (!c->own_pages)
		return sm_fail(ENOTSUP, "a chunk of %u bytes or less shares its pages: only larger "
					"ones can be protected", SM_PACKED_MOST_BYTES);
	e = set_pages(c, ptr, a);
	if (e == 0)
		c->access = (uint8_t)a;
	return e ? ENOMEM : 0;
}

int
sm_heap_lift(struct sm_chunk *c, void *ptr)
{
	if (SM_LIKELY(c->access == SECMALLOC_READWRITE))
		return 0;
	return set_pages(c, ptr, SECMALLOC_READWRITE) ? ENOMEM : 0;
}

int
sm_heap_drop(struct sm_chunk *c, void *ptr)
{
	if (SM_LIKELY(c->access == SECMALLOC_READWRITE))
		return 0;
	if (set_pages(c, ptr, (enum secmalloc_access)c->access) == 0)
		return 0;
	c->access = SECMALLOC_READWRITE;
	return sm_fail(ENOMEM, "what secmalloc_protect set could not be restored: the chunk is "
			       "read-write now; raise vm.max_map_count and protect it again");
}
