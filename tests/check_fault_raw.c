/*
 * check_fault_raw.c - a program that knows nothing is served by a thread that libc does not know
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <dirent.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/base.h"
#include "fault/fault.h"

enum { CLEAR_PAGES = 32, FRAMES = 64, PAGE = 4096, PAGES = 256, THREADS = 8, STARTS = 100 };

static bool here; /* such a thread can be had on this machine */

static void
start_reseal(unsigned ms)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	sm_host.unaware = true;
	c.flags = SECMALLOC_TRANSPARENT;
	c.clear_limit = CLEAR_PAGES * PAGE;
	c.pool_size = 4 * MIB;
	c.reseal_ms = ms;
	MUST(secmalloc_init(&c) == 0);
	MUST(sm_fault_is_apart());
}

static void
start(void)
{
	start_reseal(0);
}

/** closed - pages of this content, none of which is clear */
static unsigned char *
closed(size_t n, unsigned seed)
{
	unsigned char *p = secmalloc(n);

	MUST(p != NULL);
	fill(p, n, seed);
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	return p;
}

/** handler - the number of the one thread beside the caller */
static int
handler(void)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *entry;
	int tid = 0, threads = 0;

	MUST(d != NULL);
	while ((entry = readdir(d)) != NULL) {
		threads += entry->d_name[0] != '.';
		if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid())
			tid = atoi(entry->d_name);
	}
	closedir(d);
	MUST(threads == 2 && tid > 0);
	return tid;
}

/** status_says - a line of the status of that thread is this */
static bool
status_says(int tid, const char *wanted)
{
	char path[64], line[256];
	bool yes = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	MUST(f != NULL);
	while (fgets(line, sizeof(line), f))
		yes |= strcmp(line, wanted) == 0;
	fclose(f);
	return yes;
}

static void
leave_main(void *unused)
{
	start();
	MUST(filled(closed(9000, 1), 9000, 1));
	MUST(handler() > 0);
	pthread_exit(unused);
}

START_TEST(a_program_whose_main_thread_ends_ends)
{
	if (here)
		assert_exits_0(leave_main, NULL);
}
END_TEST

static void
reseal(void *unused)
{
	unsigned char *p;

	start_reseal(20);
	p = closed(9000, 1);
	for (int i = 0; i < 3; i++) {
		MUST(filled(p, 9000, 1) && stats_now().faults_served > (uint64_t)i);
		for (int n = 0; n < 500 && stats_now().bytes_clear > 0; n++)
			usleep(2000);
		MUST(stats_now().bytes_clear == 0);
	}
	MUST(handler() > 0);
	pthread_exit(unused);
}

START_TEST(it_closes_pages_in_time_and_such_a_program_ends_too)
{
	if (here)
		assert_exits_0(reseal, NULL);
}
END_TEST

static void
change_ids(void *unused)
{
	long set[6] = { 2 }, none[6] = { NOBODY };
	uint32_t *groups;
	int tid;

	(void)unused;
	start();
	tid = handler();
	groups = (uint32_t *)(void *)closed(PAGE, 1);
	groups[0] = 7;
	groups[1] = 8;
	MUST(secmalloc_encrypt_all() == 0);
	set[1] = (long)groups;
	MUST(sm_host.everywhere(SYS_setgroups, set) == 0);
	MUST(sm_host.everywhere(SYS_setgid, none) == 0 && sm_host.everywhere(SYS_setuid, none) == 0);
	MUST(status_says(tid, "Uid:\t65534\t65534\t65534\t65534\n"));
	MUST(status_says(tid, "Gid:\t65534\t65534\t65534\t65534\n"));
	MUST(status_says(tid, "Groups:\t7 8 \n"));
	MUST(getuid() == 0 && getgid() == 0); /* the caller's own is the caller's business */
	MUST(sm_host.everywhere(SYS_setuid, (const long[6]){ 0 }) == EPERM);
	MUST(setuid(NOBODY) == 0 && filled(closed(9000, 2), 9000, 2));
}

START_TEST(its_ids_follow_the_programs)
{
	if (here && may_drop(__func__))
		assert_exits_0(change_ids, NULL);
}
END_TEST

static void
lose_privilege(void *unused)
{
	struct __user_cap_header_struct *h;
	struct __user_cap_data_struct *d;
	long set[6];
	int tid;

	(void)unused;
	start();
	tid = handler();
	h = (void *)closed(PAGE, 0);
	d = (void *)closed(PAGE, 0);
	memset(d, 0, PAGE);
	h->version = _LINUX_CAPABILITY_VERSION_3;
	h->pid = getpid(); /* so says who means itself */
	MUST(secmalloc_encrypt_all() == 0);
	set[0] = (long)h;
	set[1] = (long)d;
	MUST(sm_host.everywhere(SYS_capset, set) == 0);
	MUST(status_says(tid, "CapEff:\t0000000000000000\n"));
	MUST(status_says(tid, "NoNewPrivs:\t0\n"));
	MUST(sm_host.everywhere(SYS_prctl, (const long[6]){ PR_SET_NO_NEW_PRIVS, 1 }) == 0);
	MUST(status_says(tid, "NoNewPrivs:\t1\n"));
	h->version = 1;
	MUST(sm_host.everywhere(SYS_capset, set) == EINVAL);
	MUST(filled(closed(9000, 2), 9000, 2));
}

START_TEST(its_privilege_goes_with_the_programs)
{
	if (here && may_drop(__func__))
		assert_exits_0(lose_privilege, NULL);
}
END_TEST

static void *
touch_all(void *arg)
{
	unsigned char *p = arg;

	for (unsigned round = 0; round < 20; round++)
		for (size_t i = 0; i < PAGES; i++) {
			unsigned char *at = p + i * PAGE + round;

			MUST(*at == pattern(3, (size_t)(at - p)));
			MUST(sm_host.everywhere(SYS_getpid, (const long[6]){ 0 }) == 0);
		}
	return NULL;
}

static void
touch_in_threads(void *unused)
{
	pthread_t t[THREADS];
	unsigned char *p[THREADS];

	(void)unused;
	start();
	for (int i = 0; i < THREADS; i++)
		p[i] = closed(PAGES * PAGE, 3);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_create(&t[i], NULL, touch_all, p[i]) == 0);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	MUST(secmalloc_term() == 0);
}

START_TEST(threads_that_touch_and_ask_at_once_are_all_served)
{
	if (here)
		assert_exits_0(touch_in_threads, NULL);
}
END_TEST

static void
pass_to_kernel(void *unused)
{
	unsigned char *from, *to;
	int fds[2];

	(void)unused;
	start();
	from = closed(3 * PAGE, 4);
	to = closed(3 * PAGE, 5);
	MUST(pipe(fds) == 0);
	MUST(write(fds[1], from, 3 * PAGE) == 3 * PAGE);
	MUST(secmalloc_encrypt_all() == 0);
	MUST(read(fds[0], to, 3 * PAGE) == 3 * PAGE);
	MUST(filled(to, 3 * PAGE, 4) && filled(from, 3 * PAGE, 4));
	MUST(secmalloc_term() == 0);
}

START_TEST(system_calls_on_closed_pages_work)
{
	if (here)
		assert_exits_0(pass_to_kernel, NULL);
}
END_TEST

/** lines_of, entries_of - what the kernel has of this process */
static size_t
lines_of(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t n = 0;
	int c;

	MUST(f != NULL);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static size_t
entries_of(const char *path)
{
	DIR *d = opendir(path);
	size_t n = 0;

	MUST(d != NULL);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void
start_and_stop(void *unused)
{
	size_t maps = 0, files = 0;

	(void)unused;
	for (int i = 0; i < STARTS; i++) {
		start();
		MUST(filled(closed(9000, 6), 9000, 6));
		MUST(secmalloc_term() == 0);
		MUST(sm_host.everywhere == NULL);
		while (entries_of("/proc/self/task") > 3) /* it has left its stack, it is about to go */
			sched_yield();
		if (i == 1) {
			maps = lines_of("/proc/self/maps");
			files = entries_of("/proc/self/fd");
		}
	}
	MUST(lines_of("/proc/self/maps") == maps && entries_of("/proc/self/fd") == files);
}

START_TEST(a_hundred_starts_leave_nothing_behind)
{
	if (here)
		assert_exits_0(start_and_stop, NULL);
}
END_TEST

/** hold_all_frames - small chunks, each on a page of its own; all but the last one are held */
static void
hold_all_frames(unsigned char *p[FRAMES + 1])
{
	start();
	for (size_t n = 0; n <= FRAMES;) {
		size_t i = 0;

		p[n] = closed(64, 7);
		while (i < n && (uintptr_t)p[i] / PAGE != (uintptr_t)p[n] / PAGE)
			i++;
		n += i == n;
	}
	for (size_t n = 0; n < FRAMES; n++)
		MUST(secmalloc_hold(p[n]) == 0);
	MUST_FAIL(ENOMEM, -1, secmalloc_hold(p[FRAMES]));
}

static void
touch_one_too_many(void *unused)
{
	unsigned char *p[FRAMES + 1];

	(void)unused;
	hold_all_frames(p);
	spoil(p[FRAMES], 0);
}

START_TEST(a_touch_that_can_never_be_served_ends_in_a_sentence)
{
	struct outcome o;

	if (!here)
		return;
	o = outcome_of(touch_one_too_many, NULL);
	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_str_eq(o.text, "secmalloc: internal: all 64 pages that may be clear are held, or in "
				 "use by the kernel: raise clear_limit\n");
}
END_TEST

static void *
release_later(void *held)
{
	usleep(500 * 1000);
	MUST(secmalloc_release(held) == 0);
	return NULL;
}

static void
touch_and_wait(void *unused)
{
	unsigned char *p[FRAMES + 1];
	pthread_t t;

	(void)unused;
	hold_all_frames(p);
	MUST(pthread_create(&t, NULL, release_later, p[0]) == 0);
	MUST(filled(p[FRAMES], 64, 7));
	MUST(pthread_join(t, NULL) == 0);
}

START_TEST(a_touch_waits_for_a_hold_that_is_released)
{
	if (here)
		assert_exits_0(touch_and_wait, NULL);
}
END_TEST

static void
fork_and_begin_anew(void *unused)
{
	int status;
	pid_t child;

	(void)unused;
	start();
	child = fork();
	MUST(child >= 0);
	if (child == 0) {
		MUST(sm_host.everywhere(SYS_getpid, (const long[6]){ 0 }) == 0);
		MUST(entries_of("/proc/self/task") == 3);
		start();
		MUST(handler() > 0 && filled(closed(9000, 8), 9000, 8));
		MUST(secmalloc_term() == 0);
		_exit(0);
	}
	MUST(waitpid(child, &status, 0) == child && status == 0);
	MUST(filled(closed(9000, 9), 9000, 9));
}

START_TEST(a_child_begins_anew_with_a_thread_of_its_own)
{
	if (here)
		assert_exits_0(fork_and_begin_anew, NULL);
}
END_TEST

/** may_be - whether there is such a thread here, as seen in a child */
static bool
may_be(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	int status = 1;
	pid_t child = fork();

	if (child == 0) {
		sm_host.unaware = true;
		c.flags = SECMALLOC_TRANSPARENT;
		_exit(secmalloc_init(&c) == 0 && sm_fault_is_apart() ? 0 : 1);
	}
	return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int
main(void)
{
	Suite *s;
	TCase *tc;

	here = !SANITIZED && may_be();
	if (!here) {
		printf("skipped: all, faults are not served by a thread of that kind here\n");
		return SKIPPED;
	}
	s = suite_create("fault_raw");
	tc = add_case(s, "fault_raw", 0);
	tcase_add_test(tc, a_program_whose_main_thread_ends_ends);
	tcase_add_test(tc, it_closes_pages_in_time_and_such_a_program_ends_too);
	tcase_add_test(tc, its_ids_follow_the_programs);
	tcase_add_test(tc, its_privilege_goes_with_the_programs);
	tcase_add_test(tc, threads_that_touch_and_ask_at_once_are_all_served);
	tcase_add_test(tc, system_calls_on_closed_pages_work);
	tcase_add_test(tc, a_hundred_starts_leave_nothing_behind);
	tcase_add_test(tc, a_touch_that_can_never_be_served_ends_in_a_sentence);
	tcase_add_test(tc, a_touch_waits_for_a_hold_that_is_released);
	tcase_add_test(tc, a_child_begins_anew_with_a_thread_of_its_own);
	return run(s);
}
