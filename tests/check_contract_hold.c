/*
 * check_contract_hold.c - the contract: what is held stays open and where it is
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"

#include <pthread.h>

static unsigned char *
closed_chunk(size_t n, unsigned seed)
{
	unsigned char *p = secmalloc(n);

	ck_assert_ptr_nonnull(p);
	fill(p, n, seed);
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	return p;
}

START_TEST(a_hold_opens_and_the_last_release_closes)
{
	unsigned char *p = closed_chunk(100, 1);

	SUCCEEDS(secmalloc_hold(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
	ck_assert(filled(p, 100, 1));
	SUCCEEDS(secmalloc_hold(p));
	SUCCEEDS(secmalloc_release(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
	SUCCEEDS(secmalloc_release(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
	ck_assert_int_eq(secmalloc_decrypt(p), 0);
	ck_assert(filled(p, 100, 1));
}
END_TEST

START_TEST(what_was_open_before_the_hold_stays_open)
{
	unsigned char *p = secmalloc(100);

	SUCCEEDS(secmalloc_hold(p));
	SUCCEEDS(secmalloc_release(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
}
END_TEST

START_TEST(a_decrypt_while_held_keeps_it_open_after_the_release)
{
	unsigned char *p = closed_chunk(100, 1);

	SUCCEEDS(secmalloc_hold(p));
	SUCCEEDS(secmalloc_decrypt(p));
	SUCCEEDS(secmalloc_release(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
	SUCCEEDS(secmalloc_encrypt(p));
	SUCCEEDS(secmalloc_hold(p)); /* and it is not remembered */
	SUCCEEDS(secmalloc_release(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
}
END_TEST

START_TEST(what_is_held_is_not_closed)
{
	unsigned char *p = closed_chunk(100, 1), *other = secmalloc(10);

	SUCCEEDS(secmalloc_hold(p));
	FAILS_WITH(EBUSY, -1, secmalloc_encrypt(p));
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "held"));
	FAILS_WITH(EBUSY, -1, secmalloc_encrypt_all());
	ck_assert_int_eq(secmalloc_is_encrypted(other), 1); /* all that can be are */
	ck_assert(filled(p, 100, 1));
	SUCCEEDS(secmalloc_release(p));
	SUCCEEDS(secmalloc_encrypt_all());
}
END_TEST

START_TEST(release_of_what_is_not_held_is_EINVAL)
{
	unsigned char *p = secmalloc(100);

	FAILS_WITH(EINVAL, -1, secmalloc_release(p));
	SUCCEEDS(secmalloc_hold(p));
	SUCCEEDS(secmalloc_release(p));
	FAILS_WITH(EINVAL, -1, secmalloc_release(p));
	FAILS_WITH(EINVAL, -1, secmalloc_release(NULL));
	FAILS_WITH(EINVAL, -1, secmalloc_hold(NULL));
	FAILS_WITH(EINVAL, -1, secmalloc_hold(p + 16));
	secfree(p);
	FAILS_WITH(EINVAL, -1, secmalloc_hold(p));
	FAILS_WITH(EINVAL, -1, secmalloc_release(p));
}
END_TEST

START_TEST(a_tampered_chunk_cannot_be_held)
{
	unsigned char *p = closed_chunk(100, 1);

	spoil(p, 5);
	FAILS_WITH(EBADMSG, -1, secmalloc_hold(p));
	FAILS_WITH(EINVAL, -1, secmalloc_release(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
}
END_TEST

START_TEST(realloc_of_a_held_chunk_stays_where_it_is_or_is_EBUSY)
{
	unsigned char *p = closed_chunk(100, 1);

	SUCCEEDS(secmalloc_hold(p));
	ck_assert_ptr_eq(secrealloc(p, 112), p);
	ck_assert_ptr_eq(secrealloc(p, 20), p); /* a move would waste less */
	FAILS_WITH(EBUSY, NULL, secrealloc(p, 1000));
	ck_assert_uint_eq(secmalloc_usable_size(p), 20);
	ck_assert(filled(p, 20, 1));
	SUCCEEDS(secmalloc_release(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
	p = secrealloc(p, 1000);
	ck_assert_ptr_nonnull(p);
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
}
END_TEST

START_TEST(a_freed_chunk_takes_its_holds_along)
{
	unsigned char *p;

	for (int i = 0; i < 3000; i++) {
		p = closed_chunk(48, (unsigned)i);
		SUCCEEDS(secmalloc_hold(p));
		secfree(p);
	}
	ck_assert_uint_eq(stats_now().chunks, 0);
	p = secmalloc(48);
	FAILS_WITH(EINVAL, -1, secmalloc_release(p));
}
END_TEST

START_TEST(as_many_holds_as_there_can_be_and_no_more)
{
	unsigned char *p = closed_chunk(10, 1);

	for (int i = 0; i < 65535; i++)
		if (secmalloc_hold(p))
			ck_abort_msg("%d: %s", i, secmalloc_error());
	FAILS_WITH(EAGAIN, -1, secmalloc_hold(p));
	for (int i = 0; i < 65535; i++)
		if (secmalloc_release(p))
			ck_abort_msg("%d: %s", i, secmalloc_error());
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
}
END_TEST

START_TEST(an_overflow_while_held_is_found_by_the_release)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	unsigned char *p;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		fclose(stderr);
		if (secmalloc_init(&c) || !(p = secmalloc(40)) || secmalloc_encrypt(p) ||
			secmalloc_hold(p))
			_exit(1);
		spoil(p, 40);
		secmalloc_release(p);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
END_TEST

enum { THREADS = 4, ROUNDS = 20000, BYTES = 200 };
static unsigned char *shared;
static _Atomic unsigned lost;

/* Each byte is the same, and each holder makes it another one, alone in its turn. */
static void *
hold_and_read(void *unused)
{
	for (int i = 0; i < ROUNDS; i++) {
		if (secmalloc_hold(shared)) {
			lost++;
			continue;
		}
		lost += !filled(shared, BYTES, 9);
		lost += secmalloc_release(shared) != 0;
		if (secmalloc_encrypt(shared) && errno != EBUSY)
			lost++;
	}
	return unused;
}

START_TEST(no_thread_closes_what_another_holds)
{
	pthread_t t[THREADS];

	shared = closed_chunk(BYTES, 9);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, hold_and_read, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
	ck_assert_uint_eq(lost, 0);
	ck_assert_uint_eq(stats_now().tampered, 0);
	ck_assert_int_eq(secmalloc_is_encrypted(shared), 1);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_hold");
	TCase *tc = add_case(s, "hold", 1);

	tcase_add_test(tc, a_hold_opens_and_the_last_release_closes);
	tcase_add_test(tc, what_was_open_before_the_hold_stays_open);
	tcase_add_test(tc, a_decrypt_while_held_keeps_it_open_after_the_release);
	tcase_add_test(tc, what_is_held_is_not_closed);
	tcase_add_test(tc, release_of_what_is_not_held_is_EINVAL);
	tcase_add_test(tc, a_tampered_chunk_cannot_be_held);
	tcase_add_test(tc, realloc_of_a_held_chunk_stays_where_it_is_or_is_EBUSY);
	tcase_add_test(tc, a_freed_chunk_takes_its_holds_along);
	tcase_add_test(tc, as_many_holds_as_there_can_be_and_no_more);
	tc = add_case(s, "faults", 0);
	tcase_add_test(tc, an_overflow_while_held_is_found_by_the_release);
	tc = add_case(s, "threads", 1);
	tcase_add_test(tc, no_thread_closes_what_another_holds);
	return run(s);
}
