/*
 * counters.h - threads count in pages that close all the time
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_COUNTERS_H
#define TESTS_COUNTERS_H

#include "contract.h"
#include <pthread.h>

enum { COUNTERS = 3000, COUNTING_ROUNDS = 30, COUNTING_THREADS = 4 };

static unsigned *counters[COUNTERS];

static inline void *
count(void *arg)
{
	size_t mine = *(size_t *)arg;

	for (unsigned r = 0; r < COUNTING_ROUNDS; r++)
		for (size_t i = 0; i < COUNTERS; i++)
			counters[i][mine]++;
	return NULL;
}

/** count_all - several threads, each its own in every chunk, while all is closed; none is lost */
static inline void
count_all(void)
{
	size_t number[COUNTING_THREADS];
	pthread_t t[COUNTING_THREADS];

	for (size_t i = 0; i < COUNTERS; i++) {
		counters[i] = secmalloc(300);
		MUST(counters[i] != NULL);
	}
	for (size_t i = 0; i < COUNTING_THREADS; i++) {
		number[i] = i;
		MUST(pthread_create(&t[i], NULL, count, &number[i]) == 0);
	}
	for (unsigned i = 0; i < 50; i++)
		MUST(secmalloc_encrypt_all() == 0);
	for (size_t i = 0; i < COUNTING_THREADS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	for (size_t i = 0; i < COUNTERS; i++)
		for (size_t k = 0; k < COUNTING_THREADS; k++)
			MUST(counters[i][k] == COUNTING_ROUNDS);
	MUST(stats_now().tampered == 0 && secmalloc_term() == 0);
}

#endif /* TESTS_COUNTERS_H */
