/*
 * secret.h - what check_constant_time marks as secret, and what it declares public
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Wrapped by the linker: sm_os_random, crypto_pwhash and the opening of AES-256-GCM; wrapped by
 * valgrind, as libsodium calls it itself: crypto_verify_16.  For one file of one program.
 */
#ifndef TESTS_SECRET_H
#define TESTS_SECRET_H

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/memcheck.h>

#include "key/inside.h"

enum { CHEAP_PASSES = 1, CHEAP_BYTES = 8192 }; /* Argon2id's least: valgrind is slow */

#define MUST(x) ((x) ? (void)0 : must(__LINE__, #x))
#define HIDE(p, n) ((void)VALGRIND_MAKE_MEM_UNDEFINED(p, n))
#define SHOW(p, n) ((void)VALGRIND_MAKE_MEM_DEFINED(p, n))

static unsigned verdicts; /* that were declared public */
static unsigned excused;  /* reports of such a verdict */

static void
must(int line, const char *what)
{
	printf("FAIL line %d: %s: %s; %s\n", line, what, strerror(errno), secmalloc_error());
	exit(1);
}

static bool
is_of_the_key(const void *p)
{
	for (size_t i = 0; i < SM_KEY_PAGES; i++)
		if ((uintptr_t)p - (uintptr_t)sm_keys.page[i].base < sm_keys.page[i].bytes)
			return true;
	return false;
}

int __real_sm_os_random(void *p, size_t n);
int __wrap_sm_os_random(void *p, size_t n);

int
__wrap_sm_os_random(void *p, size_t n)
{
	int e = __real_sm_os_random(p, n);

	if (e == 0 && is_of_the_key(p))
		HIDE(p, n);
	return e;
}

typedef unsigned long long ull; /* libsodium's */

int __real_crypto_pwhash(unsigned char *out, ull out_bytes, const char *material, ull n,
	const unsigned char *salt, ull passes, size_t bytes, int which);
int __wrap_crypto_pwhash(unsigned char *out, ull out_bytes, const char *material, ull n,
	const unsigned char *salt, ull passes, size_t bytes, int which);

int
__wrap_crypto_pwhash(unsigned char *out, ull out_bytes, const char *material, ull n,
	const unsigned char *salt, ull passes, size_t bytes, int which)
{
	int e;

	(void)passes;
	(void)bytes;
	SHOW(material, n);
	SHOW(salt, SM_SALT_BYTES);
	e = __real_crypto_pwhash(out, out_bytes, material, n, salt, CHEAP_PASSES, CHEAP_BYTES,
		which);
	SHOW(&e, sizeof(e));
	HIDE(out, out_bytes);
	HIDE(material, n);
	return e;
}

/* The one comparison of tags, wherever libsodium is: its answer is public. */
#define VERIFY_16(so, name)                                                                        \
	int I_WRAP_SONAME_FNNAME_ZU(so, name)(const unsigned char *a, const unsigned char *b);     \
	int I_WRAP_SONAME_FNNAME_ZU(so, name)(const unsigned char *a, const unsigned char *b)      \
	{                                                                                          \
		OrigFn original;                                                                   \
		int e;                                                                             \
                                                                                                   \
		VALGRIND_GET_ORIG_FN(original);                                                    \
		CALL_FN_W_WW(e, original, a, b);                                                   \
		SHOW(&e, sizeof(e));                                                               \
		verdicts++;                                                                        \
		return e;                                                                          \
	}
VERIFY_16(libsodiumZdsoZa, crypto_verify_16)
VERIFY_16(NONE, crypto_verify_16)

#define AES_OPEN(name)                                                                             \
	int name(unsigned char *m, unsigned char *unused, const unsigned char *c, ull n,           \
		const unsigned char *tag, const unsigned char *ad, ull ad_n,                       \
		const unsigned char *nonce, const crypto_aead_aes256gcm_state *key)
AES_OPEN(__real_crypto_aead_aes256gcm_decrypt_detached_afternm);
AES_OPEN(__wrap_crypto_aead_aes256gcm_decrypt_detached_afternm);

/* Before 1.0.19 this one has a comparison of its own, which leaks nothing, and then branches on the
 * verdict: that one report is excused, and no other. */
AES_OPEN(__wrap_crypto_aead_aes256gcm_decrypt_detached_afternm)
{
	unsigned before = (unsigned)VALGRIND_COUNT_ERRORS, asked = verdicts;
	int e = __real_crypto_aead_aes256gcm_decrypt_detached_afternm(m, unused, c, n, tag, ad,
		ad_n, nonce, key);

	SHOW(&e, sizeof(e));
	if (verdicts > asked)
		return e;
	verdicts++;
	if ((unsigned)VALGRIND_COUNT_ERRORS > before)
		excused++;
	return e;
}

/* is_secret - every bit of it */
static bool
is_secret(const void *p, size_t n)
{
	unsigned char bits[64];
	const unsigned char *at = p;

	for (size_t i = 0; i < n; i += sizeof(bits)) {
		size_t k = n - i < sizeof(bits) ? n - i : sizeof(bits);

		MUST(VALGRIND_GET_VBITS(at + i, bits, k) == 1);
		for (size_t j = 0; j < k; j++)
			if (bits[j] != 0xff)
				return false;
	}
	return true;
}

#endif
