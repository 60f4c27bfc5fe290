/*
 * run_early.c - a program that allocates before any library is ready, and while it forks
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * What it runs first of all comes before every constructor, and so does its handler of
 * pthread_atfork. It tells both addresses, then the number of a child that has stopped, and sleeps.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_BYTES = 200, DURING_BYTES = 40000 };

static unsigned char *first, *during;

static void
allocate(void)
{
	if (!during)
		during = malloc(DURING_BYTES);
	if (during)
		memset(during, 5, DURING_BYTES);
}

static void
begin(void)
{
	first = malloc(FIRST_BYTES);
	if (first)
		memset(first, 4, FIRST_BYTES);
	(void)pthread_atfork(allocate, NULL, NULL);
}

__attribute__((section(".preinit_array"), used)) static void (*const earliest)(void) = begin;

static int
is_whole(void)
{
	return first && during && first[FIRST_BYTES - 1] == 4 && during[DURING_BYTES - 1] == 5;
}

int
main(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!is_whole())
			_exit(3);
		raise(SIGSTOP);
	}
	if (pid > 0 && waitpid(pid, NULL, WUNTRACED) == pid) {
		printf("%jx %jx %jx\n", (uintmax_t)(uintptr_t)first, (uintmax_t)(uintptr_t)during,
			(uintmax_t)pid);
		fflush(stdout);
	}
	pause();
	return 0;
}
