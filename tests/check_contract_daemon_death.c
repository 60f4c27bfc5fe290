/*
 * check_contract_daemon_death.c - a program whose daemon dies, stops making sense, or is stopped
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "daemon.h"

static const char GONE[] = "secmalloc: the daemon is gone";

static void
works(void *unused)
{
	unsigned char *q;

	(void)unused;
	start_with_daemon();
	q = secmalloc(1000);
	fill(q, 1000, 1);
	MUST(secmalloc_hold(q) == 0);
	say_there();
	for (;;) {
		MUST(filled(q, 1000, 1)); /* until its end: nobody sees what was purged */
		usleep(100);
	}
}

static void
begin(struct program *g, struct peer *p, unsigned policy)
{
	fake_begin(&fake, g, works, NULL);
	fake_meet(&fake, p, policy);
	fake_there(g);
}

/* ------------------------------------------------------------------- death */

enum { SOCKET, DAEMON_LINE, WATCHER_LINE, ALL, ENDS };

static void
cut(struct peer *p, int which)
{
	if (which == SOCKET || which == ALL)
		close(p->fd);
	if (which == DAEMON_LINE || which == ALL)
		close(p->lifeline[0]);
	if (which == WATCHER_LINE || which == ALL)
		close(p->lifeline[1]);
}

START_TEST(who_is_open_says_so_and_is_killed)
{
	struct program g;
	struct peer p;

	begin(&g, &p, SM_WIRE_DIE);
	cut(&p, _i);
	fake_is_killed(&g, GONE);
}
END_TEST

/* Nobody reads what it says, and there is no room for more. */
static void
works_unheard(void *unused)
{
	char page[4096] = "";
	int ends[2];

	MUST(pipe2(ends, O_NONBLOCK) == 0);
	while (write(ends[1], page, sizeof(page)) > 0)
		continue;
	MUST(fcntl(ends[1], F_SETFL, 0) == 0 && dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
	works(unused);
}

START_TEST(who_cannot_say_so_is_killed_too)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, works_unheard, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	if (_i == ENDS) { /* and all threads wait */
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		p.keys.parcel[3] ^= 1;
		ck_assert_int_ne(fake_unlock(&p), 0);
	} else {
		cut(&p, _i);
	}
	fake_is_killed(&g, NULL);
}
END_TEST

START_TEST(who_is_locked_is_killed)
{
	struct program g;
	struct peer p;

	begin(&g, &p, _i % 2 ? SM_WIRE_DIE : SM_WIRE_CARRY_ON);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	cut(&p, _i / 2);
	fake_is_killed(&g, _i / 2 == SOCKET ? GONE : _i / 2 == ALL ? NULL : "");
}
END_TEST

START_TEST(who_is_locked_and_stopped_is_killed)
{
	struct program g;
	struct peer p;
	int status;

	begin(&g, &p, SM_WIRE_DIE);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	kill(g.pid, SIGSTOP);
	ck_assert_int_eq(waitpid(g.pid, &status, WUNTRACED), g.pid);
	ck_assert(WIFSTOPPED(status));
	cut(&p, _i);
	fake_is_killed(&g, "");
}
END_TEST

/* What it is told while it is stopped it does afterwards, unless whoever told it is gone. */
START_TEST(who_is_stopped_before_it_is_locked_dies_once_it_goes_on)
{
	struct sm_wire_message m;
	struct program g;
	struct peer p;

	begin(&g, &p, SM_WIRE_DIE);
	kill(g.pid, SIGSTOP);
	sm_wire_begin(&m, SM_WIRE_LOCK, 1);
	m.lock.deadline_ms = FAKE_LOCK_MS;
	fake_say(&p, &m);
	fake_die(&p);
	kill(g.pid, SIGCONT);
	fake_is_killed(&g, GONE);
}
END_TEST

START_TEST(stop_and_continue_by_others_do_no_harm)
{
	struct program g;
	struct peer p;

	begin(&g, &p, SM_WIRE_DIE);
	for (int i = 0; i < 20; i++) {
		kill(g.pid, SIGSTOP);
		kill(g.pid, SIGCONT);
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		kill(g.pid, SIGSTOP);
		usleep(1000);
		kill(g.pid, SIGCONT);
		usleep(1000);
		ck_assert_uint_eq(fake_count(&p).state, SM_WIRE_IS_LOCKED);
		ck_assert_int_eq(fake_unlock(&p), 0);
	}
	kill(g.pid, SIGKILL);
	fake_is_killed(&g, "");
	fake_die(&p);
}
END_TEST

static void
goes_on_alone(void *unused)
{
	unsigned char *q;

	(void)unused;
	start_with_daemon();
	q = secmalloc(1000);
	fill(q, 1000, 1);
	say_there();
	await_word();
	while (threads_of(getpid()) > 1)
		usleep(1000);
	MUST(filled(q, 1000, 1) && secmalloc_encrypt(q) == 0 && secmalloc_decrypt(q) == 0);
	MUST(filled(q, 1000, 1) && secmalloc_term() == 0);
}

START_TEST(by_policy_who_is_open_carries_on)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, goes_on_alone, NULL);
	fake_meet(&fake, &p, SM_WIRE_CARRY_ON);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	ck_assert_int_eq(fake_unlock(&p), 0);
	cut(&p, _i);
	fake_go_on(&g);
	fake_ends_well(&g);
}
END_TEST

/* --------------------------------------------------------------- nonsense */

static void
lock_twice(struct peer *p)
{
	struct sm_wire_message m;

	ck_assert_int_eq(fake_lock(p, FAKE_LOCK_MS), 0);
	sm_wire_begin(&m, SM_WIRE_LOCK, ++p->serial);
	fake_say(p, &m);
}

static void
unlock_what_is_open(struct peer *p)
{
	fake_give_back(p);
}

static void
drop_what_is_locked(struct peer *p)
{
	ck_assert_int_eq(fake_lock(p, FAKE_LOCK_MS), 0);
	fake_tell(p, SM_WIRE_DROP);
}

static void
welcome_again(struct peer *p)
{
	fake_welcome(p, SM_WIRE_CARRY_ON);
}

static void
garbage(struct peer *p)
{
	ck_assert_int_eq(send(p->fd, "garbage, and more of it", 23, MSG_NOSIGNAL), 23);
}

static void
empty(struct peer *p)
{
	ck_assert_int_eq(send(p->fd, "", 0, MSG_NOSIGNAL), 0);
}

static void
too_long(struct peer *p)
{
	static char page[4096];
	struct sm_wire_message m;

	sm_wire_begin(&m, SM_WIRE_COUNT, 1);
	memcpy(page, &m, sizeof(m.head));
	ck_assert_int_eq(send(p->fd, page, sizeof(page), MSG_NOSIGNAL), sizeof(page));
}

static void
what_clients_say(struct peer *p)
{
	fake_tell(p, SM_WIRE_TALLY);
}

static void
with_descriptors(struct peer *p)
{
	struct sm_wire_message m;
	int fd = 1;

	sm_wire_begin(&m, SM_WIRE_COUNT, 1);
	ck_assert_int_eq(sm_wire_send(p->fd, &m, &fd, 1), 0);
}

static void (*const nonsense[])(struct peer *) = { lock_twice, unlock_what_is_open,
	drop_what_is_locked, welcome_again, garbage, empty, too_long, what_clients_say,
	with_descriptors };

START_TEST(a_daemon_that_makes_no_sense_is_as_good_as_dead)
{
	struct program g;
	struct peer p;

	begin(&g, &p, SM_WIRE_DIE);
	nonsense[_i](&p);
	fake_is_killed(&g, GONE);
	fake_die(&p);
}
END_TEST

START_TEST(with_other_keys_nothing_goes_on)
{
	struct program g;
	struct peer p;

	begin(&g, &p, SM_WIRE_DIE);
	ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
	p.keys.parcel[_i ? 64 : 3] ^= 1; /* an epoch; a key */
	ck_assert_int_ne(fake_unlock(&p), 0);
	fake_is_killed(&g, "not everything could be opened");
	fake_die(&p);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_daemon_death");
	TCase *tc = add_case(s, "death", 0);

	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_loop_test(tc, who_is_open_says_so_and_is_killed, 0, ENDS);
	tcase_add_loop_test(tc, who_cannot_say_so_is_killed_too, 0, ENDS + 1);
	tcase_add_loop_test(tc, who_is_locked_is_killed, 0, 2 * ENDS);
	tcase_add_loop_test(tc, who_is_locked_and_stopped_is_killed, DAEMON_LINE, ENDS);
	tcase_add_test(tc, who_is_stopped_before_it_is_locked_dies_once_it_goes_on);
	tcase_add_test(tc, stop_and_continue_by_others_do_no_harm);
	tcase_add_loop_test(tc, by_policy_who_is_open_carries_on, 0, ENDS);
	tc = add_case(s, "nonsense", 0);
	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_loop_test(tc, a_daemon_that_makes_no_sense_is_as_good_as_dead, 0,
		(int)(sizeof(nonsense) / sizeof(nonsense[0])));
	tcase_add_loop_test(tc, with_other_keys_nothing_goes_on, 0, 2);
	return run(s);
}
