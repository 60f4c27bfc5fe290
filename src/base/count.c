#include "base/base.h"

struct sm_counters sm_count;

void
sm_count_reset(void)
{
	_Atomic uint64_t *const all[] = { &sm_count.pools, &sm_count.pool_bytes,
		&sm_count.locked_bytes, &sm_count.dropped, &sm_count.bytes_encrypted,
		&sm_count.seals, &sm_count.unseals, &sm_count.reseals, &sm_count.tampered };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		atomic_store_explicit(all[i], 0, memory_order_relaxed);
}
