/*
 * check_contract_transparent_cancel.c - a thread that is cancelled while a page of its opens leaves
 * nothing locked
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Asynchronous cancellation comes by a signal that sigfillset(3) leaves out, as does setuid(2) to other
 * threads: the library has to block them all the same.
 */
#include "transparent.h"
#include <pthread.h>
#include <time.h>

enum { PAGE = 4096, CLEAR_PAGES = 64, PAGES = 300, ROUNDS = 200, BY_SLOTS = 3 };

static unsigned char *volatile pages;
static _Atomic unsigned long touched;

/* Nearly all of its time pages open. */
static void *
touch(void *unused)
{
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (size_t i = 0;; i = (i + 7) % PAGES) {
		pages[i * PAGE + 100] ^= 1;
		pages[i * PAGE + 100] ^= 1;
		touched++;
	}
	return unused;
}

static void
are_whole(void)
{
	for (size_t i = 0; i < PAGES; i++)
		for (size_t k = 0; k < PAGE; k += 64)
			MUST(pages[i * PAGE + k] == (unsigned char)(i + k / 64));
}

static void
cancelled(void *mode)
{
	struct secmalloc_config c = transparent_config(CLEAR_PAGES);
	pthread_t t;
	void *ended;

	if (*(int *)mode == BY_SLOTS)
		forbid_uffd();
	else
		enter_mode(*(int *)mode, 8 * MIB);
	MUST(secmalloc_init(&c) == 0 && stats_now().mode == (unsigned)*(int *)mode);
	MUST((pages = secaligned_alloc(PAGE, PAGES * PAGE)) != NULL);
	for (size_t i = 0; i < PAGES; i++)
		for (size_t k = 0; k < PAGE; k += 64)
			pages[i * PAGE + k] = (unsigned char)(i + k / 64);
	for (long i = 0; i < ROUNDS; i++) {
		unsigned long before = touched;

		MUST(pthread_create(&t, NULL, touch, NULL) == 0);
		while (touched < before + 20)
			nanosleep(&(struct timespec){ 0, 1000 + i * 37 % 5000 }, NULL);
		MUST(pthread_cancel(t) == 0 && pthread_join(t, &ended) == 0);
		MUST(ended == PTHREAD_CANCELED);
		pages[i % PAGES * PAGE + 100] = 0;
	}
	are_whole();
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	MUST(secmalloc_term() == 0);
}

START_TEST(a_thread_is_cancelled_while_pages_open_and_others_go_on)
{
	(void)in_mode(_i, cancelled);
}
END_TEST

START_TEST(the_same_without_userfaultfd)
{
	int mode = BY_SLOTS;

	if (mode_is_here(0))
		assert_exits_0(cancelled, &mode);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: transparent, cancelled threads");
	TCase *tc = add_case(s, "cancel", 0);

	tcase_set_timeout(tc, 40);
	tcase_add_loop_test(tc, a_thread_is_cancelled_while_pages_open_and_others_go_on, BY_THREAD,
		BY_SIGNAL + 1);
	tcase_add_test(tc, the_same_without_userfaultfd);
	return run(s);
}
