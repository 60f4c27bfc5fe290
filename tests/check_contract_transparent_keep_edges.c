/*
 * check_contract_transparent_keep_edges.c - the same beside other threads, with other calls, and
 * where a child lacks what it needs
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "transparent_keep.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#ifdef __has_include
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#define IORING_REGISTER_BUFFERS IORING_REGISTER_BUFFERS /* an enumerator */
#endif
#endif

extern char **environ;

/* ------------------------------------------------------------------ threads */

enum { PAIRS = 300, SUM = 1000000, WRITERS = 3, FORKS = 200 };

static struct pair {
	long a, b, filler[60];
} *pairs[PAIRS];
static unsigned long *written[WRITERS];
static pthread_mutex_t pair_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool over;

static void *
write_pairs(void *arg)
{
	unsigned long me = (unsigned long)(uintptr_t)arg, n = 0;

	while (!over) {
		struct pair *p = pairs[(me * 97 + ++n * 31) % PAIRS];

		pthread_mutex_lock(&pair_lock);
		p->a += (long)n;
		p->b -= (long)n;
		pthread_mutex_unlock(&pair_lock);
		++*written[me]; /* without the lock */
		MUST(*written[me] == n);
	}
	return (void *)(uintptr_t)n;
}

static void
pairs_are_whole(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < PAIRS; i++)
		MUST(pairs[i]->a + pairs[i]->b == SUM);
	MUST(secmalloc_encrypt_all() == 0);
}

static void
storm(void *mode)
{
	pthread_t t[WRITERS];
	void *n;

	start_in(mode, 5);
	for (size_t i = 0; i < PAIRS; i++) {
		pairs[i] = secmalloc(sizeof(struct pair));
		MUST(pairs[i] != NULL);
		pairs[i]->a = SUM;
	}
	for (size_t i = 0; i < WRITERS; i++) {
		written[i] = secmalloc(sizeof(unsigned long));
		MUST(written[i] && pthread_create(&t[i], NULL, write_pairs, (void *)i) == 0);
	}
	for (unsigned i = 0; i < FORKS; i++) {
		pid_t child;
		int status;

		pthread_mutex_lock(&pair_lock);
		child = fork();
		pthread_mutex_unlock(&pair_lock);
		if (child == 0) {
			alarm(60);
			pairs_are_whole(NULL);
			_exit(0);
		}
		MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
	}
	over = true;
	for (size_t i = 0; i < WRITERS; i++)
		MUST(pthread_join(t[i], &n) == 0 && *written[i] == (uintptr_t)n);
	pairs_are_whole(NULL);
	MUST(stats_now().tampered == 0 && secmalloc_term() == 0);
}

START_TEST(threads_write_while_another_forks)
{
	(void)in_mode(_i, storm);
}
END_TEST

static void *
churn(void *arg)
{
	unsigned char *p;

	while (!over) {
		p = secmalloc(3000);
		MUST(p != NULL);
		fill(p, 3000, 9);
		MUST(secmalloc_encrypt(p) == 0 && secmalloc_hold(p) == 0);
		MUST(filled(p, 3000, 9) && secmalloc_release(p) == 0);
		secfree(p);
	}
	return arg;
}

static void
may_allocate(void *arg)
{
	(void)arg;
	chunks_are(0);
	for (unsigned i = 0; i < 200; i++) {
		unsigned char *p = secmalloc(3000);

		MUST(p != NULL && all_zero(p, 3000));
		fill(p, 3000, i);
	}
}

static void
busy_heap(void *mode)
{
	pthread_t t[WRITERS];

	start_in(mode, 1);
	make_chunks();
	for (size_t i = 0; i < WRITERS; i++)
		MUST(pthread_create(&t[i], NULL, churn, NULL) == 0);
	for (unsigned i = 0; i < 60; i++)
		child_does(may_allocate, NULL);
	over = true;
	for (size_t i = 0; i < WRITERS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	chunks_are(0);
	MUST(stats_now().tampered == 0 && secmalloc_term() == 0);
}

START_TEST(threads_allocate_while_another_forks)
{
	(void)in_mode(_i, busy_heap);
}
END_TEST

/* ------------------------------------------------------------- pinned pages */

#ifdef IORING_OFF_SQ_RING
enum { PINNED_BYTES = 8 * 4096 };

static unsigned char *pinned;

/** pin - a ring that has these bytes registered, or -1 */
static int
pin(unsigned char *p)
{
	struct io_uring_params how = { 0 };
	struct iovec v = { p, PINNED_BYTES };
	int ring = (int)syscall(SYS_io_uring_setup, 4, &how);

	if (ring >= 0 && syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &v, 1)) {
		close(ring);
		return -1;
	}
	return ring;
}

static void
has_a_copy(void *seed)
{
	MUST(filled(pinned, PINNED_BYTES, *(unsigned *)seed));
	fill(pinned, PINNED_BYTES, 99);
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	MUST(filled(pinned, PINNED_BYTES, 99));
}

static void
pinning(void *mode)
{
	int ring;

	start_in(mode, 0);
	make_chunks();
	pinned = secaligned_alloc(4096, PINNED_BYTES);
	MUST(pinned && secmalloc_hold(pinned) == 0);
	ring = pin(pinned);
	MUST(secmalloc_release(pinned) == 0);
	if (ring < 0)
		_exit(0);
	for (unsigned i = 0; i < 5; i++) {
		fill(pinned, PINNED_BYTES, i);
		child_does(has_a_copy, &i);
		MUST(filled(pinned, PINNED_BYTES, i));
	}
	MUST(stats_now().bytes_clear >= PINNED_BYTES);
	MUST_FAIL(EBUSY, -1, secmalloc_lock("material", 8));
	close(ring);
	for (unsigned i = 0; i < 100 && stats_now().bytes_clear; i++) { /* the kernel lets go late */
		usleep(10000);
		MUST(secmalloc_encrypt_all() == 0);
	}
	MUST(stats_now().bytes_clear == 0 && filled(pinned, PINNED_BYTES, 4));
	chunks_are(0);
}

START_TEST(a_child_has_a_copy_of_what_the_kernel_has_pinned)
{
	(void)in_mode(_i, pinning);
}
END_TEST
#endif

/* -------------------------------------------------------------- other ways */

static void
programs(void *mode)
{
	static char *const arg[] = { (char *)"true", NULL };
	char line[16] = "";
	int status;
	FILE *f;
	pid_t p;

	start_in(mode, 0);
	make_chunks();
	MUST(system("exit 3") == 3 << 8);
	f = popen("echo hello", "r");
	MUST(f && fgets(line, sizeof(line), f) && strcmp(line, "hello\n") == 0 && pclose(f) == 0);
	MUST(posix_spawnp(&p, "true", NULL, NULL, arg, environ) == 0);
	MUST(waitpid(p, &status, 0) == p && status == 0);
	p = vfork();
	if (p == 0) {
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	MUST(waitpid(p, &status, 0) == p && status == 0);
	chunks_are(0);
}

START_TEST(programs_are_started_as_always)
{
	(void)in_mode(_i, programs);
}
END_TEST

static void
cloned(void *mode)
{
	pid_t child;
	int status;

	start_in(mode, 0);
	make_chunks();
	child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (child == 0) {
		alarm(20);
		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(chunk[0]));
		MUST(secmalloc(100) != NULL);
		_exit(0);
	}
	MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
	chunks_are(0);
}

START_TEST(a_child_that_no_handler_hears_of_has_nothing)
{
	(void)in_mode(_i, cloned);
}
END_TEST

/** refused - a child that may not have what it needs says so once, and then starts anew */
static void
refused(int limit)
{
	struct rlimit was, none = { 0, 0 };
	pid_t child;
	int status;

	MUST(getrlimit(limit, &was) == 0);
	none.rlim_max = was.rlim_max;
	if (limit == RLIMIT_NOFILE)
		none.rlim_cur = 3;
	MUST(setrlimit(limit, &none) == 0);
	child = fork();
	MUST(child >= 0);
	MUST(setrlimit(limit, &was) == 0);
	if (child == 0) {
		alarm(20);
		MUST_FAIL(ENOMEM, NULL, secmalloc(10));
		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(chunk[0]));
		MUST(secmalloc(10) != NULL);
		_exit(0);
	}
	MUST(waitpid(child, &status, 0) == child && status == 0);
}

static void
poor_child(void *mode)
{
	start_in(mode, 0);
	make_chunks();
	if (*(int *)mode == BY_SIGNAL) /* root locks without limit */
		refused(RLIMIT_MEMLOCK);
	refused(RLIMIT_NOFILE);
	if (*(int *)mode == BY_THREAD && geteuid() != 0)
		refused(RLIMIT_NPROC);
	chunks_are(0);
}

START_TEST(a_child_without_means_says_so_once)
{
	(void)in_mode(_i, poor_child);
}
END_TEST

static void
dropped(void *arg)
{
	(void)arg;
	chunks_are(0);
	rewrite(1);
	chunks_are(1);
}

static void
drops_privileges(void *mode)
{
	start_in(mode, 0);
	make_chunks();
	drop_to(8 * MIB);
	child_does(dropped, NULL);
	chunks_are(0);
}

START_TEST(privileges_may_go_before_the_fork)
{
	(void)in_mode(_i, drops_privileges);
}
END_TEST

static void
wipes_all(void *arg)
{
	(void)arg;
	secmalloc_purge();
	MUST(all_zero(chunk[7], size_of(7)) && all_zero(chunk[6], size_of(6)));
	MUST_FAIL(ECANCELED, NULL, secmalloc(10));
	MUST(secmalloc_term() == 0 && secmalloc(10) != NULL);
}

static void
purged_child(void *mode)
{
	start_in(mode, 0);
	make_chunks();
	child_does(wipes_all, NULL);
	chunks_are(0);
}

START_TEST(a_purge_in_a_child_leaves_the_parent_alone)
{
	(void)in_mode(_i, purged_child);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: transparent, kept, edges");
	TCase *tc = add_case(s, "edges", 0);

	tcase_set_timeout(tc, 300);
	tcase_add_loop_test(tc, threads_write_while_another_forks, 1, 3);
	tcase_add_loop_test(tc, threads_allocate_while_another_forks, 1, 3);
	tcase_add_loop_test(tc, programs_are_started_as_always, 1, 3);
	tcase_add_loop_test(tc, a_child_that_no_handler_hears_of_has_nothing, 1, 3);
	tcase_add_loop_test(tc, a_child_without_means_says_so_once, 1, 3);
	tcase_add_loop_test(tc, privileges_may_go_before_the_fork, 1, 2);
	tcase_add_loop_test(tc, a_purge_in_a_child_leaves_the_parent_alone, 1, 3);
#ifdef IORING_OFF_SQ_RING
	tcase_add_loop_test(tc, a_child_has_a_copy_of_what_the_kernel_has_pinned, 1, 3);
#endif
	return run(s);
}
