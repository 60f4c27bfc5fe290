/*
 * check_contract_key.c - the contract: prekeys, a resident key, keys that a provider gives
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"

/** works - chunks close and open under this config, through re-splits */
static void
works(const struct secmalloc_config *c)
{
	unsigned char *p;

	ck_assert_msg(secmalloc_init(c) == 0, "%s", secmalloc_error());
	p = secmalloc(1000);
	fill(p, 1000, 3);
	for (int i = 0; i < 30; i++) {
		SUCCEEDS(secmalloc_encrypt(p));
		ck_assert(!filled(p, 1000, 3));
		usleep(2000);
		SUCCEEDS(secmalloc_decrypt(p));
		ck_assert(filled(p, 1000, 3));
	}
	SUCCEEDS(secmalloc_encrypt(p));
	spoil(p, 999);
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(p));
	ck_assert_int_eq(secmalloc_term(), 0);
}

START_TEST(a_prekey_of_any_size_works)
{
	static const size_t sizes[] = { 32, 33, 1000, 4096, 16384, 100000, 1048576 };
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.prekey_size = sizes[_i];
	c.resplit_ms = 5;
	works(&c);
}
END_TEST

START_TEST(a_prekey_out_of_range_is_EINVAL)
{
	static const size_t sizes[] = { 1, 31, 1048577, SIZE_MAX };
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	for (size_t i = 0; i < 4; i++) {
		c.prekey_size = sizes[i];
		FAILS_WITH(EINVAL, -1, secmalloc_init(&c));
		ck_assert_ptr_nonnull(strstr(secmalloc_error(), "prekey_size"));
	}
}
END_TEST

START_TEST(a_prekeys_pages_are_locked)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	uint64_t small;

	c.pool_size = 65536;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	small = stats_now().locked_bytes;
	secmalloc_term();
	c.prekey_size = 1048576;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	ck_assert_uint_ge(stats_now().locked_bytes, small + 2 * 1048576 - 4096);
	secmalloc_term();
}
END_TEST

START_TEST(a_resident_key_works_with_every_cipher)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = SECMALLOC_KEY_RESIDENT;
	c.cipher = (unsigned)_i;
	c.prekey_size = 16384;
	works(&c);
}
END_TEST

/* -------------------------------------------------------------- providers */

/** struct answer - what a provider says, and how often it was asked */
struct answer {
	int e;
	unsigned asked;
	unsigned char byte;
};

static int
provide(unsigned char key[32], void *arg)
{
	struct answer *a = arg;

	a->asked++;
	memset(key, a->byte, 32);
	return a->e;
}

START_TEST(a_provider_is_asked_once_a_start)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct answer a = { 0, 0, 7 };

	c.key_provider = provide;
	c.key_arg = &a;
	works(&c);
	ck_assert_uint_eq(a.asked, 1);
	c.flags = SECMALLOC_KEY_RESIDENT;
	works(&c);
	ck_assert_uint_eq(a.asked, 2);
}
END_TEST

START_TEST(a_providers_errno_value_is_that_of_init)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct answer a = { EACCES, 0, 7 };

	c.key_provider = provide;
	c.key_arg = &a;
	FAILS_WITH(EACCES, -1, secmalloc_init(&c));
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "key_provider"));
	ck_assert_uint_eq(stats_now().locked_bytes, 0);
	a.e = -1;
	FAILS_WITH(EIO, -1, secmalloc_init(&c));
	a.e = 0;
	works(&c);
}
END_TEST

/** ciphertext_of - what a chunk of zeros becomes at the first close after a start */
static void
ciphertext_of(const struct secmalloc_config *c, unsigned char out[64])
{
	unsigned char *p;

	ck_assert_int_eq(secmalloc_init(c), 0);
	p = secmalloc(64);
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	memcpy(out, p, 64);
	ck_assert_int_eq(secmalloc_term(), 0);
}

START_TEST(the_same_answer_never_makes_the_same_key)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct answer a = { 0, 0, 7 };
	unsigned char seen[8][64];

	c.key_provider = provide;
	c.key_arg = &a;
	for (int i = 0; i < 8; i++) {
		ciphertext_of(&c, seen[i]); /* the first nonce each time: only the key differs */
		for (int k = 0; k < i; k++)
			ck_assert_int_ne(memcmp(seen[i], seen[k], 64), 0);
	}
}
END_TEST

START_TEST(a_childs_start_asks_the_provider_again)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct answer a = { 0, 0, 7 };
	int status;
	pid_t pid;

	c.key_provider = provide;
	c.key_arg = &a;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	pid = fork();
	if (pid == 0)
		_exit(secmalloc(10) && a.asked == 2 ? 0 : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_key");
	TCase *tc = add_case(s, "prekey", 0);

	tcase_add_loop_test(tc, a_prekey_of_any_size_works, 0, 7);
	tcase_add_test(tc, a_prekey_out_of_range_is_EINVAL);
	tcase_add_test(tc, a_prekeys_pages_are_locked);
	tc = add_case(s, "resident", 0);
	tcase_add_loop_test(tc, a_resident_key_works_with_every_cipher, 0, 3);
	tc = add_case(s, "provider", 0);
	tcase_add_test(tc, a_provider_is_asked_once_a_start);
	tcase_add_test(tc, a_providers_errno_value_is_that_of_init);
	tcase_add_test(tc, the_same_answer_never_makes_the_same_key);
	tcase_add_test(tc, a_childs_start_asks_the_provider_again);
	return run(s);
}
