/*
 * check_contract_stats.c - the contract: stats, error text, version, and what is refused
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <pthread.h>

/** assert_counts - the live chunks and bytes are these */
static void
assert_counts(uint64_t chunks, uint64_t sealed, uint64_t bytes, uint64_t clear)
{
	const struct secmalloc_stats s = stats_now();

	ck_assert_uint_eq(s.chunks, chunks);
	ck_assert_uint_eq(s.chunks_encrypted, sealed);
	ck_assert_uint_eq(s.bytes, bytes);
	ck_assert_uint_eq(s.bytes_clear, clear);
}

START_TEST(chunks_and_bytes_are_counted_exactly)
{
	void *a, *b, *c;

	assert_counts(0, 0, 0, 0);
	a = secmalloc(100);
	b = secmalloc(70000);
	c = secmalloc(0);
	assert_counts(3, 0, 70100, 70100);
	ck_assert_int_eq(secmalloc_encrypt(b), 0);
	assert_counts(3, 1, 70100, 100);
	ck_assert_int_eq(secmalloc_encrypt(c), 0);
	assert_counts(3, 2, 70100, 100);
	a = secrealloc(a, 250);
	assert_counts(3, 2, 70250, 250);
	b = secrealloc(b, 80000);
	assert_counts(3, 2, 80250, 250);
	b = secrealloc(b, 10);
	assert_counts(3, 2, 260, 250);
	ck_assert_int_eq(secmalloc_decrypt(b), 0);
	assert_counts(3, 1, 260, 260);
	secfree(b);
	secfree(c);
	assert_counts(1, 0, 250, 250);
	secfree(a);
	assert_counts(0, 0, 0, 0);
}
END_TEST

START_TEST(calls_that_fail_count_nothing)
{
	void *p = secmalloc(48);

	ck_assert_ptr_null(secmalloc(launder_size(SIZE_MAX)));
	ck_assert_ptr_null(seccalloc(launder_size(SIZE_MAX), 2));
	ck_assert_ptr_null(secrealloc(p, launder_size(SIZE_MAX / 2)));
	ck_assert_ptr_null(secaligned_alloc(3, 10));
	ck_assert_ptr_null(secstrdup(NULL));
	assert_counts(1, 0, 48, 48);
	ck_assert_uint_eq(stats_now().bytes_high_water, 48);
}
END_TEST

START_TEST(the_high_water_mark_stays)
{
	void *a = secmalloc(5000), *b = secmalloc(60000);

	secfree(b);
	b = secmalloc(100);
	secfree(a);
	ck_assert_uint_eq(stats_now().bytes_high_water, 65000);
	ck_assert_int_eq(secmalloc_term(), 0);
	ck_assert_int_eq(secmalloc_init(NULL), 0);
	ck_assert_uint_eq(stats_now().bytes_high_water, 0);
}
END_TEST

START_TEST(seals_unseals_and_tampering_are_counted_once_each)
{
	unsigned char *p = secmalloc(64);
	struct secmalloc_stats s;

	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	s = stats_now();
	ck_assert_uint_eq(s.seals, 1);
	ck_assert_uint_eq(s.unseals, 0);
	spoil(p, 5);
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(p));
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(p));
	spoil(p, 5);
	ck_assert_int_eq(secmalloc_decrypt(p), 0);
	ck_assert_int_eq(secmalloc_decrypt(p), 0);
	s = stats_now();
	ck_assert_uint_eq(s.tampered, 2);
	ck_assert_uint_eq(s.seals, 1);
	ck_assert_uint_eq(s.unseals, 1);
	ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	ck_assert_int_eq(secmalloc_decrypt_all(), 0);
	s = stats_now();
	ck_assert_uint_eq(s.seals, 2);
	ck_assert_uint_eq(s.unseals, 2);
	ck_assert_uint_eq(s.reseals + s.faults_served + s.mode, 0);
}
END_TEST

START_TEST(pools_and_their_bytes_grow_with_what_is_asked_for)
{
	const struct secmalloc_stats before = stats_now();
	struct secmalloc_stats s;
	void *p = secmalloc(3 * MIB);

	if (p == NULL) {
		ck_assert_int_eq(errno, ENOMEM);
		return;
	}
	s = stats_now();
	ck_assert_uint_gt(s.pools, before.pools);
	ck_assert_uint_ge(s.pool_bytes, before.pool_bytes + 3 * MIB);
	ck_assert_uint_ge(s.locked_bytes, before.locked_bytes + 3 * MIB);
}
END_TEST

START_TEST(stats_of_null_or_of_no_size_is_einval)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	FAILS_WITH(EINVAL, -1, secmalloc_stats(NULL));
	s.struct_size = 0;
	FAILS_WITH(EINVAL, -1, secmalloc_stats(&s));
	s.struct_size = sizeof(size_t) - 1;
	FAILS_WITH(EINVAL, -1, secmalloc_stats(&s));
	s.struct_size = sizeof(s);
	SUCCEEDS(secmalloc_stats(&s));
}
END_TEST

START_TEST(a_shorter_stats_struct_is_filled_and_nothing_behind_it)
{
	struct secmalloc_stats s;
	const unsigned char *bytes = (const unsigned char *)&s;

	ck_assert_ptr_nonnull(secmalloc(33));
	for (size_t n = sizeof(size_t); n <= sizeof(s); n++) {
		memset(&s, 0xa5, sizeof(s));
		s.struct_size = n;
		SUCCEEDS(secmalloc_stats(&s));
		ck_assert_uint_eq(s.struct_size, n);
		for (size_t i = n; i < sizeof(s); i++)
			ck_assert_uint_eq(bytes[i], 0xa5);
		if (n >= offsetof(struct secmalloc_stats, bytes) + sizeof(s.bytes)) {
			ck_assert_uint_eq(s.chunks, 1);
			ck_assert_uint_eq(s.bytes, 33);
		}
	}
}
END_TEST

START_TEST(a_longer_stats_struct_ends_in_zeros)
{
	union {
		struct secmalloc_stats s;
		unsigned char bytes[sizeof(struct secmalloc_stats) + 104];
	} u;

	memset(&u, 0xa5, sizeof(u));
	u.s.struct_size = sizeof(u) - 1;
	SUCCEEDS(secmalloc_stats(&u.s));
	ck_assert_uint_eq(u.s.struct_size, sizeof(u) - 1);
	ck_assert_uint_eq(u.s.chunks, 0);
	ck_assert(all_zero(u.bytes + sizeof(u.s), 103));
	ck_assert_uint_eq(u.bytes[sizeof(u) - 1], 0xa5);
}
END_TEST

START_TEST(there_is_no_error_before_the_first)
{
	ck_assert_str_eq(secmalloc_error(), "no error");
	ck_assert_int_eq(secmalloc_init(NULL), 0);
	secfree(secmalloc(10));
	ck_assert_str_eq(secmalloc_error(), "no error");
	ck_assert_int_eq(secmalloc_term(), 0);
	ck_assert_str_eq(secmalloc_error(), "no error");
}
END_TEST

/** struct narrow - a limit on address space, and which share of it is tried with malloc */
struct narrow {
	size_t limit, share;
};

static void
init_in_a_narrow_space(void *arg)
{
	const struct narrow *n = arg;
	const struct rlimit r = {n->limit, n->limit};
	char *p;

	MUST(setrlimit(RLIMIT_AS, &r) == 0);
	MUST(secmalloc_init(NULL) == 0);
	p = secmalloc(50000);
	MUST(p != NULL);
	if (n->share == 0)
		MUST(strcmp(secmalloc_error(), "no error") == 0);
	else
		MUST(malloc(launder_size(n->limit / n->share)) != NULL);
}

/** assert_in_narrow_spaces - the same under limits of 100 MiB to 3 GiB */
static void
assert_in_narrow_spaces(const char *test, size_t share)
{
	if (SANITIZED)
		printf("skipped: %s, for a sanitizer needs all address space\n", test);
	if (SANITIZED || under_valgrind(test))
		return;
	for (size_t mib = 100; mib < 3000; mib += mib / 3) {
		struct narrow n = {mib * MIB, share};

		assert_exits_0(init_in_a_narrow_space, &n);
	}
}

START_TEST(a_success_that_took_a_second_try_is_no_error)
{
	assert_in_narrow_spaces(__func__, 0);
}
END_TEST

START_TEST(the_program_keeps_an_eighth_of_a_limited_address_space)
{
	assert_in_narrow_spaces(__func__, 8);
}
END_TEST

/** assert_one_line - the last failure left one line of text, not that of the one before */
static void
assert_one_line(char *previous, size_t room)
{
	const char *now = secmalloc_error();

	ck_assert_uint_gt(strlen(now), 10);
	ck_assert_ptr_null(strchr(now, '\n'));
	ck_assert_str_ne(now, "no error");
	ck_assert_str_ne(now, previous);
	snprintf(previous, room, "%s", now);
}

START_TEST(each_failure_leaves_one_line_that_tells_it_from_others)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	char previous[512] = "";
	void *p = secmalloc(10);

	FAILS_WITH(EALREADY, -1, secmalloc_init(NULL));
	assert_one_line(previous, sizeof(previous));
	FAILS_WITH(ENOMEM, NULL, secmalloc(launder_size(SIZE_MAX)));
	assert_one_line(previous, sizeof(previous));
	FAILS_WITH(EINVAL, NULL, secaligned_alloc(3, 10));
	assert_one_line(previous, sizeof(previous));
	FAILS_WITH(EINVAL, -1, secmalloc_encrypt(&c));
	assert_one_line(previous, sizeof(previous));
	FAILS_WITH(ENOTSUP, -1, secmalloc_protect(p, SECMALLOC_READONLY));
	assert_one_line(previous, sizeof(previous));
	FAILS_WITH(EINVAL, -1, secmalloc_lock("", 0));
	assert_one_line(previous, sizeof(previous));
	FAILS_WITH(EINVAL, -1, secmalloc_unlock("material", 8));
	assert_one_line(previous, sizeof(previous));
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	spoil(p, 0);
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(p));
	assert_one_line(previous, sizeof(previous));
	spoil(p, 0);
	SUCCEEDS(secmalloc_decrypt(p));
	ck_assert_str_eq(secmalloc_error(), previous);
	ck_assert_int_eq(secmalloc_term(), 0);
	c.require = 0x4000;
	FAILS_WITH(EINVAL, -1, secmalloc_init(&c));
	assert_one_line(previous, sizeof(previous));
}
END_TEST

static void *
other_thread(void *arg)
{
	const char *unspoilt = secmalloc_error();

	(void)arg;
	if (strcmp(unspoilt, "no error") != 0)
		return "a new thread has an error already";
	if (secmalloc_lock(NULL, 8) != -1 || strcmp(secmalloc_error(), "no error") == 0)
		return "a failure left no text";
	return NULL;
}

START_TEST(each_thread_has_its_own_error)
{
	char before[512];
	pthread_t thread;
	void *complaint;

	FAILS_WITH(EINVAL, -1, secmalloc_encrypt(NULL));
	snprintf(before, sizeof(before), "%s", secmalloc_error());
	ck_assert_int_eq(pthread_create(&thread, NULL, other_thread, NULL), 0);
	ck_assert_int_eq(pthread_join(thread, &complaint), 0);
	ck_assert_msg(complaint == NULL, "%s", (char *)complaint);
	ck_assert_str_eq(secmalloc_error(), before);
}
END_TEST

static void
init_beyond_the_limit(void *arg)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	(void)arg;
	drop_to(64 * KIB);
	c.pool_size = MIB;
	MUST(secmalloc_init(&c) == -1 && errno == ENOMEM);
	MUST(strstr(secmalloc_error(), "RLIMIT_MEMLOCK") != NULL);
	MUST(strstr(secmalloc_error(), "65536") != NULL);
	MUST(strstr(secmalloc_error(), "LimitMEMLOCK=") != NULL ||
		strstr(secmalloc_error(), "CAP_IPC_LOCK") != NULL);
}

START_TEST(a_refused_lock_names_the_limit_and_the_cure)
{
	if (may_drop(__func__))
		assert_exits_0(init_beyond_the_limit, NULL);
}
END_TEST

START_TEST(the_library_has_the_version_of_its_header)
{
	char composed[64];

	snprintf(composed, sizeof(composed), "%d.%d.%d", SECMALLOC_VERSION_MAJOR,
		SECMALLOC_VERSION_MINOR, SECMALLOC_VERSION_PATCH);
	ck_assert_str_eq(composed, SECMALLOC_VERSION);
	ck_assert_str_eq(secmalloc_version(), SECMALLOC_VERSION);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: stats");
	TCase *bare = add_case(s, "not running", 0);
	TCase *up = add_case(s, "running", 1);

	tcase_add_test(up, chunks_and_bytes_are_counted_exactly);
	tcase_add_test(up, calls_that_fail_count_nothing);
	tcase_add_test(up, the_high_water_mark_stays);
	tcase_add_test(up, seals_unseals_and_tampering_are_counted_once_each);
	tcase_add_test(up, pools_and_their_bytes_grow_with_what_is_asked_for);
	tcase_add_test(up, stats_of_null_or_of_no_size_is_einval);
	tcase_add_test(up, a_shorter_stats_struct_is_filled_and_nothing_behind_it);
	tcase_add_test(up, a_longer_stats_struct_ends_in_zeros);
	tcase_add_test(bare, there_is_no_error_before_the_first);
	tcase_add_test(bare, a_success_that_took_a_second_try_is_no_error);
	tcase_add_test(bare, the_program_keeps_an_eighth_of_a_limited_address_space);
	tcase_add_test(up, each_failure_leaves_one_line_that_tells_it_from_others);
	tcase_add_test(up, each_thread_has_its_own_error);
	tcase_add_test(bare, a_refused_lock_names_the_limit_and_the_cure);
	tcase_add_test(bare, the_library_has_the_version_of_its_header);
	return run(s);
}
