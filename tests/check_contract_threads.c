/*
 * check_contract_threads.c - the contract: every call is thread-safe
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Four threads work on chunks and hand them to each other through letter boxes.  Who holds a
 * parcel is alone with its chunk.  SECMALLOC_SECONDS makes each test that long.
 */
#include "contract.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum {
	WORKERS = 4,
	HANDS = 8, /* parcels that a worker holds */
	BOXES = 16,
	PARCELS = WORKERS * HANDS + BOXES,
	OPERATIONS = 50000, /* of each worker */
	ROUNDS = 4000,	    /* the same, where others close and open everything meanwhile */
	SWEEPERS = 2,
	STRINGS = 20000,
	STRING_BYTES = 15000,
	LARGE_BYTES = 40000
};

/** struct parcel - a chunk, and what it must hold; empty while ptr is NULL */
struct parcel {
	unsigned char *ptr;
	size_t size;
	size_t filled; /* so many bytes of pattern(seed), then zeros */
	unsigned seed;
	int sealed;
};

/** struct worker - one thread's own */
struct worker {
	pthread_t thread;
	uint64_t random;
	struct parcel *hands[HANDS];
	void (*step)(struct worker *w, struct parcel *p);
	size_t operations;
};

static struct parcel parcels[PARCELS];
static _Atomic(struct parcel *) boxes[BOXES];
static struct worker workers[WORKERS];
static atomic_int working; /* workers that have not ended */
static time_t end;	   /* 0: each does its operations */

/* splitmix64 */
static unsigned
roll(struct worker *w, unsigned sides)
{
	uint64_t z = w->random += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (unsigned)((z ^ z >> 31) % sides);
}

/* Mostly small, some with pages of their own. */
static size_t
some_size(struct worker *w)
{
	const unsigned kind = roll(w, 32);

	if (kind == 0)
		return roll(w, LARGE_BYTES);
	return kind < 4 ? roll(w, 6000) : roll(w, 300);
}

/* --------------------------------------------------------------- parcels */

static void
verify(const struct parcel *p)
{
	MUST(filled(p->ptr, p->filled, p->seed));
	MUST(all_zero(p->ptr + p->filled, p->size - p->filled));
}

static void
rewrite(struct worker *w, struct parcel *p)
{
	p->seed = roll(w, 1u << 16);
	p->filled = p->size;
	fill(p->ptr, p->size, p->seed);
}

static void
allocate(struct worker *w, struct parcel *p)
{
	const unsigned kind = roll(w, 8);

	*p = (struct parcel){.size = some_size(w)};
	if (kind == 0)
		p->ptr = secaligned_alloc((size_t)16 << roll(w, 9), p->size);
	else
		p->ptr = kind == 1 ? seccalloc(p->size, 1) : secmalloc(p->size);
	MUST(p->ptr != NULL);
}

static void
resize(struct worker *w, struct parcel *p)
{
	const size_t size = some_size(w) + 1;
	unsigned char *ptr = secrealloc(p->ptr, size);

	MUST(ptr != NULL);
	p->ptr = ptr;
	p->size = size;
	if (p->filled > size)
		p->filled = size;
}

static void
discard(struct parcel *p)
{
	secfree(p->ptr);
	p->ptr = NULL;
}

static void
open_up(struct parcel *p)
{
	MUST(secmalloc_decrypt(p->ptr) == 0);
	p->sealed = 0;
}

/* ------------------------------------------------------------- what they do */

/* The chunk may have come from another thread: it is as that one has left it. */
static void
receive(struct parcel *p)
{
	MUST(secmalloc_owns(p->ptr) == 1);
	MUST(secmalloc_usable_size(p->ptr) == p->size);
	MUST(secmalloc_is_encrypted(p->ptr) == p->sealed);
	if (!p->sealed)
		verify(p);
}

static void
do_anything(struct worker *w, struct parcel *p)
{
	if (!p->ptr) {
		allocate(w, p);
		verify(p);
		rewrite(w, p);
		return;
	}
	receive(p);
	switch (roll(w, 6)) {
	case 0:
		discard(p);
		return;
	case 1:
		resize(w, p);
		break;
	case 2:
		MUST(secmalloc_encrypt(p->ptr) == 0);
		p->sealed = 1;
		return;
	case 3:
		open_up(p);
		rewrite(w, p);
		return;
	default:
		open_up(p);
		break;
	}
	if (!p->sealed)
		verify(p);
}

/* Another thread may close or open the chunk at any time: its content is left alone. */
static void
do_untouched(struct worker *w, struct parcel *p)
{
	int sealed;

	if (!p->ptr) {
		allocate(w, p);
		return;
	}
	sealed = secmalloc_is_encrypted(p->ptr);
	MUST(sealed == 0 || sealed == 1);
	MUST(secmalloc_usable_size(p->ptr) == p->size);
	switch (roll(w, 8)) {
	case 0:
		discard(p);
		break;
	case 1:
	case 2:
		resize(w, p);
		break;
	case 3:
	case 4:
		MUST(secmalloc_encrypt(p->ptr) == 0);
		break;
	default:
		MUST(secmalloc_decrypt(p->ptr) == 0);
		break;
	}
}

static void *
work(void *arg)
{
	struct worker *w = arg;

	for (size_t i = 0; end || i < w->operations; i++) {
		struct parcel **p = &w->hands[roll(w, HANDS)];

		if (end && i % 256 == 0 && time(NULL) >= end)
			break;
		if (roll(w, 4) == 0)
			*p = atomic_exchange(&boxes[roll(w, BOXES)], *p);
		w->step(w, *p);
	}
	atomic_fetch_sub(&working, 1);
	return NULL;
}

/* Even ones close everything, odd ones open it. */
static void *
sweep(void *arg)
{
	const int opens = arg != NULL;

	while (atomic_load(&working) > 0) {
		struct secmalloc_stats s = SECMALLOC_STATS_INIT;

		MUST(secmalloc_stats(&s) == 0);
		MUST(s.tampered == 0);
		MUST((opens ? secmalloc_decrypt_all() : secmalloc_encrypt_all()) == 0);
	}
	return NULL;
}

/* ------------------------------------------------------------------ running */

static void
prepare(void (*step)(struct worker *, struct parcel *), size_t operations)
{
	const char *seconds = getenv("SECMALLOC_SECONDS");

	memset(parcels, 0, sizeof(parcels));
	for (unsigned i = 0; i < BOXES; i++)
		atomic_store(&boxes[i], &parcels[WORKERS * HANDS + i]);
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){.random = i, .step = step, .operations = operations};
		for (unsigned k = 0; k < HANDS; k++)
			workers[i].hands[k] = &parcels[i * HANDS + k];
	}
	end = seconds ? time(NULL) + atoi(seconds) : 0;
	atomic_store(&working, WORKERS);
}

static void
work_together(unsigned sweepers)
{
	pthread_t sweeping[SWEEPERS];

	for (unsigned i = 0; i < WORKERS; i++)
		MUST(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
	for (uintptr_t i = 0; i < sweepers; i++)
		MUST(pthread_create(&sweeping[i], NULL, sweep, (void *)i) == 0);
	for (unsigned i = 0; i < WORKERS; i++)
		MUST(pthread_join(workers[i].thread, NULL) == 0);
	for (unsigned i = 0; i < sweepers; i++)
		MUST(pthread_join(sweeping[i], NULL) == 0);
}

static uint64_t
locked_after_init(unsigned flags, size_t pool_size)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = flags;
	c.pool_size = pool_size;
	ck_assert_msg(secmalloc_init(&c) == 0, "%s", secmalloc_error());
	return stats_now().locked_bytes;
}

/* Every chunk is as it should be and can be freed, and nothing of them is left. */
static void
tidy_up(uint64_t locked)
{
	struct secmalloc_stats s;

	for (unsigned i = 0; i < PARCELS; i++) {
		if (!parcels[i].ptr)
			continue;
		open_up(&parcels[i]);
		receive(&parcels[i]);
		discard(&parcels[i]);
	}
	s = stats_now();
	ck_assert_uint_eq(s.chunks, 0);
	ck_assert_uint_eq(s.chunks_encrypted, 0);
	ck_assert_uint_eq(s.bytes, 0);
	ck_assert_uint_eq(s.bytes_clear, 0);
	ck_assert_uint_eq(s.tampered, 0);
	ck_assert_uint_eq(s.locked_bytes, locked);
	ck_assert_int_eq(secmalloc_term(), 0);
	ck_assert_uint_eq(stats_now().live_at_term, 0);
}

static void
hand_over(unsigned flags, size_t pool_size)
{
	const uint64_t locked = locked_after_init(flags, pool_size);

	prepare(do_anything, OPERATIONS);
	work_together(0);
	tidy_up(locked);
}

/* Half of the chunks are there before; what they hold has to outlive it all. */
static void
hand_over_under_sweepers(unsigned flags, size_t pool_size)
{
	const uint64_t locked = locked_after_init(flags, pool_size);

	prepare(do_untouched, ROUNDS);
	for (unsigned i = 0; i < PARCELS; i += 2) {
		allocate(&workers[0], &parcels[i]);
		rewrite(&workers[0], &parcels[i]);
	}
	work_together(SWEEPERS);
	tidy_up(locked);
}

START_TEST(chunks_go_from_thread_to_thread)
{
	hand_over(0, 0);
}
END_TEST

START_TEST(isolated_chunks_go_from_thread_to_thread)
{
	hand_over(SECMALLOC_ISOLATE, 0);
}
END_TEST

START_TEST(elastic_chunks_go_from_thread_to_thread)
{
	hand_over(0, 16 * KIB);
}
END_TEST

START_TEST(isolated_elastic_chunks_go_from_thread_to_thread)
{
	hand_over(SECMALLOC_ISOLATE, 16 * KIB);
}
END_TEST

START_TEST(chunks_outlive_threads_that_close_and_open_all)
{
	hand_over_under_sweepers(0, 0);
}
END_TEST

START_TEST(isolated_chunks_outlive_threads_that_close_and_open_all)
{
	hand_over_under_sweepers(SECMALLOC_ISOLATE, 0);
}
END_TEST

START_TEST(elastic_chunks_outlive_threads_that_close_and_open_all)
{
	hand_over_under_sweepers(0, 16 * KIB);
}
END_TEST

/* The caller cannot know the address, and so not keep others from closing it. */
static void *
copy_strings(void *arg)
{
	static char text[STRING_BYTES]; /* long, as is the time in which it may go wrong */
	char *copy;

	(void)arg;
	memset(text, 's', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (unsigned i = 0; end ? time(NULL) < end : i < STRINGS; i++) {
		copy = secstrdup(text);
		MUST(copy != NULL);
		MUST(secmalloc_decrypt(copy) == 0);
		secfree(copy);
	}
	atomic_fetch_sub(&working, 1);
	return NULL;
}

START_TEST(strings_are_copied_whole_while_another_thread_closes_all)
{
	const uint64_t locked = locked_after_init(0, 0);
	pthread_t copying, closing;

	prepare(NULL, 0);
	atomic_store(&working, 1);
	MUST(pthread_create(&copying, NULL, copy_strings, NULL) == 0);
	MUST(pthread_create(&closing, NULL, sweep, NULL) == 0);
	MUST(pthread_join(copying, NULL) == 0);
	MUST(pthread_join(closing, NULL) == 0);
	tidy_up(locked);
}
END_TEST

static void
add_threads(Suite *s, const char *name, const TTest *test)
{
	TCase *tc = add_case(s, name, 0);
	const char *seconds = getenv("SECMALLOC_SECONDS");

	tcase_set_timeout(tc, 120 + (seconds ? atoi(seconds) : 0));
	tcase_add_test(tc, test);
}

int
main(void)
{
	Suite *s = suite_create("contract: threads");

	add_threads(s, "packed", chunks_go_from_thread_to_thread);
	add_threads(s, "isolated", isolated_chunks_go_from_thread_to_thread);
	add_threads(s, "elastic", elastic_chunks_go_from_thread_to_thread);
	add_threads(s, "isolated, elastic", isolated_elastic_chunks_go_from_thread_to_thread);
	add_threads(s, "all", chunks_outlive_threads_that_close_and_open_all);
	add_threads(s, "all isolated", isolated_chunks_outlive_threads_that_close_and_open_all);
	add_threads(s, "all elastic", elastic_chunks_outlive_threads_that_close_and_open_all);
	add_threads(s, "strings", strings_are_copied_whole_while_another_thread_closes_all);
	return run(s);
}
