/*
 * run.c - what programs cost under secmalloc-run, beside themselves alone, in one interleaved run
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * usage: run --programs FILE --library PATH... [--sets BYTES,...] [--rounds N] [--rows PREFIX]
 *
 * A line of FILE is a name, a tab, and a program with its arguments between spaces.  Every round
 * runs each program alone and with each library at each clear set once, every other round
 * backwards.  Results go to stdout as bench's do: the row run_NAME has ms by the clock, and
 * cpu_NAME ms of processor time of the program and all that it started.  A second library is
 * another build to compare with.  Exit status: 0, or 2 when nothing could be measured.
 */
#include "bench.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16, WORDS_MOST = 32, TRIALS_MOST = 512, ROUNDS_MOST = 1000 };

/** How a program is run. */
struct setting {
	char name[64];
	char preload[1100], options[64]; /* for its environment; empty: it runs alone */
};

struct job {
	struct trial figures;
	char *const *words;
	const struct setting *how;
};

static char *programs[MOST][WORDS_MOST + 2]; /* a name, words, NULL */
static size_t nprograms;
static struct setting settings[MOST] = { { .name = "native" } };
static size_t nsettings = 1;
static struct job jobs[TRIALS_MOST];
static size_t njobs;
static const char *libraries[2], *only = "";
static size_t nlibraries;

size_t bench_arena; /* there is none; meta.c asks */

double
bench_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

_Noreturn static void
usage(void)
{
	fprintf(stderr, "usage: run --programs FILE --library PATH... [--sets BYTES,...] "
			"[--rounds N] [--rows PREFIX]\n");
	exit(2);
}

static void
read_programs(const char *path)
{
	FILE *f = fopen(path, "re");
	static char text[MOST][1024];

	while (f && nprograms < MOST && fgets(text[nprograms], sizeof(text[0]), f)) {
		char **word = programs[nprograms], *at = strtok(text[nprograms], "\t");

		for (size_t n = 0; at && n <= WORDS_MOST; n++) {
			word[n] = at;
			at = strtok(NULL, " \n");
		}
		nprograms += word[0] && word[1];
	}
	if (!f || nprograms == 0)
		usage();
	fclose(f);
}

static void
add_settings(const char *sets)
{
	char *end;

	for (const char *at = sets; *at; at = *end ? end + 1 : end) {
		unsigned long bytes = strtoul(at, &end, 10);

		if (end == at || (*end && *end != ','))
			usage();
		for (size_t k = 0; k < nlibraries && nsettings < MOST; k++) {
			struct setting *s = &settings[nsettings++];

			snprintf(s->name, sizeof(s->name), "%luK%s", bytes >> 10,
				k ? ", other build" : "");
			snprintf(s->preload, sizeof(s->preload), "%s", libraries[k]);
			snprintf(s->options, sizeof(s->options), "mode=thread,clear=%lu", bytes);
		}
	}
}

static void
add_jobs(unsigned rounds)
{
	for (size_t p = 0; p < nprograms; p++)
		for (size_t k = 0; k < nsettings && njobs < TRIALS_MOST; k++) {
			struct job *j = &jobs[njobs++];
			struct trial *t = &j->figures;

			j->words = programs[p] + 1;
			j->how = &settings[k];
			t->peer = settings[k].name;
			t->values = 2;
			t->unit[0] = t->unit[1] = "ms";
			snprintf(t->row[0], sizeof(t->row[0]), "run_%s", programs[p][0]);
			snprintf(t->row[1], sizeof(t->row[1]), "cpu_%s", programs[p][0]);
			t->most_rounds = rounds;
			t->got = calloc(rounds, t->values * sizeof(*t->got));
			if (!t->got)
				exit(2);
		}
}

/* In the child. */
_Noreturn static void
become(const struct job *j)
{
	int null = open("/dev/null", O_RDWR);

	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
	}
	if (j->how->preload[0]) {
		setenv("LD_PRELOAD", j->how->preload, 1);
		setenv("SECMALLOC_RUN", j->how->options, 1);
	}
	execvp(j->words[0], j->words);
	_exit(127);
}

static double
ms_of(const struct timeval *t)
{
	return (double)t->tv_sec * 1e3 + (double)t->tv_usec / 1e3;
}

static void
run(struct job *j)
{
	struct trial *t = &j->figures;
	struct rusage used;
	double from = bench_now();
	pid_t child = fork();
	int status = -1;

	if (child == 0)
		become(j);
	if (child < 0 || wait4(child, &status, 0, &used) != child || status) {
		fprintf(stderr, "run: %s, %s: status %d\n", t->row[0], t->peer, status);
		return;
	}
	t->got[t->rounds] = (bench_now() - from) / 1e6;
	t->got[t->most_rounds + t->rounds++] = ms_of(&used.ru_utime) + ms_of(&used.ru_stime);
}

static unsigned
options(int argc, char **argv)
{
	const char *sets = "131072,1048576,16777216";
	unsigned rounds = 7;
	int i;

	for (i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--rounds") == 0)
			rounds = (unsigned)strtoul(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--rows") == 0)
			only = argv[i + 1];
		else if (strcmp(argv[i], "--programs") == 0)
			read_programs(argv[i + 1]);
		else if (strcmp(argv[i], "--sets") == 0)
			sets = argv[i + 1];
		else if (strcmp(argv[i], "--library") == 0 && nlibraries < 2)
			libraries[nlibraries++] = argv[i + 1];
		else
			break;
	}
	if (i != argc || rounds < 1 || rounds > ROUNDS_MOST || nprograms == 0)
		usage();
	add_settings(sets);
	return rounds;
}

static bool
wanted(const struct job *j)
{
	return strncmp(j->figures.row[0], only, strlen(only)) == 0;
}

int
main(int argc, char **argv)
{
	unsigned rounds = options(argc, argv);

	bench_machine();
	printf("# rounds\t%u\n", rounds);
	add_jobs(rounds);
	for (unsigned r = 0; r < rounds; r++) {
		fprintf(stderr, "run: round %u of %u\n", r + 1, rounds);
		for (size_t k = 0; k < njobs; k++) {
			struct job *j = &jobs[r % 2 ? njobs - 1 - k : k];

			if (wanted(j))
				run(j);
		}
	}
	for (size_t k = 0; k < njobs; k++)
		if (wanted(&jobs[k]))
			bench_print(&jobs[k].figures);
	return 0;
}
