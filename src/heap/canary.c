#include "heap/inside.h"

#include <string.h>

/* A chunk of its own pages ends, within its alignment, at the end of a page: its canary fills
 * what is left of it. A packed chunk always has a whole one. */
static size_t
behind_bytes(const struct sm_chunk *c, const unsigned char *end)
{
	size_t page = sm_os_page_bytes();

	if (!c->own_pages)
		return SM_CANARY_BYTES;
	return sm_min_size((page - ((uintptr_t)end & (page - 1))) & (page - 1), SM_CANARY_BYTES);
}

/* Odd constants of splitmix64 (Steele, Lea, Flood 2014) spread address and generation. No byte is
 * 0, so that a stray string terminator never fits. */
static uint64_t
pattern(const struct sm_chunk *c, const void *at)
{
	uint64_t v = sm_config()->canary ^ (uint64_t)(uintptr_t)at * 0xbf58476d1ce4e5b9u ^
		c->generation * 0x94d049bb133111ebu;

	return (v ^ v >> 29) | 0x0101010101010101u;
}

void
sm_canary_set(const struct sm_chunk *c, void *ptr)
{
	unsigned char *start = ptr, *end = start + c->size;
	uint64_t front = pattern(c, start), behind = pattern(c, end);

	memcpy(start - SM_CANARY_BYTES, &front, SM_CANARY_BYTES);
	memcpy(end, &behind, behind_bytes(c, end));
}

void
sm_canary_clear(const struct sm_chunk *c, void *ptr)
{
	unsigned char *start = ptr, *end = start + c->size;

	memset(start - SM_CANARY_BYTES, 0, SM_CANARY_BYTES);
	memset(end, 0, behind_bytes(c, end));
}

bool
sm_is_zero(const unsigned char *p, size_t n)
{
	uint64_t any = 0, word;
	size_t i = 0;

	for (; n - i >= sizeof(word); i += sizeof(word)) {
		memcpy(&word, p + i, sizeof(word));
		any |= word;
	}
	for (; i < n; i++)
		any |= p[i];
	return any == 0;
}

/* The canaries, and what lies between them and the ends of the place: it was zero. */
void
sm_heap_verify(const struct sm_chunk *c, const void *ptr)
{
	const unsigned char *start = ptr, *end = start + c->size;
	uint64_t front = pattern(c, start), behind = pattern(c, end), is;
	size_t behind_n = behind_bytes(c, end);
	struct sm_spot s = sm_spot_of(c);

	if (c->own_pages)
		s.start += SM_CANARY_BYTES;
	else
		s.end += SM_CANARY_BYTES;
	memcpy(&is, start - SM_CANARY_BYTES, SM_CANARY_BYTES);
	if (is != front || !sm_is_zero(s.start - SM_CANARY_BYTES, (size_t)(start - s.start)))
		sm_die(SECMALLOC_FAULT_UNDERFLOW, ptr);
	is = behind;
	memcpy(&is, end, behind_n); /* what is not there to compare is equal */
	if (is != behind || !sm_is_zero(end + behind_n, (size_t)(s.end - end) - behind_n))
		sm_die(SECMALLOC_FAULT_OVERFLOW, ptr);
}

void
sm_chunk_begin(struct sm_chunk *c, void *ptr, size_t size, size_t offset)
{
	sm_assert(!sm_heap_live(c));
	c->size = size;
	c->veil = SM_VEIL_CLEAR;
	c->access = SECMALLOC_READWRITE;
	c->generation++;
	atomic_store_explicit(&c->offset, (uint32_t)offset, memory_order_relaxed);
	sm_canary_set(c, ptr);
}
