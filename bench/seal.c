/*
 * seal.c - rows that close and open, and what the cipher alone costs
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "bench.h"

#include <secmalloc.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { AD_BYTES = 32, NONCE_BYTES = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, TAG_BYTES = 16 };

_Static_assert(NONCE_BYTES >= crypto_aead_aes256gcm_NPUBBYTES, "the larger nonce");
_Static_assert(TAG_BYTES == crypto_aead_aes256gcm_ABYTES &&
		TAG_BYTES == crypto_aead_xchacha20poly1305_ietf_ABYTES,
	"one tag for both");

static int
do_close_open(void *arg, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (secmalloc_encrypt(arg) || secmalloc_decrypt(arg))
			return -1;
	return 0;
}

int
bench_seal(const struct trial *t, double *values)
{
	if (bench_secmalloc_start(bench_arena, t->kind))
		return -1;

	void *p = secmalloc(t->size);

	if (!p)
		return -1;
	memset(p, 0xa5, t->size);
	values[0] = bench_time(do_close_open, p);
	return values[0] < 0 ? -1 : 0;
}

struct bare {
	unsigned char *text;
	size_t size;
	unsigned char key[32], ad[AD_BYTES], nonce[NONCE_BYTES], tag[TAG_BYTES];
	crypto_aead_aes256gcm_state state;
};

static int
do_aes(void *arg, size_t n)
{
	struct bare *b = arg;

	for (size_t i = 0; i < n; i++) {
		sodium_increment(b->nonce, crypto_aead_aes256gcm_NPUBBYTES);
		crypto_aead_aes256gcm_encrypt_detached_afternm(b->text, b->tag, NULL, b->text,
			b->size, b->ad, AD_BYTES, NULL, b->nonce, &b->state);
		if (crypto_aead_aes256gcm_decrypt_detached_afternm(b->text, NULL, b->text,
			    b->size, b->tag, b->ad, AD_BYTES, b->nonce, &b->state))
			return -1;
	}
	return 0;
}

static int
do_xchacha(void *arg, size_t n)
{
	struct bare *b = arg;

	for (size_t i = 0; i < n; i++) {
		sodium_increment(b->nonce, NONCE_BYTES);
		crypto_aead_xchacha20poly1305_ietf_encrypt_detached(b->text, b->tag, NULL,
			b->text, b->size, b->ad, AD_BYTES, NULL, b->nonce, b->key);
		if (crypto_aead_xchacha20poly1305_ietf_decrypt_detached(b->text, NULL, b->text,
			    b->size, b->tag, b->ad, AD_BYTES, b->nonce, b->key))
			return -1;
	}
	return 0;
}

int
bench_bare(const struct trial *t, double *values)
{
	int aes = t->kind == SECMALLOC_CIPHER_AES256GCM;
	void *b_at = NULL, *text = NULL;

	if (sodium_init() < 0 || (aes && !crypto_aead_aes256gcm_is_available()))
		return -1;
	if (posix_memalign(&b_at, 64, sizeof(struct bare)) || posix_memalign(&text, 4096, t->size))
		return -1;

	struct bare *b = b_at;

	memset(b, 0, sizeof(*b));
	memset(text, 0xa5, t->size);
	b->text = text;
	b->size = t->size;
	randombytes_buf(b->key, sizeof(b->key));
	if (aes)
		crypto_aead_aes256gcm_beforenm(&b->state, b->key);
	values[0] = bench_time(aes ? do_aes : do_xchacha, b);
	return values[0] < 0 ? -1 : 0;
}
