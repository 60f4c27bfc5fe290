#include "seal/inside.h"

#include "cipher/cipher.h"

#include <errno.h>
#include <string.h>

/* -------------------------------------------------------- open and close */

static int
set_veil_of(void *ptr, enum sm_veil veil)
{
	struct sm_hand h = sm_hand_take(ptr);
	int e;

	if (!h.c)
		return sm_hand_missed(ptr);
	e = sm_hand_set_veil(&h, veil, NULL);
	if (e == 0 && veil == SM_VEIL_CLEAR)
		h.c->opened_by_hold = 0;
	sm_hand_release(&h);
	return e;
}

int
sm_seal_close(void *ptr)
{
	return set_veil_of(ptr, SM_VEIL_SEALED);
}

int
sm_seal_open(void *ptr)
{
	return set_veil_of(ptr, SM_VEIL_CLEAR);
}

int
sm_seal_hold(void *ptr)
{
	struct sm_hand h = sm_hand_take(ptr);
	bool sealed;
	int e;

	if (!h.c)
		return sm_hand_missed(ptr);
	sealed = h.c->veil == SM_VEIL_SEALED;
	if (h.c->holds == UINT16_MAX)
		e = sm_fail(EAGAIN, "the chunk is held %u times: release it as often",
			(unsigned)UINT16_MAX);
	else
		e = sm_hand_set_veil(&h, SM_VEIL_CLEAR, NULL);
	if (e == 0 && sm_seal_pager && h.c->holds == 0)
		e = sm_seal_pager->hold(h.ptr, h.c->size);
	if (e == 0) {
		if (sealed)
			h.c->opened_by_hold = 1;
		h.c->holds++;
	}
	sm_hand_release(&h);
	return e;
}

int
sm_seal_release(void *ptr)
{
	struct sm_hand h = sm_hand_take(ptr);
	int e = 0;

	if (!h.c)
		return sm_hand_missed(ptr);
	if (h.c->holds == 0) {
		e = sm_fail(EINVAL, "the chunk is not held: release it as often as it was held");
		sm_hand_release(&h);
		return e;
	}
	if (--h.c->holds == 0 && sm_seal_pager)
		sm_seal_pager->release(h.ptr, h.c->size);
	if (h.c->holds == 0 && h.c->opened_by_hold) {
		h.c->opened_by_hold = 0;
		e = sm_hand_set_veil(&h, SM_VEIL_SEALED, NULL);
		if (e == EIO && sm_seal_pager)
			e = 0; /* it is released, and its pages close in their turn */
		else if (e && h.c->veil == SM_VEIL_CLEAR)
			h.c->holds = h.c->opened_by_hold = 1;
	}
	sm_hand_release(&h);
	return e;
}

/* -------------------------------------------------------- alloc and free */

static inline struct sm_made
alloc(size_t size, size_t align, bool own_pages)
{
	if (size > SM_PACKED_MOST_BYTES && size > sm_cipher_limit())
		return (struct sm_made){ NULL, sm_fail(ENOMEM, "%zu bytes are more than the cipher "
				"can seal at once (%zu): ask for less", size, sm_cipher_limit()) };
	return sm_heap_alloc(size, align, own_pages);
}

static inline void
put_back(struct sm_hand *h)
{
	bool pinned = h->c->veil == SM_VEIL_CLEAR;

	if (!SM_LIKELY(h->c->holds == 0) && sm_seal_pager)
		sm_seal_pager->release(h->ptr, h->c->size);
	if (!pinned)
		sm_hand_forget(h);
	sm_heap_free(h->c, h->ptr, pinned);
}

/* While all is locked the pages of transparent mode can't be touched: the chunk is gone for all but
 * us, and is wiped once they can. Under its lock. */
static SM_COLD bool
doom(struct sm_hand *h)
{
	if (!sm_seal_pager || !sm_state_is(SM_LOCKED))
		return false;
	if (h->c->veil == SM_VEIL_SEALED)
		sm_hand_forget(h);
	sm_heap_doom(h->c);
	return true;
}

void
sm_seal_bury(void)
{
	struct sm_chunk *c = sm_heap_doomed(), *next;

	for (; c; c = next) {
		struct sm_hand h = { c, sm_heap_bytes(c) };

		next = c->next;
		sm_lock_take(&c->lock, SM_RANK_CHUNK);
		sm_heap_stay(c);
		sm_heap_verify(c, h.ptr);
		sm_heap_free(c, h.ptr, true);
		sm_hand_release(&h);
	}
}

/* Unlocked meanwhile: whoever did may have seen none. No lock is held. */
static SM_COLD void
bury_if_late(void)
{
	if (!sm_state_is(SM_LOCKED))
		sm_seal_bury();
}

/* The gate was shut while this one was on its way in: nobody knows its address. */
static SM_COLD struct sm_got
too_late(void *ptr)
{
	struct sm_hand h;
	unsigned turn = 0;
	bool doomed;

	for (; !sm_barred(); sm_rest(&turn)) { /* a fork, or several */
		sm_gate_await();
		if (sm_config_runs())
			return (struct sm_got){ ptr, 0 };
	}
	h = sm_hand_take(ptr);
	if (h.c) {
		doomed = doom(&h);
		if (!doomed)
			put_back(&h);
		sm_hand_release(&h);
		if (doomed)
			bury_if_late();
	}
	return (struct sm_got){ NULL, sm_state_refuse() };
}

/* Not before the chunk can be seen: whoever shuts the gate looks at the chunks afterwards. */
static inline struct sm_got
hand_out(struct sm_chunk *c)
{
	void *ptr = sm_heap_bytes(c);

	sm_hand_stamp(c);
	sm_heap_publish(c);
	atomic_signal_fence(memory_order_seq_cst); /* sm_os_barrier does the rest */
	return SM_LIKELY(sm_config_runs()) ? (struct sm_got){ ptr, 0 } : too_late(ptr);
}

struct sm_got
sm_seal_alloc(size_t size, size_t align)
{
	struct sm_made m = alloc(size, align < 16 ? 16 : align, sm_config()->isolate);

	if (!SM_LIKELY(m.c != NULL))
		return (struct sm_got){ NULL, m.e };
	return hand_out(m.c);
}

struct sm_got
sm_seal_copy(const void *from, size_t n)
{
	struct sm_made m = alloc(n + 1, 16, sm_config()->isolate);

	if (!m.c)
		return (struct sm_got){ NULL, m.e };
	memcpy(sm_heap_bytes(m.c), from, n);
	sm_wipe_traces(); /* memcpy leaves plaintext in the vector registers */
	return hand_out(m.c);
}

/* A bad pointer to free or realloc is a fault. Returns ECHILD for a parent's chunk. */
static SM_COLD int
missed_or_die(const void *ptr)
{
	if (sm_hand_missed(ptr) == ECHILD)
		return ECHILD;
	if (sm_heap_look(ptr))
		sm_die(SECMALLOC_FAULT_DOUBLE_FREE, ptr);
	sm_die(SECMALLOC_FAULT_INVALID_FREE, ptr);
}

int
sm_seal_free(void *ptr)
{
	struct sm_hand h = sm_hand_take(ptr);
	int e;

	if (!SM_LIKELY(h.c != NULL)) {
		(void)missed_or_die(ptr);
		return 0;
	}
	if (!SM_LIKELY(sm_config_runs()) && doom(&h)) {
		sm_hand_release(&h);
		bury_if_late();
		return 0;
	}
	e = sm_heap_lift(h.c);
	if (SM_LIKELY(e == 0)) {
		sm_heap_verify(h.c, h.ptr);
		put_back(&h);
	}
	sm_hand_release(&h);
	return e;
}

/* ---------------------------------------------------------------- realloc */

/* h is clear and accessible. The new chunk is too, and nobody knows it yet. */
static int
copy_elsewhere(const struct sm_hand *h, size_t size, struct sm_hand *to)
{
	bool protected = h->c->access != SECMALLOC_READWRITE;
	struct sm_made m = alloc(size, 16, protected || sm_config()->isolate);
	int e;

	if (!m.c)
		return m.e;
	*to = (struct sm_hand){ m.c, sm_heap_bytes(m.c) };
	memcpy(to->ptr, h->ptr, sm_min_size(size, h->c->size));
	sm_wipe_traces(); /* memcpy leaves plaintext in the vector registers */
	if (!protected)
		return 0;
	e = sm_heap_protect(to->c, (enum secmalloc_access)h->c->access);
	if (e == 0)
		e = sm_heap_lift(to->c);
	if (e) {
		(void)sm_heap_protect(to->c, SECMALLOC_READWRITE);
		put_back(to);
	}
	return e;
}

/* Where the bytes are afterwards is in `now`: h itself, also on error, or a copy elsewhere. */
static int
resize(struct sm_hand *h, size_t size, struct sm_hand *now)
{
	struct sm_hand to;
	int e;

	if (h->c->holds && sm_seal_pager)
		return sm_fail(EBUSY, "the chunk is held: in transparent mode release it first");
	if (sm_heap_resize(h->c, h->ptr, size, h->c->holds > 0))
		return 0;
	if (h->c->holds)
		return sm_fail(EBUSY, "the chunk is held and would have to move: release it first");
	e = copy_elsewhere(h, size, &to);
	if (e == 0)
		*now = to;
	else if (sm_heap_resize(h->c, h->ptr, size, true))
		e = 0;
	return e;
}

/* Afterwards the new place is published, or on an error is no more. */
static int
settle(struct sm_hand *h, struct sm_hand *now, int e)
{
	if (e == 0 && sm_purged())
		e = sm_state_refuse();
	if (e == 0)
		e = sm_heap_drop(now->c);
	if (e) {
		put_back(now);
		*now = *h;
		return e;
	}
	sm_heap_publish(now->c);
	sm_hand_moved(); /* and then the old one goes */
	put_back(h);
	if (sm_purged() && sm_heap_lift(now->c) == 0)
		sm_wipe(now->ptr, now->c->size);
	return 0;
}

static int
resize_clear(struct sm_hand *h, size_t size, struct sm_hand *now)
{
	int e = resize(h, size, now);

	if (now->c == h->c)
		return e;
	sm_hand_stamp(now->c);
	return settle(h, now, 0);
}

/* Opened, and closed again with the key in force, here or there. */
static int
resize_sealed(struct sm_hand *h, size_t size, struct sm_hand *now)
{
	struct sm_loan key = { 0 };
	int e = sm_seal_pager ? 0 : sm_key_lend(&key, h->c->epoch), closed;

	if (e)
		return e;
	e = sm_hand_open(h, &key);
	if (e)
		goto give_back;
	e = sm_seal_pager ? 0 : sm_key_lend_now(&key);
	if (e) /* purged, and so the bytes are gone */
		return e;
	e = resize(h, size, now);
	closed = sm_hand_close(now, &key);
	if (now->c != h->c) {
		closed = settle(h, now, closed);
		if (closed) /* it stays where it was */
			(void)sm_hand_close(h, &key);
	}
	e = e ? e : closed;
give_back:
	if (!sm_seal_pager)
		sm_key_return(&key);
	return e;
}

static int
resize_in_hand(struct sm_hand *h, size_t size, struct sm_hand *now)
{
	bool sealed = h->c->veil == SM_VEIL_SEALED;
	int e, undone = 0;

	if (sm_barred())
		return sm_state_refuse();
	e = sm_hand_lift(h);
	if (e)
		return e;
	sm_heap_verify(h->c, h->ptr);
	e = sealed ? resize_sealed(h, size, now) : resize_clear(h, size, now);
	if (now->c == h->c)
		undone = sm_heap_drop(h->c);
	return e ? e : undone;
}

int
sm_seal_realloc(void *ptr, size_t size, void **out)
{
	struct sm_hand h = sm_hand_take(ptr), now = h;
	int e;

	if (!h.c)
		return missed_or_die(ptr);
	e = resize_in_hand(&h, size, &now);
	sm_hand_release(&h);
	if (e == 0)
		*out = now.ptr;
	return e;
}

/* ------------------------------------------------------------------- ask */

int
sm_seal_protect(void *ptr, enum secmalloc_access a)
{
	struct sm_hand h = sm_hand_take(ptr);
	int e;

	if (!h.c)
		return sm_hand_missed(ptr);
	e = sm_heap_protect(h.c, a);
	sm_hand_release(&h);
	return e;
}

int
sm_seal_ask(const void *ptr, struct sm_answer *a)
{
	struct sm_hand h = sm_hand_take(ptr);

	if (!h.c)
		return sm_hand_missed(ptr);
	*a = (struct sm_answer){ h.c->size, h.c->veil == SM_VEIL_SEALED };
	sm_hand_release(&h);
	return 0;
}
