#include "fault/inside.h"

#include <errno.h>

/*
 * Pages that were never touched. What the kernel gives is zero as they are, so that P has nothing
 * for them but a place, where they go when they are closed. A heap that grows touches one after
 * the other: those of the same run that are next come along, as zeros need no decryption.
 *
 * Each is noted as clear before it comes, with a frame of its own: it counts against clear_limit,
 * lies on locked memory, is closed in time, and a purge finds it. None comes along once few frames
 * are free, so that no page in use ever goes for one that nobody has touched. One that cannot come
 * (its mapping is another one, the kernel has no memory) is left where it was; the page that was
 * touched is then opened by itself, and if that fails too, whoever touched it waits, and the
 * process ends with the reason.
 */

/* Pages at first, and at most; an eighth of all frames stays free. */
enum { AT_ONCE = 8, MOST_AT_ONCE = 64, PLENTY = 8 };

/* A walk along a run earns itself more with each step. */
static size_t
open_before(const struct sm_span *s, size_t i)
{
	size_t n = 0;

	while (n < MOST_AT_ONCE && n < i && s->page[i - n - 1].state == SM_PAGE_CLEAR)
		n++;
	return n;
}

static bool
is_plenty(void)
{
	return sm_frames_free() > SM_FRAMES_SPARE + MOST_AT_ONCE + sm_engine.frames / PLENTY;
}

static size_t
how_many(const struct sm_span *s, size_t i)
{
	size_t most = open_before(s, i), n = 1;

	if (!is_plenty())
		return 1;
	most = sm_min_size(most < AT_ONCE ? AT_ONCE : most, (size_t)s->page[i].ahead + 1);
	while (n < most && i + n < s->pages && s->page[i + n].state == SM_PAGE_VIRGIN)
		n++;
	return n;
}

/* Back to the stack that they were taken from, from the page `from` on. */
static void
take_back(struct sm_span *s, size_t i, size_t from, size_t n, bool bare)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;

	if (!s->locked && from < n)
		sm_mover->unlock(u + from * sm_engine.page_bytes, (n - from) * sm_engine.page_bytes);
	for (size_t k = from; k < n; k++) {
		sm_engine_unnote(s, i + k, SM_PAGE_VIRGIN);
		if (bare)
			sm_frame_gone(s->page[i + k].frame);
		else
			sm_frame_back(s->page[i + k].frame);
	}
}

/* Who was noted is there, or a purge found it. */
static int
settle(struct sm_span *s, size_t i, size_t done, int e)
{
	atomic_fetch_add_explicit(&sm_engine.served, done, memory_order_relaxed);
	if (!sm_purge_fence())
		return e;
	sm_engine_discard_all(s, i, done);
	return sm_state_refuse();
}

static int
lock_pages(struct sm_span *s, size_t i, size_t n)
{
	if (s->locked)
		return 0;
	return sm_mover->lock(s->u + i * sm_engine.page_bytes, n * sm_engine.page_bytes);
}

static int
show_some(struct sm_span *s, size_t i, size_t n, uint32_t first)
{
	size_t done = 0;
	int e;

	for (size_t k = 0; k < n; k++) {
		s->page[i + k].epoch = 0; /* nothing is in X */
		sm_engine_note(s, i + k, first + (uint32_t)k);
	}
	e = lock_pages(s, i, n);
	if (e == 0)
		done = sm_mover->some(sm_engine.fd, s->u + i * sm_engine.page_bytes,
			sm_frame_at(first), n);
	take_back(s, i, done, n, false);
	return settle(s, i, done, done ? 0 : EAGAIN);
}

static int
bring(struct sm_span *s, size_t i, size_t n)
{
	size_t done = 0;
	int e;

	for (size_t k = 0; k < n; k++) {
		s->page[i + k].epoch = 0;
		sm_engine_note(s, i + k, sm_frame_take_bare());
	}
	e = lock_pages(s, i, n);
	if (e == 0)
		e = sm_mover->bring(sm_engine.fd, s->u + i * sm_engine.page_bytes, n, &done);
	take_back(s, i, done, n, true);
	return settle(s, i, done, e);
}

/* Memory that is here already comes first. Once the page itself is there, others may fail to come.
 * Who serves counts the one that was touched. */
int
sm_engine_fresh(struct sm_span *s, size_t i)
{
	size_t end, here;
	uint32_t first;
	int e = 0;

	if (sm_mover->shared || sm_frames_free() <= SM_FRAMES_SPARE)
		return ENOMEM;
	end = i + how_many(s, i);
	for (size_t k = i; e == 0 && k < end; k += here) {
		here = sm_frames_take(end - k, &first);
		e = here ? show_some(s, k, here, first) : bring(s, k, end - k);
		here = here ? here : end - k;
	}
	if (s->page[i].state != SM_PAGE_CLEAR)
		return e;
	atomic_fetch_sub_explicit(&sm_engine.served, 1, memory_order_relaxed);
	return 0;
}

/* By its own thread, as it will touch both ends at once: what is written in front of a chunk and behind
 * it, or the first slot of a slab. Nobody has to be asked, and none waits. */
void
sm_engine_await(struct sm_span *s, size_t i, size_t n)
{
	const size_t ends[] = { i, i + n - 1 };

	if (atomic_load(&sm_engine.shut) || atomic_load(&sm_engine.forker) || sm_purge_fence())
		return;
	for (size_t k = 0; k < 2; k++)
		if (s->page[ends[k]].state == SM_PAGE_VIRGIN && is_plenty() &&
			sm_engine_fresh(s, ends[k]) == 0)
			atomic_fetch_add_explicit(&sm_engine.served, 1, memory_order_relaxed);
}

/* ------------------------------------------------------------------- and going */

/* As many clear pages from this one on as have frames side by side. */
static size_t
clear_run(const struct sm_span *s, size_t i, size_t n)
{
	size_t k = 1;

	while (k < n && s->page[i + k].state == SM_PAGE_CLEAR &&
		s->page[i + k].frame == s->page[i].frame + k)
		k++;
	return k;
}

/* Returns: how many pages went. */
static size_t
discard_some(struct sm_span *s, size_t i, size_t n)
{
	size_t page = sm_engine.page_bytes, done;
	unsigned char *frame = sm_frame_at(s->page[i].frame);

	n = clear_run(s, i, n);
	done = n > 1 ? sm_frame_pull_some(s, i, n) : 0;
	if (done == 0) {
		sm_engine_discard(s, i);
		return 1;
	}
	if (!s->locked)
		sm_mover->unlock(s->u + i * page, done * page);
	sm_wipe(frame, done * page);
	for (size_t k = 0; k < done; k++) {
		s->page[i + k].state = SM_PAGE_VIRGIN;
		sm_frame_back(s->page[i + k].frame);
	}
	return done;
}

void
sm_engine_discard_all(struct sm_span *s, size_t i, size_t n)
{
	for (size_t k = 0; k < n;)
		k += s->page[i + k].state == SM_PAGE_CLEAR ? discard_some(s, i + k, n - k) : 1;
}
