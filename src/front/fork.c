#include "front/inside.h"

#include "fault/fault.h"
#include "heap/heap.h"
#include "key/key.h"
#include "os/os.h"
#include "seal/seal.h"

#include <errno.h>
#include <unistd.h>

enum { WELCOME_MS = 2000 };

static struct sm_lock lock; /* SM_RANK_LIFE: start, stop, and the inheritance of a child */
static _Atomic pid_t owner; /* whose lock and house it is; negative: he is about to take it */
static _Atomic unsigned forks_waiting;
static SM_TLS bool mine; /* this thread is between the handlers of a fork */
static bool keeps; /* what this process was started with; under the lock */
static _Atomic int owes; /* this child could not keep what it should have, and nobody was told yet: why */

/* ------------------------------------------------------------------- lock */

static bool
is_inherited(void)
{
	const struct sm_config *c = sm_config();

	return c != &sm_config_none && c->mark == 0;
}

/* In a child by pthread_atfork, which may have its parent's number in a namespace of its own. */
static void
force_own(void)
{
	sm_locks_forget();
	lock = (struct sm_lock){ 0 };
	atomic_store(&forks_waiting, 0);
	atomic_store(&owner, getpid());
}

/* In a child, whoever held the lock is not here. One of its threads forgets it, and the others wait
 * until it has. */
static void
own_lock(void)
{
	pid_t me = getpid(), seen;
	unsigned turn = 0;

	if (mine && is_inherited())
		force_own();
	seen = atomic_load(&owner);
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

/* Nobody starts, stops or forks while the daemon has the keys. */
static void
take_open(void)
{
	for (;;) {
		sm_lock_take(&lock, SM_RANK_LIFE);
		if (is_inherited() || !sm_state_is(SM_HALTED))
			return;
		sm_lock_release(&lock, SM_RANK_LIFE);
		sm_gate_await();
	}
}

/* The lock is not fair: who starts and stops in a loop would starve another thread's fork. */
void
sm_life_take(void)
{
	unsigned turn = 0;

	own_lock();
	while (atomic_load(&forks_waiting))
		sm_rest(&turn);
	take_open();
}

bool
sm_life_try(void)
{
	return atomic_load(&forks_waiting) == 0 && sm_lock_try(&lock, SM_RANK_LIFE);
}

void
sm_life_let_go(void)
{
	sm_lock_release(&lock, SM_RANK_LIFE);
}

/* --------------------------------------------------------------- children */

/* The child's copy of what lies on wipe-on-fork pages is zero, the rest is not there: nothing of
 * it can be used. The addresses stay covered, so that no pointer of the parent ever fits. */
static void
orphan(void)
{
	sm_state_forget();
	sm_helper_forget();
	sm_daemon_forget();
	sm_os_orphan();
	if (sm_config() == &sm_config_none)
		return;
	sm_fault_orphan();
	sm_seal_pager = NULL;
	sm_seal_orphan();
	sm_heap_orphan();
	sm_key_orphan();
	sm_count_reset();
	sm_life_lose_config();
}

/* It has keys and may be welcomed only after an unlocking: it does not wait for that. */
static int
open_again(void)
{
	int e = sm_daemon_connect(sm_config()->daemon, WELCOME_MS);

	if (e == 0)
		e = sm_helper_start();
	if (e)
		goto stop_daemon;
	e = sm_daemon_start();
	if (e == 0)
		e = sm_gate_open(SM_FORKING);
	if (e == 0)
		return 0;
	sm_helper_stop();
stop_daemon:
	sm_daemon_stop();
	return e;
}

/* What was the parent's is here in copy, at the same addresses. */
static int
revive(void)
{
	const struct sm_config *kept;
	int e;

	sm_helper_forget();
	sm_daemon_forget();
	sm_os_orphan();
	sm_seal_orphan();
	atomic_store(&sm_count.locked_bytes, 0);
	kept = sm_seal_kept();
	e = kept ? sm_life_keep_config(kept) : ENOMEM;
	if (e == 0)
		e = sm_seal_revive();
	if (e == 0) {
		e = open_again();
		if (e)
			sm_seal_undo();
	}
	sm_heap_revived(e == 0);
	return e;
}

/* Only the thread that forks has packed; a clone(2) in another may come in the middle of it. */
static void
inherit(void)
{
	bool purged = sm_purged(), meant = mine && sm_seal_was_shut() && !purged;
	int e;

	sm_purge_forget();
	e = meant ? revive() : ENOMEM;
	mine = false;
	sm_seal_drop_kept();
	if (e && keeps && sm_host.unaware && !purged) /* it would touch what is not there */
		sm_die_of(meant ? sm_error_text() : "the heap could not be kept in this child",
			NULL);
	if (e)
		orphan();
	atomic_store(&owes, !meant || !e ? 0 : sm_daemon_failure() ? sm_daemon_failure() : ENOMEM);
}

void
sm_fork_before(void)
{
	sm_come();
	own_lock();
	atomic_fetch_add(&forks_waiting, 1);
	take_open();
	atomic_fetch_sub(&forks_waiting, 1);
	mine = true;
	sm_early_watch();
	sm_seal_before_fork();
	sm_go();
}

void
sm_fork_in_parent(void)
{
	sm_come();
	sm_seal_after_fork();
	sm_early_unwatch();
	mine = false;
	sm_life_let_go();
	sm_go();
}

void
sm_fork_inherit(void)
{
	int kept = errno;

	if (mine) { /* else an earlier handler has called the library already */
		force_own();
		sm_lock_take(&lock, SM_RANK_LIFE); /* the daemon's lock may come at once, and waits */
		inherit();
		sm_life_let_go();
	}
	errno = kept;
}

void
sm_fork_in_child(void)
{
	int kept = errno;

	sm_early_unwatch();
	sm_fork_inherit();
	errno = kept;
}

bool
sm_fork_is_early(void)
{
	return mine && is_inherited();
}

int
sm_fork_amid(void)
{
	if (!mine || atomic_load(&owner) != getpid())
		return 0;
	return sm_fail(EDEADLK, "this thread forks, and its chunks are on their way: call nothing here "
				"in handlers of pthread_atfork");
}

void
sm_fork_settled(bool fork_keeps)
{
	keeps = fork_keeps;
	atomic_store(&owes, 0);
}

int
sm_fork_owes(void)
{
	int e = atomic_exchange(&owes, 0);

	if (e == 0)
		return 0;
	if (e != ENOMEM)
		return sm_fail(e, "this child could not be told to the daemon (%d), and so has nothing "
				  "of its parent: see that secmallocd runs", e);
	return sm_fail(ENOMEM, "the chunks of the parent could not be kept here: raise RLIMIT_MEMLOCK "
			       "(LimitMEMLOCK=)");
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
	if (!is_inherited() && (sm_purged() || sm_state_is(SM_LOCKED) || sm_fork_amid()))
		return false;
	sm_life_take();
	if (is_inherited())
		inherit();
	runs = sm_config_runs();
	sm_life_let_go();
	return runs;
}
