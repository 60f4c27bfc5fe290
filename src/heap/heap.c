#include "heap/canary.h"

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
 * what describes a page takes more than twice what the page does. */
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
	sm_large_reset();
	e = sm_arena_start();
	if (e == 0)
		e = c->pool_auto ? fitted_pools(c) : first_pools(c);
	if (e == 0)
		sm_purge_show(true);
	return e;
}

void
sm_heap_stop(void)
{
	sm_purge_show(false);
	sm_pool_reset();
	sm_region_reset();
}

void
sm_heap_orphan(void)
{
	sm_purge_show(false);
	sm_pool_orphan();
	sm_region_orphan();
}

unsigned
sm_heap_granted(void)
{
	return sm_pool_granted();
}

/* ----------------------------------------------------------- places and chunks */

static inline struct sm_made
place(size_t size, size_t align, bool own_pages, bool locked)
{
	if (SM_LIKELY(!own_pages && size + align - SM_ALIGN_BYTES <= SM_PACKED_MOST_BYTES))
		return sm_packed_alloc(size, align, locked);
	return sm_large_alloc(size, align, locked);
}

static inline struct sm_slab *
slab_of(const struct sm_chunk *c)
{
	struct sm_region *r = sm_region_of(sm_heap_bytes(c));
	size_t page = (sm_heap_at(c) - (uintptr_t)r->base) >> sm_page_shift;

	return &r->slabs[page - sm_run_at(r, page).back];
}

static void
pages_of(const struct sm_spot *s, size_t *first, size_t *pages)
{
	size_t from = (size_t)(s->start - s->region->base) >> sm_page_shift;

	*first = from;
	*pages = ((size_t)(s->end - 1 - s->region->base) >> sm_page_shift) - from + 1;
}

/* Nobody has seen its address: it need not rest. */
static void
discard(struct sm_chunk *c)
{
	sm_canary_clear(c, sm_heap_bytes(c));
	if (c->own_pages)
		sm_large_free(c, false);
	else
		sm_packed_discard(slab_of(c), c);
}

/* An elastic page that cannot be locked is no reason to fail while a locked one is free. */
struct sm_made
sm_heap_pinned(struct sm_made m, size_t size, size_t align, bool own_pages)
{
	size_t first, pages, bytes;
	struct sm_spot s;

	if (m.e || sm_heap_pin(m.c) == 0)
		return m;
	s = sm_spot_of(m.c);
	pages_of(&s, &first, &pages);
	bytes = pages << sm_page_shift;

	discard(m.c);
	m = place(size, align, own_pages, true);
	if (m.e)
		m.e = sm_window_explain(bytes);
	return m;
}

struct sm_made
sm_heap_alloc(size_t size, size_t align, bool own_pages)
{
	sm_check(align >= SM_ALIGN_BYTES && align <= sm_os_page_bytes());
	if (!SM_LIKELY(size <= PTRDIFF_MAX / 4))
		return (struct sm_made){ NULL, sm_fail(ENOMEM, "%zu bytes are more than any "
				"address space has", size) };
	if (SM_LIKELY(!own_pages && size + align - SM_ALIGN_BYTES <= SM_PACKED_MOST_BYTES))
		return sm_packed_alloc(size, align, false);
	return sm_heap_pinned(sm_large_alloc(size, align, false), size, align, own_pages);
}

int
sm_heap_pin_pages(struct sm_chunk *c)
{
	struct sm_spot s = sm_spot_of(c);
	size_t first, pages;

	pages_of(&s, &first, &pages);
	return sm_window_open(s.region, first, pages);
}

void
sm_heap_unpin_pages(struct sm_chunk *c)
{
	struct sm_spot s = sm_spot_of(c);
	size_t first, pages;

	pages_of(&s, &first, &pages);
	sm_window_close(s.region, first, pages);
}

static SM_COLD void
free_large(struct sm_chunk *c, void *ptr, bool pinned)
{
	sm_canary_clear(c, ptr);
	if (c->size && !sm_config()->transparent) /* there, what is clear is wiped as it is dropped */
		sm_wipe(ptr, c->size);
	if (pinned)
		sm_heap_unpin(c);
	atomic_store_explicit(&c->life, SM_LIFE_RESTING, memory_order_release);
	sm_large_free(c, true);
}

/* Strides are multiples of 16; a call of memset costs more than the few stores of a small one. */
static inline void
wipe_slot(unsigned char *p, size_t n)
{
	if (!SM_LIKELY(n <= 8 * SM_ALIGN_BYTES)) {
		sm_wipe(p, n);
		return;
	}
	for (; n > 0; n -= SM_ALIGN_BYTES, p += SM_ALIGN_BYTES)
		sm_wipe(p, SM_ALIGN_BYTES);
}

void
sm_heap_free(struct sm_chunk *c, void *ptr, bool pinned)
{
	unsigned char *start = (unsigned char *)ptr - c->offset - SM_CANARY_BYTES;

	if (!SM_LIKELY(!c->own_pages)) {
		free_large(c, ptr, pinned);
		return;
	}
	wipe_slot(start, sm_classes[c->class].stride);
	if (pinned)
		sm_heap_unpin(c);
	atomic_store_explicit(&c->life, SM_LIFE_RESTING, memory_order_release);
	sm_packed_free(slab_of(c), c);
}

/* A tombstone counts while the first page still tells the same. */
static SM_COLD bool
run_stands(const struct sm_region *r, size_t first, const struct sm_run *run)
{
	struct sm_run head = sm_run_at(r, first);

	return head.used == run->used && head.kind == run->kind && head.class == run->class &&
		head.pages == run->pages && head.back == 0;
}

/* Strides are such that there is a record for every slot that an offset can name. */
static inline size_t
slot_at(unsigned class, size_t off)
{
	return (uint64_t)(off - SM_ALIGN_BYTES) * sm_classes[class].magic >> SM_MAGIC_SHIFT;
}

/* NULL: nothing starts there. */
static SM_COLD struct sm_chunk *
chunk_of(const struct sm_region *r, const void *ptr, size_t page, struct sm_run run)
{
	size_t first = page - run.back, slot = 0;
	size_t off = (uintptr_t)ptr - (uintptr_t)(r->base + (first << sm_page_shift));
	struct sm_chunk *c;

	if ((run.kind != SM_KIND_SLAB && run.kind != SM_KIND_LARGE) || off < SM_CANARY_BYTES)
		return NULL;
	if (!run.used && !run_stands(r, first, &run))
		return NULL;
	if (run.kind == SM_KIND_SLAB && off < SM_ALIGN_BYTES)
		return NULL;
	if (run.kind == SM_KIND_SLAB)
		slot = slot_at(run.class, off);
	c = &r->records[first * sm_records_per_page() + slot];
	return sm_heap_at(c) == (uintptr_t)ptr ? c : NULL;
}

static inline struct sm_chunk *
chunk_at(const struct sm_region *r, const void *ptr)
{
	size_t page = ((uintptr_t)ptr - (uintptr_t)r->base) >> sm_page_shift, first, off;
	struct sm_chunk *c;
	struct sm_run run;

	if (!SM_LIKELY(page < atomic_load_explicit(&r->pages_used, memory_order_acquire)))
		return NULL;
	run = sm_run_at(r, page);
	first = page - run.back;
	off = (uintptr_t)ptr - (uintptr_t)(r->base + (first << sm_page_shift));
	if (!SM_LIKELY(run.used && run.kind == SM_KIND_SLAB && off >= SM_ALIGN_BYTES))
		return chunk_of(r, ptr, page, run);
	c = &r->records[first * sm_records_per_page() + slot_at(run.class, off)];
	return SM_LIKELY(sm_heap_at(c) == (uintptr_t)ptr) ? c : NULL;
}

struct sm_chunk *
sm_heap_look(const void *ptr)
{
	struct sm_region *r = sm_region_of(ptr);

	__builtin_prefetch((const void *)((uintptr_t)ptr - SM_CANARY_BYTES), 1);
	__builtin_prefetch((const void *)((uintptr_t)ptr + 2 * SM_ALIGN_BYTES), 1);
	return SM_LIKELY(r != NULL) ? chunk_at(r, ptr) : NULL;
}

enum sm_found
sm_heap_find(const void *ptr, struct sm_chunk **c)
{
	struct sm_region *r = sm_region_of(ptr);

	if (!r)
		return sm_region_inherited(ptr) ? SM_INHERITED : SM_FOREIGN;
	*c = chunk_at(r, ptr);
	return *c ? SM_FOUND : SM_INTERIOR;
}

unsigned char *
sm_heap_tag_rest(const struct sm_chunk *c)
{
	struct sm_region *r;

	if (!sm_config()->tag_rest)
		return NULL;
	r = sm_region_of(sm_heap_bytes(c));
	return r->rests[c - r->records].tag;
}

static bool
fits(const struct sm_chunk *c, size_t size, bool loose)
{
	if (c->own_pages)
		return sm_round_up(size ? size : 1, SM_ALIGN_BYTES) ==
			sm_round_up(c->size ? c->size : 1, SM_ALIGN_BYTES);
	if (loose && size <= c->size)
		return true;
	return size <= SM_PACKED_MOST_BYTES && size + c->offset <= SM_PACKED_MOST_BYTES &&
		sm_class_of(size + c->offset) == c->class;
}

bool
sm_heap_resize(struct sm_chunk *c, void *ptr, size_t size, bool loose)
{
	if (!fits(c, size, loose))
		return false;
	sm_canary_clear(c, ptr);
	if (size < c->size)
		sm_wipe((unsigned char *)ptr + size, c->size - size);
	sm_arena_resize(c->arena, c->size, size);
	c->size = size;
	sm_canary_set(c, ptr);
	return true;
}
