/*
 * check_contract_lock_threads.c - the contract: after a lock no chunk is open
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * SECMALLOC_STORM_SECONDS says for how long each test runs (3).
 */
#include "contract.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define MATERIAL "correct horse", 13

static void
start(unsigned flags)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = flags;
	MUST(secmalloc_init(&c) == 0);
}

enum { WORKERS = 4, SLOTS = 30 };

static char *slots[WORKERS * SLOTS];
static _Atomic unsigned parked, turn;
static _Atomic int over;

/* The content comes from the library: who wrote it himself would have to hold it, and lock answers
 * EBUSY then. */
static int
one_step(char **slot, unsigned r)
{
	char *p;

	if (!*slot) {
		*slot = secstrdup("a string that is long enough to be noticed");
		return *slot ? 0 : errno;
	}
	switch (r % 5) {
	case 0:
		secfree(*slot);
		*slot = NULL;
		return 0;
	case 1:
		p = secrealloc(*slot, 43 + (r >> 8) % 40);
		*slot = p ? p : *slot;
		return p ? 0 : errno;
	case 2:
		return secmalloc_decrypt(*slot) ? errno : 0;
	default:
		return secmalloc_encrypt(*slot) ? errno : 0;
	}
}

static void *
work(void *arg)
{
	unsigned r = (unsigned)(uintptr_t)arg + 1, seen = 0;

	while (!over) {
		int e;

		r = r * 1103515245u + 12345u;
		e = one_step(&slots[(uintptr_t)arg * SLOTS + (r >> 20) % SLOTS], r >> 8);
		MUST(e == 0 || e == EACCES);
		if (e == 0)
			continue;
		parked++;
		while (turn == seen && !over)
			sched_yield();
		seen = turn;
	}
	return NULL;
}

static void
lock_once(void)
{
	MUST(secmalloc_lock(MATERIAL) == 0);
	while (parked < WORKERS)
		sched_yield();
	for (unsigned i = 0; i < WORKERS * SLOTS; i++)
		MUST(!slots[i] || secmalloc_is_encrypted(slots[i]) == 1);
	MUST(stats_now().bytes_clear == 0);
	MUST(secmalloc_unlock(MATERIAL) == 0);
	for (unsigned i = 0; i < WORKERS * SLOTS; i++)
		MUST(!slots[i] || (secmalloc_decrypt(slots[i]) == 0 &&
			strncmp(slots[i], "a string that is long enough to be noticed", 43) == 0));
	parked = 0;
	turn++;
}

START_TEST(after_a_lock_no_chunk_is_open_whatever_threads_were_doing)
{
	const char *seconds = getenv("SECMALLOC_STORM_SECONDS");
	const time_t end = time(NULL) + (seconds ? atoi(seconds) : 3);
	pthread_t t[WORKERS];

	alarm((unsigned)(end - time(NULL)) + 60); /* a deadlock */
	start(_i ? SECMALLOC_KEY_RESIDENT | SECMALLOC_ISOLATE : 0);
	for (uintptr_t i = 0; i < WORKERS; i++)
		MUST(pthread_create(&t[i], NULL, work, (void *)i) == 0);
	do {
		usleep(2000);
		lock_once();
	} while (time(NULL) < end);
	over = 1;
	for (unsigned i = 0; i < WORKERS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	MUST(stats_now().tampered == 0);
	term();
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_lock_threads");
	const char *seconds = getenv("SECMALLOC_STORM_SECONDS");
	TCase *tc = add_case(s, "threads", 0);

	tcase_set_timeout(tc, 120 + (seconds ? atoi(seconds) : 0));
	tcase_add_loop_test(tc, after_a_lock_no_chunk_is_open_whatever_threads_were_doing, 0, 2);
	return run(s);
}
