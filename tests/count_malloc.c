/*
 * count_malloc.c - how many bytes a program asks malloc and its family for, counted by itself
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A library to be preloaded before any other; it knows nothing of secmalloc. At exit the number goes
 * to the file that COUNT_MALLOC names, in the process whose number COUNT_PID is.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Atomic uint64_t asked;
static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);

#define FIND(name) (real_##name ? 0 : (*(void **)&real_##name = dlsym(RTLD_NEXT, #name), 0))

void *
malloc(size_t n)
{
	FIND(malloc);
	asked += n;
	return real_malloc(n);
}

void *
calloc(size_t n, size_t m)
{
	FIND(calloc);
	asked += n * m;
	return real_calloc(n, m);
}

void *
realloc(void *p, size_t n)
{
	FIND(realloc);
	asked += n;
	return real_realloc(p, n);
}

int
posix_memalign(void **p, size_t align, size_t n)
{
	FIND(posix_memalign);
	asked += n;
	return real_posix_memalign(p, align, n);
}

void *
aligned_alloc(size_t align, size_t n)
{
	FIND(aligned_alloc);
	asked += n;
	return real_aligned_alloc(align, n);
}

__attribute__((destructor)) static void
at_end(void)
{
	const char *name = getenv("COUNT_MALLOC"), *pid = getenv("COUNT_PID");
	uint64_t n = asked;
	int fd;

	if (!name || !pid || atoi(pid) != getpid())
		return;
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		return;
	(void)dprintf(fd, "%ju\n", (uintmax_t)n);
	close(fd);
}
