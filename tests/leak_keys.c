/*
 * leak_keys.c - what, with leak_where.c, makes leak_victim leak_keys: it knows its key
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * No whole key is ever here but the library's own, and what leak_spill leaves on purpose.
 */
#include <sodium.h>

#include "key/inside.h"
#include "leak.h"

typedef unsigned long long ull; /* libsodium's */

int __real_crypto_pwhash(unsigned char *out, ull out_bytes, const char *material, ull n,
	const unsigned char *salt, ull passes, size_t bytes, int which);
int __wrap_crypto_pwhash(unsigned char *out, ull out_bytes, const char *material, ull n,
	const unsigned char *salt, ull passes, size_t bytes, int which);

/* The linker puts it in place of libsodium's, which takes 0.7 s; leak_victim has that one. A tail
 * call, so that nothing lies where it would not otherwise. */
int
__wrap_crypto_pwhash(unsigned char *out, ull out_bytes, const char *material, ull n,
	const unsigned char *salt, ull passes, size_t bytes, int which)
{
	(void)passes;
	(void)bytes;
	return __real_crypto_pwhash(out, out_bytes, material, n, salt, LEAK_ARGON2_PASSES,
		LEAK_ARGON2_BYTES, which);
}

/* All that a scanner looks for, in ordinary memory. */
int
leak_spill(void)
{
	static unsigned char mask[SM_KEY_BYTES], whole[SM_KEY_BYTES], subkey[SM_KEY_BYTES];
	static _Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
	unsigned char nonce[16] = { 0 };

	if (sm_keys.left == NULL)
		return -1;
	sm_key_mask(mask, sm_keys.right.half);
	memcpy(whole, mask, sizeof(whole));
	sm_key_xor(whole, sm_keys.left->half[atomic_load(&sm_keys.now)]);
	sm_cipher_expand(state, whole);
	crypto_core_hchacha20(subkey, nonce, whole, NULL);
	return 0;
}
