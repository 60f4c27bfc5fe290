/*
 * check_contract_life.c - the contract: init, term and the fields of config
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <limits.h>
#include <sys/prctl.h>

#define USUAL (SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_NODUMP | SECMALLOC_FORKSAFE)

/** idle - nothing runs: stats answers 0 with every field but live_at_term 0 */
static void
assert_idle(uint64_t live_at_term)
{
	struct secmalloc_stats want = SECMALLOC_STATS_INIT;
	struct secmalloc_stats s;

	memset(&s, 0xa5, sizeof(s));
	s.struct_size = sizeof(s);
	SUCCEEDS(secmalloc_stats(&s));
	want.live_at_term = live_at_term;
	ck_assert_int_eq(memcmp(&s, &want, offsetof(struct secmalloc_stats, mode)), 0);
	ck_assert_uint_eq(s.mode, 0);
}

/** assert_refused - init(c) fails with code, leaves nothing behind, and a proper init works */
static void
assert_refused(const struct secmalloc_config *c, int code)
{
	errno = 0;
	ck_assert_int_eq(secmalloc_init(c), -1);
	ck_assert_msg(errno == code, "errno %d, not %d: %s", errno, code, secmalloc_error());
	ck_assert_str_ne(secmalloc_error(), "no error");
	assert_idle(0);
	SUCCEEDS(secmalloc_init(NULL));
	SUCCEEDS(secmalloc_term());
}

/** assert_accepted - init(c) succeeds and what it started works; answers its stats */
static struct secmalloc_stats
assert_accepted(const struct secmalloc_config *c)
{
	struct secmalloc_stats s;
	char *p;

	SUCCEEDS(secmalloc_init(c));
	s = stats_now();
	p = secmalloc(100);
	ck_assert_msg(p != NULL, "%s", secmalloc_error());
	fill(p, 100, 1);
	SUCCEEDS(secmalloc_encrypt(p));
	SUCCEEDS(secmalloc_decrypt(p));
	ck_assert(filled(p, 100, 1));
	secfree(p);
	SUCCEEDS(secmalloc_term());
	return s;
}

START_TEST(init_with_null_grants_the_usual_protections)
{
	struct secmalloc_stats s;

	SUCCEEDS(secmalloc_init(NULL));
	s = stats_now();
	ck_assert_uint_eq(s.granted & USUAL, USUAL);
	ck_assert_uint_eq(s.granted & SECMALLOC_UNTRACEABLE, 0);
	ck_assert_uint_eq(s.pools, 1);
	ck_assert_uint_gt(s.pool_bytes, 0);
	ck_assert_uint_le(s.pool_bytes, MIB);
	ck_assert_uint_ge(s.locked_bytes, s.pool_bytes);
	ck_assert_uint_ne(s.cipher, SECMALLOC_CIPHER_AUTO);
	ck_assert_uint_eq(s.chunks + s.bytes + s.bytes_clear + s.seals + s.unseals, 0);
	SUCCEEDS(secmalloc_term());
}
END_TEST

START_TEST(a_first_allocation_starts_the_library)
{
	void *p;

	errno = ENOTTY;
	p = secmalloc(10);
	ck_assert_ptr_nonnull(p);
	ck_assert_int_eq(errno, ENOTTY);
	ck_assert_uint_eq(stats_now().granted & USUAL, USUAL);
	FAILS_WITH(EALREADY, -1, secmalloc_init(NULL));
	secfree(p);
	SUCCEEDS(secmalloc_term());
}
END_TEST

START_TEST(init_while_running_changes_nothing)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	char *p;

	SUCCEEDS(secmalloc_init(NULL));
	p = secstrdup("still here");
	c.cipher = SECMALLOC_CIPHER_XCHACHA20POLY1305;
	FAILS_WITH(EALREADY, -1, secmalloc_init(&c));
	FAILS_WITH(EALREADY, -1, secmalloc_init(NULL));
	ck_assert_str_eq(p, "still here");
	ck_assert_uint_eq(stats_now().chunks, 1);
	secfree(p);
	SUCCEEDS(secmalloc_term());
}
END_TEST

START_TEST(before_init_and_after_term_nothing_runs)
{
	for (int round = 0; round < 3; round++) {
		assert_idle(0);
		SUCCEEDS(secmalloc_encrypt_all());
		SUCCEEDS(secmalloc_decrypt_all());
		SUCCEEDS(secmalloc_term());
		SUCCEEDS(secmalloc_term());
		assert_idle(0);
		SUCCEEDS(secmalloc_init(NULL));
		SUCCEEDS(secmalloc_term());
	}
}
END_TEST

START_TEST(live_at_term_is_kept_until_the_next_init)
{
	SUCCEEDS(secmalloc_init(NULL));
	for (int i = 0; i < 3; i++)
		ck_assert_ptr_nonnull(secmalloc(64));
	ck_assert_int_eq(secmalloc_encrypt(secmalloc(100 * KIB)), 0);
	secfree(secmalloc(10));
	SUCCEEDS(secmalloc_term());
	assert_idle(4);
	SUCCEEDS(secmalloc_term());
	SUCCEEDS(secmalloc_init(NULL));
	ck_assert_uint_eq(stats_now().live_at_term, 0);
	SUCCEEDS(secmalloc_term());
	assert_idle(0);
}
END_TEST

START_TEST(a_pointer_from_before_term_is_foreign)
{
	void *small, *large;

	for (int again = 0; again < 2; again++) {
		SUCCEEDS(secmalloc_init(NULL));
		small = secmalloc(64);
		large = secmalloc(100 * KIB);
		ck_assert(small != NULL && large != NULL);
		SUCCEEDS(secmalloc_term());
		if (again)
			SUCCEEDS(secmalloc_init(NULL));
		ck_assert_int_eq(secmalloc_owns(small) + secmalloc_owns(large), 0);
		FAILS_WITH(EINVAL, 0, secmalloc_usable_size(small));
		FAILS_WITH(EINVAL, -1, secmalloc_encrypt(small));
		FAILS_WITH(EINVAL, -1, secmalloc_decrypt(large));
		FAILS_WITH(EINVAL, -1, secmalloc_is_encrypted(large));
		FAILS_WITH(EINVAL, -1, secmalloc_protect(large, SECMALLOC_READONLY));
		SUCCEEDS(secmalloc_term());
	}
}
END_TEST

START_TEST(a_struct_of_another_size_is_understood_or_refused)
{
	union {
		struct secmalloc_config c;
		unsigned char bytes[sizeof(struct secmalloc_config) + 8192];
	} u;

	memset(&u, 0, sizeof(u));
	assert_refused(&u.c, EINVAL);
	u.c.struct_size = sizeof(size_t);
	assert_refused(&u.c, EINVAL);
	u.c.struct_size = sizeof(u.c) - 1;
	assert_refused(&u.c, EINVAL);
	u.c.struct_size = offsetof(struct secmalloc_config, daemon) - 1;
	assert_refused(&u.c, EINVAL);
	u.c.daemon = "/nowhere/at/all"; /* of a program that knows no such field: whatever lies there */
	u.c.struct_size = offsetof(struct secmalloc_config, daemon);
	assert_accepted(&u.c);
	u.c.daemon = NULL;
	u.c.struct_size = sizeof(u.c) + 1;
	assert_accepted(&u.c);
	u.c.struct_size = sizeof(u);
	assert_accepted(&u.c);
	u.bytes[sizeof(u) - 1] = 1;
	assert_refused(&u.c, EINVAL);
	u.c.struct_size = sizeof(u) - 1;
	assert_accepted(&u.c);
	u.bytes[sizeof(u.c)] = 0x80;
	assert_refused(&u.c, EINVAL);
}
END_TEST

START_TEST(unknown_bits_and_values_are_einval)
{
	for (unsigned bit = SECMALLOC_UNTRACEABLE << 1; bit != 0; bit <<= 1) {
		struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

		c.require = USUAL | bit;
		FAILS_WITH(EINVAL, -1, secmalloc_init(&c));
		c.require = 0;
		c.without = bit;
		FAILS_WITH(EINVAL, -1, secmalloc_init(&c));
	}
	for (unsigned bit = SECMALLOC_NO_THREAD << 1; bit != 0; bit <<= 1) {
		struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

		c.flags = bit;
		FAILS_WITH(EINVAL, -1, secmalloc_init(&c));
	}
	for (unsigned over = 1; over != 0; over <<= 1) {
		struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

		c.fork = over > SECMALLOC_FORK_KEEP ? over : UINT_MAX;
		FAILS_WITH(EINVAL, -1, secmalloc_init(&c));
		c.fork = 0;
		c.cipher = over > SECMALLOC_CIPHER_AEGIS128L ? over : UINT_MAX;
		FAILS_WITH(EINVAL, -1, secmalloc_init(&c));
	}
	assert_idle(0);
}
END_TEST

START_TEST(a_bit_in_both_require_and_without_is_einval)
{
	for (unsigned bit = 1; bit <= SECMALLOC_UNTRACEABLE; bit <<= 1) {
		struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

		c.require = c.without = bit;
		assert_refused(&c, EINVAL);
	}
}
END_TEST

START_TEST(fewer_max_pools_than_initial_pools_is_einval)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.initial_pools = 2;
	c.max_pools = 1;
	assert_refused(&c, EINVAL);
	c.max_pools = 2;
	ck_assert_uint_eq(assert_accepted(&c).pools, 2);
}
END_TEST

START_TEST(what_transparent_mode_cannot_do_is_enotsup)
{
	const struct secmalloc_config init = SECMALLOC_CONFIG_INIT;
	struct secmalloc_config c[2];

	for (size_t i = 0; i < 2; i++)
		c[i] = init;
	c[0].flags = c[1].flags = SECMALLOC_TRANSPARENT;
	c[0].require = SECMALLOC_HIDDEN;
	c[1].without = SECMALLOC_LOCKED;
	for (size_t i = 0; i < 2; i++)
		assert_refused(&c[i], ENOTSUP);
	c[0] = init;
	c[0].flags = SECMALLOC_NO_THREAD;
	c[0].prekey_size = 32;
	c[0].resplit_ms = 1;
	assert_accepted(&c[0]);
}
END_TEST

START_TEST(a_pool_size_is_rounded_up_to_pages_and_never_shrinks)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const size_t asked[] = {4 * page, 16 * page + 1, 100000, MIB - 1, 3 * MIB};

	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
		struct secmalloc_stats s;

		c.pool_size = asked[i];
		SUCCEEDS(secmalloc_init(&c));
		s = stats_now();
		ck_assert_uint_eq(s.pools, 1);
		ck_assert_uint_eq(s.pool_bytes, (asked[i] + page - 1) / page * page);
		SUCCEEDS(secmalloc_term());
	}
}
END_TEST

START_TEST(absurd_pool_sizes_are_refused)
{
	const size_t asked[] = {SIZE_MAX, SIZE_MAX - 4094, SIZE_MAX / 2, SIZE_MAX / 4};

	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

		c.pool_size = asked[i];
		c.initial_pools = 8;
		errno = 0;
		ck_assert_int_eq(secmalloc_init(&c), -1);
		ck_assert(errno == EINVAL || errno == ENOMEM);
		assert_idle(0);
	}
	SUCCEEDS(secmalloc_init(NULL));
	SUCCEEDS(secmalloc_term());
}
END_TEST

START_TEST(initial_pools_are_there_and_locked_after_init)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s;

	c.pool_size = 128 * KIB;
	c.initial_pools = 5;
	s = assert_accepted(&c);
	ck_assert_uint_eq(s.pools, 5);
	ck_assert_uint_eq(s.pool_bytes, 5 * 128 * KIB);
	ck_assert_uint_ge(s.locked_bytes, s.pool_bytes);
}
END_TEST

START_TEST(max_pools_ends_in_enomem_and_frees_help)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	void *all[4096];
	size_t n = 0;

	c.pool_size = 256 * KIB;
	c.max_pools = 2;
	SUCCEEDS(secmalloc_init(&c));
	for (int round = 0; round < 3; round++) {
		for (n = 0; n < 4096 && (all[n] = secmalloc(1000)) != NULL; n++)
			fill(all[n], 1000, (unsigned)n);
		ck_assert_int_eq(errno, ENOMEM);
		ck_assert_uint_gt(n, 100);
		ck_assert_uint_lt(n, 2 * 256 * KIB / 1000);
		ck_assert_uint_eq(stats_now().pools, 2);
		ck_assert_uint_eq(stats_now().chunks, n);
		while (n-- > 0) {
			ck_assert(filled(all[n], 1000, (unsigned)n));
			secfree(all[n]);
		}
	}
	ck_assert_uint_le(stats_now().pools, 2);
	SUCCEEDS(secmalloc_term());
}
END_TEST

START_TEST(without_is_never_granted)
{
	const unsigned all = USUAL | SECMALLOC_HIDDEN;

	for (unsigned without = 0; without <= all; without++) {
		struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
		struct secmalloc_stats s;

		c.pool_size = 64 * KIB;
		c.without = without | SECMALLOC_HIDDEN;
		s = assert_accepted(&c);
		ck_assert_uint_eq(s.granted & USUAL, USUAL & ~without);
		ck_assert_uint_eq(s.granted & SECMALLOC_HIDDEN, 0);
	}
}
END_TEST

START_TEST(hidden_is_granted_or_its_requirement_is_enotsup)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.require = SECMALLOC_HIDDEN;
	errno = 0;
	if (secmalloc_init(&c) == 0) {
		ck_assert_uint_eq(stats_now().granted & SECMALLOC_HIDDEN, SECMALLOC_HIDDEN);
		ck_assert_ptr_nonnull(secmalloc(100 * KIB));
		ck_assert_uint_eq(stats_now().granted & SECMALLOC_HIDDEN, SECMALLOC_HIDDEN);
		SUCCEEDS(secmalloc_term());
	} else {
		assert_refused(&c, ENOTSUP);
	}
}
END_TEST

static void
become_untraceable(void *arg)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	(void)arg;
	MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	MUST(secmalloc_init(NULL) == 0);
	MUST(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1);
	MUST(secmalloc_term() == 0);
	c.require = SECMALLOC_UNTRACEABLE;
	MUST(secmalloc_init(&c) == 0);
	MUST(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
	MUST(secmalloc_stats(&s) == 0 && (s.granted & SECMALLOC_UNTRACEABLE));
	MUST(secmalloc_term() == 0);
	MUST(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
}

START_TEST(a_process_is_made_undumpable_only_when_that_is_required)
{
	assert_exits_0(become_untraceable, NULL);
}
END_TEST

START_TEST(limits_and_signal_handlers_stay_as_they_were)
{
	struct rlimit before[16], after[16];
	struct sigaction segv, abrt, act;

	ck_assert_int_eq(sigaction(SIGSEGV, NULL, &segv), 0);
	ck_assert_int_eq(sigaction(SIGABRT, NULL, &abrt), 0);
	for (int i = 0; i < 16; i++)
		ck_assert_int_eq(getrlimit(i, &before[i]), 0);
	SUCCEEDS(secmalloc_init(NULL));
	secfree(secmalloc(100));
	for (int i = 0; i < 16; i++) {
		ck_assert_int_eq(getrlimit(i, &after[i]), 0);
		ck_assert_uint_eq(before[i].rlim_cur, after[i].rlim_cur);
		ck_assert_uint_eq(before[i].rlim_max, after[i].rlim_max);
	}
	ck_assert_int_eq(sigaction(SIGSEGV, NULL, &act), 0);
	ck_assert(act.sa_handler == segv.sa_handler);
	ck_assert_int_eq(sigaction(SIGABRT, NULL, &act), 0);
	ck_assert(act.sa_handler == abrt.sa_handler);
	SUCCEEDS(secmalloc_term());
}
END_TEST

/** assert_used - this cipher is what runs, or ENOTSUP; 1: it runs */
static int
assert_used(unsigned cipher)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.cipher = cipher;
	if (secmalloc_init(&c) != 0) {
		assert_refused(&c, ENOTSUP);
		return 0;
	}
	SUCCEEDS(secmalloc_term());
	ck_assert_uint_eq(assert_accepted(&c).cipher, cipher);
	return 1;
}

START_TEST(the_cipher_asked_for_is_used_or_enotsup)
{
	unsigned best = SECMALLOC_CIPHER_XCHACHA20POLY1305;

	ck_assert(assert_used(best));
	if (assert_used(SECMALLOC_CIPHER_AES256GCM))
		best = SECMALLOC_CIPHER_AES256GCM;
	if (assert_used(SECMALLOC_CIPHER_AEGIS256))
		best = SECMALLOC_CIPHER_AEGIS256;
	assert_used(SECMALLOC_CIPHER_AEGIS128L);
	ck_assert_uint_eq(assert_accepted(NULL).cipher, best);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: life");
	TCase *bare = add_case(s, "not running", 0);

	tcase_add_test(bare, init_with_null_grants_the_usual_protections);
	tcase_add_test(bare, a_first_allocation_starts_the_library);
	tcase_add_test(bare, init_while_running_changes_nothing);
	tcase_add_test(bare, before_init_and_after_term_nothing_runs);
	tcase_add_test(bare, live_at_term_is_kept_until_the_next_init);
	tcase_add_test(bare, a_pointer_from_before_term_is_foreign);
	tcase_add_test(bare, a_struct_of_another_size_is_understood_or_refused);
	tcase_add_test(bare, unknown_bits_and_values_are_einval);
	tcase_add_test(bare, a_bit_in_both_require_and_without_is_einval);
	tcase_add_test(bare, fewer_max_pools_than_initial_pools_is_einval);
	tcase_add_test(bare, what_transparent_mode_cannot_do_is_enotsup);
	tcase_add_test(bare, a_pool_size_is_rounded_up_to_pages_and_never_shrinks);
	tcase_add_test(bare, absurd_pool_sizes_are_refused);
	tcase_add_test(bare, initial_pools_are_there_and_locked_after_init);
	tcase_add_test(bare, max_pools_ends_in_enomem_and_frees_help);
	tcase_add_test(bare, without_is_never_granted);
	tcase_add_test(bare, hidden_is_granted_or_its_requirement_is_enotsup);
	tcase_add_test(bare, a_process_is_made_undumpable_only_when_that_is_required);
	tcase_add_test(bare, limits_and_signal_handlers_stay_as_they_were);
	tcase_add_test(bare, the_cipher_asked_for_is_used_or_enotsup);
	return run(s);
}
