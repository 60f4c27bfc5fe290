/*
 * pages.c - rows of transparent mode: what a page costs
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "bench.h"

#include <grp.h>
#include <sched.h>
#include <secmalloc.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 400, CLEAR_PAGES = 512, LAPS = 20, NOBODY = 65534, SIGNAL = 2 };

static int
stay_on_one_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	return sched_setaffinity(0, sizeof(one), &one);
}

static int
start(unsigned kind, size_t page)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	if (kind != BENCH_PAGES_ALL_CPUS && stay_on_one_cpu())
		return -1;
	if (kind == BENCH_PAGES_SIGNAL && geteuid() == 0 &&
		(setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
			setresuid(NOBODY, NOBODY, NOBODY)))
		return -1;
	c.flags = SECMALLOC_TRANSPARENT;
	c.clear_limit = CLEAR_PAGES * page;
	if (secmalloc_init(&c) || secmalloc_stats(&s))
		return -1;
	return (s.mode == SIGNAL) == (kind == BENCH_PAGES_SIGNAL) ? 0 : -1;
}

static void
keep_least(double *value, double ns, int first)
{
	if (first || ns < *value)
		*value = ns;
}

/* As an unaware program does: all pages closed, then each is touched. Then the same by calls. */
static int
lap(volatile unsigned char *p, size_t page, double *values, int first)
{
	double from = bench_now();

	if (secmalloc_encrypt_all())
		return -1;
	keep_least(&values[1], (bench_now() - from) / PAGES, first);
	from = bench_now();
	for (size_t i = 0; i < PAGES; i++)
		p[i * page] ^= 1;
	keep_least(&values[0], (bench_now() - from) / PAGES, first);
	if (secmalloc_encrypt((void *)p))
		return -1;
	from = bench_now();
	if (secmalloc_decrypt((void *)p))
		return -1;
	keep_least(&values[2], (bench_now() - from) / PAGES, first);
	return 0;
}

int
bench_pages(const struct trial *t, double *values)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *p;

	if (start(t->kind, page) || !(p = secmalloc(PAGES * page)))
		return -1;
	memset(p, 0xa5, PAGES * page);
	for (int i = 0; i < LAPS; i++)
		if (lap(p, page, values, i == 0))
			return -1;
	return 0;
}

int
bench_zero_fill(const struct trial *t, double *values)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	(void)t;
	for (int lap = 0; lap < LAPS; lap++) {
		volatile unsigned char *p = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		double from = bench_now();

		if (p == MAP_FAILED)
			return -1;
		for (size_t i = 0; i < PAGES; i++)
			p[i * page] = 1;
		keep_least(&values[0], (bench_now() - from) / PAGES, lap == 0);
		munmap((void *)p, PAGES * page);
	}
	return 0;
}
