#include "heap/inside.h"

#include <errno.h>

/*
 * Elastic pages are locked while at least one chunk on them is clear. `pins` of a page counts
 * those chunks; the top bit says that it is still locked though no chunk needs it, because munlock
 * was refused. Each maximal range of locked pages splits a mapping: two more of them.
 */
static struct sm_lock lock;  /* SM_RANK_WINDOW: all below, and every region's pins */
static size_t ranges;	     /* maximal ranges of locked pages */
static size_t ranges_limit;  /* a quarter of vm.max_map_count */
static size_t stuck_pages;   /* with the top bit */
static size_t next_try;	     /* page at which the next search for them begins */
static SM_TLS int why;	     /* this thread's last refusal: of mlock; EMLINK: ranges_limit */

enum { STUCK = 0x8000, TRY_PAGES = 512 };

void
sm_window_reset(void)
{
	lock = (struct sm_lock){ 0 };
	ranges = stuck_pages = next_try = 0;
	ranges_limit = sm_os_map_limit() / 8;
}

void
sm_window_hold(void)
{
	sm_lock_take(&lock, SM_RANK_WINDOW);
}

void
sm_window_let_go(void)
{
	sm_lock_release(&lock, SM_RANK_WINDOW);
}

void
sm_window_revive(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);

	for (unsigned i = 0; i < n; i++) {
		struct sm_region *r = &sm_regions[i];

		memset(r->pins, 0, atomic_load(&r->pages_used) * sizeof(*r->pins));
	}
	sm_window_reset();
}

static bool
locked(const struct sm_region *r, size_t page)
{
	return page < r->pages && r->pins[page] != 0; /* -1 too is beyond the end */
}

/* Whether what lies before and behind is locked; a guard page lies between any two runs. */
static unsigned
neighbours(const struct sm_region *r, size_t first, size_t end)
{
	size_t used = atomic_load_explicit(&r->pages_used, memory_order_relaxed);

	return (first > 0 && locked(r, first - 1)) + (end < used && locked(r, end));
}

static size_t
same_to(const struct sm_region *r, size_t from, size_t end, uint16_t value)
{
	size_t i = from;

	while (i < end && r->pins[i] == value)
		i++;
	return i;
}

static void *
address(const struct sm_region *r, size_t page)
{
	return r->base + (page << sm_page_shift);
}

/* All of [first, end) has no pin. Two or more neighbours join ranges. */
static int
lock_range(struct sm_region *r, size_t first, size_t end)
{
	unsigned beside = neighbours(r, first, end);
	bool stuck;
	int e;

	if (beside == 0 && ranges >= ranges_limit)
		return EMLINK;
	e = sm_os_pin(address(r, first), (end - first) << sm_page_shift, &stuck);
	if (e && !stuck)
		return e;
	ranges = ranges + 1 - beside;
	for (size_t i = first; i < end; i++)
		r->pins[i] = STUCK; /* locked, and no chunk's yet */
	stuck_pages += end - first;
	return e;
}

/* All of [first, end) is locked and no chunk's. */
static void
unlock_range(struct sm_region *r, size_t first, size_t end)
{
	unsigned beside = neighbours(r, first, end);

	if (beside == 2 && ranges >= ranges_limit)
		return;
	if (sm_os_unpin(address(r, first), (end - first) << sm_page_shift))
		return;
	ranges = ranges - 1 + beside;
	for (size_t i = first; i < end; i++)
		r->pins[i] = 0;
	stuck_pages -= end - first;
}

static void
unlock_stuck(struct sm_region *r, size_t first, size_t end)
{
	for (size_t i = first, to; i < end; i = to > i ? to : i + 1) {
		to = same_to(r, i, end, STUCK);
		if (to > i)
			unlock_range(r, i, to);
	}
}

static void
retry_stuck(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_acquire);

	for (unsigned i = 0; i < n && stuck_pages; i++)
		unlock_stuck(&sm_regions[i], 0,
			atomic_load_explicit(&sm_regions[i].pages_used, memory_order_acquire));
}

/* A few pages of each region at a time, in turn. */
static void
retry_some(void)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_acquire);
	size_t most = 0;

	for (unsigned i = 0; i < n && stuck_pages; i++) {
		struct sm_region *r = &sm_regions[i];
		size_t used = atomic_load_explicit(&r->pages_used, memory_order_acquire);

		if (next_try < used)
			unlock_stuck(r, next_try, sm_min_size(next_try + TRY_PAGES, used));
		most = used > most ? used : most;
	}
	next_try = next_try + TRY_PAGES < most ? next_try + TRY_PAGES : 0;
}

static int
lock_pages(struct sm_region *r, size_t first, size_t end)
{
	for (size_t i = first, to; i < end; i = to > i ? to : i + 1) {
		to = same_to(r, i, end, 0);
		if (to > i) {
			int e = lock_range(r, i, to);

			if (e) {
				unlock_stuck(r, first, end);
				return e;
			}
		}
	}
	return 0;
}

int
sm_window_open(struct sm_region *r, size_t first, size_t pages)
{
	int e;

	sm_lock_take(&lock, SM_RANK_WINDOW);
	e = lock_pages(r, first, first + pages);
	if (e && stuck_pages) {
		retry_stuck();
		e = lock_pages(r, first, first + pages);
	}
	for (size_t i = first; e == 0 && i < first + pages; i++) {
		if (r->pins[i] == STUCK) {
			r->pins[i] = 0;
			stuck_pages--;
		}
		r->pins[i]++;
		sm_assert(r->pins[i] < STUCK);
	}
	if (e)
		why = e;
	sm_lock_release(&lock, SM_RANK_WINDOW);
	return e ? sm_window_explain(pages << sm_page_shift) : 0;
}

int
sm_window_explain(size_t bytes)
{
	if (why == EMLINK)
		return sm_fail(ENOMEM, "clear chunks on %zu ranges of pages split mappings up to a "
				       "quarter of vm.max_map_count: raise it, or close some chunks",
			ranges_limit);
	return sm_os_pin_refused(why, bytes);
}

void
sm_window_close(struct sm_region *r, size_t first, size_t pages)
{
	size_t before;

	sm_lock_take(&lock, SM_RANK_WINDOW);
	before = stuck_pages;
	for (size_t i = first; i < first + pages; i++) {
		sm_assert(r->pins[i] > 0 && r->pins[i] < STUCK);
		if (--r->pins[i] == 0) {
			r->pins[i] = STUCK;
			stuck_pages++;
		}
	}
	if (stuck_pages > before)
		unlock_stuck(r, first, first + pages);
	if (before)
		retry_some();
	sm_lock_release(&lock, SM_RANK_WINDOW);
}

void
sm_window_retry(struct sm_region *r, size_t first, size_t pages)
{
	sm_lock_take(&lock, SM_RANK_WINDOW);
	if (stuck_pages)
		unlock_stuck(r, first, first + pages);
	sm_lock_release(&lock, SM_RANK_WINDOW);
}

void
sm_window_forget(struct sm_region *r, size_t first, size_t pages)
{
	sm_lock_take(&lock, SM_RANK_WINDOW);
	for (size_t i = first; i < first + pages; i++) {
		size_t end = i + 1;

		if (!locked(r, i))
			continue;
		ranges = ranges - 1 + neighbours(r, i, end);
		stuck_pages -= r->pins[i] == STUCK;
		r->pins[i] = 0;
		sm_count_sub(&sm_count.locked_bytes, sm_os_page_bytes());
	}
	sm_lock_release(&lock, SM_RANK_WINDOW);
}
