#include "front/inside.h"

#include "cipher/cipher.h"
#include "heap/heap.h"
#include "key/key.h"
#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

static struct sm_lock lock; /* SM_RANK_LIFE: start, stop, and the inheritance of a child */
static struct secmalloc_config asked = SECMALLOC_CONFIG_INIT; /* for a child's start */
static bool undumpable;
static bool handlers_registered;
static pid_t starter; /* whose house it is */
static _Atomic unsigned forks_waiting;

/* The lock is not fair: who starts and stops in a loop would starve another thread's fork. */
static void
take_life(void)
{
	while (atomic_load(&forks_waiting))
		sched_yield();
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

/* A page of its own: absent from dumps, zero in a forked child, read-only once filled. */
static int
start_config(const struct sm_config *wanted, struct sm_config **out)
{
	struct sm_wish wish = { wanted->require & SECMALLOC_FORKSAFE,
		wanted->without | SECMALLOC_HIDDEN | SECMALLOC_LOCKED };
	struct sm_area area;
	void *at;
	int e = sm_os_reserve(wanted->page_bytes, &at);

	if (e)
		return e;
	e = sm_os_obtain(at, wanted->page_bytes, &wish, &area);
	if (e) {
		sm_os_unreserve(at, wanted->page_bytes);
		return e;
	}
	*out = at;
	memcpy(*out, wanted, sizeof(*wanted));
	e = sm_os_random(&(*out)->canary, sizeof((*out)->canary));
	if (e)
		sm_os_unreserve(at, wanted->page_bytes);
	else
		atomic_store_explicit(&sm_config_now, *out, memory_order_release);
	return e;
}

static void
stop_config(void)
{
	const struct sm_config *c = sm_config();
	size_t bytes = c->page_bytes;

	atomic_store_explicit(&sm_config_now, &sm_config_none, memory_order_release);
	if (c != &sm_config_none)
		sm_os_unreserve((void *)(uintptr_t)c, bytes);
}

static int
start(const struct sm_config *wanted)
{
	struct sm_config *c;
	int e;

	sm_count_reset();
	starter = getpid();
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
	e = start_undumpable(c);
	if (e)
		goto stop_heap;
	sm_config_check(c);
	atomic_store_explicit(&c->mark, 1, memory_order_release);
	e = sm_os_freeze(c, c->page_bytes);
	if (e)
		goto stop_heap;
	atomic_store_explicit(&sm_count.live_at_term, 0, memory_order_relaxed);
	return 0;
stop_heap:
	sm_heap_stop();
stop_key:
	sm_key_stop();
stop_config:
	stop_config();
	return e;
}

/* --------------------------------------------------------------- fork */

/* The child's copy of what lies on wipe-on-fork pages is zero, the rest is not there: nothing of
 * it can be used. The addresses stay covered, so that no pointer of the parent ever fits. */
static void
orphan(void)
{
	if (sm_config() == &sm_config_none)
		return;
	sm_heap_orphan();
	sm_key_orphan();
	sm_count_reset();
	undumpable = false;
	atomic_store_explicit(&sm_config_now, &sm_config_none, memory_order_release);
}

static void
before_fork(void)
{
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
	sm_locks_forget();
	lock = (struct sm_lock){ 0 };
	atomic_store(&forks_waiting, 0);
	orphan();
}

bool
sm_life_settle(void)
{
	const struct sm_config *c = sm_config();
	bool runs;

	if (c == &sm_config_none)
		return false;
	if (getpid() != starter) { /* a child without handlers: whoever held these is not here */
		lock = (struct sm_lock){ 0 };
		atomic_store(&forks_waiting, 0);
	}
	take_life();
	c = sm_config();
	runs = sm_config_runs(c);
	if (!runs)
		orphan();
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
	int e;

	(void)sm_life_runs();
	take_life();
	if (sm_config_runs(sm_config()))
		e = sm_fail(EALREADY, "secmalloc runs already: call secmalloc_init before the "
				      "first allocation, and once");
	else
		e = init(c);
	sm_lock_release(&lock, SM_RANK_LIFE);
	return e;
}

int
sm_life_start(void)
{
	int e = 0;

	take_life();
	if (!sm_config_runs(sm_config()))
		e = init(&asked);
	sm_lock_release(&lock, SM_RANK_LIFE);
	return e;
}

void
sm_life_term(void)
{
	if (!sm_life_runs())
		return;
	take_life();
	atomic_store_explicit(&sm_count.live_at_term, sm_count_get(&sm_count.chunks),
		memory_order_relaxed);
	sm_heap_stop();
	sm_key_stop();
	stop_config();
	sm_count_reset();
	undumpable = false;
	asked = (struct secmalloc_config)SECMALLOC_CONFIG_INIT;
	sm_lock_release(&lock, SM_RANK_LIFE);
}
