#include "heap/canary.h"

#include <string.h>

void
sm_heap_hold(void)
{
	sm_arena_hold();
	sm_large_hold();
	sm_lock_take(&sm_pool_lock, SM_RANK_POOL);
	sm_window_hold();
}

void
sm_heap_let_go(void)
{
	sm_window_let_go();
	sm_lock_release(&sm_pool_lock, SM_RANK_POOL);
	sm_large_let_go();
	sm_arena_let_go();
}

int
sm_heap_reclaim(void)
{
	return sm_pool_reclaim();
}

int
sm_heap_revive(void)
{
	sm_arena_revive();
	sm_large_unlock();
	sm_window_revive();
	return sm_pool_revive();
}

void
sm_heap_revived(bool whole)
{
	sm_pool_revived(whole);
}

int
sm_heap_refill(struct sm_chunk *c, const void *bytes, bool clear)
{
	unsigned char *ptr = sm_heap_bytes(c);
	int e = clear ? sm_heap_pin(c) : 0;

	if (e)
		return e;
	sm_arena_count(c->arena, c->size, SM_COMES);
	if (c->size)
		memcpy(ptr, bytes, c->size);
	sm_canary_set(c, ptr);
	if (c->access == SECMALLOC_READWRITE)
		return 0;
	return sm_heap_protect(c, (enum secmalloc_access)c->access);
}

void
sm_heap_stay(struct sm_chunk *c)
{
	sm_arena_count(c->arena, c->size, SM_COMES);
}

void
sm_heap_leave(struct sm_chunk *c)
{
	atomic_store_explicit(&c->life, SM_LIFE_RESTING, memory_order_release);
}
