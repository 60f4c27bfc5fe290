#include "base/base.h"

#include <errno.h>

_Atomic unsigned sm_state;
SM_TLS struct sm_inside sm_inside;
void (*_Atomic sm_inside_park)(void);
static _Atomic unsigned purgers;

int
sm_state_change(enum sm_state from, enum sm_state to)
{
	unsigned seen = from;

	if (atomic_compare_exchange_strong(&sm_state, &seen, (unsigned)to))
		return 0;
	sm_assert(seen & SM_PURGED);
	return sm_state_refuse();
}

/* A purge may have shut it between the two steps; or before, and then whoever waits must see that
 * it is for nothing. */
int
sm_gate_open(enum sm_state from)
{
	unsigned seen = (unsigned)from | SM_PURGED;

	if (atomic_compare_exchange_strong(&sm_state, &seen, SM_UP | SM_PURGED) ||
		sm_state_change(from, SM_UP))
		return sm_state_refuse();
	atomic_store(&sm_config_up, sm_config());
	if (!sm_purged())
		return 0;
	atomic_store(&sm_config_up, &sm_config_none);
	return sm_state_refuse();
}

int
sm_gate_shut(enum sm_state to)
{
	int e = sm_state_change(SM_UP, to);

	if (e == 0)
		atomic_store(&sm_config_up, &sm_config_none);
	return e;
}

void
sm_gate_await(void)
{
	unsigned turn = 0;

	while (sm_waiting()) {
		void (*park)(void) = atomic_load(&sm_inside_park);

		if (park && sm_state_is(SM_HALTED))
			park();
		else
			sm_rest(&turn);
	}
}

void
sm_inside_pay(void)
{
	void (*park)(void) = atomic_load(&sm_inside_park);

	if (sm_inside.depth > 0)
		return;
	sm_inside.owes = false; /* who comes now finds this thread outside */
	if (park)
		park();
}

int
sm_state_refuse(void)
{
	if (sm_purged())
		return sm_fail(ECANCELED, "everything was purged: call secmalloc_term to begin anew");
	return sm_fail(EACCES, "everything is locked: call secmalloc_unlock first");
}

/* In a forked child there is nothing yet, whatever the state was. */
static bool
is_inherited(void)
{
	const struct sm_config *c = sm_config();

	return c != &sm_config_none && c->mark == 0;
}

bool
sm_purge_enter(void)
{
	unsigned seen = SM_DOWN;

	atomic_fetch_add(&purgers, 1);
	if (!is_inherited())
		seen = atomic_load(&sm_state);
	while (seen != SM_DOWN &&
		!atomic_compare_exchange_weak(&sm_state, &seen, seen | SM_PURGED))
		;
	if (seen == SM_DOWN) {
		sm_purge_leave();
		return false;
	}
	atomic_store(&sm_config_up, &sm_config_none);
	atomic_thread_fence(memory_order_seq_cst);
	return true;
}

void
sm_purge_leave(void)
{
	atomic_fetch_sub(&purgers, 1);
}

void
sm_purge_await(void)
{
	unsigned turn = 0;

	atomic_thread_fence(memory_order_seq_cst);
	while (atomic_load(&purgers))
		sm_rest(&turn);
}

bool
sm_purge_fence(void)
{
	atomic_thread_fence(memory_order_seq_cst);
	return sm_purged();
}

void
sm_purge_forget(void)
{
	atomic_store(&purgers, 0);
}

void
sm_state_forget(void)
{
	atomic_store(&sm_state, SM_DOWN);
}

/* Not by memset, which a sanitizer watches. */
SM_NO_TSAN void
sm_purge_wipe(void *p, size_t n)
{
	volatile unsigned char *at = p;

	for (; n > 0 && (uintptr_t)at % sizeof(uint64_t); n--)
		*at++ = 0;
	for (; n >= sizeof(uint64_t); n -= sizeof(uint64_t), at += sizeof(uint64_t))
		*(volatile uint64_t *)at = 0;
	for (; n > 0; n--)
		*at++ = 0;
}
