/*
 * bench.c - secmalloc beside other allocators, all in one interleaved run
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * usage: bench [--rounds N] [--rows PREFIX] [--mimalloc PATH] [--hardened PATH]
 *
 * Results go to stdout: row, peer, median, minimum (of unit "x", a ratio, the maximum) and unit
 * between tabs, after lines with "#" that say what they were measured on.  No figure changes the
 * exit status: 0, or 2 when the bench itself could not run.
 */
#include "bench.h"

#include <secmalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TRIALS_MOST = 256, ROUNDS_USUAL = 7, ROUNDS_MOST = 1000, SECONDS_A_TRIAL = 600 };

static const double target_ns = 20e6, warm_ns = 4e6;

size_t bench_arena = (size_t)16 << 20;

static struct trial trials[TRIALS_MOST];
static size_t ntrials;
static const char *only = ""; /* what rows begin with */

static double
read_clock(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

double
bench_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

double
bench_cpu_now(void)
{
	return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

uint32_t
bench_random(void)
{
	static uint32_t x = 2463534242u;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

double
bench_time(int (*work)(void *arg, size_t n), void *arg)
{
	size_t n = 1;
	double took;

	for (;; n *= 2) {
		double from = bench_cpu_now();

		if (work(arg, n))
			return -1;
		took = bench_cpu_now() - from;
		if (took >= warm_ns)
			break;
	}
	n = (size_t)((double)n * target_ns / took);
	n += n == 0;

	double from = bench_cpu_now();

	if (work(arg, n))
		return -1;
	return (bench_cpu_now() - from) / (double)n;
}

/* ---------------------------------------------------------------------- trials */

static struct trial *
add(const struct peer *with, const char *row, const char *unit,
	int (*run)(const struct trial *, double *), size_t size)
{
	struct trial *t = &trials[ntrials++];

	if (ntrials == TRIALS_MOST) {
		fprintf(stderr, "bench: too many trials: raise TRIALS_MOST\n");
		exit(2);
	}
	t->with = with;
	t->peer = with->name;
	t->run = run;
	t->size = size;
	t->values = 1;
	t->unit[0] = unit;
	snprintf(t->row[0], sizeof(t->row[0]), "%s", row);
	return t;
}

static void
add_value(struct trial *t, const char *row, const char *unit)
{
	t->unit[t->values] = unit;
	snprintf(t->row[t->values++], sizeof(t->row[0]), "%s", row);
}

static void
add_heap_rows(const struct peer *const *peers, size_t n)
{
	static const size_t sizes[] = { 16, 32, 64, 256, 1024, 4096, 16384, 65536 };

	for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
		char row[32];

		snprintf(row, sizeof(row), "pair_%zu", sizes[s]);
		for (size_t i = 0; i < n; i++)
			add(peers[i], row, "ns", bench_pair, sizes[s]);
	}
	for (size_t i = 0; i < n; i++)
		add(peers[i], "churn_32", "ns", bench_churn, 32);
	for (size_t i = 0; i < n; i++)
		add(peers[i], "churn_mixed", "ns", bench_churn, 0);
	for (size_t i = 0; i < n; i++) {
		struct trial *t = add(peers[i], "threads_1", "ns", bench_threads, 32);

		add_value(t, "threads_2", "ns");
		add_value(t, "threads_ratio", "x");
	}
	add(peers[0], "elastic_nothing", "ns", bench_elastic, 32)->kind = BENCH_BESIDE_NOTHING;
	add(peers[0], "elastic_sealed", "ns", bench_elastic, 32)->kind = BENCH_BESIDE_SEALED;
	add(peers[0], "elastic_clear", "ns", bench_elastic, 32)->kind = BENCH_BESIDE_CLEAR;
}

static struct trial *
add_kind(const struct peer *with, const char *row, const char *name,
	int (*run)(const struct trial *, double *), size_t size, unsigned kind)
{
	struct trial *t = add(with, row, "ns", run, size);

	t->peer = name;
	t->kind = kind;
	return t;
}

static void
add_cipher_rows(const struct peer *ours, const char *name, unsigned cipher)
{
	static const size_t sizes[] = { 32, 4096, (size_t)1 << 20 };
	char row[32];

	for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
		snprintf(row, sizeof(row), "seal_%s_%zu", name, sizes[s]);
		add_kind(ours, row, "split key", bench_seal, sizes[s], cipher);
		add_kind(ours, row, "resident key", bench_seal, sizes[s], cipher | BENCH_RESIDENT);
		add_kind(ours, row, "16 KiB prekey", bench_seal, sizes[s], cipher | BENCH_PREKEY);
		add_kind(ours, row, "libsodium alone", bench_bare, sizes[s], cipher);
	}
	for (size_t s = 0; s < 2; s++) {
		snprintf(row, sizeof(row), "all_%s_%zu", name, sizes[s]);
		add_kind(ours, row, "secmalloc", bench_all, sizes[s], cipher)->most_rounds = 3;
		add_kind(ours, row, "libsodium alone", bench_bare_all, sizes[s], cipher)
			->most_rounds = 3;
	}
}

static void
add_seal_rows(const struct peer *ours)
{
	add_cipher_rows(ours, "xchacha20poly1305", SECMALLOC_CIPHER_XCHACHA20POLY1305);
	add_cipher_rows(ours, "aes256gcm", SECMALLOC_CIPHER_AES256GCM);
	add_cipher_rows(ours, "aegis256", SECMALLOC_CIPHER_AEGIS256);
	add_cipher_rows(ours, "aegis128l", SECMALLOC_CIPHER_AEGIS128L);
	add(ours, "purge", "ns", bench_purge, 0);
}

static void
add_page_rows(const struct peer *ours)
{
	static const char *const names[] = { "thread, one CPU", "thread", "signal" };

	for (unsigned kind = BENCH_PAGES_ONE_CPU; kind <= BENCH_PAGES_SIGNAL; kind++) {
		struct trial *t = add_kind(ours, "page_touch", names[kind], bench_pages, 0, kind);

		add_value(t, "page_close", "ns");
		add_value(t, "page_open", "ns");
	}
	add_kind(ours, "page_touch", "zero fill", bench_zero_fill, 0, 0);
}

static void
add_live_row(const struct peer *with, const char *name, unsigned keep)
{
	struct trial *t = add(with, "live", "secrets", bench_live, 32);

	t->peer = name;
	t->kind = keep;
	t->most_rounds = 1;
	add_value(t, "live_on_locked_pages", "secrets");
	add_value(t, "live_clear_unlocked", "secrets");
	add_value(t, "live_locked_bytes", "bytes/secret");
	add_value(t, "live_resident_bytes", "bytes/secret");
}

static void
add_live_rows(const struct peer *const *peers, size_t n)
{
	add_live_row(peers[0], "secmalloc sealed", BENCH_KEEP_SEALED);
	add_live_row(peers[0], "secmalloc clear", BENCH_KEEP_CLEAR);
	for (size_t i = 1; i < n; i++)
		add_live_row(peers[i], peers[i]->name, BENCH_KEEP_CLEAR);
}

/* -------------------------------------------------------------------- children */

/* fn(arg, fd) in a child that says in fd what it found; its exit status, or -1. */
static int
in_child(int (*fn)(void *arg, int fd), void *arg, void *answer, size_t bytes)
{
	int fd[2], status;

	fflush(NULL);
	if (pipe(fd))
		return -1;

	pid_t child = fork();

	if (child == 0) {
		close(fd[0]);
		alarm(SECONDS_A_TRIAL);
		_exit(fn(arg, fd[1]));
	}
	close(fd[1]);

	ssize_t got = child < 0 ? -1 : read(fd[0], answer, bytes);

	close(fd[0]);
	if (child < 0 || waitpid(child, &status, 0) != child || got != (ssize_t)bytes)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int
run_here(void *arg, int fd)
{
	const struct trial *t = arg;
	double values[BENCH_VALUES] = { 0 };

	if (t->with->load() || t->run(t, values))
		return 1;
	return write(fd, values, sizeof(values)) == sizeof(values) ? 0 : 1;
}

static void
run(struct trial *t)
{
	double values[BENCH_VALUES];

	if (in_child(run_here, t, values, sizeof(values)))
		return;
	for (unsigned v = 0; v < t->values; v++)
		t->got[v * t->most_rounds + t->rounds] = values[v];
	t->rounds++;
}

struct identity {
	char version[200];
};

static int
identify_here(void *arg, int fd)
{
	const struct peer *p = arg;
	struct identity id = { { 0 } };

	if (p->load() || p->start(bench_arena))
		return 1;
	p->version(id.version, sizeof(id.version));
	return write(fd, &id, sizeof(id)) == sizeof(id) ? 0 : 1;
}

/* Which peers there are, in the order of bench_peers; prints what they are. */
static size_t
find_peers(const struct peer *present[])
{
	size_t n = 0;

	for (const struct peer *p = bench_peers; p->name; p++) {
		struct peer copy = *p;
		struct identity id;

		if (in_child(identify_here, &copy, &id, sizeof(id))) {
			printf("# absent\t%s: %s\n", p->name, p->what);
			continue;
		}
		printf("# peer\t%s: %s; %s\n", p->name, p->what, id.version);
		present[n++] = p;
	}
	return n;
}

/* Half as much, until that and some more can be locked: who may lock little compares little. */
static void
size_arena(void)
{
	for (; bench_arena > (size_t)64 << 10; bench_arena /= 2) {
		size_t bytes = bench_arena + bench_arena / 4;
		void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
		int refused = p == MAP_FAILED || mlock(p, bytes);

		if (p != MAP_FAILED)
			munmap(p, bytes);
		if (!refused)
			return;
	}
}

/* ------------------------------------------------------------------------ main */

static unsigned
options(int argc, char **argv)
{
	unsigned rounds = ROUNDS_USUAL;
	int i;

	for (i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--rounds") == 0)
			rounds = (unsigned)strtoul(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--rows") == 0)
			only = argv[i + 1];
		else if (strcmp(argv[i], "--mimalloc") == 0)
			bench_mimalloc_path = argv[i + 1];
		else if (strcmp(argv[i], "--hardened") == 0)
			bench_hardened_path = argv[i + 1];
		else
			break;
	}
	if (i != argc || rounds < 1 || rounds > ROUNDS_MOST) {
		fprintf(stderr, "usage: bench [--rounds N] [--rows PREFIX] [--mimalloc PATH] "
				"[--hardened PATH]\n");
		exit(2);
	}
	return rounds;
}

/* Every other round backwards, so that no peer always follows the same one. */
static void
run_round(unsigned round)
{
	for (size_t k = 0; k < ntrials; k++) {
		struct trial *t = &trials[round % 2 ? ntrials - 1 - k : k];

		if (round < t->most_rounds && strncmp(t->row[0], only, strlen(only)) == 0)
			run(t);
	}
}

int
main(int argc, char **argv)
{
	unsigned rounds = options(argc, argv);
	const struct peer *present[sizeof(trials) / sizeof(*trials)];

	size_arena();
	bench_meta(rounds);

	size_t n = find_peers(present);

	if (n == 0 || present[0] != &bench_peers[0]) {
		fprintf(stderr, "bench: secmalloc does not start: raise RLIMIT_MEMLOCK\n");
		return 2;
	}
	add_heap_rows(present, n);
	add_seal_rows(present[0]);
	add_page_rows(present[0]);
	add_live_rows(present, n);
	for (size_t i = 0; i < ntrials; i++) {
		struct trial *t = &trials[i];

		t->most_rounds = t->most_rounds ? t->most_rounds : rounds;
		t->got = calloc(t->most_rounds, t->values * sizeof(*t->got));
		if (!t->got)
			return 2;
	}
	for (unsigned r = 0; r < rounds; r++) {
		fprintf(stderr, "bench: round %u of %u\n", r + 1, rounds);
		run_round(r);
	}
	for (size_t i = 0; i < ntrials; i++)
		if (strncmp(trials[i].row[0], only, strlen(only)) == 0)
			bench_print(&trials[i]);
	return 0;
}
