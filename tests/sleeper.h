/*
 * sleeper.h - tests/run_sleeper under the launcher, and a look at it from outside
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_SLEEPER_H
#define TESTS_SLEEPER_H

#include "launch.h"
#include "outside.h"
#include <sys/uio.h>

enum { SLEEPER_CHUNKS = 3000, OUTSIDE_PAGE = 4096 };

struct sleeper {
	pid_t pid;
	int ask, err;
	FILE *answers;
};

/** struct sight - a mapping, as smaps tells */
struct sight {
	uintptr_t from, to;
	char access[8], flags[256];
	bool named;
	int mem, pagemap;
};

enum { HERE = 1, AWAY = 2 }; /* in memory; in swap */

/** asked - one letter, and the number in the line that comes back */
static inline uintmax_t
asked(struct sleeper *s, char what)
{
	char line[64] = "", word[16];
	uintmax_t n = 0;

	if (what)
		ck_assert_int_eq(write(s->ask, &what, 1), 1);
	if (!fgets(line, sizeof(line), s->answers) || sscanf(line, "%15s %jx", word, &n) != 2)
		ck_abort_msg("to '%c' the answer is '%s'", what ? what : ' ', line);
	return n;
}

static inline struct sleeper
sleeper_start(const char *options)
{
	char program[] = "run_sleeper";
	char *argv[] = { program, NULL };
	int in[2], out[2], err[2];
	struct sleeper s;

	ck_assert(pipe(in) == 0 && pipe(out) == 0 && pipe(err) == 0);
	fflush(NULL);
	s.pid = fork();
	if (s.pid == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		for (int fd = 3; fd < 64; fd++)
			close(fd);
		alarm(200);
		become(options, argv);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	s.ask = in[1];
	s.err = err[0];
	s.answers = fdopen(out[0], "r");
	ck_assert_uint_eq(asked(&s, 0), SLEEPER_CHUNKS);
	return s;
}

static inline struct outcome
sleeper_end(struct sleeper *s)
{
	struct outcome o;

	close(s->ask);
	fclose(s->answers);
	reap(&o, s->pid, s->err);
	return o;
}

/** each_sight - of a process's mappings; answers how many */
static inline void
each_sight(pid_t pid, void (*look)(const struct sight *, void *), void *arg)
{
	struct sight s = { 0 };
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	ck_assert_ptr_nonnull(f = fopen(path, "re"));
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	ck_assert_int_ge(s.mem = open(path, O_RDWR | O_CLOEXEC), 0);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	ck_assert_int_ge(s.pagemap = open(path, O_RDONLY | O_CLOEXEC), 0);
	while (fgets(line, sizeof(line), f)) {
		uintptr_t from, to;
		char access[8], name[256] = "";

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s %*s %*s %*s %255s", &from, &to,
			access, name) >= 3) {
			s.from = from;
			s.to = to;
			memcpy(s.access, access, sizeof(access));
			s.named = name[0] != '\0';
		} else if (sscanf(line, "VmFlags: %255[^\n]", s.flags) == 1)
			look(&s, arg);
	}
	fclose(f);
	close(s.mem);
	close(s.pagemap);
}

/** each_page - of a mapping, with HERE and AWAY */
static inline void
each_page(const struct sight *s, void (*look)(const struct sight *, uintptr_t, int, void *), void *arg)
{
	static uint64_t entry[4096];
	size_t n = (s->to - s->from) / OUTSIDE_PAGE, some;

	for (size_t i = 0; i < n; i += some) {
		ssize_t got = pread(s->pagemap, entry, sizeof(entry),
			(off_t)((s->from / OUTSIDE_PAGE + i) * sizeof(*entry)));

		if (got <= 0)
			return;
		some = (size_t)got / sizeof(*entry);
		for (size_t k = 0; k < some && i + k < n; k++)
			look(s, s->from + (i + k) * OUTSIDE_PAGE,
				(int)(entry[k] >> 63) * HERE + (int)(entry[k] >> 62 & 1) * AWAY, arg);
	}
}

/** stopped - no thread of it runs; go_on undoes it */
static inline void
stopped(pid_t pid)
{
	ck_assert_int_eq(kill(pid, SIGSTOP), 0);
	ck_assert_int_eq(waitpid(pid, NULL, WUNTRACED), pid);
}

static inline void
go_on(pid_t pid)
{
	ck_assert_int_eq(kill(pid, SIGCONT), 0);
}

/** struct found - pages with markers: in the heap, whose faults are watched, and elsewhere */
struct found {
	size_t watched, elsewhere, refused;
	bool tries; /* pages that are not there, too */
};

static inline bool
is_watched(const struct sight *s)
{
	return strstr(s->flags, " um") != NULL;
}

static inline void
find_on(const struct sight *s, uintptr_t at, int where, void *arg)
{
	static unsigned char page[OUTSIDE_PAGE];
	struct found *found = arg;
	size_t *n = is_watched(s) ? &found->watched : &found->elsewhere;

	if (where == 0 && !(found->tries && is_watched(s)))
		return;
	if (pread(s->mem, page, OUTSIDE_PAGE, (off_t)at) == OUTSIDE_PAGE)
		*n += markers_in(page, OUTSIDE_PAGE) > 0;
	else
		found->refused++;
}

static inline void
find_in(const struct sight *s, void *arg)
{
	if (s->access[0] == 'r')
		each_page(s, find_on, arg);
}

static inline struct found
markers_of(pid_t pid, bool tries)
{
	struct found f = { .tries = tries };

	each_sight(pid, find_in, &f);
	return f;
}

#endif /* TESTS_SLEEPER_H */
