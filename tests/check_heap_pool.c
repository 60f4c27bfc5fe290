/*
 * check_heap_pool.c - the heap room from inside: pages, pools and regions come and go
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include <sys/mman.h>
#include <sys/syscall.h>

static int refused_prot = -1; /* what the kernel refuses to set, from now on */

/** mprotect - the library's, instead of the one of the C library */
int
mprotect(void *p, size_t n, int prot)
{
	if (prot != refused_prot)
		return (int)syscall(SYS_mprotect, p, n, prot);
	errno = ENOMEM;
	return -1;
}

/** limit_lock - in a child: lock no more than this, and without the privilege to lock more */
static void
limit_lock(size_t bytes)
{
	struct rlimit r;

	if (geteuid() == 0) {
		drop_to(bytes);
		return;
	}
	MUST(getrlimit(RLIMIT_MEMLOCK, &r) == 0);
	r.rlim_cur = r.rlim_max < bytes ? r.rlim_max : bytes;
	MUST(setrlimit(RLIMIT_MEMLOCK, &r) == 0);
}

/** mlock_counts - false, and said so: here nothing is locked, as under a sanitizer */
static bool
mlock_counts(size_t limit)
{
	void *p = mmap(NULL, limit + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool counts;

	MUST(p != MAP_FAILED);
	counts = mlock(p, limit + PAGE) != 0;
	MUST(munmap(p, limit + PAGE) == 0);
	if (!counts) {
		printf("skipped: mlock does nothing here\n");
		fflush(stdout);
	}
	return counts;
}

static size_t
free_pages(void)
{
	size_t n = 0;

	for (unsigned i = 0; i < sm_region_count; i++)
		for (size_t k = 0; k < sm_regions[i].npools; k++)
			if (sm_regions[i].pools[k].area.base)
				n += sm_regions[i].pools[k].free_pages;
	return n;
}

/** free_pages_counted - the same, counted from the words: pages neither in a run nor its guard */
static size_t
free_pages_counted(void)
{
	size_t n = 0;

	for (unsigned i = 0; i < sm_region_count; i++)
		for (size_t k = 0; k < sm_regions[i].npools; k++) {
			const struct sm_pool *p = &sm_regions[i].pools[k];

			for (size_t page = 0; p->area.base && page < p->pages; page++)
				n += !sm_run_at(&sm_regions[i], p->first + page).used;
		}
	return n;
}

/* ---------------------------------------------------- slabs and their pages */

START_TEST(an_empty_slab_gives_its_pages_back)
{
	size_t slots, all;
	struct spot s[3];
	void *p[64];

	start(64, 1, 1);
	all = free_pages();
	p[0] = secmalloc(1024);
	s[0] = spot_of(p[0]);
	slots = sm_class_slots(s[0].run.class, s[0].run.pages);
	ck_assert_uint_le(3 * slots, 64);
	for (size_t i = 1; i < 3 * slots; i++)
		p[i] = secmalloc(1024);
	s[1] = spot_of(p[slots]);
	s[2] = spot_of(p[2 * slots]);
	ck_assert(s[0].base != s[1].base && s[1].base != s[2].base);
	for (size_t i = 0; i < 3 * slots; i++)
		secfree(p[i * 7 % (3 * slots)]);
	ck_assert_uint_lt(free_pages(), all); /* some rest */
	ck_assert(trim());
	ck_assert(!trim());
	ck_assert_uint_eq(free_pages(), all);
	ck_assert_uint_eq(free_pages_counted(), all);
	for (size_t i = 0; i < 3; i++)
		for (size_t page = 0; page < s[i].run.pages; page++)
			ck_assert(!readable(s[i].base + page * PAGE));
}
END_TEST

START_TEST(empty_slabs_make_room_for_whoever_needs_pages)
{
	void *large;

	start(16, 1, 1);
	for (size_t n = 16; n <= 1024; n *= 2)
		secfree(secmalloc(n));
	ck_assert_uint_lt(free_pages(), 15);
	large = secmalloc(SPAN(16));
	ck_assert_msg(large != NULL, "%s", secmalloc_error());
	secfree(large);
	for (size_t n = 16; n <= 1024; n *= 2)
		secfree(secmalloc(n));
	ck_assert_ptr_nonnull(secmalloc(16384));
	ck_assert_uint_eq(stats_now().pools, 1);
}
END_TEST

START_TEST(a_slab_lies_between_pages_without_access)
{
	start(256, 1, 1);
	for (unsigned i = 0; i < SM_CLASSES; i++) {
		struct spot s = spot_of(secmalloc(sm_class_most(i)));

		ck_assert(!readable(s.base - 1));
		ck_assert(readable(s.base));
		ck_assert(readable(s.base + s.run.pages * PAGE - 1));
		ck_assert(!readable(s.base + s.run.pages * PAGE));
	}
}
END_TEST

/* ---------------------------------------------------------------- pools */

START_TEST(a_pool_is_added_when_the_others_are_full_and_goes_when_its_bytes_are_needed)
{
	struct secmalloc_stats before, after;
	void *p[3], *large, *other;

	start(8, 1, 3);
	before = stats_now();
	ck_assert_uint_eq(before.pools, 1);
	for (size_t i = 0; i < 3; i++) {
		p[i] = secmalloc(SPAN(6));
		ck_assert_uint_eq(stats_now().pools, i + 1);
	}
	FAILS_WITH(ENOMEM, NULL, secmalloc(SPAN(6)));
	for (size_t i = 0; i < 3; i++)
		secfree(p[i]);
	trim();
	ck_assert_uint_eq(stats_now().pools, 2); /* one empty one is kept */
	other = secmalloc(SPAN(12));
	MUST(other != NULL);
	large = secmalloc(SPAN(12)); /* its bytes are needed now */
	ck_assert_msg(large != NULL, "%s", secmalloc_error());
	after = stats_now();
	ck_assert_uint_eq(after.pools, 3);
	ck_assert_uint_eq(after.pool_bytes, 32 * PAGE);
	ck_assert_uint_eq(after.locked_bytes - before.locked_bytes, 24 * PAGE);
	ck_assert_int_eq(find(p[0]), SM_FOUND);
	for (size_t i = 1; i < 3; i++)
		if (p[i] != large && p[i] != other) {
			ck_assert_int_eq(find(p[i]), SM_INTERIOR);
			ck_assert(!readable(p[i]));
		}
	ck_assert(readable(large));
}
END_TEST

static void
spend_the_lockable_bytes(void *arg)
{
	void *p[64], *large;
	size_t n = 0;

	(void)arg;
	limit_lock(64 * PAGE);
	if (!mlock_counts(64 * PAGE))
		return;
	start(4, 1, 0);
	while (n < 64 && (p[n] = secmalloc(3 * PAGE)) != NULL)
		n++;
	MUST(n >= 8 && n < 64 && errno == ENOMEM);
	MUST(secmalloc(SPAN(4 * (n - 4))) == NULL);
	while (n > 0)
		secfree(p[--n]);
	large = secmalloc(SPAN(32));
	MUST(large != NULL && readable(large));
	MUST(free_pages() == free_pages_counted());
}

START_TEST(lockable_bytes_of_empty_pools_are_used_again)
{
	assert_exits_0(spend_the_lockable_bytes, NULL);
}
END_TEST

/** use_pool - fill it with chunks of each size that fit, and look after each of them */
static void
use_pool(size_t pages)
{
	static const size_t sizes[] = { 0, 1, 16, 17, 100, 500, 1000, 2000, 3000, 5000, 16384,
		16385, 40000 };
	enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
	unsigned char *p[SIZES * 3];

	for (size_t i = 0; i < SIZES * 3; i++) {
		size_t n = sizes[i % SIZES];

		p[i] = secmalloc(n);
		ck_assert_msg(p[i] != NULL, "%zu pages: %s", pages, secmalloc_error());
		EACH(all_zero(p[i], n) && sm_heap_bytes(record_of(p[i])) == p[i]);
		fill(p[i], n, (unsigned)i);
	}
	for (size_t i = 0; i < SIZES * 3; i++) {
		EACH(filled(p[i], sizes[i % SIZES], (unsigned)i));
		secfree(p[i]);
	}
}

START_TEST(a_pool_of_any_size_works)
{
	static const size_t pages[] = { 1, 2, 3, 4, 5, 7, 13, 31, 64, 257, 1000 };

	start(pages[_i], 1 + (unsigned)_i % 3, 0);
	for (int round = 0; round < 3; round++)
		use_pool(pages[_i]);
	trim();
	ck_assert_uint_eq(free_pages(), stats_now().pool_bytes / PAGE);
	ck_assert_uint_eq(free_pages_counted(), free_pages());
	ck_assert_int_eq(secmalloc_term(), 0);
	ck_assert_uint_eq(sm_region_count, 0);
}
END_TEST

START_TEST(no_more_than_max_pools_are_added)
{
	static const size_t sizes[] = { 16, 100, 1000, 8000, 16384, 3 * 4096 };
	static void *p[100000];
	size_t n = 0;

	start(8, 1, (unsigned)_i);
	while (n < 100000 && (p[n] = secmalloc(sizes[n % 6])) != NULL)
		n++;
	ck_assert_int_eq(errno, ENOMEM);
	ck_assert_uint_eq(stats_now().pools, (unsigned)_i);
	ck_assert_uint_eq(stats_now().chunks, n);
	secfree(p[n - 1]);
	p[n - 1] = secmalloc(sizes[(n - 1) % 6]);
	ck_assert_msg(p[n - 1] != NULL, "%s", secmalloc_error());
	ck_assert_uint_eq(stats_now().pools, (unsigned)_i);
}
END_TEST

static void
refuse_a_guard(void *arg)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	unsigned char *p;

	(void)arg;
	start(32, 1, 1);
	p = secmalloc(20000);
	refused_prot = PROT_NONE;
	secfree(p);
	refused_prot = -1;
	MUST(secmalloc_stats(&s) == 0 && !(s.granted & SECMALLOC_GUARDED));
	for (int i = 0; i < 3; i++) {
		p = secmalloc(20000);
		MUST(p != NULL && all_zero(p, 20000));
		fill(p, 20000, 1);
	}
}

START_TEST(a_guard_that_is_refused_shows_in_granted_and_harms_nobody)
{
	assert_exits_0(refuse_a_guard, NULL);
}
END_TEST

START_TEST(pages_that_cannot_be_opened_are_enomem)
{
	size_t all;

	start(32, 1, 1);
	all = free_pages();
	refused_prot = PROT_READ | PROT_WRITE;
	FAILS_WITH(ENOMEM, NULL, secmalloc(100));
	FAILS_WITH(ENOMEM, NULL, secmalloc(20000));
	refused_prot = -1;
	ck_assert_uint_eq(free_pages(), all);
	ck_assert_uint_eq(free_pages_counted(), all);
	ck_assert_uint_eq(stats_now().chunks, 0);
	ck_assert_ptr_nonnull(secmalloc(100));
	ck_assert_ptr_nonnull(secmalloc(20000));
}
END_TEST

START_TEST(a_release_that_cannot_close_leaves_the_chunk_held)
{
	unsigned char *p;

	start(32, 1, 1);
	p = secmalloc(20000);
	fill(p, 20000, 1);
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	ck_assert_int_eq(secmalloc_hold(p), 0);
	ck_assert_int_eq(secmalloc_protect(p, SECMALLOC_READONLY), 0);
	refused_prot = PROT_READ | PROT_WRITE;
	FAILS_WITH(ENOMEM, -1, secmalloc_release(p));
	refused_prot = -1;
	FAILS_WITH(EBUSY, -1, secmalloc_encrypt(p));
	ck_assert_int_eq(secmalloc_release(p), 0);
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
}
END_TEST

/* --------------------------------------------------------- large chunks */

START_TEST(a_large_chunk_ends_at_a_page_without_access)
{
	start(0, 1, 0);
	for (size_t n = SM_PACKED_MOST_BYTES + 1; n < SM_PACKED_MOST_BYTES + 9000; n += 37) {
		unsigned char *p = secmalloc(n);
		struct spot s = spot_of(p);
		unsigned char *end = s.base + s.run.pages * PAGE;

		EACH(s.run.kind == SM_KIND_LARGE && record_of(p)->own_pages);
		EACH(p + n <= end && p + n + SM_ALIGN_BYTES > end);
		EACH(readable(end - 1) && !readable(end) && !readable(end + PAGE - 1));
		EACH(p - s.base >= SM_CANARY_BYTES && p < s.base + PAGE + SM_CANARY_BYTES);
		EACH(readable(s.base) && !readable(s.base - 1) && !readable(s.base - PAGE));
		if (n % 2)
			secfree(p);
		EACH(readable(p) == (n % 2 == 0));
	}
}
END_TEST

/* --------------------------------------------------- what lies beside what */

struct mapping {
	uintptr_t from, to;
};

/** open_mappings - those of this process that can be read or written, within a reservation */
static size_t
open_mappings(const struct sm_region *r, struct mapping *m, size_t most)
{
	uintptr_t from = (uintptr_t)r->reserved, to = from + r->reserved_bytes;
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned long a, b;
	char access[8], line[512];
	size_t n = 0;

	MUST(f != NULL);
	while (fgets(line, sizeof(line), f)) {
		MUST(sscanf(line, "%lx-%lx %7s", &a, &b, access) == 3);
		if (a >= to || b <= from || strncmp(access, "---", 3) == 0)
			continue;
		MUST(n < most);
		m[n++] = (struct mapping){ a, b };
	}
	fclose(f);
	return n;
}

/** part_at - which array of a region this address belongs to: 1 to 7; 0: none */
static int
part_at(const struct sm_region *r, uintptr_t at)
{
	const struct mapping parts[] = {
		{ (uintptr_t)r->base, r->pages * PAGE },
		{ (uintptr_t)r->words, r->pages * sizeof(*r->words) },
		{ (uintptr_t)r->pins, r->pages * sizeof(*r->pins) },
		{ (uintptr_t)r->slabs, r->pages * sizeof(*r->slabs) },
		{ (uintptr_t)r->records, r->pages * sm_records_per_page() * sizeof(*r->records) },
		{ (uintptr_t)r->pools, (r->pages / 2 + 1) * sizeof(*r->pools) },
		{ (uintptr_t)r->rests, r->pages * sm_records_per_page() * sizeof(*r->rests) },
	};

	for (int i = 0; i < 7; i++)
		if (at - parts[i].from < sm_round_up(parts[i].to, PAGE))
			return i + 1;
	return 0;
}

/** look_around - each open mapping is of one part, and the next to touch it of the same */
static void
look_around(const struct sm_region *r)
{
	struct mapping m[256];
	unsigned seen = 0;
	size_t n = open_mappings(r, m, 256);

	for (size_t i = 0; i < n; i++) {
		int part = part_at(r, m[i].from);

		MUST(part != 0 && part == part_at(r, m[i].to - 1));
		MUST(i == 0 || m[i - 1].to != m[i].from || part_at(r, m[i - 1].from) == part);
		seen |= 1u << part;
	}
	MUST(seen == (1u << (sm_config()->tag_rest ? 8 : 7)) - 2);
	MUST(!readable(r->reserved) && !readable((char *)r->reserved + r->reserved_bytes - 1));
}

static void
grow_past_the_first_region(void *arg)
{
	unsigned char *p[400];
	size_t n = 0;

	(void)arg;
	limit_lock(512 * PAGE);
	if (!mlock_counts(512 * PAGE))
		return;
	start(4, 2, 0);
	for (; n < 400 && (p[n] = secmalloc(n % 2 ? 3 * PAGE : SPAN(7))) != NULL; n++)
		fill(p[n], 3 * PAGE, (unsigned)n);
	MUST(n > 20 && errno == ENOMEM && sm_region_count > 3);
	for (unsigned i = 0; i < sm_region_count; i++)
		look_around(&sm_regions[i]);
	for (size_t i = 0; i < n; i++) {
		struct sm_chunk *c = record_of(p[i]);

		MUST(sm_heap_bytes(c) == p[i] && filled(p[i], 3 * PAGE, (unsigned)i));
		MUST(region_of_record(c) == sm_region_of(p[i]));
		for (size_t off = 1; off < 3 * PAGE; off += 16)
			MUST(find(p[i] + off) == SM_INTERIOR);
		secfree(p[i]);
	}
	MUST(free_pages() == free_pages_counted());
	MUST(secmalloc_term() == 0 && sm_region_count == 0);
	start(4, 2, 0);
	MUST(secmalloc(100) != NULL);
}

START_TEST(regions_are_added_and_no_part_of_one_touches_another)
{
	assert_exits_0(grow_past_the_first_region, NULL);
}
END_TEST

START_TEST(an_open_page_lies_between_no_two_pools)
{
	start(4, 5, 5);
	for (size_t i = 0; i < 5; i++) {
		const struct sm_pool *p = &sm_regions[0].pools[i];
		struct spot s = spot_of(secmalloc(3 * PAGE));

		ck_assert_uint_eq(s.run.pages, 4);
		ck_assert_uint_eq(p->pages, 4);
		ck_assert(i == 0 || p->first > p[-1].first + p[-1].pages);
		ck_assert(!readable(s.base - 1) && !readable(s.base + 4 * PAGE));
		ck_assert(!readable(p->area.base - 1) && !readable(p->area.base + p->area.bytes));
	}
	ck_assert_uint_eq(stats_now().pools, 5);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("heap_pool");
	TCase *tc = add_case(s, "slabs", 0);

	tcase_add_test(tc, an_empty_slab_gives_its_pages_back);
	tcase_add_test(tc, empty_slabs_make_room_for_whoever_needs_pages);
	tcase_add_test(tc, a_slab_lies_between_pages_without_access);
	tc = add_case(s, "pools", 0);
	tcase_add_test(tc,
		a_pool_is_added_when_the_others_are_full_and_goes_when_its_bytes_are_needed);
	tcase_add_test(tc, lockable_bytes_of_empty_pools_are_used_again);
	tcase_add_loop_test(tc, a_pool_of_any_size_works, 0, 11);
	tcase_add_loop_test(tc, no_more_than_max_pools_are_added, 1, 4);
	tcase_add_test(tc, an_open_page_lies_between_no_two_pools);
	tc = add_case(s, "refusals", 0);
	tcase_add_test(tc, a_guard_that_is_refused_shows_in_granted_and_harms_nobody);
	tcase_add_test(tc, pages_that_cannot_be_opened_are_enomem);
	tcase_add_test(tc, a_release_that_cannot_close_leaves_the_chunk_held);
	tc = add_case(s, "large chunks", 0);
	tcase_add_test(tc, a_large_chunk_ends_at_a_page_without_access);
	tc = add_case(s, "regions", 0);
	tcase_add_test(tc, regions_are_added_and_no_part_of_one_touches_another);
	return run_rooms(s);
}
