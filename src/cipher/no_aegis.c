#include "cipher/inside.h"

static bool
available(void)
{
	return false;
}

const struct sm_aead sm_aead_aegis256 = {
	.id = SECMALLOC_CIPHER_AEGIS256,
	.name = "AEGIS-256",
	.lack = SM_LACK_BUILD,
	.available = available,
};

const struct sm_aead sm_aead_aegis128l = {
	.id = SECMALLOC_CIPHER_AEGIS128L,
	.name = "AEGIS-128L",
	.lack = SM_LACK_BUILD,
	.available = available,
};
