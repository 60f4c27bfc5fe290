/*
 * run_sleeper.c - a program that knows nothing of the library, to be looked at from outside
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * It plants markers all over its heap, and one beside it. Then it does what it reads, a letter each:
 * w work until the next comes, v verify, f fork a child that touches everything and sleeps, a tell
 * an address in the heap; and answers with a line.
 */
#include "marker.h"
#include <poll.h>
#include <stdbool.h>

enum { CHUNKS = 3000, CHUNK_BYTES = 2000 };

static unsigned char *chunks[CHUNKS];
static unsigned char beside[MARKER_BYTES + 1] = { 1 };

static void
answer(const char *word, uintmax_t n)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%s %jx\n", word, n);

	if (write(STDOUT_FILENO, line, (size_t)length) != length)
		_exit(3);
}

static size_t
right(void)
{
	size_t n = 0;

	for (size_t i = 0; i < CHUNKS; i++)
		n += (size_t)(is_marker(chunks[i] + 8) && chunks[i][0] == (unsigned char)i);
	return n;
}

static bool
is_asked(void)
{
	struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

/* Everything is written anew. */
static void
toil(void)
{
	answer("working", 0);
	do
		for (size_t i = 0; i < CHUNKS; i++)
			for (size_t k = 8; k < 8 + MARKER_BYTES; k += 8)
				spoil(chunks[i], (ptrdiff_t)k), spoil(chunks[i], (ptrdiff_t)k);
	while (!is_asked());
}

static void
multiply(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		answer("child", right() == CHUNKS ? (uintmax_t)getpid() : 0);
		pause();
		_exit(0);
	}
}

int
main(void)
{
	char c;

	for (size_t i = 0; i < CHUNKS; i++) {
		chunks[i] = malloc(CHUNK_BYTES);
		if (!chunks[i])
			return 2;
		memset(chunks[i], (int)i, CHUNK_BYTES);
		plant_marker(chunks[i] + 8);
	}
	plant_marker(beside + 1);
	answer("ready", right());
	while (read(STDIN_FILENO, &c, 1) == 1)
		if (c == 'w')
			toil();
		else if (c == 'f')
			multiply();
		else if (c == 'v')
			answer("right", right());
		else if (c == 'a')
			answer("at", (uintptr_t)chunks[CHUNKS / 2]);
		else
			answer("idle", 0);
	return 0;
}
