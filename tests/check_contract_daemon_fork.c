/*
 * check_contract_daemon_fork.c - children of a program under a daemon say hello for themselves
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "daemon.h"
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

enum { BYTES = 5000, CYCLES = 60, MANY = 64 };

static atomic_bool over;

static void
start(unsigned how)
{
	struct secmalloc_config c = daemon_config();

	c.fork = how;
	MUST(secmalloc_init(&c) == 0);
}

static void
child_ends_well(pid_t pid)
{
	int status;

	MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
	MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ------------------------------------------------------------ two of them */

static pid_t
raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

enum { WIPE, KEEP, RAW, WAYS };

static void
has_a_child(void *arg)
{
	const int way = *(int *)arg;
	unsigned char *q;
	pid_t pid;

	start(way == KEEP ? SECMALLOC_FORK_KEEP : SECMALLOC_FORK_WIPE);
	q = secmalloc(BYTES);
	fill(q, BYTES, 3);
	pid = way == RAW ? raw_fork() : fork();
	if (pid == 0) {
		unsigned char *own = way == KEEP ? q : secmalloc(BYTES);

		MUST(own != NULL);
		if (way != KEEP)
			fill(own, BYTES, 3);
		MUST(secmalloc_hold(own) == 0);
		say_there();
		await_word();
		MUST(filled(own, BYTES, 3));
		MUST(secmalloc_release(own) == 0 && secmalloc_encrypt(own) == 0);
		_exit(0);
	}
	child_ends_well(pid);
	MUST(filled(q, BYTES, 3) && secmalloc_term() == 0);
}

START_TEST(a_child_says_hello_and_is_locked_for_itself)
{
	struct peer p, child;
	struct program g;
	int way = _i;

	fake_begin(&fake, &g, has_a_child, &way);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_meet(&fake, &child, SM_WIRE_DIE);
	ck_assert_int_eq(p.pid, g.pid);
	ck_assert_int_ne(child.pid, g.pid);
	fake_there(&g);
	for (int i = 0; i < CYCLES; i++) {
		ck_assert_int_eq(fake_lock(&child, FAKE_LOCK_MS), 0);
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		ck_assert_int_ne(memcmp(p.keys.parcel, child.keys.parcel, p.keys.bytes), 0);
		ck_assert_int_eq(fake_unlock(&p), 0);
		ck_assert_int_eq(fake_unlock(&child), 0);
	}
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
	fake_die(&child);
}
END_TEST

static void
has_many(void *unused)
{
	unsigned char *q;

	(void)unused;
	start(SECMALLOC_FORK_KEEP);
	q = secmalloc(BYTES);
	fill(q, BYTES, 3);
	for (int i = 0; i < MANY; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			MUST(filled(q, BYTES, 3));
			await_word();
			_exit(0);
		}
		child_ends_well(pid);
	}
}

/* While it still is about to open. */
START_TEST(a_child_may_be_locked_as_soon_as_it_is_welcome)
{
	struct peer p, child;
	struct program g;

	fake_begin(&fake, &g, has_many, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	for (int i = 0; i < MANY; i++) {
		fake_meet(&fake, &child, SM_WIRE_CARRY_ON);
		ck_assert_int_eq(fake_lock(&child, FAKE_LOCK_MS), 0);
		ck_assert_int_eq(fake_unlock(&child), 0);
		fake_go_on(&g);
		fake_die(&child);
	}
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

START_TEST(when_the_daemon_dies_a_child_dies_too)
{
	struct peer p, child;
	struct program g;
	int way = _i;

	fake_begin(&fake, &g, has_a_child, &way);
	fake_meet(&fake, &p, SM_WIRE_CARRY_ON);
	fake_meet(&fake, &child, SM_WIRE_DIE);
	fake_there(&g);
	ck_assert_int_eq(fake_lock(&child, FAKE_LOCK_MS), 0);
	fake_die(&child);
	ck_assert_int_eq(WEXITSTATUS(fake_end(&g).status), 99); /* its parent notices */
	fake_die(&p);
}
END_TEST

/* ----------------------------------------------------------- no daemon */

static void
has_a_child_without_a_daemon(void *arg)
{
	pid_t pid;

	start(*(int *)arg == KEEP ? SECMALLOC_FORK_KEEP : SECMALLOC_FORK_WIPE);
	say_there();
	await_word();
	pid = fork();
	if (pid == 0) {
		MUST_FAIL(ECONNREFUSED, NULL, secmalloc(10));
		MUST(strstr(secmalloc_error(), "secmallocd") != NULL);
		_exit(0);
	}
	child_ends_well(pid);
	MUST(secmalloc_term() == 0);
}

START_TEST(a_child_that_finds_no_daemon_has_nothing_and_says_why)
{
	struct program g;
	struct peer p;
	int way = _i;

	fake_begin(&fake, &g, has_a_child_without_a_daemon, &way);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	close(fake.fd);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static void
child_waits_in_vain(void *unused)
{
	pid_t pid;

	(void)unused;
	start(SECMALLOC_FORK_KEEP);
	pid = fork();
	if (pid == 0) {
		MUST_FAIL(ETIMEDOUT, NULL, secmalloc(10));
		_exit(0);
	}
	child_ends_well(pid);
}

START_TEST(a_child_with_keys_does_not_wait_for_an_unlock)
{
	struct peer p, child;
	struct program g;

	fake_begin(&fake, &g, child_waits_in_vain, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_accept(&fake, &child);
	fake_ends_well(&g);
	fake_die(&p);
	close(child.fd);
}
END_TEST

/* ----------------------------------------------------------------- others */

static void
open_descriptors(bool all, char *is)
{
	memset(is, 0, 1024);
	for (int fd = 0; fd < 1024; fd++) {
		const int flags = fcntl(fd, F_GETFD);

		is[fd] = flags >= 0 && (all || !(flags & FD_CLOEXEC));
	}
}

static void
spawns(void *unused)
{
	char *argv[] = { (char *)"true", NULL }, before[1024], after[1024];
	pid_t pid;

	(void)unused;
	open_descriptors(false, before);
	start(SECMALLOC_FORK_WIPE);
	open_descriptors(false, after);
	MUST(memcmp(before, after, sizeof(before)) == 0);
	say_there();
	for (int i = 0; i < 50; i++) {
		MUST(posix_spawnp(&pid, "true", NULL, NULL, argv, environ) == 0);
		child_ends_well(pid);
		pid = vfork();
		if (pid == 0) {
			execvp("true", argv);
			_exit(1);
		}
		child_ends_well(pid);
	}
	await_word();
	MUST(secmalloc_term() == 0);
}

START_TEST(who_execs_has_no_descriptor_of_ours_and_no_daemon)
{
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, spawns, NULL);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		ck_assert_int_eq(fake_unlock(&p), 0);
		usleep(2000);
	}
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

/* Whoever comes is welcome, and forgotten when it goes. */
static void *
welcomes_all(void *unused)
{
	static struct peer many[MANY];
	struct pollfd f = { .fd = fake.fd, .events = POLLIN };

	for (unsigned n = 0; !over; n++) {
		struct peer *p = &many[n % MANY];

		while (!over && poll(&f, 1, 10) == 0)
			;
		if (over)
			break;
		if (n >= MANY)
			fake_die(p);
		fake_meet(&fake, p, SM_WIRE_CARRY_ON);
	}
	return unused;
}

static void *
forks(void *unused)
{
	unsigned char *q = secmalloc(BYTES);

	fill(q, BYTES, 4);
	for (int i = 0; i < 40; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(i % 2 && !filled(q, BYTES, 4));
		child_ends_well(pid);
		MUST(filled(q, BYTES, 4));
	}
	return unused;
}

static void
forks_all_the_time(void *arg)
{
	pthread_t t;

	start(*(int *)arg == KEEP ? SECMALLOC_FORK_KEEP : SECMALLOC_FORK_WIPE);
	say_there();
	if (*(int *)arg == KEEP) {
		MUST(pthread_create(&t, NULL, forks, NULL) == 0);
		MUST(pthread_join(t, NULL) == 0);
	}
	for (int i = 0; i < 200; i++) {
		pid_t pid = *(int *)arg == KEEP ? -1 : fork();

		if (pid == 0)
			_exit(0);
		if (pid > 0)
			child_ends_well(pid);
	}
	say_there();
	await_word();
	MUST(secmalloc_term() == 0);
}

START_TEST(who_forks_all_the_time_is_locked_all_the_same)
{
	struct pollfd there;
	struct program g;
	struct peer p;
	pthread_t t;
	int way = _i;

	fake_begin(&fake, &g, forks_all_the_time, &way);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	ck_assert_int_eq(pthread_create(&t, NULL, welcomes_all, NULL), 0);
	fake_there(&g);
	there = (struct pollfd){ .fd = g.up, .events = POLLIN };
	do {
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		usleep(500);
		ck_assert_int_eq(fake_unlock(&p), 0);
		usleep(3000);
	} while (poll(&there, 1, 0) == 0);
	fake_there(&g);
	over = true;
	pthread_join(t, NULL);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_daemon_fork");
	TCase *tc = add_case(s, "fork", 0);

	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_loop_test(tc, a_child_says_hello_and_is_locked_for_itself, 0, WAYS);
	tcase_add_test(tc, a_child_may_be_locked_as_soon_as_it_is_welcome);
	tcase_add_loop_test(tc, when_the_daemon_dies_a_child_dies_too, 0, WAYS);
	tcase_add_loop_test(tc, a_child_that_finds_no_daemon_has_nothing_and_says_why, 0, RAW);
	tcase_add_test(tc, a_child_with_keys_does_not_wait_for_an_unlock);
	tcase_add_test(tc, who_execs_has_no_descriptor_of_ours_and_no_daemon);
	tcase_add_loop_test(tc, who_forks_all_the_time_is_locked_all_the_same, 0, RAW);
	return run(s);
}
