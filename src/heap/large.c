#include "heap/canary.h"

#include <errno.h>
#include <string.h>

/* Addresses of chunks with pages of their own are used again oldest first. Where guards are markers
 * a resting run costs nothing but address space; elsewhere, and not in an initial pool, memory. */
enum { REST_BYTES = 1 << 20, REST_MOST = 2048, REST_SPACE_BYTES = 1 << 28 };

static struct sm_lock lock; /* SM_RANK_LARGE: all below */
static struct {
	struct sm_chunk *oldest, *newest;
	uint32_t n;
	size_t bytes;
	size_t dear_bytes; /* in pools that are neither initial nor elastic */
} queue;

void
sm_large_reset(void)
{
	lock = (struct sm_lock){ 0 };
	memset(&queue, 0, sizeof(queue));
}

void
sm_large_hold(void)
{
	sm_lock_take(&lock, SM_RANK_LARGE);
}

void
sm_large_let_go(void)
{
	sm_lock_release(&lock, SM_RANK_LARGE);
}

void
sm_large_unlock(void)
{
	lock = (struct sm_lock){ 0 };
}

/** Where a record's run is, and what it weighs. */
struct load {
	struct sm_region *region;
	size_t first;
	size_t bytes, dear_bytes;
};

static struct load
load_of(const struct sm_chunk *c)
{
	struct sm_region *r = sm_region_of(sm_heap_bytes(c));
	struct load l = { .region = r };
	struct sm_run run;

	l.first = (size_t)(c - r->records) / sm_records_per_page();
	run = sm_run_at(r, l.first);
	l.bytes = run.pages << sm_page_shift;
	if (!run.elastic && !sm_run_initial(r, l.first))
		l.dear_bytes = l.bytes;
	return l;
}

static void
enqueue(struct sm_chunk *c)
{
	struct load l = load_of(c);

	c->next = NULL;
	if (queue.newest)
		queue.newest->next = c;
	else
		queue.oldest = c;
	queue.newest = c;
	queue.n++;
	queue.bytes += l.bytes;
	queue.dear_bytes += l.dear_bytes;
}

/* Of a queue that is not empty. */
static struct load
dequeue(void)
{
	struct sm_chunk *c = queue.oldest;
	struct load l = load_of(c);

	queue.oldest = c->next;
	if (!queue.oldest)
		queue.newest = NULL;
	queue.n--;
	queue.bytes -= l.bytes;
	queue.dear_bytes -= l.dear_bytes;
	return l;
}

static void
wake_oldest(void)
{
	struct load l = dequeue();

	sm_run_put(l.region, l.first);
}

static bool
has_rested(void)
{
	return queue.n > SM_REST_LEAST && queue.bytes - load_of(queue.oldest).bytes > REST_BYTES;
}

static bool
too_many_rest(void)
{
	return queue.n > 0 && ((queue.n > REST_MOST && has_rested()) ||
		queue.bytes > REST_SPACE_BYTES || queue.dear_bytes > REST_BYTES);
}

/* Who has rested longest is used again, if it has the size; else its pages are anybody's. */
static bool
use_oldest(size_t pages, struct sm_place *at)
{
	bool found = false;

	sm_lock_take(&lock, SM_RANK_LARGE);
	while (!found && has_rested()) {
		struct load l = dequeue();

		found = l.bytes >> sm_page_shift == pages &&
			sm_run_reopen(l.region, l.first, at) == 0;
		if (!found)
			sm_run_put(l.region, l.first);
	}
	sm_lock_release(&lock, SM_RANK_LARGE);
	return found;
}

static void
rest(struct sm_chunk *c)
{
	sm_lock_take(&lock, SM_RANK_LARGE);
	enqueue(c);
	while (too_many_rest())
		wake_oldest();
	sm_lock_release(&lock, SM_RANK_LARGE);
}

static bool
end_oldest_rest(void)
{
	bool any;

	sm_lock_take(&lock, SM_RANK_LARGE);
	any = queue.n > 0;
	if (any)
		wake_oldest();
	sm_lock_release(&lock, SM_RANK_LARGE);
	return any;
}

void
sm_large_trim(void)
{
	while (end_oldest_rest())
		;
}

/* What can be had by no means is no reason to grow, or to end anybody's rest. */
static int
refuse_hopeless(size_t pages, bool locked)
{
	const struct sm_config *c = sm_config();
	size_t bytes = pages << sm_page_shift;

	if (bytes <= c->pool_bytes)
		return 0;
	if (bytes > sm_os_memory_bytes())
		return sm_fail(ENOMEM, "%zu bytes are more than this machine has: ask for less", bytes);
	if (sm_pool_stretches() && (locked || bytes > sm_os_lock_limit()))
		return sm_os_pin_refused(ENOMEM, bytes);
	return 0;
}

static bool
rest_would_do(size_t pages)
{
	bool would;

	sm_lock_take(&lock, SM_RANK_LARGE);
	would = queue.bytes >= pages << sm_page_shift;
	sm_lock_release(&lock, SM_RANK_LARGE);
	return would;
}

/* In the order of what is given up: empty slabs, a pool's price, the rest of large chunks, all. */
static int
get_run(size_t pages, bool locked, struct sm_place *at)
{
	enum sm_reach most = locked ? SM_REACH_LOCKED : SM_REACH_NEW;
	struct sm_run kind = { .kind = SM_KIND_LARGE };
	int e;

	if (!locked && use_oldest(pages, at))
		return 0;
	e = sm_run_get(pages, pages, kind, locked ? most : SM_REACH_PRESENT, at);
	if (e == 0 || refuse_hopeless(pages, locked))
		return e;
	(void)sm_arena_trim(false);
	e = sm_run_get(pages, pages, kind, most, at);
	while (e && rest_would_do(pages) && end_oldest_rest())
		e = sm_run_get(pages, pages, kind, most, at);
	if (e && pages << sm_page_shift <= sm_config()->pool_bytes && sm_arena_trim(true))
		e = sm_run_get(pages, pages, kind, most, at);
	while (e && rest_would_do(pages) && end_oldest_rest())
		e = sm_run_get(pages, pages, kind, most, at);
	return e;
}

/* The chunk's end lies at the end of the run, within its alignment; its canary in front of it. */
struct sm_made
sm_large_alloc(size_t size, size_t align, bool locked)
{
	size_t page = sm_os_page_bytes(), bytes = sm_round_up(size ? size : 1, align);
	size_t pages = (bytes + SM_CANARY_BYTES + page - 1) / page, offset;
	struct sm_place at;
	unsigned char *base;
	struct sm_chunk *c;
	int e = get_run(pages, locked, &at);

	if (e)
		return (struct sm_made){ NULL, e };
	base = at.region->base + at.page * page;
	offset = pages * page - bytes;
	if (at.open_before)
		sm_assert_zero(base, pages * page, base + offset);
	c = &at.region->records[at.page * sm_records_per_page()];
	c->own_pages = 1;
	c->elastic = at.elastic;
	c->arena = (uint8_t)sm_arena_mine();
	sm_chunk_begin(c, base + offset, size);
	sm_arena_count(c->arena, size, SM_COMES);
	return (struct sm_made){ c, 0 };
}

void
sm_large_free(struct sm_chunk *c, bool rests)
{
	struct load l = load_of(c);

	sm_arena_count(c->arena, c->size, rests ? SM_GOES : SM_NEVER_WAS);
	sm_run_shut(l.region, l.first);
	if (rests)
		rest(c);
	else
		sm_run_put(l.region, l.first);
}

/* ----------------------------------------------------- what the program may do */

static int
set_pages(const struct sm_chunk *c, enum secmalloc_access a)
{
	struct sm_spot s = sm_spot_of(c);

	return sm_os_access(s.start, (size_t)(s.end - s.start), a);
}

int
sm_heap_protect(struct sm_chunk *c, enum secmalloc_access a)
{
	int e;

	if (sm_config()->transparent)
		return sm_fail(ENOTSUP, "transparent mode takes pages away and gives them back itself");
	if (!c->own_pages)
		return sm_fail(ENOTSUP, "a chunk of %u bytes or less shares its pages: use "
					"SECMALLOC_ISOLATE to protect it", SM_PACKED_MOST_BYTES);
	if (sm_purge_fence())
		return sm_state_refuse();
	e = set_pages(c, a);
	if (e == 0)
		c->access = (uint8_t)a;
	if (sm_purge_fence()) { /* and what it has lifted stays so */
		(void)set_pages(c, SECMALLOC_READWRITE);
		return sm_state_refuse();
	}
	return e ? ENOMEM : 0;
}

bool
sm_heap_freeze(struct sm_chunk *c)
{
	return c->own_pages && !sm_purge_fence() && set_pages(c, SECMALLOC_READONLY) == 0;
}

int
sm_heap_lift_pages(struct sm_chunk *c)
{
	return set_pages(c, SECMALLOC_READWRITE) ? ENOMEM : 0;
}

int
sm_heap_drop(struct sm_chunk *c)
{
	if (SM_LIKELY(c->access == SECMALLOC_READWRITE) || sm_purge_fence())
		return 0;
	if (set_pages(c, (enum secmalloc_access)c->access) == 0)
		return 0;
	c->access = SECMALLOC_READWRITE;
	return sm_fail(ENOMEM, "what secmalloc_protect set could not be restored: the chunk is "
			       "read-write now; raise vm.max_map_count and protect it again");
}
