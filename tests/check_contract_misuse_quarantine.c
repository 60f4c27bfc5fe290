/*
 * check_contract_misuse_quarantine.c - the contract: what is freed rests, and leaves nothing
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "misuse.h"
#include <fcntl.h>

static const size_t SIZES[] = {32, 4000};
#define N_SIZES (sizeof(SIZES) / sizeof(SIZES[0]))

enum { DEPTH = 256 }; /* frees of its class that a chunk rests at least */

/** everywhere - what(y): both sizes, packed and isolated, default pools and 4 MiB */
static void
everywhere(struct play *y, void (*what)(struct play *))
{
	const size_t pools[] = {0, 4 * MIB};
	const int n_pools = may_lock_for("pools of 4 MiB", 5 * MIB) ? 2 : 1;

	for (int i = 0; i < n_pools; i++)
		for (size_t k = 0; k < N_SIZES; k++) {
			y->pool_size = pools[i];
			y->size = SIZES[k];
			y->flags = 0;
			y->crowd = full_house(y->size, y->flags);
			what(y);
			y->flags = SECMALLOC_ISOLATE;
			y->crowd = full_house(y->size, y->flags);
			what(y);
		}
}

/* ------------------------------------------------------------------------ depth */

static const size_t DEPTHS[] = {0, 1, 64, 128, 254, 255};
#define N_DEPTHS (sizeof(DEPTHS) / sizeof(DEPTHS[0]))

static void
at_every_depth(struct play *y, struct deed d)
{
	for (size_t i = 0; i < N_DEPTHS; i++) {
		d.amount = DEPTHS[i];
		play(y, &d);
	}
}

static void
write_at_every_depth(struct play *y)
{
	at_every_depth(y, (struct deed){"write after free", write_late, 0, "write after free",
				  DIES_LATER, TRAPS});
}

static void
free_at_every_depth(struct play *y)
{
	at_every_depth(y, (struct deed){"double free", free_late, 0, "double free", DIES_AT_CALL,
				  DIES_AT_CALL});
}

START_TEST(a_write_after_free_is_found_up_to_the_quarantines_depth)
{
	everywhere(new_play(), write_at_every_depth);
}
END_TEST

START_TEST(a_double_free_is_found_up_to_the_quarantines_depth)
{
	everywhere(new_play(), free_at_every_depth);
}
END_TEST

/* All of the others go at once, and as many come. */
static void
free_late_among_many(struct play *y, unsigned char *p)
{
	unsigned char *others[DEPTH - 1];

	for (unsigned i = 0; i < DEPTH - 1; i++)
		others[i] = new_chunk(y->size, 0, 0);
	secfree(p);
	for (unsigned i = 0; i < DEPTH - 1; i++)
		secfree(others[i]);
	for (unsigned i = 0; i < DEPTH - 1; i++)
		MUST(new_chunk(y->size, 0, 0) != p);
	y->stage = AT_IT;
	if (y->wrong)
		secfree(launder(p));
	y->stage = AFTER;
}

static void
free_among_many(struct play *y)
{
	const struct deed d = {"double free behind 255 at once", free_late_among_many, 255,
		"double free", DIES_AT_CALL, DIES_AT_CALL};

	play(y, &d);
}

START_TEST(frees_that_come_all_at_once_do_not_end_the_rest)
{
	everywhere(new_play(), free_among_many);
}
END_TEST

START_TEST(a_user_who_may_lock_little_has_the_same_depth)
{
	const size_t limits[] = {256 * KIB, 8 * MIB};
	struct play *y = new_play();

	if (!may_drop("the depth for a user"))
		return;
	for (size_t i = 0; i < 2; i++)
		for (size_t k = 0; k < 2 * N_SIZES; k++) {
			y->limit = limits[i];
			y->size = SIZES[k / 2];
			y->flags = k % 2 ? SECMALLOC_ISOLATE : 0;
			write_at_every_depth(y);
			free_at_every_depth(y);
		}
}
END_TEST

static void
read_while_it_rests(struct play *y, unsigned char *p)
{
	MUST(filled(p, y->size, SEED));
	y->stage = AT_IT;
	if (y->wrong)
		secfree(p);
	for (unsigned i = 0; i < DEPTH; i++) {
		if (y->wrong)
			MUST(zero_or_closed(p, y->size));
		else
			MUST(filled(p, y->size, SEED));
		if (y->flags & SECMALLOC_ISOLATE)
			MUST((glance(p) < 0 && glance(p + y->size - 1) < 0) == y->wrong);
		churn(y, i < DEPTH - 1);
	}
	y->stage = AFTER;
	if (!y->wrong)
		secfree(p);
}

static void
read_as_it_rests(struct play *y)
{
	const struct deed d = {"read while it rests", read_while_it_rests, 0, NULL, RUNS, RUNS};

	play(y, &d);
}

START_TEST(what_rests_reads_as_zeros_or_not_at_all)
{
	everywhere(new_play(), read_as_it_rests);
}
END_TEST

/* ------------------------------------------------------------------ order of reuse */

enum { FREES = 1500, SET_MOST = 300 };

/** struct ring - chunks that come and go: `set` of them at once */
struct ring {
	unsigned flags;
	size_t pool_size;
	size_t sizes[3]; /* in turn, if there are more than one */
	unsigned set;
	enum { ANYHOW, AT_ALL, OLDEST_FIRST } back; /* how addresses must come back */
};

/** What was freed: bytes at [at, at + size), or all pages of them where isolated. */
static struct past {
	uintptr_t at, low, high;
} past[FREES];

static struct past
extent(const struct ring *r, const void *p, size_t size)
{
	struct past e = {(uintptr_t)p, (uintptr_t)p, (uintptr_t)p + size};

	if (r->flags & SECMALLOC_ISOLATE) {
		e.low = page_up(e.at) - page_bytes();
		e.high = page_up(e.high);
	}
	return e;
}

/* Not one of its bytes may have been freed less than DEPTH other frees, or 1 MiB, ago. */
static void
must_have_rested(const struct ring *r, unsigned frees, struct past now)
{
	size_t bytes = 0;

	for (unsigned i = frees, others = 0; i-- > 0; others++) {
		if (others >= DEPTH && (bytes >= MIB || !(r->flags & SECMALLOC_ISOLATE)))
			return;
		MUST(past[i].low >= now.high || past[i].high <= now.low);
		bytes += past[i].high - past[i].low;
	}
}

/* Which free it was that gave this address back last; -1: none. */
static int
freed_as(unsigned frees, struct past now)
{
	for (unsigned i = frees; i-- > 0;)
		if (past[i].at == now.at)
			return (int)i;
	return -1;
}

static size_t
size_in_turn(const struct ring *r, unsigned turn)
{
	const unsigned n = r->sizes[1] ? 3 : 1;

	return r->sizes[turn % n];
}

static void
go_round(void *arg)
{
	const struct ring *r = arg;
	const struct play y = {.flags = r->flags, .pool_size = r->pool_size};
	unsigned char *live[SET_MOST];
	size_t sizes[SET_MOST];
	int last = -1;
	unsigned came = 0;

	start(&y);
	for (unsigned i = 0; i < r->set; i++)
		live[i] = new_chunk(sizes[i] = size_in_turn(r, i), HEAD, i);
	for (unsigned frees = 1, k = 0; frees <= FREES; frees++, k = k * 2861 + 17) {
		const unsigned who = k % r->set;
		struct past now;
		int as;

		past[frees - 1] = extent(r, live[who], sizes[who]);
		secfree(live[who]);
		live[who] = new_chunk(sizes[who], HEAD, frees);
		now = extent(r, live[who], sizes[who]);
		must_have_rested(r, frees, now);
		as = freed_as(frees, now);
		MUST(r->back != OLDEST_FIRST || as < 0 || as > last);
		last = as < 0 ? last : as;
		came += as >= 0;
	}
	MUST(r->back == ANYHOW || came > 100);
}

static void
go_round_everywhere(struct ring r)
{
	const int n_pools = may_lock_for("pools of 4 MiB", 5 * MIB) ? 2 : 1;

	for (int i = 0; i < n_pools; i++) {
		r.pool_size = i * 4 * MIB;
		r.set = 1;
		assert_exits_0(go_round, &r);
		r.set = SET_MOST;
		assert_exits_0(go_round, &r);
	}
}

START_TEST(no_packed_address_comes_back_before_256_other_frees)
{
	for (size_t k = 0; k < N_SIZES; k++)
		go_round_everywhere((struct ring){0, 0, {SIZES[k]}, 0, AT_ALL});
}
END_TEST

START_TEST(isolated_addresses_rest_for_256_frees_and_1_mib)
{
	for (size_t k = 0; k < N_SIZES; k++)
		go_round_everywhere((struct ring){SECMALLOC_ISOLATE, 0, {SIZES[k]}, 0, AT_ALL});
}
END_TEST

START_TEST(isolated_addresses_come_back_oldest_first)
{
	for (size_t k = 0; k < N_SIZES; k++)
		go_round_everywhere(
			(struct ring){SECMALLOC_ISOLATE, 0, {SIZES[k]}, 0, OLDEST_FIRST});
}
END_TEST

/* Hidden pages stay locked while they rest: of them 1 MiB is all, however few frees that is. */
START_TEST(no_isolated_page_comes_back_early_when_sizes_are_mixed)
{
	const size_t third = way_require ? 100 : 9000;

	go_round_everywhere((struct ring){SECMALLOC_ISOLATE, 0, {32, 4000, third}, 0, ANYHOW});
}
END_TEST

/* ---------------------------------------------------------------------- remnants */

enum { HALF_BYTES = MARKER_BYTES / 2 }; /* half a marker counts as found */

static int
is_half(const unsigned char *bytes, size_t from)
{
	size_t k = 0;

	while (k < HALF_BYTES && bytes[k] == marker_byte(from + k))
		k++;
	return k == HALF_BYTES;
}

static size_t
marks_in(const unsigned char *bytes, size_t n, uintptr_t at, uintptr_t low, uintptr_t high)
{
	size_t count = 0;

	for (size_t i = 0; i + HALF_BYTES <= n; i++)
		if (at + i < low || at + i >= high)
			count += is_half(bytes + i, 0) || is_half(bytes + i, HALF_BYTES);
	return count;
}

/** struct scan - over the process's memory, accessible or not, but for [low, high) */
struct scan {
	int mem, pagemap;
	uintptr_t low, high;
	size_t pages; /* looked at */
	size_t marks;
};

/* Pages in memory only: the others of a reservation are many, and hold nothing. */
static void
scan_range(struct scan *s, uintptr_t from, uintptr_t to)
{
	static unsigned char *bytes;
	const size_t page = page_bytes();
	uint64_t entry[512];

	if (bytes == NULL)
		bytes = mmap(
			NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(bytes != MAP_FAILED);
	for (uintptr_t at = from; at < to; at += page) {
		const size_t k = (at - from) / page % 512;

		if (k == 0)
			MUST(pread(s->pagemap, entry, sizeof(entry), (off_t)(at / page * 8)) > 0);
		if (entry[k] >> 62 == 0 || at == (uintptr_t)bytes)
			continue;
		if (pread(s->mem, bytes, page, (off_t)at) != (ssize_t)page)
			continue;
		s->pages++;
		s->marks += marks_in(bytes, page, at, s->low, s->high);
	}
	memset(bytes, 0, page);
}

/** marks_but - halves of markers in memory elsewhere than in the n bytes at p */
static size_t
marks_but(const void *p, size_t n)
{
	struct scan s = {.low = (uintptr_t)p, .high = (uintptr_t)p + n};
	static char line[512];
	unsigned long from, to;
	FILE *maps = fopen("/proc/self/maps", "r");

	s.mem = open("/proc/self/mem", O_RDONLY);
	s.pagemap = open("/proc/self/pagemap", O_RDONLY);
	MUST(maps != NULL && s.mem >= 0 && s.pagemap >= 0);
	while (fgets(line, sizeof(line), maps) != NULL)
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && strstr(line, "[v") == NULL)
			scan_range(&s, from, to);
	MUST(fclose(maps) == 0 && close(s.mem) == 0 && close(s.pagemap) == 0);
	MUST(s.pages > 50);
	return s.marks;
}

/** struct resize - a marked chunk from one size to another */
struct resize {
	unsigned flags;
	size_t from, to; /* to 0: freed */
	int sealed;
};

static void
resize_marked(void *arg)
{
	const struct resize *z = arg;
	const struct play y = {.flags = z->flags};
	const size_t kept = z->from < z->to ? z->from : z->to;
	unsigned char *p, *q;

	start(&y);
	p = new_chunk(z->from, z->from, SEED);
	MUST(marks_but(NULL, 0) == 0);
	mark(p, z->from);
	MUST(marks_but(NULL, 0) == z->from / HALF_BYTES && marks_but(p, z->from) == 0);
	if (z->sealed)
		MUST(secmalloc_encrypt(p) == 0 && marks_but(NULL, 0) == 0);
	q = secrealloc(p, z->to);
	MUST((q != NULL) == (z->to > 0));
	MUST(marks_but(q, kept) == 0);
	MUST(marks_but(NULL, 0) == (z->sealed ? 0 : kept / HALF_BYTES));
	if (z->sealed && q != NULL)
		MUST(secmalloc_decrypt(q) == 0);
	MUST(marks_but(NULL, 0) == kept / HALF_BYTES);
	for (size_t i = kept; i < z->to; i++)
		MUST(q[i] == 0);
	secfree(q);
	MUST(marks_but(NULL, 0) == 0);
}

/** can_scan - whether this process's memory is the program's and the library's alone */
static int
can_scan(void)
{
	return !SANITIZED && !under_valgrind("scanning all memory");
}

START_TEST(moved_shrunk_and_freed_chunks_leave_nothing_behind)
{
	const size_t sizes[][2] = {{32, 16}, {32, 24}, {32, 200}, {32, 4000}, {32, 0}, {4000, 3992},
		{4000, 3700}, {4000, 32}, {4000, 4096}, {4000, 9000}, {4000, 70000}, {4000, 0}};
	const size_t n = can_scan() ? sizeof(sizes) / sizeof(sizes[0]) : 0;

	for (size_t i = 0; i < 4 * n; i++) {
		struct resize z = {i & 1 ? SECMALLOC_ISOLATE : 0, sizes[i / 4][0], sizes[i / 4][1],
			i & 2 ? 1 : 0};
		const struct outcome o = outcome_of(resize_marked, &z);

		ck_assert_msg(o.status == 0, "%s%s, %zu to %zu: status 0x%x: %s",
			z.sealed ? "sealed " : "", z.flags ? "isolated" : "packed", z.from, z.to,
			(unsigned)o.status, o.text);
	}
}
END_TEST

/* Several rounds, so that slots and pages are used again, by chunks of other sizes too. */
static void
recycle(void *arg)
{
	enum { MANY = 200, ROUNDS = 12 };
	const struct play *y = arg;
	unsigned char *many[MANY];

	start(y);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < MANY; i++) {
			const size_t size = y->size - (round + i) % 4 * 8;

			many[i] = new_chunk(size, 0, i);
			mark(many[i], size);
		}
		MUST(round > 0 || marks_but(NULL, 0) > MANY);
		for (unsigned i = 0; i < MANY; i++)
			secfree(many[(i * 37 + round) % MANY]);
	}
	MUST(marks_but(NULL, 0) == 0);
}

START_TEST(recycled_places_are_zero_and_what_is_free_holds_nothing)
{
	for (size_t k = 0; can_scan() && k < 2 * N_SIZES; k++) {
		struct play y = {.size = SIZES[k / 2], .flags = k % 2 ? SECMALLOC_ISOLATE : 0};

		assert_exits_0(recycle, &y);
	}
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, a_write_after_free_is_found_up_to_the_quarantines_depth);
	tcase_add_test(tc, a_double_free_is_found_up_to_the_quarantines_depth);
	tcase_add_test(tc, frees_that_come_all_at_once_do_not_end_the_rest);
	tcase_add_test(tc, what_rests_reads_as_zeros_or_not_at_all);
	tcase_add_test(tc, no_packed_address_comes_back_before_256_other_frees);
	tcase_add_test(tc, isolated_addresses_rest_for_256_frees_and_1_mib);
	tcase_add_test(tc, isolated_addresses_come_back_oldest_first);
	tcase_add_test(tc, no_isolated_page_comes_back_early_when_sizes_are_mixed);
}

int
main(void)
{
	Suite *s = suite_create("contract: misuse and the quarantine");
	TCase *limited = add_case(s, "limited", 0), *seen = add_case(s, "seen from outside", 0);

	add_ways(s, add_tests, 32 * MIB);
	tcase_add_test(limited, a_user_who_may_lock_little_has_the_same_depth);
	tcase_add_checked_fixture(seen, way_without_hidden, NULL);
	tcase_add_test(seen, moved_shrunk_and_freed_chunks_leave_nothing_behind);
	tcase_add_test(seen, recycled_places_are_zero_and_what_is_free_holds_nothing);
	return run(s);
}
