/*
 * heap.c - rows that allocate and free: pairs, churn, threads, and pages locked one by one
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "bench.h"

#include <pthread.h>
#include <secmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

enum { CHURN_CHUNKS = 10000, BESIDE_CHUNKS = 128 };
enum { THREADS_MOST = 2, THREAD_RUNS = 3, THREAD_BATCH = 64 };

/* -------------------------------------------------------------- one live chunk */

struct pairs {
	const struct peer *peer;
	size_t size;
};

static int
do_pairs(void *arg, size_t n)
{
	const struct pairs *a = arg;

	for (size_t i = 0; i < n; i++) {
		volatile char *p = a->peer->alloc(a->size);

		if (!p)
			return -1;
		*p = 1;
		a->peer->release((void *)p, a->size);
	}
	return 0;
}

int
bench_pair(const struct trial *t, double *values)
{
	struct pairs a = { t->with, t->size };

	if (t->with->start(bench_arena))
		return -1;
	values[0] = bench_time(do_pairs, &a);
	return values[0] < 0 ? -1 : 0;
}

/* ----------------------------------------------------------------------- churn */

struct churn {
	const struct peer *peer;
	size_t size;
	struct {
		void *p;
		size_t size;
	} live[CHURN_CHUNKS];
};

static int
fill_slot(struct churn *a, size_t i)
{
	size_t size = a->size ? a->size : 16 + bench_random() % (512 - 16 + 1);
	volatile char *p = a->peer->alloc(size);

	a->live[i].p = (void *)p;
	a->live[i].size = size;
	if (!p)
		return -1;
	*p = 1;
	return 0;
}

static int
do_churn(void *arg, size_t n)
{
	struct churn *a = arg;

	for (size_t k = 0; k < n; k++) {
		size_t i = bench_random() % CHURN_CHUNKS;

		a->peer->release(a->live[i].p, a->live[i].size);
		if (fill_slot(a, i))
			return -1;
	}
	return 0;
}

int
bench_churn(const struct trial *t, double *values)
{
	static struct churn a;

	a.peer = t->with;
	a.size = t->size;
	if (t->with->start(bench_arena))
		return -1;
	for (size_t i = 0; i < CHURN_CHUNKS; i++)
		if (fill_slot(&a, i))
			return -1;
	values[0] = bench_time(do_churn, &a);
	return values[0] < 0 ? -1 : 0;
}

/* --------------------------------------------------------------------- threads */

static atomic_bool go, stop;

struct worker {
	struct pairs pairs;
	pthread_t thread;
	double per_ns; /* pairs in a nanosecond; negative: it failed */
};

static void *
work(void *arg)
{
	struct worker *w = arg;
	size_t n = 0;

	while (!atomic_load_explicit(&go, memory_order_acquire))
		;

	double from = bench_now();
	int e = 0;

	while (!e && !atomic_load_explicit(&stop, memory_order_relaxed)) {
		e = do_pairs(&w->pairs, THREAD_BATCH);
		n += THREAD_BATCH;
	}
	w->per_ns = e ? -1 : (double)n / (bench_now() - from);
	return NULL;
}

/* ns per pair of all threads together; -1: one failed. */
static double
run_threads(const struct trial *t, unsigned n)
{
	const struct timespec while_they_work = { 0, 25000000 };
	struct worker w[THREADS_MOST];
	double sum = 0;

	atomic_store(&go, false);
	atomic_store(&stop, false);
	for (unsigned i = 0; i < n; i++) {
		w[i].pairs = (struct pairs){ t->with, t->size };
		if (pthread_create(&w[i].thread, NULL, work, &w[i]))
			return -1; /* the child ends, and those that wait with it */
	}
	atomic_store_explicit(&go, true, memory_order_release);
	nanosleep(&while_they_work, NULL);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < n; i++) {
		pthread_join(w[i].thread, NULL);
		if (w[i].per_ns < 0)
			return -1;
		sum += w[i].per_ns;
	}
	return 1 / sum;
}

/*
 * A heap in use: some chunks stay, with holes of the same size between them.  In an empty one
 * some allocators split and join their whole arena for each pair.
 */
static int
furnish(const struct peer *peer, size_t size)
{
	void *p[BESIDE_CHUNKS * 2];

	for (unsigned i = 0; i < BESIDE_CHUNKS * 2; i++) {
		p[i] = peer->alloc(size);
		if (!p[i])
			return -1;
	}
	for (unsigned i = 0; i < BESIDE_CHUNKS * 2; i += 2)
		peer->release(p[i], size);
	return 0;
}

int
bench_threads(const struct trial *t, double *values)
{
	if (t->with->start(bench_arena) || furnish(t->with, t->size))
		return -1;
	for (unsigned k = 0; k < THREAD_RUNS; k++)
		for (unsigned n = 1; n <= THREADS_MOST; n++) {
			double ns = run_threads(t, n);

			if (ns < 0)
				return -1;
			if (k == 0 || ns < values[n - 1])
				values[n - 1] = ns;
		}
	values[2] = values[0] / values[1];
	return 0;
}

/* --------------------------------------------------- pages locked one by one */

/* Fills the first pool; the last chunk is the first that lies elsewhere. NULL: failed. */
static void *
fill_first_pool(size_t size)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	void *p;

	do {
		p = secmalloc(size);
		secmalloc_stats(&s);
	} while (p && s.pools < 2);
	return p;
}

int
bench_elastic(const struct trial *t, double *values)
{
	struct pairs a = { t->with, t->size };

	if (bench_secmalloc_start((size_t)16 << 10, SECMALLOC_CIPHER_AUTO))
		return -1;

	void *p = fill_first_pool(t->size);

	if (!p)
		return -1;
	if (t->kind == BENCH_BESIDE_NOTHING)
		secfree(p);
	if (t->kind == BENCH_BESIDE_SEALED && secmalloc_encrypt(p))
		return -1;
	/* So many that some are wherever there is room. */
	for (unsigned k = 0; t->kind == BENCH_BESIDE_CLEAR && k < 4; k++)
		if (furnish(t->with, t->size))
			return -1;
	values[0] = bench_time(do_pairs, &a);
	return values[0] < 0 ? -1 : 0;
}
