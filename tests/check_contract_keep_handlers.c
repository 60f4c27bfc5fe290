/*
 * check_contract_keep_handlers.c - the contract: forks of SECMALLOC_FORK_KEEP among a program's own
 * pthread_atfork handlers, and what else comes while a fork is under way
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "keep.h"
#include "marker.h"
#include <pthread.h>
#include <sched.h>

static unsigned char *marked;

static void
start(unsigned without)
{
	struct secmalloc_config c = keep_config(without);

	start_with(&c);
	make_heirlooms();
	marked = secmalloc(MARKER_BYTES);
	plant_marker(marked);
}

static size_t
markers(void)
{
	return SANITIZED ? 0 : markers_in_memory();
}

static void
does_nothing(void *unused)
{
	(void)unused;
}

static void
has_all(void *unused)
{
	(void)unused;
	for (unsigned i = 1; i < N_HEIRLOOMS; i++) {
		MUST(secmalloc_decrypt(heirlooms[i].p) == 0);
		MUST(heirlooms[i].access == SECMALLOC_NOACCESS ||
			filled(heirlooms[i].p, heirlooms[i].size, i));
	}
}

/* All of it or nothing, and either can fork again. What a handler did may be changed. */
static void
has_all_or_nothing(void *changed)
{
	struct outcome o;

	if (secmalloc_owns(marked)) {
		if (changed)
			has_all(NULL);
		else
			heirlooms_are_whole();
		MUST(secmalloc_decrypt(marked) == 0 && is_marker(marked));
	} else {
		MUST(markers() == 0);
		has_nothing();
	}
	o = outcome_of(does_nothing, NULL);
	fputs(o.text, stderr);
	MUST(o.status == 0);
}

/* ----------------------------------------------------------- child handlers */

static int chosen; /* what a handler does */

static void
call_in_child(void)
{
	void *p;

	switch (chosen) {
	case 0: (void)secmalloc_owns(marked); break;
	case 1: (void)secmalloc_encrypt(heirlooms[4].p); break;
	case 2: MUST((p = secmalloc(100)) != NULL); secfree(p); break;
	case 3: (void)secmalloc_encrypt_all(); break;
	default: secfree(heirlooms[0].p); heirlooms[0].p = NULL; break;
	}
}

enum { CHOICES = 5 };

START_TEST(a_later_handler_finds_everything_in_the_child)
{
	start(_i & 1 ? SECMALLOC_HIDDEN : 0);
	ck_assert_int_eq(pthread_atfork(NULL, NULL, call_in_child), 0);
	for (chosen = 0; chosen < CHOICES; chosen++)
		assert_exits_0(has_all, NULL);
	term();
}
END_TEST

START_TEST(an_earlier_handler_leaves_the_child_all_or_nothing)
{
	ck_assert_int_eq(pthread_atfork(NULL, NULL, call_in_child), 0);
	start(_i % 2 ? SECMALLOC_HIDDEN : 0);
	chosen = _i / 2;
	assert_exits_0(has_all_or_nothing, &chosen);
	assert_exits_0(has_all_or_nothing, &chosen);
	ck_assert(is_marker(marked));
	term();
}
END_TEST

static void
call_in_all(void)
{
	void *p = secmalloc(100);

	MUST(p != NULL && secmalloc_encrypt(p) == 0 && secmalloc_decrypt(p) == 0);
	secfree(p);
}

START_TEST(a_later_handler_may_call_before_and_after)
{
	start(_i ? SECMALLOC_HIDDEN : 0);
	ck_assert_int_eq(pthread_atfork(call_in_all, call_in_all, call_in_all), 0);
	assert_exits_0(has_all_or_nothing, NULL);
	assert_exits_0(has_all_or_nothing, NULL);
	term();
}
END_TEST

/* ----------------------------------------------------------- while it is under way */

static void (*meanwhile)(void);

/* Registered before the library's, so it is run after it. */
static void
do_meanwhile(void)
{
	void (*once)(void) = meanwhile;

	meanwhile = NULL;
	if (once != NULL)
		once();
}

static void
clone_meanwhile(void)
{
	int status;
	const pid_t pid = raw_fork();

	if (pid == 0) {
		alarm(20);
		has_all_or_nothing(NULL);
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0) == pid && status == 0);
}

static void
purge_meanwhile(void)
{
	secmalloc_purge();
	MUST(markers() == 0);
}

static void
forks_meanwhile(void *arg)
{
	int status;
	pid_t pid;

	(void)arg;
	MUST(secmalloc_term() == 0);
	meanwhile = NULL;
	start(chosen & 1 ? SECMALLOC_HIDDEN : 0);
	meanwhile = chosen & 2 ? purge_meanwhile : clone_meanwhile;
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		alarm(20);
		has_all_or_nothing(NULL);
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0) == pid && status == 0);
}

static void
while_it_is_under_way(int what)
{
	ck_assert_int_eq(pthread_atfork(do_meanwhile, NULL, NULL), 0);
	init_defaults();
	chosen = what;
	assert_exits_0(forks_meanwhile, NULL);
	term();
}

START_TEST(a_raw_clone_meanwhile_has_all_or_nothing_of_what_crosses)
{
	if (!under_valgrind(__func__))
		while_it_is_under_way(_i);
}
END_TEST

START_TEST(a_purge_meanwhile_reaches_what_crosses)
{
	if (!under_valgrind(__func__))
		while_it_is_under_way(2 + _i);
}
END_TEST

/* ----------------------------------------------------------- who is who */

static void
is_a_child(void *arg)
{
	const int keep = *(unsigned *)arg == SECMALLOC_FORK_KEEP;
	unsigned char *p = heirlooms[0].p;

	signal(SIGALRM, _exit); /* process 1 is not ended otherwise */
	alarm(5);
	MUST(getpid() == 1 && secmalloc_owns(p) == keep && (!keep || filled(p, 10, 1)));
	MUST(secmalloc(10) != NULL && secmalloc_owns(p) == keep);
}

/** is_process_1 - of a pid namespace of its own, in which it forks another such */
static void
is_process_1(void *arg)
{
	struct secmalloc_config c = keep_config(0);
	struct outcome o;
	void *p;

	c.fork = *(unsigned *)arg;
	MUST(getpid() == 1 && secmalloc_init(&c) == 0 && (p = secmalloc(10)) != NULL);
	fill(p, 10, 1);
	if (unshare(CLONE_NEWPID) != 0)
		return;
	heirlooms[0].p = p;
	o = outcome_of(is_a_child, arg);
	fputs(o.text, stderr);
	MUST(o.status == 0);
}

static void
makes_process_1(void *arg)
{
	struct outcome o;

	if (unshare(CLONE_NEWPID) != 0)
		return; /* not allowed here */
	o = outcome_of(is_process_1, arg);
	fputs(o.text, stderr);
	MUST(o.status == 0);
}

START_TEST(a_child_that_has_its_parents_pid_is_a_child)
{
	unsigned how = (unsigned)_i;

	assert_exits_0(makes_process_1, &how);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: keep, handlers");
	TCase *tc = add_case(s, "handlers", 0);

	tcase_add_loop_test(tc, a_later_handler_finds_everything_in_the_child, 0, 2);
	tcase_add_loop_test(tc, an_earlier_handler_leaves_the_child_all_or_nothing, 0, 2 * CHOICES);
	tcase_add_loop_test(tc, a_later_handler_may_call_before_and_after, 0, 2);
	tcase_add_loop_test(tc, a_raw_clone_meanwhile_has_all_or_nothing_of_what_crosses, 0, 2);
	tcase_add_loop_test(tc, a_purge_meanwhile_reaches_what_crosses, 0, 2);
	tcase_add_loop_test(tc, a_child_that_has_its_parents_pid_is_a_child, 0, 2);
	return run(s);
}
