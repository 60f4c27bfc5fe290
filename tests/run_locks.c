/*
 * run_locks.c - a program that knows nothing of the library, and locks and protects its memory
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Its own mapping is the program's to lock, to unlock and to protect; the heap is not.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MUST(x) ((x) ? (void)0 : fail(#x, __LINE__))

enum { PAGE = 4096, HEAP_BYTES = 2 << 20, STEP = 128 * PAGE, OWN_BYTES = 16 * PAGE };

static void
fail(const char *what, int line)
{
	fprintf(stderr, "run_locks:%d: %s (errno %d)\n", line, what, errno);
	_exit(1);
}

/* The mapping there, as the kernel tells. */
static bool
is_locked(const void *at)
{
	uintptr_t from, to, here = (uintptr_t)at;
	bool found = false, locked = false;
	char line[512];
	FILE *f = fopen("/proc/self/smaps", "r");

	MUST(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
			found = here >= from && here < to;
		if (found && strncmp(line, "VmFlags:", 8) == 0)
			locked = strstr(line, " lo") != NULL;
	}
	fclose(f);
	return locked;
}

static void
own_mapping(void)
{
	unsigned char *p = mmap(NULL, OWN_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(p != MAP_FAILED);
	MUST(mlock(p, OWN_BYTES) == 0 && is_locked(p));
	MUST(munlock(p, OWN_BYTES) == 0 && !is_locked(p));
	MUST(mlock(p, PAGE) == 0 && munlockall() == 0 && is_locked(p));
	MUST(munlock(NULL, PAGE) == -1 && errno == ENOMEM);
	MUST(mprotect(p, PAGE, PROT_NONE) == 0 && munmap(p, OWN_BYTES) == 0);
}

static void
heap(unsigned char *p)
{
	for (size_t at = 0; at < HEAP_BYTES; at += STEP) {
		p[at] = (unsigned char)(at / STEP);
		MUST(is_locked(p + at));
		MUST(munlock(p + at, 20 * PAGE) == 0 && is_locked(p + at));
		MUST(mlock(p + at, PAGE) == 0 && munlock(p + at + 5, 1) == 0 && is_locked(p + at));
		MUST(mprotect(p + at, PAGE, PROT_READ) == -1 && errno == EACCES);
		MUST(mprotect(p + at, PAGE, PROT_READ | PROT_WRITE) == 0);
	}
	MUST(munlock(p - PAGE, 2 * PAGE) == 0 && munlockall() == 0 && is_locked(p));
	for (size_t at = 0; at < HEAP_BYTES; at += STEP)
		MUST(p[at] == at / STEP && p[at + 1] == 6);
}

int
main(void)
{
	unsigned char *p = NULL;

	MUST(posix_memalign((void **)&p, PAGE, HEAP_BYTES) == 0);
	memset(p, 6, HEAP_BYTES);
	own_mapping();
	heap(p);
	free(p);
	return 0;
}
