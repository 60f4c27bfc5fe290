/*
 * check_contract_purge_threads.c - the contract: a purge under threads that are inside every call
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * SECMALLOC_STORM_SECONDS says for how long each test runs (1).
 */
#include "every_call.h"

#include <pthread.h>
#include <time.h>

enum { WORKERS = 4, SLOTS = 6, SHARED = 4 };

/** struct slot - a chunk of one thread alone, and whether it knows it to be open */
struct slot {
	unsigned char *p;
	size_t n;
	int open;
};

static struct slot slots[WORKERS * SLOTS];
static unsigned char *shared[SHARED];
static char text[20001];
static int all_too; /* a thread may close and open the chunks of the others */

static void
note(struct slot *s, void *p, size_t n)
{
	if (p)
		*s = (struct slot){ p, n, 1 };
}

/** call_any - what looks at a chunk that others look at, or walks through all of them */
static int
call_any(unsigned r)
{
	unsigned char *p = shared[(r >> 4) % SHARED];
	int e;

	switch (r % 16) {
	case 0:
		return call_rekey(NULL);
	case 1:
		e = all_too ? call_encrypt_all(NULL) : 0;
		return e == EBUSY ? 0 : e;
	case 2:
		return all_too ? call_decrypt_all(NULL) : 0;
	case 3:
		return call_protect(p);
	case 4:
		e = errno_of(secmalloc_hold(p));
		return e ? e : errno_of(secmalloc_release(p));
	default:
		return r & 256 ? call_usable_size(p) : call_is_encrypted(p);
	}
}

/** one_step - Returns: 0 or the errno that some call failed with */
static int
one_step(struct slot *s, unsigned r)
{
	const size_t n = r >> 10 & 1 ? 1 + (r >> 11) % 600 : 18000;
	void *p;

	errno = 0;
	if (!s->p) {
		note(s, secstrndup(text, n - 1), n);
		return s->p ? 0 : errno;
	}
	switch (r % 7) {
	case 0:
		secfree(s->p);
		s->p = NULL;
		return 0;
	case 1:
		p = secrealloc(s->p, n);
		s->n = p ? n : s->n;
		s->p = p ? p : s->p;
		return p ? 0 : errno;
	case 2:
	case 3:
		s->open = 0;
		return errno_of(secmalloc_encrypt(s->p));
	case 4:
		s->open = secmalloc_decrypt(s->p) == 0;
		return s->open ? 0 : errno;
	case 5:
		return ALL_CALLS[(r >> 8) % 10].run(NULL);
	default:
		return call_any((r >> 8));
	}
}

static void *
work(void *arg)
{
	struct slot *mine = &slots[(uintptr_t)arg * SLOTS];
	unsigned r = (unsigned)(uintptr_t)arg + (unsigned)time(NULL), refused = 0;

	while (refused < 20) { /* and whatever comes after it is refused too */
		int e;

		r = r * 1103515245u + 12345u;
		e = one_step(&mine[(r >> 24) % SLOTS], r >> 8);
		MUST(e == 0 || e == ECANCELED);
		refused += e == ECANCELED;
	}
	return NULL;
}

static void
look_at_slots(void)
{
	for (unsigned i = 0; i < WORKERS * SLOTS; i++) {
		struct slot *s = &slots[i];

		if (s->p)
			MUST(!shows(s->p, s->n, 5));
		if (s->p && s->open && !all_too)
			MUST(all_zero(s->p, s->n));
		s->p = NULL;
	}
	for (unsigned i = 0; i < SHARED; i++)
		MUST(!shows(shared[i], 18000, 5) && all_zero(shared[i], 18000));
}

static void
purge_under(const struct secmalloc_config *c, unsigned us)
{
	pthread_t t[WORKERS];

	MUST(secmalloc_init(c) == 0);
	for (unsigned i = 0; i < SHARED; i++) {
		MUST((shared[i] = secmalloc(18000)) != NULL);
		memcpy(shared[i], text, 18000);
		MUST(secmalloc_hold(shared[i]) == 0);
	}
	for (uintptr_t i = 0; i < WORKERS; i++)
		MUST(pthread_create(&t[i], NULL, work, (void *)i) == 0);
	usleep(us);
	secmalloc_purge();
	for (unsigned i = 0; i < WORKERS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	look_at_slots();
	MUST(secmalloc_term() == 0);
}

static unsigned
storm_seconds(void)
{
	const char *s = getenv("SECMALLOC_STORM_SECONDS");

	return s ? (unsigned)atoi(s) : 1;
}

START_TEST(a_purge_ends_what_other_threads_do)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	const time_t end = time(NULL) + storm_seconds();

	c.flags = (_i & 1 ? SECMALLOC_ISOLATE : 0u) | (_i & 2 ? SECMALLOC_KEY_RESIDENT : 0u);
	c.pool_size = _i & 2 ? 16 * KIB : 0;
	all_too = _i & 4;
	alarm(storm_seconds() + 60); /* a deadlock */
	fill(text, sizeof(text) - 1, 5);
	for (size_t i = 0; i < sizeof(text) - 1; i++)
		text[i] = text[i] ? text[i] : 1; /* a string */
	for (unsigned i = 0; i < 20 || time(NULL) < end; i++)
		purge_under(&c, i * 37 % 3000);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_purge_threads");
	TCase *tc = add_case(s, "threads", 0);

	tcase_set_timeout(tc, 120 + storm_seconds());
	tcase_add_loop_test(tc, a_purge_ends_what_other_threads_do, 0, 8);
	return run(s);
}
