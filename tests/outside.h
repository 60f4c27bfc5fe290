/*
 * outside.h - a look through a process from another one
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_OUTSIDE_H
#define TESTS_OUTSIDE_H

#include "marker.h"
#include <fcntl.h>

/** found_in - how often the marker is in what another process can read of its parent's mapping */
static inline size_t
found_in(int mem, uintptr_t from, uintptr_t to)
{
	static unsigned char page[4096];
	size_t n = 0;

	for (; from < to; from += 4096)
		if (pread(mem, page, 4096, (off_t)from) == 4096)
			n += markers_in(page, 4096);
	return n;
}

/** markers_outside - a child looks through its parent's memory */
static inline int
markers_outside(void)
{
	char path[64], line[512];
	pid_t child = fork();
	uintptr_t from, to;
	size_t n = 0;
	FILE *maps;
	int status;

	if (child == 0) {
		snprintf(path, sizeof(path), "/proc/%d/maps", (int)getppid());
		MUST((maps = fopen(path, "r")) != NULL);
		snprintf(path, sizeof(path), "/proc/%d/mem", (int)getppid());
		status = open(path, O_RDONLY);
		MUST(status >= 0);
		while (fgets(line, sizeof(line), maps))
			if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) == 2)
				n += found_in(status, from, to);
		_exit(n < 100 ? (int)n : 100);
	}
	MUST(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
	return WEXITSTATUS(status);
}

#endif /* TESTS_OUTSIDE_H */
