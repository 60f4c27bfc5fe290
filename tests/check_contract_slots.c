/*
 * check_contract_slots.c - SECMALLOC_TRANSPARENT where userfaultfd is forbidden: SIGSEGV and slots
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "counters.h"
#include "no_uffd.h"
#include "outside.h"
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { CLEAR_PAGES = 64, RESERVE_PAGES = 32, PAGE = 4096, BY_SLOTS = 3 };

/** struct way - how a test runs: as whom, and with hidden frames or others */
static const struct way {
	bool nobody;
	unsigned without;
} WAYS[] = { { false, 0 }, { false, SECMALLOC_HIDDEN }, { true, 0 }, { true, SECMALLOC_HIDDEN } };

enum { N_WAYS = sizeof(WAYS) / sizeof(WAYS[0]) };

static struct secmalloc_config
config(const struct way *w)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = SECMALLOC_TRANSPARENT;
	c.clear_limit = CLEAR_PAGES * PAGE;
	c.pool_size = 4 * MIB;
	c.without = w->without;
	return c;
}

static void
enter_with(const struct way *w, unsigned reseal_ms, const char *dir)
{
	struct secmalloc_config c = config(w);

	c.reseal_ms = reseal_ms;
	c.store_dir = dir;
	if (w->nobody)
		drop_to(8 * MIB);
	MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	forbid_uffd();
	MUST(secmalloc_init(&c) == 0);
	MUST(stats_now().mode == BY_SLOTS);
}

static void
enter(const void *way, unsigned reseal_ms)
{
	enter_with(way, reseal_ms, NULL);
}

/** each_way - the body in a child of its own */
static void
each_way(int way, void (*body)(void *))
{
	struct way w = WAYS[way];

	if (SANITIZED || (w.nobody && !may_drop(__func__)))
		return;
	assert_exits_0(body, &w);
}

static size_t
mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	size_t n = 0;
	int c;

	MUST(f != NULL);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static void
fill_and_check(size_t bytes)
{
	size_t n = bytes / sizeof(unsigned);
	unsigned *p = secmalloc(bytes);

	MUST(p != NULL);
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned)i * 7;
	for (size_t i = 0; i < n; i++)
		MUST(p[i] == (unsigned)i * 7);
	p = secrealloc(p, bytes / 3);
	MUST(p != NULL && p[1000] == 7000);
	secfree(p);
}

static void
many_pages(void *way)
{
	struct sigaction before, after;
	size_t maps;

	MUST(sigaction(SIGSEGV, NULL, &before) == 0);
	enter(way, 0);
	MUST(strstr(secmalloc_error(), "userfaultfd") != NULL);
	maps = mappings();
	fill_and_check(8 * MIB);
	MUST(stats_now().bytes_clear <= (CLEAR_PAGES + RESERVE_PAGES) * PAGE);
	MUST(stats_now().faults_served >= 2 * 8 * MIB / PAGE);
	fill_and_check(8 * MIB);
	MUST(mappings() < maps + 2 * (CLEAR_PAGES + RESERVE_PAGES) + 32);
	MUST(secmalloc_term() == 0);
	MUST(sigaction(SIGSEGV, NULL, &after) == 0);
	MUST(after.sa_handler == before.sa_handler);
}

START_TEST(more_than_may_be_clear_is_written_and_read_back)
{
	each_way(_i, many_pages);
}
END_TEST

static void
many_pages_in_a_file(void *way)
{
	enter_with(way, 0, "/tmp");
	fill_and_check(8 * MIB);
}

START_TEST(a_store_dir_serves_slots_too)
{
	each_way(_i, many_pages_in_a_file);
}
END_TEST

static void
contract(void *way)
{
	unsigned char *p, *q;

	enter(way, 0);
	p = secmalloc(20000);
	q = secmalloc(100);
	MUST(p && q);
	fill(p, 20000, 1);
	fill(q, 100, 2);
	MUST(secmalloc_encrypt(p) == 0 && secmalloc_is_encrypted(p) == 1);
	MUST(filled(p, 20000, 1));
	MUST(secmalloc_decrypt(p) == 0 && secmalloc_is_encrypted(p) == 0);
	MUST(secmalloc_hold(p) == 0 && secmalloc_hold(p) == 0);
	MUST_FAIL(EBUSY, -1, secmalloc_encrypt(p));
	MUST(secmalloc_release(p) == 0 && secmalloc_release(p) == 0);
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	MUST(filled(q, 100, 2) && stats_now().bytes_clear > 0);
	secfree(p);
	secfree(q);
	MUST(stats_now().chunks == 0);
}

START_TEST(the_explicit_calls_keep_their_contract)
{
	each_way(_i, contract);
}
END_TEST

static void
no_copies(void *way)
{
	bool hidden = !(((const struct way *)way)->without & SECMALLOC_HIDDEN);
	unsigned char *p;

	enter(way, 0);
	p = secmalloc(16 * PAGE);
	MUST(p != NULL);
	for (size_t i = 0; i < 15; i++)
		plant_marker(p + i * PAGE);
	/* seen at both mappings of a frame, unless it is hidden */
	MUST(markers_outside() == (hidden ? 0 : 30) || (hidden && markers_outside() == 30));
	MUST(secmalloc_encrypt_all() == 0);
	MUST(markers_outside() == 0 && markers_in_memory() == 0);
	MUST(is_marker(p));
}

START_TEST(what_is_closed_is_found_nowhere)
{
	each_way(_i, no_copies);
}
END_TEST

/* ----------------------------------------------------------------- threads */

static void
lost_updates(void *way)
{
	enter(way, 1);
	count_all();
}

START_TEST(threads_lose_no_update_while_everything_closes)
{
	each_way(_i, lost_updates);
}
END_TEST

/* ----------------------------------------------- system calls, purge, fork */

static void
system_calls(void *way)
{
	unsigned char *p;
	int fd = open("/dev/zero", O_RDONLY);

	enter(way, 0);
	p = secmalloc(10000);
	MUST(p != NULL && fd >= 0);
	fill(p, 10000, 1);
	MUST(secmalloc_encrypt_all() == 0);
	MUST_FAIL(EFAULT, -1, read(fd, p, 10000));
	MUST(filled(p, 10000, 1));
	MUST(secmalloc_hold(p) == 0 && read(fd, p, 10000) == 10000);
	MUST(secmalloc_release(p) == 0 && p[9999] == 0);
}

START_TEST(system_calls_on_closed_chunks_are_EFAULT_unless_held)
{
	each_way(_i, system_calls);
}
END_TEST

static void
purged(void *way)
{
	struct secmalloc_config c = config(way);
	unsigned char *p;

	enter(way, 0);
	p = launder(secmalloc(500000));
	MUST(p != NULL);
	for (size_t i = 0; i < 100; i++)
		plant_marker(p + i * PAGE);
	secmalloc_purge();
	MUST(markers_in_memory() == 0);
	for (size_t i = 0; i < 500000; i++)
		MUST(p[i] == 0);
	MUST_FAIL(ECANCELED, NULL, secmalloc(10));
	secfree(p);
	MUST(secmalloc_term() == 0);
	MUST(secmalloc_init(&c) == 0 && secmalloc(10) != NULL);
}

START_TEST(a_purge_leaves_zeros_to_read)
{
	each_way(_i, purged);
}
END_TEST

static void
forked(void *way)
{
	unsigned char *p, *q;
	int status;

	enter(way, 0);
	p = secmalloc(5000);
	MUST(p != NULL);
	plant_marker(p);
	if (fork() == 0) {
		alarm(20);
		MUST(markers_in_memory() == 0 && peek(p, &status, 1) < 0);
		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(p));
		q = secmalloc(100000);
		MUST(q != NULL && stats_now().mode == BY_SLOTS);
		fill(q, 100000, 3);
		MUST(secmalloc_encrypt_all() == 0 && filled(q, 100000, 3));
		_exit(0);
	}
	MUST(wait(&status) > 0 && status == 0);
	MUST(is_marker(p));
	if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0)
		_exit(markers_in_memory() != 0);
	MUST(wait(&status) > 0 && status == 0);
	MUST(is_marker(p));
}

START_TEST(a_child_has_nothing_and_may_start_anew)
{
	each_way(_i, forked);
}
END_TEST

/* --------------------------------------------------- faults of the program's own */

static sigjmp_buf back;
static void *volatile seen;

static void
on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	seen = info->si_addr;
	siglongjmp(back, 1);
}

static void
foreign(void *way)
{
	struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	volatile unsigned char *p, *none = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);

	MUST(sigaction(SIGSEGV, &a, NULL) == 0);
	enter(way, 0);
	p = launder(secmalloc(20000));
	MUST(p != NULL);
	for (int i = 0; i < 3; i++) {
		fill((void *)(uintptr_t)p, 20000, 1);
		MUST(secmalloc_encrypt_all() == 0);
		if (sigsetjmp(back, 1) == 0)
			none[5] = 1;
		MUST(seen == (void *)(uintptr_t)(none + 5));
		MUST(filled((void *)(uintptr_t)p, 20000, 1));
	}
	seen = NULL;
	if (sigsetjmp(back, 1) == 0)
		p[20000 + PAGE] = 1; /* the guard behind it */
	MUST(seen == (void *)(uintptr_t)(p + 20000 + PAGE));
}

START_TEST(a_handler_that_was_there_before_gets_its_own_faults)
{
	each_way(_i, foreign);
}
END_TEST

static void
overrun(void *way)
{
	volatile unsigned char *p;

	enter(way, 0);
	p = launder(secmalloc(20000));
	MUST(p != NULL);
	p[20000 + PAGE] = 1;
}

static void
after_free(void *way)
{
	volatile unsigned char *p;

	enter(way, 0);
	p = launder(secmalloc(200000));
	MUST(p != NULL);
	p[100000] = 1;
	secfree((void *)(uintptr_t)p);
	p[100000] = 1;
}

static void
ignored(void *way)
{
	signal(SIGSEGV, SIG_IGN);
	enter(way, 0);
	kill(getpid(), SIGSEGV);
	*(volatile char *)launder((void *)16) = 1;
}

START_TEST(guards_and_other_bad_accesses_are_SIGSEGV)
{
	static void (*const bodies[])(void *) = { overrun, after_free, ignored };
	struct way w = WAYS[_i];

	if (SANITIZED || (w.nobody && !may_drop(__func__)))
		return;
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
		assert_segv(bodies[i], &w);
}
END_TEST

/* With userfaultfd, too: the frames alone would find room. */
static void
too_little_for_both(void *way)
{
	struct secmalloc_config c = config(way);

	drop_to(MIB + MIB / 2);
	c.clear_limit = MIB;
	MUST_FAIL(ENOMEM, -1, secmalloc_init(&c));
	MUST(strstr(secmalloc_error(), "is locked twice: lower clear_limit") != NULL);
}

START_TEST(a_limit_that_is_too_low_for_pages_and_frames_is_told)
{
	each_way(_i, too_little_for_both);
}
END_TEST

static void
too_little(void *way)
{
	struct secmalloc_config c = config(way);

	drop_to(MIB / 2);
	forbid_uffd();
	MUST_FAIL(ENOMEM, -1, secmalloc_init(&c));
	MUST(strstr(secmalloc_error(), "RLIMIT_MEMLOCK") != NULL);
}

START_TEST(a_limit_that_is_too_low_for_two_mappings_is_told)
{
	each_way(_i, too_little);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: slots");
	TCase *tc = add_case(s, "slots", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, more_than_may_be_clear_is_written_and_read_back, 0, N_WAYS);
	tcase_add_loop_test(tc, a_store_dir_serves_slots_too, 0, N_WAYS);
	tcase_add_loop_test(tc, the_explicit_calls_keep_their_contract, 0, N_WAYS);
	tcase_add_loop_test(tc, what_is_closed_is_found_nowhere, 0, N_WAYS);
	tcase_add_loop_test(tc, threads_lose_no_update_while_everything_closes, 0, N_WAYS);
	tcase_add_loop_test(tc, system_calls_on_closed_chunks_are_EFAULT_unless_held, 0, N_WAYS);
	tcase_add_loop_test(tc, a_purge_leaves_zeros_to_read, 0, N_WAYS);
	tcase_add_loop_test(tc, a_child_has_nothing_and_may_start_anew, 0, N_WAYS);
	tcase_add_loop_test(tc, a_handler_that_was_there_before_gets_its_own_faults, 0, N_WAYS);
	tcase_add_loop_test(tc, guards_and_other_bad_accesses_are_SIGSEGV, 0, N_WAYS);
	if (geteuid() == 0) {
		tcase_add_loop_test(tc, a_limit_that_is_too_low_for_two_mappings_is_told, 0, 1);
		tcase_add_loop_test(tc, a_limit_that_is_too_low_for_pages_and_frames_is_told, 0, 1);
	}
	return run(s);
}
