/*
 * seal.c - rows that close and open, and what the cipher alone costs
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "bench.h"

#include <dlfcn.h>
#include <secmalloc.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { AD_BYTES = 32, NONCE_MOST = 32, TAG_MOST = 32, BATCH_CHUNKS = 100000, BATCHES = 3 };

static int
start(unsigned kind, size_t pool_bytes)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.pool_size = pool_bytes;
	c.cipher = kind & BENCH_CIPHER;
	if (kind & BENCH_RESIDENT)
		c.flags = SECMALLOC_KEY_RESIDENT;
	if (kind & BENCH_PREKEY)
		c.prekey_size = 16384;
	if (kind & BENCH_PLAIN)
		c.without = SECMALLOC_HIDDEN;
	return secmalloc_init(&c);
}

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
	if (start(t->kind, bench_arena))
		return -1;

	void *p = secmalloc(t->size);

	if (!p)
		return -1;
	memset(p, 0xa5, t->size);
	values[0] = bench_time(do_close_open, p);
	return values[0] < 0 ? -1 : 0;
}

/* --------------------------------------------------------- libsodium alone */

typedef int seal_fn(unsigned char *, unsigned char *, unsigned long long *, const unsigned char *,
	unsigned long long, const unsigned char *, unsigned long long, const unsigned char *,
	const unsigned char *, const void *);
typedef int open_fn(unsigned char *, unsigned char *, const unsigned char *, unsigned long long,
	const unsigned char *, const unsigned char *, unsigned long long, const unsigned char *,
	const void *);

struct bare {
	unsigned char *text;
	size_t size, step, n; /* n texts, step apart */
	const void *key;      /* or what was expanded of it */
	seal_fn *seal;
	open_fn *open;
	size_t nonce_bytes;
	unsigned char raw[32], ad[AD_BYTES], nonce[NONCE_MOST], tag[TAG_MOST];
	_Alignas(64) crypto_aead_aes256gcm_state state;
};

/* By name: what libsodium 1.0.18 lacks may be in the one that is here. */
static const struct {
	unsigned cipher;
	const char *seal, *open;
	size_t nonce_bytes;
} names[] = {
	{ SECMALLOC_CIPHER_XCHACHA20POLY1305, "crypto_aead_xchacha20poly1305_ietf_encrypt_detached",
		"crypto_aead_xchacha20poly1305_ietf_decrypt_detached", 24 },
	{ SECMALLOC_CIPHER_AES256GCM, "crypto_aead_aes256gcm_encrypt_detached_afternm",
		"crypto_aead_aes256gcm_decrypt_detached_afternm", 12 },
	{ SECMALLOC_CIPHER_AEGIS256, "crypto_aead_aegis256_encrypt_detached",
		"crypto_aead_aegis256_decrypt_detached", 32 },
	{ SECMALLOC_CIPHER_AEGIS128L, "crypto_aead_aegis128l_encrypt_detached",
		"crypto_aead_aegis128l_decrypt_detached", 16 },
};

static int
find(struct bare *b, unsigned cipher)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (names[i].cipher == cipher) {
			*(void **)&b->seal = dlsym(RTLD_DEFAULT, names[i].seal);
			*(void **)&b->open = dlsym(RTLD_DEFAULT, names[i].open);
			b->nonce_bytes = names[i].nonce_bytes;
		}
	return b->seal && b->open ? 0 : -1;
}

static struct bare *
bare(const struct trial *t, size_t n)
{
	unsigned cipher = t->kind & BENCH_CIPHER;
	void *at = NULL, *text = NULL;
	size_t step = (t->size + 15) & ~(size_t)15;

	if (sodium_init() < 0 ||
		(cipher == SECMALLOC_CIPHER_AES256GCM && !crypto_aead_aes256gcm_is_available()) ||
		posix_memalign(&at, 64, sizeof(struct bare)) || posix_memalign(&text, 4096, n * step))
		return NULL;

	struct bare *b = at;

	memset(b, 0, sizeof(*b));
	memset(text, 0xa5, n * step);
	b->text = text;
	b->size = t->size;
	b->step = step;
	b->n = n;
	randombytes_buf(b->raw, sizeof(b->raw));
	b->key = b->raw;
	if (cipher == SECMALLOC_CIPHER_AES256GCM) {
		crypto_aead_aes256gcm_beforenm(&b->state, b->raw);
		b->key = &b->state;
	}
	return find(b, cipher) ? NULL : b;
}

static int
do_bare(void *arg, size_t n)
{
	struct bare *b = arg;

	for (size_t i = 0; i < n; i++) {
		sodium_increment(b->nonce, b->nonce_bytes);
		b->seal(b->text, b->tag, NULL, b->text, b->size, b->ad, AD_BYTES, NULL, b->nonce,
			b->key);
		if (b->open(b->text, NULL, b->text, b->size, b->tag, b->ad, AD_BYTES, b->nonce,
			    b->key))
			return -1;
	}
	return 0;
}

int
bench_bare(const struct trial *t, double *values)
{
	struct bare *b = bare(t, 1);

	values[0] = b ? bench_time(do_bare, b) : -1;
	return values[0] < 0 ? -1 : 0;
}

/* -------------------------------------------------------------- all at once */

int
bench_bare_all(const struct trial *t, double *values)
{
	struct bare *b = bare(t, BATCH_CHUNKS);

	values[0] = -1;
	for (unsigned round = 0; b && round < BATCHES; round++) {
		double from = bench_cpu_now(), took;

		for (size_t i = 0; i < b->n; i++) {
			unsigned char *text = b->text + i * b->step;

			sodium_increment(b->nonce, b->nonce_bytes);
			b->seal(text, b->tag, NULL, text, b->size, b->ad, AD_BYTES, NULL, b->nonce,
				b->key);
		}
		took = (bench_cpu_now() - from) / BATCH_CHUNKS;
		if (values[0] < 0 || took < values[0])
			values[0] = took;
	}
	return values[0] < 0 ? -1 : 0;
}

int
bench_all(const struct trial *t, double *values)
{
	/* one size class has half of it; to hide so much takes seconds */
	if (start(t->kind | BENCH_PLAIN, 2 * BATCH_CHUNKS * (t->size + t->size / 4 + 64)))
		return -1;
	for (size_t i = 0; i < BATCH_CHUNKS; i++) {
		void *p = secmalloc(t->size);

		if (!p)
			return -1;
		memset(p, 0xa5, t->size);
	}
	values[0] = -1;
	for (unsigned round = 0; round < BATCHES; round++) {
		double from = bench_cpu_now(), took;

		if (secmalloc_encrypt_all())
			return -1;
		took = (bench_cpu_now() - from) / BATCH_CHUNKS;
		if (values[0] < 0 || took < values[0])
			values[0] = took;
		if (secmalloc_decrypt_all())
			return -1;
	}
	return 0;
}

/* ------------------------------------------------------------- emergencies */

enum { PURGE_CLOSED = 10000, PURGE_OPEN = 100 };

int
bench_purge(const struct trial *t, double *values)
{
	double from;

	if (start(t->kind, bench_arena))
		return -1;
	for (size_t i = 0; i < PURGE_CLOSED; i++) {
		void *p = secmalloc(32);

		if (!p || secmalloc_encrypt(p))
			return -1;
	}
	for (size_t i = 0; i < PURGE_OPEN; i++) {
		void *p = secmalloc(4096);

		if (!p)
			return -1;
		memset(p, 0xa5, 4096);
	}
	from = bench_now();
	secmalloc_purge();
	values[0] = bench_now() - from;
	return 0;
}
