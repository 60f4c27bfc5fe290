/*
 * check_transparent_calls.c - the kernel, and handlers of signals, on pages that are closed
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * SECMALLOC_HANDLER_SECONDS: how long signals come.
 */
#include "closed_calls.h"
#include "launch.h"
#include "transparent.h"

enum { CLEAR_PAGES = 64 };

static void
enter(const void *mode, unsigned reseal_ms)
{
	struct secmalloc_config c = transparent_config(CLEAR_PAGES);

	c.reseal_ms = reseal_ms;
	c.fork = SECMALLOC_FORK_KEEP;
	enter_mode(*(const int *)mode, 8 * MIB);
	MUST(secmalloc_init(&c) == 0 && stats_now().mode == (unsigned)*(const int *)mode);
	closed.get = secaligned_alloc;
	closed.put = secfree;
}

/* Pages that the kernel has pinned stay, at the end of their use too. */
static void
shut(void)
{
	MUST(secmalloc_encrypt_all() == 0 || errno == EBUSY);
}

static void
calls(void *mode)
{
	enter(mode, 0);
	closed.shut = shut;
	call_all();
	MUST(stats_now().tampered == 0 && secmalloc_term() == 0);
}

START_TEST(system_calls_do_on_closed_pages_what_they_do_elsewhere)
{
	(void)in_mode(BY_THREAD, calls);
}
END_TEST

static const char *
seconds(void)
{
	const char *s = getenv("SECMALLOC_HANDLER_SECONDS");

	return s && atoi(s) > 0 ? s : "1";
}

static void
work(unsigned turn)
{
	if (turn % 4 == 0)
		MUST(secmalloc_encrypt_all() == 0);
	if (turn % 16 == 1)
		MUST(secmalloc_rekey() == 0);
}

static void
handlers(void *mode)
{
	alarm((unsigned)atoi(seconds()) + 30);
	enter(mode, 1);
	closed.shut = shut;
	call_in_handlers((unsigned)atoi(seconds()), work);
	MUST(stats_now().tampered == 0);
}

START_TEST(a_signal_may_come_at_any_moment_and_its_handler_touch_anything)
{
	(void)in_mode(_i, handlers);
}
END_TEST

static void
unaware(const char *part, const char *options)
{
	char program[] = "run_calls", name[32], number[16];
	char *argv[] = { program, name, number, NULL };
	struct command c = { options, argv };
	struct outcome o;

	snprintf(name, sizeof(name), "%s", part);
	snprintf(number, sizeof(number), "%s", seconds());
	if (!may_launch(part))
		return;
	o = outcome_of(run_command, &c);
	ck_assert_msg(o.status == 0, "%s: status 0x%x: %s", part, (unsigned)o.status, o.text);
}

START_TEST(a_program_that_knows_nothing_makes_the_same_calls)
{
	unaware("calls", "mode=thread,clear=262144");
	unaware("calls", "mode=thread,clear=262144,reseal=1");
}
END_TEST

START_TEST(a_program_that_knows_nothing_has_handlers_too)
{
	unaware("handlers", "mode=thread,clear=262144,reseal=1");
}
END_TEST

START_TEST(pages_that_it_gives_back_are_zero)
{
	unaware("discard", "mode=thread,clear=262144");
	unaware("discard", "mode=thread,clear=4194304");
}
END_TEST

START_TEST(advice_that_a_program_would_rely_on_is_refused)
{
	unaware("advise", "mode=thread,clear=262144");
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("transparent: calls");
	TCase *tc = add_case(s, "calls", 0);

	tcase_set_timeout(tc, 400);
	tcase_add_test(tc, system_calls_do_on_closed_pages_what_they_do_elsewhere);
	tcase_add_loop_test(tc, a_signal_may_come_at_any_moment_and_its_handler_touch_anything,
		BY_THREAD, BY_SIGNAL + 1);
	tcase_add_test(tc, a_program_that_knows_nothing_makes_the_same_calls);
	tcase_add_test(tc, a_program_that_knows_nothing_has_handlers_too);
	tcase_add_test(tc, pages_that_it_gives_back_are_zero);
	tcase_add_test(tc, advice_that_a_program_would_rely_on_is_refused);
	return run(s);
}
