/*
 * check_contract_store_room.c - store_dir: folders that will not do, disks that are full, and more
 * data than memory
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "store.h"
#include <sched.h>
#include <sys/mount.h>

/* ----------------------------------------------------------------- refusals */

static void
refused(const char *dir, int error)
{
	struct secmalloc_config c = config(dir);
	int before = descriptors();

	MUST_FAIL(error, -1, secmalloc_init(&c));
	MUST(strstr(secmalloc_error(), "store_dir") != NULL);
	MUST(descriptors() == before);
	MUST(stats_now().pools == 0);
}

static void
bad_folders(void *unused)
{
	static char path[5000];

	(void)unused;
	snprintf(path, sizeof(path), "%.4000s/none", folder);
	refused(path, ENOENT);
	refused("", ENOENT);
	refused("/proc/self/maps", ENOTDIR);
	memset(path, 'x', sizeof(path) - 1);
	refused(path, ENAMETOOLONG);
	refused("/sys", EACCES);
	start_in(folder);
}

START_TEST(a_folder_that_cannot_be_used_is_refused_with_its_reason)
{
	if (is_here())
		assert_exits_0(bad_folders, NULL);
}
END_TEST

static void
not_mine(void *unused)
{
	(void)unused;
	drop_to(8 * MIB);
	MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	refused(folder, EACCES);
}

START_TEST(a_folder_where_this_user_may_not_write_is_EACCES)
{
	if (!is_here() || !may_drop(__func__))
		return;
	ck_assert_int_eq(chmod(folder, 0755), 0);
	assert_exits_0(not_mine, NULL);
}
END_TEST

static void
full(const char *dir)
{
	unsigned *p, *q = NULL;
	int n = 0;

	start_in(dir);
	p = numbers(3 * MIB);
	while (n < 100 && (q = secmalloc(3 * MIB)) != NULL)
		n++;
	MUST(q == NULL && n < 100 && errno == ENOMEM);
	MUST(strstr(secmalloc_error(), dir) != NULL);
	MUST(are_numbers(p, 3 * MIB));
	MUST(secmalloc_encrypt_all() == 0 && are_numbers(p, 3 * MIB));
}

static void
file_limit(void *way)
{
	const struct rlimit r = { 13 * MIB, 13 * MIB };

	enter(way);
	MUST(setrlimit(RLIMIT_FSIZE, &r) == 0);
	full(folder);
}

START_TEST(beyond_RLIMIT_FSIZE_is_ENOMEM_and_names_the_folder)
{
	each_way(_i, file_limit);
}
END_TEST

static void
full_disk(void *unused)
{
	(void)unused;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		mount("none", folder, "tmpfs", 0, "size=13m")) {
		printf("skipped: no file system can be mounted here\n");
		return;
	}
	full(folder);
}

START_TEST(a_full_disk_is_ENOMEM_and_names_the_folder)
{
	if (is_here())
		assert_exits_0(full_disk, NULL);
}
END_TEST

static void
read_only(void *unused)
{
	(void)unused;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		mount("none", folder, "tmpfs", MS_RDONLY, "size=1m")) {
		printf("skipped: no file system can be mounted here\n");
		return;
	}
	refused(folder, EROFS);
}

START_TEST(a_read_only_folder_is_EROFS)
{
	if (is_here())
		assert_exits_0(read_only, NULL);
}
END_TEST

/* ------------------------------------------------------------ more than memory */

static const size_t DATA = 128 * MIB, LIMIT = 64 * MIB;

static bool
put_line(const char *dir, const char *name, const char *line)
{
	char path[600];
	int fd;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY);
	ok = fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line);
	if (fd >= 0)
		close(fd);
	return ok;
}

static long
number_in(const char *dir, const char *name, const char *word)
{
	char path[600], line[200];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, word, strlen(word)) == 0)
			n = strtol(line + strlen(word), NULL, 10);
	if (f)
		fclose(f);
	return n;
}

/** make_group - a group of ours with LIMIT bytes of memory; 2, 1: of what version; 0: not here */
static int
make_group(char *dir, size_t size)
{
	char line[400], number[32];
	FILE *f = fopen("/proc/self/cgroup", "re");
	int version = 0;

	snprintf(number, sizeof(number), "%zu", LIMIT);
	while (f && version == 0 && fgets(line, sizeof(line), f)) {
		const char *in = strstr(line, ":memory:/"), *two = strstr(line, "0::/");

		line[strcspn(line, "\n")] = '\0';
		if (in)
			snprintf(dir, size, "/sys/fs/cgroup/memory%s/secmalloc-%d", in + 8, (int)getpid());
		else if (two == line)
			snprintf(dir, size, "/sys/fs/cgroup%s/secmalloc-%d", two + 3, (int)getpid());
		else
			continue;
		if (mkdir(dir, 0755))
			continue;
		if (put_line(dir, in ? "memory.limit_in_bytes" : "memory.max", number))
			version = in ? 1 : 2;
		else
			rmdir(dir);
	}
	if (f)
		fclose(f);
	return version;
}

static void
twice_the_limit(void *dir)
{
	struct secmalloc_config c = config(folder);
	unsigned *p;

	MUST(put_line(dir, "cgroup.procs", "0"));
	c.pool_size = 16 * MIB;
	MUST(secmalloc_init(&c) == 0);
	p = numbers(DATA);
	MUST(are_numbers(p, DATA));
	MUST(secmalloc_encrypt_all() == 0 && are_numbers(p, DATA));
}

START_TEST(data_of_twice_the_memory_limit_of_a_group_is_read_back_right)
{
	char dir[512];
	int version;
	struct outcome o;
	long hit;

	if (!is_here())
		return;
	version = make_group(dir, sizeof(dir));
	if (version == 0) {
		printf("skipped: no memory cgroup can be made here\n");
		return;
	}
	o = outcome_of(twice_the_limit, dir);
	hit = version == 2 ? number_in(dir, "memory.events", "max ") :
			     number_in(dir, "memory.failcnt", "");
	ck_assert_msg(rmdir(dir) == 0, "%s", dir);
	ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_msg(hit > 0, "the limit was not reached: this says nothing");
	printf("memory cgroup v%d: %zu MiB of data under %zu MiB, the limit was met %ld times\n",
		version, DATA / MIB, LIMIT / MIB, hit);
}
END_TEST

/** data_limit - so many bytes more of private memory than there are */
static void
data_limit(size_t more)
{
	size_t now = (size_t)number_in("/proc/self", "status", "VmData:") * KIB;
	const struct rlimit r = { now + more, now + more };

	MUST(setrlimit(RLIMIT_DATA, &r) == 0);
}

static void
half_more(void *dir)
{
	struct secmalloc_config c = config(dir);
	unsigned *p;

	c.pool_size = 16 * MIB;
	data_limit(4 * DATA); /* the data, and records for each of its pages, which take more */
	MUST(secmalloc_init(&c) == 0);
	if (dir == NULL) {
		MUST_FAIL(ENOMEM, NULL, secmalloc(DATA));
		return;
	}
	p = numbers(DATA);
	MUST(are_numbers(p, DATA));
}

/* The addresses themselves count there, so that this limit cannot be below the data. */
START_TEST(under_RLIMIT_DATA_store_dir_is_not_counted_and_memory_is)
{
	if (!is_here())
		return;
	assert_exits_0(half_more, NULL);
	assert_exits_0(half_more, folder);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: store_dir, room");
	TCase *tc = add_case(s, "store", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, make_folder, remove_folder);
	tcase_add_test(tc, a_folder_that_cannot_be_used_is_refused_with_its_reason);
	tcase_add_test(tc, a_folder_where_this_user_may_not_write_is_EACCES);
	tcase_add_loop_test(tc, beyond_RLIMIT_FSIZE_is_ENOMEM_and_names_the_folder, 1, 3);
	tcase_add_test(tc, a_full_disk_is_ENOMEM_and_names_the_folder);
	tcase_add_test(tc, a_read_only_folder_is_EROFS);
	tcase_add_test(tc, data_of_twice_the_memory_limit_of_a_group_is_read_back_right);
	tcase_add_test(tc, under_RLIMIT_DATA_store_dir_is_not_counted_and_memory_is);
	return run(s);
}
