/*
 * check_base.c - the room base, from inside: dying, locks, errors, counters
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "base/base.h"

static _Atomic unsigned naps;
static _Atomic long longest_nap;

/* lock.c sleeps through this, so that sleeps are counted and measured; one thread at a time */
static int
nap(const struct timespec *t, struct timespec *left)
{
	if (t->tv_nsec > longest_nap)
		longest_nap = t->tv_nsec;
	naps++;
	return clock_nanosleep(CLOCK_MONOTONIC, 0, t, left);
}

#define nanosleep(t, left) nap(t, left)
#include "base/lock.c"
#include "base/error.c"

#include "base/count.c"

enum { THREADS = 4, KINDS = SECMALLOC_FAULT_STORE + 2 };

#if defined(__GLIBC__) && !SANITIZED
static bool forbidden;
void *__libc_malloc(size_t n);

void *
malloc(size_t n)
{
	if (forbidden)
		_exit(77);
	return __libc_malloc(n);
}
#endif

static void
in_threads(void *(*f)(void *), void *arg)
{
	pthread_t t[THREADS];

	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, f, arg), 0);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
}

/* ----------------------------------------------------------------------- die */

#define INTERNAL "secmalloc: internal: an invariant of the library is broken, please report this\n"

/* by kind; the first and the last are no kind at all */
static const char *const sentences[KINDS] = {
	INTERNAL,
	"secmalloc: double free: this chunk was given back before\n",
	"secmalloc: invalid free: not the start of a chunk of secmalloc\n",
	"secmalloc: overflow: bytes behind the end of a chunk were written\n",
	"secmalloc: underflow: bytes in front of a chunk were written\n",
	"secmalloc: write after free: a chunk was written after it was given back\n",
	INTERNAL,
	"secmalloc: tampered: a closed page was written from outside\n",
	"secmalloc: store: the file in store_dir could not be read or written\n",
	INTERNAL,
};

static struct sm_config conf;
static int a_chunk, an_arg;

static void
assert_dies(void (*body)(void *), void *arg, const char *said)
{
	const struct outcome o = outcome_of(body, arg);

	ck_assert_str_eq(o.text, said);
	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "status 0x%x",
		(unsigned)o.status);
}

#ifdef SM_CHECKING
#define assert_dies_if_checking(body, arg) assert_dies(body, arg, INTERNAL)
#else
#define assert_dies_if_checking(body, arg) assert_exits_0(body, arg)
#endif

static void
die_of(void *kind)
{
	sm_die(*(enum secmalloc_fault *)kind, &a_chunk);
}

#if defined(__GLIBC__) && !SANITIZED
static void
die_without_allocating(void *kind)
{
	forbidden = true;
	die_of(kind);
}

static void
allocate_though_forbidden(void *arg)
{
	forbidden = true;
	*(void *volatile *)arg = malloc(1);
}
#endif

static void
die_without_stderr(void *kind)
{
	close(STDERR_FILENO);
	die_of(kind);
}

static void
report_call(enum secmalloc_fault kind, const void *ptr, void *arg)
{
	char line[] = "called with 0\n";

	line[12] = (char)('0' + kind);
	if (ptr != &a_chunk || arg != &an_arg || write(STDERR_FILENO, line, strlen(line)) < 0)
		_exit(78);
}

static void
with_on_fault(void (*f)(enum secmalloc_fault, const void *, void *))
{
	conf = (struct sm_config){ .on_fault = f, .fault_arg = &an_arg };
	sm_config_now = &conf;
}

static void
break_check(void *arg)
{
	sm_check(arg != NULL);
}

static void
break_assert(void *arg)
{
	sm_assert(arg != NULL);
}

START_TEST(every_fault_says_its_sentence_and_aborts)
{
	assert_dies(die_of, &_i, sentences[_i]);
	assert_dies(die_without_stderr, &_i, "");
}
END_TEST

START_TEST(on_fault_is_called_first_with_kind_pointer_and_argument)
{
	char want[256];

	with_on_fault(report_call);
	snprintf(want, sizeof(want), "called with %d\n%s", _i, sentences[_i]);
	assert_dies(die_of, &_i, want);
}
END_TEST

#if defined(__GLIBC__) && !SANITIZED
START_TEST(dying_allocates_nothing)
{
	void *p = NULL;
	struct outcome control = outcome_of(allocate_though_forbidden, &p);

	ck_assert(WIFEXITED(control.status) && WEXITSTATUS(control.status) == 77);
	assert_dies(die_without_allocating, &_i, sentences[_i]);
}
END_TEST
#endif

START_TEST(a_broken_assert_is_internal_and_a_broken_check_in_checking_builds)
{
	assert_dies(break_assert, NULL, INTERNAL);
	assert_dies_if_checking(break_check, NULL);
}
END_TEST

/* --------------------------------------------------------------------- locks */

static const unsigned ranks[] = { SM_RANK_KEY, SM_RANK_POOL, SM_RANK_ARENA, SM_RANK_KEY_SLOT,
	SM_RANK_CHUNK, SM_RANK_LIFE };
enum { RANKS = sizeof(ranks) / sizeof(ranks[0]) };

static struct sm_lock lock, other;
static uint64_t plain; /* under lock */

static void *
increment(void *times)
{
	for (size_t i = *(const size_t *)times; i > 0; i--) {
		uint64_t was;

		sm_lock_take(&lock, SM_RANK_POOL);
		was = plain;
		if (i % 1024 == 0)
			sched_yield(); /* the threads meet here, on one CPU too */
		plain = was + 1;
		sm_lock_release(&lock, SM_RANK_POOL);
	}
	return NULL;
}

static void
take_two(void *order)
{
	const unsigned *rank = order;

	sm_lock_take(&lock, rank[0]);
	sm_lock_take(&other, rank[1]);
}

START_TEST(a_lock_excludes)
{
	size_t times = 300000;

	in_threads(increment, &times);
	ck_assert_uint_eq(plain, THREADS * times);
}
END_TEST

START_TEST(a_thread_that_waits_long_sleeps_up_to_1_ms_a_turn_and_gets_the_lock)
{
	size_t times = 1;
	pthread_t t;

	sm_lock_take(&lock, SM_RANK_POOL);
	ck_assert_int_eq(pthread_create(&t, NULL, increment, &times), 0);
	while (naps < 30)
		sched_yield();
	ck_assert_uint_eq(plain, 0);
	sm_lock_release(&lock, SM_RANK_POOL);
	ck_assert_int_eq(pthread_join(t, NULL), 0);
	ck_assert_uint_eq(plain, 1);
	ck_assert_int_le(longest_nap, 1000000);
}
END_TEST

START_TEST(locks_go_down_in_rank_which_checking_builds_assert)
{
	for (size_t i = 0; i < RANKS; i++) {
		unsigned order[2] = { ranks[_i], ranks[i] };

		if (ranks[i] < ranks[_i])
			assert_exits_0(take_two, order);
		else
			assert_dies_if_checking(take_two, order);
	}
}
END_TEST

START_TEST(a_child_that_forgot_its_locks_may_take_any)
{
	unsigned order[2] = { SM_RANK_LIFE, SM_RANK_CHUNK };
	struct sm_lock high = { 0 }, low = { 0 };

	sm_lock_take(&high, SM_RANK_CHUNK);
	sm_lock_take(&low, SM_RANK_KEY);
	sm_locks_forget();
	take_two(order);
}
END_TEST

static void *
fail_in_thread(void *bad)
{
	char want[16];

	*(_Atomic int *)bad |= strcmp(sm_error_text(), "no error") != 0;
	for (int i = 0; i < 10000; i++) {
		snprintf(want, sizeof(want), "%x", (unsigned)pthread_self() + (unsigned)i);
		sm_fail(EIO, "%s", want);
		*(_Atomic int *)bad |= strcmp(sm_error_text(), want) != 0;
	}
	return NULL;
}

START_TEST(sm_fail_knows_the_least_and_the_most)
{
	sm_fail(EIO, "%d %d %u %zu%s", INT_MIN, 0, UINT_MAX, SIZE_MAX, "");
	if (SIZE_MAX == UINT64_MAX)
		ck_assert_str_eq(sm_error_text(),
			"-2147483648 0 4294967295 18446744073709551615");
	sm_fail(EIO, "%s", "");
	ck_assert_str_eq(sm_error_text(), "");
}
END_TEST

START_TEST(sm_fail_hands_on_its_value_and_keeps_errno)
{
	errno = EDOM;
	ck_assert_int_eq(sm_fail(ENOTSUP, "%s of %zu bytes: %d", "this", (size_t)12, -3), ENOTSUP);
	ck_assert_int_eq(errno, EDOM);
	ck_assert_str_eq(sm_error_text(), "this of 12 bytes: -3");
}
END_TEST

START_TEST(each_thread_has_its_own_error_text)
{
	_Atomic int bad = 0;

	sm_fail(EIO, "mine");
	in_threads(fail_in_thread, &bad);
	ck_assert_int_eq(bad, 0);
	ck_assert_str_eq(sm_error_text(), "mine");
}
END_TEST

START_TEST(an_error_text_too_long_is_cut_and_nothing_behind_it_is_written)
{
	char longest[sizeof(pending) + 2] = "";

	for (size_t n = sizeof(pending) - 3; n < sizeof(longest); n++) {
		memset(longest, 'x', n);
		sm_fail(EIO, "%s", longest);
		ck_assert_uint_eq(strlen(sm_error_text()), sm_min_size(n, sizeof(pending) - 1));
	}
}
END_TEST

START_TEST(a_reset_leaves_only_live_at_term)
{
	_Atomic uint64_t *all = (_Atomic uint64_t *)&sm_count;
	size_t n = sizeof(sm_count) / sizeof(*all);

	for (size_t i = 0; i < n; i++)
		all[i] = i + 7;
	sm_count_reset();
	for (size_t i = 0; i < n; i++)
		ck_assert_uint_eq(all[i], &all[i] == &sm_count.live_at_term ? i + 7 : 0);
}
END_TEST

/* ------------------------------------------------------------- what threads count */

enum { COUNTERS = SM_SHARES + 20, ROUNDS = 20000 };

static void *
close_and_open(void *arg)
{
	pthread_barrier_wait(arg);
	for (unsigned i = 0; i < ROUNDS; i++) {
		sm_count_veil(1, 0, 3);
		sm_count_veil(0, 1, -(uint64_t)2);
	}
	return sm_my_share;
}

START_TEST(threads_count_all_there_is_though_most_have_a_share_of_their_own)
{
	pthread_barrier_t all;
	pthread_t t[COUNTERS];
	struct sm_sums sums;
	unsigned late = 0;

	sm_count_reset();
	ck_assert_int_eq(pthread_barrier_init(&all, NULL, COUNTERS), 0);
	for (unsigned i = 0; i < COUNTERS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, close_and_open, &all), 0);
	for (unsigned i = 0; i < COUNTERS; i++) {
		void *share;

		ck_assert_int_eq(pthread_join(t[i], &share), 0);
		late += share == sm_shares;
	}
	sums = sm_count_shares();
	ck_assert_uint_eq(sums.seals, (uint64_t)COUNTERS * ROUNDS);
	ck_assert_uint_eq(sums.unseals, sums.seals);
	ck_assert_uint_eq(sums.bytes_encrypted, sums.seals);
	ck_assert_uint_eq(late, COUNTERS - (SM_SHARES - 1));
	ck_assert_uint_eq(sm_count_sealed(&sums), sums.seals);
	sm_count_veil(0, 0, -sums.bytes_encrypted - 1); /* as if read between the two */
	sums = sm_count_shares();
	ck_assert_uint_eq(sm_count_sealed(&sums), 0);
	sm_count_veil(0, 0, -sums.bytes_encrypted);
	ck_assert_uint_eq(sm_count_shares().bytes_encrypted, 0);
	sm_count_reset();
	sums = sm_count_shares();
	ck_assert(sums.seals == 0 && sums.unseals == 0 && sums.bytes_encrypted == 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("base");
	TCase *tc = tcase_create("base");
	SRunner *sr = srunner_create(s);

	tcase_set_timeout(tc, 30);
	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc, every_fault_says_its_sentence_and_aborts, 0, KINDS);
	tcase_add_loop_test(tc, on_fault_is_called_first_with_kind_pointer_and_argument, 0, KINDS);
#if defined(__GLIBC__) && !SANITIZED
	tcase_add_loop_test(tc, dying_allocates_nothing, 0, KINDS);
#endif
	tcase_add_test(tc, a_broken_assert_is_internal_and_a_broken_check_in_checking_builds);
	tcase_add_test(tc, a_lock_excludes);
	tcase_add_test(tc, a_thread_that_waits_long_sleeps_up_to_1_ms_a_turn_and_gets_the_lock);
	tcase_add_loop_test(tc, locks_go_down_in_rank_which_checking_builds_assert, 0, RANKS);
	tcase_add_test(tc, a_child_that_forgot_its_locks_may_take_any);
	tcase_add_test(tc, sm_fail_knows_the_least_and_the_most);
	tcase_add_test(tc, sm_fail_hands_on_its_value_and_keeps_errno);
	tcase_add_test(tc, each_thread_has_its_own_error_text);
	tcase_add_test(tc, an_error_text_too_long_is_cut_and_nothing_behind_it_is_written);
	tcase_add_test(tc, a_reset_leaves_only_live_at_term);
	tcase_add_test(tc, threads_count_all_there_is_though_most_have_a_share_of_their_own);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
