/* front/inside.h - what api, life and stats share */
#ifndef SM_FRONT_INSIDE_H
#define SM_FRONT_INSIDE_H

#include "base/base.h"
#include "wire/wire.h"

#include <pthread.h>

/**
 * sm_front_resolve - check what the caller asked for and fill in the defaults
 *
 * Returns: 0; EINVAL: a field out of range; ENOTSUP: a field that waits for a later version.
 */
int sm_front_resolve(const struct secmalloc_config *asked, struct sm_config *out);

/**
 * sm_front_copy_config - the caller's struct, whatever its size, in ours
 *
 * Args: c  NULL: every default
 * Returns: 0; EINVAL: struct_size too small, or an unknown tail that is not zero.
 */
int sm_front_copy_config(const struct secmalloc_config *c, struct secmalloc_config *out);

/** sm_life_init, sm_life_term - as secmalloc_init and secmalloc_term, errno values returned */
int sm_life_init(const struct secmalloc_config *c);
void sm_life_term(void);

/** sm_life_take, sm_life_let_go - the lock of start, stop and fork */
void sm_life_take(void);
void sm_life_let_go(void);

/** sm_life_try - take it if it is free, though calls wait */
bool sm_life_try(void);

/** sm_life_keep_config - in a child: what was frozen in the parent is in force here. ENOMEM. */
int sm_life_keep_config(const struct sm_config *kept);

/** sm_life_lose_config - in a child: nothing runs */
void sm_life_lose_config(void);

/** sm_fork_before, sm_fork_in_parent, sm_fork_in_child - for pthread_atfork */
void sm_fork_before(void);
void sm_fork_in_parent(void);
void sm_fork_in_child(void);

/** sm_fork_inherit - what a child does with what was its parent's, if that is not done yet */
void sm_fork_inherit(void);

/** sm_fork_is_early - this is the child of a fork, and no handler of it has run yet */
bool sm_fork_is_early(void);

/** sm_early_watch, sm_early_unwatch - who touches a page of ours as early as that is served */
void sm_early_watch(void);
void sm_early_unwatch(void);

/** sm_fork_amid - in the thread that forks, while all wait for it: EDEADLK */
int sm_fork_amid(void);

/** sm_fork_settled - all runs, and nothing is owed any more; whether children are to keep all */
void sm_fork_settled(bool fork_keeps);

/** sm_fork_owes - once, in a child that could not keep what it should have: ENOMEM */
int sm_fork_owes(void);

/** sm_life_settle - slow half of sm_life_runs: in a forked child, take the inheritance apart */
SM_COLD bool sm_life_settle(void);

/** sm_life_start - before a first allocation: the defaults, or in a child the parent's config */
SM_COLD int sm_life_start(void);

/** sm_life_runs - started, and not a forked child's leftover; nor locked nor purged */
static inline bool
sm_life_runs(void)
{
	const struct sm_config *c = atomic_load_explicit(&sm_config_up, memory_order_acquire);

	return SM_LIKELY(c->mark == SM_MARK) || sm_life_settle();
}

/** sm_life_stands - the same, be it locked or purged */
static inline bool
sm_life_stands(void)
{
	return sm_life_runs() || sm_purged() || sm_state_is(SM_LOCKED) ||
		sm_state_is(SM_HALTED); /* by now: it waits further down */
}

/** sm_helper_start - the thread that reseals, where the config asks for it. EAGAIN: no thread. */
int sm_helper_start(void);

/** sm_helper_stop - it has ended */
void sm_helper_stop(void);

/** sm_helper_forget - in a forked child: it is not here */
void sm_helper_forget(void);

/** sm_helper_chores - what it would do, by whoever calls the library, if it is time */
void sm_helper_chores(void);

/** sm_helper_create - a thread of ours: a small stack, no signal. pthread_create(3)'s errno value. */
int sm_helper_create(pthread_t *thread, void *(*body)(void *));

/** sm_stats_tally - what the daemon is told of this program; its state is left to the caller */
void sm_stats_tally(struct sm_wire_tally *t);

/* ------------------------------------------------------------------ daemon */

/**
 * sm_daemon_connect - say hello, and wait until it says welcome: while all is locked, until unlock
 *
 * Args:    path  NULL: none is wanted
 *          ms    wait no longer; 0: as long as it takes
 * Returns: 0, also where this program is on its own by now; ENOENT, ECONNREFUSED: nobody listens;
 *          EACCES: another user's; EPROTO, ECONNRESET, ETIMEDOUT and others.
 */
int sm_daemon_connect(const char *path, unsigned ms);

/** The descriptors that lead there, and a pipe by which its thread is told to end. */
enum sm_end {
	SM_END_SOCKET,
	SM_END_LIFELINE,
	SM_END_LIFELINE_TOO,
	SM_END_BELL,
	SM_END_ROPE,
	SM_ENDS
};

/** sm_end_of - one of them; -1: it is not here. sm_end_take - out of the program's way, and kept. */
int sm_end_of(int which);
void sm_end_take(int which, int fd);

/** sm_end_hang_up, sm_end_close_all - those to the daemon; and the pipe */
void sm_end_hang_up(void);
void sm_end_close_all(void);

/** sm_end_alone - hang up: from now on this program, and its children, are on their own */
void sm_end_alone(void);

/** sm_end_policy - enum sm_wire_policy, as it came with the welcome */
unsigned sm_end_policy(void);

/** sm_end_connected - there was a welcome */
bool sm_end_connected(void);

/** sm_daemon_start - if there is one, do what it says from now on; all but the gate is up. EAGAIN: no
 * thread; EBUSY: the program uses the signal. */
int sm_daemon_start(void);

/** sm_daemon_stop - and no more; also after a failed start */
void sm_daemon_stop(void);

/** sm_daemon_forget - in a forked child: it has not said hello, and descriptors are the parent's */
void sm_daemon_forget(void);

/** sm_daemon_renew - who was left on its own is not any more */
void sm_daemon_renew(void);

/** sm_daemon_failure - what the last sm_daemon_connect returned */
int sm_daemon_failure(void);

/** sm_daemon_ends - it is being stopped: whoever waits for a lock gives up */
bool sm_daemon_ends(void);

/** sm_daemon_purge - async-signal-safe, inside a purge */
void sm_daemon_purge(void);

struct sm_parcel;
/**
 * sm_halt_begin - all threads wait, every chunk is closed, the keys are in the parcel and nowhere else
 *
 * Args:    ms     for threads to come to rest
 *          given  false: there are none to give, as all was locked by the program, or purged
 * Returns: 0; ETIMEDOUT: some thread could not be stopped; EBUSY, ENOMEM: then all goes on as before;
 *          EBADMSG: some chunk could not be opened again.
 */
int sm_halt_begin(unsigned ms, struct sm_parcel *p, bool *given);

/** sm_halt_end - undo that. As sm_seal_get_back, and then nothing goes on. */
int sm_halt_end(const struct sm_parcel *p);

/** sm_park_start - threads can be stopped from now on, by a signal where pages do not do it. EBUSY,
 * ENOTSUP. */
int sm_park_start(void);
void sm_park_stop(void);
/** sm_park_forget - in a forked child */
void sm_park_forget(void);

/** sm_park_needed - who touches a closed page is not stopped by that */
bool sm_park_needed(void);

/** sm_park_shut, sm_park_open - who comes waits, or need not any more; the second is
 * async-signal-safe */
void sm_park_shut(void);
void sm_park_open(void);

/** sm_park_all - every thread of the program waits. ETIMEDOUT, or as sm_os_threads. */
int sm_park_all(uint64_t deadline_ms);

/** sm_stats_fill - as secmalloc_stats, an errno value returned */
int sm_stats_fill(struct secmalloc_stats *s);

/** sm_life_granted - protection bits that hold */
unsigned sm_life_granted(void);

#endif
