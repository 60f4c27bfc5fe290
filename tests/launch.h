/*
 * launch.h - start a program that knows nothing of the library as secmalloc-run would
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * The launcher sets two variables and executes the program; test_run.sh tests the launcher.
 */
#ifndef TESTS_LAUNCH_H
#define TESTS_LAUNCH_H

#include "contract.h"
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>

/** build_dir - where the library and the programs of this build are */
static inline const char *
build_dir(void)
{
	const char *dir = getenv("top_builddir");

	return dir ? dir : ".";
}

/** become - in a child: the program tests/NAME of this build, or /NAME, under these options */
_Noreturn static inline void
become(const char *options, char *const argv[])
{
	char library[PATH_MAX], program[PATH_MAX];

	snprintf(library, sizeof(library), "%s/.libs/libsecmalloc-preload.so", build_dir());
	snprintf(program, sizeof(program), "%s/tests/%s", build_dir(), argv[0]);
	setenv("LD_PRELOAD", library, 1);
	setenv("SECMALLOC_RUN", options, 1);
	execv(argv[0][0] == '/' ? argv[0] : program, argv);
	_exit(127);
}

/** launched - the same in a child of one's own, whose descriptor 1 is `out` (-1: ours), 2 `err` */
static inline pid_t
launched(const char *options, char *const argv[], int out, int err)
{
	const struct rlimit none = { 0, 0 };
	pid_t pid = fork();

	if (pid)
		return pid;
	setrlimit(RLIMIT_CORE, &none);
	if (out >= 0)
		dup2(out, STDOUT_FILENO);
	if (err >= 0)
		dup2(err, STDERR_FILENO);
	alarm(300);
	become(options, argv);
}

/** struct command - for outcome_of: run_command */
struct command {
	const char *options;
	char *const *argv;
};

static inline void
run_command(void *command)
{
	const struct command *c = command;

	alarm(300);
	become(c->options, c->argv);
}

/** may_launch - this build has the library, and this machine a thread for it; else says so */
static inline bool
may_launch(const char *test)
{
	char *argv[] = { (char[]){ "/bin/true" }, NULL };
	struct command c = { "mode=thread", argv };
	char library[PATH_MAX];
	struct outcome o;

	snprintf(library, sizeof(library), "%s/.libs/libsecmalloc-preload.so", build_dir());
	if (SANITIZED || access(library, R_OK)) {
		printf("skipped: %s: this build has no library to preload\n", test);
		return false;
	}
	o = outcome_of(run_command, &c);
	if (WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0)
		return true;
	printf("skipped: %s: %s", test, o.text);
	return false;
}

#endif /* TESTS_LAUNCH_H */
