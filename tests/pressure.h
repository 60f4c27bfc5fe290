/*
 * pressure.h - from another process: push out of memory whatever a process has
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_PRESSURE_H
#define TESTS_PRESSURE_H

#include "contract.h"
#include <inttypes.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

/** has_swap - some is on */
static inline bool
has_swap(void)
{
	FILE *f = fopen("/proc/swaps", "re");
	unsigned lines = 0;
	int c;

	while (f && (c = getc(f)) != EOF)
		lines += c == '\n';
	if (f)
		fclose(f);
	return lines > 1;
}

/** press - ask the kernel to swap out every mapping of it that may be written; answers bytes */
static inline size_t
press(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	char path[64], line[512], access[8];
	uintptr_t from, to;
	size_t bytes = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	while (fd >= 0 && maps && fgets(line, sizeof(line), maps)) {
		struct iovec v;
		long n;

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &from, &to, access) != 3 ||
			access[1] != 'w')
			continue;
		v = (struct iovec){ launder((void *)from), to - from };
		n = syscall(SYS_process_madvise, fd, &v, 1, MADV_PAGEOUT, 0);
		bytes += n > 0 ? (size_t)n : 0;
	}
	if (maps)
		fclose(maps);
	if (fd >= 0)
		close(fd);
	return bytes;
}

/** press_until_it_ends - answers its status */
static inline int
press_until_it_ends(pid_t pid, unsigned pause_ms, uint64_t *bytes)
{
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		*bytes += press(pid);
		usleep(pause_ms * 1000);
	}
	return status;
}

#endif /* TESTS_PRESSURE_H */
