/*
 * check_heap.c - the heap room from inside: classes, find, slabs, pools, regions, the walk
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include <pthread.h>

/* --------------------------------------------------------------- classes */

START_TEST(each_class_holds_more_than_the_one_before)
{
	start(0, 1, 0);
	ck_assert_uint_eq(sm_classes[0].stride, SM_STRIDE_LEAST_BYTES);
	ck_assert_uint_eq(sm_class_most(SM_CLASSES - 1), SM_PACKED_MOST_BYTES);
	for (unsigned i = 0; i < SM_CLASSES; i++) {
		EACH(i == 0 || sm_class_most(i) > sm_class_most(i - 1));
		EACH(sm_classes[i].stride % SM_ALIGN_BYTES == 0);
	}
}
END_TEST

START_TEST(class_of_is_the_smallest_class_that_holds_a_size)
{
	start(0, 1, 0);
	for (size_t size = 0; size <= SM_PACKED_MOST_BYTES; size++) {
		unsigned class = sm_class_of(size);

		EACH(class < SM_CLASSES && sm_class_most(class) >= size);
		EACH(class == 0 || sm_class_most(class - 1) < size);
	}
}
END_TEST

START_TEST(a_slot_wastes_at_most_a_quarter)
{
	start(0, 1, 0);
	for (size_t size = 1; size <= SM_PACKED_MOST_BYTES; size++) {
		size_t most = sm_class_most(sm_class_of(size)), waste = most - size;

		EACH(size < 49 ? waste <= 15 : waste * 4 <= most);
	}
}
END_TEST

START_TEST(a_slab_wastes_at_most_an_eighth_and_has_a_record_for_every_slot)
{
	start(0, 1, 0);
	for (unsigned i = 0; i < SM_CLASSES; i++) {
		const struct sm_class *k = &sm_classes[i];

		for (size_t pages = k->least; pages <= k->pages; pages++) {
			size_t slots = sm_class_slots(i, pages);

			EACH(slots > 0 && slots <= SM_SLOTS_MOST);
			EACH(slots <= pages * sm_records_per_page());
			EACH(SM_CANARY_BYTES + slots * k->stride <= pages * PAGE);
		}
		EACH(k->least == 1 || sm_class_slots(i, k->least - 1) == 0);
		EACH(k->pages * PAGE - sm_class_slots(i, k->pages) * k->stride <=
			k->pages * PAGE / 8 + SM_CANARY_BYTES ||
			sm_class_slots(i, k->pages) == SM_SLOTS_MOST);
	}
}
END_TEST

START_TEST(the_magic_of_each_class_divides_exactly)
{
	start(0, 1, 0);
	for (unsigned i = 0; i < SM_CLASSES; i++)
		for (uint64_t off = 0; off <= sm_classes[i].pages * PAGE; off++)
			EACH(off * sm_classes[i].magic >> SM_MAGIC_SHIFT ==
				off / sm_classes[i].stride);
}
END_TEST

/* ------------------------------------------------------------------ find */

START_TEST(of_a_slab_only_the_starts_of_slots_are_found)
{
	uint32_t slots, stride, seen = 0;
	size_t most;
	struct spot s;

	start(1024, 1, 0);
	most = sm_class_most((unsigned)_i);
	s = spot_of(secmalloc(most));
	ck_assert(s.run.used && s.run.kind == SM_KIND_SLAB && s.run.class == (unsigned)_i);
	slots = sm_class_slots(s.run.class, s.run.pages);
	stride = sm_classes[s.run.class].stride;
	for (uint32_t i = 1; i < slots; i++)
		EACH(spot_of(secmalloc(most)).base == s.base);
	for (size_t off = 0; off < (s.run.pages + 1) * PAGE; off++) {
		size_t in = off - SM_ALIGN_BYTES;
		bool starts = off >= SM_ALIGN_BYTES && in % stride == 0 && in / stride < slots;
		struct sm_chunk *c = NULL;

		EACH(sm_heap_find(s.base + off, &c) == (starts ? SM_FOUND : SM_INTERIOR));
		EACH(!starts || c == &s.r->records[s.first * sm_records_per_page() + seen]);
		seen += starts;
	}
	ck_assert_uint_eq(seen, slots);
}
END_TEST

START_TEST(of_a_large_chunk_only_the_start_is_found)
{
	static const size_t sizes[] = { 16385, 16400, 20000, 20479, 20480, 20481, 131072 };

	start(0, 1, 0);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned char *p = secmalloc(sizes[i]);
		struct spot s = spot_of(p);

		ck_assert(s.run.used && s.run.kind == SM_KIND_LARGE);
		for (size_t off = 0; off < (s.run.pages + 1) * PAGE; off++)
			EACH(find(s.base + off) == (s.base + off == p ? SM_FOUND : SM_INTERIOR));
	}
}
END_TEST

START_TEST(of_an_aligned_chunk_only_its_start_is_found)
{
	start(0, 1, 0);
	for (size_t align = 16; align <= PAGE; align *= 2)
		for (size_t size = 1; size < 30000; size = size * 3 + 1) {
			unsigned char *p = secaligned_alloc(align, size);
			struct spot s = spot_of(p);
			size_t stride = s.run.kind == SM_KIND_SLAB ?
				sm_classes[s.run.class].stride : s.run.pages * PAGE;
			unsigned char *slot = p - (s.run.kind == SM_KIND_SLAB ? record_of(p)->offset : p - s.base);

			EACH((uintptr_t)p % align == 0 && sm_heap_bytes(record_of(p)) == p);
			EACH(slot >= s.base && p + size <= slot + stride);
			for (size_t off = 0; off < stride; off++)
				EACH(slot + off == p || find(slot + off) == SM_INTERIOR);
		}
}
END_TEST

START_TEST(what_no_run_uses_is_interior_and_what_lies_around_is_foreign)
{
	static unsigned char ours[64];
	unsigned char *reserved, *end;
	struct sm_region *r;
	struct spot s;

	start(64, 2, 0);
	s = spot_of(secmalloc(SPAN(5)));
	r = s.r;
	reserved = r->reserved;
	end = reserved + r->reserved_bytes;
	for (size_t page = 0; page < r->pages_used + 100 && page < r->pages; page++)
		for (size_t off = 0; off < PAGE; off++)
			EACH(page - s.first < s.run.pages ||
				find(r->base + page * PAGE + off) == SM_INTERIOR);
	ck_assert_int_eq(find(r->base + r->pages * PAGE - 1), SM_INTERIOR);
	ck_assert_int_eq(find(r->base + r->pages * PAGE), SM_FOREIGN);
	for (size_t off = 0; off < PAGE; off++) {
		EACH(find(reserved + off) == SM_FOREIGN && find(end - 1 - off) == SM_FOREIGN);
		EACH(find((unsigned char *)r->words - PAGE + off) == SM_FOREIGN);
		EACH(find((unsigned char *)r->words + off) == SM_FOREIGN);
		EACH(find((unsigned char *)r->slabs + off) == SM_FOREIGN);
		EACH(find((unsigned char *)r->records + off) == SM_FOREIGN);
		EACH(find((unsigned char *)r->pools + off) == SM_FOREIGN);
	}
	ck_assert_int_eq(find(NULL), SM_FOREIGN);
	ck_assert_int_eq(find(reserved - 1), SM_FOREIGN);
	ck_assert_int_eq(find(end), SM_FOREIGN);
	ck_assert_int_eq(find(ours), SM_FOREIGN);
	ck_assert_int_eq(find(sm_config()), SM_FOREIGN);
	ck_assert_int_eq(find((void *)UINTPTR_MAX), SM_FOREIGN);
}
END_TEST

START_TEST(a_record_leads_back_to_its_bytes)
{
	struct sm_chunk *seen[3000];

	start(0, 1, 0);
	for (size_t i = 0; i < 3000; i++) {
		unsigned char *p = secmalloc(i % 20 ? i * 37 % 1000 : i * 13);

		seen[i] = record_of(p);
		EACH(sm_heap_live(seen[i]) && sm_heap_bytes(seen[i]) == p);
		EACH(seen[i]->generation == 1);
		EACH(region_of_record(seen[i]) == sm_region_of(p));
		for (size_t k = 0; k < i; k++)
			EACH(seen[k] != seen[i]);
	}
}
END_TEST

/* ------------------------------------------------------------ tombstones */

START_TEST(a_freed_chunk_is_remembered)
{
	static const size_t sizes[] = { 0, 1, 16, 100, 1000, 16384, 16385, 50000 };

	start(0, 1, 0);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		void *p = secmalloc(sizes[i]);
		struct sm_chunk *c = record_of(p);

		secfree(p);
		for (int trimmed = 0; trimmed < 2; trimmed++) {
			ck_assert_ptr_eq(record_of(p), c);
			ck_assert(!sm_heap_live(c));
			ck_assert_uint_ne(c->generation, 0);
			ck_assert_int_eq(secmalloc_owns(p), 0);
			trim();
		}
		ck_assert(!spot_of(p).run.used);
	}
}
END_TEST

START_TEST(a_run_over_part_of_a_tombstone_does_not_revive_it)
{
	unsigned char *front, *old, *p;
	struct spot s;

	start(24, 1, 1);
	front = secmalloc(SPAN(5));
	old = secmalloc(SPAN(9));
	s = spot_of(old);
	ck_assert_uint_eq(s.run.pages, 9);
	secfree(old);
	trim();
	ck_assert_int_eq(find(old), SM_FOUND);
	if (_i == 0) { /* its head is used again, its tail is not */
		p = secmalloc(SPAN(5));
	} else { /* a run that begins before it ends inside it */
		secfree(front);
		trim();
		p = secmalloc(SPAN(5 + (size_t)_i));
		ck_assert(spot_of(p).base < s.base);
	}
	ck_assert_int_eq(find(p), SM_FOUND);
	for (size_t off = 0; off < 10 * PAGE; off++)
		EACH(s.base + off == p || find(s.base + off) == SM_INTERIOR);
	secfree(p);
	trim();
	for (size_t off = 0; off < 10 * PAGE; off++)
		EACH(s.base + off == p || find(s.base + off) == SM_INTERIOR);
	ck_assert(!sm_heap_live(record_of(p)));
}
END_TEST

START_TEST(a_slot_of_a_slab_that_is_gone_leads_to_no_chunk_of_the_next)
{
	struct spot old, now;
	void *p[3];

	start(256, 1, 1);
	for (size_t i = 0; i < 3; i++)
		p[i] = secmalloc(SM_PACKED_MOST_BYTES);
	old = spot_of(p[0]);
	for (size_t i = 0; i < 3; i++) {
		EACH(spot_of(p[i]).first == old.first);
		secfree(p[i]);
	}
	ck_assert(trim());
	now = spot_of(secmalloc(16));
	for (size_t i = 1; i < sm_class_slots(0, now.run.pages); i++)
		EACH(secmalloc(16) != NULL);
	ck_assert_uint_eq(now.first, old.first);
	ck_assert_uint_lt(now.run.pages, old.run.pages);
	for (size_t off = now.run.pages * PAGE; off < old.run.pages * PAGE; off++)
		EACH(find(old.base + off) == SM_INTERIOR);
	ck_assert_int_eq(trim(), false);
}
END_TEST

/* ------------------------------------------------------------------ walk */

enum { STAYING = 500, CHURNING = 64 };

static _Atomic bool churn_ends;

/** churn - allocate and free in no order until told to end; NULL if that went well */
static void *
churn(void *seed)
{
	void *p[CHURNING] = { NULL };
	uint32_t x = 2463534242u + (uint32_t)(uintptr_t)seed * 7919u;

	while (!churn_ends) {
		size_t i;

		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		i = x % CHURNING;
		secfree(p[i]);
		p[i] = secmalloc(x % 97 ? x >> 8 & 4095 : x >> 8 & 65535);
		if (!p[i] || (x % 7 == 0 && secmalloc_encrypt(p[i])))
			return seed;
	}
	for (size_t i = 0; i < CHURNING; i++)
		secfree(p[i]);
	return NULL;
}

static int
by_address(const void *a, const void *b)
{
	const struct sm_chunk *const *x = a, *const *y = b;

	return *x < *y ? -1 : *x > *y;
}

/** walk_once - every one of these chunks comes once */
static void
walk_once(struct sm_chunk *const *stays)
{
	unsigned times[STAYING] = { 0 };
	struct sm_walk w = { 0 };
	struct sm_chunk *c;

	while ((c = sm_heap_next(&w)) != NULL) {
		struct sm_chunk *const *at =
			bsearch(&c, stays, STAYING, sizeof(*stays), by_address);

		if (at)
			times[at - stays]++;
	}
	for (size_t i = 0; i < STAYING; i++)
		EACH(times[i] == 1);
}

START_TEST(a_walk_meets_each_live_chunk_once_while_others_come_and_go)
{
	struct sm_chunk *stays[STAYING];
	pthread_t threads[2];
	void *failed;

	start(64, 1, 0);
	for (size_t i = 0; i < STAYING; i++)
		stays[i] = record_of(secmalloc(i % 20 ? i * 11 % 3000 : i * 50));
	qsort(stays, STAYING, sizeof(stays[0]), by_address);
	for (size_t i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
	for (int i = 0; i < 3000; i++)
		walk_once(stays);
	churn_ends = true;
	for (size_t i = 0; i < 2; i++) {
		ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
	ck_assert_uint_eq(stats_now().chunks, STAYING);
	walk_once(stays);
}
END_TEST

START_TEST(a_walk_meets_every_live_chunk_and_no_other)
{
	void *p[1000];
	struct sm_walk w = { 0 };
	struct sm_chunk *c;
	size_t met = 0, bytes = 0, expected = 0;

	start(16, 3, 0);
	for (size_t i = 0; i < 1000; i++)
		p[i] = secmalloc(i * 29 % 1500 + (i % 50 == 0) * 20000);
	ck_assert_uint_gt(stats_now().pools, 3);
	for (size_t i = 0; i < 1000; i++)
		if (i % 3 == 0)
			secfree(p[i]);
		else
			expected += record_of(p[i])->size;
	while ((c = sm_heap_next(&w)) != NULL) {
		EACH(sm_heap_live(c) && record_of(sm_heap_bytes(c)) == c);
		bytes += c->size;
		met++;
	}
	ck_assert_uint_eq(met, 666);
	ck_assert_uint_eq(bytes, expected);
	ck_assert_ptr_null(sm_heap_next(&w));
}
END_TEST

/* ----------------------------------------------------------------- slots */

static bool
zero_between(const unsigned char *from, const unsigned char *to)
{
	return from >= to || all_zero(from, (size_t)(to - from));
}

START_TEST(a_place_is_handed_out_zero_up_to_its_end)
{
	unsigned char *p[200];

	start(0, 1, 0);
	for (size_t round = 0; round < 60; round++) {
		for (size_t i = 0; i < 200; i++) {
			size_t n = (i * i * 7 + round * 131) % (i % 20 ? 700 : 40000);
			struct spot s = spot_of(p[i] = secmalloc(n));
			unsigned char *end = p[i] + sm_class_most(s.run.class);

			if (s.run.kind == SM_KIND_LARGE)
				end = s.base + s.run.pages * PAGE - SM_CANARY_BYTES;
			EACH(all_zero(p[i], n));
			EACH(zero_between(p[i] + n + SM_CANARY_BYTES, end + SM_CANARY_BYTES));
			EACH(s.run.kind == SM_KIND_SLAB ||
				zero_between(s.base, p[i] - SM_CANARY_BYTES));
			memset(p[i], 0xee, n);
		}
		for (size_t i = 0; i < 200; i++)
			secfree(p[i * 77 % 200]);
	}
}
END_TEST

static void
slots_of_a_start(size_t slots[64])
{
	void *first;

	start(0, 1, 0);
	first = secmalloc(100);
	for (size_t i = 0; i < 64; i++)
		slots[i] = (size_t)(record_of(secmalloc(16)) - spot_of(first).r->records);
	ck_assert_int_eq(secmalloc_term(), 0);
}

START_TEST(slots_come_in_an_order_that_differs_from_start_to_start)
{
	size_t one[64], two[64], rising = 0, equal = 0;

	slots_of_a_start(one);
	slots_of_a_start(two);
	for (size_t i = 1; i < 64; i++) {
		rising += one[i] == one[i - 1] + 1;
		equal += one[i] == two[i];
	}
	ck_assert_uint_lt(rising, 16);
	ck_assert_uint_lt(equal, 16);
}
END_TEST

/* Each slab costs a guard, and vm.max_map_count bounds those. */
START_TEST(of_a_class_that_has_many_slabs_are_longer_but_no_slot_is_lost)
{
	static const size_t sizes[] = { 16, 700, 4096, SM_PACKED_MOST_BYTES };
	size_t size = sizes[_i], least = SIZE_MAX, most = 0;
	const struct sm_class *k = &sm_classes[sm_class_of(size)];

	start(20000, 1, 1);
	for (size_t bytes = 0; bytes < 40 * k->pages * PAGE; bytes += size) {
		unsigned char *p = secmalloc(size);
		struct spot s;

		EACH(p != NULL);
		s = spot_of(p);
		EACH(s.run.pages * PAGE <= (SM_SLOTS_MOST + 1) * (size_t)k->stride + PAGE);
		EACH(s.r->slabs[s.first].slots == (s.run.pages * PAGE - SM_CANARY_BYTES) / k->stride);
		least = s.run.pages < least ? s.run.pages : least;
		most = s.run.pages > most ? s.run.pages : most;
	}
	ck_assert_uint_eq(least, k->pages);
	ck_assert_uint_eq(most,
		sm_min_size(4 * k->pages, SM_SLOTS_MOST * (size_t)k->stride / PAGE));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("heap");
	TCase *tc = add_case(s, "classes", 0);

	tcase_add_test(tc, each_class_holds_more_than_the_one_before);
	tcase_add_test(tc, class_of_is_the_smallest_class_that_holds_a_size);
	tcase_add_test(tc, a_slot_wastes_at_most_a_quarter);
	tcase_add_test(tc, a_slab_wastes_at_most_an_eighth_and_has_a_record_for_every_slot);
	tcase_add_test(tc, the_magic_of_each_class_divides_exactly);
	tc = add_case(s, "find", 0);
	tcase_add_loop_test(tc, of_a_slab_only_the_starts_of_slots_are_found, 0, SM_CLASSES);
	tcase_add_test(tc, of_a_large_chunk_only_the_start_is_found);
	tcase_add_test(tc, of_an_aligned_chunk_only_its_start_is_found);
	tcase_add_test(tc, what_no_run_uses_is_interior_and_what_lies_around_is_foreign);
	tcase_add_test(tc, a_record_leads_back_to_its_bytes);
	tcase_add_test(tc, a_freed_chunk_is_remembered);
	tcase_add_loop_test(tc, a_run_over_part_of_a_tombstone_does_not_revive_it, 0, 4);
	tcase_add_test(tc, a_slot_of_a_slab_that_is_gone_leads_to_no_chunk_of_the_next);
	tc = add_case(s, "walk", 0);
	tcase_add_test(tc, a_walk_meets_every_live_chunk_and_no_other);
	tcase_add_test(tc, a_walk_meets_each_live_chunk_once_while_others_come_and_go);
	tc = add_case(s, "slots", 0);
	tcase_add_test(tc, a_place_is_handed_out_zero_up_to_its_end);
	tcase_add_test(tc, slots_come_in_an_order_that_differs_from_start_to_start);
	tcase_add_loop_test(tc, of_a_class_that_has_many_slabs_are_longer_but_no_slot_is_lost, 0, 4);
	return run_rooms(s);
}
