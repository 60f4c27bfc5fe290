#include "base/base.h"

struct sm_counters sm_count;
struct sm_share sm_shares[SM_SHARES];
SM_TLS struct sm_share *sm_my_share;

static _Atomic unsigned chosen;

/* A thread keeps its share, and one that ends leaves it behind. */
struct sm_share *
sm_share_choose(void)
{
	unsigned i = atomic_load_explicit(&chosen, memory_order_relaxed);

	while (i < SM_SHARES - 1 && !atomic_compare_exchange_weak(&chosen, &i, i + 1))
		;
	return sm_my_share = &sm_shares[i < SM_SHARES - 1 ? i + 1 : 0];
}

struct sm_sums
sm_count_shares(void)
{
	struct sm_sums sum = { 0 };

	for (unsigned i = 0; i < SM_SHARES; i++) {
		sum.seals += sm_count_get(&sm_shares[i].seals);
		sum.unseals += sm_count_get(&sm_shares[i].unseals);
		sum.bytes_encrypted += sm_count_get(&sm_shares[i].bytes_encrypted);
	}
	return sum;
}

void
sm_count_reset(void)
{
	_Atomic uint64_t *const all[] = { &sm_count.pools, &sm_count.pool_bytes,
		&sm_count.locked_bytes, &sm_count.dropped, &sm_count.reseals, &sm_count.tampered };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		atomic_store_explicit(all[i], 0, memory_order_relaxed);
	for (unsigned i = 0; i < SM_SHARES; i++) {
		atomic_store_explicit(&sm_shares[i].seals, 0, memory_order_relaxed);
		atomic_store_explicit(&sm_shares[i].unseals, 0, memory_order_relaxed);
		atomic_store_explicit(&sm_shares[i].bytes_encrypted, 0, memory_order_relaxed);
	}
}
