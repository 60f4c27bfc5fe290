#include "seal/inside.h"

#include <errno.h>

/* At the word of the daemon: keys and open chunks go, and come back as they were. */

enum what { HALT, RESUME, WIPE };

int
sm_seal_shut(enum sm_state *former)
{
	int e = 0;

	if (!sm_batch_try())
		return EAGAIN;
	*former = sm_state_is(SM_LOCKED) ? SM_LOCKED : SM_UP;
	if (sm_purged())
		e = sm_state_refuse();
	else if (*former == SM_LOCKED)
		e = sm_state_change(SM_LOCKED, SM_HALTED);
	else
		e = sm_gate_shut(SM_HALTED);
	sm_batch_let_go();
	if (e == 0)
		sm_os_barrier();
	return e;
}

int
sm_seal_reopen(enum sm_state former)
{
	if (former == SM_UP || sm_purged())
		return sm_gate_open(SM_HALTED);
	return sm_state_change(SM_HALTED, former);
}

static void
wipe(struct sm_hand *h)
{
	sm_wipe(h->ptr, h->c->size);
	sm_hand_forget(h);
	h->c->halted = 0;
	(void)sm_heap_drop(h->c);
}

static int
do_to(struct sm_hand *h, enum what what, const struct sm_loans *keys)
{
	if (what == HALT)
		return h->c->veil == SM_VEIL_CLEAR ? sm_hand_halt(h, &keys->now) : 0;
	if (!h->c->halted)
		return 0;
	if (what == RESUME)
		return sm_hand_resume(h, sm_hand_key(keys, h->c->epoch));
	wipe(h);
	return 0;
}

static int
do_each(enum what what, const struct sm_loans *keys)
{
	struct sm_walk w = { 0 };
	struct sm_chunk *c;
	int e = 0;

	while (e == 0 && (c = sm_heap_next(&w)) != NULL) {
		struct sm_hand h = { c, NULL };

		sm_lock_take(&c->lock, SM_RANK_CHUNK);
		if (sm_heap_live(c)) {
			h.ptr = sm_heap_bytes(c);
			e = do_to(&h, what, keys);
		}
		sm_hand_release(&h);
	}
	return e;
}

static int
with_keys(enum what what)
{
	struct sm_loans keys;
	int e = sm_key_lend_all(&keys);

	if (e)
		return e;
	e = do_each(what, &keys);
	if (e && what == HALT && do_each(RESUME, &keys))
		e = EBADMSG;
	sm_key_return_all(&keys);
	return e;
}

int
sm_seal_give(struct sm_parcel *p)
{
	int e;

	sm_batch_hold();
	e = sm_seal_pager ? sm_seal_pager->halt() : with_keys(HALT);
	if (e == 0) {
		sm_key_pack(p);
		sm_key_forget();
	}
	sm_batch_let_go();
	if (e == 0 && sm_purged()) { /* the key may have been gone already */
		sm_wipe(p, sizeof(*p));
		e = sm_state_refuse();
	}
	return e;
}

int
sm_seal_get_back(const struct sm_parcel *p)
{
	int e;

	sm_batch_hold();
	e = sm_key_restore(p);
	if (e == 0)
		e = sm_seal_pager ? sm_seal_pager->unhalt() : with_keys(RESUME);
	sm_batch_let_go();
	return e;
}

void
sm_seal_give_up(void)
{
	if (sm_seal_pager)
		sm_seal_pager->unlock();
	else
		(void)do_each(WIPE, NULL);
}
