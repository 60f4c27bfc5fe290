/* heap/canary.h - what lies in front of a chunk and behind it, and the start of its life */
#ifndef SM_HEAP_CANARY_H
#define SM_HEAP_CANARY_H

#include "heap/inside.h"

/** What lies in front of a chunk and behind it. */
struct sm_canary {
	uint64_t front, behind;
};

/* Odd constants of splitmix64 (Steele, Lea, Flood 2014) spread address and generation. No byte is
 * 0, so that a stray string terminator never fits. */
static inline struct sm_canary
sm_canary_of(const struct sm_chunk *c, const void *at)
{
	uint64_t v = sm_config()->canary ^ (uint64_t)(uintptr_t)at * 0xbf58476d1ce4e5b9u ^
		c->generation * 0x94d049bb133111ebu;
	const uint64_t ones = 0x0101010101010101u;

	v ^= v >> 29;
	return (struct sm_canary){ v | ones, (v >> 24 | v << 40) | ones };
}

/* A chunk of its own pages ends, within its alignment, at the end of a page: its canary fills
 * what is left of it. A packed chunk always has a whole one. */
static inline size_t
sm_canary_behind_bytes(const struct sm_chunk *c, const unsigned char *end)
{
	size_t page = (size_t)1 << sm_page_shift;

	if (SM_LIKELY(!c->own_pages))
		return SM_CANARY_BYTES;
	return sm_min_size((page - ((uintptr_t)end & (page - 1))) & (page - 1), SM_CANARY_BYTES);
}

/** sm_canary_set - write both canaries of a chunk whose size and generation are set */
static inline void
sm_canary_set(const struct sm_chunk *c, void *ptr)
{
	unsigned char *start = ptr, *end = start + c->size;
	struct sm_canary is = sm_canary_of(c, start);

	memcpy(start - SM_CANARY_BYTES, &is.front, SM_CANARY_BYTES);
	if (SM_LIKELY(!c->own_pages))
		memcpy(end, &is.behind, SM_CANARY_BYTES);
	else
		memcpy(end, &is.behind, sm_canary_behind_bytes(c, end));
}

/** sm_canary_clear - zero both, before a resize or the end */
void sm_canary_clear(const struct sm_chunk *c, void *ptr);

/** sm_chunk_begin - a new life of a record: size, address, generation; canaries written */
static inline void
sm_chunk_begin(struct sm_chunk *c, void *ptr, size_t size)
{
	sm_assert(!sm_heap_live(c));
	c->size = size;
	c->veil = SM_VEIL_CLEAR;
	c->access = SECMALLOC_READWRITE;
	c->holds = 0;
	c->opened_by_hold = 0;
	c->generation++;
	atomic_store_explicit(&c->at, (uintptr_t)ptr, memory_order_relaxed);
	sm_canary_set(c, ptr);
}

#endif
