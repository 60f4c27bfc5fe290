#include "front/inside.h"

#include "cipher/cipher.h"
#include "heap/heap.h"
#include "key/key.h"
#include "os/os.h"
#include "seal/seal.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

static struct sm_lock lock; /* SM_RANK_LIFE: start, stop, and the inheritance of a child */
static struct secmalloc_config asked = SECMALLOC_CONFIG_INIT; /* for a child's start */
static bool undumpable;
static struct sm_area config_area; /* kept from start to start */
static bool handlers_registered;
static _Atomic pid_t owner; /* whose lock and house it is; negative: he is about to take it */
static _Atomic unsigned forks_waiting;

/* In a child, whoever held the lock is not here. One of its threads forgets it, and the others wait
 * until it has. */
static void
own_lock(void)
{
	pid_t me = getpid(), seen = atomic_load(&owner);
	unsigned turn = 0;

	while (seen != me) {
		if (seen == -me)
			sm_rest(&turn);
		else if (atomic_compare_exchange_strong(&owner, &seen, -me)) {
			sm_locks_forget();
			lock = (struct sm_lock){ 0 };
			atomic_store(&forks_waiting, 0);
			atomic_store(&owner, me);
		}
		seen = atomic_load(&owner);
	}
}

/* The lock is not fair: who starts and stops in a loop would starve another thread's fork. */
static void
take_life(void)
{
	unsigned turn = 0;

	own_lock();
	while (atomic_load(&forks_waiting))
		sm_rest(&turn);
	sm_lock_take(&lock, SM_RANK_LIFE);
}

unsigned
sm_life_granted(void)
{
	unsigned bits = sm_heap_granted() & sm_key_granted();

	return undumpable ? bits | SECMALLOC_UNTRACEABLE : bits;
}

/* ------------------------------------------------------ the staircase up */

/* The library aborts when the kernel's generator fails inside sodium_init: so it is asked first. */
static int
start_sodium(void)
{
	unsigned char probe[16];
	int e = sm_os_random(probe, sizeof(probe));

	if (e)
		return e;
	if (sodium_init() < 0)
		return sm_fail(ENOTSUP, "libsodium could not be initialised: reinstall it");
	return 0;
}

static int
start_undumpable(const struct sm_config *c)
{
	int e = 0;

	if (c->require & SECMALLOC_UNTRACEABLE)
		e = sm_os_undumpable();
	if (e == 0)
		undumpable = c->require & SECMALLOC_UNTRACEABLE;
	return e;
}

/* A page of its own: absent from dumps, zero in a forked child, read-only once filled. It is kept
 * for the next start, since another thread may be looking at it. */
static int
config_page(const struct sm_config *wanted, struct sm_config **out)
{
	struct sm_wish wish = { .require = SECMALLOC_FORKSAFE,
		.without = SECMALLOC_HIDDEN | SECMALLOC_LOCKED, .mark = true };
	struct sm_area *area = &config_area;
	void *at;
	int e;

	if (area->base) {
		*out = (struct sm_config *)(void *)area->base;
		return sm_os_access(area->base, area->bytes, SECMALLOC_READWRITE);
	}
	e = sm_os_reserve(wanted->page_bytes, &at);
	if (e)
		return e;
	e = sm_os_obtain(at, wanted->page_bytes, &wish, area);
	if (e)
		sm_os_unreserve(at, wanted->page_bytes);
	*out = at;
	return e;
}

static int
start_config(const struct sm_config *wanted, struct sm_config **out)
{
	int e = config_page(wanted, out);

	if (e)
		return e;
	memcpy(*out, wanted, sizeof(*wanted));
	(*out)->mark = wanted->reseal_ms && wanted->no_thread ? SM_MARK_CHORES : SM_MARK;
	e = sm_os_random(&(*out)->canary, sizeof((*out)->canary));
	if (e == 0)
		atomic_store_explicit(&sm_config_now, *out, memory_order_release);
	return e;
}

static void
stop_config(void)
{
	atomic_store_explicit(&sm_config_up, &sm_config_none, memory_order_release);
	atomic_store_explicit(&sm_config_now, &sm_config_none, memory_order_release);
}

static int
climb(const struct sm_config *wanted)
{
	struct sm_config *c;
	int e;

	sm_count_reset();
	e = start_sodium();
	if (e)
		return e;
	e = start_config(wanted, &c);
	if (e)
		return e;
	e = sm_cipher_start(c->cipher);
	if (e)
		goto stop_config;
	e = sm_key_start();
	if (e)
		goto stop_config;
	e = sm_heap_start(c);
	if (e)
		goto stop_key;
	sm_config_check(c);
	e = sm_os_freeze(c, c->page_bytes);
	if (e)
		goto stop_heap;
	e = start_undumpable(c);
	if (e)
		goto stop_heap;
	e = sm_helper_start();
	if (e)
		goto stop_heap;
	e = sm_gate_open(SM_STARTING);
	if (e)
		goto stop_helper;
	atomic_store_explicit(&sm_count.live_at_term, 0, memory_order_relaxed);
	return 0;
stop_helper:
	sm_helper_stop();
stop_heap:
	sm_heap_stop();
stop_key:
	sm_key_stop();
stop_config:
	stop_config();
	return e;
}

static int
start(const struct sm_config *wanted)
{
	int e = sm_state_change(SM_DOWN, SM_STARTING);

	if (e == 0)
		e = climb(wanted);
	if (e)
		atomic_store(&sm_state, SM_DOWN);
	return e;
}

/* --------------------------------------------------------------- fork */

/* The child's copy of what lies on wipe-on-fork pages is zero, the rest is not there: nothing of
 * it can be used. The addresses stay covered, so that no pointer of the parent ever fits. */
static void
orphan(void)
{
	sm_state_forget();
	sm_helper_forget();
	sm_os_orphan();
	if (sm_config() == &sm_config_none)
		return;
	sm_seal_orphan();
	sm_heap_orphan();
	sm_key_orphan();
	sm_count_reset();
	undumpable = false;
	config_area = (struct sm_area){ 0 }; /* a thread may still read it: it stays zero */
	stop_config();
}

static void
before_fork(void)
{
	own_lock();
	atomic_fetch_add(&forks_waiting, 1);
	sm_lock_take(&lock, SM_RANK_LIFE);
	atomic_fetch_sub(&forks_waiting, 1);
}

static void
after_fork_in_parent(void)
{
	sm_lock_release(&lock, SM_RANK_LIFE);
}

static void
after_fork_in_child(void)
{
	int kept = errno;

	if (atomic_load(&owner) == getpid())
		return; /* an earlier handler has started the library already */
	own_lock();
	orphan();
	errno = kept;
}

static bool
is_inherited(void)
{
	const struct sm_config *c = sm_config();

	return c != &sm_config_none && c->mark == 0;
}

bool
sm_life_settle(void)
{
	bool runs;

	if (sm_config() == &sm_config_none)
		return false;
	if (sm_config_runs()) {
		sm_helper_chores();
		return sm_config_runs();
	}
	if (!is_inherited() && (sm_purged() || sm_state_is(SM_LOCKED)))
		return false;
	take_life();
	if (is_inherited())
		orphan();
	runs = sm_config_runs();
	sm_lock_release(&lock, SM_RANK_LIFE);
	return runs;
}

/* ---------------------------------------------------------- start and stop */

static int
register_handlers(void)
{
	int e;

	if (handlers_registered)
		return 0;
	e = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
	if (e)
		return sm_fail(ENOMEM, "pthread_atfork failed: free some memory");
	handlers_registered = true;
	return 0;
}

/* Under the lock, and not running. */
static int
init(const struct secmalloc_config *c)
{
	struct secmalloc_config copy;
	struct sm_config wanted = { 0 };
	int e = sm_front_copy_config(c, &copy);

	if (e == 0)
		e = sm_front_resolve(&copy, &wanted);
	if (e == 0)
		e = register_handlers();
	if (e == 0)
		e = start(&wanted);
	if (e == 0)
		asked = copy;
	return e;
}

int
sm_life_init(const struct secmalloc_config *c)
{
	int e, state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	(void)sm_life_runs();
	take_life();
	if (atomic_load(&sm_state) != SM_DOWN)
		e = sm_fail(EALREADY, "secmalloc runs already: call secmalloc_init before the "
				      "first allocation, and once");
	else
		e = init(c);
	sm_lock_release(&lock, SM_RANK_LIFE);
	pthread_setcancelstate(state, NULL);
	return e;
}

int
sm_life_start(void)
{
	int e = 0, state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	take_life();
	if (sm_purged() || sm_state_is(SM_LOCKED))
		e = sm_state_refuse();
	else if (!sm_config_runs())
		e = init(&asked);
	sm_lock_release(&lock, SM_RANK_LIFE);
	pthread_setcancelstate(state, NULL);
	return e;
}

void
sm_life_term(void)
{
	struct sm_tally t;

	if (!sm_life_stands())
		return;
	take_life();
	sm_helper_stop();
	atomic_store(&sm_config_up, &sm_config_none);
	sm_heap_tally(&t);
	atomic_store_explicit(&sm_count.live_at_term, t.chunks, memory_order_relaxed);
	sm_heap_stop();
	sm_key_stop();
	stop_config();
	atomic_store(&sm_state, SM_DOWN);
	sm_count_reset();
	undumpable = false;
	asked = (struct secmalloc_config)SECMALLOC_CONFIG_INIT;
	sm_lock_release(&lock, SM_RANK_LIFE);
}
