/*
 * check_contract_daemon_missed.c - threads that do not come to rest when the daemon locks
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "daemon.h"
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { BYTES = 3000 };

static atomic_bool over;

static void
thread(pthread_t *t, void *(*body)(void *), void *arg)
{
	MUST(pthread_create(t, NULL, body, arg) == 0);
}

static void *
blocks_the_signal(void *unused)
{
	sigset_t s;

	sigfillset(&s);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	say_there();
	while (!over)
		usleep(1000);
	pthread_sigmask(SIG_UNBLOCK, &s, NULL);
	say_there();
	await_word();
	return unused;
}

static void
has_one_that_cannot_be_stopped(void *unused)
{
	unsigned char *q;
	pthread_t t;

	(void)unused;
	start_with_daemon();
	q = secmalloc(BYTES);
	fill(q, BYTES, 1);
	MUST(secmalloc_hold(q) == 0);
	thread(&t, blocks_the_signal, NULL);
	await_word();
	MUST(filled(q, BYTES, 1) && secmalloc(10) != NULL);
	over = true;
	MUST(pthread_join(t, NULL) == 0);
	MUST(filled(q, BYTES, 1) && secmalloc_term() == 0);
}

START_TEST(one_that_cannot_be_stopped_is_said_so_and_all_goes_on)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, has_one_that_cannot_be_stopped, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, 300), ETIMEDOUT);
	ck_assert_uint_eq(p.keys.bytes, 0);
	ck_assert_int_eq(fake_lock(&p, 300), ETIMEDOUT);
	ck_assert_uint_eq(fake_count(&p).state, SM_WIRE_OPEN);
	fake_go_on(&g);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_int_eq(fake_unlock(&p), 0);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static void *
waits(void *unused)
{
	for (;;)
		usleep(100);
	return unused;
}

static void *
vforks(void *unused)
{
	const pid_t pid = vfork();

	if (pid == 0) { /* it shares this memory */
		while (!over)
			usleep(1000);
		_exit(0);
	}
	MUST(waitpid(pid, NULL, 0) == pid);
	return unused;
}

static void
is_in_vfork(void *unused)
{
	pthread_t t;

	(void)unused;
	start_with_daemon();
	thread(&t, vforks, NULL);
	usleep(100000);
	say_there();
	await_word();
	over = true;
	MUST(pthread_join(t, NULL) == 0);
	say_there();
	await_word();
}

START_TEST(the_parent_of_a_vfork_is_missed)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, is_in_vfork, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, 200), ETIMEDOUT);
	fake_go_on(&g);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_int_eq(fake_unlock(&p), 0);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static void
has_no_descriptor_left(void *unused)
{
	struct rlimit r = { 200, 200 };
	pthread_t t;

	start_with_daemon();
	MUST(setrlimit(RLIMIT_NOFILE, &r) == 0);
	while (dup(STDIN_FILENO) >= 0)
		continue;
	thread(&t, waits, unused);
	say_there();
	await_word();
	MUST(secmalloc_term() == 0);
}

START_TEST(one_without_a_descriptor_left_is_locked_all_the_same)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, has_no_descriptor_left, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		ck_assert_int_eq(fake_unlock(&p), 0);
	}
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static void *
outlives(void *unused)
{
	say_there();
	await_word();
	_exit(0);
	return unused;
}

static void
main_has_ended(void *unused)
{
	pthread_t t;

	(void)unused;
	start_with_daemon();
	thread(&t, outlives, NULL);
	pthread_exit(NULL);
}

START_TEST(a_main_thread_that_has_ended_is_not_waited_for)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, main_has_ended, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	usleep(10000);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_int_eq(fake_unlock(&p), 0);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static int
asks_for_long(unsigned char key[32], void *arg)
{
	(void)arg;
	memset(key, 7, 32);
	if (over)
		usleep(500000);
	return 0;
}

static void
is_in_a_long_call(void *unused)
{
	struct secmalloc_config c = daemon_config();

	(void)unused;
	c.key_provider = asks_for_long;
	MUST(secmalloc_init(&c) == 0);
	over = true;
	say_there();
	MUST(secmalloc_rekey() == 0);
	await_word();
}

START_TEST(a_call_that_takes_too_long_is_in_the_way)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, is_in_a_long_call, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	usleep(10000);
	ck_assert_int_eq(fake_lock(&p, 100), ETIMEDOUT);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_int_eq(fake_unlock(&p), 0);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

/* ----------------------------------------------------------------------- term */

enum { TERMS = 1500 };

static void
starts_and_stops(void *unused)
{
	(void)unused;
	for (unsigned i = 0; i < TERMS; i++) {
		start_with_daemon();
		MUST(secmalloc(BYTES) != NULL);
		say_there();
		usleep(i * 7 % 300);
		MUST(secmalloc_term() == 0);
	}
}

/* It hangs up, or is locked first; to say that it could not lock itself would have it killed. */
START_TEST(who_stops_while_it_is_told_to_lock_is_not_late)
{
	unsigned locked = 0, left = 0;
	struct sm_wire_message m;
	struct sm_wire_from from;
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, starts_and_stops, NULL);
	for (unsigned i = 0; i < TERMS; i++) {
		fake_meet(&fake, &p, SM_WIRE_DIE);
		fake_there(&g);
		usleep(i % 400); /* the one or the other comes first */
		sm_wire_begin(&m, SM_WIRE_LOCK, ++p.serial);
		m.lock.deadline_ms = FAKE_LOCK_MS;
		(void)sm_wire_send(p.fd, &m, NULL, 0);
		fake_await(p.fd);
		if (sm_wire_receive(p.fd, &m, &from) || from.n == 0) {
			left++;
		} else {
			ck_assert_msg(m.locked.error == 0, "turn %u: error %u", i, m.locked.error);
			p.keys = m.locked;
			ck_assert_int_eq(fake_unlock(&p), 0);
			locked++;
			ck_assert(!fake_hear(&p, &m, 0)); /* it hangs up */
		}
		fake_die(&p);
	}
	fake_ends_well(&g);
	ck_assert_uint_eq(locked + left, TERMS);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_daemon_missed");
	TCase *tc = add_case(s, "missed", 0);

	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_test(tc, one_that_cannot_be_stopped_is_said_so_and_all_goes_on);
	tcase_add_test(tc, the_parent_of_a_vfork_is_missed);
	tcase_add_test(tc, one_without_a_descriptor_left_is_locked_all_the_same);
	tcase_add_test(tc, a_main_thread_that_has_ended_is_not_waited_for);
	tcase_add_test(tc, a_call_that_takes_too_long_is_in_the_way);
	tcase_add_test(tc, who_stops_while_it_is_told_to_lock_is_not_late);
	return run(s);
}
