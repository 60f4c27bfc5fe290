/*
 * meta.c - what is printed: the machine the figures come from, and the figures
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown"
#endif

static void
print_cpu(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[512];
	const char *name = "unknown";

	while (f && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) || !colon)
			continue;
		line[strcspn(line, "\n")] = '\0';
		name = colon + 1 + strspn(colon + 1, " ");
		break;
	}
	if (f)
		fclose(f);
	printf("# cpu\t%s, %ld of them usable\n", name, sysconf(_SC_NPROCESSORS_ONLN));
}

/* The version only: what builders append to it names their machines. */
static void
print_kernel(void)
{
	struct utsname u;

	if (uname(&u))
		return;
	u.release[strspn(u.release, "0123456789.")] = '\0';
	printf("# kernel\t%s %s, %s\n", u.sysname, u.release, u.machine);
}

void
bench_machine(void)
{
	time_t now = time(NULL);
	struct tm t;
	char date[32] = "unknown";
	double load;

	if (gmtime_r(&now, &t))
		strftime(date, sizeof(date), "%Y-%m-%d", &t);
	printf("# date\t%s\n", date);
	print_cpu();
	print_kernel();
	if (getloadavg(&load, 1) == 1)
		printf("# load\t%.2f processes on average in the minute before\n", load);
	printf("# compiler\t%s\n", COMPILER);
}

void
bench_meta(unsigned rounds)
{
	struct rlimit r;

	bench_machine();
	printf("# rounds\t%u, of the live rows one\n", rounds);
	printf("# arena\t%zu KiB of secure memory for each peer that takes a size\n",
		bench_arena >> 10);
	if (getrlimit(RLIMIT_MEMLOCK, &r) == 0 && r.rlim_cur != RLIM_INFINITY)
		printf("# timing rows\tuser id %s 0, RLIMIT_MEMLOCK %llu KiB\n",
			geteuid() ? "not" : "is", (unsigned long long)r.rlim_cur >> 10);
	printf("# live rows\tuser id is not 0, RLIMIT_MEMLOCK at most %zu KiB, 32-byte secrets, "
	       "at most %u\n",
		BENCH_LIVE_LIMIT_BYTES >> 10, BENCH_LIVE_MOST);
}

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

void
bench_print(const struct trial *t)
{
	for (unsigned v = 0; v < t->values; v++) {
		double *got = t->got + v * t->most_rounds, median;
		unsigned n = t->rounds;

		if (n == 0) {
			printf("%s\t%s\t-\t-\tfailed\n", t->row[v], t->peer);
			continue;
		}
		qsort(got, n, sizeof(*got), by_value);
		median = n % 2 ? got[n / 2] : (got[n / 2 - 1] + got[n / 2]) / 2;

		double best = got[strcmp(t->unit[v], "x") == 0 ? n - 1 : 0];

		printf("%s\t%s\t%.2f\t%.2f\t%s\n", t->row[v], t->peer, median, best, t->unit[v]);
	}
}
