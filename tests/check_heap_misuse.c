/*
 * check_heap_misuse.c - the heap room from inside: what canaries, zero slots and tombstones notice
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"

/** assert_dies - body ends in the fault with these words in its sentence */
static void
assert_dies(const char *words, void (*body)(void *), void *arg)
{
	const struct outcome o = outcome_of(body, arg);

	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_msg(strncmp(o.text, "secmalloc: ", 11) == 0 && strstr(o.text, words),
		"no \"%s\" in: %s", words, o.text);
}

/* -------------------------------------------------------------- canaries */

/** struct damage - one byte spoiled, and what is done with the chunk then */
struct damage {
	size_t size;
	ptrdiff_t at; /* from the chunk */
	void (*then)(unsigned char *p); /* damage_a_closed_chunk frees it in any case */
};

static void
then_free(unsigned char *p)
{
	secfree(p);
}

static void
then_encrypt(unsigned char *p)
{
	secmalloc_encrypt(p);
}

static void
then_encrypt_all(unsigned char *p)
{
	(void)p;
	secmalloc_encrypt_all();
}

static void
then_realloc(unsigned char *p)
{
	(void)!secrealloc(p, 60000);
}

static void
then_realloc_in_place(unsigned char *p)
{
	(void)!secrealloc(p, secmalloc_usable_size(p));
}

static void (*const thens[])(unsigned char *) = { then_free, then_encrypt, then_encrypt_all,
	then_realloc, then_realloc_in_place };
enum { THENS = sizeof(thens) / sizeof(thens[0]) };

static void
do_damage(void *arg)
{
	const struct damage *d = arg;
	unsigned char *p;

	start(32, 1, 0);
	p = secmalloc(d->size);
	MUST(p != NULL);
	fill(p, d->size, 1);
	spoil(p, d->at);
	d->then(p);
}

static void
damage_a_closed_chunk(void *arg)
{
	const struct damage *d = arg;
	unsigned char *p;

	start(32, 1, 0);
	p = secmalloc(d->size);
	MUST(p != NULL && secmalloc_encrypt(p) == 0);
	spoil(p, d->at);
	secfree(p);
}

/* A chunk of own pages that ends where its page ends has no canary behind: there is the page. */
static const size_t damaged_sizes[] = { 0, 1, 24, 100, 16384, 16385, 16392, 16397 };
static const ptrdiff_t canary_behind[] = { 8, 8, 8, 8, 8, 8, 8, 3 };

START_TEST(each_canary_byte_in_front_is_watched)
{
	for (size_t k = 0; k < THENS; k++)
		for (ptrdiff_t at = -(ptrdiff_t)SM_CANARY_BYTES; at < 0; at++) {
			struct damage d = { damaged_sizes[_i], at, thens[k] };

			assert_dies("underflow", do_damage, &d);
		}
}
END_TEST

START_TEST(each_canary_byte_behind_is_watched)
{
	for (size_t k = 0; k < THENS; k++)
		for (ptrdiff_t at = 0; at < canary_behind[_i]; at++) {
			ptrdiff_t end = (ptrdiff_t)damaged_sizes[_i];
			struct damage d = { damaged_sizes[_i], end + at, thens[k] };

			assert_dies("overflow", do_damage, &d);
		}
}
END_TEST

START_TEST(the_canaries_of_a_closed_chunk_are_watched)
{
	for (ptrdiff_t at = -(ptrdiff_t)SM_CANARY_BYTES; at < 0; at++) {
		struct damage d = { damaged_sizes[_i], at, NULL };

		assert_dies("underflow", damage_a_closed_chunk, &d);
	}
	for (ptrdiff_t at = 0; at < canary_behind[_i]; at++) {
		struct damage d = { damaged_sizes[_i], at, NULL };

		d.at += (ptrdiff_t)d.size;
		assert_dies("overflow", damage_a_closed_chunk, &d);
	}
}
END_TEST

START_TEST(no_canary_byte_is_zero)
{
	start(0, 1, 0);
	for (size_t i = 0; i < 3000; i++) {
		size_t n = i % 100 ? i * 7 % 1000 : 16384 + i;
		unsigned char *p = launder(secmalloc(n));
		size_t behind = (PAGE - ((uintptr_t)(p + n) & (PAGE - 1))) & (PAGE - 1);

		if (!record_of(p)->own_pages || behind > SM_CANARY_BYTES)
			behind = SM_CANARY_BYTES;
		for (size_t k = 1; k <= SM_CANARY_BYTES; k++)
			EACH(p[-(ptrdiff_t)k] != 0);
		for (size_t k = 0; k < behind; k++)
			EACH(p[n + k] != 0);
		if (i % 3)
			secfree(p);
	}
}
END_TEST

START_TEST(a_canary_differs_from_place_to_place_and_from_life_to_life)
{
	const size_t n = SPAN(5) - SM_CANARY_BYTES; /* room for the one behind */
	unsigned char *p, old[SM_CANARY_BYTES];
	size_t same = 0;

	start(16, 1, 1);
	p = launder(secmalloc(n));
	memcpy(old, p - SM_CANARY_BYTES, sizeof(old));
	ck_assert_int_ne(memcmp(old, p + n, sizeof(old)), 0);
	secfree(p);
	trim();
	ck_assert_ptr_eq(secmalloc(n), p);
	ck_assert_int_ne(memcmp(old, p - SM_CANARY_BYTES, sizeof(old)), 0);
	p = launder(secmalloc(16));
	memcpy(old, p - SM_CANARY_BYTES, sizeof(old));
	for (int i = 0; i < 100; i++) {
		p = launder(secmalloc(16));
		same += memcmp(p - SM_CANARY_BYTES, old, sizeof(old)) == 0;
	}
	ck_assert_uint_eq(same, 0);
}
END_TEST

/* -------------------------------------------------------- after the free */

/** struct late - a byte of a slot is written after its chunk was freed */
struct late {
	size_t size;
	ptrdiff_t at;
};

static void
write_after_free(void *arg)
{
	const struct late *l = arg;
	unsigned char *p, *again = NULL;

	start(32, 1, 0);
	MUST(secmalloc(l->size) != NULL); /* keeps the slab */
	p = secmalloc(l->size);
	secfree(p);
	spoil(p, l->at);
	trim();
	for (int i = 0; i < 600 && again != p; i++)
		again = secmalloc(l->size);
}

START_TEST(any_byte_of_a_slot_written_after_free_is_found_when_it_is_used_again)
{
	static const size_t sizes[] = { 0, 9, 64, 130 };
	ptrdiff_t end;

	start(0, 1, 0);
	end = (ptrdiff_t)sm_class_most(sm_class_of(sizes[_i])) + SM_CANARY_BYTES;
	ck_assert_int_eq(secmalloc_term(), 0);
	for (ptrdiff_t at = -(ptrdiff_t)SM_CANARY_BYTES; at < end; at++) {
		struct late l = { sizes[_i], at };

		assert_dies("write after free", write_after_free, &l);
	}
}
END_TEST

static void
write_to_a_freed_slab(void *arg)
{
	unsigned char *p;

	(void)arg;
	start(16, 1, 1);
	p = secmalloc(100);
	secfree(p);
	MUST(trim());
	spoil(p, 0);
}

static void
write_to_a_freed_large_chunk(void *arg)
{
	unsigned char *p;

	(void)arg;
	start(16, 1, 1);
	p = secmalloc(20000);
	secfree(p);
	spoil(p, 0);
}

START_TEST(pages_given_back_are_out_of_reach)
{
	assert_segv(write_to_a_freed_slab, NULL);
	assert_segv(write_to_a_freed_large_chunk, NULL);
}
END_TEST

/* A freed slot is written, its slab is given back, and a large chunk gets those pages. */
static void
large_chunk_over_a_dirty_slot(void *arg)
{
	enum { MANY = 64 };
	unsigned char *p[MANY], *large;
	struct spot s;
	size_t slots;

	(void)arg;
	start(64, 1, 1);
	p[0] = secmalloc(1024);
	s = spot_of(p[0]);
	slots = sm_class_slots(s.run.class, s.run.pages);
	MUST(3 * slots <= MANY);
	for (size_t i = 1; i < 3 * slots; i++)
		p[i] = secmalloc(1024);
	MUST(spot_of(p[slots]).base > s.base && spot_of(p[2 * slots]).base > s.base);
	for (size_t i = 0; i < 2 * slots; i++) {
		secfree(p[i]);
		if (i == 0)
			for (ptrdiff_t at = 0; at < 1024; at++)
				spoil(p[i], at);
	}
	trim();
	MUST(!readable(s.base));
	large = secmalloc(SPAN(s.run.pages + 1));
	MUST(large < s.base + s.run.pages * PAGE && large + SPAN(s.run.pages + 1) > s.base);
	MUST(all_zero(large, SPAN(s.run.pages + 1)));
}

START_TEST(a_large_chunk_is_zero_or_the_write_after_free_is_found)
{
	const struct outcome o = outcome_of(large_chunk_over_a_dirty_slot, NULL);

	if (o.status != 0)
		ck_assert_msg(WIFSIGNALED(o.status) && strstr(o.text, "write after free"),
			"status 0x%x: %s", (unsigned)o.status, o.text);
}
END_TEST

/* --------------------------------------------------------- bad pointers */

/** struct bad - what is freed: this far from a chunk of this size, freed before or not */
struct bad {
	size_t size;
	ptrdiff_t at;
	int freed, trimmed, over; /* over: another run lies over its tombstone */
};

static void
free_it(void *arg)
{
	const struct bad *b = arg;
	unsigned char *p;

	start(64, 1, 1);
	p = secmalloc(b->size);
	MUST(p != NULL && record_of(p)->generation == 1);
	if (b->freed)
		secfree(p);
	if (b->trimmed)
		trim();
	if (b->over)
		MUST(secmalloc(SPAN(9)) != NULL);
	secfree((void *)(uintptr_t)byte_at(p, b->at));
}

START_TEST(free_twice_dies)
{
	static const struct bad bads[] = {
		{ 0, 0, 1, 0, 0 }, { 100, 0, 1, 0, 0 }, { 16384, 0, 1, 0, 0 },
		{ 16385, 0, 1, 0, 0 }, { 50000, 0, 1, 0, 0 }, { 16, 0, 1, 1, 0 },
		{ 1000, 0, 1, 1, 0 }, { 16384, 0, 1, 1, 0 },
	};

	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		struct bad b = bads[i];

		assert_dies("double free", free_it, &b);
	}
}
END_TEST

START_TEST(free_of_what_is_no_start_of_a_chunk_dies)
{
	static const struct bad bads[] = {
		{ 100, 1, 0, 0, 0 }, { 100, -1, 0, 0, 0 }, { 100, 16, 0, 0, 0 },
		{ 100, 8, 1, 0, 0 }, { 16384, 1, 0, 0, 0 }, { 16385, 1, 0, 0, 0 },
		{ 50000, 4096, 0, 0, 0 }, { 50000, 50000, 0, 0, 0 }, { 50000, -16, 0, 0, 0 },
		{ 50000, 1, 1, 0, 0 }, { 50000, -4096, 0, 0, 0 }, { 16385, 0, 1, 1, 1 },
		{ 100, (ptrdiff_t)1 << 34, 0, 0, 0 }, { 100, -((ptrdiff_t)1 << 34), 0, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		struct bad b = bads[i];

		assert_dies("invalid free", free_it, &b);
	}
}
END_TEST

static void
free_a_slot_never_used(void *arg)
{
	unsigned char *p;
	struct spot s;

	(void)arg;
	start(32, 1, 0);
	p = secmalloc(100);
	s = spot_of(p);
	p += p + 256 < s.base + s.run.pages * PAGE ? 128 : -128;
	MUST(find(p) == SM_INTERIOR);
	secfree(p);
}

START_TEST(free_of_a_slot_never_used_dies)
{
	assert_dies("invalid free", free_a_slot_never_used, NULL);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("heap_misuse");
	TCase *tc = add_case(s, "canaries", 0);

	tcase_add_loop_test(tc, each_canary_byte_in_front_is_watched, 0, 8);
	tcase_add_loop_test(tc, each_canary_byte_behind_is_watched, 0, 8);
	tcase_add_loop_test(tc, the_canaries_of_a_closed_chunk_are_watched, 0, 8);
	tcase_add_test(tc, no_canary_byte_is_zero);
	tcase_add_test(tc, a_canary_differs_from_place_to_place_and_from_life_to_life);
	tc = add_case(s, "after free", 0);
	tcase_add_loop_test(tc,
		any_byte_of_a_slot_written_after_free_is_found_when_it_is_used_again, 0, 4);
	tcase_add_test(tc, pages_given_back_are_out_of_reach);
	tcase_add_test(tc, a_large_chunk_is_zero_or_the_write_after_free_is_found);
	tc = add_case(s, "bad pointers", 0);
	tcase_add_test(tc, free_twice_dies);
	tcase_add_test(tc, free_of_what_is_no_start_of_a_chunk_dies);
	tcase_add_test(tc, free_of_a_slot_never_used_dies);
	return run_rooms(s);
}
