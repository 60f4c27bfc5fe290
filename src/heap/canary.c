#include "heap/canary.h"

#include <string.h>

void
sm_canary_clear(const struct sm_chunk *c, void *ptr)
{
	unsigned char *start = ptr, *end = start + c->size;

	memset(start - SM_CANARY_BYTES, 0, SM_CANARY_BYTES);
	memset(end, 0, sm_canary_behind_bytes(c, end));
}

/* A purge in another thread may have wiped a canary that was just being moved. */
static SM_COLD void
damaged(enum secmalloc_fault kind, const void *ptr)
{
	if (!sm_purged())
		sm_die(kind, ptr);
}

/* What lies between the canaries and the ends of the place: it was zero. */
static void
verify_slack(const struct sm_chunk *c, const unsigned char *ptr)
{
	const unsigned char *end = ptr + c->size;
	size_t behind_n = sm_canary_behind_bytes(c, end), front, behind;

	if (SM_LIKELY(!c->own_pages)) {
		front = c->offset;
		behind = sm_class_most(c->class) - c->offset - c->size;
	} else {
		struct sm_spot s = sm_spot_of(c);

		front = (size_t)(ptr - s.start) - SM_CANARY_BYTES;
		behind = (size_t)(s.end - end) - behind_n;
	}
	if (front && !sm_is_zero(ptr - SM_CANARY_BYTES - front, front))
		damaged(SECMALLOC_FAULT_UNDERFLOW, ptr);
	if (behind && !sm_is_zero(end + behind_n, behind))
		damaged(SECMALLOC_FAULT_OVERFLOW, ptr);
}

void
sm_heap_verify(const struct sm_chunk *c, const void *ptr)
{
	const unsigned char *start = ptr, *end = start + c->size;
	struct sm_canary was = sm_canary_of(c, start);
	uint64_t is;

	memcpy(&is, start - SM_CANARY_BYTES, SM_CANARY_BYTES);
	if (!SM_LIKELY(is == was.front))
		damaged(SECMALLOC_FAULT_UNDERFLOW, ptr);
	is = was.behind;
	if (SM_LIKELY(!c->own_pages))
		memcpy(&is, end, SM_CANARY_BYTES);
	else
		memcpy(&is, end, sm_canary_behind_bytes(c, end)); /* what is not there is equal */
	if (!SM_LIKELY(is == was.behind))
		damaged(SECMALLOC_FAULT_OVERFLOW, ptr);
	verify_slack(c, ptr);
}
