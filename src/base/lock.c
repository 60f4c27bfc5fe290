#include "base/base.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

enum { SPINS = 64, YIELDS = 16 };
static const long SLEEP_FIRST_NS = 20000, SLEEP_MOST_NS = 1000000;

static inline void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/* Sleeping last: under a real-time policy a yield never lets a lower-priority holder run. */
void
sm_lock_wait(struct sm_lock *l)
{
	struct timespec t = { 0, SLEEP_FIRST_NS };
	unsigned turn = 0;
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state); /* nanosleep is such a point */
	do {
		while (atomic_load_explicit(&l->word, memory_order_relaxed) != 0) {
			if (turn < SPINS) {
				relax();
			} else if (turn < SPINS + YIELDS) {
				sched_yield();
			} else {
				nanosleep(&t, NULL);
				t.tv_nsec = t.tv_nsec * 2 < SLEEP_MOST_NS ? t.tv_nsec * 2
									  : SLEEP_MOST_NS;
			}
			turn++;
		}
	} while (atomic_exchange_explicit(&l->word, 1, memory_order_acquire) != 0);
	pthread_setcancelstate(state, NULL);
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
