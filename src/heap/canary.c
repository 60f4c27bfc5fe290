#include "heap/inside.h"

#include <string.h>

/* Odd constants of splitmix64 (Steele, Lea, Flood 2014) spread address and generation. No byte is
 * 0, so that a stray string terminator never fits. */
static inline uint64_t
pattern(const struct sm_chunk *c, const void *at)
{
	uint64_t v = sm_config()->canary ^ (uint64_t)(uintptr_t)at * 0xbf58476d1ce4e5b9u ^
		c->generation * 0x94d049bb133111ebu;

	return (v ^ v >> 29) | 0x0101010101010101u;
}

/* A chunk of its own pages ends, within its alignment, at the end of a page: its canary fills
 * what is left of it. A packed chunk always has a whole one. */
static inline size_t
behind_bytes(const struct sm_chunk *c, const unsigned char *end)
{
	size_t page = (size_t)1 << sm_page_shift;

	if (SM_LIKELY(!c->own_pages))
		return SM_CANARY_BYTES;
	return sm_min_size((page - ((uintptr_t)end & (page - 1))) & (page - 1), SM_CANARY_BYTES);
}

void
sm_canary_set(const struct sm_chunk *c, void *ptr)
{
	unsigned char *start = ptr, *end = start + c->size;
	uint64_t front = pattern(c, start), behind = pattern(c, end);

	memcpy(start - SM_CANARY_BYTES, &front, SM_CANARY_BYTES);
	if (SM_LIKELY(!c->own_pages))
		memcpy(end, &behind, SM_CANARY_BYTES);
	else
		memcpy(end, &behind, behind_bytes(c, end));
}

void
sm_canary_clear(const struct sm_chunk *c, void *ptr)
{
	unsigned char *start = ptr, *end = start + c->size;

	memset(start - SM_CANARY_BYTES, 0, SM_CANARY_BYTES);
	memset(end, 0, behind_bytes(c, end));
}

/* What lies between the canaries and the ends of the place: it was zero. */
static void
verify_slack(const struct sm_chunk *c, const unsigned char *ptr)
{
	const unsigned char *end = ptr + c->size;
	size_t behind_n = behind_bytes(c, end), front, behind;

	if (SM_LIKELY(!c->own_pages)) {
		front = c->offset;
		behind = sm_class_most(c->class) - c->offset - c->size;
	} else {
		struct sm_spot s = sm_spot_of(c);

		front = (size_t)(ptr - s.start) - SM_CANARY_BYTES;
		behind = (size_t)(s.end - end) - behind_n;
	}
	if (front && !sm_is_zero(ptr - SM_CANARY_BYTES - front, front))
		sm_die(SECMALLOC_FAULT_UNDERFLOW, ptr);
	if (behind && !sm_is_zero(end + behind_n, behind))
		sm_die(SECMALLOC_FAULT_OVERFLOW, ptr);
}

void
sm_heap_verify(const struct sm_chunk *c, const void *ptr)
{
	const unsigned char *start = ptr, *end = start + c->size;
	uint64_t front = pattern(c, start), behind = pattern(c, end), is;

	memcpy(&is, start - SM_CANARY_BYTES, SM_CANARY_BYTES);
	if (!SM_LIKELY(is == front))
		sm_die(SECMALLOC_FAULT_UNDERFLOW, ptr);
	is = behind;
	if (SM_LIKELY(!c->own_pages))
		memcpy(&is, end, SM_CANARY_BYTES);
	else
		memcpy(&is, end, behind_bytes(c, end)); /* what is not there is equal */
	if (!SM_LIKELY(is == behind))
		sm_die(SECMALLOC_FAULT_OVERFLOW, ptr);
	verify_slack(c, ptr);
}

void
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
