#include "seal/inside.h"

#include <errno.h>

enum { WALKS_MOST = 100, CANARY_BYTES = 8, LINE_BYTES = 64, FETCHED_BYTES = 1024 };
enum { TURNS = 80 }; /* none of them sleeps */

static struct sm_lock lock; /* SM_RANK_BATCH: walks with keys in hand, and which keys there are */
static _Atomic bool wanted; /* by who only tries, and would starve where others walk all the time */
static _Atomic unsigned moves; /* chunks that realloc has put elsewhere */

void
sm_hand_moved(void)
{
	atomic_fetch_add(&moves, 1);
}

void
sm_seal_orphan(void)
{
	lock = (struct sm_lock){ 0 };
}

/* ------------------------------------------------------------------- walks */

/** What is done to each chunk. */
struct task {
	enum { CLOSE, OPEN, CARRY, CARRY_MOST } what;
	struct sm_loans keys;
};

static int
do_to(struct sm_hand *h, const struct task *t)
{
	int e;

	switch (t->what) {
	case CLOSE:
		return sm_hand_set_veil(h, SM_VEIL_SEALED, &t->keys);
	case OPEN:
		return sm_hand_set_veil(h, SM_VEIL_CLEAR, &t->keys);
	case CARRY:
	case CARRY_MOST:
		break;
	}
	e = sm_hand_carry(h, &t->keys);
	return e == EBADMSG && t->what == CARRY_MOST ? 0 : e;
}

/* A walk for every chunk goes on after an error; what has nothing left to do does not. */
static bool
is_final(const struct task *t, int e)
{
	return e && (t->what >= CARRY || e == ECANCELED || e == EACCES);
}

/* Its first and last bytes will be in the cache, and their pages known, when its turn comes. */
SM_NO_TSAN static void
fetch(const struct sm_chunk *c)
{
	const unsigned char *start = sm_heap_bytes(c);
	size_t some = sm_min_size(c->size, FETCHED_BYTES);

	__builtin_prefetch(start - CANARY_BYTES, 1);
	for (size_t at = LINE_BYTES; at < some; at += LINE_BYTES)
		__builtin_prefetch(start + at, 1);
	__builtin_prefetch(start + c->size, 1);
}

static struct sm_chunk *
next_of(struct sm_walk *w)
{
	struct sm_chunk *c = sm_heap_next(w);

	if (c)
		fetch(c);
	return c;
}

static int
do_each(const struct task *t)
{
	struct sm_walk w = { 0 };
	struct sm_chunk *c = next_of(&w), *next;
	int first = 0, e = 0;

	for (; !is_final(t, e) && c; c = next) {
		struct sm_hand h = { c, NULL };

		next = next_of(&w);

		e = 0;
		sm_lock_take(&c->lock, SM_RANK_CHUNK);
		if (sm_heap_live(c)) {
			h.ptr = sm_heap_bytes(c);
			e = do_to(&h, t);
		}
		sm_hand_release(&h);
		if (first == 0 && e) {
			first = e;
			sm_error_show();
		}
	}
	if (first)
		sm_error_restore(); /* the text is the first failure's, as errno is */
	return first;
}

/* Under lock. */
static int
do_all(int what)
{
	struct task t = { .what = what };
	unsigned before, walks = 0;
	int e = sm_seal_pager ? 0 : sm_key_lend_all(&t.keys);

	if (e)
		return e;
	do {
		before = atomic_load(&moves);
		e = do_each(&t);
	} while (atomic_load(&moves) != before && ++walks < WALKS_MOST && !is_final(&t, e));
	if (!sm_seal_pager)
		sm_key_return_all(&t.keys);
	else if (what == CLOSE && e == 0)
		e = sm_seal_pager->close_all();
	return e;
}

void
sm_batch_hold(void)
{
	sm_lock_take(&lock, SM_RANK_BATCH);
}

bool
sm_batch_try(void)
{
	bool got = sm_lock_try(&lock, SM_RANK_BATCH);

	atomic_store(&wanted, !got);
	return got;
}

void
sm_batch_let_go(void)
{
	sm_lock_release(&lock, SM_RANK_BATCH);
}

/* Who takes a chunk in hand after this has been there sees that the gate is shut. */
void
sm_batch_settle(void)
{
	unsigned before;

	do {
		struct sm_walk w = { 0 };
		struct sm_chunk *c;

		before = atomic_load(&moves);
		while ((c = sm_heap_next(&w)) != NULL) {
			sm_lock_take(&c->lock, SM_RANK_CHUNK);
			sm_lock_release(&c->lock, SM_RANK_CHUNK);
		}
	} while (atomic_load(&moves) != before);
}

/* Take the lock, unless the library is not in this state. */
static int
begin(enum sm_state state)
{
	for (unsigned turn = 0;;) {
		while (atomic_load(&wanted) && turn < TURNS)
			sm_rest(&turn);
		sm_lock_take(&lock, SM_RANK_BATCH);
		if (sm_state_is(state))
			return 0;
		sm_lock_release(&lock, SM_RANK_BATCH);
		if (!sm_waiting())
			break;
		sm_gate_await();
	}
	if (state == SM_LOCKED && !sm_purged())
		return sm_fail(EINVAL, "nothing is locked: secmalloc_unlock undoes secmalloc_lock");
	return sm_state_refuse();
}

static int
end(int e)
{
	sm_lock_release(&lock, SM_RANK_BATCH);
	return e;
}

int
sm_seal_close_all(void)
{
	int e = begin(SM_UP);

	return e ? e : end(do_all(CLOSE));
}

int
sm_seal_open_all(void)
{
	int e = begin(SM_UP);

	return e ? e : end(do_all(OPEN));
}

/* ------------------------------------------------------------------- rekey */

/* Whatever cannot be carried keeps the other key alive. */
int
sm_batch_carry(bool forgiving)
{
	int e = sm_seal_pager ? sm_seal_pager->carry() : do_all(forgiving ? CARRY_MOST : CARRY);

	if (e == 0)
		sm_key_drop();
	return e;
}

static int
rekey(void)
{
	int e = sm_key_has_other() ? sm_batch_carry(false) : 0;

	if (e == 0)
		e = sm_key_renew(NULL);
	if (e)
		return e;
	e = sm_batch_carry(false);
	if (e == 0 || e == ECANCELED)
		return e;
	sm_error_show();
	sm_key_revert();
	(void)sm_batch_carry(false);
	sm_error_restore();
	return e;
}

int
sm_seal_rekey(void)
{
	int e = begin(SM_UP);

	return e ? e : end(rekey());
}

/* -------------------------------------------------------- lock and unlock */

/* First with the gate open, since this is what may fail and take time. Then nobody comes in, and
 * whoever was inside sees that the gate is shut, or is seen by the walk. */
static int
close_for_good(void)
{
	int e = do_all(CLOSE);

	if (e == 0)
		e = sm_gate_shut(SM_LOCKED);
	if (e)
		return e;
	sm_os_barrier();
	e = do_all(CLOSE);
	if (e == 0 && sm_seal_pager)
		e = sm_seal_pager->lock();
	if (e)
		(void)sm_gate_open(SM_LOCKED);
	return e;
}

int
sm_seal_lock(const void *material, size_t n)
{
	int e = begin(SM_UP);

	if (e)
		return e;
	e = sm_key_wrap(material, n);
	if (e == 0)
		e = close_for_good();
	if (e == 0)
		sm_key_forget();
	else
		sm_key_unwrapped();
	return end(e);
}

/* Who waits for pages goes on even if a purge came in between, and reads zeros. */
static int
unlock(const void *material, size_t n)
{
	int e = sm_key_unwrap(material, n);

	if (e)
		return e;
	if (sm_seal_pager)
		sm_seal_pager->unlock();
	e = sm_gate_open(SM_LOCKED);
	if (e == 0)
		sm_seal_bury();
	return e;
}

int
sm_seal_unlock(const void *material, size_t n)
{
	struct sm_chunk *c;
	int e = begin(SM_LOCKED);

	if (e)
		return e;
	if (sm_seal_pager && sm_heap_find(material, &c) != SM_FOREIGN)
		return end(sm_fail(EINVAL, "the material is in a chunk, which is locked: pass it from "
					   "elsewhere"));
	return end(unlock(material, n));
}

/* ------------------------------------------------------------------ reseal */

/* Most chunks are closed: not each of them is locked to see that. */
SM_NO_TSAN static bool
seems_open(const struct sm_chunk *c)
{
	return *(const volatile uint8_t *)&c->veil == SM_VEIL_CLEAR;
}

/* Returns: ms until this one is due. */
static unsigned
reseal(struct sm_hand *h, uint64_t now)
{
	unsigned after = sm_config()->reseal_ms;
	struct sm_chunk *c = h->c;
	uint64_t open = now > c->opened ? now - c->opened : 0;

	if (c->veil != SM_VEIL_CLEAR || c->holds)
		return after;
	if (open < after)
		return after - (unsigned)open;
	if (sm_hand_close_frozen(h) == 0)
		sm_count_add(&sm_count.reseals, 1);
	return after;
}

unsigned
sm_seal_reseal(void)
{
	unsigned next = sm_config()->reseal_ms;
	uint64_t now = sm_os_now_ms();
	struct sm_walk w = { 0 };
	struct sm_chunk *c;

	while ((c = sm_heap_next(&w)) != NULL && sm_state_is(SM_UP)) {
		struct sm_hand h = { c, NULL };

		if (!seems_open(c))
			continue;
		sm_lock_take(&c->lock, SM_RANK_CHUNK);
		if (sm_heap_live(c) && sm_state_is(SM_UP)) {
			unsigned due;

			h.ptr = sm_heap_bytes(c);
			due = reseal(&h, now);
			next = due < next ? due : next;
		}
		sm_hand_release(&h);
	}
	return next;
}
