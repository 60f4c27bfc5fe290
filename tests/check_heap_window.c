/*
 * check_heap_window.c - the heap room from inside: which elastic pages are locked when calls fail
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include "smaps.h"

#include <stdarg.h>
#include <sys/syscall.h>

/* Linked with --wrap=syscall and --wrap=sm_os_map_limit. */
long __real_syscall(long, ...);
long __wrap_syscall(long, ...);
size_t __real_sm_os_map_limit(void);
size_t __wrap_sm_os_map_limit(void);

static int lock_refused, unlock_refused; /* so many more calls fail */
static unsigned locks, unlocks;		 /* calls that went through */
static size_t map_limit;		 /* 0: the truth */

long
__wrap_syscall(long nr, ...)
{
	va_list ap;
	long a, b, c;

	va_start(ap, nr);
	a = va_arg(ap, long);
	b = va_arg(ap, long);
	c = va_arg(ap, long);
	va_end(ap);
	errno = EAGAIN;
	if (nr == SYS_mlock && lock_refused && lock_refused--)
		return -1;
	if (nr == SYS_munlock && unlock_refused && unlock_refused--)
		return -1;
	locks += nr == SYS_mlock;
	unlocks += nr == SYS_munlock;
	return __real_syscall(nr, a, b, c);
}

size_t
__wrap_sm_os_map_limit(void)
{
	return map_limit ? map_limit : __real_sm_os_map_limit();
}

enum { FILL = 2000 };

/** elastic_chunk - one of this size that lies on elastic pages; what fits elsewhere stays */
static unsigned char *
elastic_chunk(size_t size)
{
	for (size_t i = 0; i < FILL; i++) {
		unsigned char *p = secmalloc(size);

		MUST(p != NULL);
		if (record_of(p)->elastic)
			return p;
	}
	MUST(!"no elastic pool");
	return NULL;
}

static bool
page_locked(const void *p)
{
	struct smaps m;

	MUST(smaps_at(p, &m));
	return smaps_flag(&m, "lo");
}

/** pins - how many chunks the page at p is locked for */
static unsigned
pins(const void *p)
{
	const struct sm_region *r = sm_region_of(p);

	return r->pins[(size_t)((const unsigned char *)p - r->base) / PAGE];
}

/** straddler - an elastic chunk of this size with its pages: the last differs from the first */
static unsigned char *
straddler(size_t size)
{
	for (int i = 0; i < 1000; i++) {
		unsigned char *p = elastic_chunk(size);

		if ((uintptr_t)p / PAGE != ((uintptr_t)p + size - 1) / PAGE)
			return p;
	}
	MUST(!"none straddles");
	return NULL;
}

START_TEST(a_straddling_chunk_pins_each_of_its_pages_once)
{
	unsigned char *p;

	start(64, 1, 0);
	p = straddler(1500);
	ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	ck_assert_uint_eq(pins(p), 0);
	ck_assert_uint_eq(pins(p + 1499), 0);
	ck_assert(!page_locked(p) && !page_locked(p + 1499));
	ck_assert_int_eq(secmalloc_decrypt(p), 0);
	ck_assert_int_eq(secmalloc_decrypt(p), 0); /* open already: no second pin */
	ck_assert_uint_eq(pins(p), 1);
	ck_assert_uint_eq(pins(p + 1499), 1);
	ck_assert(page_locked(p) && page_locked(p + 1499));
	secfree(p);
	ck_assert_uint_eq(pins(p), 0);
	ck_assert(!page_locked(p) && !page_locked(p + 1499));
}
END_TEST

START_TEST(a_straddling_chunk_locks_all_its_pages_or_none)
{
	unsigned char *p, *q = NULL;
	size_t locked;

	start(64, 1, 0);
	p = straddler(1500);
	fill(p, 1500, 1);
	for (int i = 0; i < FILL && !q; i++) { /* shares the second page of p, not the first */
		unsigned char *c = elastic_chunk(1500);

		if ((uintptr_t)c / PAGE == ((uintptr_t)p + 1499) / PAGE)
			q = c;
	}
	ck_assert_ptr_nonnull(q);
	ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	ck_assert_int_eq(secmalloc_decrypt(q), 0);
	locked = stats_now().locked_bytes;
	lock_refused = 1;
	FAILS_WITH(ENOMEM, -1, secmalloc_decrypt(p));
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "mlock of"));
	ck_assert_uint_eq(stats_now().locked_bytes, locked);
	ck_assert(!page_locked(p) && page_locked(p + 1499));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
	ck_assert_int_eq(secmalloc_decrypt(p), 0);
	ck_assert(page_locked(p) && filled(p, 1500, 1));
}
END_TEST

START_TEST(a_refused_munlock_leaves_the_page_locked_and_counted_until_it_works)
{
	unsigned char *p, *other;
	size_t base, page = PAGE;

	start(4, 1, 0);
	p = elastic_chunk(3000);
	other = elastic_chunk(20000);
	ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	base = stats_now().locked_bytes;
	ck_assert_int_eq(secmalloc_decrypt(p), 0);
	unlock_refused = 1;
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	ck_assert_uint_gt(stats_now().locked_bytes, base);
	ck_assert_uint_eq(stats_now().locked_bytes % page, 0);
	ck_assert(page_locked(p));
	locks = 0;
	ck_assert_int_eq(secmalloc_decrypt(p), 0); /* locked already: nothing to ask for */
	ck_assert_uint_eq(locks, 0);
	unlock_refused = 1;
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	ck_assert(page_locked(p));
	ck_assert_int_eq(secmalloc_decrypt(other), 0);
	ck_assert_int_eq(secmalloc_encrypt(other), 0); /* tried again here */
	ck_assert(!page_locked(p));
	ck_assert_uint_eq(stats_now().locked_bytes, base);
}
END_TEST

START_TEST(pages_that_stayed_locked_are_unlocked_when_others_cannot_be_locked)
{
	unsigned char *p, *other;

	start(4, 1, 0);
	p = elastic_chunk(3000);
	other = elastic_chunk(20000);
	ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	ck_assert_int_eq(secmalloc_decrypt(p), 0);
	unlock_refused = 1;
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	ck_assert(page_locked(p));
	lock_refused = 1;
	ck_assert_int_eq(secmalloc_decrypt(other), 0);
	ck_assert(!page_locked(p) && page_locked(other));
}
END_TEST

START_TEST(a_munlock_refused_once_costs_no_guard)
{
	size_t base;
	void *p;

	start(4, 1, 0);
	base = stats_now().locked_bytes;
	p = secmalloc(200000);
	ck_assert(record_of(p)->elastic);
	unlock_refused = 1;
	secfree(p);
	ck_assert_uint_eq(stats_now().locked_bytes, base);
	ck_assert(stats_now().granted & SECMALLOC_GUARDED);
	ck_assert(!readable(p));
}
END_TEST

START_TEST(a_pool_that_goes_takes_its_locked_pages_from_the_count)
{
	size_t base;
	void *p;

	start(4, 1, 0);
	base = stats_now().locked_bytes;
	p = secmalloc(200000);
	ck_assert(record_of(p)->elastic);
	unlock_refused = 2; /* the second try is made before guards are laid */
	secfree(p);
	ck_assert_uint_gt(stats_now().locked_bytes, base);
	ck_assert(!(stats_now().granted & SECMALLOC_GUARDED));
	trim();
	ck_assert_uint_eq(stats_now().pools, 1);
	ck_assert_uint_eq(stats_now().locked_bytes, base);
}
END_TEST

START_TEST(ranges_of_locked_pages_stay_under_a_quarter_of_max_map_count)
{
	enum { RANGES = 32 };
	unsigned char *p[RANGES + 1];
	size_t n = 0;

	map_limit = RANGES * 8;
	start(256, 1, 0);
	while (n <= RANGES && (p[n] = secmalloc(20000)) != NULL)
		n += record_of(p[n])->elastic;
	ck_assert_uint_eq(n, RANGES);
	ck_assert_int_eq(errno, ENOMEM);
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "vm.max_map_count"));
	ck_assert_int_eq(secmalloc_encrypt(p[5]), 0);
	p[n] = secmalloc(20000);
	ck_assert_ptr_nonnull(p[n]);
	FAILS_WITH(ENOMEM, -1, secmalloc_decrypt(p[5]));
	secfree(p[7]);
	ck_assert_int_eq(secmalloc_decrypt(p[5]), 0);
}
END_TEST

/* To unlock a page between two locked ones would make one range two. */
START_TEST(no_munlock_splits_a_range_beyond_the_limit)
{
	static unsigned char *p[FILL];
	unsigned char *middle = NULL;
	size_t n = 0;

	map_limit = 64; /* eight ranges, two pools */
	start(64, 1, 0);
	while (n < FILL && (p[n] = secmalloc(1000)) != NULL)
		n++;
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "vm.max_map_count"));
	for (size_t i = 0; i < n; i++)
		if (record_of(p[i])->elastic && pins(p[i] - PAGE) && pins(p[i] + PAGE))
			middle = p[i];
	ck_assert_ptr_nonnull(middle);
	for (size_t i = 0; i < n; i++)
		if ((uintptr_t)p[i] / PAGE == (uintptr_t)middle / PAGE ||
			((uintptr_t)p[i] + 999) / PAGE == (uintptr_t)middle / PAGE)
			ck_assert_int_eq(secmalloc_encrypt(p[i]), 0);
	ck_assert(page_locked(middle));
	ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	ck_assert(!page_locked(middle));
}
END_TEST

START_TEST(isolated_guards_in_elastic_pools_cost_no_mapping)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	enum { N = 3000 };
	static void *p[N];

	c.pool_size = 1024 * PAGE;
	c.flags = SECMALLOC_ISOLATE;
	map_limit = 400;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	for (size_t i = 0; i < N; i++) {
		p[i] = secmalloc(32);
		ck_assert_msg(p[i] != NULL, "%zu: %s", i, secmalloc_error());
		ck_assert_int_eq(secmalloc_encrypt(p[i]), 0);
	}
	for (size_t i = 0; i < N; i++)
		EACH(readable(p[i]) && !readable((unsigned char *)p[i] + 32));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("heap_window");
	TCase *tc = add_case(s, "windows", 0);

	tcase_add_test(tc, a_straddling_chunk_pins_each_of_its_pages_once);
	tcase_add_test(tc, a_straddling_chunk_locks_all_its_pages_or_none);
	tcase_add_test(tc, a_refused_munlock_leaves_the_page_locked_and_counted_until_it_works);
	tcase_add_test(tc, pages_that_stayed_locked_are_unlocked_when_others_cannot_be_locked);
	tcase_add_test(tc, a_munlock_refused_once_costs_no_guard);
	tcase_add_test(tc, a_pool_that_goes_takes_its_locked_pages_from_the_count);
	tcase_add_test(tc, ranges_of_locked_pages_stay_under_a_quarter_of_max_map_count);
	tcase_add_test(tc, no_munlock_splits_a_range_beyond_the_limit);
	tcase_add_test(tc, isolated_guards_in_elastic_pools_cost_no_mapping);
	return run_rooms(s);
}
