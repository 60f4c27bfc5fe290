#include "heap/inside.h"

static _Atomic(struct sm_chunk *) doomed; /* freed while they could not be touched */

void
sm_heap_doom(struct sm_chunk *c)
{
	struct sm_chunk *seen = atomic_load(&doomed);

	sm_arena_count(c->arena, c->size, SM_GOES);
	atomic_store_explicit(&c->life, SM_LIFE_RESTING, memory_order_release);
	do
		c->next = seen;
	while (!atomic_compare_exchange_weak(&doomed, &seen, c));
}

struct sm_chunk *
sm_heap_doomed(void)
{
	return atomic_exchange(&doomed, NULL);
}

void
sm_doom_reset(void)
{
	atomic_store(&doomed, NULL);
}
