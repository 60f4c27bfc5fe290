/*
 * marker.h - bytes that are nowhere in the program's files, and a search for them in its memory
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_MARKER_H
#define TESTS_MARKER_H

#include "contract.h"
#include <inttypes.h>

enum { MARKER_BYTES = 48 };

/** marker_byte - byte i of the marker, which is in one piece only where it was planted */
static inline unsigned char
marker_byte(size_t i)
{
	static volatile unsigned seed = 0x9d;

	return (unsigned char)(seed * (i + 3) + (i * i >> 1) + 0x35);
}

static inline void
plant_marker(unsigned char *p)
{
	for (size_t i = 0; i < MARKER_BYTES; i++)
		*byte_at(p, (ptrdiff_t)i) = marker_byte(i);
}

static inline int
is_marker(const unsigned char *p)
{
	for (size_t i = 0; i < MARKER_BYTES; i++)
		if (p[i] != marker_byte(i))
			return 0;
	return 1;
}

static inline size_t
markers_in(const unsigned char *p, size_t n)
{
	const unsigned char *end = p + n, *at = p;
	size_t found = 0;

	while (at + MARKER_BYTES <= end &&
		(at = memchr(at, marker_byte(0), (size_t)(end - at) - MARKER_BYTES + 1)) != NULL)
		found += (size_t)is_marker(at++);
	return found;
}

/** markers_between - in the pages of [from, to) that can be read; guards may lie anywhere */
static inline size_t
markers_between(uintptr_t from, uintptr_t to, int scratch)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uintptr_t at = from, end;
	size_t found = 0;

	while (at < to) {
		for (end = at; end < to; end += page)
			if (pwrite(scratch, launder((void *)end), 1, 0) != 1)
				break;
		if (end > at)
			found += markers_in(launder((void *)at), end - at);
		at = end + page;
	}
	return found;
}

/** markers_in_memory - how often the marker is in this process's memory, hidden pages included */
static inline size_t
markers_in_memory(void)
{
	const int scratch = memfd_create("scratch", 0);
	FILE *maps = fopen("/proc/self/maps", "re");
	uintptr_t from, to;
	char line[512], access[8];
	size_t found = 0;

	if (maps == NULL || scratch < 0)
		abort();
	while (fgets(line, sizeof(line), maps) != NULL) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &from, &to, access) != 3)
			abort();
		if (access[0] == 'r' && strstr(line, "[v") == NULL && to - from < 1024 * MIB)
			found += markers_between(from, to, scratch);
	}
	fclose(maps);
	close(scratch);
	return found;
}

#endif /* TESTS_MARKER_H */
