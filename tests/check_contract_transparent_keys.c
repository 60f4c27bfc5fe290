/*
 * check_contract_transparent_keys.c - SECMALLOC_TRANSPARENT: a new key, and none
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "transparent_keep.h"
#include <pthread.h>
#include <time.h>

static int provider_answers;

static int
provide(unsigned char key[32], void *arg)
{
	(void)arg;
	memset(key, 9, 32);
	return provider_answers;
}

/** start_with_keys - arg: the mode, entered before; how: 1 a provider, 2 a resident key */
static void
start_with_keys(const void *arg, int how)
{
	struct secmalloc_config c = transparent_config(64);

	c.fork = SECMALLOC_FORK_KEEP;
	c.key_provider = how & 1 ? provide : NULL;
	c.flags |= how & 2 ? SECMALLOC_KEY_RESIDENT : 0;
	MUST(secmalloc_init(&c) == 0);
	MUST(stats_now().mode == (unsigned)*(const int *)arg);
}

static void
rekeys_twice(void *arg)
{
	(void)arg;
	MUST(secmalloc_rekey() == 0 && secmalloc_rekey() == 0);
	chunks_are(0);
}

static void
rekeys(void *mode)
{
	enter_mode(*(int *)mode, 8 * MIB);
	for (int how = 0; how < 4; how++) {
		start_with_keys(mode, how);
		make_chunks();
		for (unsigned i = 0; i < 5; i++) {
			MUST(secmalloc_rekey() == 0);
			if (i % 2)
				chunks_are(0);
		}
		chunks_are(0);
		MUST(secmalloc_hold(chunk[1]) == 0 && secmalloc_rekey() == 0);
		MUST(secmalloc_release(chunk[1]) == 0);
		child_does(rekeys_twice, NULL);
		MUST(secmalloc_rekey() == 0);
		child_does(rekeys_twice, NULL);
		chunks_are(0);
		if (how & 1) {
			provider_answers = EIO;
			MUST_FAIL(EIO, -1, secmalloc_rekey());
			provider_answers = 0;
			chunks_are(0);
		}
		MUST(stats_now().tampered == 0 && secmalloc_term() == 0);
	}
}

START_TEST(a_rekey_carries_every_page)
{
	(void)in_mode(_i, rekeys);
}
END_TEST

enum { WRITERS = 3, ROUNDS = 60 };

static unsigned long *written[WRITERS][CHUNKS];
static _Atomic bool over;

static void *
count(void *arg)
{
	unsigned long **mine = written[(uintptr_t)arg], n = 0;

	while (!over && ++n)
		for (size_t i = 0; i < CHUNKS; i++)
			++*mine[i];
	return (void *)(uintptr_t)n;
}

static void
rekeys_beside(void *mode)
{
	pthread_t t[WRITERS];
	void *n;

	enter_mode(*(int *)mode, 8 * MIB);
	start_with_keys(mode, 0);
	for (size_t k = 0; k < WRITERS; k++)
		for (size_t i = 0; i < CHUNKS; i++)
			MUST((written[k][i] = secmalloc(600)) != NULL);
	for (size_t k = 0; k < WRITERS; k++)
		MUST(pthread_create(&t[k], NULL, count, (void *)k) == 0);
	for (unsigned i = 0; i < ROUNDS; i++)
		MUST(secmalloc_rekey() == 0);
	over = true;
	for (size_t k = 0; k < WRITERS; k++) {
		MUST(pthread_join(t[k], &n) == 0);
		for (size_t i = 0; i < CHUNKS; i++)
			MUST(*written[k][i] == (uintptr_t)n);
	}
	MUST(stats_now().tampered == 0 && secmalloc_term() == 0);
}

START_TEST(threads_lose_no_update_over_rekeys)
{
	(void)in_mode(_i, rekeys_beside);
}
END_TEST

/* ------------------------------------------------------------ lock and unlock */

static unsigned char *touched;
static _Atomic int went_on;

static void *
touch(void *arg)
{
	went_on = -1;
	MUST(filled(touched, 5000, 4));
	went_on = 1;
	return arg;
}

static void
sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

static void
locks(void *mode)
{
	pthread_t t[2];
	uint64_t chunks;

	enter_mode(*(int *)mode, 8 * MIB);
	start_with_keys(mode, 0);
	make_chunks();
	touched = secmalloc(5000);
	MUST(touched != NULL);
	fill(touched, 5000, 4);
	chunks = stats_now().chunks;
	MUST(secmalloc_hold(touched) == 0);
	MUST_FAIL(EBUSY, -1, secmalloc_lock("material", 8));
	MUST(secmalloc_release(touched) == 0 && filled(touched, 5000, 4));
	MUST(secmalloc_lock("material", 8) == 0 && stats_now().bytes_clear == 0);
	for (size_t i = 0; i < 2; i++)
		MUST(pthread_create(&t[i], NULL, touch, NULL) == 0);
	sleep_ms(200);
	MUST(went_on == -1);
	MUST_FAIL(EACCES, -1, secmalloc_decrypt(touched));
	MUST_FAIL(EACCES, NULL, secmalloc(10));
	MUST_FAIL(EACCES, -1, secmalloc_rekey());
	MUST(secmalloc_owns(touched) && secmalloc_usable_size(touched) == 5000);
	for (unsigned i = 0; i < 100; i++) { /* small ones, and one after another */
		secfree(chunk[i]);
		MUST(!secmalloc_owns(chunk[i]) && stats_now().chunks == chunks - 1 - i);
	}
	MUST_FAIL(EPERM, -1, secmalloc_unlock("wrong", 5));
	MUST_FAIL(EINVAL, -1, secmalloc_unlock(touched, 8));
	MUST(went_on == -1 && secmalloc_unlock("material", 8) == 0);
	for (size_t i = 0; i < 2; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	MUST(went_on == 1 && secmalloc_is_encrypted(touched) == 1);
	MUST(stats_now().chunks == chunks - 100);
	for (unsigned i = 100; i < CHUNKS; i++)
		MUST(filled(chunk[i], size_of(i), i));
	for (unsigned i = 0; i < 100; i++) {
		chunk[i] = secmalloc(size_of(i));
		MUST(chunk[i] && all_zero(chunk[i], size_of(i)));
	}
	MUST(secmalloc_term() == 0);
}

START_TEST(while_all_is_locked_who_touches_waits_and_chunks_can_be_freed)
{
	(void)in_mode(_i, locks);
}
END_TEST

static void *
read_zeros(void *arg)
{
	MUST(all_zero(touched, 5000));
	went_on = 2;
	return arg;
}

static void
ends_locked(void *mode)
{
	unsigned char *big, *small;
	pthread_t t;
	int status;

	enter_mode(*(int *)mode, 8 * MIB);
	start_with_keys(mode, 2);
	big = secmalloc(100000);
	MUST(big != NULL);
	small = secmalloc(10);
	MUST(small && secmalloc_lock("material", 8) == 0);
	secfree(big);
	secfree(small);
	MUST(stats_now().chunks == 0 && secmalloc_term() == 0);

	start_with_keys(mode, 0);
	touched = secmalloc(5000);
	MUST(touched != NULL);
	fill(touched, 5000, 4);
	MUST(secmalloc_lock("material", 8) == 0);
	big = secmalloc(10);
	MUST(big == NULL);
	if (fork() == 0) {
		alarm(20);
		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(touched));
		MUST(secmalloc(10) != NULL);
		_exit(0);
	}
	MUST(wait(&status) > 0 && status == 0);
	MUST(pthread_create(&t, NULL, read_zeros, NULL) == 0);
	sleep_ms(100);
	secmalloc_purge();
	MUST(pthread_join(t, NULL) == 0 && went_on == 2);
	secfree(touched);
	MUST(secmalloc_term() == 0);
}

START_TEST(what_is_locked_can_be_purged_and_ended)
{
	(void)in_mode(_i, ends_locked);
}
END_TEST

static void
frees_twice(void *mode)
{
	enter_mode(*(int *)mode, 8 * MIB);
	start_with_keys(mode, 0);
	touched = launder(secmalloc(100));
	MUST(touched && secmalloc_lock("material", 8) == 0);
	secfree(touched);
	secfree(launder(touched));
}

START_TEST(freed_twice_while_locked_dies)
{
	int mode = BY_THREAD;
	struct outcome o;

	if (!mode_is_here(mode))
		return;
	o = outcome_of(frees_twice, &mode);
	ck_assert(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT);
	ck_assert_msg(strstr(o.text, "double free") != NULL, "%s", o.text);
}
END_TEST

static void *
churn(void *arg)
{
	while (!over) {
		unsigned char *p = secmalloc(3000);

		if (!p) {
			MUST(errno == EACCES);
			continue;
		}
		fill(p, 3000, 9);
		MUST(filled(p, 3000, 9));
		secfree(p);
	}
	return arg;
}

static void
locks_beside(void *mode)
{
	pthread_t t[WRITERS];

	enter_mode(*(int *)mode, 8 * MIB);
	start_with_keys(mode, 0);
	make_chunks();
	for (size_t i = 0; i < WRITERS; i++)
		MUST(pthread_create(&t[i], NULL, churn, NULL) == 0);
	for (unsigned i = 0; i < 3; i++) {
		MUST(secmalloc_lock("material", 8) == 0);
		MUST(stats_now().bytes_clear == 0);
		MUST(secmalloc_unlock("material", 8) == 0);
	}
	over = true;
	for (size_t i = 0; i < WRITERS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	chunks_are(0);
	MUST(stats_now().chunks == CHUNKS && secmalloc_term() == 0);
}

START_TEST(threads_allocate_while_all_is_locked_and_unlocked)
{
	(void)in_mode(_i, locks_beside);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: transparent, keys");
	TCase *tc = add_case(s, "keys", 0);

	tcase_set_timeout(tc, 300);
	tcase_add_loop_test(tc, a_rekey_carries_every_page, 1, 3);
	tcase_add_loop_test(tc, threads_lose_no_update_over_rekeys, 1, 3);
	tcase_add_loop_test(tc, while_all_is_locked_who_touches_waits_and_chunks_can_be_freed, 1, 3);
	tcase_add_loop_test(tc, what_is_locked_can_be_purged_and_ended, 1, 3);
	tcase_add_loop_test(tc, threads_allocate_while_all_is_locked_and_unlocked, 1, 3);
	tcase_add_test(tc, freed_twice_while_locked_dies);
	return run(s);
}
