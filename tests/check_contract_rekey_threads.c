/*
 * check_contract_rekey_threads.c - the contract: no byte is lost while threads rekey
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * SECMALLOC_STORM_SECONDS says for how long each test runs (0.6).
 */
#include "contract.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/** struct kept - a chunk of one thread, and what it should be */
struct kept {
	unsigned char *p;
	size_t n;
	unsigned seed;
	int closed;
};

/** variant - every combination of flags, prekey, cipher and pool */
static struct secmalloc_config
variant(int i)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = (i & 1 ? SECMALLOC_KEY_RESIDENT : 0u) | (i & 2 ? SECMALLOC_ISOLATE : 0u);
	c.prekey_size = i & 4 ? 16384 : 32;
	c.cipher = i & 8 ? SECMALLOC_CIPHER_XCHACHA20POLY1305 : SECMALLOC_CIPHER_AUTO;
	c.pool_size = i & 16 ? 16 * KIB : 0;
	return c;
}

enum { STORMERS = 8, SHARED = 24, OWN = 6 };

static unsigned char *shared[SHARED];
static _Atomic int over;
static _Atomic unsigned rekeys;

static size_t
shared_bytes(unsigned i)
{
	return i % 8 == 7 ? 20000 : 16 + i * 37;
}

/** use_shared - hold, read, release, close or open what others do the same to */
static void
use_shared(unsigned r)
{
	unsigned i = (r >> 8) % SHARED;

	switch (r % 5) {
	case 0:
		MUST(secmalloc_encrypt(shared[i]) == 0 || errno == EBUSY);
		break;
	case 1:
		MUST(secmalloc_decrypt(shared[i]) == 0);
		break;
	default:
		MUST(secmalloc_hold(shared[i]) == 0);
		MUST(filled(shared[i], shared_bytes(i), i));
		MUST(secmalloc_release(shared[i]) == 0);
	}
}

/** use_own - allocate, resize, close, free what nobody else knows */
static void
use_own(struct kept *k, unsigned r)
{
	size_t n = (r >> 8) % 16 == 0 ? 17000 : (r >> 12) % 900, least = n < k->n ? n + 1 : k->n;
	unsigned char *p;

	if (k->p && r % 4 == 0) {
		secfree(k->p);
		k->p = NULL;
	} else if (k->p) {
		p = secrealloc(k->p, n + 1);
		MUST(p != NULL && secmalloc_is_encrypted(p) == k->closed);
		MUST(secmalloc_hold(p) == 0 && filled(p, least, k->seed));
		fill(p, n + 1, k->seed);
		MUST(secmalloc_release(p) == 0);
		k->p = p;
		k->n = n + 1;
	} else {
		*k = (struct kept){ .p = secmalloc(n + 1), .n = n + 1, .seed = r >> 5 };
		MUST(k->p != NULL);
		fill(k->p, k->n, k->seed);
		k->closed = r >> 3 & 1;
		MUST(!k->closed || secmalloc_encrypt(k->p) == 0);
	}
}

static void *
storm(void *arg)
{
	unsigned r = (unsigned)(uintptr_t)arg * 7919u + 1;
	struct kept own[OWN] = { { .p = NULL } };

	while (!atomic_load(&over)) {
		r = r * 1103515245u + 12345u;
		if ((r >> 16) % 40 == 0) {
			MUST(secmalloc_rekey() == 0);
			atomic_fetch_add(&rekeys, 1);
		} else if ((r >> 16) % 2) {
			use_shared(r >> 9);
		} else {
			use_own(&own[(r >> 28) % OWN], r >> 9);
		}
	}
	for (unsigned i = 0; i < OWN; i++)
		secfree(own[i].p);
	return NULL;
}

static unsigned
storm_seconds(void)
{
	const char *s = getenv("SECMALLOC_STORM_SECONDS");

	return s ? (unsigned)atoi(s) : 0;
}

START_TEST(no_byte_is_lost_while_threads_rekey)
{
	struct secmalloc_config c = variant((int[]){ 0, 3, 21, 26 }[_i]);
	struct timespec time = { storm_seconds(), storm_seconds() ? 0 : 600000000 };
	pthread_t t[STORMERS];

	alarm(storm_seconds() + 60); /* a deadlock */
	ck_assert_msg(secmalloc_init(&c) == 0, "%s", secmalloc_error());
	for (unsigned i = 0; i < SHARED; i++)
		fill(shared[i] = secmalloc(shared_bytes(i)), shared_bytes(i), i);
	for (uintptr_t i = 0; i < STORMERS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, storm, (void *)i), 0);
	nanosleep(&time, NULL);
	while (rekeys < 3)
		usleep(1000);
	over = 1;
	for (unsigned i = 0; i < STORMERS; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
	SUCCEEDS(secmalloc_rekey());
	SUCCEEDS(secmalloc_decrypt_all());
	for (unsigned i = 0; i < SHARED; i++)
		ck_assert(filled(shared[i], shared_bytes(i), i));
	ck_assert_uint_eq(stats_now().tampered, 0);
	ck_assert_uint_eq(stats_now().chunks, SHARED);
	term();
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_rekey_threads");
	TCase *tc = add_case(s, "storm", 0);

	tcase_set_timeout(tc, 120 + storm_seconds());
	tcase_add_loop_test(tc, no_byte_is_lost_while_threads_rekey, 0, 4);
	return run(s);
}
