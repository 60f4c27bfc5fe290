/*
 * check_seal_late.c - a chunk that is made while all is locked, and given up while that ends, is freed
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Linked with --wrap of sm_heap_alloc and sm_heap_doom: between these, another thread locks, and
 * unlocks.
 */
#include "rooms.h"
#include "heap/heap.h"
#include <pthread.h>

enum { MATERIAL_BYTES = 32, BYTES = 3000 };

static unsigned char material[MATERIAL_BYTES] = { 7 };
static bool locks, unlocks; /* when the next one is made; given up */
static struct sm_chunk *given_up;

struct sm_made __real_sm_heap_alloc(size_t size, size_t align, bool own_pages);
void __real_sm_heap_doom(struct sm_chunk *c);
struct sm_made __wrap_sm_heap_alloc(size_t size, size_t align, bool own_pages);
void __wrap_sm_heap_doom(struct sm_chunk *c);

static void *
lock(void *unused)
{
	MUST(secmalloc_lock(material, sizeof(material)) == 0);
	return unused;
}

static void *
unlock(void *unused)
{
	MUST(secmalloc_unlock(material, sizeof(material)) == 0);
	return unused;
}

static void
elsewhere(void *(*what)(void *))
{
	pthread_t t;

	MUST(pthread_create(&t, NULL, what, NULL) == 0 && pthread_join(t, NULL) == 0);
}

struct sm_made
__wrap_sm_heap_alloc(size_t size, size_t align, bool own_pages)
{
	struct sm_made m = __real_sm_heap_alloc(size, align, own_pages);

	if (locks) {
		locks = false;
		elsewhere(lock);
	}
	return m;
}

void
__wrap_sm_heap_doom(struct sm_chunk *c)
{
	if (unlocks) {
		unlocks = false;
		elsewhere(unlock);
	}
	given_up = c;
	__real_sm_heap_doom(c);
}

static void
late(void *unused)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats before;

	(void)unused;
	c.flags = SECMALLOC_TRANSPARENT;
	MUST(secmalloc_init(&c) == 0);
	secfree(secmalloc(BYTES));
	before = stats_now();
	locks = unlocks = true;
	MUST_FAIL(EACCES, NULL, secmalloc(BYTES));
	MUST(!locks && !unlocks && given_up != NULL);
	MUST(stats_now().chunks == before.chunks && stats_now().bytes == before.bytes);
	MUST(sm_heap_doomed() == NULL);
	MUST(secmalloc_term() == 0);
}

START_TEST(what_is_given_up_while_all_is_unlocked_is_buried_too)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = SECMALLOC_TRANSPARENT;
	if (SANITIZED || secmalloc_init(&c))
		printf("skipped: no transparent mode here\n");
	else if (secmalloc_term() == 0)
		assert_exits_0(late, NULL);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("seal: late");
	TCase *tc = add_case(s, "late", 0);

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, what_is_given_up_while_all_is_unlocked_is_buried_too);
	return run(s);
}
