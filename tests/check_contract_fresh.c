/*
 * check_contract_fresh.c - pages that were never touched: they come several at once, and locked
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Which pages are there is what the kernel says (pagemap), not the library.
 */
#include "transparent.h"
#include "outside.h"
#include "smaps.h"
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>

enum { PAGE = 4096, CLEAR_PAGES = 512, AT_ONCE = 8, MANY = 600, SPARE = 32, MOST_AT_ONCE = 64,
	LOCKABLE = 5 << 20 };

static volatile unsigned char *run_of_pages; /* page by page, behind its first one */
static bool before[MANY], after[MANY];

static void
enter(int mode, size_t clear_pages, unsigned reseal_ms)
{
	struct secmalloc_config c = transparent_config(clear_pages);
	unsigned char *p;

	c.reseal_ms = reseal_ms;
	enter_mode(mode, LOCKABLE); /* no pool as a whole: page by page */
	MUST(secmalloc_init(&c) == 0);
	p = secmalloc((MANY + 2) * PAGE - 64);
	MUST(p != NULL);
	run_of_pages = p + PAGE - (uintptr_t)p % PAGE;
}

static volatile unsigned char *
page_of(size_t i)
{
	return run_of_pages + i * PAGE;
}

static size_t
look_once(bool *there)
{
	static uint64_t entry[MANY];
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	MUST(fd >= 0 && pread(fd, entry, sizeof(entry),
		(off_t)((uintptr_t)run_of_pages / PAGE * sizeof(*entry))) == sizeof(entry));
	close(fd);
	for (size_t i = 0; i < MANY; i++)
		n += there[i] = entry[i] >> 63;
	return n;
}

/* Whoever touches a page goes on once that is there; those that come along may be on their way. */
static size_t
look(bool *there)
{
	size_t n = look_once(there), was;

	do {
		nanosleep(&(struct timespec){ 0, 4000000 }, NULL);
		was = n;
		n = look_once(there);
	} while (n != was);
	return n;
}

static void
comes(size_t touched, size_t n)
{
	size_t had = look(before);

	*page_of(touched) ^= 1;
	MUST(look(after) == had + n);
	for (size_t i = 0; i < MANY; i++)
		MUST(after[i] == (before[i] || (i >= touched && i < touched + n)));
}

static void
touched(void *mode)
{
	struct smaps m;

	enter(*(int *)mode, CLEAR_PAGES, 0);
	comes(20, AT_ONCE);
	MUST(smaps_at((void *)(uintptr_t)page_of(20), &m) && smaps_flag(&m, "lo"));
	MUST(smaps_at((void *)(uintptr_t)page_of(20 + AT_ONCE - 1), &m) && smaps_flag(&m, "lo"));
	comes(20 + AT_ONCE, AT_ONCE); /* a walk */
	comes(20 + 2 * AT_ONCE, 2 * AT_ONCE);
	comes(20 + 4 * AT_ONCE, 4 * AT_ONCE);
	comes(20 + 8 * AT_ONCE, MOST_AT_ONCE);
	comes(20 + 8 * AT_ONCE + MOST_AT_ONCE, MOST_AT_ONCE);
	comes(400, AT_ONCE);
	MUST(stats_now().bytes_clear >= look(after) * PAGE);
	MUST(secmalloc_encrypt_all() == 0 && look(after) == 0 && stats_now().bytes_clear == 0);
	comes(20, 1); /* what is in the store comes one by one */
	MUST(*page_of(20) == 0 && *page_of(21) == 0);
}

START_TEST(a_first_touch_brings_what_is_next_and_locks_it)
{
	(void)in_mode(_i, touched);
}
END_TEST

/* Nobody has touched those that came along: for them no other page goes. */
static void
scarce(void *mode)
{
	size_t had, plenty = SPARE + MOST_AT_ONCE + (CLEAR_PAGES + SPARE) / 8;

	enter(*(int *)mode, CLEAR_PAGES, 0);
	for (size_t i = 0; i < MANY && stats_now().bytes_clear < CLEAR_PAGES * PAGE; i += 9) {
		size_t clear = (size_t)stats_now().bytes_clear / PAGE;

		had = look(before);
		*page_of(i) ^= 1;
		MUST(look(after) <= had + AT_ONCE);
		if (clear + plenty >= CLEAR_PAGES + SPARE)
			MUST(look(after) == had + !before[i]);
		for (size_t k = 0; k < MANY; k++)
			MUST(after[k] >= before[k]);
	}
	MUST(stats_now().bytes_clear > (CLEAR_PAGES - plenty) * PAGE);
	for (size_t i = 0; i < MANY; i++)
		*page_of(i) ^= 2;
	MUST(look(after) <= CLEAR_PAGES && stats_now().bytes_clear <= CLEAR_PAGES * PAGE);
	for (size_t i = 0; i < MANY; i++)
		MUST((*page_of(i) & 2) == 2);
}

START_TEST(where_frames_are_few_nothing_comes_uncalled)
{
	(void)in_mode(_i, scarce);
}
END_TEST

static void
few(void *mode)
{
	enter(*(int *)mode, 32, 0);
	MUST(look(after) == 0);
	for (size_t i = 0; i < 20; i++)
		comes(i * 2, 1);
}

START_TEST(a_small_clear_set_takes_in_what_is_touched_only)
{
	(void)in_mode(_i, few);
}
END_TEST

/* Whoever is served sleeps meanwhile. */
static long
sleeps(void)
{
	struct rusage u;

	MUST(getrusage(RUSAGE_THREAD, &u) == 0);
	return u.ru_nvcsw;
}

static void
handed_out(void *mode)
{
	enum { CHUNKS = 30, BYTES = 20000 };
	long before_all;

	enter(*(int *)mode, CLEAR_PAGES, 0);
	before_all = sleeps();
	for (int i = 0; i < CHUNKS; i++) {
		unsigned char *p = secmalloc(BYTES);

		MUST(p != NULL);
		memset(p, 1, BYTES);
		secfree(p);
	}
	MUST(sleeps() - before_all < CHUNKS / 2);
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
}

START_TEST(what_is_handed_out_is_there_before_anybody_is_asked)
{
	(void)in_mode(BY_THREAD, handed_out);
}
END_TEST

static void
left_open(void *mode)
{
	enter(*(int *)mode, CLEAR_PAGES, 50);
	*page_of(20) = 1;
	for (int i = 0; i < 500 && stats_now().bytes_clear; i++)
		nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
	MUST(stats_now().bytes_clear == 0 && look(after) == 0);
	MUST(*page_of(20) == 1 && *page_of(21) == 0);
}

START_TEST(what_came_along_is_closed_in_time_as_well)
{
	(void)in_mode(_i, left_open);
}
END_TEST

static void
dropped(void *mode)
{
	size_t some = 64;

	enter(*(int *)mode, CLEAR_PAGES, 0);
	for (int round = 0; round < 20; round++) {
		unsigned char *p = secmalloc(some * PAGE - 64);
		volatile unsigned char *v = p;

		MUST(p != NULL);
		for (size_t i = 0; i < some - 1; i++) {
			MUST(v[i * PAGE] == 0 && v[i * PAGE + PAGE - 1] == 0);
			plant_marker(p + i * PAGE + 64);
		}
		if (round % 2)
			MUST(secmalloc_encrypt_all() == 0 && is_marker(p + 64));
		secfree(p);
	}
	MUST(markers_outside() == 0);
	MUST(secmalloc_term() == 0);
}

START_TEST(what_is_freed_is_zero_when_it_comes_again)
{
	(void)in_mode(_i, dropped);
}
END_TEST

/* ------------------------------------------------------------- frames of their own */

static size_t
resident_bytes(void)
{
	unsigned long all, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	MUST(f != NULL && fscanf(f, "%lu %lu", &all, &resident) == 2);
	fclose(f);
	return resident * PAGE;
}

static void
lazy(void *mode)
{
	struct secmalloc_config c = transparent_config(32 * MIB / PAGE);
	size_t start = resident_bytes();

	(void)mode;
	MUST(secmalloc_init(&c) == 0);
	MUST(resident_bytes() - start < 8 * MIB);
	MUST(secmalloc_term() == 0);
	MUST(resident_bytes() < start + 8 * MIB);
}

START_TEST(frames_are_fetched_when_they_are_needed)
{
	(void)in_mode(BY_THREAD, lazy);
}
END_TEST

/* The heap is absent in a child, frames are wiped. */
static bool
are_frames(const struct smaps *m, void *found)
{
	if (!smaps_flag(m, "um") || !smaps_flag(m, "wf"))
		return false;
	*(struct smaps *)found = *m;
	return true;
}

/* From another process, and it must not wait. */
static void
read_frames(size_t least)
{
	pid_t parent = getpid(), child;
	struct smaps m;
	int status;

	MUST(smaps_each(are_frames, &m));
	MUST((m.end - m.start) / PAGE >= least);
	child = fork();
	if (child == 0) {
		static unsigned char page[PAGE];

		alarm(30);
		for (uintptr_t at = m.start; at < m.end; at += PAGE) {
			struct iovec to = { page, PAGE }, from = { launder((void *)at), PAGE };

			MUST(process_vm_readv(parent, &to, 1, &from, 1, 0) == PAGE);
			for (size_t i = 0; i < PAGE; i++)
				MUST(page[i] == 0);
		}
		_exit(0);
	}
	MUST(waitpid(child, &status, 0) == child && status == 0);
}

static void
read_from_outside(void *mode)
{
	enter(*(int *)mode, CLEAR_PAGES, 0);
	read_frames(CLEAR_PAGES + SPARE); /* most are not there yet */
	for (size_t i = 0; i < MANY; i++) {
		MUST(*page_of(i) == 0);
		*page_of(i) = (unsigned char)i;
	}
	read_frames(CLEAR_PAGES + SPARE); /* the place of each open page is empty */
	for (size_t i = 0; i < MANY; i++)
		MUST(*page_of(i) == (unsigned char)i);
	MUST(secmalloc_encrypt_all() == 0 && look(after) == 0);
	for (size_t i = 0; i < MANY; i++)
		MUST(*page_of(i) == (unsigned char)i);
	MUST(secmalloc_term() == 0);
}

START_TEST(who_reads_frames_from_outside_has_zeros_and_changes_nothing)
{
	(void)in_mode(BY_THREAD, read_from_outside);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: fresh pages");
	TCase *tc = add_case(s, "fresh", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, a_first_touch_brings_what_is_next_and_locks_it, 1, 3);
	tcase_add_loop_test(tc, where_frames_are_few_nothing_comes_uncalled, 1, 3);
	tcase_add_loop_test(tc, a_small_clear_set_takes_in_what_is_touched_only, 1, 3);
	tcase_add_test(tc, what_is_handed_out_is_there_before_anybody_is_asked);
	tcase_add_loop_test(tc, what_came_along_is_closed_in_time_as_well, 1, 3);
	tcase_add_loop_test(tc, what_is_freed_is_zero_when_it_comes_again, 1, 3);
	tcase_add_test(tc, frames_are_fetched_when_they_are_needed);
	tcase_add_test(tc, who_reads_frames_from_outside_has_zeros_and_changes_nothing);
	return run(s);
}
