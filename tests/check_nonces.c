/*
 * check_nonces.c - what reaches libsodium: no pair of key and nonce twice, one hash for an operation
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "key/inside.h"
#include "rooms.h"
#include <sodium.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

int __real_crypto_aead_chacha20poly1305_ietf_encrypt_detached(unsigned char *, unsigned char *,
	unsigned long long *, const unsigned char *, unsigned long long, const unsigned char *,
	unsigned long long, const unsigned char *, const unsigned char *, const unsigned char *);
int __wrap_crypto_aead_chacha20poly1305_ietf_encrypt_detached(unsigned char *, unsigned char *,
	unsigned long long *, const unsigned char *, unsigned long long, const unsigned char *,
	unsigned long long, const unsigned char *, const unsigned char *, const unsigned char *);
int __real_crypto_generichash(unsigned char *, size_t, const unsigned char *, unsigned long long,
	const unsigned char *, size_t);
int __wrap_crypto_generichash(unsigned char *, size_t, const unsigned char *, unsigned long long,
	const unsigned char *, size_t);
int __real_crypto_core_hchacha20(unsigned char *, const unsigned char *, const unsigned char *,
	const unsigned char *);
int __wrap_crypto_core_hchacha20(unsigned char *, const unsigned char *, const unsigned char *,
	const unsigned char *);

enum { PREKEY_BYTES = 16384, USES_MOST = 1 << 18, CHUNKS = 100 };

/** One use: the first bytes of the key, the first bytes of the nonce. */
struct use {
	uint64_t key[2], nonce;
};

/* Shared with children. */
static struct seen {
	_Atomic size_t n;
	struct use use[USES_MOST];
} *seen;
static _Atomic unsigned hashes;
static unsigned char public[2][SM_KEY_BYTES]; /* the self-test's key, and that of sm_cipher_learn */

static bool
is_public(const unsigned char *key)
{
	return memcmp(key, public[0], sizeof(public[0])) == 0 ||
		memcmp(key, public[1], sizeof(public[1])) == 0;
}

int
__wrap_crypto_aead_chacha20poly1305_ietf_encrypt_detached(unsigned char *c, unsigned char *mac,
	unsigned long long *mac_n, const unsigned char *m, unsigned long long n,
	const unsigned char *ad, unsigned long long ad_n, const unsigned char *unused,
	const unsigned char *nonce, const unsigned char *key)
{
	if (seen && !is_public(key)) {
		size_t at = atomic_fetch_add(&seen->n, 1);

		MUST(at < USES_MOST);
		memcpy(seen->use[at].key, key, sizeof(seen->use[at].key));
		memcpy(&seen->use[at].nonce, nonce + 4, sizeof(seen->use[at].nonce));
	}
	return __real_crypto_aead_chacha20poly1305_ietf_encrypt_detached(c, mac, mac_n, m, n, ad,
		ad_n, unused, nonce, key);
}

int
__wrap_crypto_generichash(unsigned char *out, size_t out_n, const unsigned char *in,
	unsigned long long n, const unsigned char *key, size_t key_n)
{
	hashes += n == PREKEY_BYTES;
	return __real_crypto_generichash(out, out_n, in, n, key, key_n);
}

int
__wrap_crypto_core_hchacha20(unsigned char *out, const unsigned char *in, const unsigned char *key,
	const unsigned char *words)
{
	hashes += key == sm_keys.right.half || key == sm_keys.right.next;
	return __real_crypto_core_hchacha20(out, in, key, words);
}

static void
setup(void)
{
	unsigned char key[SM_KEY_BYTES] = { 0 }, nonce[crypto_core_hchacha20_INPUTBYTES] = { 0 };

	MUST(__real_crypto_core_hchacha20(public[0], nonce, key, NULL) == 0);
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (unsigned char)(0x80 + i);
	for (size_t i = 0; i < sizeof(nonce); i++)
		nonce[i] = (unsigned char)(0x40 + i);
	MUST(__real_crypto_core_hchacha20(public[1], nonce, key, NULL) == 0);
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert(seen != MAP_FAILED);
}

static int
always_the_same(unsigned char key[32], void *arg)
{
	(void)arg;
	memset(key, 7, 32);
	return 0;
}

static void
begin(unsigned fork, bool provider, unsigned flags)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.cipher = SECMALLOC_CIPHER_XCHACHA20POLY1305;
	c.fork = fork;
	c.flags = flags;
	c.key_provider = provider ? always_the_same : NULL;
	MUST(secmalloc_init(&c) == 0);
}

/* Closed chunks are moved first, by whatever key, then opened and closed; new ones are closed. */
static void
use_keys(void *chunks[], size_t n)
{
	for (size_t i = 0; i < n; i++) {
		chunks[i] = secrealloc(chunks[i], i % 2 ? 40 : 400);
		MUST(chunks[i] && secmalloc_encrypt(chunks[i]) == 0);
		MUST(secmalloc_decrypt(chunks[i]) == 0 && secmalloc_encrypt(chunks[i]) == 0);
	}
}

static int
by_use(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct use));
}

static void
assert_never_twice(size_t least)
{
	size_t n = seen->n;

	ck_assert_uint_ge(n, least);
	qsort(seen->use, n, sizeof(struct use), by_use);
	for (size_t i = 1; i < n; i++)
		if (by_use(&seen->use[i - 1], &seen->use[i]) == 0)
			ck_abort_msg("nonce %llu twice under one key",
				(unsigned long long)seen->use[i].nonce);
}

static void
wait_for_child(void)
{
	int status;

	ck_assert_int_gt(wait(&status), 0);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
}

/** children_use - a child, its rekey, and its own child, beside what the parent does meanwhile */
static void
children_use(void *chunks[], bool keeps)
{
	void *own[CHUNKS] = { NULL };

	if (fork() == 0) {
		use_keys(keeps ? chunks : own, CHUNKS);
		MUST(secmalloc_rekey() == 0);
		use_keys(keeps ? chunks : own, CHUNKS);
		if (fork() == 0) {
			memset(own, 0, sizeof(own));
			use_keys(keeps ? chunks : own, CHUNKS);
			_exit(0);
		}
		wait_for_child();
		_exit(0);
	}
	use_keys(chunks, CHUNKS);
	wait_for_child();
	use_keys(chunks, CHUNKS);
}

START_TEST(no_key_meets_a_nonce_twice_over_rekeys_children_and_restarts)
{
	bool keeps = _i & 1, provider = _i & 2;

	for (unsigned i = 0; i < 3; i++) {
		void *chunks[CHUNKS] = { NULL };

		begin(keeps ? SECMALLOC_FORK_KEEP : SECMALLOC_FORK_WIPE, provider,
			_i & 4 ? SECMALLOC_KEY_RESIDENT : 0);
		use_keys(chunks, CHUNKS);
		children_use(chunks, keeps);
		ck_assert_int_eq(secmalloc_rekey(), 0);
		children_use(chunks, keeps);
		ck_assert_int_eq(secmalloc_term(), 0);
	}
	assert_never_twice(3 * 2 * CHUNKS);
}
END_TEST

/** touch - in transparent mode it is touching that closes pages, others' too */
static void
touch(unsigned char *chunks[], size_t n)
{
	for (size_t i = 0; i < n; i++)
		chunks[i][i] ^= 1;
	MUST(secmalloc_encrypt_all() == 0);
}

START_TEST(nor_where_pages_are_sealed_and_children_keep_them)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	unsigned char *chunks[CHUNKS];

	c.cipher = SECMALLOC_CIPHER_XCHACHA20POLY1305;
	c.fork = SECMALLOC_FORK_KEEP;
	c.flags = SECMALLOC_TRANSPARENT | (_i & 2 ? SECMALLOC_KEY_RESIDENT : 0);
	c.clear_limit = 32 * 4096;
	c.pool_size = 4 << 20;
	c.key_provider = _i & 1 ? always_the_same : NULL;
	if (secmalloc_init(&c)) {
		ck_assert_int_eq(errno, ENOTSUP);
		return;
	}
	for (size_t i = 0; i < CHUNKS; i++)
		MUST((chunks[i] = secmalloc(3000)) != NULL);
	for (unsigned i = 0; i < 5; i++) {
		touch(chunks, CHUNKS);
		if (fork() == 0) {
			touch(chunks, CHUNKS / 2);
			MUST(i % 2 || secmalloc_rekey() == 0);
			if (fork() == 0) {
				touch(chunks, CHUNKS);
				_exit(0);
			}
			touch(chunks, CHUNKS);
			wait_for_child();
			_exit(0);
		}
		touch(chunks, CHUNKS);
		MUST(secmalloc_rekey() == 0);
		wait_for_child();
	}
	assert_never_twice(5 * 4 * CHUNKS / 2);
}
END_TEST

START_TEST(two_processes_with_one_provider_have_no_key_in_common)
{
	for (unsigned i = 0; i < 2; i++)
		if (fork() == 0) {
			void *chunks[CHUNKS] = { NULL };

			begin(SECMALLOC_FORK_WIPE, true, 0);
			use_keys(chunks, CHUNKS);
			_exit(0);
		}
	wait_for_child();
	wait_for_child();
	assert_never_twice(2 * CHUNKS);
}
END_TEST

/* ------------------------------------------------------------------- hashes */

static unsigned
hashes_of(int (*call)(void *), void *p)
{
	hashes = 0;
	ck_assert_int_eq(call(p), 0);
	return hashes;
}

static int
encrypt_all(void *unused)
{
	(void)unused;
	return secmalloc_encrypt_all();
}

static int
decrypt_all(void *unused)
{
	(void)unused;
	return secmalloc_decrypt_all();
}

static int
rekey(void *unused)
{
	(void)unused;
	return secmalloc_rekey();
}

static int
move_closed(void *p)
{
	return secrealloc(p, 5000) ? 0 : -1;
}

START_TEST(an_operation_or_a_batch_hashes_the_prekey_once_and_a_resident_key_never)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	bool resident = _i % 2;
	unsigned once = resident ? 0 : 1;
	void *p = NULL;

	c.prekey_size = _i < 2 ? PREKEY_BYTES : 0;
	c.resplit_ms = 1000000;
	c.flags = resident ? SECMALLOC_KEY_RESIDENT : 0;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	for (size_t i = 0; i < CHUNKS; i++)
		ck_assert_ptr_nonnull(p = secmalloc(40));
	ck_assert_uint_eq(hashes_of(secmalloc_encrypt, p), once);
	ck_assert_uint_eq(hashes_of(secmalloc_decrypt, p), once);
	ck_assert_uint_eq(hashes_of(secmalloc_hold, p), 0);
	ck_assert_uint_eq(hashes_of(secmalloc_release, p), 0);
	ck_assert_uint_eq(hashes_of(encrypt_all, NULL), once);
	ck_assert_uint_eq(hashes_of(decrypt_all, NULL), once);
	ck_assert_uint_eq(hashes_of(encrypt_all, NULL), once);
	ck_assert_uint_eq(hashes_of(rekey, NULL), resident ? 1 : 2); /* two keys, for all chunks */
	ck_assert_uint_eq(hashes_of(move_closed, p), once);
}
END_TEST

/* ------------------------------------------------------------------- rounds */

START_TEST(rounds_of_closing_and_opening_give_no_false_alarm)
{
	const char *asked = getenv("SECMALLOC_ROUNDS");
	unsigned long rounds = asked ? strtoul(asked, NULL, 10) : 100000;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	unsigned char *p;

	munmap(seen, sizeof(*seen));
	seen = NULL;
	ck_assert_int_eq(secmalloc_init(NULL), 0);
	p = launder(secmalloc(48));
	ck_assert_ptr_nonnull(p);
	fill(p, 48, 1);
	for (unsigned long i = 0; i < rounds; i++)
		EACH(secmalloc_encrypt(p) == 0 && secmalloc_decrypt(p) == 0 && filled(p, 48, 1));
	ck_assert_int_eq(secmalloc_stats(&s), 0);
	ck_assert_uint_eq(s.tampered, 0);
	ck_assert_uint_eq(s.seals, rounds);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("nonces");
	TCase *tc = tcase_create("nonces");

	tcase_set_timeout(tc, 3600);
	tcase_add_checked_fixture(tc, setup, NULL);
	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc, no_key_meets_a_nonce_twice_over_rekeys_children_and_restarts, 0, 8);
	tcase_add_loop_test(tc, nor_where_pages_are_sealed_and_children_keep_them, 0, 4);
	tcase_add_test(tc, two_processes_with_one_provider_have_no_key_in_common);
	tcase_add_loop_test(tc,
		an_operation_or_a_batch_hashes_the_prekey_once_and_a_resident_key_never, 0, 4);
	tcase_add_test(tc, rounds_of_closing_and_opening_give_no_false_alarm);
	return run_rooms(s);
}
