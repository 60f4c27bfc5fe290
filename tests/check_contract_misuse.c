/*
 * check_contract_misuse.c - the contract: every misuse of a chunk is found, and named
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "misuse.h"

static const size_t SIZES[] = {32, 4000};
#define N_SIZES (sizeof(SIZES) / sizeof(SIZES[0]))

/* ------------------------------------------------------------- beside the chunk */

static void
use(struct play *y, unsigned char *p)
{
	if (y->by_encrypt) {
		MUST(secmalloc_encrypt(p) == 0);
		y->stage = TOO_LATE;
	}
	secfree(p);
	y->stage = TOO_LATE;
}

static size_t
least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Up from the chunk's end; the twin ends there. */
static void
overflow(struct play *y, unsigned char *p)
{
	const uintptr_t end = (uintptr_t)p + y->size;
	size_t n = y->deed->amount;

	if (n == INTO_NEXT_PAGE)
		n = page_up(end) + 1 - end;
	expect_behind(p, y->size);
	y->stage = AT_IT;
	if (y->wrong)
		for (size_t i = 0; i < n; i++)
			change_at(p + y->size + i);
	else
		for (size_t i = least(n, y->size); i > 0; i--)
			change_at(p + y->size - i);
	y->stage = AFTER;
	use(y, p);
}

/* Down from the byte before the chunk; the twin begins with the chunk's first bytes. */
static void
underflow(struct play *y, unsigned char *p)
{
	size_t n = y->deed->amount;

	if (n == INTO_NEXT_PAGE)
		n = page_bytes();
	expect_in_front(p);
	y->stage = AT_IT;
	if (y->wrong)
		for (size_t i = 1; i <= n; i++)
			change_at(launder((void *)((uintptr_t)p - i)));
	else
		for (size_t i = 0; i < least(n, y->size); i++)
			change_at(p + i);
	y->stage = AFTER;
	use(y, p);
}

static void
overread(struct play *y, unsigned char *p)
{
	const uintptr_t end = (uintptr_t)p + y->size;
	size_t n = y->deed->amount;

	if (n == INTO_NEXT_PAGE)
		n = page_up(end) + 1 - end;
	expect_behind(p, y->size);
	y->stage = AT_IT;
	for (size_t i = 0; i < y->size + (y->wrong ? n : 0); i++)
		(void)read_at(p + i);
	y->stage = AFTER;
	secfree(p);
}

/* ---------------------------------------------------------- pointers not to free */

enum stray {
	INTERIOR_1,
	INTERIOR_16,
	INTERIOR_LAST,
	IN_FRONT,
	IN_GUARD,
	STACK,
	STATIC,
	MAPPED,
	WILD_LOW,
	WILD,
	WILD_HIGH
};

static void *
stray_from_chunk(enum stray which, const struct play *y, unsigned char *p)
{
	switch (which) {
	case INTERIOR_1:
		return p + 1;
	case INTERIOR_16:
		return p + 16;
	case INTERIOR_LAST:
		return p + y->size - 1;
	case IN_FRONT:
		return (void *)((uintptr_t)p - 8);
	default:
		return (void *)page_up((uintptr_t)p + y->size);
	}
}

static void *
stray_from_elsewhere(enum stray which)
{
	static _Alignas(16) char still[4096];

	switch (which) {
	case STATIC:
		return still + 32;
	case MAPPED:
		return mmap(
			NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	case WILD_LOW:
		return (void *)(uintptr_t)16;
	case WILD:
		return (void *)(uintptr_t)0x123456789ab0u;
	default:
		return (void *)(UINTPTR_MAX / 2 + 1);
	}
}

static void
free_stray(struct play *y, unsigned char *p)
{
	const enum stray which = (enum stray)y->deed->amount;
	_Alignas(16) char here[64] = "";
	void *q = here;

	if (which < STACK)
		q = stray_from_chunk(which, y, p);
	else if (which != STACK)
		q = stray_from_elsewhere(which);
	y->stage = AT_IT;
	secfree(launder(y->wrong ? q : p));
	y->stage = AFTER;
}

/* ---------------------------------------------------------------------- the table */

static const struct deed BESIDE[] = {
	{"overflow by 1", overflow, 1, "overflow", DIES_LATER, TRAPS},
	{"overflow by 8", overflow, 8, "overflow", DIES_LATER, TRAPS},
	{"overflow by 16", overflow, 16, "overflow", DIES_LATER, TRAPS},
	{"overflow by 64", overflow, 64, "overflow", DIES_LATER | TRAPS, TRAPS},
	{"overflow into the next page", overflow, INTO_NEXT_PAGE, "overflow", DIES_LATER | TRAPS,
		TRAPS},
	{"underflow by 1", underflow, 1, "underflow", DIES_LATER, DIES_LATER},
	{"underflow by 8", underflow, 8, "underflow", DIES_LATER, DIES_LATER},
	{"underflow by 16", underflow, 16, "underflow", DIES_LATER, DIES_LATER},
	{"underflow by a page", underflow, INTO_NEXT_PAGE, "underflow", DIES_LATER | TRAPS, TRAPS},
};
#define N_BESIDE (sizeof(BESIDE) / sizeof(BESIDE[0]))

static const struct deed OTHERS[] = {
	{"overread by 1", overread, 1, NULL, 0, TRAPS},
	{"overread into the next page", overread, INTO_NEXT_PAGE, NULL, 0, TRAPS},
	{"write after free", write_late, 0, "write after free", DIES_LATER, TRAPS},
	{"write 255 frees after free", write_late, 255, "write after free", DIES_LATER, TRAPS},
	{"double free", free_late, 0, "double free", DIES_AT_CALL, DIES_AT_CALL},
	{"double free 255 frees later", free_late, 255, "double free", DIES_AT_CALL, DIES_AT_CALL},
	{"read after free", read_late, 0, NULL, RUNS | TRAPS, TRAPS},
	{"read 255 frees after free", read_late, 255, NULL, RUNS | TRAPS, TRAPS},
	{"free of the second byte", free_stray, INTERIOR_1, "invalid free", DIES_AT_CALL,
		DIES_AT_CALL},
	{"free of the stack", free_stray, STACK, "invalid free", DIES_AT_CALL, DIES_AT_CALL},
	{"free of a static", free_stray, STATIC, "invalid free", DIES_AT_CALL, DIES_AT_CALL},
	{"free of a mapping", free_stray, MAPPED, "invalid free", DIES_AT_CALL, DIES_AT_CALL},
	{"free of a wild pointer", free_stray, WILD, "invalid free", DIES_AT_CALL, DIES_AT_CALL},
};
#define N_OTHERS (sizeof(OTHERS) / sizeof(OTHERS[0]))

/* More of the same kinds: not counted, lest they flatter. */
static const struct deed STRAYS[] = {
	{"free of the second 16", free_stray, INTERIOR_16, "invalid free", DIES_AT_CALL,
		DIES_AT_CALL},
	{"free of the last byte", free_stray, INTERIOR_LAST, "invalid free", DIES_AT_CALL,
		DIES_AT_CALL},
	{"free of the canary", free_stray, IN_FRONT, "invalid free", DIES_AT_CALL, DIES_AT_CALL},
	{"free of the guard", free_stray, IN_GUARD, "invalid free", 0, DIES_AT_CALL},
	{"free of 16", free_stray, WILD_LOW, "invalid free", DIES_AT_CALL, DIES_AT_CALL},
	{"free of no address", free_stray, WILD_HIGH, "invalid free", DIES_AT_CALL, DIES_AT_CALL},
};
#define N_STRAYS (sizeof(STRAYS) / sizeof(STRAYS[0]))

START_TEST(every_misuse_of_a_packed_chunk_is_found_by_free_at_the_latest)
{
	struct play *y = new_play();

	for (size_t k = 0; k < N_SIZES; k++) {
		y->size = SIZES[k];
		for (size_t i = 0; i < N_BESIDE; i++)
			play(y, &BESIDE[i]);
		for (size_t i = 0; i < N_OTHERS; i++)
			play(y, &OTHERS[i]);
	}
}
END_TEST

START_TEST(what_is_written_beside_a_chunk_is_found_by_encrypt)
{
	struct play *y = new_play();

	y->by_encrypt = 1;
	for (size_t k = 0; k < N_SIZES; k++) {
		y->size = SIZES[k];
		for (size_t i = 0; i < N_BESIDE; i++) {
			y->flags = 0;
			play(y, &BESIDE[i]);
			y->flags = SECMALLOC_ISOLATE;
			play(y, &BESIDE[i]);
		}
	}
}
END_TEST

START_TEST(freeing_what_is_not_the_start_of_a_chunk_is_an_invalid_free)
{
	struct play *y = new_play();

	for (size_t k = 0; k < N_SIZES; k++) {
		y->size = SIZES[k];
		for (size_t i = 0; i < N_STRAYS; i++) {
			y->flags = 0;
			play(y, &STRAYS[i]);
			y->flags = SECMALLOC_ISOLATE;
			play(y, &STRAYS[i]);
		}
	}
}
END_TEST

/** struct tally - how many misuses were found, and of them at the access or the call */
struct tally {
	unsigned played, at_once, later;
};

static void
count_deeds(struct tally *t, struct play *y, const struct deed *deeds, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const unsigned how = play(y, &deeds[i]);

		t->played++;
		t->at_once += how == TRAPS || how == DIES_AT_CALL;
		t->later += how == DIES_LATER;
	}
}

START_TEST(every_misuse_of_an_isolated_chunk_is_found_and_four_in_five_at_once)
{
	struct tally t = {0, 0, 0};
	struct play *y = new_play();

	y->flags = SECMALLOC_ISOLATE;
	for (size_t k = 0; k < N_SIZES; k++) {
		y->size = SIZES[k];
		count_deeds(&t, y, BESIDE, N_BESIDE);
		count_deeds(&t, y, OTHERS, N_OTHERS);
	}
	printf("isolated: %u misuses, found at the access or the call: %u, later: %u\n", t.played,
		t.at_once, t.later);
	ck_assert_uint_eq(t.played, 2 * (N_BESIDE + N_OTHERS));
	ck_assert_uint_eq(t.at_once + t.later, t.played);
	ck_assert_msg(t.at_once * 100 >= t.played * 80, "%u of %u at once", t.at_once, t.played);
}
END_TEST

/* ------------------------------------------------------------ sealed chunks and reads */

static void
free_sealed(struct play *y, unsigned char *p)
{
	y->stage = AT_IT;
	if (y->wrong)
		MUST(secmalloc_encrypt(p) == 0);
	secfree(p);
	y->stage = AFTER;
	MUST(zero_or_closed(p, y->size));
	churn(y, TURNS_TO_FIND);
}

START_TEST(a_sealed_chunk_may_be_freed)
{
	static const struct deed d = {"free while sealed", free_sealed, 0, NULL, RUNS, RUNS};
	struct play *y = new_play();

	for (size_t k = 0; k < N_SIZES; k++) {
		y->size = SIZES[k];
		y->flags = 0;
		ck_assert_uint_eq(play(y, &d), RUNS);
		y->flags = SECMALLOC_ISOLATE;
		ck_assert_uint_eq(play(y, &d), RUNS);
	}
}
END_TEST

enum { MANY = 64, FAR = 64 };

/** struct sight - an overread: of how large a chunk, how placed, beside sealed ones? */
struct sight {
	size_t size;
	unsigned flags;
	int sealed;
	int found; /* the neighbours' plaintext must be seen, or must not */
};

/* Whether, going up (1) or down (-1) from p to where it ends, the marker is seen. */
static int
marker_seen(const unsigned char *p, ptrdiff_t step)
{
	size_t met = 0, n;

	for (n = 0; n < FAR * page_bytes() && met < MARKER_BYTES; n++) {
		const int byte = glance(
			(const unsigned char *)((uintptr_t)p + (uintptr_t)((ptrdiff_t)n * step)));
		const size_t next = step > 0 ? met : MARKER_BYTES - 1 - met;
		const size_t first = step > 0 ? 0 : MARKER_BYTES - 1;

		if (byte < 0)
			break;
		if (byte == marker_byte(next))
			met++;
		else
			met = byte == marker_byte(first);
	}
	return met == MARKER_BYTES;
}

static void
look_around(void *arg)
{
	const struct sight *s = arg;
	const struct play y = {.size = s->size, .flags = s->flags};
	unsigned char *many[MANY];
	int seen;

	start(&y);
	for (unsigned i = 0; i < MANY; i++) {
		many[i] = new_chunk(s->size, s->size, SEED);
		if (i != MANY / 2)
			mark(many[i], s->size);
	}
	for (unsigned i = 0; s->sealed && i < MANY; i++)
		MUST(i == MANY / 2 || secmalloc_encrypt(many[i]) == 0);
	seen = marker_seen(many[MANY / 2], 1);
	seen |= marker_seen(many[MANY / 2] + s->size - 1, -1);
	MUST(seen == s->found);
	for (unsigned i = 0; i < MANY; i++)
		secfree(many[i]);
}

START_TEST(reading_on_from_a_packed_chunk_never_shows_a_sealed_neighbours_plaintext)
{
	for (size_t k = 0; k < N_SIZES; k++) {
		struct sight s = {SIZES[k], 0, 1, 0};

		assert_exits_0(look_around, &s);
		s.sealed = 0;
		s.found = 1;
		assert_exits_0(look_around, &s);
	}
}
END_TEST

START_TEST(reading_on_from_an_isolated_chunk_never_shows_even_an_open_neighbour)
{
	for (size_t k = 0; k < N_SIZES; k++)
		assert_exits_0(look_around, &(struct sight){SIZES[k], SECMALLOC_ISOLATE, 0, 0});
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, every_misuse_of_a_packed_chunk_is_found_by_free_at_the_latest);
	tcase_add_test(tc, what_is_written_beside_a_chunk_is_found_by_encrypt);
	tcase_add_test(tc, every_misuse_of_an_isolated_chunk_is_found_and_four_in_five_at_once);
	tcase_add_test(tc, freeing_what_is_not_the_start_of_a_chunk_is_an_invalid_free);
	tcase_add_test(tc, a_sealed_chunk_may_be_freed);
	tcase_add_test(
		tc, reading_on_from_a_packed_chunk_never_shows_a_sealed_neighbours_plaintext);
	tcase_add_test(tc, reading_on_from_an_isolated_chunk_never_shows_even_an_open_neighbour);
}

int
main(void)
{
	Suite *s = suite_create("contract: misuse");

	add_ways(s, add_tests, 4 * MIB);
	return run(s);
}
