/*
 * check_contract_reseal.c - the contract: what nobody holds closes by itself
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * What must happen is waited for, up to 10 s; no test depends on how soon it does.
 */
#include "every_call.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <time.h>

enum { PATIENCE_MS = 10000, VARIANTS = 8 };

/** variant - with the thread and without, packed and isolated, at once locked and elastic */
static struct secmalloc_config
variant(int i, unsigned ms)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = (i & 1 ? SECMALLOC_NO_THREAD : 0u) | (i & 2 ? SECMALLOC_ISOLATE : 0u);
	c.pool_size = i & 4 ? 16 * KIB : 0;
	c.reseal_ms = ms;
	return c;
}

static void
start(int i, unsigned ms)
{
	struct secmalloc_config c = variant(i, ms);

	MUST(secmalloc_init(&c) == 0);
}

static uint64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/** closes - whether the chunk does, in time; to ask is a call too */
static int
closes(const void *p)
{
	const uint64_t end = now_ms() + PATIENCE_MS;

	while (secmalloc_is_encrypted(p) == 0)
		if (now_ms() > end)
			return 0;
		else
			usleep(1000);
	return secmalloc_is_encrypted(p) == 1;
}

/** secret - a chunk that is held, with its content; it may close as soon as it is released */
static unsigned char *
secret(size_t n, unsigned seed)
{
	unsigned char *p = secmalloc(n);

	MUST(p != NULL && secmalloc_hold(p) == 0);
	fill(p, n, seed);
	return p;
}

static void
look(unsigned char *p, size_t n, unsigned seed)
{
	MUST(secmalloc_hold(p) == 0);
	MUST(filled(p, n, seed));
	MUST(secmalloc_release(p) == 0);
}

START_TEST(fresh_and_decrypted_chunks_close_by_themselves)
{
	static const size_t sizes[] = { 0, 1, 100, 16384, 20000, 300000 };
	unsigned char *p[6];
	uint64_t reseals;

	start(_i, 20);
	for (unsigned i = 0; i < 6; i++) {
		p[i] = secret(sizes[i], i);
		SUCCEEDS(secmalloc_release(p[i]));
	}
	for (unsigned i = 0; i < 6; i++)
		ck_assert(closes(p[i]));
	reseals = stats_now().reseals;
	ck_assert_uint_ge(reseals, 6);
	ck_assert_uint_eq(stats_now().bytes_clear, 0);
	for (unsigned i = 0; i < 6; i++)
		SUCCEEDS(secmalloc_decrypt(p[i]));
	for (unsigned i = 0; i < 6; i++)
		ck_assert(closes(p[i]));
	ck_assert_uint_ge(stats_now().reseals, reseals + 6);
	ck_assert_uint_le(stats_now().reseals, stats_now().seals);
	for (unsigned i = 0; i < 6; i++)
		look(p[i], sizes[i], i);
	ck_assert_uint_eq(stats_now().tampered, 0);
	term();
}
END_TEST

START_TEST(what_is_held_closes_only_after_its_release)
{
	unsigned char *held, *other;

	start(_i, 5);
	held = secret(100, 1);
	for (unsigned i = 0; i < 5; i++) {
		other = secmalloc(100);
		ck_assert(closes(other)); /* the time has come for both */
		ck_assert_int_eq(secmalloc_is_encrypted(held), 0);
		ck_assert(filled(held, 100, 1));
	}
	SUCCEEDS(secmalloc_release(held));
	ck_assert(closes(held));
	look(held, 100, 1);
	term();
}
END_TEST

START_TEST(a_decrypt_of_what_is_open_does_not_prolong)
{
	const uint64_t begun = now_ms();
	unsigned char *p;

	start(_i, 50);
	p = secmalloc(100);
	while (stats_now().reseals == 0) { /* each finds it open, but the last */
		SUCCEEDS(secmalloc_decrypt(p));
		ck_assert_uint_lt(now_ms() - begun, PATIENCE_MS);
	}
	term();
}
END_TEST

START_TEST(a_long_time_is_not_over_at_once)
{
	unsigned char *p;

	start(_i, 3600000);
	p = secmalloc(100);
	for (int i = 0; i < 30; i++) {
		usleep(2000);
		SUCCEEDS(secmalloc_decrypt(p));
	}
	ck_assert_uint_eq(stats_now().reseals, 0);
	ck_assert_uint_eq(stats_now().unseals, 0);
	term(); /* and it is not waited for */
}
END_TEST

START_TEST(a_protected_chunk_closes_and_stays_protected)
{
	unsigned char *p[2], byte;

	start(_i | 2, 10);
	for (unsigned i = 0; i < 2; i++) {
		p[i] = secret(5000, i);
		SUCCEEDS(secmalloc_protect(p[i], (enum secmalloc_access)i));
		SUCCEEDS(secmalloc_release(p[i]));
	}
	for (unsigned round = 0; round < 3; round++) {
		ck_assert(closes(p[0]) && closes(p[1]));
		usleep(2000); /* it is closed a moment before its pages are what they were */
		SUCCEEDS(secmalloc_decrypt(p[0]));
		SUCCEEDS(secmalloc_hold(p[0]));
		ck_assert_int_le(peek(p[0], &byte, 1), 0);
		SUCCEEDS(secmalloc_release(p[0]));
	}
	SUCCEEDS(secmalloc_protect(p[0], SECMALLOC_READONLY));
	look(p[0], 5000, 0);
	look(p[1], 5000, 1);
	term();
}
END_TEST

/* ---------------------------------------------------------- without a thread */

CALL(owns, secmalloc_owns(p) - 1)
CALL(stats, secmalloc_stats(&(struct secmalloc_stats)SECMALLOC_STATS_INIT))
CALL(free_other, (secfree(p), 0))

static const struct call OTHERS[] = {
	{ "owns", call_owns }, { "usable_size", call_usable_size },
	{ "is_encrypted", call_is_encrypted }, { "stats", call_stats },
	{ "protect", call_protect }, { "encrypt", call_encrypt }, { "decrypt", call_decrypt },
	{ "hold", call_hold }, { "release", call_release }, { "rekey", call_rekey },
	{ "secmalloc", call_malloc }, { "seccalloc", call_calloc }, { "aligned", call_aligned },
	{ "realloc of NULL", call_realloc_null }, { "strdup", call_strdup },
	{ "strndup", call_strndup }, { "read_fd", call_read_fd }, { "free", call_free_other },
};

START_TEST(without_a_thread_whichever_call_comes_next_closes)
{
	unsigned char *p, *other;

	start(3, 30);
	other = secmalloc(100);
	p = secret(100, 1);
	SUCCEEDS(secmalloc_release(p));
	for (size_t i = 0; i < CALLS(OTHERS); i++) {
		SUCCEEDS(secmalloc_decrypt(p));
		usleep(70000);
		(void)OTHERS[i].run(other);
		ck_assert_msg(!filled(p, 100, 1), "%s does not close", OTHERS[i].name);
	}
	look(p, 100, 1);
	term();
}
END_TEST

/* --------------------------------------------------------------- the thread */

/** tasks - the threads of this process; the last one that is not the caller in *other */
static int
tasks(pid_t *other)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	int n = 0;

	MUST(d != NULL);
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		n++;
		if (other && atoi(e->d_name) != getpid())
			*other = atoi(e->d_name);
	}
	closedir(d);
	return n;
}

/** tasks_become - a thread that was joined is gone from /proc a little later */
static int
tasks_become(int n)
{
	const uint64_t end = now_ms() + PATIENCE_MS;

	while (tasks(NULL) != n && now_ms() < end)
		usleep(1000);
	return tasks(NULL) == n;
}

START_TEST(there_is_a_thread_only_where_it_is_asked_for)
{
	const int alone = tasks(NULL);

	if (SANITIZED) /* which has threads of its own, here and in children */
		return;
	start(0, 0);
	secfree(secmalloc(10));
	ck_assert_int_eq(tasks(NULL), alone);
	term();
	start(1, 5);
	secfree(secmalloc(10));
	ck_assert_int_eq(tasks(NULL), alone);
	term();
	for (int i = 0; i < 20; i++) {
		start(0, i % 2 ? 1 : 100000);
		ck_assert_int_eq(tasks(NULL), alone + 1);
		if (i % 3)
			ck_assert_ptr_nonnull(secmalloc(10));
		term();
		ck_assert(tasks_become(alone));
	}
}
END_TEST

START_TEST(the_thread_blocks_every_signal)
{
	const unsigned long long catchable = ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1) |
		3ull << 31 /* 32 and 33 are libc's own */);
	unsigned long long blocked = 0;
	sigset_t before, after;
	char line[256];
	pid_t other = 0;
	FILE *f;

	if (SANITIZED || under_valgrind("the signals of the thread"))
		return;
	sigprocmask(SIG_SETMASK, NULL, &before);
	start(0, 5);
	sigprocmask(SIG_SETMASK, NULL, &after);
	for (int sig = 1; sig < NSIG; sig++)
		ck_assert_int_eq(sigismember(&before, sig), sigismember(&after, sig));
	ck_assert_int_eq(tasks(&other), 2);
	snprintf(line, sizeof(line), "/proc/self/task/%d/status", (int)other);
	f = fopen(line, "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, "SigBlk:", 7) == 0)
			blocked = strtoull(line + 7, NULL, 16);
	fclose(f);
	ck_assert_uint_eq(blocked & catchable, catchable);
	term();
}
END_TEST

START_TEST(a_child_has_a_thread_once_it_starts_anew)
{
	unsigned char *p, *mine;
	int status;
	pid_t pid;

	if (SANITIZED)
		return;
	start(_i, 10);
	p = secret(100, 1);
	pid = fork();
	if (pid == 0) {
		MUST(tasks_become(1));
		secmalloc_purge();
		MUST((mine = secmalloc(100)) != NULL);
		MUST(tasks_become(_i & 1 ? 1 : 2));
		MUST(closes(mine) && stats_now().reseals > 0);
		MUST(secmalloc_term() == 0);
		MUST(tasks_become(1));
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert(filled(p, 100, 1));
	SUCCEEDS(secmalloc_release(p));
	ck_assert(closes(p));
	term();
}
END_TEST

START_TEST(a_term_or_a_purge_in_the_middle_of_closing_ends_the_thread)
{
	const uint64_t end = now_ms() + 1500;
	const int alone = tasks(NULL);
	unsigned char *p[6];

	for (unsigned i = 0; now_ms() < end; i++) {
		start((int)(i % 4) & ~1, 1);
		for (unsigned k = 0; k < 6; k++) {
			p[k] = secret(k % 2 ? 500000 : 300, k);
			SUCCEEDS(secmalloc_release(p[k]));
		}
		usleep(i * 97 % 3000);
		if (i % 3 == 0)
			secmalloc_purge();
		term();
		ck_assert(SANITIZED || tasks_become(alone));
	}
}
END_TEST

START_TEST(locked_or_rekeyed_or_purged_the_thread_does_no_harm)
{
	unsigned char *p[8];

	start(_i, 2);
	for (unsigned i = 0; i < 8; i++) {
		p[i] = secret(i * 5000, i);
		SUCCEEDS(secmalloc_release(p[i]));
	}
	for (int i = 0; i < 200; i++) {
		SUCCEEDS(secmalloc_rekey());
		SUCCEEDS(secmalloc_decrypt(p[i % 8]));
		look(p[i % 8], (size_t)(i % 8) * 5000, (unsigned)i % 8);
	}
	SUCCEEDS(secmalloc_lock("material", 8));
	usleep(10000);
	SUCCEEDS(secmalloc_unlock("material", 8));
	for (unsigned i = 0; i < 8; i++)
		look(p[i], i * 5000, i);
	SUCCEEDS(secmalloc_hold(p[7]));
	secmalloc_purge();
	usleep(10000);
	ck_assert(all_zero(p[7], 35000));
	FAILS_WITH(ECANCELED, -1, secmalloc_decrypt(p[6]));
	ck_assert_uint_eq(stats_now().tampered, 0);
	term();
}
END_TEST

/* --------------------------------------------------------------- the writer */

static unsigned char *written;
static _Atomic int stop;
static sigjmp_buf out;

static void
on_segv(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

/** struct writer - how far it came: bytes before `at` are `value`, the others are one less */
struct writer {
	volatile size_t at;
	volatile unsigned char value;
	volatile int refused;
};

/* It does what a program must not: it writes what it does not hold. */
static void *
hammer(void *arg)
{
	struct writer *w = arg;

	if (sigsetjmp(out, 1) == 0)
		while (!stop)
			for (w->value++, w->at = 0; w->at < MIB && !stop; w->at++)
				((volatile unsigned char *)written)[w->at] = w->value;
	else
		w->refused = 1;
	return NULL;
}

/** is_whole - as the writer left it */
static int
is_whole(const struct writer *w)
{
	for (size_t i = 0; i < MIB; i++)
		if (written[i] != (unsigned char)(w->value - (i >= w->at)))
			return 0;
	return 1;
}

static int
write_until_it_closes(void)
{
	struct writer w = { 0, 0, 0 };
	pthread_t t;
	int e;

	stop = 0;
	start(2, 1);
	MUST((written = secmalloc(MIB)) != NULL);
	MUST(pthread_create(&t, NULL, hammer, &w) == 0);
	MUST(closes(written));
	stop = 1;
	MUST(pthread_join(t, NULL) == 0);
	MUST(closes(written));
	e = secmalloc_hold(written) ? errno : 0;
	if (w.refused) /* then nothing was written after that, and nothing before it is lost */
		MUST(e == 0 && is_whole(&w));
	else
		MUST(e == 0 || e == EBADMSG); /* it slept through the whole of it */
	MUST(secmalloc_term() == 0);
	return w.refused;
}

START_TEST(a_write_while_a_chunk_closes_is_a_signal_and_no_lost_chunk)
{
	const uint64_t end = now_ms() + PATIENCE_MS;
	struct sigaction act = { .sa_handler = on_segv }, before;
	int refused = 0;

	if (SANITIZED)
		return;
	sigaction(SIGSEGV, &act, &before);
	for (int i = 0; i < 60 || (refused == 0 && now_ms() < end); i++)
		refused += write_until_it_closes();
	sigaction(SIGSEGV, &before, NULL);
	ck_assert_int_gt(refused, 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_reseal");
	TCase *tc = add_case(s, "reseal", 0);

	tcase_add_loop_test(tc, fresh_and_decrypted_chunks_close_by_themselves, 0, VARIANTS);
	tcase_add_loop_test(tc, what_is_held_closes_only_after_its_release, 0, VARIANTS);
	tcase_add_loop_test(tc, a_decrypt_of_what_is_open_does_not_prolong, 0, 4);
	tcase_add_loop_test(tc, a_long_time_is_not_over_at_once, 0, 2);
	tcase_add_loop_test(tc, a_protected_chunk_closes_and_stays_protected, 0, 2);
	tcase_add_test(tc, without_a_thread_whichever_call_comes_next_closes);
	tc = add_case(s, "thread", 0);
	tcase_add_test(tc, there_is_a_thread_only_where_it_is_asked_for);
	tcase_add_test(tc, the_thread_blocks_every_signal);
	tcase_add_loop_test(tc, a_child_has_a_thread_once_it_starts_anew, 0, 2);
	tcase_add_test(tc, a_term_or_a_purge_in_the_middle_of_closing_ends_the_thread);
	tcase_add_loop_test(tc, locked_or_rekeyed_or_purged_the_thread_does_no_harm, 0, 4);
	tc = add_case(s, "writer", 0);
	tcase_add_test(tc, a_write_while_a_chunk_closes_is_a_signal_and_no_lost_chunk);
	return run(s);
}
