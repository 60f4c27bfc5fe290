/*
 * check_purge_split.c - a purge in the middle of a re-split leaves no key, and the call ends
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A wrapper around sm_key_split tells when the signal came inside.  The prekey is long, so that a
 * re-split takes most of the time.  SECMALLOC_STORM_SECONDS: for how long (4).
 */
#include "every_call.h"
#include "key/inside.h"

#include <signal.h>
#include <time.h>

enum { CHUNKS = 8, BYTES = 200, PREKEY_BYTES = 1 << 20 };

static volatile sig_atomic_t splits, fired, inside;
static unsigned char *chunk[CHUNKS];
static timer_t timer;

void __real_sm_key_split(uint64_t now_ms);
void __wrap_sm_key_split(uint64_t now_ms);

/** __wrap_sm_key_split - the library's, and it is known that it runs */
void
__wrap_sm_key_split(uint64_t now_ms)
{
	splits = 1;
	__real_sm_key_split(now_ms);
	splits = 0;
}

static void
on_timer(int sig)
{
	(void)sig;
	inside = splits;
	secmalloc_purge();
	fired = 1;
}

static void
set_timer(long us)
{
	const struct itimerspec t = { { 0, 0 }, { 0, 1000 * us } };

	MUST(timer_settime(timer, 0, &t, NULL) == 0);
}

/* The call may have drawn or hashed on; what it stored was wiped by itself. */
static void
no_key_is_left(void)
{
	for (size_t i = 0; i < SM_KEY_PAGES; i++) {
		const struct sm_area *a = &sm_keys.page[i];
		size_t bytes = i == 1 ? 0 : a->bytes; /* a right half alone hides nothing */

		MUST(a->base && all_zero(a->base, bytes));
	}
}

static void
one_round(unsigned *hits)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	int e = 0;

	c.prekey_size = PREKEY_BYTES;
	c.resplit_ms = 1;
	c.without = SECMALLOC_HIDDEN;
	fired = inside = 0;
	MUST(secmalloc_init(&c) == 0);
	for (size_t i = 0; i < CHUNKS; i++) {
		chunk[i] = secmalloc(BYTES);
		MUST(chunk[i] != NULL);
		fill(chunk[i], BYTES, 7);
	}
	set_timer(1 + random() % 20000);
	for (size_t i = 0; !fired; i++)
		e = i / CHUNKS % 2 ? secmalloc_decrypt(chunk[i % CHUNKS])
				   : secmalloc_encrypt(chunk[i % CHUNKS]);
	MUST(e == 0 || errno == ECANCELED);
	no_key_is_left();
	for (size_t i = 0; i < CHUNKS; i++) {
		MUST(!shows(launder(chunk[i]), BYTES, 7));
		MUST(secmalloc_decrypt(chunk[i]) == -1 && errno == ECANCELED);
	}
	*hits += (unsigned)inside;
	MUST(secmalloc_term() == 0);
}

static void
purge_in_a_loop(void *unused)
{
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct sigaction act = { .sa_handler = on_timer };
	const char *s = getenv("SECMALLOC_STORM_SECONDS");
	const time_t end = time(NULL) + (s ? atoi(s) : 4);
	unsigned rounds = 0, hits = 0;

	(void)unused;
	srandom((unsigned)time(NULL) ^ (unsigned)getpid());
	MUST(sigaction(SIGUSR1, &act, NULL) == 0);
	MUST(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0);
	for (; time(NULL) < end; rounds++) {
		alarm(30); /* a deadlock */
		one_round(&hits);
	}
	printf("%u purges: inside re-split %u\n", rounds, hits);
	fflush(stdout);
	MUST(hits > 0);
}

START_TEST(a_purge_inside_a_resplit_leaves_no_key_and_no_plaintext)
{
	if (!SANITIZED) /* those keep signals back until a call has ended */
		assert_exits_0(purge_in_a_loop, NULL);
}
END_TEST

int
main(void)
{
	const char *s = getenv("SECMALLOC_STORM_SECONDS");
	Suite *suite = suite_create("purge_split");
	TCase *tc = add_case(suite, "storm", 0);

	tcase_set_timeout(tc, 60 + (s ? atoi(s) : 4));
	tcase_add_test(tc, a_purge_inside_a_resplit_leaves_no_key_and_no_plaintext);
	return run(suite);
}
