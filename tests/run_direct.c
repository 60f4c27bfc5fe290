/*
 * run_direct.c - a program that knows nothing of the library, and reads and writes with O_DIRECT
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * run_direct FILE: of 8 MiB in one call. 3: there is no O_DIRECT in that folder. Also as a program
 * calls it that was compiled with _FORTIFY_SOURCE, where the C library has that.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MUST(x) ((x) ? (void)0 : fail(#x, __LINE__))

enum { BYTES = 8 << 20, PAGE = 4096, NO_DIRECT = 3 };

static unsigned char *p;

static void
fail(const char *what, int line)
{
	fprintf(stderr, "run_direct:%d: %s (errno %d)\n", line, what, errno);
	_exit(1);
}

/* Of the C library, if it has them. */
#pragma weak __read_chk
#pragma weak __pread_chk
ssize_t __read_chk(int fd, void *to, size_t n, size_t room);
ssize_t __pread_chk(int fd, void *to, size_t n, off_t at, size_t room);

static void
write_pattern(unsigned char seed)
{
	for (size_t i = 0; i < BYTES; i++)
		p[i] = (unsigned char)(seed + i * 7 + (i >> 12));
}

static void
is_pattern(unsigned char seed)
{
	for (size_t i = 0; i < BYTES; i++)
		MUST(p[i] == (unsigned char)(seed + i * 7 + (i >> 12)));
}

static void
fortified(int fd)
{
	if (!__read_chk || !__pread_chk)
		return;
	memset(p, 0, BYTES);
	MUST(__pread_chk(fd, p, BYTES, 0, BYTES) == BYTES);
	is_pattern(2);
	memset(p, 0, BYTES);
	MUST(lseek(fd, 0, SEEK_SET) == 0 && __read_chk(fd, p, BYTES, BYTES) == BYTES);
	is_pattern(2);
}

int
main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR | O_CREAT | O_DIRECT, 0600) : -1;

	if (fd < 0)
		return NO_DIRECT;
	MUST(posix_memalign((void **)&p, PAGE, BYTES) == 0);
	write_pattern(1);
	MUST(pwrite(fd, p, BYTES, PAGE) == BYTES);
	memset(p, 0, BYTES);
	MUST(pread(fd, p, BYTES, PAGE) == BYTES);
	is_pattern(1);
	write_pattern(2);
	MUST(lseek(fd, 0, SEEK_SET) == 0 && write(fd, p, BYTES) == BYTES);
	MUST(lseek(fd, 0, SEEK_CUR) == BYTES && ftruncate(fd, BYTES) == 0);
	memset(p, 0, BYTES);
	MUST(lseek(fd, PAGE, SEEK_SET) == PAGE && read(fd, p, BYTES) == BYTES - PAGE); /* to the end */
	MUST(read(fd, p, BYTES) == 0 && p[0] == (unsigned char)(2 + PAGE * 7 + 1));
	MUST(pread(fd, p + 1, BYTES - PAGE, 0) == -1 && errno == EINVAL);
	fortified(fd);
	free(p);
	return 0;
}
