#include "key/inside.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

struct sm_keys sm_keys;

static SM_TLS unsigned my_slot; /* counted from 1; 0: none yet */

/* ------------------------------------------------------------ start and stop */

static void
lay_out(void)
{
	unsigned char *right = sm_keys.page[1].base;
	size_t n = sm_keys.prekey_bytes;

	sm_keys.left = (struct sm_left *)(void *)sm_keys.page[0].base;
	sm_keys.right.half = right;
	sm_keys.right.next = right + n;
	sm_keys.right.mask = (unsigned char (*)[SM_KEY_BYTES])(void *)(right + 2 * n);
	sm_keys.right.whole = sm_keys.right.mask + 2;
	sm_keys.slots = (struct sm_slots *)(void *)sm_keys.page[2].base;
	for (size_t i = 0; i < SM_KEY_PAGES; i++)
		atomic_store(&sm_keys.shown[i], sm_keys.page[i].base);
}

static int
obtain_pages(void)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require,
		.without = c->without & ~SECMALLOC_FORKSAFE };
	size_t page = c->page_bytes, right = 2 * c->prekey_bytes + 4 * SM_KEY_BYTES;
	const size_t bytes[SM_KEY_PAGES] = { page, sm_round_up(right, page), page };
	unsigned char *at;
	int e;

	sm_keys.prekey_bytes = c->prekey_bytes;
	sm_keys.reserved_bytes = 2 * SM_KEY_PAGES * page + bytes[1];
	e = sm_os_reserve(sm_keys.reserved_bytes, &sm_keys.reserved);
	if (e)
		return e;
	at = sm_keys.reserved;
	sm_keys.granted = ~0u;
	for (size_t i = 0; i < SM_KEY_PAGES; i++) {
		at += page;
		e = sm_os_obtain(at, bytes[i], &wish, &sm_keys.page[i]);
		if (e)
			return e;
		at += bytes[i];
		sm_keys.granted &= sm_keys.page[i].granted;
	}
	lay_out();
	return 0;
}

static int
first_key(void)
{
	int e = sm_os_random(sm_keys.right.half, sm_keys.prekey_bytes);

	if (e == 0)
		e = sm_key_draw(0, NULL);
	if (e)
		return e;
	if (sm_config()->key_resident) {
		sm_cipher_learn(sm_keys.slots->shared[1].state);
		sm_key_expand(&sm_keys.slots->shared[0], 0);
		sm_wipe_traces();
	}
	atomic_store(&sm_keys.epoch[0], ++sm_keys.last);
	atomic_store(&sm_keys.epoch[1], 0);
	atomic_store(&sm_keys.now, 0);
	atomic_store(&sm_keys.forgotten, false);
	sm_keys.split_ms = sm_os_now_ms();
	return sm_purged() ? sm_state_refuse() : 0;
}

int
sm_key_start(void)
{
	int e = obtain_pages();

	if (e == 0)
		e = first_key();
	if (e)
		sm_key_stop();
	return e;
}

int
sm_key_unpack(const struct sm_parcel *p)
{
	int e = obtain_pages();

	if (e == 0) {
		for (unsigned i = 0; i < 2; i++)
			atomic_store(&sm_keys.epoch[i], p->epoch[i]);
		atomic_store(&sm_keys.now, p->now);
		atomic_store(&sm_keys.forgotten, false);
		e = sm_key_install(p->whole);
	}
	if (e)
		sm_key_stop();
	return e;
}

void
sm_key_stop(void)
{
	for (size_t i = 0; i < SM_KEY_PAGES; i++)
		atomic_store(&sm_keys.shown[i], NULL);
	sm_purge_await();
	for (size_t i = 0; i < SM_KEY_PAGES; i++) {
		if (sm_keys.page[i].base)
			sm_wipe(sm_keys.page[i].base, sm_keys.page[i].bytes);
		sm_os_release(&sm_keys.page[i]);
	}
	sm_os_unreserve(sm_keys.reserved, sm_keys.reserved_bytes);
	sm_keys.reserved = NULL;
	sm_keys.reserved_bytes = 0;
	sm_keys.left = NULL;
	sm_keys.right = (struct sm_right){ 0 };
	sm_keys.slots = NULL;
	sm_keys.granted = 0;
}

void
sm_key_orphan(void)
{
	for (size_t i = 0; i < SM_KEY_PAGES; i++) {
		struct sm_area *a = &sm_keys.page[i];

		if (a->base)
			sm_os_cover(a->base, a->bytes, a->absent);
		*a = (struct sm_area){ 0 };
	}
	sm_keys.reserved = NULL; /* a few pages of address space, left covered */
	sm_keys.lock = (struct sm_lock){ 0 };
	for (size_t i = 0; i < SM_SLOTS; i++)
		sm_keys.slot_lock[i] = (struct sm_lock){ 0 };
	sm_key_stop();
}

unsigned
sm_key_granted(void)
{
	return sm_keys.granted;
}

/* The sizes are those of the last start, whose pages these are. */
SM_NO_TSAN void
sm_key_purge(void)
{
	for (size_t i = 0; i < SM_KEY_PAGES; i++) {
		unsigned char *base = atomic_load(&sm_keys.shown[i]);

		if (base)
			sm_purge_wipe(base, sm_keys.page[i].bytes);
	}
}

/* ------------------------------------------------------------------- loans */

/* Threads spread over the slots, so that they seldom wait for one another. */
static unsigned
slot_of_thread(void)
{
	static _Atomic unsigned threads;

	if (my_slot == 0)
		my_slot = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) % SM_SLOTS +
			1;
	return my_slot - 1;
}

static inline unsigned
index_of(uint32_t epoch)
{
	unsigned now = atomic_load_explicit(&sm_keys.now, memory_order_acquire);

	if (epoch && epoch == atomic_load_explicit(&sm_keys.epoch[!now], memory_order_relaxed))
		return !now;
	return now;
}

/* Who asks after it has stored: see sm_key_purge and sm_key_forget. */
static inline bool
is_gone(void)
{
	return atomic_load_explicit(&sm_keys.forgotten, memory_order_acquire) || sm_purged();
}

static SM_COLD int
give_up(struct sm_loan *l)
{
	sm_key_return(l);
	sm_wipe_traces();
	return sm_state_refuse();
}

/* Under a slot's lock: a key that is dropped meanwhile is not this one, as a chunk needs it. */
static inline void
make_whole(struct sm_loan *l, uint32_t epoch)
{
	struct sm_key_slot *s = &sm_keys.slots->lent[l->slot];
	uint64_t now = sm_os_now_ms();
	unsigned index;

	sm_lock_take(&sm_keys.lock, SM_RANK_KEY);
	index = index_of(epoch);
	if (now > sm_keys.split_ms && now - sm_keys.split_ms >= sm_config()->resplit_ms)
		sm_key_split(now);
	sm_key_expand(s, index);
	l->epoch = atomic_load_explicit(&sm_keys.epoch[index], memory_order_relaxed);
	sm_lock_release(&sm_keys.lock, SM_RANK_KEY);
	l->state = s->state;
}

int
sm_key_lend(struct sm_loan *l, uint32_t epoch)
{
	unsigned index;

	if (sm_config()->key_resident) { /* no slot, and so no lock: see sm_key_forget */
		index = index_of(epoch);
		l->slot = SM_SLOTS;
		l->traces = SM_TRACES_OWN;
		l->epoch = atomic_load_explicit(&sm_keys.epoch[index], memory_order_relaxed);
		l->state = sm_keys.slots->shared[index].state;
	} else {
		l->slot = slot_of_thread();
		l->traces = SM_TRACES_LENT;
		sm_lock_take(&sm_keys.slot_lock[l->slot], SM_RANK_KEY_SLOT);
		make_whole(l, epoch);
	}
	return SM_LIKELY(!is_gone()) ? 0 : give_up(l);
}

void
sm_key_return(struct sm_loan *l)
{
	l->state = NULL;
	if (l->slot == SM_SLOTS)
		return;
	sm_wipe(&sm_keys.slots->lent[l->slot], sizeof(struct sm_key_slot));
	sm_lock_release(&sm_keys.slot_lock[l->slot], SM_RANK_KEY_SLOT);
}

int
sm_key_lend_now(struct sm_loan *l)
{
	unsigned now = atomic_load_explicit(&sm_keys.now, memory_order_acquire);

	if (l->epoch == atomic_load_explicit(&sm_keys.epoch[now], memory_order_relaxed))
		return 0;
	sm_key_return(l);
	return sm_key_lend(l, 0);
}

bool
sm_key_in_force(const struct sm_loan *l)
{
	unsigned now = atomic_load(&sm_keys.now);

	return l->epoch == atomic_load(&sm_keys.epoch[now]);
}

/* ------------------------------------------------------------------ batches */

static struct sm_loan
shared_loan(unsigned index)
{
	uint32_t epoch = atomic_load(&sm_keys.epoch[index]);

	if (epoch == 0)
		return (struct sm_loan){ NULL, 0, SM_SLOTS, SM_TRACES_STAY };
	if (!sm_config()->key_resident)
		sm_key_expand(&sm_keys.slots->shared[index], index);
	return (struct sm_loan){ sm_keys.slots->shared[index].state, epoch, SM_SLOTS,
		SM_TRACES_STAY };
}

int
sm_key_lend_all(struct sm_loans *l)
{
	unsigned now;

	sm_lock_take(&sm_keys.lock, SM_RANK_KEY);
	now = atomic_load(&sm_keys.now);
	l->now = shared_loan(now);
	l->other = shared_loan(!now);
	sm_lock_release(&sm_keys.lock, SM_RANK_KEY);
	sm_wipe_traces();
	if (!is_gone())
		return 0;
	sm_key_return_all(l);
	return sm_state_refuse();
}

void
sm_key_return_all(struct sm_loans *l)
{
	if (!sm_config()->key_resident)
		sm_wipe(sm_keys.slots->shared, sizeof(sm_keys.slots->shared));
	*l = (struct sm_loans){ { 0 }, { 0 } };
	sm_wipe_traces_of(SM_WALK_TRACE_BYTES);
}

int
sm_key_lend_beside(struct sm_loan *l, uint32_t epoch)
{
	int e;

	sm_lock_take(&sm_keys.lock, SM_RANK_KEY);
	*l = shared_loan(index_of(epoch));
	sm_lock_release(&sm_keys.lock, SM_RANK_KEY);
	if (!is_gone() && l->epoch == epoch)
		return 0;
	e = is_gone() ? sm_state_refuse() : EINVAL;
	sm_key_return_beside(l);
	sm_wipe_traces();
	return e;
}

void
sm_key_return_beside(struct sm_loan *l)
{
	if (l->state && !sm_config()->key_resident)
		sm_wipe((void *)(uintptr_t)l->state, sizeof(struct sm_key_slot));
	l->state = NULL;
}

uint64_t
sm_key_nonce(void)
{
	return atomic_fetch_add_explicit(&sm_keys.nonce, 1, memory_order_relaxed);
}

unsigned
sm_key_tick(void)
{
	unsigned every = sm_config()->resplit_ms;
	uint64_t now = sm_os_now_ms(), since;

	sm_lock_take(&sm_keys.lock, SM_RANK_KEY);
	since = now > sm_keys.split_ms ? now - sm_keys.split_ms : 0;
	if (since >= every && !is_gone()) {
		sm_key_split(now);
		since = 0;
	}
	sm_lock_release(&sm_keys.lock, SM_RANK_KEY);
	return since < every ? every - (unsigned)since : every;
}
