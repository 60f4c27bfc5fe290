/*
 * check_contract_store_keep.c - SECMALLOC_FORK_KEEP with store_dir: each child has a copy of the file,
 * and all that its parent had is right in it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "store.h"

enum { CHUNKS = 300, GENERATIONS = 3 }; /* of which 64 pages may be clear: a sixth */

static unsigned char *chunk[CHUNKS];

static size_t
size_of(unsigned i)
{
	return 1 + i * 377 % 9000;
}

static void
write_all(unsigned seed)
{
	for (unsigned i = 0; i < CHUNKS; i++)
		fill(chunk[i], size_of(i), i + seed);
}

static void
are(unsigned seed)
{
	for (unsigned i = 0; i < CHUNKS; i++)
		MUST(filled(chunk[i], size_of(i), i + seed));
}

static void
start_and_fill(const void *way)
{
	struct secmalloc_config c = config(folder);

	enter(way);
	c.fork = SECMALLOC_FORK_KEEP;
	MUST(secmalloc_init(&c) == 0);
	for (unsigned i = 0; i < CHUNKS; i++)
		MUST((chunk[i] = secmalloc(size_of(i))) != NULL);
	write_all(0);
}

static ino_t
file_number(void)
{
	struct stat st;
	int count, fd = the_file(&count);

	MUST(count == 1 && fd >= HIGH && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	MUST(fstat(fd, &st) == 0 && st.st_nlink == 0);
	return st.st_ino;
}

static void
child_ends_well(pid_t child)
{
	int status;

	MUST(child > 0 && waitpid(child, &status, 0) == child);
	MUST(status == 0);
}

/* ------------------------------------------------------------------ inheritance */

/* What its parent had is `seed`; then each writes its own, and has a child before and after. */
static void
live(unsigned seed, unsigned generations, ino_t parents)
{
	ino_t mine = file_number();
	pid_t child;

	MUST(mine != parents);
	are(seed);
	for (unsigned turn = 1; generations > 0 && turn <= 2; turn++) {
		child = fork();
		if (child == 0) {
			alarm(100);
			live(seed, generations - 1, mine);
			_exit(0);
		}
		child_ends_well(child);
		are(seed); /* not what the child wrote */
		seed += 100 * turn + generations;
		write_all(seed);
		are(seed);
	}
	write_all(seed + 7);
	MUST(secmalloc_encrypt_all() == 0);
	are(seed + 7);
	MUST(file_number() == mine);
}

static void
generations(void *way)
{
	int before;

	start_and_fill(way);
	before = descriptors();
	live(0, GENERATIONS, 0);
	MUST(descriptors() == before);
}

START_TEST(every_byte_is_right_in_children_of_children_and_each_writes_its_own)
{
	each_way(_i, generations);
}
END_TEST

/* Both live at once, and open and close their pages. */
static void
side_by_side(void *way)
{
	enum { SIBLINGS = 4, TURNS = 5 };
	pid_t child[SIBLINGS];

	start_and_fill(way);
	for (unsigned k = 0; k < SIBLINGS; k++) {
		child[k] = fork();
		for (unsigned i = 0; child[k] == 0 && i < TURNS; i++) {
			are(i == 0 ? 0 : 50 * k + i - 1);
			write_all(50 * k + i);
		}
		if (child[k] == 0) {
			are(50 * k + TURNS - 1);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < TURNS; i++) {
		are(1000 * i);
		write_all(1000 * (i + 1));
	}
	for (unsigned k = 0; k < SIBLINGS; k++)
		child_ends_well(child[k]);
	are(1000 * TURNS);
}

START_TEST(what_one_writes_while_the_others_do_no_other_sees)
{
	each_way(_i, side_by_side);
}
END_TEST

static void
other_keys(void *way)
{
	pid_t child;

	start_and_fill(way);
	MUST(secmalloc_rekey() == 0);
	child = fork();
	if (child == 0) {
		are(0);
		MUST(secmalloc_rekey() == 0);
		child = fork();
		if (child)
			child_ends_well(child);
		are(0);
		for (unsigned i = 0; i < CHUNKS; i++)
			secfree(chunk[i]);
		MUST(secmalloc_term() == 0);
		MUST(the_file(&(int){ 0 }) == -1);
		_exit(0);
	}
	child_ends_well(child);
	are(0);
}

START_TEST(new_keys_before_and_after_change_nothing)
{
	each_way(_i, other_keys);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: store_dir, kept");
	TCase *tc = add_case(s, "store_keep", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, make_folder, remove_folder);
	tcase_add_loop_test(
		tc, every_byte_is_right_in_children_of_children_and_each_writes_its_own, 1, 3);
	tcase_add_loop_test(tc, what_one_writes_while_the_others_do_no_other_sees, 1, 3);
	tcase_add_loop_test(tc, new_keys_before_and_after_change_nothing, 1, 3);
	return run(s);
}
