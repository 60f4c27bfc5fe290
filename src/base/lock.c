#include "base/base.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

enum { SPINS = 64, YIELDS = 16, SLEEP_DOUBLINGS = 16 };
static const long SLEEP_FIRST_NS = 20000, SLEEP_MOST_NS = 1000000;

static inline void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/* Sleeping last: under a real-time policy a yield never lets a lower-priority holder run. And
 * nanosleep is a cancellation point, where a waiter must not end. */
void
sm_rest(unsigned *turn)
{
	struct timespec t = { 0, SLEEP_FIRST_NS };
	int state;

	if (*turn < SPINS) {
		relax();
	} else if (*turn < SPINS + YIELDS) {
		sched_yield();
	} else {
		for (unsigned i = SPINS + YIELDS; i < *turn && t.tv_nsec < SLEEP_MOST_NS; i++)
			t.tv_nsec *= 2;
		if (t.tv_nsec > SLEEP_MOST_NS)
			t.tv_nsec = SLEEP_MOST_NS;
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
		nanosleep(&t, NULL);
		pthread_setcancelstate(state, NULL);
	}
	if (*turn < SPINS + YIELDS + SLEEP_DOUBLINGS)
		++*turn;
}

void
sm_lock_wait(struct sm_lock *l)
{
	unsigned turn = 0;

	do {
		while (atomic_load_explicit(&l->word, memory_order_relaxed) != 0)
			sm_rest(&turn);
	} while (atomic_exchange_explicit(&l->word, 1, memory_order_acquire) != 0);
}

static SM_TLS uint64_t held[2]; /* one bit a rank */

void
sm_lock_note_taken(unsigned rank)
{
	uint64_t low = rank < 64 ? held[0] & ((UINT64_C(2) << rank) - 1) : held[0];
	uint64_t high = rank < 64 ? 0 : held[1] & ((UINT64_C(2) << (rank - 64)) - 1);

	sm_assert(low == 0 && high == 0);
	held[rank / 64] |= UINT64_C(1) << rank % 64;
}

void
sm_lock_note_released(unsigned rank)
{
	sm_assert(held[rank / 64] & UINT64_C(1) << rank % 64);
	held[rank / 64] &= ~(UINT64_C(1) << rank % 64);
}

void
sm_locks_forget(void)
{
	held[0] = held[1] = 0;
}

void
sm_locks_shelve(struct sm_shelf *s)
{
	memcpy(s->held, held, sizeof(held));
	sm_locks_forget();
}

void
sm_locks_unshelve(const struct sm_shelf *s)
{
	memcpy(held, s->held, sizeof(held));
}
