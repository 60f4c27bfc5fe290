#include "fault/inside.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum sm_mode sm_fault_by;

/* ------------------------------------------------------------------- spans */

static size_t
table_bytes(size_t pages)
{
	return sm_round_up(pages * sizeof(struct sm_page), sm_engine.page_bytes);
}

void
sm_span_let_go(struct sm_span *s)
{
	sm_os_unreserve(s->page, table_bytes(s->pages));
	sm_store_give(s);
	*s = (struct sm_span){ 0 };
}

static struct sm_span *
free_span(void)
{
	for (size_t i = 0; i < SM_SPANS_MOST; i++)
		if (!sm_engine.spans[i].u)
			return &sm_engine.spans[i];
	return NULL;
}

static int
make_span(struct sm_span *s, unsigned char *u, size_t bytes)
{
	void *page = NULL;
	int e;

	*s = (struct sm_span){ .pages = bytes / sm_engine.page_bytes };
	e = sm_store_take(s);
	if (e)
		return e;
	e = sm_os_plain(table_bytes(s->pages), &page);
	s->page = e ? NULL : page;
	if (e == 0 && sm_mover->watch(sm_engine.fd, u, bytes))
		e = sm_fail(ENOMEM, "the kernel refused to watch %zu bytes: free some memory", bytes);
	if (e)
		sm_span_let_go(s);
	return e;
}

int
sm_fault_come(unsigned char *base, size_t bytes)
{
	struct sm_mask m;
	struct sm_span made;
	struct sm_span *s;
	int e = make_span(&made, base, bytes);

	if (e)
		return e;
	made.locked = sm_mover->lock(base, bytes) == 0;
	sm_os_mask(&m);
	sm_engine_take();
	s = free_span();
	if (s) {
		*s = made;
		s->u = base;
		if ((size_t)(s - sm_engine.spans) >= sm_engine.nspans)
			sm_engine.nspans = (size_t)(s - sm_engine.spans) + 1;
	}
	sm_engine_let_go();
	sm_os_unmask(&m);
	if (s)
		return 0;
	sm_mover->unwatch(sm_engine.fd, base, bytes);
	sm_span_let_go(&made);
	return sm_fail(ENOMEM, "%d pools are all that transparent mode watches: raise pool_size",
		(int)SM_SPANS_MOST);
}

/* Its clear pages go back to P; nothing of it is kept. */
void
sm_fault_go(unsigned char *base, size_t bytes)
{
	struct sm_mask m;
	struct sm_span *s, gone = { 0 };

	sm_os_mask(&m);
	sm_engine_take();
	s = sm_engine_span(base);
	if (s) {
		sm_engine_discard_all(s, 0, s->pages);
		gone = *s;
		s->u = NULL;
		s->pages = 0;
	}
	sm_engine_let_go();
	sm_os_unmask(&m);
	sm_mover->unwatch(sm_engine.fd, base, bytes);
	if (gone.locked)
		sm_mover->unlock(base, bytes);
	sm_span_let_go(&gone);
}

/* ------------------------------------------------------------ start and stop */

static void
unlisten(int fd)
{
	sm_uffd_let_go();
	if (fd >= 0) {
		sm_host_let_go(fd);
		close(fd);
	}
	sm_fault_by = SM_MODE_NONE;
}

static int
serve_in(enum sm_mode m, int fd)
{
	int e;

	sm_mover = m == SM_MODE_SLOTS ? &sm_slots : &sm_uffd;
	e = sm_engine_start(fd);
	if (e) {
		unlisten(fd);
		return e;
	}
	sm_fault_by = m;
	e = sm_store_start();
	if (e == 0)
		e = sm_server_start(m, fd);
	if (e) {
		sm_store_stop();
		sm_engine_stop();
		unlisten(fd);
	} else if (fd >= 0) {
		sm_host_keep(fd);
		if (m == SM_MODE_THREAD && sm_config()->fork_keeps)
			sm_uffd_keep();
	}
	return e;
}

/* A child that keeps everything has userfaultfd, or nothing. */
static bool
may_do(enum sm_mode m)
{
	return m != SM_MODE_SLOTS || !(sm_config()->fork_keeps || sm_host.unaware);
}

static int
served(void)
{
	if (sm_fault_by != SM_MODE_THREAD) {
		(void)sm_fail(0, "transparent mode %d: system calls on closed pages are EFAULT, as "
			"userfaultfd is not allowed to watch the kernel: start with CAP_SYS_PTRACE "
			"or give access to /dev/userfaultfd", (int)sm_fault_by);
		sm_error_show();
	}
	return 0;
}

int
sm_fault_start(void)
{
	static const enum sm_mode modes[] = { SM_MODE_THREAD, SM_MODE_SIGNAL, SM_MODE_SLOTS };
	int fd, e;

	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		fd = modes[i] == SM_MODE_SLOTS ? -1 : sm_uffd_open(modes[i]);
		if (!may_do(modes[i]) || (fd < 0 && modes[i] != SM_MODE_SLOTS))
			continue;
		e = serve_in(modes[i], fd);
		if (e == 0)
			return served();
		if (e != ENOTSUP)
			return e;
	}
	return sm_fail(ENOTSUP, "transparent mode needs userfaultfd with UFFDIO_MOVE: Linux 6.8, "
				"and no filter that forbids it");
}

void
sm_fault_stop(void)
{
	int fd = sm_engine.fd;

	if (sm_fault_by == SM_MODE_NONE)
		return;
	sm_server_stop();
	sm_store_stop();
	sm_engine_stop();
	unlisten(fd);
}

/* P and the tables are ordinary or wiped here; the descriptor watches the parent. */
void
sm_fault_orphan(void)
{
	if (sm_fault_by == SM_MODE_NONE)
		return;
	sm_server_forget();
	sm_store_stop();
	unlisten(sm_engine.fd);
	if (sm_engine.p.base)
		sm_os_cover(sm_engine.p.base, sm_engine.p.bytes, sm_engine.p.absent);
	sm_engine = (struct sm_engine){ .fd = -1 };
}

unsigned
sm_fault_mode(void)
{
	return sm_fault_by;
}

/* ------------------------------------------------------------------- serving */

enum { PATIENCE_MS = 3000 };

/** How long a fault has waited while no page was closed anywhere. */
struct wait {
	uint64_t since, closed;
	bool begun;
	unsigned turn;
};

/* Everything was purged: what was there reads as zero. */
static int
serve_zeros(void *at)
{
	struct sm_span *s = sm_engine_span(at);
	int e = s == NULL ? 0 : sm_mover->zero(sm_engine.fd,
		s->u + sm_engine_index(s, at) * sm_engine.page_bytes);

	return e ? sm_fail(ENOMEM, "filling a page failed (%d): free some memory", e) : 0;
}

static int
serve_once(void *at)
{
	bool by_thread = sm_fault_by == SM_MODE_THREAD;
	int forks = atomic_load(&sm_engine.forker);
	struct sm_work w;
	struct sm_span *s;
	size_t i;
	int e = sm_engine_enter(!forks ? 0 : by_thread ? sm_uffd_teller() : sm_uffd_self(), &w);

	if (e == ECANCELED)
		return serve_zeros(at);
	if (e)
		return e;
	s = sm_engine_span(at);
	i = s ? sm_engine_index(s, at) : 0;
	e = s ? sm_engine_open(s, i, &w.key) : 0;
	sm_engine_leave(&w);
	return e;
}

/* Other threads may release what they hold; whoever touched cannot be told that they will not. */
static void
wait_on(struct wait *w, int e, const void *at)
{
	uint64_t closed = atomic_load_explicit(&sm_engine.closed, memory_order_relaxed);

	if (e == EBADMSG)
		sm_die(SECMALLOC_FAULT_TAMPERED, at);
	if (e == EIO)
		sm_die(SECMALLOC_FAULT_STORE, at);
	if (e == EACCES || e == EINPROGRESS || !w->begun || closed != w->closed) {
		w->begun = e != EACCES && e != EINPROGRESS;
		w->closed = closed;
		w->since = sm_os_now_ms();
	} else if (sm_os_now_ms() - w->since >= PATIENCE_MS) {
		sm_die_of(sm_error_text(), at);
	}
	sm_rest(&w->turn);
}

bool
sm_engine_serve(void *at)
{
	struct wait w = { 0 };
	int e;

	if (!sm_engine_span(at))
		return sm_fault_by == SM_MODE_THREAD && sm_frame_stuff(at);
	if (sm_engine_bars(at))
		return !sm_mover->shared; /* there the program has its signal; here it comes by itself */
	while ((e = serve_once(at)) != 0) {
		if (e == EFAULT)
			return false;
		if (sm_fault_by == SM_MODE_THREAD &&
			(e == EINPROGRESS || (e == EACCES && sm_engine_waits())))
			return true; /* sm_fault_resume or _unlock wakes it */
		wait_on(&w, e, at);
	}
	atomic_fetch_add_explicit(&sm_engine.served, 1, memory_order_relaxed);
	return true;
}

/* ------------------------------------------------------------ what chunks ask */

/** The pages of [ptr, ptr + n): those that lie wholly inside, and all. */
struct range {
	struct sm_span *s;
	size_t first, end;
};

static struct range
range_of(const void *ptr, size_t n)
{
	struct range r = { sm_engine_span(ptr), 0, 0 };

	if (r.s && n) {
		r.first = sm_engine_index(r.s, ptr);
		r.end = sm_engine_index(r.s, (const unsigned char *)ptr + n - 1) + 1;
	}
	return r;
}

/* For calls: while the daemon has the keys they wait, as whoever touches a page does. */
static int
begin(struct sm_work *w)
{
	int e;

	while ((e = sm_engine_begin(w)) == EACCES && !sm_barred())
		sm_gate_await();
	return e;
}

int
sm_fault_close(void *ptr, size_t n)
{
	size_t page = sm_engine.page_bytes;
	uintptr_t from = sm_round_up((uintptr_t)ptr, page);
	uintptr_t to = ((uintptr_t)ptr + n) & ~(uintptr_t)(page - 1);
	struct sm_work w;
	struct range r;
	int e;

	if (to <= from)
		return 0;
	e = begin(&w);
	if (e)
		return e;
	r = range_of((void *)from, to - from);
	for (size_t i = r.first; e != EIO && i < r.end; i++)
		if (r.s->page[i].state == SM_PAGE_CLEAR && r.s->page[i].holds == 0)
			e = sm_engine_close(r.s, i, &w.key);
	sm_engine_end(&w);
	return e == EIO ? e : 0; /* pinned: the next eviction */
}

static void
unhold(const struct range *r, size_t end)
{
	for (size_t i = r->first; i < end; i++)
		r->s->page[i].holds--;
}

static int
open_range(void *ptr, size_t n, bool hold)
{
	struct sm_work w;
	struct range r;
	int e = begin(&w);

	if (e)
		return e;
	r = range_of(ptr, n);
	for (size_t i = r.first; e == 0 && i < r.end; i++) {
		if (r.s->page[i].state != SM_PAGE_CLEAR)
			e = sm_engine_open(r.s, i, &w.key);
		if (e == EBADMSG)
			e = sm_fail(EBADMSG, "the store of %zu closed bytes was written: their content "
					     "is lost, free them", n);
		if (e && hold)
			unhold(&r, i);
		else if (hold)
			r.s->page[i].holds++;
	}
	sm_engine_end(&w);
	return e;
}

int
sm_fault_open(void *ptr, size_t n)
{
	return open_range(ptr, n, false);
}

int
sm_fault_hold(void *ptr, size_t n)
{
	return open_range(ptr, n, true);
}

void
sm_fault_release(void *ptr, size_t n)
{
	struct sm_mask m;
	struct range r;

	sm_os_mask(&m);
	sm_engine_take();
	r = range_of(ptr, n);
	unhold(&r, r.end);
	sm_engine_let_go();
	sm_os_unmask(&m);
}

int
sm_fault_close_all(void)
{
	struct sm_work w;
	int e = begin(&w);

	if (e)
		return e;
	for (size_t f = 0; e != EIO && f < sm_engine.frames; f++) {
		struct sm_owner o = sm_engine.owner[f];

		if (o.span && o.span->page[o.page].holds == 0)
			e = sm_engine_close(o.span, o.page, &w.key);
	}
	sm_engine_end(&w);
	return e == EIO ? e : 0;
}

unsigned
sm_fault_reseal(unsigned ms)
{
	uint64_t now = sm_os_now_ms(), age;
	struct sm_work w;
	unsigned next = ms;

	if (sm_engine_begin(&w))
		return ms;
	for (size_t f = 0; f < sm_engine.frames; f++) {
		struct sm_owner o = sm_engine.owner[f];

		age = now > o.since ? now - o.since : 0;
		if (!o.span || o.span->page[o.page].holds)
			continue;
		if (age >= ms)
			(void)sm_engine_close(o.span, o.page, &w.key);
		else if (ms - age < next)
			next = ms - (unsigned)age;
	}
	sm_engine_end(&w);
	return next;
}

/* What waits for a fork to be over must not be put back, and so be gone, while it is wiped. Whoever
 * puts it back first sees the purge then. */
SM_NO_TSAN static bool
is_in_place(struct sm_owner *frame, uint32_t f)
{
	struct sm_owner o = *frame;

	if (o.kept)
		return !atomic_exchange(&frame->taken, true);
	return o.span && o.span->u && (sm_mover->shared || sm_frame_pull(o.span, o.page, f) == 0);
}

/* Never the program's view: a page that cannot be taken away is not there, or the kernel has it. */
SM_NO_TSAN void
sm_fault_purge(void)
{
	if (!sm_engine.p.base)
		return;
	for (size_t f = 0; f < sm_engine.frames; f++) {
		unsigned char *frame = sm_engine.p.base + f * sm_engine.page_bytes;

		if (is_in_place(&sm_engine.owner[f], (uint32_t)f))
			sm_purge_wipe(frame, sm_engine.page_bytes);
	}
	sm_engine_wake(); /* who waited for the unlocking, too */
}
