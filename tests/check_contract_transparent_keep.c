/*
 * check_contract_transparent_keep.c - SECMALLOC_TRANSPARENT with SECMALLOC_FORK_KEEP: what a child
 * has, and that it is its own
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "transparent_keep.h"
#include <dirent.h>
#include <fcntl.h>

/* ------------------------------------------------------------------ content */

static void
lives_on(void *seed)
{
	unsigned char *p;

	for (unsigned i = 0; i < CHUNKS; i++)
		MUST(secmalloc_is_encrypted(chunk[i]) == (i % 3 == 0));
	chunks_are(0);
	rewrite(*(unsigned *)seed);
	chunks_are(*(unsigned *)seed);
	for (unsigned i = 0; i < CHUNKS; i += 2)
		secfree(chunk[i]);
	p = secmalloc(500000);
	MUST(p != NULL && all_zero(p, 500000));
	fill(p, 500000, 5);
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	MUST(filled(p, 500000, 5) && filled(chunk[1], size_of(1), 1 + *(unsigned *)seed));
	MUST(secmalloc_term() == 0);
}

static void
whole(void *mode)
{
	unsigned seed = 100;

	start_in(mode, 0);
	make_chunks();
	child_does(lives_on, &seed);
	chunks_are(0);
	rewrite(7);
	chunks_are(7);
	MUST(stats_now().tampered == 0);
	MUST(secmalloc_term() == 0);
}

START_TEST(a_child_has_every_chunk_and_changes_only_its_own)
{
	(void)in_mode(_i, whole);
}
END_TEST

/** generations - arg: how many are to follow */
static void
generations(void *arg)
{
	unsigned left = *(unsigned *)arg;

	chunks_are(left);
	for (unsigned i = 0; i < CHUNKS; i += 2) /* the others are still the forefather's */
		fill(chunk[i], size_of(i), i + left);
	if (left == 0)
		return;
	rewrite(--left);
	child_does(generations, &left);
	chunks_are(left);
}

static void
grandchildren(void *mode)
{
	unsigned left = 4;

	start_in(mode, 0);
	make_chunks();
	rewrite(left);
	generations(&left);
	MUST(stats_now().tampered == 0);
}

START_TEST(children_of_children_have_what_their_parents_wrote)
{
	(void)in_mode(_i, grandchildren);
}
END_TEST

/** untouched - nobody on the way opens anything */
static void
untouched(void *arg)
{
	unsigned left = *(unsigned *)arg;

	if (left-- > 0)
		child_does(untouched, &left);
	chunks_are(0);
}

static void
late_reader(void *mode)
{
	unsigned left = 4;

	start_in(mode, 0);
	make_chunks();
	untouched(&left);
}

START_TEST(what_nobody_touched_for_generations_is_there)
{
	(void)in_mode(_i, late_reader);
}
END_TEST

/* -------------------------------------------------------------------- holds */

static unsigned char *held;

static void
holds_nothing(void *arg)
{
	int fd = open("/dev/zero", O_RDONLY);

	(void)arg;
	MUST_FAIL(EINVAL, -1, secmalloc_release(held));
	MUST(filled(held, 20000, 3));
	MUST(secmalloc_hold(held) == 0 && read(fd, held, 20000) == 20000);
	MUST(secmalloc_release(held) == 0 && all_zero(held, 20000));
	MUST(secmalloc_encrypt(held) == 0);
}

static void
holding(void *mode)
{
	int pipes[2];

	start_in(mode, 0);
	held = secmalloc(20000);
	MUST(held != NULL && pipe(pipes) == 0);
	fill(held, 20000, 3);
	MUST(secmalloc_hold(held) == 0);
	child_does(holds_nothing, NULL);
	MUST(write(pipes[1], held, 20000) == 20000);
	MUST(filled(held, 20000, 3));
	MUST_FAIL(EBUSY, -1, secmalloc_encrypt(held));
	MUST(secmalloc_release(held) == 0 && secmalloc_encrypt_all() == 0);
	MUST(stats_now().bytes_clear == 0 && filled(held, 20000, 3));
}

START_TEST(holds_are_the_parents_and_outlast_the_fork)
{
	(void)in_mode(_i, holding);
}
END_TEST

/* --------------------------------------------------------------- statistics */

static struct secmalloc_stats before;

static void
stats_are_right(void *arg)
{
	struct secmalloc_stats s = stats_now();

	(void)arg;
	MUST(s.chunks == before.chunks && s.bytes == before.bytes);
	MUST(s.chunks_encrypted == before.chunks_encrypted);
	MUST(s.pools == before.pools && s.pool_bytes == before.pool_bytes);
	MUST(s.locked_bytes == before.locked_bytes && s.granted == before.granted);
	MUST(s.mode == before.mode && s.cipher == before.cipher && s.bytes_clear == 0);
	for (unsigned i = 0; i < CHUNKS; i++)
		secfree(chunk[i]);
	s = stats_now();
	MUST(s.chunks == 0 && s.bytes == 0 && s.chunks_encrypted == 0);
}

static void
counted(void *mode)
{
	start_in(mode, 0);
	make_chunks();
	before = stats_now();
	child_does(stats_are_right, NULL);
	MUST(stats_now().chunks == before.chunks);
	MUST(stats_now().chunks_encrypted == before.chunks_encrypted);
}

START_TEST(the_statistics_of_a_child_are_right)
{
	(void)in_mode(_i, counted);
}
END_TEST

static unsigned
descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	MUST(d != NULL);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void
fork_in_turn(void *arg)
{
	unsigned *left = arg;
	unsigned n = descriptors();

	MUST(filled(chunk[5], size_of(5), 5));
	MUST(n == left[1]);
	if (left[0]-- > 0)
		child_does(fork_in_turn, arg);
}

static void
no_leak(void *mode)
{
	unsigned left[2] = { 15, 0 };

	start_in(mode, 0);
	make_chunks();
	left[1] = descriptors();
	fork_in_turn(left);
	left[0] = 0;
	for (unsigned i = 0; i < 100; i++)
		child_does(fork_in_turn, left);
	MUST(descriptors() == left[1]);
}

START_TEST(forks_leave_no_descriptor_behind)
{
	(void)in_mode(_i, no_leak);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: transparent, kept");
	TCase *tc = add_case(s, "keep", 0);

	tcase_set_timeout(tc, 300);
	tcase_add_loop_test(tc, a_child_has_every_chunk_and_changes_only_its_own, 1, 3);
	tcase_add_loop_test(tc, children_of_children_have_what_their_parents_wrote, 1, 3);
	tcase_add_loop_test(tc, what_nobody_touched_for_generations_is_there, 1, 3);
	tcase_add_loop_test(tc, holds_are_the_parents_and_outlast_the_fork, 1, 3);
	tcase_add_loop_test(tc, the_statistics_of_a_child_are_right, 1, 3);
	tcase_add_loop_test(tc, forks_leave_no_descriptor_behind, 1, 3);
	return run(s);
}
