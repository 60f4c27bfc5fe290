#include "heap/inside.h"

#include <errno.h>
#include <string.h>

enum {
	POOL_MOST_BYTES = 1 << 20,
	POOL_LEAST_PAGES = 4,
	REGION_PAGES = 1 << 16,
	REGION_SHARE = 32 /* of the address space, in data pages: a tenth with all there is to them */
};

/* ------------------------------------------------------------ start and stop */

/* Unlimited: room to grow. Limited: no more address space than the lock limit can ever lock, since
 * all of it counts when the program calls mlockall, nor more than a share of RLIMIT_AS, of which
 * what describes a page takes twice what the page does. */
static size_t
first_region_pages(const struct sm_config *c, size_t need)
{
	size_t most = sm_os_address_limit() / REGION_SHARE / c->page_bytes;

	if (sm_os_lock_limit() != SIZE_MAX || need >= sm_min_size(most, REGION_PAGES))
		return need;
	return sm_min_size(most, REGION_PAGES);
}

static int
first_region(const struct sm_config *c)
{
	size_t pool = c->pool_bytes / c->page_bytes + 1, need, pages;
	int e;

	if (pool > SM_PAGES_MOST / c->initial_pools)
		return sm_fail(ENOMEM, "%u pools of %zu bytes are too much: ask for less",
			c->initial_pools, c->pool_bytes);
	need = pool * c->initial_pools;
	pages = first_region_pages(c, need);
	while ((e = sm_region_add(pages)) != 0 && pages / 2 >= need)
		pages /= 2;
	if (e && pages > need)
		e = sm_region_add(need);
	if (e == 0)
		sm_region_publish();
	return e;
}

static int
first_pools(const struct sm_config *c)
{
	int e = first_region(c);

	for (unsigned i = 0; e == 0 && i < c->initial_pools; i++)
		e = sm_pool_add(c->pool_bytes / c->page_bytes, true);
	if (e) {
		sm_pool_reset();
		sm_region_reset();
	}
	return e;
}

static int
fitted_pools(struct sm_config *c)
{
	size_t limit = sm_os_lock_limit(), least = POOL_LEAST_PAGES * c->page_bytes;
	size_t bytes = POOL_MOST_BYTES;
	int e;

	if (limit != SIZE_MAX)
		bytes = sm_min_size(bytes, limit / 2 / c->initial_pools);
	for (;; bytes /= 2) {
		c->pool_bytes = bytes & ~(c->page_bytes - 1);
		if (c->pool_bytes < least)
			c->pool_bytes = least;
		e = first_pools(c);
		if (e != ENOMEM || c->pool_bytes == least)
			return e;
	}
}

int
sm_heap_start(struct sm_config *c)
{
	int e;

	sm_class_start();
	sm_pool_reset();
	e = sm_slab_start();
	if (e)
		return e;
	return c->pool_auto ? fitted_pools(c) : first_pools(c);
}

void
sm_heap_stop(void)
{
	sm_pool_reset();
	sm_region_reset();
}

void
sm_heap_orphan(void)
{
	sm_pool_orphan();
	sm_region_orphan();
}

unsigned
sm_heap_granted(void)
{
	return sm_pool_granted();
}

/* ----------------------------------------------------------- places and chunks */

int
sm_heap_alloc(const struct sm_wanted *w, struct sm_chunk **c, void **ptr)
{
	sm_assert(w->align >= SM_ALIGN_BYTES && w->align <= sm_os_page_bytes());
	if (w->size > PTRDIFF_MAX / 4)
		return sm_fail(ENOMEM, "%zu bytes are more than any address space has", w->size);
	if (!w->own_pages && w->size + w->align - SM_ALIGN_BYTES <= SM_PACKED_MOST_BYTES)
		return sm_slab_alloc(w, c, ptr);
	return sm_large_alloc(w, c, ptr);
}

struct sm_spot
sm_spot_of(const struct sm_chunk *c)
{
	struct sm_region *r = sm_region_of_record(c);
	size_t per = sm_records_per_page(), page_bytes = sm_os_page_bytes();
	size_t index = (size_t)(c - r->records), page = index / per;
	struct sm_spot s = { r, sm_run_at(r, page), 0, NULL, NULL };

	sm_assert(s.run.used && s.run.back <= page);
	s.first = page - s.run.back;
	s.start = r->base + s.first * page_bytes;
	s.end = s.start + s.run.pages * page_bytes;
	if (s.run.kind == SM_KIND_SLAB) {
		s.start += SM_ALIGN_BYTES +
			(index - s.first * per) * sm_classes[s.run.class].stride;
		s.end = s.start + sm_class_most(s.run.class);
	}
	return s;
}

void *
sm_heap_bytes(const struct sm_chunk *c)
{
	return sm_spot_of(c).start + sm_chunk_offset(c);
}

void
sm_heap_free(struct sm_chunk *c, void *ptr)
{
	struct sm_spot s = sm_spot_of(c);

	sm_canary_clear(c, ptr);
	if (c->size)
		sm_wipe(ptr, c->size);
	atomic_store_explicit(&c->life, SM_LIFE_FREE, memory_order_release);
	if (s.run.kind == SM_KIND_SLAB)
		sm_slab_free(s.region, s.first, s.run.class, c);
	else
		sm_large_free(s.region, s.first, c);
}

/* A tombstone counts while the first page still tells the same. */
static bool
run_stands(const struct sm_region *r, size_t first, const struct sm_run *run)
{
	struct sm_run head = sm_run_at(r, first);

	return head.used == run->used && head.kind == run->kind && head.class == run->class &&
		head.pages == run->pages && head.back == 0;
}

enum sm_found
sm_heap_find(const void *ptr, struct sm_chunk **c)
{
	size_t page_bytes = sm_os_page_bytes(), page, first, off, slot = 0;
	struct sm_region *r = sm_region_of(ptr);
	struct sm_run run;

	if (!r)
		return sm_region_inherited(ptr) ? SM_INHERITED : SM_FOREIGN;
	page = ((uintptr_t)ptr - (uintptr_t)r->base) / page_bytes;
	if (page >= atomic_load_explicit(&r->pages_used, memory_order_acquire))
		return SM_INTERIOR;
	run = sm_run_at(r, page);
	first = page - run.back;
	if ((run.kind != SM_KIND_SLAB && run.kind != SM_KIND_LARGE) || !run_stands(r, first, &run))
		return SM_INTERIOR;
	off = (uintptr_t)ptr - (uintptr_t)(r->base + first * page_bytes);
	if (run.kind == SM_KIND_SLAB) {
		if (off < SM_ALIGN_BYTES)
			return SM_INTERIOR;
		off -= SM_ALIGN_BYTES;
		slot = (uint64_t)off * sm_classes[run.class].magic >> SM_MAGIC_SHIFT;
		if (slot >= sm_class_slots(run.class, run.pages))
			return SM_INTERIOR;
		off -= slot * sm_classes[run.class].stride;
	}
	*c = &r->records[first * sm_records_per_page() + slot];
	if (off != sm_chunk_offset(*c))
		return SM_INTERIOR;
	return SM_FOUND;
}

static bool
fits(const struct sm_chunk *c, size_t size, bool loose)
{
	size_t offset = sm_chunk_offset(c);

	if (c->own_pages)
		return sm_round_up(size ? size : 1, SM_ALIGN_BYTES) ==
			sm_round_up(c->size ? c->size : 1, SM_ALIGN_BYTES);
	if (loose && size <= c->size)
		return true;
	return size <= SM_PACKED_MOST_BYTES && size + offset <= SM_PACKED_MOST_BYTES &&
		sm_class_of(size + offset) == sm_spot_of(c).run.class;
}

bool
sm_heap_resize(struct sm_chunk *c, void *ptr, size_t size, bool loose)
{
	if (!fits(c, size, loose))
		return false;
	sm_canary_clear(c, ptr);
	if (size < c->size)
		sm_wipe((unsigned char *)ptr + size, c->size - size);
	c->size = size;
	sm_canary_set(c, ptr);
	return true;
}
