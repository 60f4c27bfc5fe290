/*
 * check_contract_transparent_locks.c - transparent pages, and a program that locks, unlocks or pins
 * them
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "transparent.h"
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { CLEAR_PAGES = 64, BYTES = 200 * 4096, PINNED_BYTES = 8 * 4096 };

static unsigned char *
start(const void *mode)
{
	struct secmalloc_config c = transparent_config(CLEAR_PAGES);
	unsigned char *p;

	enter_mode(*(const int *)mode, 8 * MIB);
	MUST(secmalloc_init(&c) == 0 && stats_now().mode == (unsigned)*(const int *)mode);
	p = secaligned_alloc(4096, BYTES);
	MUST(p != NULL);
	fill(p, BYTES, 1);
	alarm(60);
	return p;
}

static void
is_whole(unsigned char *p)
{
	for (unsigned i = 0; i < 3; i++) {
		MUST(filled(p, BYTES, 1 + i));
		fill(p, BYTES, 2 + i);
		MUST(stats_now().bytes_clear <= (CLEAR_PAGES + 32) * 4096);
		MUST(i == 1 || secmalloc_encrypt_all() == 0);
	}
	MUST(stats_now().bytes_clear == 0);
	secfree(p);
	MUST(secmalloc_term() == 0);
}

/* ------------------------------------------------------------------- locks */

/** is_there - this page is in memory, or its content in swap */
static int
is_there(unsigned char *p)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	MUST(fd >= 0 && pread(fd, &entry, 8, (off_t)((uintptr_t)p / 4096 * 8)) == 8);
	close(fd);
	return entry >> 62 != 0;
}

static void
locking_all(void *mode)
{
	unsigned char *p = start(mode);

	MUST(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
	is_whole(p);
}

START_TEST(mlockall_comes_to_an_end_and_nothing_is_lost)
{
	if (mode_is_here(BY_THREAD))
		(void)in_mode(BY_THREAD, locking_all);
}
END_TEST

/* What is mapped comes at once, of all pools: those from the start, and the next. */
static void
locking_before(void *mode)
{
	struct secmalloc_config c = transparent_config(CLEAR_PAGES);
	unsigned char *p[8];

	(void)mode;
	MUST(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
	MUST(secmalloc_init(&c) == 0);
	for (size_t i = 0; i < 8; i++) {
		p[i] = secaligned_alloc(4096, MIB);
		MUST(p[i] != NULL);
		fill(p[i], MIB, 1 + (unsigned)i);
		MUST(stats_now().bytes_clear <= (CLEAR_PAGES + 32) * 4096);
	}
	MUST(secmalloc_encrypt_all() == 0);
	for (size_t i = 0; i < 8; i++)
		for (size_t at = 0; at < MIB; at += 4096)
			MUST(!is_there(p[i] + at));
	for (size_t i = 0; i < 8; i++)
		MUST(filled(p[i], MIB, 1 + (unsigned)i));
	MUST(secmalloc_term() == 0);
}

START_TEST(what_is_mapped_where_all_is_locked_closes_too)
{
	if (mode_is_here(BY_THREAD))
		(void)in_mode(BY_THREAD, locking_before);
}
END_TEST

static void
purging(void *mode)
{
	unsigned char *p = start(mode);

	MUST(mlockall(MCL_CURRENT) == 0);
	secmalloc_purge();
	for (size_t i = 0; i < BYTES; i++)
		MUST(p[i] == 0);
}

START_TEST(after_mlockall_a_purge_leaves_nothing)
{
	if (mode_is_here(BY_THREAD))
		(void)in_mode(BY_THREAD, purging);
}
END_TEST

/** is_locked - the open page at p */
static int
is_locked(unsigned char *p)
{
	char line[256];
	unsigned long from, to;
	int inside = 0, locked = 0;
	FILE *f = fopen("/proc/self/smaps", "r");

	MUST(f != NULL);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = (uintptr_t)p >= from && (uintptr_t)p < to;
		if (inside && strncmp(line, "VmFlags:", 8) == 0)
			locked = strstr(line, " lo") != NULL;
	}
	fclose(f);
	return locked;
}

static void
unlocking(void *mode)
{
	unsigned char *p = start(mode);

	MUST(munlock(p, BYTES) == 0 && filled(p, BYTES, 1));
	MUST(is_locked(p + BYTES - 1));
	MUST(*(int *)mode == BY_SIGNAL || mlock(p, BYTES) == 0);
	MUST(munlock(p, BYTES) == 0 && filled(p, BYTES, 1));
	MUST(is_locked(p + BYTES - 1));
	is_whole(p);
}

START_TEST(what_the_program_unlocks_is_locked_again_when_it_moves)
{
	(void)in_mode(_i, unlocking);
}
END_TEST

/* ------------------------------------------------------------ pinned, freed */

#ifdef IORING_OFF_SQ_RING

static void
freeing(void *mode)
{
	unsigned char *p = start(mode), *pinned = secaligned_alloc(4096, PINNED_BYTES), *other[50];
	struct io_uring_params how = { 0 };
	struct iovec v = { pinned, PINNED_BYTES };
	int ring = (int)syscall(SYS_io_uring_setup, 4, &how);
	uint64_t clear;

	MUST(pinned && secmalloc_hold(pinned) == 0);
	fill(pinned, PINNED_BYTES, 9);
	if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &v, 1))
		_exit(0);
	MUST(secmalloc_release(pinned) == 0 && secmalloc_encrypt_all() == 0);
	clear = stats_now().bytes_clear;
	MUST(clear >= PINNED_BYTES);
	MUST(is_there(pinned) && is_there(pinned + PINNED_BYTES - 1));
	secfree(pinned);
	MUST(!is_there(pinned) && !is_there(pinned + PINNED_BYTES - 1));
	MUST(stats_now().bytes_clear <= clear - PINNED_BYTES);
	for (int i = 0; i < 50; i++) { /* one of them lies where it lay */
		other[i] = secaligned_alloc(4096, PINNED_BYTES);
		MUST(other[i] != NULL && secmalloc_hold(other[i]) == 0);
		for (size_t k = 0; k < PINNED_BYTES; k++)
			MUST(other[i][k] == 0);
		MUST(secmalloc_release(other[i]) == 0);
		fill(other[i], PINNED_BYTES, 100 + i);
	}
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	for (int i = 0; i < 50; i++)
		MUST(filled(other[i], PINNED_BYTES, 100 + i));
	close(ring);
	is_whole(p);
}

START_TEST(a_pinned_page_that_is_freed_is_served_like_any_other)
{
	(void)in_mode(_i, freeing);
}
END_TEST
#endif

int
main(void)
{
	Suite *s = suite_create("contract, transparent, locks");
	TCase *tc = tcase_create("locks");

	tcase_set_timeout(tc, 120);
	suite_add_tcase(s, tc);
	tcase_add_test(tc, mlockall_comes_to_an_end_and_nothing_is_lost);
	tcase_add_test(tc, what_is_mapped_where_all_is_locked_closes_too);
	tcase_add_test(tc, after_mlockall_a_purge_leaves_nothing);
	tcase_add_loop_test(tc, what_the_program_unlocks_is_locked_again_when_it_moves, BY_THREAD,
		BY_SIGNAL + 1);
#ifdef IORING_OFF_SQ_RING
	tcase_add_loop_test(tc, a_pinned_page_that_is_freed_is_served_like_any_other, BY_THREAD,
		BY_SIGNAL + 1);
#endif
	return run(s);
}
