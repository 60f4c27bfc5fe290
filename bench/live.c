/*
 * live.c - how many secrets a process without privileges can hold, and on what pages
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * The evidence is the kernel's: /proc/self/smaps and VmLck.  Everything needed to read it is
 * set aside before, since a peer may use up the process's mappings.
 */
#include "bench.h"

#include <grp.h>
#include <secmalloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { NOBODY = 65534, RANGES_MOST = 1 << 18 };

static unsigned char *live[BENCH_LIVE_MOST];

static struct {
	struct {
		uintptr_t start, end;
	} locked[RANGES_MOST]; /* mappings with "lo" in VmFlags, by address */
	size_t nlocked;
	size_t resident_bytes;
	size_t charged_bytes; /* VmLck */
} maps;

static char line[4096];

/* fopen's own buffer would be one more mapping. */
static FILE *
open_proc(const char *path)
{
	static char buffer[1 << 16];
	FILE *f = fopen(path, "re");

	if (f)
		setvbuf(f, buffer, _IOFBF, sizeof(buffer));
	return f;
}

static int
read_charged(void)
{
	FILE *f = open_proc("/proc/self/status");
	unsigned long kb = 0;
	int found = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmLck: %lu", &kb) == 1)
			found = 1;
	if (f)
		fclose(f);
	maps.charged_bytes = (size_t)kb << 10;
	return found ? 0 : -1;
}

static int
read_maps(void)
{
	FILE *f = open_proc("/proc/self/smaps");
	unsigned long a, b, start = 0, end = 0, kb;

	if (!f)
		return -1;
	maps.nlocked = maps.resident_bytes = 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &a, &b) == 2) { /* "Anonymous" begins with hex too */
			start = a;
			end = b;
		}
		if (sscanf(line, "Rss: %lu", &kb) == 1)
			maps.resident_bytes += (size_t)kb << 10;
		if (strncmp(line, "VmFlags:", 8) || !strstr(line, " lo"))
			continue;
		if (maps.nlocked == RANGES_MOST)
			break;
		maps.locked[maps.nlocked].start = start;
		maps.locked[maps.nlocked++].end = end;
	}
	fclose(f);
	return maps.nlocked == RANGES_MOST ? -1 : read_charged();
}

static bool
on_locked_page(const void *p)
{
	uintptr_t at = (uintptr_t)p;
	size_t low = 0, high = maps.nlocked;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (at >= maps.locked[middle].end)
			low = middle + 1;
		else
			high = middle;
	}
	return low < maps.nlocked && at >= maps.locked[low].start;
}

static int
drop_privileges(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_MEMLOCK, &r))
		return -1;
	if (geteuid() == 0 || r.rlim_max > BENCH_LIVE_LIMIT_BYTES)
		r.rlim_max = BENCH_LIVE_LIMIT_BYTES;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(RLIMIT_MEMLOCK, &r))
		return -1;
	if (geteuid() == 0 && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY)))
		return -1;
	return 0;
}

/* How many there is room for. */
static size_t
fill(const struct trial *t)
{
	size_t n = 0;

	while (n < BENCH_LIVE_MOST) {
		unsigned char *p = t->with->alloc(t->size);

		if (!p)
			break;
		memset(p, 0xa5, t->size);
		if (t->kind == BENCH_KEEP_SEALED && secmalloc_encrypt(p))
			break;
		live[n++] = p;
	}
	return n;
}

/* secmalloc as it is by default; the others are given all that may be locked, as one arena. */
static int
start_live(const struct trial *t)
{
	if (t->with == &bench_peers[0])
		return t->with->start(0);
	return t->with->start(BENCH_LIVE_LIMIT_BYTES);
}

int
bench_live(const struct trial *t, double *values)
{
	memset(live, 1, sizeof(live)); /* resident already when that is measured first */
	memset(&maps, 1, sizeof(maps));
	if (drop_privileges() || read_maps())
		return -1;

	size_t resident = maps.resident_bytes, charged = maps.charged_bytes, locked = 0, clear = 0;

	if (start_live(t))
		return -1;

	size_t n = fill(t);

	if (n == 0 || read_maps())
		return -1;
	for (size_t i = 0; i < n; i++) {
		bool safe = on_locked_page(live[i]);

		locked += safe;
		clear += !safe && t->kind == BENCH_KEEP_CLEAR;
	}
	values[0] = (double)n;
	values[1] = (double)locked;
	values[2] = (double)clear;
	values[3] = ((double)maps.charged_bytes - (double)charged) / (double)n;
	values[4] = ((double)maps.resident_bytes - (double)resident) / (double)n;
	return 0;
}
