/*
 * check_contract_keep_storm.c - the contract: forks while threads are inside every call
 *
 * SECMALLOC_STORM_SECONDS is how long each test lasts; 0.7 by default.
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include "marker.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

enum { THREADS = 4, SLOTS = 8, MINE = 60, MOST = 22000, WATCHDOG = 40 };

/** struct weather - what a storm runs under */
struct weather {
	const char *name;
	unsigned fork, without, flags, reseal_ms;
	size_t pool_size; /* small: elastic pages come and go */
};

#define KEEP SECMALLOC_FORK_KEEP
#define WIPE SECMALLOC_FORK_WIPE

static const struct weather WEATHER[] = {
	{ "keep", KEEP, 0, 0, 0, 0 },
	{ "keep, not hidden", KEEP, SECMALLOC_HIDDEN, 0, 0, 0 },
	{ "keep, small pool, reseal", KEEP, 0, 0, 3, 65536 },
	{ "keep, isolated, resident", KEEP, 0, SECMALLOC_ISOLATE | SECMALLOC_KEY_RESIDENT, 0, 0 },
	{ "keep, isolated, not hidden, reseal", KEEP, SECMALLOC_HIDDEN, SECMALLOC_ISOLATE, 2, 0 },
	{ "wipe", WIPE, 0, 0, 0, 0 },
	{ "wipe, not hidden, reseal", WIPE, SECMALLOC_HIDDEN, 0, 3, 65536 },
	{ "wipe, isolated", WIPE, 0, SECMALLOC_ISOLATE, 0, 0 },
};

enum { N_WEATHER = sizeof(WEATHER) / sizeof(WEATHER[0]) };

static atomic_int stop;
static _Atomic(const char *) complaint;
static char why[512]; /* the first complaint's */
static int exactly;               /* look whether stats are true to the chunk, too */
static unsigned char *mine[MINE]; /* the main thread's; nobody frees, writes or moves them */

static double
seconds(void)
{
	const char *s = getenv("SECMALLOC_STORM_SECONDS");
	const double n = s ? atof(s) : 0;

	return n > 0 ? n : 0.7;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static size_t
size_of(unsigned i)
{
	return i % 20 == 7 ? 20000 : MARKER_BYTES + i * 37;
}

static void
fill_marked(unsigned char *p, size_t n, unsigned seed)
{
	plant_marker(p);
	fill(p + MARKER_BYTES, n - MARKER_BYTES, seed);
}

static int
is_filled_marked(const unsigned char *p, size_t n, unsigned seed)
{
	return is_marker(p) && filled(p + MARKER_BYTES, n - MARKER_BYTES, seed);
}

/* ------------------------------------------------------------- the threads */

struct slot {
	unsigned char *p;
	size_t size;
	unsigned seed;
};

struct worker {
	pthread_t thread;
	unsigned random;
	struct slot slots[SLOTS];
};

static unsigned
draw(struct worker *w, unsigned below)
{
	w->random = w->random * 1664525u + 1013904223u;
	return (w->random >> 8) % below;
}

static int
complain(int ok, const char *what)
{
	const char *none = NULL;
	const int e = errno;

	if (!ok && atomic_compare_exchange_strong(&complaint, &none, what))
		snprintf(why, sizeof(why), "errno %d, %s", e, secmalloc_error());
	return ok;
}

#define EXPECT(cond) complain(!!(cond), #cond)

static void
make(struct worker *w, struct slot *s)
{
	const unsigned how = draw(w, 4);

	s->size = MARKER_BYTES + (draw(w, 8) ? draw(w, 700) : draw(w, MOST));
	s->seed = draw(w, 1000);
	if (how == 0)
		s->p = seccalloc(1, s->size);
	else if (how == 1)
		s->p = secaligned_alloc((size_t)16 << draw(w, 8), s->size);
	else
		s->p = secmalloc(s->size);
	if (!EXPECT(s->p != NULL) || !EXPECT(secmalloc_hold(s->p) == 0))
		return;
	fill_marked(s->p, s->size, s->seed);
	EXPECT(secmalloc_release(s->p) == 0);
}

static void
look(struct slot *s)
{
	if (!EXPECT(secmalloc_hold(s->p) == 0))
		return;
	EXPECT(is_filled_marked(s->p, s->size, s->seed));
	EXPECT(secmalloc_release(s->p) == 0);
}

static void
resize(struct worker *w, struct slot *s)
{
	const size_t n = MARKER_BYTES + draw(w, 3000), kept = n < s->size ? n : s->size;
	unsigned char *q = secrealloc(s->p, n);

	if (!EXPECT(q != NULL))
		return;
	s->p = q;
	s->size = kept;
	look(s);
	s->size = n;
	if (!EXPECT(secmalloc_hold(s->p) == 0))
		return;
	fill_marked(s->p, n, s->seed);
	EXPECT(secmalloc_release(s->p) == 0);
}

static void
protect(struct slot *s)
{
	if (secmalloc_protect(s->p, SECMALLOC_READONLY) != 0)
		return;
	look(s);
	EXPECT(secmalloc_encrypt(s->p) == 0 && secmalloc_decrypt(s->p) == 0);
	EXPECT(secmalloc_protect(s->p, SECMALLOC_READWRITE) == 0);
}

static void
ask(struct slot *s)
{
	struct secmalloc_stats st = SECMALLOC_STATS_INIT;

	EXPECT(secmalloc_stats(&st) == 0 && secmalloc_owns(s->p) == 1);
	EXPECT(secmalloc_usable_size(s->p) == s->size && secmalloc_is_encrypted(s->p) >= 0);
}

static void
do_all(struct worker *w)
{
	switch (draw(w, 24)) {
	case 0: EXPECT(secmalloc_encrypt_all() == 0 || errno == EBUSY); break;
	case 1: EXPECT(secmalloc_decrypt_all() == 0); break;
	case 2: EXPECT(secmalloc_rekey() == 0); break;
	default: break;
	}
}

static void
do_something(struct worker *w)
{
	struct slot *s = &w->slots[draw(w, SLOTS)];

	if (s->p == NULL) {
		make(w, s);
		return;
	}
	switch (draw(w, 10)) {
	case 0: case 1: secfree(s->p); s->p = NULL; break;
	case 2: resize(w, s); break;
	case 3: case 4: EXPECT(secmalloc_encrypt(s->p) == 0); break;
	case 5: EXPECT(secmalloc_decrypt(s->p) == 0); break;
	case 6: look(s); break;
	case 7: protect(s); break;
	case 8: ask(s); break;
	default: do_all(w);
	}
}

static void *
work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&stop) && atomic_load(&complaint) == NULL)
		do_something(w);
	for (unsigned i = 0; i < SLOTS; i++)
		secfree(w->slots[i].p);
	return NULL;
}

/* ------------------------------------------------------------- the children */

static void
use_the_library(void)
{
	for (unsigned k = 0; k < 50; k++) {
		const size_t n = k % 10 == 3 ? 20000 : 48 + k * 31;
		unsigned char *p = secmalloc(n);

		MUST(p != NULL && secmalloc_hold(p) == 0 && all_zero(p, n));
		fill(p, n, k);
		MUST(secmalloc_release(p) == 0);
		MUST(secmalloc_encrypt(p) == 0 && secmalloc_hold(p) == 0 && filled(p, n, k));
		MUST(secmalloc_release(p) == 0);
		secfree(p);
	}
}

static void
keeps(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	for (unsigned i = 0; i < MINE; i++) {
		MUST(secmalloc_hold(mine[i]) == 0);
		MUST(is_filled_marked(mine[i], size_of(i), i));
		MUST(secmalloc_release(mine[i]) == 0);
	}
	use_the_library();
	MUST(secmalloc_encrypt_all() == 0 && secmalloc_rekey() == 0);
	MUST(secmalloc_stats(&s) == 0 && s.chunks >= MINE && s.chunks_encrypted >= MINE);
	if (exactly)
		MUST(s.chunks == s.chunks_encrypted && s.bytes_clear == 0);
	for (unsigned i = 0; i < MINE; i++) {
		MUST(secmalloc_hold(mine[i]) == 0 && is_filled_marked(mine[i], size_of(i), i));
		for (size_t k = 0; k < size_of(i); k++)
			mine[i][k] ^= 0xa5;
		secfree(mine[i]);
	}
	MUST(secmalloc_decrypt_all() == 0);
	use_the_library();
}

static void
has_nothing(int look_closely)
{
	MUST(!look_closely || markers_in_memory() == 0);
	for (unsigned i = 0; i < MINE; i++) {
		MUST_FAIL(ECHILD, -1, secmalloc_decrypt(mine[i]));
		secfree(mine[i]);
	}
	use_the_library();
	MUST(!look_closely || markers_in_memory() == 0);
}

/** child - made by fork or by clone, to have this or that; answers its status */
static int
child(int raw, int keep, int look_closely)
{
	const pid_t pid = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
	int status = -1;

	if (pid == 0) {
		alarm(WATCHDOG / 2);
		if (keep)
			keeps();
		else
			has_nothing(look_closely);
		_exit(0);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	return status;
}

static void *
fork_too(void *arg)
{
	const int keep = *(const int *)arg;

	while (!atomic_load(&stop) && atomic_load(&complaint) == NULL)
		EXPECT(child(0, keep, 0) == 0);
	return NULL;
}

/* ------------------------------------------------------------- the storms */

static void
break_loose(const struct weather *is)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.fork = is->fork;
	c.without = is->without;
	c.flags = is->flags;
	c.reseal_ms = is->reseal_ms;
	c.pool_size = is->pool_size;
	ck_assert_msg(secmalloc_init(&c) == 0, "%s", secmalloc_error());
	for (unsigned i = 0; i < MINE; i++) {
		mine[i] = secmalloc(size_of(i));
		ck_assert(mine[i] != NULL && secmalloc_hold(mine[i]) == 0);
		fill_marked(mine[i], size_of(i), i);
		if (i % 3 != 0)
			ck_assert_int_eq(secmalloc_release(mine[i]), 0);
		if (i % 3 == 2)
			ck_assert_int_eq(secmalloc_encrypt(mine[i]), 0);
	}
}

static void
calm_down(void)
{
	for (unsigned i = 0; i < MINE; i++) {
		ck_assert(secmalloc_hold(mine[i]) == 0);
		ck_assert(is_filled_marked(mine[i], size_of(i), i));
		secfree(mine[i]);
	}
	ck_assert_int_eq(secmalloc_term(), 0);
}

static unsigned
fork_for_a_while(const struct weather *is, int raws, int look_closely)
{
	const double end = now() + seconds();
	unsigned n = 0;

	for (; now() < end && atomic_load(&complaint) == NULL; n++) {
		const int raw = raws && n % 4 == 3, keep = is->fork == KEEP && !raw;
		const int status = child(raw, keep, look_closely && n % 4 == 0);

		if (status != 0)
			printf("%s: child %u: status 0x%x\n", is->name, n, (unsigned)status);
		EXPECT(status == 0);
	}
	return n;
}

static void
storm(const struct weather *is, int forkers, int raws, int look_closely)
{
	static struct worker workers[THREADS];
	pthread_t too[2];
	int keep = is->fork == KEEP;
	unsigned n;

	alarm((unsigned)seconds() + WATCHDOG); /* no deadlock */
	break_loose(is);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].random = i * 77 + 1;
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	for (int i = 0; i < forkers; i++)
		pthread_create(&too[i], NULL, fork_too, &keep);
	n = fork_for_a_while(is, raws, look_closely);
	atomic_store(&stop, 1);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	for (int i = 0; i < forkers; i++)
		pthread_join(too[i], NULL);
	ck_assert_msg(atomic_load(&complaint) == NULL, "%s: %s: %s", is->name,
		atomic_load(&complaint), why);
	ck_assert_uint_gt(n, 0);
	if (getenv("SECMALLOC_STORM_SECONDS") != NULL)
		printf("%s: %u forks\n", is->name, n);
	calm_down();
}

START_TEST(threads_are_inside_every_call_when_the_fork_comes)
{
	storm(&WEATHER[_i], 0, 0, !SANITIZED && !under_valgrind("the search for markers"));
}
END_TEST

START_TEST(stats_of_a_child_are_true_to_the_chunk)
{
	exactly = 1;
	storm(&WEATHER[_i], 0, 0, 0);
}
END_TEST

START_TEST(two_threads_fork_at_once)
{
	storm(&WEATHER[_i], 1, 0, 0);
}
END_TEST

START_TEST(some_children_are_raw_clones)
{
	storm(&WEATHER[_i], 0, 1, !SANITIZED && !under_valgrind("the search for markers"));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: keep, storm");
	TCase *tc = add_case(s, "storms", 0);

	tcase_set_timeout(tc, seconds() + 60);
	tcase_add_loop_test(
		tc, threads_are_inside_every_call_when_the_fork_comes, 0, N_WEATHER);
	tcase_add_loop_test(tc, stats_of_a_child_are_true_to_the_chunk, 0, 2);
	tcase_add_loop_test(tc, two_threads_fork_at_once, 1, 3);
	if (!SANITIZED) /* those know nothing of raw clones */
		tcase_add_loop_test(tc, some_children_are_raw_clones, 5, 7);
	return run(s);
}
