/*
 * check_contract_store.c - store_dir: ciphertext lies in a file without a name, and nothing else
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "marker.h"
#include "store.h"

/* ------------------------------------------------------------------- the file */

static void
one_file(void *way)
{
	int before, count, fd;
	struct stat st;
	unsigned *p;

	enter(way);
	before = descriptors();
	start_in(folder);
	p = numbers(16 * MIB);
	MUST(are_numbers(p, 16 * MIB));
	fd = the_file(&count);
	MUST(count == 1 && fd >= HIGH);
	MUST(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	MUST(fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 0);
	MUST((st.st_mode & 0777) == 0600 && st.st_size >= (off_t)(16 * MIB));
	secfree(p);
	p = numbers(3 * MIB);
	MUST(are_numbers(p, 3 * MIB));
	MUST(secmalloc_term() == 0);
	MUST(descriptors() == before);
	MUST(the_file(&count) == -1);
}

START_TEST(data_lies_in_one_file_without_a_name_and_comes_back_right)
{
	each_way(_i, one_file);
}
END_TEST

static void
only_ciphertext(void *way)
{
	static unsigned char page[PAGE], zero[PAGE];
	size_t full = 0, markers = 0;
	unsigned char *p;
	int fd, count;

	enter(way);
	start_in(folder);
	p = secmalloc(256 * PAGE);
	MUST(p != NULL);
	for (size_t i = 0; i < 256; i++)
		plant_marker(p + i * PAGE);
	MUST(secmalloc_encrypt_all() == 0 && stats_now().bytes_clear == 0);
	fd = the_file(&count);
	for (off_t at = 0; pread(fd, page, PAGE, at) == PAGE; at += PAGE) {
		markers += markers_in(page, PAGE);
		full += memcmp(page, zero, PAGE) != 0;
	}
	MUST(markers == 0);
	MUST(full >= 256);
	for (size_t i = 0; i < 256; i++)
		MUST(is_marker(p + i * PAGE));
}

START_TEST(the_file_holds_ciphertext_and_no_marker)
{
	each_way(_i, only_ciphertext);
}
END_TEST

/** spoil_file - as another process would that came by the file */
static void
spoil_file(void)
{
	static unsigned char page[PAGE];
	char path[64];
	int count, fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", the_file(&count));
	fd = open(path, O_RDWR);
	MUST(fd >= 0);
	for (off_t at = 0; pread(fd, page, PAGE, at) == PAGE; at += PAGE) {
		page[1000] ^= 1;
		MUST(pwrite(fd, page, PAGE, at) == PAGE);
	}
	close(fd);
}

static void
tampered(void *way)
{
	unsigned char *p;

	enter(way);
	start_in(folder);
	p = secmalloc(20000);
	MUST(p != NULL);
	fill(p, 20000, 1);
	MUST(secmalloc_encrypt_all() == 0);
	spoil_file();
	MUST_FAIL(EBADMSG, -1, secmalloc_hold(p));
	MUST(stats_now().tampered == 1);
}

START_TEST(a_file_that_was_written_is_EBADMSG)
{
	each_way(_i, tampered);
}
END_TEST

static void
tampered_and_touched(void *way)
{
	unsigned char *p;

	enter(way);
	start_in(folder);
	p = launder(secmalloc(20000));
	MUST(p != NULL);
	fill(p, 20000, 1);
	MUST(secmalloc_encrypt_all() == 0);
	spoil_file();
	MUST(p[0] == 99);
}

START_TEST(to_touch_what_was_written_in_the_file_dies)
{
	struct outcome o;

	if (!is_here() || (_i == AS_NOBODY && !may_drop(__func__)))
		return;
	o = outcome_of(tampered_and_touched, &_i);
	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "%s", o.text);
	ck_assert_ptr_nonnull(strstr(o.text, "secmalloc: tampered"));
}
END_TEST

static void
cut_and_touched(void *way)
{
	unsigned char *p;
	int count;

	enter(way);
	start_in(folder);
	p = launder(secmalloc(20000));
	MUST(p != NULL);
	fill(p, 20000, 1);
	MUST(secmalloc_encrypt_all() == 0);
	MUST(ftruncate(the_file(&count), 0) == 0);
	MUST_FAIL(EIO, -1, secmalloc_hold(p));
	MUST(strstr(secmalloc_error(), "store_dir") != NULL);
	MUST(p[0] == 99);
}

START_TEST(what_cannot_be_read_is_EIO_and_to_touch_it_dies_with_a_sentence)
{
	struct outcome o;

	if (!is_here() || (_i == AS_NOBODY && !may_drop(__func__)))
		return;
	o = outcome_of(cut_and_touched, &_i);
	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "%s", o.text);
	ck_assert_ptr_nonnull(strstr(o.text, "secmalloc: store"));
}
END_TEST

/* -------------------------------------------------------------------- children */

static void
forked(void *way)
{
	char mine[4096];
	int count, status;
	unsigned *p, *q;

	enter(way);
	strcpy(mine, folder);
	start_in(mine);
	memset(mine, 'x', sizeof(mine));
	p = numbers(2 * MIB);
	if (fork() == 0) {
		alarm(40);
		MUST(the_file(&count) == -1);
		q = numbers(2 * MIB);
		MUST(the_file(&count) >= HIGH && count == 1);
		MUST(secmalloc_encrypt_all() == 0 && are_numbers(q, 2 * MIB));
		_exit(0);
	}
	MUST(wait(&status) > 0 && status == 0);
	MUST(are_numbers(p, 2 * MIB));
}

START_TEST(a_child_has_a_file_of_its_own_in_the_same_folder)
{
	each_way(_i, forked);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: store_dir");
	TCase *tc = add_case(s, "store", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, make_folder, remove_folder);
	tcase_add_loop_test(tc, data_lies_in_one_file_without_a_name_and_comes_back_right, 1, 3);
	tcase_add_loop_test(tc, the_file_holds_ciphertext_and_no_marker, 1, 3);
	tcase_add_loop_test(tc, a_file_that_was_written_is_EBADMSG, 1, 3);
	tcase_add_loop_test(tc, to_touch_what_was_written_in_the_file_dies, 1, 3);
	tcase_add_loop_test(
		tc, what_cannot_be_read_is_EIO_and_to_touch_it_dies_with_a_sentence, 1, 3);
	tcase_add_loop_test(tc, a_child_has_a_file_of_its_own_in_the_same_folder, 1, 3);
	return run(s);
}
