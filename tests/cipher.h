/*
 * cipher.h - what the tests that look inside the room cipher share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_CIPHER_H
#define TESTS_CIPHER_H

#include "contract.h"
#include <sodium.h>

#include "cipher/inside.h"

static const struct sm_aead *const real_aes = &sm_aead_aes256gcm;
static const struct sm_aead *const real_aegis = &sm_aead_aegis256;
static struct sm_aead aes, aegis; /* what cipher.c takes for the two: copies that tests break */
#define sm_aead_aes256gcm aes
#define sm_aead_aegis256 aegis
static uintptr_t wiped_below; /* of the last wipe by lines */
static inline void spy_lines_wipe(uintptr_t top, uint64_t which);
static size_t wiped_of; /* the stack's bytes */
SM_INLINE void spy_traces_of(size_t bytes);
#define sm_lines_wipe spy_lines_wipe
#define sm_wipe_traces_of spy_traces_of
#include "cipher/cipher.c"
#undef sm_lines_wipe
#undef sm_wipe_traces_of

static inline void
spy_lines_wipe(uintptr_t top, uint64_t which)
{
	wiped_below = top;
	sm_lines_wipe(top, which);
}

SM_INLINE void
spy_traces_of(size_t bytes)
{
	wiped_of = bytes;
	sm_wipe_traces_of(bytes);
}

enum { MOST = 100000, LONG = LONG_BYTES, AD = 20, EDGE = 32 };

#define AEADS ((int)(sizeof(aeads) / sizeof(aeads[0])))

static _Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
static unsigned char clear[LONG + 1], sealed[LONG + 1 + EDGE], work[LONG + 1 + EDGE];
static unsigned char tag[SM_TAG_BYTES], tag_rest[SM_TAG_REST_BYTES], ad[AD];
static const unsigned char secret[SM_KEY_BYTES] = "thirty-two bytes, and no more...";

static inline void
setup(void)
{
	ck_assert_int_ge(sodium_init(), 0);
	aes = *real_aes;
	aegis = *real_aegis;
	fill(clear, sizeof(clear), 1);
	fill(ad, sizeof(ad), 2);
}

/** use - start this cipher; false: this CPU or build has it not */
static inline bool
use(const struct sm_aead *a)
{
	if (a->id != SECMALLOC_CIPHER_XCHACHA20POLY1305 && !a->available())
		return false;
	ck_assert_msg(sm_cipher_start(a->id) == 0, "%s", sm_error_text());
	ck_assert_uint_eq(sm_cipher_id(), a->id);
	ck_assert_uint_eq(sm_cipher_tag_bytes(), a->tag_bytes);
	sm_cipher_expand(state, secret);
	return true;
}

static inline struct sm_message
message(size_t n, uint64_t nonce)
{
	return (struct sm_message){ .bytes = work, .n = n, .tag = tag, .nonce = nonce, .ad = ad,
		.ad_bytes = sizeof(ad), .tag_rest = tag_rest };
}

/** seal_clear - n bytes of clear, sealed in work and copied to sealed */
static inline struct sm_message
seal_clear(size_t n, uint64_t nonce)
{
	struct sm_message m = message(n, nonce);

	memset(work, 0xa5, n + EDGE);
	memcpy(work, clear, n);
	sm_cipher_seal(state, &m);
	ck_assert_msg(n < 8 || memcmp(work, clear, n) != 0, "%zu bytes stayed clear", n);
	memcpy(sealed, work, n + EDGE);
	return m;
}

#endif
