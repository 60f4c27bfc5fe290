/*
 * check_keep_open.c - what a fork leaves to parent and child without more work than there need be
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include "fault/inside.h"
#include "transparent.h"
#include "transparent_keep.h"
#include <pthread.h>

enum { PAGES = 24, COLD = 90, SOME = 50, FORKS = 20, ROUNDS = 100, LATER = 1500 };

static void (*between)(void); /* in the thread that forks, when all is put away */
static void (*back)(void);    /* and in the parent before anything is opened again */

static void
before_fork(void)
{
	if (between)
		between();
}

static void
in_parent(void)
{
	if (back)
		back();
}

/* Before the library has its own: those are inside. */
static void
in_turn(int mode, void (*body)(void *))
{
	ck_assert_int_eq(pthread_atfork(before_fork, in_parent, NULL), 0);
	(void)in_mode(mode, body);
}

static unsigned char *hot, *cold;

static void
start_open(void *mode)
{
	start_in(mode, 0);
	cold = secmalloc(COLD * PAGE);
	hot = secmalloc(PAGES * PAGE);
	MUST(hot && cold);
	fill(cold, COLD * PAGE, 3);
	fill(hot, PAGES * PAGE, 5);
}

static void
has_all(void *unused)
{
	(void)unused;
	MUST(filled(hot, PAGES * PAGE, 5) && filled(cold, COLD * PAGE, 3));
	MUST(sm_engine.nkept == 0);
}

static void
nothing(void *unused)
{
	(void)unused;
}

/* ----------------------------------------------------------- what was clear is */

static void
stays_open(void *mode)
{
	uint64_t served;

	start_open(mode);
	for (unsigned i = 0; i < 3; i++) {
		MUST(filled(hot, PAGES * PAGE, 5));
		served = stats_now().faults_served;
		child_does(has_all, NULL);
		MUST(filled(hot, PAGES * PAGE, 5) && sm_engine.nkept == 0);
		MUST(stats_now().faults_served <= served + 1); /* the last one counts late */
	}
	MUST(filled(cold, COLD * PAGE, 3));
}

START_TEST(what_was_clear_before_a_fork_is_not_opened_again_after_it)
{
	in_turn(_i, stays_open);
}
END_TEST

static void
is_closed_in_time(void *mode)
{
	start_open(mode);
	for (unsigned i = 0; i < FORKS; i++)
		child_does(nothing, NULL);
	MUST(sm_fault_clear_bytes() < PAGES * PAGE);
	MUST(filled(hot, PAGES * PAGE, 5));
}

START_TEST(what_nobody_touches_is_closed_after_some_forks)
{
	in_turn(_i, is_closed_in_time);
}
END_TEST

/* -------------------------------------------------------- while all is put away */

static unsigned
kept_frames(bool *zero)
{
	unsigned n = 0;

	*zero = true;
	for (uint32_t f = 0; f < sm_engine.frames; f++)
		if (sm_engine.owner[f].kept) {
			*zero &= all_zero(sm_frame_at(f), PAGE);
			n++;
		}
	return n;
}

static void
nothing_is_there(void)
{
	bool zero;

	for (uint32_t f = 0; f < sm_engine.frames; f++)
		MUST(!sm_engine.owner[f].span);
	MUST(kept_frames(&zero) >= PAGES && !zero);
}

static void
look_between(void *mode)
{
	between = nothing_is_there;
	start_open(mode);
	child_does(has_all, NULL);
	has_all(NULL);
}

START_TEST(while_a_thread_forks_no_page_is_clear_for_others)
{
	in_turn(_i, look_between);
}
END_TEST

static void
purge(void)
{
	bool zero;

	secmalloc_purge();
	MUST(kept_frames(&zero) >= PAGES && zero);
}

static void
purge_between(void *mode)
{
	between = purge;
	start_open(mode);
	child_does(nothing, NULL);
	MUST(all_zero(hot, PAGES * PAGE) && all_zero(cold, COLD * PAGE));
}

START_TEST(a_purge_finds_what_waits_for_the_fork_to_be_over)
{
	in_turn(_i, purge_between);
}
END_TEST

static _Atomic bool is_back;
static unsigned late; /* turns */

static void
say_back(void)
{
	is_back = true;
}

static void *
purges(void *unused)
{
	while (!is_back)
		;
	for (volatile unsigned i = 0; i < late; i++)
		;
	secmalloc_purge();
	return unused;
}

static void
purge_beside(void *mode)
{
	pthread_t t;

	back = say_back;
	start_open(mode);
	MUST(pthread_create(&t, NULL, purges, NULL) == 0);
	child_does(nothing, NULL);
	MUST(pthread_join(t, NULL) == 0);
	MUST(all_zero(hot, PAGES * PAGE) && all_zero(cold, COLD * PAGE));
}

static void
purge_now_and_then(void *mode)
{
	for (late = 0; late < ROUNDS * LATER; late += LATER)
		child_does(purge_beside, mode);
}

START_TEST(a_purge_comes_while_what_was_clear_is_put_back)
{
	in_turn(_i, purge_now_and_then);
}
END_TEST

/* As by a purge that has begun to wipe them, in another thread. */
static void
take_all(void)
{
	for (uint32_t f = 0; f < sm_engine.frames; f++)
		if (sm_engine.owner[f].kept)
			sm_engine.owner[f].taken = true;
}

static void
take_between(void *mode)
{
	between = take_all;
	start_open(mode);
	child_does(has_all, NULL);
	MUST(sm_fault_clear_bytes() == 0);
	for (uint32_t f = 0; f < sm_engine.frames; f++)
		if (sm_engine.owner[f].taken)
			sm_purge_wipe(sm_frame_at(f), PAGE);
	has_all(NULL);
}

START_TEST(what_a_purge_is_wiping_is_not_put_back)
{
	in_turn(_i, take_between);
}
END_TEST

static void
touch_many(void)
{
	hot[5] ^= 1; /* opened, and not closed again: the child has it as it was */
	MUST(filled(cold, SOME * PAGE, 3));
}

static void
need_frames(void *mode)
{
	between = touch_many;
	start_open(mode);
	child_does(has_all, NULL);
	hot[5] ^= 1;
	has_all(NULL);
}

START_TEST(what_waits_makes_room_for_what_handlers_touch)
{
	in_turn(_i, need_frames);
}
END_TEST

static void
throw_away(void)
{
	MUST(sm_host.forget && sm_host.forget(hot, (PAGES - 1) * PAGE));
}

static void
thrown_away(void *mode)
{
	between = throw_away;
	start_open(mode);
	hot = (unsigned char *)sm_round_up((uintptr_t)hot, PAGE);
	child_does(nothing, NULL);
	MUST(all_zero(hot, (PAGES - 1) * PAGE));
}

START_TEST(what_is_thrown_away_meanwhile_does_not_come_back)
{
	in_turn(_i, thrown_away);
}
END_TEST

/* ------------------------------------------------------------------- records */

enum { SIZES = 12, OF_EACH = 600 };
static const size_t sizes[SIZES] = { 1, 16, 40, 100, 200, 500, 1000, 2000, 3000, 4096, 9000, 70000 };
static unsigned char *chunks[SIZES][OF_EACH];

static void
set_locks(uint32_t to)
{
	for (unsigned i = 0; i < SIZES; i++)
		for (unsigned k = 0; k < OF_EACH; k++) {
			struct sm_chunk *c = chunks[i][k] ? sm_heap_look(chunks[i][k]) : NULL;

			if (c)
				atomic_store(&c->lock.word, to);
		}
}

static void
lock_all(void)
{
	set_locks(1);
}

static void
unlock_all(void)
{
	set_locks(0);
}

static void
free_all(void *unused)
{
	(void)unused;
	for (unsigned i = 0; i < SIZES; i++)
		for (unsigned k = 0; k < OF_EACH; k++)
			secfree(chunks[i][k]);
	MUST(stats_now().chunks == 2);
}

static void
locked_records(void *mode)
{
	start_open(mode);
	for (unsigned i = 0; i < SIZES; i++)
		for (unsigned k = 0; k < (sizes[i] > 4096 ? 3 : OF_EACH); k++)
			MUST((chunks[i][k] = secmalloc(sizes[i])) != NULL);
	between = lock_all;
	back = unlock_all;
	child_does(free_all, NULL);
	free_all(NULL);
}

START_TEST(no_record_that_a_thread_of_the_parent_had_is_locked_in_the_child)
{
	in_turn(_i, locked_records);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("keep, open");
	TCase *tc = tcase_create("open");

	tcase_set_timeout(tc, 120);
	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc, what_was_clear_before_a_fork_is_not_opened_again_after_it, 1, 3);
	tcase_add_loop_test(tc, what_nobody_touches_is_closed_after_some_forks, 1, 3);
	tcase_add_loop_test(tc, while_a_thread_forks_no_page_is_clear_for_others, 1, 3);
	tcase_add_loop_test(tc, a_purge_finds_what_waits_for_the_fork_to_be_over, 1, 3);
	tcase_add_loop_test(tc, a_purge_comes_while_what_was_clear_is_put_back, 1, 3);
	tcase_add_loop_test(tc, what_a_purge_is_wiping_is_not_put_back, 1, 3);
	tcase_add_loop_test(tc, what_waits_makes_room_for_what_handlers_touch, 1, 3);
	tcase_add_loop_test(tc, what_is_thrown_away_meanwhile_does_not_come_back, 1, 3);
	tcase_add_loop_test(tc, no_record_that_a_thread_of_the_parent_had_is_locked_in_the_child, 1,
		3);
	return run_rooms(s);
}
