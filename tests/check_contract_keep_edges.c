/*
 * check_contract_keep_edges.c - the contract: what SECMALLOC_FORK_KEEP leaves behind, and which
 * children have nothing all the same
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "keep.h"
#include "marker.h"
#include "smaps.h"
#include <dirent.h>
#include <spawn.h>

extern char **environ;

static const char NOT_KEPT[] = "the chunks of the parent could not be kept here: raise "
			       "RLIMIT_MEMLOCK (LimitMEMLOCK=)";

static void
start_and_make(int i)
{
	start_variant(i);
	make_heirlooms();
}

static int
descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	MUST(d != NULL);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static size_t
locked_kb(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long kb = 0;
	char line[256];

	MUST(f != NULL);
	while (fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "VmLck: %lu", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

static struct secmalloc_stats
stats_here(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	MUST(secmalloc_stats(&s) == 0);
	return s;
}

/** struct footprint - what of the process the library takes */
struct footprint {
	size_t unnamed_bytes, locked_kb, locked_bytes;
	int descriptors;
};

static void
measure(struct footprint *f)
{
	f->unnamed_bytes = smaps_unnamed_bytes();
	f->locked_kb = locked_kb();
	f->locked_bytes = stats_here().locked_bytes;
	f->descriptors = descriptors();
}

/* ------------------------------------------------------------- what stays */

static void
locks_its_pages(void *arg)
{
	const struct footprint *theirs = arg;
	struct footprint mine;
	struct smaps m;

	measure(&mine);
	MUST(mine.locked_kb >= theirs->locked_kb);
	MUST(mine.locked_bytes == theirs->locked_bytes && mine.descriptors <= theirs->descriptors);
	MUST(mine.locked_kb <= theirs->locked_kb + 64);
	for (unsigned i = 0; i < N_HEIRLOOMS; i++) {
		MUST(smaps_at(heirlooms[i].p, &m));
		MUST(smaps_flag(&m, "wf") || smaps_flag(&m, "dc"));
		MUST(smaps_flag(&m, "dd"));
		MUST(heirlooms[i].manner == CLOSED || smaps_flag(&m, "lo"));
	}
}

START_TEST(the_pages_of_a_child_are_locked_and_safe_from_its_own_children)
{
	struct footprint f;

	start_and_make(_i);
	measure(&f);
	assert_exits_0(locks_its_pages, &f);
	term();
}
END_TEST

static void
does_nothing(void *unused)
{
	(void)unused;
}

START_TEST(a_fork_leaves_nothing_behind_in_the_parent)
{
	struct footprint before, after;

	start_and_make(_i);
	assert_exits_0(does_nothing, NULL);
	measure(&before);
	for (int k = 0; k < 10; k++)
		assert_exits_0(does_nothing, NULL);
	measure(&after);
	ck_assert_uint_eq(after.unnamed_bytes, before.unnamed_bytes);
	ck_assert_uint_eq(after.locked_kb, before.locked_kb);
	ck_assert_uint_eq(after.locked_bytes, before.locked_bytes);
	ck_assert_int_eq(after.descriptors, before.descriptors);
	term();
}
END_TEST

static void
terms_and_looks(void *arg)
{
	const size_t *before = arg;

	MUST(secmalloc_term() == 0);
	MUST(locked_kb() == 0);
	MUST(smaps_unnamed_bytes() <= *before + 8 * MIB); /* the parent's stays covered */
}

START_TEST(a_child_that_ends_the_library_has_nothing_locked)
{
	size_t before = smaps_unnamed_bytes();

	if (VARIANTS[_i].without & SECMALLOC_HIDDEN || locked_kb() == 0) {
		start_and_make(_i);
		before = smaps_unnamed_bytes();
		assert_exits_0(terms_and_looks, &before);
		term();
	}
}
END_TEST

static void
finds_one_copy(void *arg)
{
	MUST(markers_in_memory() == 1 && is_marker(arg));
	MUST(secmalloc_encrypt(arg) == 0);
	MUST(markers_in_memory() == 0);
}

START_TEST(what_crosses_a_fork_is_nowhere_twice)
{
	unsigned char *p;

	if (SANITIZED || under_valgrind(__func__))
		return;
	start_variant(_i);
	p = secmalloc(MARKER_BYTES);
	plant_marker(p);
	ck_assert_uint_eq(markers_in_memory(), 1);
	assert_exits_0(finds_one_copy, p);
	ck_assert_uint_eq(markers_in_memory(), 1);
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	ck_assert_uint_eq(markers_in_memory(), 0);
	term();
}
END_TEST

/* ----------------------------------------------------------- too little to lock */

enum { LIMIT = 160 * 1024, CLEAR = 90 * 1024 };

static unsigned char *clear_chunk;

static int
fails_by(int next)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	unsigned char *p = clear_chunk;

	errno = 0;
	switch (next) {
	case 0: return secmalloc(10) == NULL;
	case 1: return secmalloc_encrypt(p) == -1;
	case 2: return secmalloc_decrypt(p) == -1;
	case 3: return secmalloc_encrypt_all() == -1;
	case 4: return secmalloc_decrypt_all() == -1;
	case 5: return secmalloc_rekey() == -1;
	case 6: return secmalloc_usable_size(p) == 0;
	case 7: return secmalloc_is_encrypted(p) == -1;
	case 8: return secmalloc_hold(p) == -1;
	case 9: return secmalloc_protect(p, SECMALLOC_READONLY) == -1;
	case 10: return secrealloc(p, 10) == NULL;
	case 11: return secstrdup("secret") == NULL;
	case 12: return secmalloc_lock("material", 8) == -1;
	case 13: return secmalloc_stats(&s) == 0 && s.chunks == 0 && secmalloc_owns(p) == 0 &&
			secmalloc(10) == NULL;
	default: return secaligned_alloc(64, 64) == NULL;
	}
}

enum { NEXT_CALLS = 15 };

static void
is_told_once(void *arg)
{
	MUST(fails_by(*(int *)arg) && errno == ENOMEM);
	MUST(strcmp(secmalloc_error(), NOT_KEPT) == 0);
	MUST_FAIL(ECHILD, -1, secmalloc_encrypt(clear_chunk));
	MUST_FAIL(ECHILD, 0, secmalloc_usable_size(clear_chunk));
	MUST(secmalloc_owns(clear_chunk) == 0);
	secfree(clear_chunk);
	MUST(secmalloc_encrypt_all() == 0);
	MUST(secmalloc(10) != NULL && secmalloc(20000) != NULL);
	MUST_FAIL(ECHILD, -1, secmalloc_encrypt(clear_chunk));
	MUST(secmalloc_encrypt_all() == 0 && secmalloc_rekey() == 0);
}

static void
inits_instead(void *arg)
{
	unsigned char *p;

	(void)arg;
	if (secmalloc_init(NULL) != 0) {
		MUST(errno == ENOMEM && strcmp(secmalloc_error(), NOT_KEPT) == 0);
		MUST(secmalloc_init(NULL) == 0);
	}
	MUST((p = secmalloc(10)) != NULL && secmalloc_encrypt(p) == 0);
	MUST(secmalloc_lock("material", 8) == 0);
	MUST_FAIL(EACCES, -1, secmalloc_decrypt(p));
	MUST_FAIL(EACCES, NULL, secmalloc(10));
}

static void
has_it_all(void *unused)
{
	(void)unused;
	MUST(secmalloc_decrypt(clear_chunk) == 0 && filled(clear_chunk, CLEAR, 3));
}

static pid_t
forked(void (*body)(void *), void *arg)
{
	const pid_t pid = fork();

	MUST(pid >= 0);
	if (pid == 0) {
		alarm(20);
		body(arg);
		_exit(0);
	}
	return pid;
}

static void
must_exit_0(void (*body)(void *), void *arg)
{
	const pid_t pid = forked(body, arg);
	int status;

	MUST(waitpid(pid, &status, 0) == pid && status == 0);
}

static void
may_lock_too_little(void *arg)
{
	struct secmalloc_config c = keep_config(*(unsigned *)arg);

	drop_to(LIMIT);
	c.pool_size = 112 * KIB;
	MUST(secmalloc_init(&c) == 0);
	MUST((clear_chunk = secmalloc(CLEAR)) != NULL);
	fill(clear_chunk, CLEAR, 3);
	for (int next = 0; next < NEXT_CALLS; next++)
		must_exit_0(is_told_once, &next);
	MUST(filled(clear_chunk, CLEAR, 3) && secmalloc_encrypt(clear_chunk) == 0);
	must_exit_0(has_it_all, NULL); /* ciphertext needs no locked memory */
	must_exit_0(has_it_all, NULL);
	has_it_all(NULL);
}

START_TEST(a_child_for_which_too_little_can_be_locked_is_told_once)
{
	unsigned without = _i ? SECMALLOC_HIDDEN : 0;

	if (may_drop(__func__) && !SANITIZED)
		assert_exits_0(may_lock_too_little, &without);
}
END_TEST

static void
inits_where_too_little_can_be_locked(void *unused)
{
	struct secmalloc_config c = keep_config(0);

	(void)unused;
	drop_to(LIMIT);
	c.pool_size = 112 * KIB;
	MUST(secmalloc_init(&c) == 0);
	MUST((clear_chunk = secmalloc(CLEAR)) != NULL);
	must_exit_0(inits_instead, NULL);
}

START_TEST(a_child_that_inits_for_itself_is_not_told_later)
{
	if (may_drop(__func__) && !SANITIZED)
		assert_exits_0(inits_where_too_little_can_be_locked, NULL);
}
END_TEST

/* ----------------------------------------------------------- nothing all the same */

static void
has_nothing_at_all(void *unused)
{
	(void)unused;
	MUST(stats_here().chunks == 0);
	has_nothing();
	must_exit_0(does_nothing, NULL);
}

START_TEST(a_raw_clone_has_nothing)
{
	struct outcome o;

	start_and_make(_i);
	o = outcome_by(raw_fork, has_nothing_at_all, NULL);
	ck_assert_msg(o.status == 0, "status 0x%x: %s", (unsigned)o.status, o.text);
	heirlooms_are_whole();
	term();
}
END_TEST

static void
has_nothing_to_unlock(void *unused)
{
	MUST_FAIL(EINVAL, -1, secmalloc_unlock("material", 8));
	has_nothing_at_all(unused);
}

START_TEST(the_child_of_a_locked_parent_has_nothing)
{
	start_and_make(_i);
	for (unsigned i = 0; i < N_HEIRLOOMS; i++)
		while (secmalloc_release(heirlooms[i].p) == 0)
			continue;
	ck_assert_int_eq(secmalloc_lock("material", 8), 0);
	assert_exits_0(has_nothing_at_all, NULL);
	assert_exits_0(has_nothing_to_unlock, NULL);
	ck_assert_int_eq(secmalloc_unlock("material", 8), 0);
	ck_assert_int_eq(secmalloc_decrypt(heirlooms[5].p), 0);
	ck_assert(filled(heirlooms[5].p, heirlooms[5].size, 5));
	term();
}
END_TEST

START_TEST(the_child_of_a_purged_parent_has_nothing)
{
	start_and_make(_i);
	secmalloc_purge();
	assert_exits_0(has_nothing_at_all, NULL);
	FAILS_WITH(ECANCELED, -1, secmalloc_decrypt(heirlooms[5].p));
	term();
}
END_TEST

/* ----------------------------------------------------------- other ways to fork */

START_TEST(vfork_and_spawn_do_no_harm)
{
	char name[] = "true";
	char *const argv[] = { name, NULL };
	int status;
	pid_t pid;

	start_and_make(_i);
	for (int round = 0; round < 5; round++) {
		ck_assert_int_eq(posix_spawnp(&pid, name, NULL, NULL, argv, environ), 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(status, 0);
		ck_assert_int_eq(system("exit 4"), 4 << 8);
		pid = vfork();
		if (pid == 0)
			_exit(3);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(status, 3 << 8);
	}
	heirlooms_are_whole();
	term();
}
END_TEST

static void
is_a_daemon(void *arg)
{
	const pid_t pid = fork();

	MUST(pid >= 0);
	if (pid > 0)
		_exit(0);
	MUST(setsid() >= 0);
	heirlooms_are_whole();
	MUST(write(*(int *)arg, "w", 1) == 1);
}

START_TEST(a_daemon_forks_twice_and_has_all)
{
	int fds[2];
	char c;

	start_and_make(_i);
	ck_assert_int_eq(pipe(fds), 0);
	assert_exits_0(is_a_daemon, &fds[1]);
	close(fds[1]);
	ck_assert_int_eq(read(fds[0], &c, 1), 1);
	term();
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: keep, edges");
	TCase *tc = add_case(s, "each way to start", 0), *few = add_case(s, "few", 0);

	tcase_add_loop_test(
		tc, the_pages_of_a_child_are_locked_and_safe_from_its_own_children, 0, N_VARIANTS);
	tcase_add_loop_test(tc, a_fork_leaves_nothing_behind_in_the_parent, 0, N_VARIANTS);
	tcase_add_loop_test(tc, a_child_that_ends_the_library_has_nothing_locked, 0, N_VARIANTS);
	tcase_add_loop_test(tc, what_crosses_a_fork_is_nowhere_twice, 0, N_VARIANTS);
	tcase_add_loop_test(tc, a_raw_clone_has_nothing, 0, N_VARIANTS);
	tcase_add_loop_test(tc, the_child_of_a_purged_parent_has_nothing, 0, N_VARIANTS);
	tcase_add_loop_test(
		few, a_child_for_which_too_little_can_be_locked_is_told_once, 0, 2);
	tcase_add_test(few, a_child_that_inits_for_itself_is_not_told_later);
	tcase_add_loop_test(few, the_child_of_a_locked_parent_has_nothing, 0, 2);
	tcase_add_loop_test(few, vfork_and_spawn_do_no_harm, 0, 2);
	tcase_add_loop_test(few, a_daemon_forks_twice_and_has_all, 0, 2);
	return run(s);
}
