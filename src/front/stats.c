#include "front/inside.h"

#include "cipher/cipher.h"
#include "fault/fault.h"
#include "heap/heap.h"

#include <errno.h>
#include <string.h>

static void
fill(struct secmalloc_stats *s)
{
	struct sm_sums sums = sm_count_shares();
	uint64_t sealed = sm_count_sealed(&sums);
	struct sm_tally t;

	sm_heap_tally(&t);
	s->pools = sm_count_get(&sm_count.pools);
	s->pool_bytes = sm_count_get(&sm_count.pool_bytes);
	s->locked_bytes = sm_count_get(&sm_count.locked_bytes);
	s->chunks = t.chunks;
	s->chunks_encrypted = sm_count_closed(&sums);
	s->bytes = t.bytes;
	s->bytes_clear = s->bytes > sealed ? s->bytes - sealed : 0;
	s->bytes_high_water = t.most;
	s->seals = sums.seals;
	s->unseals = sums.unseals;
	s->reseals = sm_count_get(&sm_count.reseals);
	s->tampered = sm_count_get(&sm_count.tampered);
	s->mode = sm_fault_mode();
	s->faults_served = sm_fault_served();
	if (s->mode != SM_MODE_NONE && sm_fault_clear_bytes() < s->bytes)
		s->bytes_clear = sm_fault_clear_bytes();
	s->granted = sm_life_granted();
	s->cipher = sm_cipher_id();
}

void
sm_stats_tally(struct sm_wire_tally *t)
{
	struct secmalloc_stats s = { 0 };

	fill(&s);
	*t = (struct sm_wire_tally){ .bytes = s.bytes, .bytes_clear = s.bytes_clear,
		.chunks = s.chunks, .chunks_closed = sm_min_size(s.chunks_encrypted, s.chunks) };
}

int
sm_stats_fill(struct secmalloc_stats *caller)
{
	struct secmalloc_stats s = { 0 };
	size_t theirs;

	if (!caller || caller->struct_size < sizeof(caller->struct_size))
		return sm_fail(EINVAL, "secmalloc_stats needs a struct: start from "
				       "SECMALLOC_STATS_INIT");
	if (sm_life_stands())
		fill(&s);
	s.live_at_term = sm_count_get(&sm_count.live_at_term);
	theirs = s.struct_size = caller->struct_size;
	memset(caller, 0, theirs);
	memcpy(caller, &s, sm_min_size(theirs, sizeof(s)));
	return 0;
}
