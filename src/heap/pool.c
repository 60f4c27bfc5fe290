#include "heap/inside.h"

#include <errno.h>
#include <limits.h>

enum {
	POOL_MAPPINGS = 4,    /* that one costs: its own, its gap, and those of what describes it */
	POOLS_OF_A_SIZE = 64, /* then they are twice as large */
	POOL_MOST_PAGES = 1 << 14
};

/* Under SM_RANK_POOL. */
static _Atomic unsigned granted; /* bits that held for every pool so far */
static unsigned pool_count;
static unsigned pool_limit; /* so many split mappings up to an eighth of vm.max_map_count */
static bool no_markers;	    /* the kernel has refused one */
const struct sm_watch *sm_heap_watch;

unsigned
sm_pool_granted(void)
{
	return atomic_load_explicit(&granted, memory_order_relaxed);
}

void
sm_pool_forgo(unsigned bits)
{
	atomic_fetch_and_explicit(&granted, ~bits, memory_order_relaxed);
}

void
sm_pool_check(const struct sm_pool *p)
{
	sm_check(p->area.base != NULL && p->pages > 0 && p->pages <= p->room);
	sm_check(p->area.bytes == p->pages * sm_os_page_bytes());
	sm_check(p->free_pages <= p->pages);
	(void)p;
}

struct sm_pool *
sm_pool_of(const struct sm_region *r, size_t page)
{
	for (size_t i = 0; i < r->npools; i++)
		if (page - r->pools[i].first < r->pools[i].room)
			return &r->pools[i];
	sm_die(SECMALLOC_FAULT_INTERNAL, r->base);
}

/* ------------------------------------------------------- pools come and go */

/* Where pools were: the front of the place is used, what is left stays one. */
static int
reuse_room(struct sm_region *r, size_t at, size_t pages)
{
	struct sm_pool *p = &r->pools[at], rest = { 0 };
	int e = sm_region_open(r, p->first, pages, r->npools);

	if (e)
		return e;
	if (p->room > pages + 1) {
		rest.first = p->first + pages + 1;
		rest.room = p->room - pages - 1;
		memmove(p + 2, p + 1, (r->npools - at - 1) * sizeof(*p));
		p[1] = rest;
		r->npools++;
		p->room = pages;
	}
	return 0;
}

/* A place for that many pages: where pools were, or behind the last one. */
static int
find_room(struct sm_region *r, size_t pages, size_t *pool)
{
	size_t end = 0;

	for (size_t i = 0; i < r->npools; i++) {
		struct sm_pool *p = &r->pools[i];

		if (p->area.base == NULL && p->room >= pages) {
			*pool = i;
			return reuse_room(r, i, pages);
		}
		end = p->first + p->room + 1; /* a page without access between two pools */
	}
	if (end > r->pages || pages > r->pages - end)
		return ENOMEM;
	if (sm_region_open(r, end, pages, r->npools))
		return ENOMEM;
	r->pools[r->npools] = (struct sm_pool){ .first = end, .room = pages };
	*pool = r->npools++;
	return 0;
}

/* Places side by side that are free become one, and those at the end none. */
static void
join_rooms(struct sm_region *r)
{
	struct sm_pool *p = r->pools;

	for (size_t i = 0; i + 1 < r->npools;) {
		if (p[i].area.base || p[i + 1].area.base) {
			i++;
			continue;
		}
		p[i].room = p[i + 1].first + p[i + 1].room - p[i].first;
		memmove(&p[i + 1], &p[i + 2], (r->npools - i - 2) * sizeof(*p));
		r->npools--;
	}
	if (r->npools && !p[r->npools - 1].area.base)
		r->npools--;
}

static bool
is_new(const struct sm_region *r)
{
	return r == &sm_regions[atomic_load_explicit(&sm_region_count, memory_order_relaxed)];
}

/* Undoes room_for. */
static void
forget_room(struct sm_region *r, size_t pool)
{
	if (pool + 1 == r->npools)
		r->npools--;
	if (is_new(r))
		sm_region_drop();
}

static int
room_for(size_t pages, struct sm_region **r, size_t *pool)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);
	size_t last = 0;
	int e;

	for (unsigned i = 0; i < n; i++) {
		*r = &sm_regions[i];
		last = (*r)->pages;
		if (find_room(*r, pages, pool) == 0)
			return 0;
	}
	e = sm_region_add(pages >= 2 * last ? pages + 1 : 2 * last); /* 32 are enough then */
	if (e)
		e = sm_region_add(pages + 1);
	if (e)
		return e;
	*r = &sm_regions[n];
	e = find_room(*r, pages, pool);
	if (e)
		sm_region_drop();
	return e;
}

static void
pool_release(struct sm_region *r, struct sm_pool *p)
{
	sm_set_words(r, p->first, p->pages, (struct sm_run){ 0 });
	sm_count_sub(&sm_count.pools, 1);
	sm_count_sub(&sm_count.pool_bytes, p->area.bytes);
	if (p->area.elastic)
		sm_window_forget(r, p->first, p->pages);
	if (p->area.veiled)
		sm_heap_watch->go(p->area.base, p->area.bytes);
	sm_os_release(&p->area);
	pool_count--;
	sm_run_forget();
}

bool
sm_pool_trim(bool keep_one)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);
	bool any = false;

	for (unsigned i = 0; i < n; i++)
		for (size_t k = 0; k < sm_regions[i].npools; k++) {
			struct sm_pool *p = &sm_regions[i].pools[k];

			if (!p->area.base || p->initial || p->free_pages != p->pages)
				continue;
			if (keep_one && p->area.bytes == sm_config()->pool_bytes) {
				keep_one = false;
				continue;
			}
			pool_release(&sm_regions[i], p);
			any = true;
		}
	for (unsigned i = 0; any && i < n; i++)
		join_rooms(&sm_regions[i]);
	return any;
}

bool
sm_pool_marks(void)
{
	return sm_pool_stretches() && !no_markers;
}

/* Guards: markers in an unlocked mapping, else a mapping of their own each. */
static int
guard_pool(struct sm_pool *p)
{
	struct sm_area *a = &p->area;
	bool unlocked = a->elastic || !(a->granted & SECMALLOC_LOCKED);

	p->marked = a->veiled; /* and shut, until reached */
	if (!(a->granted & SECMALLOC_GUARDED))
		return a->veiled ? sm_heap_watch->reach(a->base, a->bytes) : 0;
	if (unlocked && !p->marked) {
		p->marked = sm_os_mark(a->base, a->bytes) == 0;
		no_markers |= !p->marked;
	}
	if (p->marked || sm_os_guard(a->base, a->bytes) == 0)
		return 0;
	if (sm_config()->require & SECMALLOC_GUARDED)
		return ENOTSUP;
	a->granted &= ~SECMALLOC_GUARDED;
	return 0;
}

/* Pools that come later are locked where they hold clear bytes only, so that growth leaves the lock
 * limit alone; hidden pages are always locked. */
bool
sm_pool_stretches(void)
{
	const struct sm_config *c = sm_config();

	return !c->transparent && !(c->require & SECMALLOC_HIDDEN) &&
		!(c->without & SECMALLOC_LOCKED);
}

static int
pool_obtain(size_t pages, bool initial)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require, .without = c->without,
		.elastic = !initial && sm_pool_stretches(), .veiled = c->transparent };
	struct sm_region *r;
	struct sm_pool *p;
	size_t at;
	int e = room_for(pages, &r, &at);

	if (e)
		return e;
	p = &r->pools[at];
	e = sm_os_obtain(r->base + p->first * c->page_bytes, pages * c->page_bytes, &wish, &p->area);
	if (e)
		goto forget;
	if (p->area.veiled)
		e = sm_heap_watch->come(p->area.base, p->area.bytes);
	if (e)
		goto release;
	e = guard_pool(p);
	if (e)
		goto go;
	p->pages = p->free_pages = pages;
	p->hint = p->first;
	p->initial = initial;
	sm_pool_check(p);
	sm_pool_forgo(~p->area.granted);
	sm_count_add(&sm_count.pools, 1);
	sm_count_add(&sm_count.pool_bytes, p->area.bytes);
	pool_count++;
	if (is_new(r))
		sm_region_publish();
	return 0;
go:
	if (p->area.veiled)
		sm_heap_watch->go(p->area.base, p->area.bytes);
release:
	sm_os_release(&p->area);
forget:
	forget_room(r, at);
	return e;
}

/* Elastic pools cost nothing but address space, and mappings: many pools are larger ones. */
static size_t
usual_pages(bool initial)
{
	const struct sm_config *c = sm_config();
	size_t pages = c->pool_bytes / c->page_bytes;

	if (initial || (!sm_pool_stretches() && !c->transparent))
		return pages;
	for (unsigned n = POOLS_OF_A_SIZE; n < pool_count && pages < POOL_MOST_PAGES;
		n += POOLS_OF_A_SIZE)
		pages *= 2;
	return pages;
}

int
sm_pool_add(size_t pages, bool initial)
{
	const struct sm_config *c = sm_config();
	size_t usual = usual_pages(initial), least = c->pool_bytes / c->page_bytes;
	int e;

	if (least < pages)
		least = pages;
	if (usual < pages)
		usual = pages;
	if (pool_count >= c->max_pools && !sm_pool_trim(false))
		return sm_fail(ENOMEM, "all %u pools are full: raise max_pools or pool_size",
			c->max_pools);
	if (pool_count >= pool_limit && !sm_pool_trim(false))
		return sm_fail(ENOMEM, "%u pools split mappings up to an eighth of "
				       "vm.max_map_count: raise it, or pool_size", pool_count);
	e = pool_obtain(usual, initial);
	if (e && usual > least)
		e = pool_obtain(least, initial);
	if (e && sm_pool_trim(false))
		e = pool_obtain(least, initial);
	return e == 0 || initial ? e : ENOMEM;
}

static void
forget_pools(void)
{
	atomic_store_explicit(&granted, ~0u, memory_order_relaxed);
	pool_count = 0;
	pool_limit = (unsigned)sm_min_size(sm_os_map_limit() / 8 / POOL_MAPPINGS, UINT_MAX);
	no_markers = false;
	sm_run_reset();
	sm_doom_reset();
	sm_window_reset();
}

static bool
has_live_chunk(const struct sm_region *r, size_t page, const struct sm_run *run)
{
	return run->kind == SM_KIND_LARGE && sm_heap_live(&r->records[page * sm_records_per_page()]);
}

/* Other pages hold nothing, and may be guarded by markers that no mprotect lifts. */
static void
wipe_runs(const struct sm_region *r, const struct sm_pool *p)
{
	size_t page = sm_os_page_bytes(), end = p->first + p->pages;
	struct sm_run run;

	for (size_t i = p->first; i < end; i += run.used ? run.pages : 1) {
		run = sm_run_at(r, i);
		if (run.used && (run.kind == SM_KIND_SLAB || has_live_chunk(r, i, &run)))
			sm_wipe(r->base + i * page, run.pages * page);
	}
}

static void
wipe_pool(const struct sm_region *r, const struct sm_pool *p)
{
	if (sm_os_access(p->area.base, p->area.bytes, SECMALLOC_READWRITE))
		return;
	if (p->marked)
		wipe_runs(r, p);
	else
		sm_wipe(p->area.base, p->area.bytes);
}

void
sm_pool_reset(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);

	for (unsigned i = 0; i < n; i++)
		for (size_t k = 0; k < sm_regions[i].npools; k++) {
			struct sm_pool *p = &sm_regions[i].pools[k];

			if (p->area.base == NULL)
				continue;
			if (!p->area.veiled)
				wipe_pool(&sm_regions[i], p);
			pool_release(&sm_regions[i], p);
		}
	forget_pools();
}

static size_t
records_of(const struct sm_run *run)
{
	if (run->kind == SM_KIND_SLAB)
		return sm_class_slots(run->class, run->pages);
	return run->kind == SM_KIND_LARGE;
}

/* The parent's other threads may have had the lock of any record that they could find, also of a run
 * that was given back. Most records have never been used, and to look at those would cost a page
 * fault each few. */
static void
unlock_records(const struct sm_region *r, const struct sm_pool *p)
{
	size_t per = sm_records_per_page(), end = p->first + p->pages;
	struct sm_run run;

	for (size_t i = p->first; i < end; i += run.used ? run.pages : 1) {
		struct sm_chunk *c = &r->records[i * per];

		run = sm_run_at(r, i);
		for (size_t n = run.back ? 0 : records_of(&run); n > 0; n--, c++)
			if (atomic_load_explicit(&c->lock.word, memory_order_relaxed))
				c->lock = (struct sm_lock){ 0 };
	}
}

static int
revive_pool(struct sm_region *r, struct sm_pool *p)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require, .without = c->without,
		.elastic = p->area.elastic, .veiled = p->area.veiled };
	struct sm_area area;
	int e = sm_os_obtain(p->area.base, p->area.bytes, &wish, &area);

	if (e)
		return e;
	p->area = area;
	p->fresh = true;
	unlock_records(r, p);
	if (area.veiled)
		e = sm_heap_watch->again(area.base, area.bytes); /* what was open, and what was not */
	else
		e = guard_pool(p);
	if (e == 0 && !area.veiled)
		e = sm_run_revive(r, p);
	sm_pool_forgo(~p->area.granted);
	return e;
}

int
sm_pool_reclaim(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);
	int e = 0;

	for (unsigned i = 0; e == 0 && i < n; i++)
		for (size_t k = 0; e == 0 && k < sm_regions[i].npools; k++) {
			struct sm_area *a = &sm_regions[i].pools[k].area;

			if (!a->base || !a->absent)
				continue;
			e = sm_os_reclaim(a);
			a->absent = e != 0;
		}
	return e;
}

int
sm_pool_revive(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);
	int e = 0;

	sm_pool_lock = (struct sm_lock){ 0 };
	atomic_store_explicit(&granted, ~0u, memory_order_relaxed);
	for (unsigned i = 0; e == 0 && i < n; i++)
		for (size_t k = 0; e == 0 && k < sm_regions[i].npools; k++)
			if (sm_regions[i].pools[k].area.base)
				e = revive_pool(&sm_regions[i], &sm_regions[i].pools[k]);
	return e;
}

void
sm_pool_revived(bool whole)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);

	for (unsigned i = 0; i < n; i++)
		for (size_t k = 0; k < sm_regions[i].npools; k++) {
			struct sm_pool *p = &sm_regions[i].pools[k];

			if (p->area.base && p->fresh && !whole)
				p->area.absent = false; /* covered like what was inherited */
			p->fresh = false;
		}
}

void
sm_pool_orphan(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);

	for (unsigned i = 0; i < n; i++)
		for (size_t k = 0; k < sm_regions[i].npools; k++) {
			struct sm_area *a = &sm_regions[i].pools[k].area;

			if (a->base)
				sm_os_cover(a->base, a->bytes, a->absent);
		}
	forget_pools();
	sm_pool_lock = (struct sm_lock){ 0 };
}
