/*
 * check_transparent_outside.c - what others find in a program whose heap is closed, or do to it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Each search must also find the one marker beside the heap.
 */
#include "sleeper.h"
#include "pressure.h"
#include <time.h>

enum { CLEAR_PAGES = 64, FRAMES = CLEAR_PAGES + 32, RESEAL_MS = 50 };
static unsigned samples = 40; /* SECMALLOC_SAMPLES */
static const char options[] = "mode=thread,clear=262144,reseal=50";

static void
sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

/* Others may have the processor; a search opens nothing. */
static void
closes(pid_t pid)
{
	for (unsigned i = 0; i < 50 && (i == 0 || markers_of(pid, false).watched); i++)
		sleep_ms(RESEAL_MS * 4);
}

static struct sleeper
asleep(void)
{
	struct sleeper s = sleeper_start(options);

	closes(s.pid);
	return s;
}

static void
ends_well(struct sleeper *s)
{
	struct outcome o;

	ck_assert_uint_eq(asked(s, 'v'), SLEEPER_CHUNKS);
	o = sleeper_end(s);
	ck_assert_msg(o.status == 0, "status 0x%x: %s", (unsigned)o.status, o.text);
}

START_TEST(of_a_program_that_sleeps_nothing_is_found)
{
	struct sleeper s;
	struct found f;

	if (!may_launch(__func__))
		return;
	s = asleep();
	f = markers_of(s.pid, true);
	ck_assert_uint_eq(f.elsewhere, 1);
	ck_assert_uint_eq(f.watched, 0);
	ck_assert_uint_gt(f.refused, 1000);
	ends_well(&s);
}
END_TEST

START_TEST(of_one_that_works_no_more_is_found_than_may_be_clear)
{
	struct found f, most = { 0 };
	struct sleeper s;

	if (!may_launch(__func__))
		return;
	s = asleep();
	(void)asked(&s, 'w');
	for (unsigned i = 0; i < samples; i++) {
		sleep_ms(3 + i % 7);
		stopped(s.pid);
		f = markers_of(s.pid, false);
		go_on(s.pid);
		if (f.elsewhere != 1)
			ck_abort_msg("sample %u: %zu elsewhere", i, f.elsewhere);
		if (f.watched > most.watched)
			most = f;
	}
	printf("%u samples: at most %zu of %d pages\n", samples, most.watched, FRAMES);
	ck_assert_uint_gt(most.watched, CLEAR_PAGES / 2);
	ck_assert_uint_le(most.watched, FRAMES);
	(void)asked(&s, 'i');
	ends_well(&s);
}
END_TEST

START_TEST(of_its_child_nothing_is_found)
{
	struct sleeper s;
	struct found f;
	pid_t child;

	if (!may_launch(__func__))
		return;
	s = asleep();
	child = (pid_t)asked(&s, 'f');
	ck_assert_int_gt(child, 0);
	closes(child);
	f = markers_of(child, true);
	ck_assert_uint_eq(f.elsewhere, 1);
	ck_assert_uint_eq(f.watched, 0);
	closes(s.pid);
	f = markers_of(s.pid, true);
	ck_assert_uint_eq(f.elsewhere, 1);
	ck_assert_uint_eq(f.watched, 0);
	ck_assert_int_eq(kill(child, SIGKILL), 0);
	ends_well(&s);
}
END_TEST

/* A page that is closed: 0, and who reads waits for its owner to touch it; else a marker is there. */
static unsigned
seen_by_call(pid_t pid, uintptr_t at)
{
	static unsigned char page[OUTSIDE_PAGE];
	struct iovec to = { page, sizeof(page) }, from = { launder((void *)at), sizeof(page) };
	pid_t child = fork();
	int status;

	if (child == 0) {
		ssize_t n = process_vm_readv(pid, &to, 1, &from, 1, 0);

		_exit(n > 0 && markers_in(page, (size_t)n) ? 1 : 0);
	}
	for (int i = 0; i < 50 && waitpid(child, &status, WNOHANG) == 0; i++)
		sleep_ms(10);
	kill(child, SIGKILL);
	if (waitpid(child, &status, 0) < 0)
		return WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : 0;
	return WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : 0;
}

START_TEST(who_reads_by_process_vm_readv_opens_nothing)
{
	struct sleeper s;
	uintptr_t at;

	if (!may_launch(__func__))
		return;
	s = asleep();
	at = (uintptr_t)asked(&s, 'a') & ~(uintptr_t)(OUTSIDE_PAGE - 1);
	sleep_ms(RESEAL_MS * 4);
	for (unsigned i = 0; i < 5; i++)
		ck_assert_uint_eq(seen_by_call(s.pid, at + i * OUTSIDE_PAGE), 0);
	ends_well(&s);
}
END_TEST

START_TEST(a_core_made_by_a_debugger_has_nothing)
{
	char command[128], name[64];
	static unsigned char page[OUTSIDE_PAGE];
	size_t found = 0;
	struct sleeper s;
	int fd;

	if (!may_launch(__func__) || system("command -v gcore >/dev/null 2>&1")) {
		printf("skipped: %s: gcore is not here\n", __func__);
		return;
	}
	s = asleep();
	snprintf(command, sizeof(command), "gcore -o t_core.sleeper %d >/dev/null 2>&1", (int)s.pid);
	snprintf(name, sizeof(name), "t_core.sleeper.%d", (int)s.pid);
	ck_assert_int_eq(system(command), 0);
	ck_assert_int_ge(fd = open(name, O_RDONLY), 0);
	while (read(fd, page, sizeof(page)) == sizeof(page)) /* in a core, pages are aligned too */
		found += markers_in(page, sizeof(page));
	close(fd);
	unlink(name);
	ck_assert_uint_eq(found, 1);
	ends_well(&s);
}
END_TEST

/* ------------------------------------------------------------------ tampering */

enum { KEPT_MOST = 8192, LIKELY_MOST = 45 };

/** What was in the store, to be put there again. */
static struct kept {
	uintptr_t at;
	unsigned char bytes[OUTSIDE_PAGE];
} *kept;
static size_t n_kept;

/* No other memory of the program looks like that. */
static bool
is_ciphertext(const unsigned char *p)
{
	unsigned count[256] = { 0 };

	for (size_t i = 0; i < OUTSIDE_PAGE; i++)
		if (++count[p[i]] > LIKELY_MOST)
			return false;
	return true;
}

static void
keep_page(const struct sight *s, uintptr_t at, int where, void *unused)
{
	struct kept *k = &kept[n_kept];

	(void)unused;
	if (where == 0 || n_kept == KEPT_MOST)
		return;
	k->at = at;
	if (pread(s->mem, k->bytes, OUTSIDE_PAGE, (off_t)at) == OUTSIDE_PAGE)
		n_kept += is_ciphertext(k->bytes);
}

static void
keep_ciphertext(const struct sight *s, void *arg)
{
	if (!s->named && s->access[1] == 'w' && !is_watched(s))
		each_page(s, keep_page, arg);
}

static void
put_there(pid_t pid, unsigned char change)
{
	char path[64];
	int mem;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	ck_assert_int_ge(mem = open(path, O_RDWR), 0);
	for (size_t i = 0; i < n_kept; i++) {
		kept[i].bytes[i % OUTSIDE_PAGE] ^= change;
		ck_assert_int_eq(pwrite(mem, kept[i].bytes, OUTSIDE_PAGE, (off_t)kept[i].at),
			OUTSIDE_PAGE);
	}
	close(mem);
}

/* 0: a bit is changed; 1: all is as it was some time ago. */
START_TEST(a_store_that_was_written_ends_the_program)
{
	struct outcome o;
	struct sleeper s;

	if (!may_launch(__func__))
		return;
	s = asleep();
	n_kept = 0;
	ck_assert_ptr_nonnull(kept = calloc(KEPT_MOST + 1, sizeof(*kept)));
	each_sight(s.pid, keep_ciphertext, NULL);
	ck_assert_uint_gt(n_kept, 1000);
	if (_i == 1) {
		(void)asked(&s, 'w');
		sleep_ms(1000);
		(void)asked(&s, 'i');
		sleep_ms(RESEAL_MS * 4);
	}
	put_there(s.pid, _i == 0);
	ck_assert_int_eq(write(s.ask, "v", 1), 1);
	o = sleeper_end(&s);
	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_msg(strstr(o.text, "tampered") != NULL, "%s", o.text);
	free(kept);
}
END_TEST

/* ----------------------------------------------------------------------- swap */

/** Pages in swap, and in memory: of the heap and its frames, which are watched, and of the rest. */
struct swapped {
	size_t watched, watched_here, others;
};

static void
count_page(const struct sight *s, uintptr_t at, int where, void *arg)
{
	struct swapped *w = arg;

	(void)at;
	if (!is_watched(s))
		w->others += where == AWAY;
	else
		w->watched += where == AWAY, w->watched_here += where == HERE;
}

static void
count_swapped(const struct sight *s, void *arg)
{
	each_page(s, count_page, arg);
}

START_TEST(no_clear_page_is_in_swap_while_the_store_is)
{
	struct swapped w, most = { 0 };
	struct sleeper s;

	if (!has_swap() || geteuid() != 0) {
		printf("skipped: %s: no swap is on (swapon), or this is not root\n", __func__);
		return;
	}
	if (!may_launch(__func__))
		return;
	s = asleep();
	(void)asked(&s, 'w');
	for (unsigned i = 0; i < samples; i++) {
		press(s.pid);
		w = (struct swapped){ 0 };
		each_sight(s.pid, count_swapped, &w);
		if (w.watched)
			ck_abort_msg("sample %u: %zu clear pages in swap", i, w.watched);
		most.others = w.others > most.others ? w.others : most.others;
		most.watched_here = w.watched_here > most.watched_here ? w.watched_here :
									 most.watched_here;
	}
	printf("%u samples: 0 pages of the heap or its frames in swap, up to %zu in memory; up to "
	       "%zu others in swap\n", samples, most.watched_here, most.others);
	ck_assert_uint_gt(most.watched_here, CLEAR_PAGES / 2);
	ck_assert_uint_gt(most.others, 500);
	(void)asked(&s, 'i');
	ends_well(&s);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("transparent: outside");
	TCase *tc = add_case(s, "outside", 0);

	if (getenv("SECMALLOC_SAMPLES"))
		samples = (unsigned)atoi(getenv("SECMALLOC_SAMPLES"));
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, of_a_program_that_sleeps_nothing_is_found);
	tcase_add_test(tc, of_one_that_works_no_more_is_found_than_may_be_clear);
	tcase_add_test(tc, of_its_child_nothing_is_found);
	tcase_add_test(tc, who_reads_by_process_vm_readv_opens_nothing);
	tcase_add_test(tc, a_core_made_by_a_debugger_has_nothing);
	tcase_add_loop_test(tc, a_store_that_was_written_ends_the_program, 0, 2);
	tcase_add_test(tc, no_clear_page_is_in_swap_while_the_store_is);
	return run(s);
}
