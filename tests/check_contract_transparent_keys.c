/*
 * check_contract_transparent_keys.c - SECMALLOC_TRANSPARENT: a new key
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "transparent_keep.h"
#include <pthread.h>

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

int
main(void)
{
	Suite *s = suite_create("contract: transparent, keys");
	TCase *tc = add_case(s, "keys", 0);

	tcase_set_timeout(tc, 300);
	tcase_add_loop_test(tc, a_rekey_carries_every_page, 1, 3);
	tcase_add_loop_test(tc, threads_lose_no_update_over_rekeys, 1, 3);
	return run(s);
}
