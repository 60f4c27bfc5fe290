/*
 * check_contract_transparent.c - SECMALLOC_TRANSPARENT: touching opens, little stays open, none leaks
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "counters.h"
#include "no_uffd.h"
#include "outside.h"
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { CLEAR_PAGES = 64, RESERVE_PAGES = 32, PAGE = 4096, MODES = 2 };
enum { BY_THREAD = 1, BY_SIGNAL = 2 };

/* As root a thread of the library serves faults, as nobody the thread that touches. */
static void
start(unsigned reseal_ms)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = SECMALLOC_TRANSPARENT;
	c.clear_limit = CLEAR_PAGES * PAGE;
	c.pool_size = 4 * MIB;
	c.reseal_ms = reseal_ms;
	MUST(secmalloc_init(&c) == 0);
}

/** in_mode - run the body where faults are served this way; false: not on this machine */
static bool
in_mode(int mode, void (*body)(void *))
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	bool here;

	c.flags = SECMALLOC_TRANSPARENT;
	here = secmalloc_init(&c) == 0;
	if (!here)
		ck_assert_msg(errno == ENOTSUP, "%s", secmalloc_error());
	here = here && stats_now().mode <= BY_SIGNAL; /* the other: check_contract_slots */
	ck_assert_int_eq(secmalloc_term(), 0);
	if (!here || SANITIZED || (mode == BY_SIGNAL && !may_drop(__func__))) {
		printf("skipped: mode %d is not here\n", mode);
		return false;
	}
	assert_exits_0(body, &mode);
	return true;
}

static void
enter(const void *mode, unsigned reseal_ms)
{
	if (*(const int *)mode == BY_SIGNAL) {
		drop_to(8 * MIB);
		MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0); /* so that it can be looked at */
		forbid_device();
	}
	start(reseal_ms);
	if (*(const int *)mode == BY_SIGNAL)
		MUST(stats_now().mode == BY_SIGNAL);
}

static void
many_pages(void *mode)
{
	size_t n = 8 * MIB / sizeof(unsigned);
	unsigned *p;

	enter(mode, 0);
	p = secmalloc(n * sizeof(*p));
	MUST(p != NULL);
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned)i * 7;
	for (size_t i = 0; i < n; i++)
		MUST(p[i] == (unsigned)i * 7);
	MUST(stats_now().bytes_clear <= (CLEAR_PAGES + RESERVE_PAGES) * PAGE);
	MUST(stats_now().faults_served >= 2 * 8 * MIB / PAGE);
	p = secrealloc(p, 3 * MIB);
	MUST(p != NULL && p[1000] == 7000);
	secfree(p);
	MUST(secmalloc_term() == 0);
}

START_TEST(more_than_may_be_clear_is_written_and_read_back)
{
	(void)in_mode(_i, many_pages);
}
END_TEST

static void
contract(void *mode)
{
	unsigned char *p, *q;

	enter(mode, 0);
	p = secmalloc(20000);
	q = secmalloc(100);
	MUST(p && q);
	fill(p, 20000, 1);
	fill(q, 100, 2);
	MUST(secmalloc_encrypt(p) == 0 && secmalloc_is_encrypted(p) == 1);
	MUST(filled(p, 20000, 1)); /* touchable all the same */
	MUST(secmalloc_decrypt(p) == 0 && secmalloc_is_encrypted(p) == 0);
	MUST(secmalloc_hold(p) == 0 && secmalloc_hold(p) == 0);
	MUST_FAIL(EBUSY, -1, secmalloc_encrypt(p));
	MUST_FAIL(EBUSY, -1, secmalloc_encrypt_all());
	MUST(stats_now().bytes_clear >= 20000);
	MUST(secmalloc_release(p) == 0 && secmalloc_release(p) == 0);
	MUST_FAIL(EINVAL, -1, secmalloc_release(p));
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	MUST(filled(q, 100, 2) && stats_now().bytes_clear > 0);
	MUST_FAIL(ENOTSUP, -1, secmalloc_protect(p, SECMALLOC_NOACCESS));
	secfree(p);
	secfree(q);
	MUST(stats_now().chunks == 0);
}

START_TEST(the_explicit_calls_keep_their_contract)
{
	(void)in_mode(_i, contract);
}
END_TEST

static void
no_copies(void *mode)
{
	unsigned char *p;

	enter(mode, 0);
	p = secmalloc(64 * 1024);
	MUST(p != NULL);
	for (size_t i = 0; i < 16; i++)
		plant_marker(p + i * PAGE);
	MUST(markers_outside() == 16);
	MUST(secmalloc_encrypt_all() == 0);
	MUST(markers_outside() == 0);
	MUST(is_marker(p) && markers_outside() == 1);
}

enum { TOUCHED_PAGES = 20, OTHER_PAGES = 200 };

/* A touch opens pages of a closed chunk, and others close those of an open one. */
static void
calls_after_touches(void *mode)
{
	unsigned char *p, *other;
	uint64_t served;

	enter(mode, 0);
	p = secmalloc(TOUCHED_PAGES * 4096);
	other = secmalloc(OTHER_PAGES * 4096);
	MUST(p && other);
	fill(p, TOUCHED_PAGES * 4096, 1);
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	MUST(filled(p, TOUCHED_PAGES * 4096, 1) && secmalloc_is_encrypted(p) == 1);
	MUST(stats_now().bytes_clear >= TOUCHED_PAGES * 4096);
	MUST(secmalloc_encrypt(p) == 0 && stats_now().bytes_clear <= 2 * 4096);
	MUST(secmalloc_decrypt(p) == 0);
	fill(other, OTHER_PAGES * 4096, 2);
	MUST(secmalloc_decrypt(p) == 0); /* it is open already, but its pages are not */
	served = stats_now().faults_served;
	MUST(filled(p, TOUCHED_PAGES * 4096, 1));
	MUST(stats_now().faults_served == served);
}

START_TEST(encrypt_closes_what_was_touched_and_decrypt_opens_what_was_evicted)
{
	(void)in_mode(_i, calls_after_touches);
}
END_TEST

START_TEST(what_is_closed_is_found_nowhere)
{
	(void)in_mode(_i, no_copies);
}
END_TEST

static void
sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

static void
idle(void *mode)
{
	unsigned char *p;

	enter(mode, 50);
	p = secmalloc(100000);
	MUST(p != NULL);
	fill(p, 100000, 1);
	for (int i = 0; i < 200 && stats_now().bytes_clear; i++)
		sleep_ms(50);
	MUST(stats_now().bytes_clear == 0);
	MUST(filled(p, 100000, 1));
	MUST(secmalloc_term() == 0);
}

START_TEST(what_is_idle_for_reseal_ms_closes)
{
	(void)in_mode(_i, idle);
}
END_TEST

/* ----------------------------------------------------------------- threads */

static void
lost_updates(void *mode)
{
	enter(mode, 1);
	count_all();
}

START_TEST(threads_lose_no_update_while_everything_closes)
{
	(void)in_mode(_i, lost_updates);
}
END_TEST

/* ------------------------------------------------------------ system calls */

static void
system_calls(void *mode)
{
	bool by_thread = *(int *)mode == BY_THREAD;
	unsigned char *p, zero[100] = { 0 };
	int fd = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY), pipes[2];

	enter(mode, 0);
	p = secmalloc(10000);
	MUST(p != NULL && fd >= 0 && null >= 0 && pipe(pipes) == 0);
	fill(p, 10000, 1);
	MUST(secmalloc_encrypt_all() == 0);
	if (by_thread && stats_now().mode == BY_THREAD) {
		MUST(read(fd, p, 10000) == 10000 && p[9999] == 0);
	} else {
		MUST(read(fd, p, 10000) == -1 && errno == EFAULT);
		MUST(secmalloc_hold(p) == 0 && read(fd, p, 10000) == 10000);
		MUST(secmalloc_release(p) == 0 && p[9999] == 0);
	}
	MUST(secmalloc_hold(p) == 0);
	MUST(write(pipes[1], p, 100) == 100 && secmalloc_release(p) == 0);
	MUST(read(pipes[0], zero, 100) == 100 && zero[99] == 0);
}

START_TEST(system_calls_reach_closed_chunks_or_say_EFAULT)
{
	(void)in_mode(_i, system_calls);
}
END_TEST

/* -------------------------------------------------------- purge, fork, term */

static void
purged(void *mode)
{
	unsigned char *p;

	enter(mode, 0);
	p = launder(secmalloc(50000));
	MUST(p != NULL);
	fill(p, 50000, 1);
	secmalloc_purge();
	for (size_t i = 0; i < 50000; i++)
		MUST(p[i] == 0);
	MUST_FAIL(ECANCELED, NULL, secmalloc(10));
	secfree(p);
	MUST(secmalloc_term() == 0);
	start(0);
	MUST(secmalloc(10) != NULL);
}

START_TEST(a_purge_leaves_zeros_to_read)
{
	(void)in_mode(_i, purged);
}
END_TEST

static void
forked(void *mode)
{
	unsigned char *p, *q;
	int status;

	enter(mode, 0);
	p = secmalloc(5000);
	MUST(p != NULL);
	plant_marker(p);
	if (fork() == 0) {
		alarm(20);
		MUST(markers_in_memory() == 0);
		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(p));
		q = secmalloc(100000);
		MUST(q != NULL);
		fill(q, 100000, 3);
		MUST(secmalloc_encrypt_all() == 0 && filled(q, 100000, 3));
		_exit(0);
	}
	MUST(wait(&status) > 0 && status == 0);
	MUST(is_marker(p));
}

START_TEST(a_child_has_nothing_and_may_start_anew)
{
	(void)in_mode(_i, forked);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: transparent");
	TCase *tc = add_case(s, "transparent", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, more_than_may_be_clear_is_written_and_read_back, 1, 3);
	tcase_add_loop_test(tc, the_explicit_calls_keep_their_contract, 1, 3);
	tcase_add_loop_test(tc, encrypt_closes_what_was_touched_and_decrypt_opens_what_was_evicted, 1, 3);
	tcase_add_loop_test(tc, what_is_closed_is_found_nowhere, 1, 3);
	tcase_add_loop_test(tc, what_is_idle_for_reseal_ms_closes, 1, 3);
	tcase_add_loop_test(tc, threads_lose_no_update_while_everything_closes, 1, 3);
	tcase_add_loop_test(tc, system_calls_reach_closed_chunks_or_say_EFAULT, 1, 3);
	tcase_add_loop_test(tc, a_purge_leaves_zeros_to_read, 1, 3);
	tcase_add_loop_test(tc, a_child_has_nothing_and_may_start_anew, 1, 3);
	return run(s);
}
