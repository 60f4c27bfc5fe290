/*
 * check_transparent_storm.c - no update is lost while all that closes and moves pages goes on at once
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * reseal_ms is 1, a thread forks, one closes everything and renews the key, and another process
 * pushes all of it out to swap, where there is some. SECMALLOC_STORM_SECONDS: of each test.
 */
#include "launch.h"
#include "no_uffd.h"
#include "pressure.h"
#include "storm.h"
#include "transparent.h"

enum { BY_SLOTS = 3, BY_LAUNCH = 4, CLEAR_PAGES = 64, PRESS_MS = 10 };

static unsigned
seconds(void)
{
	const char *s = getenv("SECMALLOC_STORM_SECONDS");

	return s && atoi(s) > 0 ? (unsigned)atoi(s) : 2;
}

static void
shut(unsigned turn)
{
	if (turn % 8 == 7)
		STORM_MUST(secmalloc_rekey() == 0);
	else
		STORM_MUST(secmalloc_encrypt_all() == 0 || errno == EAGAIN);
}

static void
in_api(void *arg)
{
	struct storm is = { secmalloc, secfree, shut, true, seconds() };
	struct secmalloc_config c = transparent_config(CLEAR_PAGES);
	const int mode = *(const int *)arg;

	alarm(seconds() + 100);
	c.reseal_ms = 1;
	is.children = mode != BY_SLOTS;
	c.fork = is.children ? SECMALLOC_FORK_KEEP : SECMALLOC_FORK_WIPE;
	if (mode != BY_THREAD)
		drop_to(8 * MIB);
	MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	if (mode != BY_THREAD)
		forbid_filter(mode == BY_SLOTS);
	MUST(secmalloc_init(&c) == 0);
	MUST(stats_now().mode == (unsigned)mode);
	rage(&is);
	printf(", %ju faults", (uintmax_t)stats_now().faults_served);
	fflush(stdout);
	MUST(stats_now().tampered == 0 && secmalloc_term() == 0);
}

static pid_t
begun(int mode, int err)
{
	char words[] = "run_storm", number[16], options[64];
	char *argv[] = { words, number, NULL };
	pid_t pid;

	snprintf(number, sizeof(number), "%u", seconds());
	snprintf(options, sizeof(options), "mode=thread,clear=%d,reseal=1", CLEAR_PAGES * 4096);
	if (mode == BY_LAUNCH)
		return launched(options, argv, -1, err);
	pid = fork();
	if (pid)
		return pid;
	dup2(err, STDERR_FILENO);
	in_api(&mode);
	_exit(0);
}

static bool
is_here(int mode)
{
	if (mode == BY_LAUNCH)
		return may_launch(__func__);
	if (SANITIZED || (mode != BY_THREAD && !may_drop(__func__)))
		return false;
	return mode != BY_THREAD || mode_is_here(mode);
}

START_TEST(no_update_is_lost_and_nothing_looks_tampered_with)
{
	uint64_t bytes = 0;
	struct outcome o;
	int fds[2], status;
	pid_t pid;

	if (!is_here(_i))
		return;
	ck_assert_int_eq(pipe(fds), 0);
	fflush(NULL);
	pid = begun(_i, fds[1]);
	close(fds[1]);
	status = press_until_it_ends(pid, PRESS_MS, &bytes);
	reap(&o, pid, fds[0]);
	printf("; mode %d: %zu MiB pushed out%s\n", _i, (size_t)(bytes / MIB),
		has_swap() ? "" : ", but no swap is on");
	ck_assert_msg(status == 0, "mode %d, status 0x%x: %s", _i, (unsigned)status, o.text);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("transparent: storm");
	TCase *tc = add_case(s, "storm", 0);

	tcase_set_timeout(tc, seconds() + 120);
	tcase_add_loop_test(tc, no_update_is_lost_and_nothing_looks_tampered_with, BY_THREAD,
		BY_LAUNCH + 1);
	return run(s);
}
