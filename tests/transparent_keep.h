/*
 * transparent_keep.h - what the tests of SECMALLOC_TRANSPARENT with SECMALLOC_FORK_KEEP share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_TRANSPARENT_KEEP_H
#define TESTS_TRANSPARENT_KEEP_H

#include "transparent.h"

/** start_in - as root a thread of the library serves faults, as nobody the thread that touches */
static inline void
start_in(const void *mode, unsigned reseal_ms)
{
	struct secmalloc_config c = transparent_config(64);

	enter_mode(*(const int *)mode, 8 * MIB);
	c.fork = SECMALLOC_FORK_KEEP;
	c.reseal_ms = reseal_ms;
	MUST(secmalloc_init(&c) == 0);
	MUST(stats_now().mode == (unsigned)*(const int *)mode);
}

/** child_does - what a child does that must go well, while its parent waits */
static inline void
child_does(void (*what)(void *), void *arg)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		alarm(60);
		what(arg);
		_exit(0);
	}
	MUST(child > 0 && waitpid(child, &status, 0) == child);
	MUST(status == 0);
}

enum { CHUNKS = 1000 };

static unsigned char *chunk[CHUNKS];

static inline size_t
size_of(unsigned i)
{
	return 1 + i * 37 % 3000;
}

static inline void
make_chunks(void)
{
	for (unsigned i = 0; i < CHUNKS; i++) {
		chunk[i] = secmalloc(size_of(i));
		MUST(chunk[i] != NULL);
		fill(chunk[i], size_of(i), i);
		if (i % 3 == 0)
			MUST(secmalloc_encrypt(chunk[i]) == 0);
	}
}

static inline void
chunks_are(unsigned seed)
{
	for (unsigned i = 0; i < CHUNKS; i++)
		MUST(filled(chunk[i], size_of(i), i + seed));
}

static inline void
rewrite(unsigned seed)
{
	for (unsigned i = 0; i < CHUNKS; i++)
		fill(chunk[i], size_of(i), i + seed);
}

#endif /* TESTS_TRANSPARENT_KEEP_H */
