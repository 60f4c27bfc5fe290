/*
 * check_contract_daemon_threads.c - threads under a daemon's lock: wherever they are, they come to
 * rest, and go on as if nothing had been
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "daemon_scan.h"
#include "transparent.h"
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

enum { CYCLES = 200, BYTES = 3000 };
enum { BY_SLOTS = 3, SCANS = 40 };

static atomic_bool over;
static atomic_uint turns;

static void
thread(pthread_t *t, void *(*body)(void *), void *arg)
{
	MUST(pthread_create(t, NULL, body, arg) == 0);
}

/* ----------------------------------------------------------- what threads do */

static void *
looks_at_what_it_holds(void *arg)
{
	const unsigned seed = (unsigned)(uintptr_t)arg;
	unsigned char *q = secmalloc(BYTES);

	MUST(q != NULL && secmalloc_hold(q) == 0);
	fill(q, BYTES, seed);
	while (!over) {
		MUST(filled(q, BYTES, seed));
		spoil(q, 5);
		spoil(q, 5);
		turns++;
	}
	MUST(secmalloc_release(q) == 0);
	secfree(q);
	return NULL;
}

static void
one_of_each(unsigned turn)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	unsigned char *q = secmalloc(100), *r = seccalloc(10, 30);
	unsigned char *large = secaligned_alloc(256, 40000);
	char *copy = secstrdup("a secret"), *part = secstrndup("a secret", 3);

	MUST(q && r && large && copy && part);
	MUST(secmalloc_hold(q) == 0 && secmalloc_hold(large) == 0);
	fill(q, 100, turn);
	fill(large, 40000, turn + 1);
	MUST(secmalloc_release(q) == 0);
	MUST(secmalloc_encrypt(q) == 0 && secmalloc_is_encrypted(q) == 1);
	q = secrealloc(q, 5000);
	MUST(q && secmalloc_hold(q) == 0 && filled(q, 100, turn) && secmalloc_usable_size(q) == 5000);
	MUST(secmalloc_owns(q) && secmalloc_stats(&s) == 0);
	MUST(filled(large, 40000, turn + 1));
	MUST(secmalloc_protect(large, SECMALLOC_READONLY) == 0 || errno == ENOTSUP);
	MUST(filled(large, 40000, turn + 1) && secmalloc_release(large) == 0);
	MUST(secmalloc_hold(copy) == 0 && secmalloc_hold(part) == 0);
	MUST(strcmp(copy, "a secret") == 0 && strcmp(part, "a s") == 0);
	if (turn % 8 == 0)
		MUST(secmalloc_rekey() == 0);
	secfree(large);
	secfree(copy);
	secfree(part);
	secfree(r);
	MUST(secmalloc_release(q) == 0 && secrealloc(q, 0) == NULL);
}

static void *
calls_all(void *unused)
{
	for (unsigned i = 0; !over; i++, turns++)
		one_of_each(i);
	return unused;
}

static void *
sleeps(void *unused)
{
	struct timespec t = { 0, 20000000 };

	while (!over)
		(void)nanosleep(&t, NULL);
	return unused;
}

static void *
polls(void *unused)
{
	struct pollfd p = { .fd = -1 };

	while (!over)
		(void)poll(&p, 1, 20);
	return unused;
}

static int wire[2];

static void *
reads(void *unused)
{
	size_t n;
	unsigned char *q;
	char c;

	while (read(wire[0], &c, 1) == 1 || errno == EINTR)
		if (c == 'x')
			break;
	q = secmalloc_read_fd(wire[0], 100, &n);
	MUST(q != NULL && n == 6 && secmalloc_hold(q) == 0 && memcmp(q, "secret", 6) == 0);
	return unused;
}

static void *
starts_others(void *unused)
{
	pthread_t t;

	while (!over) {
		thread(&t, sleeps, NULL);
		pthread_detach(t);
		usleep(3000);
	}
	return unused;
}

static void
short_handler(int signal)
{
	(void)signal;
	turns++;
}

static void *
is_signalled(void *unused)
{
	while (!over) {
		raise(SIGUSR1);
		usleep(100);
	}
	return unused;
}

/* ------------------------------------------------------------------- cycles */

static void
all_at_once(void *flags)
{
	struct secmalloc_config c = daemon_config();
	pthread_t t[16];
	size_t n = 0;

	c.flags = *(unsigned *)flags;
	c.reseal_ms = c.flags ? 0 : 5;
	MUST(pipe(wire) == 0);
	signal(SIGUSR1, short_handler);
	MUST(secmalloc_init(&c) == 0);
	for (; n < 3; n++)
		thread(&t[n], looks_at_what_it_holds, (void *)(n + 1));
	thread(&t[n++], calls_all, NULL);
	thread(&t[n++], calls_all, NULL);
	thread(&t[n++], sleeps, NULL);
	thread(&t[n++], polls, NULL);
	thread(&t[n++], reads, NULL);
	thread(&t[n++], starts_others, NULL);
	thread(&t[n++], is_signalled, NULL);
	say_there();
	await_word();
	over = true;
	MUST(write(wire[1], "xsecret", 7) == 7);
	close(wire[1]);
	while (n > 0)
		MUST(pthread_join(t[--n], NULL) == 0);
	MUST(turns > 100);
	usleep(30000);
	MUST(secmalloc_term() == 0);
}

static void
cycle(struct peer *p, int n)
{
	const time_t end = time(NULL) + 25;

	for (int i = 0; i < n && time(NULL) < end; i++) {
		ck_assert_int_eq(fake_lock(p, FAKE_LOCK_MS), 0);
		if (i % 16 == 0)
			usleep(5000);
		ck_assert_int_eq(fake_unlock(p), 0);
		usleep((useconds_t)(i * 37 % 1000));
	}
}

START_TEST(threads_anywhere_come_through_many_cycles)
{
	unsigned flags = _i ? SECMALLOC_KEY_RESIDENT | SECMALLOC_ISOLATE : 0;
	struct program g;
	struct peer p;

	fake_begin(&fake, &g, all_at_once, &flags);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	cycle(&p, CYCLES);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

static void
all_with_pages(void *mode)
{
	struct secmalloc_config c = transparent_config(64);
	pthread_t t[5];

	MUST(seteuid(0) == 0);
	enter_mode(*(int *)mode, 4 * MIB);
	if (*(int *)mode == BY_SLOTS)
		forbid_uffd();
	c.daemon = here.path;
	MUST(secmalloc_init(&c) == 0);
	if (stats_now().mode != (unsigned)*(int *)mode)
		_exit(77);
	for (size_t n = 0; n < 3; n++)
		thread(&t[n], looks_at_what_it_holds, (void *)(n + 1));
	thread(&t[3], calls_all, NULL);
	thread(&t[4], calls_all, NULL);
	say_there();
	await_word();
	over = true;
	for (int n = 0; n < 5; n++)
		MUST(pthread_join(t[n], NULL) == 0);
	MUST(turns > 100 && secmalloc_term() == 0);
}

START_TEST(threads_come_through_with_transparent_pages)
{
	int mode = _i;
	struct program g;
	struct peer p;

	if (!may_drop(__func__) || (mode != BY_SLOTS && !mode_is_here(mode)))
		return;
	close_fake();
	ck_assert_int_eq(mode == BY_SIGNAL ? seteuid(NOBODY) : 0, 0); /* as the program will be */
	open_fake();
	fake_begin(&fake, &g, all_with_pages, &mode);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	cycle(&p, CYCLES);
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

/* ------------------------------------------------------------ what is left */

static void *
opens_and_closes(void *marker)
{
	unsigned char *q = secmalloc(SMALL);
	const unsigned seed = (unsigned)(uintptr_t)marker;

	plant(q, SMALL, seed);
	while (!over) {
		MUST(secmalloc_encrypt(q) == 0);
		MUST(secmalloc_decrypt(q) == 0);
		turns++;
	}
	MUST(planted(q, SMALL, seed));
	return NULL;
}

static void
works_with_keys(void *arg)
{
	const int *how = arg; /* flags, mode */
	struct secmalloc_config c = how[1] ? transparent_config(64) : daemon_config();
	pthread_t t[4];

	c.daemon = here.path;
	c.without = SECMALLOC_HIDDEN;
	c.flags |= (unsigned)how[0];
	if (how[1] == BY_SLOTS)
		forbid_uffd();
	MUST(secmalloc_init(&c) == 0 && stats_now().mode == (unsigned)how[1]);
	plant_control();
	for (size_t n = 0; n < 4; n++)
		thread(&t[n], opens_and_closes, (void *)n);
	say_there();
	await_word();
	over = true;
	for (int n = 0; n < 4; n++)
		MUST(pthread_join(t[n], NULL) == 0);
	MUST(secmalloc_term() == 0);
}

/* Wherever the signal finds them: registers with a key in them go to the stack with it. */
START_TEST(no_thread_leaves_a_key_or_a_secret_on_its_stack)
{
	static const int ways[][2] = { { 0, 0 }, { SECMALLOC_KEY_RESIDENT, 0 },
		{ SECMALLOC_KEY_RESIDENT, BY_THREAD }, { 0, BY_SLOTS } };
	int how[2] = { ways[_i][0], ways[_i][1] };
	const time_t end = time(NULL) + 25;
	struct program g;
	struct sight s;
	struct peer p;

	if (!may_drop(__func__) || (how[1] == BY_THREAD && !mode_is_here(BY_THREAD)))
		return;
	fake_begin(&fake, &g, works_with_keys, how);
	fake_meet(&fake, &p, SM_WIRE_DIE);
	fake_there(&g);
	for (int i = 0; i < SCANS && time(NULL) < end; i++) {
		ck_assert_int_eq(fake_lock(&p, FAKE_LOCK_MS), 0);
		(void)fake_count(&p); /* by then it has wiped what it sent */
		s = look_into(g.pid, &p.keys);
		ck_assert_uint_eq(s.control, 1);
		ck_assert_msg(s.key == 0 && s.hoard == 0, "scan %d: %u keys, %u secrets", i, s.key,
			s.hoard);
		ck_assert_int_eq(fake_unlock(&p), 0);
		usleep((useconds_t)(i * 131 % 1000));
	}
	fake_go_on(&g);
	fake_ends_well(&g);
	fake_die(&p);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_daemon_threads");
	TCase *tc = add_case(s, "cycles", 0);

	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_loop_test(tc, threads_anywhere_come_through_many_cycles, 0, 2);
	tcase_add_loop_test(tc, threads_come_through_with_transparent_pages, BY_THREAD,
		BY_SLOTS + 1);
	tc = add_case(s, "left", 0);
	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_loop_test(tc, no_thread_leaves_a_key_or_a_secret_on_its_stack, 0, 4);
	return run(s);
}
