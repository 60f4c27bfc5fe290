#include "heap/inside.h"

#include <errno.h>

static struct sm_lock lock;	 /* SM_RANK_POOL: everything below, and every sm_pool */
static _Atomic unsigned granted; /* bits that held for every pool so far */
static unsigned pool_count;
static struct sm_pool *recent; /* where a run was found last */
static size_t run_count;       /* runs between guards: two mappings each */
static size_t run_limit;       /* so many leave the program its share of vm.max_map_count */

unsigned
sm_pool_granted(void)
{
	return atomic_load_explicit(&granted, memory_order_relaxed);
}

static void
pool_check(const struct sm_pool *p)
{
	sm_check(p->area.base != NULL && p->pages > 0 && p->pages <= p->room);
	sm_check(p->area.bytes == p->pages * sm_os_page_bytes());
	sm_check(p->free_pages <= p->pages);
	(void)p;
}

static size_t
pool_of(const struct sm_region *r, size_t page)
{
	for (size_t i = 0; i < r->npools; i++)
		if (page - r->pools[i].first < r->pools[i].room)
			return i;
	sm_die(SECMALLOC_FAULT_INTERNAL, r->base);
}

static void
set_words(struct sm_region *r, size_t first, size_t pages, struct sm_run run)
{
	for (size_t i = 0; i < pages; i++) {
		run.back = i;
		atomic_store_explicit(&r->words[first + i], sm_word(&run), memory_order_release);
	}
}

/* ------------------------------------------------------- pools come and go */

/* A place for that many pages in the newest region: where a pool was, or behind the last one. */
static int
find_room(struct sm_region *r, size_t pages, size_t *pool)
{
	size_t end = 0;

	for (size_t i = 0; i < r->npools; i++) {
		struct sm_pool *p = &r->pools[i];

		if (p->area.base == NULL && p->room >= pages && p->room / 2 <= pages) {
			*pool = i;
			return 0;
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
	e = sm_region_add(pages > last ? pages + 1 : 2 * last);
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
	set_words(r, p->first, p->pages, (struct sm_run){ 0 });
	sm_count_sub(&sm_count.pools, 1);
	sm_count_sub(&sm_count.pool_bytes, p->area.bytes);
	sm_os_release(&p->area);
	pool_count--;
	recent = NULL;
}

/* Of the pools added later and empty again, all but one of the usual size; true: there was one. */
static bool
release_empty(bool keep_one)
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
	return any;
}

static int
pool_obtain(size_t pages, bool initial)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { c->require, c->without, false };
	struct sm_region *r;
	struct sm_pool *p;
	size_t at;
	int e = room_for(pages, &r, &at);

	if (e)
		return e;
	p = &r->pools[at];
	e = sm_os_obtain(r->base + p->first * c->page_bytes, pages * c->page_bytes, &wish, &p->area);
	if (e) {
		forget_room(r, at);
		return e;
	}
	if (p->area.granted & SECMALLOC_GUARDED && sm_os_guard(p->area.base, p->area.bytes)) {
		if (c->require & SECMALLOC_GUARDED) {
			sm_os_release(&p->area);
			forget_room(r, at);
			return ENOTSUP;
		}
		p->area.granted &= ~SECMALLOC_GUARDED;
	}
	p->pages = p->free_pages = pages;
	p->initial = initial;
	pool_check(p);
	atomic_fetch_and_explicit(&granted, p->area.granted, memory_order_relaxed);
	sm_count_add(&sm_count.pools, 1);
	sm_count_add(&sm_count.pool_bytes, p->area.bytes);
	pool_count++;
	if (is_new(r))
		sm_region_publish();
	return 0;
}

int
sm_pool_add(size_t pages, bool initial)
{
	const struct sm_config *c = sm_config();
	size_t least = c->pool_bytes / c->page_bytes;
	int e;

	if (pages < least)
		pages = least;
	if (pool_count >= c->max_pools && !release_empty(false))
		return sm_fail(ENOMEM, "all %u pools are full: raise max_pools or pool_size",
			c->max_pools);
	e = pool_obtain(pages, initial);
	if (e && release_empty(false))
		e = pool_obtain(pages, initial);
	return e == 0 || initial ? e : ENOMEM;
}

static void
forget_pools(void)
{
	atomic_store_explicit(&granted, ~0u, memory_order_relaxed);
	pool_count = 0;
	recent = NULL;
	run_count = 0;
	run_limit = sm_os_map_limit() / 4 * 3 / 2;
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
			if (sm_os_access(p->area.base, p->area.bytes, SECMALLOC_READWRITE) == 0)
				sm_wipe(p->area.base, p->area.bytes);
			pool_release(&sm_regions[i], p);
		}
	forget_pools();
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
	lock = (struct sm_lock){ 0 };
}

/* ------------------------------------------------------------------ runs */

static bool
page_used(const struct sm_region *r, size_t page)
{
	return atomic_load_explicit(&r->words[page], memory_order_relaxed) & 1;
}

/* First fit for the run and a page without access behind it; at the pool's end there is one. */
static bool
find_run(const struct sm_region *r, const struct sm_pool *p, size_t pages, size_t *at)
{
	size_t end = p->first + p->pages, run = 0;

	if (p->area.base == NULL || p->free_pages < pages)
		return false;
	for (size_t i = p->first; i < end; i++) {
		run = page_used(r, i) ? 0 : run + 1;
		if (run == pages + 1 || (run == pages && i + 1 == end)) {
			*at = i + 1 - run;
			return true;
		}
	}
	return false;
}

static bool
find_anywhere(size_t pages, struct sm_region **r, struct sm_pool **p, size_t *at)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);

	if (recent) {
		*r = sm_region_of(recent->area.base);
		*p = recent;
		if (find_run(*r, *p, pages, at))
			return true;
	}
	for (unsigned i = n; i-- > 0;)
		for (size_t k = sm_regions[i].npools; k-- > 0;) {
			*r = &sm_regions[i];
			*p = &sm_regions[i].pools[k];
			if (find_run(*r, *p, pages, at)) {
				recent = *p;
				return true;
			}
		}
	return false;
}

static int
find_or_add(size_t *pages, size_t least, struct sm_region **r, struct sm_pool **p, size_t *at)
{
	int e;

	if (find_anywhere(*pages, r, p, at))
		return 0;
	if (least < *pages && find_anywhere(least, r, p, at)) {
		*pages = least;
		return 0;
	}
	e = sm_pool_add(least, false);
	if (e)
		return e;
	if (!find_anywhere(*pages, r, p, at)) {
		*pages = least;
		sm_assert(find_anywhere(least, r, p, at));
	}
	return 0;
}

static bool
has_guard_page(const struct sm_pool *p, size_t at, size_t pages)
{
	return at + pages < p->first + p->pages;
}

int
sm_run_get(size_t pages, size_t least, struct sm_run kind, struct sm_place *place)
{
	struct sm_run guard = { .used = true, .kind = SM_KIND_GUARD, .pages = 1 };
	size_t page = sm_os_page_bytes(), at = 0;
	struct sm_region *r = NULL;
	struct sm_pool *p = NULL;
	int e;

	sm_lock_take(&lock, SM_RANK_POOL);
	if (run_count >= run_limit && !(sm_config()->without & SECMALLOC_GUARDED))
		e = sm_fail(ENOMEM, "%zu guarded ranges are three quarters of vm.max_map_count: "
				    "raise it, or use fewer large chunks", run_count);
	else
		e = find_or_add(&pages, least, &r, &p, &at);
	if (e)
		goto out;
	if (!(sm_config()->without & SECMALLOC_GUARDED)) { /* also where some guards failed */
		e = sm_os_access(r->base + at * page, pages * page, SECMALLOC_READWRITE);
		if (e)
			goto out;
	}
	kind.used = true;
	kind.pages = pages;
	set_words(r, at, pages, kind);
	p->free_pages -= pages;
	if (has_guard_page(p, at, pages)) {
		set_words(r, at + pages, 1, guard);
		p->free_pages--;
	}
	run_count++;
	pool_check(p);
	*place = (struct sm_place){ r, at, pages, !(p->area.granted & SECMALLOC_GUARDED) };
out:
	sm_lock_release(&lock, SM_RANK_POOL);
	return e;
}

void
sm_run_put(struct sm_region *r, size_t at)
{
	struct sm_run run = sm_run_at(r, at);
	size_t page = sm_os_page_bytes();
	struct sm_pool *p;

	sm_lock_take(&lock, SM_RANK_POOL);
	p = &r->pools[pool_of(r, at)];
	sm_assert(run.used && run.back == 0);
	if (p->area.granted & SECMALLOC_GUARDED &&
		sm_os_guard(r->base + at * page, run.pages * page)) {
		p->area.granted &= ~SECMALLOC_GUARDED; /* free pages stay accessible, and zero */
		atomic_fetch_and_explicit(&granted, ~SECMALLOC_GUARDED, memory_order_relaxed);
	}
	run.used = false;
	set_words(r, at, run.pages, run);
	p->free_pages += run.pages;
	if (has_guard_page(p, at, run.pages)) {
		set_words(r, at + run.pages, 1, (struct sm_run){ 0 });
		p->free_pages++;
	}
	run_count--;
	pool_check(p);
	if (!p->initial && p->free_pages == p->pages)
		(void)release_empty(true);
	sm_lock_release(&lock, SM_RANK_POOL);
}
