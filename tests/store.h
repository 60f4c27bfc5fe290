/*
 * store.h - a folder for store_dir, and what lies in it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_STORE_H
#define TESTS_STORE_H

#include "contract.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/stat.h>

enum { PAGE = 4096, HIGH = 900, BY_SIGNAL = 2, AS_ROOT = 1, AS_NOBODY = 2 };

static char folder[4096];

static inline void
make_folder(void)
{
	char cwd[3000];

	ck_assert(getcwd(cwd, sizeof(cwd)) != NULL);
	snprintf(folder, sizeof(folder), "%s/store-XXXXXX", cwd);
	ck_assert_ptr_nonnull(mkdtemp(folder));
	ck_assert_int_eq(chmod(folder, 0777), 0);
}

static inline void
remove_folder(void)
{
	ck_assert_msg(rmdir(folder) == 0, "something is left in the folder");
}

static inline struct secmalloc_config
config(const char *dir)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = SECMALLOC_TRANSPARENT;
	c.clear_limit = 64 * PAGE;
	c.pool_size = 4 * MIB;
	c.store_dir = dir;
	return c;
}

static inline void
start_in(const char *dir)
{
	struct secmalloc_config c = config(dir);

	MUST(secmalloc_init(&c) == 0);
}

/** is_here - whether there is a transparent mode here at all */
static inline bool
is_here(void)
{
	struct secmalloc_config c = config(NULL);
	bool here = secmalloc_init(&c) == 0;

	if (!here)
		ck_assert_msg(errno == ENOTSUP, "%s", secmalloc_error());
	ck_assert_int_eq(secmalloc_term(), 0);
	if (!here || SANITIZED)
		printf("skipped: no transparent mode here\n");
	return here && !SANITIZED;
}

/** each_way - as root, and as nobody */
static inline void
each_way(int way, void (*body)(void *))
{
	if (is_here() && (way == AS_ROOT || may_drop(__func__)))
		assert_exits_0(body, &way);
}

static inline void
enter(const void *way)
{
	if (*(const int *)way == AS_NOBODY) {
		drop_to(8 * MIB);
		/* so that /proc/self/fd is its own */
		MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	}
}

/** the_file - the store's descriptor, and how many there are in the folder */
static inline int
the_file(int *count)
{
	char path[64], target[5000];
	int found = -1;

	*count = 0;
	for (int fd = 0; fd < 2000; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n <= (ssize_t)strlen(folder))
			continue;
		target[n] = '\0';
		if (strncmp(target, folder, strlen(folder)) == 0 && strstr(target, "(deleted)")) {
			found = fd;
			++*count;
		}
	}
	return found;
}

static inline int
descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	MUST(d != NULL);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static inline unsigned *
numbers(size_t bytes)
{
	unsigned *p = secmalloc(bytes);

	MUST(p != NULL);
	for (size_t i = 0; i < bytes / sizeof(*p); i++)
		p[i] = (unsigned)i * 7 + 1;
	return p;
}

static inline bool
are_numbers(const unsigned *p, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof(*p); i++)
		if (p[i] != (unsigned)i * 7 + 1)
			return false;
	return true;
}

#endif /* TESTS_STORE_H */
