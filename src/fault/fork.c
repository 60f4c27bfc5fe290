#include "fault/inside.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/*
 * What a child keeps. U is not there after a fork, X and the tables are, as ordinary memory: so
 * before it every page goes to X. The child maps U anew, with a descriptor and frames of its own.
 *
 * From the pause until the fork is over nobody but the thread that forks opens a page: whatever
 * another thread stored before is in X, and what it stores next waits. fork(3) itself, and other
 * handlers of pthread_atfork, may touch pages in between, where the program's whole heap is here
 * (locks of stdio and of name services); those open, and nothing closes, so that X still has them
 * as they were. The child sees them so, and the C library sets its locks free there anyway.
 *
 * The parent's clear pages wait in their frames, and are back at once when the fork is over: to be
 * touched and opened again would cost each ten times as much.
 *
 * A page that cannot be taken away, as the kernel has it pinned, is copied, and so is a held one
 * where a system call would find it gone; what other threads store there meanwhile the child has
 * in part, as with any copy.
 */

enum { FORKS_MOST = 8 };

static bool held_closed; /* by a pause, to be undone */
static bool owned, served; /* in a child: frames are its own; somebody serves */

/* ------------------------------------------------------------------ parent */

static int
copy(struct sm_span *s, size_t i, const struct sm_loan *key)
{
	size_t page = sm_engine.page_bytes;
	uint32_t f = sm_frame_take();
	unsigned char *frame = sm_frame_at(f);
	int e;

	memcpy(frame, s->u + i * page, page);
	e = sm_engine_seal(s, i, f, key);
	if (e)
		sm_wipe(frame, page);
	s->page[i].state = SM_PAGE_CLEAR;
	sm_frame_back(f);
	return e;
}

/* To a frame that a child has not, and which need not be opened afterwards. False: it was not; now
 * and then, so that what nobody touches any more is not sealed for each fork there is. */
static bool
keep(const struct sm_owner *o, const struct sm_loan *key)
{
	struct sm_span *s = o->span;
	uint32_t f = s->page[o->page].frame, scratch;
	unsigned char *u = s->u + o->page * sm_engine.page_bytes;

	if (o->forks >= FORKS_MOST || !s->x || !(sm_engine.p.granted & SECMALLOC_FORKSAFE))
		return false;
	if (sm_frame_furnish() || sm_frame_pull(s, o->page, f))
		return false;
	scratch = sm_frame_take();
	memcpy(sm_frame_at(scratch), sm_frame_at(f), sm_engine.page_bytes);
	(void)sm_engine_seal(s, o->page, scratch, key); /* to memory, which never fails */
	sm_frame_back(scratch);
	if (!s->locked)
		sm_mover->unlock(u, sm_engine.page_bytes);
	sm_frame_keep(s, o->page, f);
	return true;
}

static int
put_away(const struct sm_owner *o, const struct sm_loan *key)
{
	struct sm_page *p = &o->span->page[o->page];
	bool stays = p->holds && sm_fault_by == SM_MODE_SIGNAL;
	int e = stays ? EBUSY : keep(o, key) ? 0 : sm_engine_close(o->span, o->page, key);

	if (e == 0)
		held_closed |= p->holds > 0;
	if (e != EBUSY)
		return e;
	if (sm_frame_furnish())
		return ENOMEM;
	return copy(o->span, o->page, key);
}

/* A child has a key of its own, and two are the most there are. What was tampered with is lost. */
static int
carry_all(const struct sm_loan *key)
{
	int e = 0;

	for (size_t k = 0; k < sm_engine.nspans; k++)
		for (size_t i = 0; e == 0 && i < sm_engine.spans[k].pages; i++) {
			e = sm_engine_carry(&sm_engine.spans[k], i, key);
			if (e != EBADMSG)
				continue;
			sm_engine.spans[k].page[i].state = SM_PAGE_LOST;
			e = 0;
		}
	return e;
}

int
sm_fault_pause(void)
{
	bool carries = sm_key_has_other();
	struct sm_work w;
	int e = sm_engine_begin(&w);

	owned = served = false;
	if (e)
		return e;
	for (size_t f = 0; e == 0 && f < sm_engine.frames; f++) {
		struct sm_owner o = sm_engine.owner[f];

		if (o.span)
			e = put_away(&o, &w.key);
	}
	if (e == 0 && carries)
		e = carry_all(&w.key);
	(void)sm_engine_thin(false); /* the key for a child is locked here, too */
	if (e == 0)
		e = sm_store_before_fork();
	atomic_store(&sm_engine.put_off, false);
	atomic_store(&sm_engine.forker, sm_uffd_self());
	sm_engine_end(&w);
	return e;
}

static void
open_held(const struct sm_loan *key)
{
	for (size_t k = 0; k < sm_engine.nspans; k++) {
		struct sm_span *s = &sm_engine.spans[k];

		for (size_t i = 0; i < s->pages; i++)
			if (s->page[i].holds && s->page[i].state == SM_PAGE_SEALED)
				(void)sm_engine_open(s, i, key); /* else when it is touched */
	}
}

void
sm_fault_resume(void)
{
	struct sm_work w;
	int e = sm_engine_begin_for(sm_uffd_self(), &w);

	if (e)
		sm_engine_take();
	sm_frames_restore(e == 0);
	if (e == 0 && held_closed)
		open_held(&w.key);
	held_closed = false;
	sm_store_after_fork();
	atomic_store(&sm_engine.forker, 0);
	if (e)
		sm_engine_let_go();
	else
		sm_engine_end(&w);
	if (atomic_load(&sm_engine.put_off))
		sm_engine_wake();
}

/* ------------------------------------------------------------------- child */

/* As the parent's, but where that had privileges it has dropped since, and the program knows when
 * to hold, the thread that touches may serve itself. */
static int
open_descriptor(void)
{
	int fd = sm_uffd_open(sm_fault_by);
	bool barred = fd < 0 && (errno == EPERM || errno == EACCES || errno == ENOENT);

	if (barred && sm_fault_by == SM_MODE_THREAD && !sm_host.unaware) {
		sm_fault_by = SM_MODE_SIGNAL;
		fd = sm_uffd_open(sm_fault_by);
	}
	return fd;
}

/* What was clear in the parent is in X too, if ever it had been there. */
static void
close_pages(struct sm_span *s)
{
	for (size_t i = 0; i < s->pages; i++) {
		struct sm_page *p = &s->page[i];

		if (p->holds) /* what is not written is not copied */
			p->holds = 0;
		if (p->state == SM_PAGE_CLEAR)
			p->state = p->epoch ? SM_PAGE_SEALED : SM_PAGE_VIRGIN;
	}
}

int
sm_fault_revive(void)
{
	int fd, e;

	held_closed = false;
	sm_server_forget();
	sm_host_let_go(sm_engine.fd);
	close(sm_engine.fd);
	sm_engine.fd = -1;
	fd = open_descriptor();
	if (fd < 0 && (errno == EPERM || errno == EACCES || errno == ENOENT))
		return sm_fail(ENOMEM, "this user may not have userfaultfd, so a forked child cannot "
				       "open its pages: keep CAP_SYS_PTRACE, or give access to "
				       "/dev/userfaultfd");
	if (fd < 0)
		return sm_fail(ENOMEM, "userfaultfd is not to be had in this child: raise "
				       "RLIMIT_NOFILE, or allow the system call");
	sm_host_keep(fd);
	for (size_t k = 0; k < sm_engine.nspans; k++)
		close_pages(&sm_engine.spans[k]);
	owned = true;
	e = sm_engine_revive(fd);
	return e ? e : sm_store_inherit();
}

int
sm_fault_again(unsigned char *base, size_t bytes)
{
	struct sm_span *s = sm_engine_span(base);

	if (sm_mover->watch(sm_engine.fd, base, bytes))
		return sm_fail(ENOMEM, "userfaultfd refused to watch %zu bytes: free some memory", bytes);
	s->locked = sm_mover->lock(base, bytes) == 0;
	return 0;
}

int
sm_fault_serve(void)
{
	int e = sm_server_start(sm_fault_by, sm_engine.fd);

	served = e == 0;
	return e;
}

void
sm_fault_undo(void)
{
	int fd = sm_engine.fd;

	if (!owned) {
		sm_fault_orphan();
		return;
	}
	if (served)
		sm_server_stop();
	for (size_t k = 0; k < sm_engine.nspans; k++)
		sm_span_let_go(&sm_engine.spans[k]);
	sm_store_stop();
	sm_engine_stop();
	sm_uffd_let_go();
	sm_host_let_go(fd);
	close(fd);
	sm_fault_by = SM_MODE_NONE;
}

bool
sm_fault_watches(const void *at)
{
	return sm_engine_span(at) != NULL;
}
