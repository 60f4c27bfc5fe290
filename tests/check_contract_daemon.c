/*
 * check_contract_daemon.c - a program under a daemon: locked from outside, and as it was afterwards
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "daemon.h"
#include "daemon_scan.h"

enum { CYCLES = 20 };

/* ---------------------------------------------------------- what is not there */

static void
has_no_thread_and_no_handler(void *unused)
{
	struct sigaction before[65], a;

	(void)unused;
	for (int s = 1; s <= SIGRTMAX; s++)
		(void)sigaction(s, NULL, &before[s]);
	MUST(secmalloc_init(NULL) == 0);
	MUST(secmalloc(100) != NULL);
	MUST(threads_of(getpid()) == 1);
	for (int s = 1; s <= SIGRTMAX; s++)
		if (sigaction(s, NULL, &a) == 0)
			MUST(a.sa_handler == before[s].sa_handler);
	MUST(secmalloc_term() == 0);
}

START_TEST(without_the_field_there_is_no_thread_and_no_handler)
{
	struct program g;

	fake_begin(&fake, &g, has_no_thread_and_no_handler, NULL);
	fake_ends_well(&g);
}
END_TEST

static void
comes_and_goes(void *unused)
{
	struct sigaction a;

	(void)unused;
	for (int i = 0; i < 3; i++) {
		start_with_daemon();
		MUST(threads_of(getpid()) == 2);
		MUST(sigaction(SM_PARK_SIGNAL, NULL, &a) == 0 && a.sa_flags & SA_SIGINFO);
		MUST(secmalloc_term() == 0);
		MUST(threads_of(getpid()) == 1);
		MUST(sigaction(SM_PARK_SIGNAL, NULL, &a) == 0 && a.sa_handler == SIG_DFL);
	}
}

START_TEST(after_term_nothing_is_left_and_init_may_follow)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, comes_and_goes, NULL);
	for (int i = 0; i < 3; i++) {
		struct sm_wire_message m;

		fake_meet(&fake, &p, SM_WIRE_DIE);
		ck_assert_str_eq(p.name, "check_contract_");
		ck_assert_int_eq(p.pid, g.pid);
		ck_assert(!fake_hear(&p, &m, SM_WIRE_DONE));
		fake_die(&p);
	}
	fake_ends_well(&g);
}
END_TEST

/* ------------------------------------------------------------ what fails init */

static void
cannot_start(void *error)
{
	struct secmalloc_config c = daemon_config();
	const int fds = open("/dev/null", O_RDONLY | O_CLOEXEC);

	MUST(secmalloc_init(&c) == -1);
	if (errno != *(int *)error || strstr(secmalloc_error(), "daemon") == NULL)
		fprintf(stderr, "errno %d: %s\n", errno, secmalloc_error());
	MUST(errno == *(int *)error && strstr(secmalloc_error(), "daemon") != NULL);
	MUST(threads_of(getpid()) == 1);
	close(fds);
	MUST(open("/dev/null", O_RDONLY | O_CLOEXEC) == fds);
	MUST(secmalloc_init(NULL) == 0);
}

static void
refuses_init(int error)
{
	struct program g;

	fake_begin(&fake, &g, cannot_start, &error);
	fake_ends_well(&g);
}

START_TEST(where_nobody_listens_init_fails_and_says_so)
{
	close(fake.fd);
	refuses_init(ECONNREFUSED);
	unlink(fake.path);
	refuses_init(ENOENT);
	rmdir(fake.folder);
	refuses_init(ENOENT);
	open_fake();
}
END_TEST

static void
cannot_start_as_nobody(void *error)
{
	drop_to(MIB);
	cannot_start(error);
}

START_TEST(the_daemon_of_another_user_is_refused)
{
	int error = EACCES;
	struct program g;

	if (!may_drop(__func__))
		return;
	ck_assert_int_eq(chmod(fake.folder, 0755) | chmod(fake.path, 0666), 0);
	fake_begin(&fake, &g, cannot_start_as_nobody, &error);
	fake_ends_well(&g);
}
END_TEST

static void
has_a_handler(void *error)
{
	signal(SM_PARK_SIGNAL, SIG_IGN);
	cannot_start(error);
}

START_TEST(a_program_that_uses_the_signal_is_refused)
{
	int error = EBUSY;
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, has_a_handler, &error);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

START_TEST(a_daemon_that_hangs_up_or_babbles_fails_init)
{
	int error = _i ? EPROTO : ECONNRESET;
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, cannot_start, &error);
	fake_accept(&fake, &p);
	if (_i)
		fake_tell(&p, SM_WIRE_COUNT);
	else
		close(p.fd);
	fake_ends_well(&g);
}
END_TEST

START_TEST(init_waits_for_its_welcome)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, has_no_thread_and_no_handler, NULL);
	fake_ends_well(&g);
	fake_begin(&fake, &g, comes_and_goes, NULL);
	fake_accept(&fake, &p);
	usleep(200000);
	ck_assert_int_eq(waitpid(g.pid, NULL, WNOHANG), 0);
	ck_assert_int_eq(threads_of(g.pid), 1);
	kill(g.pid, SIGKILL);
	(void)fake_end(&g);
	close(p.fd);
}
END_TEST

/* ------------------------------------------------------------- lock and unlock */

/** Chunks in every state there is. */
struct hoard {
	unsigned char *open, *closed, *held, *held_closed, *large, *barred;
};

static void
hoard(struct hoard *h)
{
	plant(h->open = secmalloc(SMALL), SMALL, 0);
	plant(h->closed = secmalloc(SMALL), SMALL, 1);
	plant(h->held = secmalloc(SMALL), SMALL, 2);
	plant(h->held_closed = secmalloc(SMALL), SMALL, 3);
	plant(h->large = secmalloc(LARGE), LARGE, 4);
	plant(h->barred = secmalloc(LARGE), LARGE, 5);
	MUST(secmalloc_encrypt(h->closed) == 0 && secmalloc_hold(h->held) == 0);
	MUST(secmalloc_encrypt(h->held_closed) == 0 && secmalloc_hold(h->held_closed) == 0);
	MUST(secmalloc_hold(h->large) == 0);
	MUST(secmalloc_protect(h->barred, SECMALLOC_NOACCESS) == 0);
}

static void
check_hoard(struct hoard *h)
{
	MUST(secmalloc_is_encrypted(h->open) == 0 && planted(h->open, SMALL, 0));
	MUST(secmalloc_is_encrypted(h->closed) == 1 && !planted(h->closed, SMALL, 1));
	MUST(secmalloc_is_encrypted(h->held) == 0 && planted(h->held, SMALL, 2));
	MUST(secmalloc_is_encrypted(h->held_closed) == 0 && planted(h->held_closed, SMALL, 3));
	MUST(secmalloc_is_encrypted(h->large) == 0 && planted(h->large, LARGE, 4));
	MUST(secmalloc_decrypt(h->closed) == 0 && planted(h->closed, SMALL, 1));
	MUST(peek(h->barred, &(char){ 0 }, 1) < 0);
	MUST(secmalloc_protect(h->barred, SECMALLOC_READONLY) == 0);
	MUST(planted(h->barred, LARGE, 5) && secmalloc_is_encrypted(h->barred) == 0);
	MUST_FAIL(EBUSY, -1, secmalloc_encrypt(h->held));
	MUST(secmalloc_release(h->held) == 0 && secmalloc_is_encrypted(h->held) == 0);
	MUST(secmalloc_release(h->held_closed) == 0);
	MUST(secmalloc_is_encrypted(h->held_closed) == 1);
	MUST(secmalloc_release(h->large) == 0);
}

static void
hoards(void *flags)
{
	struct secmalloc_config c = daemon_config();
	struct hoard h;

	c.flags = *(unsigned *)flags;
	MUST(secmalloc_init(&c) == 0);
	hoard(&h);
	plant_control();
	say_there();
	await_word();
	check_hoard(&h);
	secfree(h.open);
	MUST(secmalloc_rekey() == 0);
	MUST(secmalloc_term() == 0);
}

START_TEST(while_locked_neither_secrets_nor_keys_are_in_the_program)
{
	unsigned flags = _i ? SECMALLOC_KEY_RESIDENT : 0;
	struct program g;
	struct sight s;
	struct peer p;

	fake_begin(&fake, &g, hoards, &flags);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_uint_gt(p.keys.bytes, 64);
	(void)fake_count(&p); /* by then it has wiped what it sent */
	s = look_into(g.pid, &p.keys);
	ck_assert_uint_eq(s.control, 1);
	ck_assert_uint_eq(s.hoard, 0);
	ck_assert_uint_eq(s.key, 0);
	ck_assert_int_eq(fake_unlock(&p), 0);
	s = look_into(g.pid, &p.keys);
	ck_assert_uint_eq(s.control, 1);
	ck_assert_uint_ge(s.hoard, 4);
	ck_assert_msg(!flags || s.key > 0, "the scanner knows no key");
	for (int i = 0; i < CYCLES; i++) {
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		ck_assert_int_eq(fake_unlock(&p), 0);
	}
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static void
locks_itself(void *unused)
{
	unsigned char *q;

	(void)unused;
	start_with_daemon();
	plant(q = secmalloc(SMALL), SMALL, 0);
	MUST(secmalloc_lock("own", 3) == 0);
	say_there();
	await_word();
	MUST_FAIL(EACCES, -1, secmalloc_decrypt(q));
	MUST(secmalloc_unlock("own", 3) == 0);
	MUST(secmalloc_decrypt(q) == 0 && planted(q, SMALL, 0));
}

START_TEST(what_the_program_has_locked_stays_so)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, locks_itself, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_uint_eq(p.keys.bytes, 0);
	ck_assert_uint_eq(fake_count(&p).state, SM_WIRE_IS_LOCKED);
	ck_assert_int_eq(fake_unlock(&p), 0);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

/* ------------------------------------------------------------ its other words */

static void
is_purged(void *unused)
{
	unsigned char *q, *held;

	(void)unused;
	start_with_daemon();
	plant(q = secmalloc(SMALL), SMALL, 0);
	plant(held = secmalloc(SMALL), SMALL, 1);
	MUST(secmalloc_hold(held) == 0);
	say_there();
	await_word();
	MUST(all_zero(q, SMALL) && all_zero(held, SMALL));
	MUST_FAIL(ECANCELED, NULL, secmalloc(1));
	secfree(held);
	say_there();
	await_word();
	MUST(secmalloc_term() == 0);
}

START_TEST(a_purge_is_a_purge_be_all_locked_or_not)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, is_purged, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	if (_i)
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	fake_tell(&p, SM_WIRE_PURGE);
	ck_assert_int_eq(fake_done(&p), 0);
	ck_assert_uint_eq(fake_count(&p).state, SM_WIRE_IS_PURGED);
	fake_go_on(&g);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_uint_eq(p.keys.bytes, 0);
	ck_assert_int_eq(fake_unlock(&p), 0);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

START_TEST(its_tally_is_what_stats_say)
{
	unsigned flags = 0;
	struct sm_wire_tally t;
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, hoards, &flags);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	t = fake_count(&p);
	ck_assert_uint_eq(t.chunks, 6);
	ck_assert_uint_eq(t.chunks_closed, 1);
	ck_assert_uint_eq(t.bytes, 4 * SMALL + 2 * LARGE);
	ck_assert_uint_eq(t.bytes_clear, 3 * SMALL + 2 * LARGE);
	ck_assert_uint_eq(t.state, SM_WIRE_OPEN);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	t = fake_count(&p);
	ck_assert_uint_eq(t.chunks, 6);
	ck_assert_uint_eq(t.chunks_closed, 6);
	ck_assert_uint_eq(t.bytes_clear, 0);
	ck_assert_uint_eq(t.state, SM_WIRE_IS_LOCKED);
	ck_assert_int_eq(fake_unlock(&p), 0);
	t = fake_count(&p);
	ck_assert_uint_eq(t.chunks_closed, 1);
	ck_assert_uint_eq(t.bytes_clear, 3 * SMALL + 2 * LARGE);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static void
is_dropped(void *unused)
{
	int status;
	pid_t child;

	(void)unused;
	start_with_daemon();
	say_there();
	await_word();
	while (threads_of(getpid()) > 1)
		usleep(1000);
	MUST(secmalloc(1) != NULL);
	child = fork();
	if (child == 0)
		_exit(secmalloc(1) == NULL);
	MUST(waitpid(child, &status, 0) == child && status == 0);
	MUST(secmalloc_term() == 0);
}

START_TEST(who_is_dropped_is_on_its_own_and_so_are_its_children)
{
	struct sm_wire_message m;
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, is_dropped, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	fake_tell(&p, SM_WIRE_DROP);
	ck_assert(!fake_hear(&p, &m, SM_WIRE_DONE));
	fake_die(&p);
	fake_go_on(&g);
	fake_ends_well(&g);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_daemon");
	TCase *tc = add_case(s, "start", 0);

	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_test(tc, without_the_field_there_is_no_thread_and_no_handler);
	tcase_add_test(tc, after_term_nothing_is_left_and_init_may_follow);
	tcase_add_test(tc, where_nobody_listens_init_fails_and_says_so);
	tcase_add_test(tc, the_daemon_of_another_user_is_refused);
	tcase_add_test(tc, a_program_that_uses_the_signal_is_refused);
	tcase_add_loop_test(tc, a_daemon_that_hangs_up_or_babbles_fails_init, 0, 2);
	tcase_add_test(tc, init_waits_for_its_welcome);
	tc = add_case(s, "words", 0);
	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_loop_test(tc, while_locked_neither_secrets_nor_keys_are_in_the_program, 0, 2);
	tcase_add_test(tc, what_the_program_has_locked_stays_so);
	tcase_add_loop_test(tc, a_purge_is_a_purge_be_all_locked_or_not, 0, 2);
	tcase_add_test(tc, its_tally_is_what_stats_say);
	tcase_add_test(tc, who_is_dropped_is_on_its_own_and_so_are_its_children);
	return run(s);
}
