#include "heap/inside.h"

#include <errno.h>

struct sm_lock sm_pool_lock;

static struct sm_pool *recent; /* where a run was found last */
static size_t run_count;       /* runs between guards that are mappings: two mappings each */
static size_t run_limit;       /* so many leave the program its share of vm.max_map_count */
static _Atomic uint64_t returns;

void
sm_run_reset(void)
{
	recent = NULL;
	run_count = 0;
	run_limit = sm_os_map_limit() / 16 * 3; /* pools have an eighth, windows a quarter */
}

void
sm_run_forget(void)
{
	recent = NULL;
}

uint64_t
sm_run_returns(void)
{
	return atomic_load_explicit(&returns, memory_order_relaxed);
}

void
sm_set_words(struct sm_region *r, size_t first, size_t pages, struct sm_run run)
{
	for (size_t i = 0; i < pages; i++) {
		run.back = i;
		atomic_store_explicit(&r->words[first + i], sm_word(&run), memory_order_release);
	}
}

/* ---------------------------------------------------------- finding a place */

static bool
page_used(const struct sm_region *r, size_t page)
{
	return atomic_load_explicit(&r->words[page], memory_order_relaxed) & 1;
}

static bool
may_not_guard(void)
{
	return run_count >= run_limit && !(sm_config()->without & SECMALLOC_GUARDED);
}

static int
too_many_guards(void)
{
	return sm_fail(ENOMEM, "%zu guarded ranges split mappings up to three eighths of "
			       "vm.max_map_count: raise it, or use fewer large chunks", run_count);
}

/* First fit for the run and a page without access behind it; at the pool's end there is one. */
static bool
find_run(const struct sm_region *r, struct sm_pool *p, size_t pages, size_t *at)
{
	size_t end = p->first + p->pages, run = 0;

	if (p->area.base == NULL || p->free_pages < pages ||
		(!p->marked && may_not_guard()))
		return false;
	while (p->hint < end && page_used(r, p->hint))
		p->hint++;
	for (size_t i = p->hint; i < end; i++) {
		run = page_used(r, i) ? 0 : run + 1;
		if (run == pages + 1 || (run == pages && i + 1 == end)) {
			*at = i + 1 - run;
			return true;
		}
	}
	return false;
}

/** What is looked for, and what was found. */
struct search {
	size_t pages;
	bool elastic; /* in pools of this kind */
	struct sm_region *r;
	struct sm_pool *p;
	size_t at;
};

static bool
find_among(struct search *s)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_relaxed);

	if (recent && recent->area.elastic == s->elastic) {
		s->r = sm_region_of(recent->area.base);
		s->p = recent;
		if (find_run(s->r, s->p, s->pages, &s->at))
			return true;
	}
	for (unsigned i = n; i-- > 0;)
		for (size_t k = sm_regions[i].npools; k-- > 0;) {
			s->r = &sm_regions[i];
			s->p = &sm_regions[i].pools[k];
			if (s->p->area.elastic == s->elastic &&
				find_run(s->r, s->p, s->pages, &s->at)) {
				recent = s->p;
				return true;
			}
		}
	return false;
}

/* Locked pools first: there nothing has to be locked for each chunk. */
static bool
find_anywhere(struct search *s, size_t pages, enum sm_reach reach)
{
	s->pages = pages;
	s->elastic = false;
	if (reach != SM_REACH_ELASTIC && find_among(s))
		return true;
	s->elastic = true;
	return reach != SM_REACH_LOCKED && find_among(s);
}

static int
find_or_add(struct search *s, size_t pages, size_t least, enum sm_reach reach)
{
	int e;

	if (find_anywhere(s, pages, reach) || (least < pages && find_anywhere(s, least, reach)))
		return 0;
	if (reach < SM_REACH_ELASTIC)
		return ENOMEM;
	if (!sm_pool_marks() && may_not_guard())
		return too_many_guards();
	e = sm_pool_add(least, false);
	if (e)
		return e;
	if (find_anywhere(s, pages, reach) || find_anywhere(s, least, reach))
		return 0;
	(void)sm_pool_trim(false); /* it had no markers, which was not known before */
	return too_many_guards();
}

/* ------------------------------------------------------------- get and put */

static bool
has_guard_page(const struct sm_pool *p, size_t at, size_t pages)
{
	return at + pages < p->first + p->pages;
}

static int
open_pages(const struct sm_pool *p, void *base, size_t bytes)
{
	if (p->area.veiled)
		return sm_heap_watch->reach(base, bytes);
	if (p->marked)
		return sm_os_unmark(base, bytes);
	if (sm_config()->without & SECMALLOC_GUARDED) /* also where only some guards failed: */
		return 0;
	return sm_os_access(base, bytes, SECMALLOC_READWRITE);
}

static void
settle(const struct search *s, struct sm_run kind)
{
	struct sm_run guard = { .used = true, .kind = SM_KIND_GUARD, .pages = 1 };

	kind.used = true;
	kind.pages = s->pages;
	kind.elastic = s->p->area.elastic;
	sm_set_words(s->r, s->at, s->pages, kind);
	s->p->free_pages -= s->pages;
	if (has_guard_page(s->p, s->at, s->pages)) {
		sm_set_words(s->r, s->at + s->pages, 1, guard);
		s->p->free_pages--;
	}
	run_count += !s->p->marked;
	sm_pool_check(s->p);
}

int
sm_run_get(size_t pages, size_t least, struct sm_run kind, enum sm_reach reach,
	struct sm_place *place)
{
	size_t page = sm_os_page_bytes();
	struct search s = { 0 };
	int e;

	sm_lock_take(&sm_pool_lock, SM_RANK_POOL);
	e = find_or_add(&s, pages, least, reach);
	if (e == 0)
		e = open_pages(s.p, s.r->base + s.at * page, s.pages * page);
	if (e == 0) {
		settle(&s, kind);
		*place = (struct sm_place){ s.r, s.at, s.pages, s.elastic,
			!(s.p->area.granted & SECMALLOC_GUARDED) };
	}
	sm_lock_release(&sm_pool_lock, SM_RANK_POOL);
	return e;
}

bool
sm_run_initial(const struct sm_region *r, size_t page)
{
	bool initial;

	sm_lock_take(&sm_pool_lock, SM_RANK_POOL);
	initial = sm_pool_of(r, page)->initial;
	sm_lock_release(&sm_pool_lock, SM_RANK_POOL);
	return initial;
}

static void
shut_pages(struct sm_pool *p, struct sm_region *r, size_t at, size_t pages)
{
	size_t page = sm_os_page_bytes(), bytes = pages * page;
	bool guarded = p->area.granted & SECMALLOC_GUARDED;
	unsigned char *base = r->base + at * page;

	if (p->area.veiled) {
		(guarded ? sm_heap_watch->shut : sm_heap_watch->drop)(base, bytes);
		return;
	}
	if (p->marked) /* markers are not laid over locked pages */
		sm_window_retry(r, at, pages);
	if (guarded && (p->marked ? sm_os_mark(base, bytes) : sm_os_guard(base, bytes))) {
		p->area.granted &= ~SECMALLOC_GUARDED; /* free pages stay accessible, and zero */
		sm_pool_forgo(SECMALLOC_GUARDED);
	}
}

void
sm_run_shut(struct sm_region *r, size_t at)
{
	struct sm_run run = sm_run_at(r, at);
	struct sm_pool *p;

	sm_purge_await(); /* nothing in it is live any more */
	sm_lock_take(&sm_pool_lock, SM_RANK_POOL);
	p = sm_pool_of(r, at);
	sm_assert(run.used && run.back == 0);
	shut_pages(p, r, at, run.pages);
	sm_lock_release(&sm_pool_lock, SM_RANK_POOL);
}

int
sm_run_reopen(struct sm_region *r, size_t at, struct sm_place *place)
{
	struct sm_run run = sm_run_at(r, at);
	size_t page = sm_os_page_bytes();
	struct sm_pool *p;
	int e;

	sm_lock_take(&sm_pool_lock, SM_RANK_POOL);
	p = sm_pool_of(r, at);
	sm_assert(run.used && run.back == 0);
	e = open_pages(p, r->base + at * page, run.pages * page);
	*place = (struct sm_place){ r, at, run.pages, run.elastic,
		!(p->area.granted & SECMALLOC_GUARDED) };
	sm_lock_release(&sm_pool_lock, SM_RANK_POOL);
	return e;
}

/* What nobody has seen yet, or has rested, is shut. */
static bool
is_open(const struct sm_region *r, size_t at, const struct sm_run *run)
{
	return run->kind == SM_KIND_SLAB ||
		(run->kind == SM_KIND_LARGE && sm_heap_live(&r->records[at * sm_records_per_page()]));
}

int
sm_run_revive(const struct sm_region *r, const struct sm_pool *p)
{
	size_t page = sm_os_page_bytes(), end = p->first + p->pages;
	int e = 0;

	for (size_t i = p->first; e == 0 && i < end;) {
		struct sm_run run = sm_run_at(r, i);

		if (run.used && is_open(r, i, &run))
			e = open_pages(p, r->base + i * page, run.pages * page);
		i += run.used ? run.pages : 1;
	}
	return e;
}

void
sm_run_put(struct sm_region *r, size_t at)
{
	struct sm_run run = sm_run_at(r, at);
	struct sm_pool *p;

	sm_lock_take(&sm_pool_lock, SM_RANK_POOL);
	p = sm_pool_of(r, at);
	sm_assert(run.used && run.back == 0);
	run.used = false;
	sm_set_words(r, at, run.pages, run);
	p->free_pages += run.pages;
	p->hint = sm_min_size(p->hint, at);
	if (has_guard_page(p, at, run.pages)) {
		sm_set_words(r, at + run.pages, 1, (struct sm_run){ 0 });
		p->free_pages++;
	}
	run_count -= !p->marked;
	if (!p->area.elastic)
		atomic_fetch_add_explicit(&returns, 1, memory_order_relaxed);
	sm_pool_check(p);
	if (!p->initial && p->free_pages == p->pages)
		(void)sm_pool_trim(true);
	sm_lock_release(&sm_pool_lock, SM_RANK_POOL);
}
