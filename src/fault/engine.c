#include "fault/inside.h"

#include <errno.h>
#include <string.h>

struct sm_engine sm_engine;
const struct sm_mover *sm_mover = &sm_uffd;

/* -------------------------------------------------------------------- lock */

void
sm_engine_take(void)
{
	uint32_t mine = atomic_fetch_add(&sm_engine.next, 1);
	unsigned turn = 0;

	while (atomic_load_explicit(&sm_engine.serving, memory_order_acquire) != mine)
		sm_rest(&turn);
}

void
sm_engine_let_go(void)
{
	atomic_fetch_add_explicit(&sm_engine.serving, 1, memory_order_release);
}

/* Under the lock. */
static bool
is_barred(int thread)
{
	int forker = atomic_load(&sm_engine.forker);

	return atomic_load(&sm_engine.shut) || (forker && forker != thread);
}

void
sm_engine_wake(void)
{
	for (size_t k = 0; k < sm_engine.nspans; k++)
		if (sm_engine.spans[k].u)
			sm_uffd_wake_all(sm_engine.fd, sm_engine.spans[k].u,
				sm_engine.spans[k].pages * sm_engine.page_bytes);
}

bool
sm_engine_waits(void)
{
	bool shut;

	sm_engine_take();
	shut = atomic_load(&sm_engine.shut);
	if (shut)
		atomic_store(&sm_engine.put_off, true);
	sm_engine_let_go();
	return shut && !sm_purge_fence();
}

/* A key that was renewed while this thread waited may be dropped by now. */
static int
take_with_key(struct sm_loan *key)
{
	int e;

	while ((e = sm_key_lend(key, 0)) == 0) {
		sm_engine_take();
		if (sm_key_in_force(key))
			return 0;
		sm_engine_let_go();
		sm_key_return(key);
	}
	return e;
}

int
sm_engine_enter(int thread, struct sm_work *w)
{
	int e;

	sm_locks_shelve(&w->shelf);
	e = take_with_key(&w->key);
	if (e == 0 && !is_barred(thread))
		return 0;
	if (e == 0) {
		e = atomic_load(&sm_engine.shut) ? sm_state_refuse() : EINPROGRESS;
		atomic_store(&sm_engine.put_off, true);
		sm_engine_let_go();
		sm_key_return(&w->key);
		sm_wipe_traces(); /* as no cipher call will */
	}
	sm_locks_unshelve(&w->shelf);
	return e;
}

int
sm_engine_begin_for(int thread, struct sm_work *w)
{
	int e;

	sm_os_mask(&w->mask);
	e = sm_engine_enter(thread, w);
	if (e)
		sm_os_unmask(&w->mask);
	return e;
}

void
sm_engine_leave(struct sm_work *w)
{
	sm_engine_let_go();
	sm_key_return(&w->key);
	sm_wipe_traces(); /* there may have been no cipher call */
	sm_locks_unshelve(&w->shelf);
}

void
sm_engine_end(struct sm_work *w)
{
	sm_engine_leave(w);
	sm_os_unmask(&w->mask);
}

/* ----------------------------------------------------------------- places */

struct sm_span *
sm_engine_span(const void *at)
{
	for (size_t i = 0; i < sm_engine.nspans; i++)
		if ((uintptr_t)at - (uintptr_t)sm_engine.spans[i].u <
			sm_engine.spans[i].pages * sm_engine.page_bytes)
			return &sm_engine.spans[i];
	return NULL;
}

size_t
sm_engine_index(const struct sm_span *s, const void *at)
{
	return ((uintptr_t)at - (uintptr_t)s->u) / sm_engine.page_bytes;
}

static struct sm_message
message(const struct sm_span *s, size_t i, unsigned char *bytes, const uint64_t ad[2])
{
	struct sm_page *p = &s->page[i];

	return (struct sm_message){ .bytes = bytes, .n = sm_engine.page_bytes, .tag = p->tag,
		.nonce = p->nonce, .ad = ad, .ad_bytes = 2 * sizeof(*ad), .tag_rest = p->tag_rest };
}

/* ---------------------------------------------------------- seal and unseal */

/* From a frame to X; the frame is zero afterwards. */
int
sm_engine_seal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key)
{
	const uint64_t ad[2] = { (uintptr_t)s->u + i * sm_engine.page_bytes, key->epoch };
	struct sm_message m;
	int e;

	s->page[i].epoch = key->epoch;
	s->page[i].nonce = sm_key_nonce();
	m = message(s, i, sm_frame_at(f), ad);
	m.to = s->x ? s->x + i * sm_engine.page_bytes : sm_frame_at(f);
	sm_cipher_seal(key->state, &m);
	if (sm_purged()) /* a key that is wiped has hidden nothing */
		sm_wipe(m.to, sm_engine.page_bytes);
	e = sm_store_put(s, i, sm_frame_at(f));
	if (e && sm_cipher_open(key->state, &m) == 0)
		return e;
	sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
	if (e == 0)
		s->page[i].state = SM_PAGE_SEALED;
	return e;
}

/* From X to a frame, which stays zero where X was written. */
int
sm_engine_unseal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key)
{
	const uint64_t ad[2] = { (uintptr_t)s->u + i * sm_engine.page_bytes, s->page[i].epoch };
	struct sm_message m = message(s, i, sm_frame_at(f), ad);
	struct sm_loan other = { 0 };
	int e = 0;

	if (s->page[i].epoch != key->epoch) { /* sealed before a fork, or a rekey */
		e = sm_key_lend_beside(&other, s->page[i].epoch);
		key = &other;
	}
	if (e)
		return e == EINVAL ? EBADMSG : e;
	m.scrap = true;
	e = sm_store_get(s, i, sm_frame_at(f));
	if (e == 0)
		e = sm_cipher_open(key->state, &m);
	sm_key_return_beside(&other);
	if (sm_purged())
		e = sm_state_refuse();
	if (e)
		sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
	return e;
}

/* -------------------------------------------------------------- clear pages */

/* The program has thrown the page away (madvise): it is as if it had never been. */
static void
refill(struct sm_span *s, size_t i)
{
	if (sm_mover->shared)
		sm_die_of("a page cannot be taken away: free some memory", s->u);
	if (!s->locked)
		sm_mover->unlock(s->u + i * sm_engine.page_bytes, sm_engine.page_bytes);
	s->page[i].state = SM_PAGE_VIRGIN;
	sm_frame_gone(s->page[i].frame);
}

/* X took nothing: the page stays clear. */
static void
put_back(struct sm_span *s, size_t i)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	int e = sm_mover->put(sm_engine.fd, u, sm_frame_at(s->page[i].frame));

	if (e)
		sm_die(SECMALLOC_FAULT_STORE, u);
}

/* EEXIST: it was moved already, and the kernel was interrupted. */
int
sm_engine_close(struct sm_span *s, size_t i, const struct sm_loan *key)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	uint32_t f = s->page[i].frame;
	int e = sm_frame_pull(s, i, f);

	if (e == ENOENT) {
		refill(s, i);
		return 0;
	}
	if (e && e != EEXIST)
		return e;
	e = sm_engine_seal(s, i, f, key);
	if (e) {
		put_back(s, i);
		return e;
	}
	if (!s->locked)
		sm_mover->unlock(u, sm_engine.page_bytes);
	sm_frame_back(f);
	return 0;
}

/* Also where the kernel has it pinned, or the program has changed its protection: it is not moved, but
 * goes, so that whoever touches it next is served, and may do so. */
void
sm_engine_discard(struct sm_span *s, size_t i)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	uint32_t f = s->page[i].frame;
	int e = sm_frame_pull(s, i, f);

	if (e == EBUSY) /* it is there, and can be written */
		sm_wipe(u, sm_engine.page_bytes);
	if (e && e != EEXIST) {
		sm_mover->empty(u, sm_engine.page_bytes);
		(void)sm_os_access(u, sm_engine.page_bytes, SECMALLOC_READWRITE);
		refill(s, i);
		return;
	}
	if (!s->locked)
		sm_mover->unlock(u, sm_engine.page_bytes);
	sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
	s->page[i].state = SM_PAGE_VIRGIN;
	sm_frame_back(f);
}

/* The clock's hand goes over frames; pages that are held, or pinned by the kernel, stay. */
static int
evict(const struct sm_loan *key)
{
	int e = sm_frame_forgo() ? 0 : EBUSY;

	for (size_t n = 0; n < sm_engine.frames && e && e != EIO; n++) {
		struct sm_owner o;

		sm_engine.hand = sm_engine.hand + 1 < sm_engine.frames ? sm_engine.hand + 1 : 0;
		o = sm_engine.owner[sm_engine.hand];
		if (o.span && o.span->page[o.page].holds == 0)
			e = sm_engine_close(o.span, o.page, key);
	}
	return e;
}

static int
take_frame(uint32_t *f, const struct sm_loan *key)
{
	int e = 0;

	while (e == 0 && sm_frames_free() <= SM_FRAMES_SPARE)
		e = evict(key);
	if (sm_frames_free() == 0 && e == EIO)
		return e;
	if (sm_frames_free() == 0)
		return sm_fail(ENOMEM, "all %zu pages that may be clear are held, or in use by the "
				       "kernel: raise clear_limit", sm_engine.frames);
	e = sm_frame_furnish();
	if (e == 0)
		*f = sm_frame_take();
	return e;
}

static void
note_clear(uint64_t pages)
{
	if (pages > atomic_load_explicit(&sm_engine.clear_most, memory_order_relaxed))
		atomic_store_explicit(&sm_engine.clear_most, pages, memory_order_relaxed);
}

static int
place(struct sm_span *s, size_t i, uint32_t f)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	int e = sm_engine_lock_page(s, u);

	if (e)
		return sm_fail(ENOMEM, "a page could not be locked (%d): raise RLIMIT_MEMLOCK "
				       "(LimitMEMLOCK=), or lower clear_limit", e);
	e = sm_mover->put(sm_engine.fd, u, sm_frame_at(f));
	if (e == 0)
		return 0;
	if (!s->locked)
		sm_mover->unlock(u, sm_engine.page_bytes);
	return sm_fail(ENOMEM, "moving a page failed (%d): free some memory, and do not mprotect it", e);
}

/* Before whoever waits runs on, and before a purge can look for it. */
void
sm_engine_note(struct sm_span *s, size_t i, uint32_t f)
{
	s->page[i].state = SM_PAGE_CLEAR;
	s->page[i].frame = f;
	sm_engine.owner[f].since = sm_os_now_ms();
	sm_engine.owner[f].forks = 0;
	sm_engine.owner[f].page = i;
	sm_engine.owner[f].span = s;
	note_clear(atomic_fetch_add_explicit(&sm_engine.clear, 1, memory_order_relaxed) + 1);
}

/* It did not come to that; no page was closed. */
void
sm_engine_unnote(struct sm_span *s, size_t i, uint8_t before)
{
	s->page[i].state = before;
	sm_engine.owner[s->page[i].frame].span = NULL;
	atomic_fetch_sub_explicit(&sm_engine.clear, 1, memory_order_relaxed);
}

int
sm_engine_show(struct sm_span *s, size_t i, uint32_t f)
{
	uint8_t before = s->page[i].state;
	int e;

	sm_engine_note(s, i, f);
	e = place(s, i, f);
	if (e) {
		sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
		sm_engine_unnote(s, i, before);
		sm_frame_back(f);
	} else if (sm_purge_fence()) {
		sm_engine_discard(s, i);
		e = sm_state_refuse();
	}
	return e;
}

int
sm_engine_open(struct sm_span *s, size_t i, const struct sm_loan *key)
{
	struct sm_page *p = &s->page[i];
	uint32_t f = 0;
	int e;

	if (sm_page_barred(p))
		return EFAULT;
	if (p->state == SM_PAGE_CLEAR) { /* it is there, or was thrown away */
		e = sm_mover->zero(sm_engine.fd, s->u + i * sm_engine.page_bytes);
		return e ? sm_fail(ENOMEM, "filling a page failed (%d): free some memory", e) : 0;
	}
	if (p->state == SM_PAGE_VIRGIN && sm_engine_fresh(s, i) == 0)
		return 0;
	e = p->state == SM_PAGE_LOST ? EBADMSG : take_frame(&f, key);
	if (e)
		return e;
	if (p->state == SM_PAGE_SEALED)
		e = sm_engine_unseal(s, i, f, key);
	else
		p->epoch = 0; /* nothing is in X */
	if (e == EBADMSG)
		p->state = SM_PAGE_LOST;
	if (e == 0)
		return sm_engine_show(s, i, f);
	sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
	sm_frame_back(f);
	return e;
}

int
sm_engine_carry(struct sm_span *s, size_t i, const struct sm_loan *key)
{
	const struct sm_page kept = s->page[i];
	uint32_t f;
	int e;

	if (s->page[i].state != SM_PAGE_SEALED || s->page[i].epoch == key->epoch)
		return 0;
	if (sm_frames_free() == 0)
		return sm_fail(ENOMEM, "all %zu pages that may be clear are held: raise clear_limit",
			sm_engine.frames);
	e = sm_frame_furnish();
	if (e)
		return e;
	f = sm_frame_take();
	e = sm_engine_unseal(s, i, f, key);
	if (e) {
		sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
		s->page[i] = kept;
		sm_frame_back(f);
		return e;
	}
	e = sm_engine_seal(s, i, f, key);
	if (e) /* X has a part of it now, and the frame all */
		(void)sm_engine_show(s, i, f);
	else
		sm_frame_back(f);
	return e;
}
