/*
 * daemon_client.c - a program with secrets under secmallocd, that works on them all the time
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	daemon_client SOCKET SEED [BYTES]
 *
 * Prints "ready PID" and, where it was built as daemon_keys, where the halves of its key are. Its
 * threads hold a chunk and read it byte by byte, hold another and count in it, open and close a
 * third, allocate and free; BYTES more are held open in chunks of 64 KiB. Once its standard input
 * ends every byte is looked at: "ok TURNS", and status 0. The markers are those of leak.h: SEED,
 * and SEED + 2 in plain memory, which a scanner must find.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <secmalloc.h>

#include "leak.h"

enum { LARGE_BYTES = 65536, WORDS = 512 };

char leak_note[256];

static _Atomic bool ends;
static _Atomic unsigned long turns;
static uint64_t seed;

static _Noreturn void
lost(const char *what)
{
	fprintf(stderr, "daemon_client: %s: %s\n", what, secmalloc_error());
	_exit(1);
}

static void
plant(volatile unsigned char *p, uint64_t from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = leak_byte(from, i);
}

static void
look(const volatile unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != leak_byte(seed, i))
			lost("a byte of the marker was lost");
}

static void *
fresh(size_t n)
{
	void *p = secmalloc(n);

	if (!p)
		lost("secmalloc");
	return p;
}

static unsigned char *
marked(size_t n)
{
	unsigned char *p = fresh(n);

	plant(p, seed, n);
	return p;
}

static void *
read_held(void *unused)
{
	unsigned char *p = marked(LEAK_SMALL_BYTES);

	if (secmalloc_hold(p))
		lost("hold");
	for (; !ends; turns++)
		look(p, LEAK_SMALL_BYTES);
	return unused;
}

static void *
count_held(void *unused)
{
	volatile uint64_t *p = fresh(WORDS * sizeof(*p));

	if (secmalloc_hold((void *)(uintptr_t)p))
		lost("hold");
	for (uint64_t n = 0; !ends; n++, turns++)
		for (size_t i = 0; i < WORDS; i++)
			if (p[i]++ != n)
				lost("a count was lost");
	return unused;
}

static void *
open_and_close(void *unused)
{
	unsigned char *p = marked(LEAK_SMALL_BYTES);

	if (secmalloc_encrypt(p))
		lost("encrypt");
	for (; !ends; turns++) {
		if (secmalloc_hold(p))
			lost("hold");
		look(p, LEAK_SMALL_BYTES);
		if (secmalloc_release(p))
			lost("release");
	}
	return unused;
}

static void *
churn(void *unused)
{
	for (size_t n = 16; !ends; n = n % 5000 + 61, turns++) {
		unsigned char *p = marked(n);

		p = secrealloc(p, n + 500);
		if (!p)
			lost("secrealloc");
		look(p, n);
		secfree(p);
	}
	return unused;
}

static void *
sleep_often(void *unused)
{
	for (; !ends; turns++) {
		nanosleep(&(struct timespec){ 0, 3000000 }, NULL);
		poll(NULL, 0, 3);
	}
	return unused;
}

static void
await_end(void)
{
	char c;
	ssize_t n;

	do
		n = read(0, &c, 1);
	while (n > 0 || (n < 0 && errno == EINTR));
}

/* Held, so that a lock has to close them all and an unlock to open them. */
static void
fill(unsigned char **chunks, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		chunks[i] = marked(LARGE_BYTES);
		if (secmalloc_hold(chunks[i]))
			lost("hold");
	}
}

int
main(int argc, char **argv)
{
	static void *(*const work[])(void *) = { read_held, count_held, open_and_close, churn,
		sleep_often };
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	static unsigned char control[LEAK_CONTROL_BYTES];
	size_t n = argc > 3 ? strtoull(argv[3], NULL, 0) / LARGE_BYTES : 0;
	unsigned char **chunks = calloc(n + 1, sizeof(*chunks));
	pthread_t t[sizeof(work) / sizeof(work[0])];

	if (argc < 3 || !chunks)
		return 2;
	seed = strtoull(argv[2], NULL, 0);
	c.daemon = argv[1];
	c.without = leak_where ? SECMALLOC_HIDDEN : 0; /* hiding can't hide a mistake */
	c.cipher = leak_where ? SECMALLOC_CIPHER_AES256GCM : 0;
	c.resplit_ms = leak_where ? 1000000000 : 0;
	if (secmalloc_init(&c))
		lost("init");
	plant(control, LEAK_CONTROL_SEED(seed), sizeof(control));
	fill(chunks, n);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		if (pthread_create(&t[i], NULL, work[i], NULL))
			lost("pthread_create");
	if (leak_where)
		leak_where();
	printf("ready %d %s\n", (int)getpid(), leak_note);
	fflush(stdout);
	await_end();
	ends = true;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		pthread_join(t[i], NULL);
	for (size_t i = 0; i < n; i++)
		look(chunks[i], LARGE_BYTES);
	if (secmalloc_term())
		lost("term");
	printf("ok %lu\n", (unsigned long)turns);
	return 0;
}
