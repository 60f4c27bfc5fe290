#include "base/base.h"

const struct sm_config sm_config_none;
_Atomic(const struct sm_config *) sm_config_now = &sm_config_none;
_Atomic(const struct sm_config *) sm_config_up = &sm_config_none;

void
sm_config_check(const struct sm_config *c)
{
	sm_assert(c->page_bytes && (c->page_bytes & (c->page_bytes - 1)) == 0);
	sm_assert(c->pool_bytes && c->pool_bytes % c->page_bytes == 0);
	sm_assert(c->initial_pools >= 1 && c->max_pools >= c->initial_pools);
	sm_assert((c->require & c->without) == 0);
	sm_assert(c->resplit_ms != 0);
	sm_assert(c->prekey_bytes >= 32);
}
