/*
 * check_transparent_ids.c - a program that drops its privileges takes all of its threads along
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "launch.h"
#include "no_uffd.h"

static char options[] = "mode=thread,clear=262144";

static bool
may_run(const char *test)
{
	if (access("/dev/userfaultfd", F_OK) == 0 && geteuid() == 0)
		return may_launch(test);
	printf("skipped: %s: this is not root\n", test);
	return false;
}

static char *const ways[] = { (char[]){ "setres" }, (char[]){ "set" } };

START_TEST(every_thread_is_another_user_without_capabilities_and_pages_still_open)
{
	char program[] = "run_ids";
	char *argv[] = { program, ways[_i], NULL };
	struct command c = { options, argv };
	struct outcome o;

	if (!may_run(__func__))
		return;
	o = outcome_of(run_command, &c);
	ck_assert_msg(o.status == 0, "status 0x%x: %s", (unsigned)o.status, o.text);
}
END_TEST

/* Pages are locked by a user who may lock so much. */
static void
goes_on(const char *test, char *way, char *part)
{
	enum { ENOUGH = 4 << 20 };
	char program[] = "run_ids";
	char *argv[] = { program, way, part, NULL };
	struct command c = { options, argv };
	struct rlimit r;
	struct outcome o;

	if (!may_run(test))
		return;
	if (getrlimit(RLIMIT_MEMLOCK, &r) || r.rlim_cur < ENOUGH) {
		printf("skipped: %s: RLIMIT_MEMLOCK is too low for who is not root\n", test);
		return;
	}
	o = outcome_of(run_command, &c);
	ck_assert_msg(o.status == 0, "status 0x%x: %s", (unsigned)o.status, o.text);
}

/* The device was opened by root, before. */
START_TEST(its_children_and_theirs_go_on_as_that_user)
{
	char heirs[] = "heirs";

	goes_on(__func__, ways[_i], heirs);
}
END_TEST

/* Root has locked a pool as a whole, which is more than this user may lock. */
START_TEST(it_has_more_pools_as_that_user)
{
	char more[] = "more";

	goes_on(__func__, ways[_i], more);
}
END_TEST

static void
denied(void *argv)
{
	forbid_device();
	alarm(60);
	become(options, argv);
}

/* The child ends with a sentence; its parent goes on. */
START_TEST(a_child_forked_then_says_why_it_cannot_be)
{
	char program[] = "run_ids", child[] = "child";
	char *argv[] = { program, ways[_i], child, NULL };
	struct outcome o;

	if (!may_run(__func__))
		return;
	o = outcome_of(denied, argv);
	ck_assert_msg(o.status == 0, "status 0x%x: %s", (unsigned)o.status, o.text);
	ck_assert_msg(strstr(o.text, "this user may not have userfaultfd") != NULL ||
		strstr(o.text, "RLIMIT_MEMLOCK") != NULL, "%s", o.text);
}
END_TEST

static void
refuses(char *const argv[])
{
	struct outcome o;

	if (access(argv[0], X_OK)) {
		printf("NOT TESTED: %s is not here\n", argv[0]);
		return;
	}
	o = outcome_of(denied, (void *)(uintptr_t)argv);
	ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 2, "%s: status 0x%x: %s",
		argv[0], (unsigned)o.status, o.text);
	ck_assert_msg(strstr(o.text, "not started, as it could not be protected") != NULL, "%s",
		o.text);
}

START_TEST(what_setpriv_and_su_start_as_another_user_is_refused)
{
	char setpriv[] = "/usr/bin/setpriv", id[] = "--reuid=65534", gid[] = "--regid=65534";
	char clear[] = "--clear-groups", truth[] = "/bin/true";
	char su[] = "/usr/bin/su", user[] = "nobody", s[] = "-s", sh[] = "/bin/sh", c[] = "-c";
	char *by_setpriv[] = { setpriv, id, gid, clear, truth, NULL };
	char *by_su[] = { su, user, s, sh, c, truth, NULL };

	if (!may_run(__func__))
		return;
	refuses(by_setpriv);
	refuses(by_su);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("transparent: ids");
	TCase *tc = add_case(s, "ids", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, every_thread_is_another_user_without_capabilities_and_pages_still_open,
		0, 2);
	tcase_add_loop_test(tc, its_children_and_theirs_go_on_as_that_user, 0, 2);
	tcase_add_loop_test(tc, it_has_more_pools_as_that_user, 0, 2);
	tcase_add_loop_test(tc, a_child_forked_then_says_why_it_cannot_be, 0, 2);
	tcase_add_test(tc, what_setpriv_and_su_start_as_another_user_is_refused);
	return run(s);
}
