#include "fault/inside.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static enum sm_mode mode;

/* ------------------------------------------------------------------- spans */

static size_t
store_bytes(size_t pages)
{
	return pages * sm_engine.page_bytes;
}

static size_t
table_bytes(size_t pages)
{
	return sm_round_up(pages * sizeof(struct sm_page), sm_engine.page_bytes);
}

static void
let_span_go(struct sm_span *s)
{
	sm_os_unreserve(s->page, table_bytes(s->pages));
	sm_os_unreserve(s->x, store_bytes(s->pages));
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
	void *x, *page = NULL;
	int e;

	*s = (struct sm_span){ .pages = bytes / sm_engine.page_bytes };
	e = sm_os_plain(store_bytes(s->pages), &x);
	if (e)
		return e;
	s->x = x;
	e = sm_os_plain(table_bytes(s->pages), &page);
	s->page = e ? NULL : page;
	if (e == 0 && sm_uffd_watch(sm_engine.fd, u, bytes))
		e = sm_fail(ENOMEM, "userfaultfd refused to watch %zu bytes: free some memory", bytes);
	if (e)
		let_span_go(s);
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
	made.locked = sm_uffd_lock(base, bytes) == 0;
	sm_server_mask(&m);
	sm_engine_take();
	s = free_span();
	if (s) {
		*s = made;
		s->u = base;
		if ((size_t)(s - sm_engine.spans) >= sm_engine.nspans)
			sm_engine.nspans = (size_t)(s - sm_engine.spans) + 1;
	}
	sm_engine_let_go();
	sm_server_unmask(&m);
	if (s)
		return 0;
	sm_uffd_unwatch(sm_engine.fd, base, bytes);
	let_span_go(&made);
	return sm_fail(ENOMEM, "%d pools are all that transparent mode watches: raise pool_size",
		(int)SM_SPANS_MOST);
}

/* Its clear pages go back to P; nothing of it is kept. */
void
sm_fault_go(unsigned char *base, size_t bytes)
{
	struct sm_mask m;
	struct sm_span *s, gone = { 0 };

	sm_server_mask(&m);
	sm_engine_take();
	s = sm_engine_span(base);
	for (size_t i = 0; s && i < s->pages; i++)
		if (s->page[i].state == SM_PAGE_CLEAR)
			sm_engine_discard(s, i);
	if (s) {
		gone = *s;
		s->u = NULL;
		s->pages = 0;
	}
	sm_engine_let_go();
	sm_server_unmask(&m);
	sm_uffd_unwatch(sm_engine.fd, base, bytes);
	if (gone.locked)
		sm_uffd_unlock(base, bytes);
	let_span_go(&gone);
}

void
sm_fault_drop(unsigned char *base, size_t bytes)
{
	struct sm_mask m;
	struct sm_span *s;
	size_t first;

	sm_server_mask(&m);
	sm_engine_take();
	s = sm_engine_span(base);
	first = sm_engine_index(s, base);
	for (size_t i = first; i < first + bytes / sm_engine.page_bytes; i++) {
		if (s->page[i].state == SM_PAGE_CLEAR)
			sm_engine_discard(s, i);
		s->page[i].state = SM_PAGE_VIRGIN;
		s->page[i].holds = 0;
	}
	sm_engine_let_go();
	sm_server_unmask(&m);
}

/* ------------------------------------------------------------ start and stop */

int
sm_fault_start(void)
{
	static const enum sm_mode modes[] = { SM_MODE_THREAD, SM_MODE_SIGNAL };
	int fd = -1, e;

	for (size_t i = 0; fd < 0 && i < sizeof(modes) / sizeof(*modes); i++) {
		fd = sm_uffd_open(modes[i]);
		mode = modes[i];
	}
	if (fd < 0) {
		mode = SM_MODE_NONE;
		return sm_fail(ENOTSUP, "transparent mode needs userfaultfd with UFFDIO_MOVE: Linux 6.8, "
					"and no filter that forbids it");
	}
	e = sm_engine_start(fd);
	if (e == 0) {
		e = sm_server_start(mode, fd);
		if (e)
			sm_engine_stop();
	}
	if (e) {
		close(fd);
		mode = SM_MODE_NONE;
	} else
		sm_host_keep(fd);
	return e;
}

void
sm_fault_stop(void)
{
	int fd = sm_engine.fd;

	if (mode == SM_MODE_NONE)
		return;
	sm_server_stop();
	sm_engine_stop();
	sm_host_let_go(fd);
	close(fd);
	mode = SM_MODE_NONE;
}

/* P and the tables are ordinary or wiped here; the descriptor watches the parent. */
void
sm_fault_orphan(void)
{
	if (mode == SM_MODE_NONE)
		return;
	sm_server_forget();
	sm_host_let_go(sm_engine.fd);
	close(sm_engine.fd);
	if (sm_engine.p.base)
		sm_os_cover(sm_engine.p.base, sm_engine.p.bytes, sm_engine.p.absent);
	sm_engine = (struct sm_engine){ .fd = -1 };
	mode = SM_MODE_NONE;
}

unsigned
sm_fault_mode(void)
{
	return mode;
}

uint64_t
sm_fault_clear_bytes(void)
{
	return atomic_load(&sm_engine.clear) * sm_engine.page_bytes;
}

uint64_t
sm_fault_served(void)
{
	return atomic_load(&sm_engine.served);
}

/* ------------------------------------------------------------------- serving */

/* Everything was purged: what was there reads as zero. Locked: whoever touches waits. */
static bool
serve_without_key(void *at, int e)
{
	struct sm_span *s;

	if (e != ECANCELED) {
		unsigned turn = 80; /* a sleep */

		sm_rest(&turn);
		return false;
	}
	s = sm_engine_span(at);
	return s == NULL || sm_uffd_fill(sm_engine.fd,
		s->u + sm_engine_index(s, at) * sm_engine.page_bytes) == 0;
}

static int
serve_once(void *at)
{
	struct sm_work w;
	struct sm_span *s;
	size_t i;
	int e = sm_engine_begin(&w);

	if (e)
		return serve_without_key(at, e) ? 0 : EAGAIN;
	s = sm_engine_span(at);
	i = s ? sm_engine_index(s, at) : 0;
	e = s ? sm_engine_open(s, i, &w.key) : 0;
	if (s && e == 0)
		sm_uffd_wake(sm_engine.fd, s->u + i * sm_engine.page_bytes);
	sm_engine_end(&w);
	return e;
}

bool
sm_engine_serve(void *at)
{
	unsigned turn = 0;
	int e;

	if (!sm_engine_span(at))
		return false;
	while ((e = serve_once(at)) != 0) {
		if (e == EBADMSG)
			sm_die(SECMALLOC_FAULT_TAMPERED, at);
		sm_rest(&turn);
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
	e = sm_engine_begin(&w);
	if (e)
		return e;
	r = range_of((void *)from, to - from);
	for (size_t i = r.first; i < r.end; i++)
		if (r.s->page[i].state == SM_PAGE_CLEAR && r.s->page[i].holds == 0)
			(void)sm_engine_close(r.s, i, &w.key); /* pinned: the next eviction */
	sm_engine_end(&w);
	return 0;
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
	int e = sm_engine_begin(&w);

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

	sm_server_mask(&m);
	sm_engine_take();
	r = range_of(ptr, n);
	unhold(&r, r.end);
	sm_engine_let_go();
	sm_server_unmask(&m);
}

int
sm_fault_close_all(void)
{
	struct sm_work w;
	int e = sm_engine_begin(&w);

	if (e)
		return e;
	for (size_t f = 0; f < sm_engine.frames; f++) {
		struct sm_owner o = sm_engine.owner[f];

		if (o.span && o.span->page[o.page].holds == 0)
			(void)sm_engine_close(o.span, o.page, &w.key);
	}
	sm_engine_end(&w);
	return 0;
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

/* Never the program's view: a page that cannot be taken away is not there, or the kernel has it. */
SM_NO_TSAN void
sm_fault_purge(void)
{
	if (!sm_engine.p.base)
		return;
	for (size_t f = 0; f < sm_engine.frames; f++) {
		struct sm_owner o = sm_engine.owner[f];
		unsigned char *frame = sm_engine.p.base + f * sm_engine.page_bytes;

		if (o.span && o.span->u && sm_uffd_move(sm_engine.fd, frame,
			o.span->u + o.page * sm_engine.page_bytes) == 0)
			sm_purge_wipe(frame, sm_engine.page_bytes);
	}
}
