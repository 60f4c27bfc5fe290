/*
 * run_ids.c - a program that knows nothing of the library, and becomes another user
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * run_ids WAY [child | heirs | more]: by setres* or by set*; then everything is looked at, and a child
 * is forked, or one that has a child, too, or memory is wanted that the privileged had not.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <grp.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define IDS_MUST(x) ((x) ? (void)0 : ids_fail(#x, __LINE__))

enum { IDS_BYTES = 4 << 20, IDS_NOBODY = 65534 };

static unsigned char *heap;

static void
ids_fail(const char *what, int line)
{
	fprintf(stderr, "run_ids:%d: %s\n", line, what);
	_exit(99);
}

static unsigned char
pattern(size_t i)
{
	return (unsigned char)(i * 7 + (i >> 12));
}

static void
is_whole(void)
{
	for (size_t i = 0; i < IDS_BYTES; i++)
		IDS_MUST(heap[i] == pattern(i));
}

static void
check_line(const char *line, unsigned *seen)
{
	unsigned long n[4] = { 0 };

	if (sscanf(line, "Uid: %lu %lu %lu %lu", n, n + 1, n + 2, n + 3) == 4 ||
		sscanf(line, "Gid: %lu %lu %lu %lu", n, n + 1, n + 2, n + 3) == 4) {
		for (int i = 0; i < 4; i++)
			IDS_MUST(n[i] == IDS_NOBODY);
		(*seen)++;
	} else if (sscanf(line, "CapPrm: %lx", n) == 1 || sscanf(line, "CapEff: %lx", n) == 1) {
		IDS_MUST(n[0] == 0);
		(*seen)++;
	} else if (sscanf(line, "NoNewPrivs: %lu", n) == 1) {
		IDS_MUST(n[0] == 1);
		(*seen)++;
	} else if (strncmp(line, "Groups:", 7) == 0) {
		IDS_MUST(sscanf(line, "Groups: %lu %lu", n, n + 1) < 2 &&
			(n[0] == 0 || n[0] == IDS_NOBODY));
		IDS_MUST(!strstr(line, " 0 "));
		(*seen)++;
	}
}

/* Every thread, also one that the C library does not know. */
static unsigned
threads_are_nobody(void)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	char path[300], line[512];
	unsigned threads = 0;

	IDS_MUST(d != NULL);
	while ((e = readdir(d))) {
		unsigned seen = 0;
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", e->d_name);
		IDS_MUST((f = fopen(path, "r")) != NULL);
		while (fgets(line, sizeof(line), f))
			check_line(line, &seen);
		IDS_MUST(seen == 6);
		fclose(f);
		threads++;
	}
	closedir(d);
	return threads;
}

static void
become_nobody(const char *way)
{
	const gid_t nobody = IDS_NOBODY;

	if (strcmp(way, "setres") == 0) {
		IDS_MUST(setgroups(1, &nobody) == 0);
		IDS_MUST(setresgid(nobody, nobody, nobody) == 0);
		IDS_MUST(setresuid(nobody, nobody, nobody) == 0);
	} else {
		IDS_MUST(initgroups("nobody", nobody) == 0);
		IDS_MUST(setgid(nobody) == 0 && setuid(nobody) == 0);
	}
	IDS_MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	IDS_MUST(setuid(0) == -1);
}

/* Each sees what its parent had, and what one writes no other sees. */
static void
heirs(int generations)
{
	pid_t pid;
	int status;

	if (generations == 0)
		return;
	pid = fork();
	if (pid == 0) {
		is_whole();
		IDS_MUST(threads_are_nobody() >= 2);
		memset(heap, generations, IDS_BYTES);
		for (size_t i = 0; i < IDS_BYTES; i++)
			heap[i] = pattern(i);
		heirs(generations - 1);
		memset(heap, 0, IDS_BYTES);
		_exit(7);
	}
	IDS_MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
	IDS_MUST(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	is_whole();
}

/* Of the mappings whose faults are watched: what is there is locked. */
static void
clear_pages_are_locked(void)
{
	unsigned long there = 0, locked = 0, all = 0;
	char line[512];
	FILE *f = fopen("/proc/self/smaps", "r");

	IDS_MUST(f != NULL);
	while (fgets(line, sizeof(line), f)) {
		(void)sscanf(line, "Rss: %lu", &there);
		(void)sscanf(line, "Locked: %lu", &locked);
		if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " um")) {
			IDS_MUST(there == locked);
			all += there;
		}
	}
	IDS_MUST(all > 0);
	fclose(f);
}

/* Several pools. */
static void
more(void)
{
	enum { CHUNKS = 12 };
	unsigned char *p[CHUNKS];

	for (unsigned i = 0; i < CHUNKS; i++) {
		IDS_MUST((p[i] = malloc(IDS_BYTES)) != NULL);
		p[i][0] = 1;
		clear_pages_are_locked();
		memset(p[i], (int)i + 1, IDS_BYTES);
	}
	for (unsigned i = 0; i < CHUNKS; i++)
		for (size_t k = 0; k < IDS_BYTES; k++)
			IDS_MUST(p[i][k] == i + 1);
	is_whole();
}

int
main(int argc, char **argv)
{
	char *words[] = { strdup("/bin/true"), NULL }, *none[] = { NULL };
	int status;
	pid_t pid;

	IDS_MUST(argc > 1 && (heap = malloc(IDS_BYTES)) != NULL);
	for (size_t i = 0; i < IDS_BYTES; i++)
		heap[i] = pattern(i);
	become_nobody(argv[1]);
	is_whole();
	IDS_MUST(threads_are_nobody() >= 2);
	is_whole(); /* which closes the words */
	IDS_MUST(posix_spawn(&pid, words[0], NULL, NULL, words, none) == 0);
	IDS_MUST(waitpid(pid, &status, 0) == pid && status == 0);
	if (argc < 3)
		return 0;
	if (strcmp(argv[2], "more") == 0) {
		more();
		return 0;
	}
	if (strcmp(argv[2], "heirs") == 0) {
		heirs(3);
		return 0;
	}
	pid = fork();
	if (pid == 0) {
		is_whole();
		_exit(7);
	}
	IDS_MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
	is_whole();
	printf("the child: 0x%x\n", (unsigned)status);
	return 0;
}
