/*
 * check_contract_smaps.c - the contract, as the kernel sees it: locked, left out, guarded
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * What really holds is read from VmFlags in /proc/self/smaps: lo is locked, dd left out of
 * core dumps, wf wiped on fork, dc not copied by fork.
 */
#include "contract.h"
#include <fcntl.h>
#include <inttypes.h>

static const size_t SIZES[] = {
	0, 1, 16, 32, 100, 500, 1000, 4096, 10000, 16384, 16385, 40000, 65536};
#define N_SIZES (sizeof(SIZES) / sizeof(SIZES[0]))

static size_t
page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/** struct view - one reading of smaps */
struct view {
	size_t n;
	struct mapping {
		uintptr_t from, to;
		char flags[120];
	} m[2000];
};

/** look - read smaps */
static void
look(struct view *v)
{
	static char text[4 * 1024 * 1024];
	const int fd = open("/proc/self/smaps", O_RDONLY);
	size_t used = 0;
	ssize_t got;
	char *save = NULL;

	MUST(fd >= 0);
	while (used < sizeof(text) - 1 &&
		(got = read(fd, text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)got;
	MUST(used < sizeof(text) - 1);
	text[used] = '\0';
	close(fd);
	v->n = 0;
	for (char *l = strtok_r(text, "\n", &save); l != NULL; l = strtok_r(NULL, "\n", &save)) {
		struct mapping *m = &v->m[v->n];

		if (strncmp(l, "VmFlags:", 8) == 0 && v->n > 0)
			snprintf(m[-1].flags, sizeof(m[-1].flags), "%s ", l + 8);
		else if (v->n < 2000 &&
			 sscanf(l, "%" SCNxPTR "-%" SCNxPTR " ", &m->from, &m->to) == 2)
			v->n++;
	}
}

/** shows - whether the page at p has the flag, say " lo " */
static int
shows(const struct view *v, const void *p, const char *flag)
{
	const uintptr_t at = (uintptr_t)p;

	for (size_t i = 0; i < v->n; i++)
		if (v->m[i].from <= at && at < v->m[i].to)
			return strstr(v->m[i].flags, flag) != NULL;
	return 0;
}

/** all_pages_show - each page that holds a byte of p[0..n), and p itself where n is 0 */
static int
all_pages_show(const struct view *v, const unsigned char *p, size_t n, const char *flag)
{
	const uintptr_t page = page_size();
	uintptr_t at = (uintptr_t)p / page * page;

	do {
		if (!shows(v, (const void *)at, flag))
			return 0;
		at += page;
	} while (at < (uintptr_t)p + n);
	return 1;
}

static void
start(unsigned without, size_t pool_size, unsigned pools)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.without = without;
	c.pool_size = pool_size;
	c.initial_pools = pools;
	MUST(secmalloc_init(&c) == 0);
}

static void
chunks_show_their_flags(void *arg)
{
	static struct view v;
	const unsigned without = *(unsigned *)arg;
	unsigned char *p[N_SIZES];

	start(without, 0, 0);
	for (int round = 0; round < 4; round++) {
		for (size_t i = 0; i < N_SIZES; i++) {
			p[i] = secmalloc(SIZES[i]);
			MUST(p[i] != NULL);
			fill(p[i], SIZES[i], 1);
			if (round == 1)
				MUST(secmalloc_encrypt(p[i]) == 0 && secmalloc_decrypt(p[i]) == 0);
			if (round == 2)
				MUST((p[i] = secrealloc(p[i], SIZES[i] + 1)) != NULL);
		}
		look(&v);
		for (size_t i = 0; i < N_SIZES; i++) {
			MUST(all_pages_show(&v, p[i], SIZES[i], " lo ") ==
				!(without & SECMALLOC_LOCKED));
			MUST(all_pages_show(&v, p[i], SIZES[i], " dd "));
			MUST(all_pages_show(&v, p[i], SIZES[i], " wf ") ||
				all_pages_show(&v, p[i], SIZES[i], " dc "));
			if (without & SECMALLOC_HIDDEN)
				MUST(all_pages_show(&v, p[i], SIZES[i], " wf "));
		}
		for (size_t i = 0; i < N_SIZES && round % 2; i++)
			secfree(p[i]);
	}
}

START_TEST(each_page_of_a_chunk_is_locked_undumpable_and_not_for_children)
{
	unsigned without = 0;

	assert_exits_0(chunks_show_their_flags, &without);
	without = SECMALLOC_HIDDEN;
	assert_exits_0(chunks_show_their_flags, &without);
}
END_TEST

START_TEST(without_locked_says_the_truth_about_locks)
{
	unsigned without = SECMALLOC_HIDDEN | SECMALLOC_LOCKED;

	assert_exits_0(chunks_show_their_flags, &without);
}
END_TEST

/** struct reach - a byte beyond a large chunk */
struct reach {
	unsigned without;
	size_t size, alignment;
	ptrdiff_t offset;
};

static void
touch_beyond(void *arg)
{
	const struct reach *r = arg;
	unsigned char *p;

	start(r->without, 0, 0);
	p = r->alignment ? secaligned_alloc(r->alignment, r->size) : secmalloc(r->size);
	MUST(p != NULL);
	fill(p, r->size, 1);
	spoil(p, r->offset);
}

START_TEST(the_byte_behind_a_large_chunk_and_its_alignment_is_out_of_reach)
{
	const size_t sizes[] = {16400, 20000, 32768, 65536, 65537, 100001};

	for (size_t i = 0; i < 6; i++) {
		for (unsigned without = 0; without <= SECMALLOC_HIDDEN;
			without += SECMALLOC_HIDDEN) {
			struct reach r = {without, sizes[i], 0, 0};

			r.offset = (ptrdiff_t)((sizes[i] + 15) / 16 * 16);
			assert_segv(touch_beyond, &r);
			r.offset += 4095;
			assert_segv(touch_beyond, &r);
			r.offset = (ptrdiff_t)sizes[i] - 1;
			assert_exits_0(touch_beyond, &r);
			r.alignment = 4096;
			r.offset = (ptrdiff_t)((sizes[i] + 4095) / 4096 * 4096);
			assert_segv(touch_beyond, &r);
		}
	}
}
END_TEST

/** reaches_its_guards - from p, up and down, inaccessible pages come within `most` bytes */
static int
reaches_its_guards(const unsigned char *p, size_t most)
{
	for (int direction = -1; direction <= 1; direction += 2) {
		size_t far = 0;
		char byte;

		while (far <= most && peek(p + direction * (ptrdiff_t)far, &byte, 1) == 1)
			far += 256;
		if (far > most)
			return 0;
	}
	return 1;
}

static void
every_slab_has_guards(void *arg)
{
	const unsigned without = *(unsigned *)arg;

	start(without, MIB, 1);
	for (int k = 0; k < 40; k++) {
		for (size_t i = 0; i < N_SIZES; i++) {
			unsigned char *p = secmalloc(SIZES[i]);

			MUST(p != NULL);
			MUST(reaches_its_guards(p, 512 * KIB));
			if (SIZES[i] > 5000)
				secfree(p);
		}
	}
}

START_TEST(every_slab_lies_between_guard_pages)
{
	unsigned without = 0;

	assert_exits_0(every_slab_has_guards, &without);
	without = SECMALLOC_HIDDEN;
	assert_exits_0(every_slab_has_guards, &without);
}
END_TEST

/** struct rounds - 10,000 of them after the privileges have gone */
struct rounds {
	unsigned without;
	size_t limit;
	int by_default; /* init without fields, after the drop */
	size_t largest;
};

static void
round_trip(const struct rounds *r, unsigned k, struct view *v)
{
	static unsigned char *kept[8];
	static size_t sizes[8];
	const unsigned slot = k % 8;
	unsigned char *p;

	if (kept[slot] != NULL) {
		MUST(secmalloc_decrypt(kept[slot]) == 0);
		MUST(filled(kept[slot], sizes[slot], k - 8));
		secfree(kept[slot]);
	}
	sizes[slot] = SIZES[(k * 5 + k / 13) % N_SIZES];
	if (sizes[slot] > r->largest)
		sizes[slot] = r->largest;
	p = secmalloc(sizes[slot]);
	MUST(p != NULL);
	if (k % 16 == 0 || k < 200) {
		look(v);
		MUST(all_pages_show(v, p, sizes[slot], " lo "));
		MUST(all_pages_show(v, p, sizes[slot], " dd "));
	}
	fill(p, sizes[slot], k);
	MUST(secmalloc_encrypt(p) == 0);
	MUST(secmalloc_is_encrypted(p) == 1);
	MUST(k % 3 != 0 || secmalloc_decrypt(p) == 0);
	kept[slot] = p;
}

static void
rounds_after_the_drop(void *arg)
{
	static struct view v;
	const struct rounds *r = arg;

	if (!r->by_default)
		start(r->without, MIB, 1);
	drop_to(r->limit);
	if (r->by_default)
		start(r->without, 0, 0);
	for (unsigned k = 0; k < 10000; k++)
		round_trip(r, k, &v);
}

START_TEST(initial_pools_serve_after_setuid_and_a_limit_of_0)
{
	struct rounds r = {0, 0, 0, 65536};

	if (!may_drop(__func__))
		return;
	assert_exits_0(rounds_after_the_drop, &r);
	r.without = SECMALLOC_HIDDEN;
	assert_exits_0(rounds_after_the_drop, &r);
}
END_TEST

START_TEST(the_unprivileged_get_what_64_kib_of_lockable_memory_hold)
{
	struct rounds r = {0, 64 * KIB, 1, 500};

	if (!may_drop(__func__))
		return;
	assert_exits_0(rounds_after_the_drop, &r);
	r.without = SECMALLOC_HIDDEN;
	assert_exits_0(rounds_after_the_drop, &r);
}
END_TEST

/** until_enomem - allocate: what is handed out is locked, and then ENOMEM says why */
static void
until_enomem(void *arg)
{
	static unsigned char *all[100000];
	static struct view v;
	const struct rounds *r = arg;
	size_t n = 0, least;

	if (!r->by_default)
		start(r->without, MIB, 1);
	drop_to(r->limit);
	if (r->by_default)
		start(r->without, 0, 0);
	errno = 0;
	while (n < 100000 && (all[n] = secmalloc(r->largest)) != NULL)
		fill(all[n++], r->largest, 1);
	MUST(n < 100000 && errno == ENOMEM);
	MUST(strstr(secmalloc_error(), "RLIMIT_MEMLOCK") != NULL);
	least = r->by_default ? 2 * page_size() : 512 * KIB;
	MUST(n * (r->largest + 64) >= least);
	look(&v);
	for (size_t i = 0; i < n; i++)
		MUST(all_pages_show(&v, all[i], r->largest, " lo "));
	for (size_t i = 0; i < n; i++) {
		MUST(filled(all[i], r->largest, 1));
		secfree(all[i]);
	}
	MUST(secmalloc(r->largest) != NULL);
}

START_TEST(beyond_the_limit_is_enomem_and_never_unlocked_memory)
{
	struct rounds r = {0, 0, 0, 64};

	if (!may_drop(__func__))
		return;
	for (int hidden = 0; hidden < 2; hidden++) {
		for (int by_default = 0; by_default < 2; by_default++) {
			r = (struct rounds){hidden ? 0 : SECMALLOC_HIDDEN, 0, by_default, 64};
			r.limit = by_default ? 64 * KIB : 0;
			assert_exits_0(until_enomem, &r);
			r.largest = 1000;
			assert_exits_0(until_enomem, &r);
		}
	}
}
END_TEST

static void
nothing_may_be_locked(void *arg)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	(void)arg;
	drop_to(0);
	MUST_FAIL(EPERM, -1, secmalloc_init(NULL));
	MUST(strstr(secmalloc_error(), "RLIMIT_MEMLOCK") != NULL);
	MUST_FAIL(EPERM, NULL, secmalloc(10));
	MUST_FAIL(EPERM, NULL, secstrdup("clear"));
	c.pool_size = 16 * KIB;
	MUST_FAIL(EPERM, -1, secmalloc_init(&c));
	c.without = SECMALLOC_HIDDEN;
	MUST_FAIL(EPERM, -1, secmalloc_init(&c));
	MUST(secmalloc_stats(&s) == 0 && s.pools == 0 && s.locked_bytes == 0);
	c.without = SECMALLOC_LOCKED;
	MUST(secmalloc_init(&c) == 0);
	MUST(secmalloc_stats(&s) == 0 && (s.granted & SECMALLOC_LOCKED) == 0);
	MUST(secmalloc(10) != NULL);
}

START_TEST(a_limit_of_0_is_eperm_unless_locks_are_not_wanted)
{
	if (may_drop(__func__))
		assert_exits_0(nothing_may_be_locked, NULL);
}
END_TEST

static void
explicit_sizes_under_64_kib(void *arg)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	(void)arg;
	drop_to(64 * KIB);
	c.pool_size = MIB;
	MUST_FAIL(ENOMEM, -1, secmalloc_init(&c));
	c.without = SECMALLOC_HIDDEN;
	MUST_FAIL(ENOMEM, -1, secmalloc_init(&c));
	c.pool_size = 16 * KIB;
	c.initial_pools = 100;
	MUST_FAIL(ENOMEM, -1, secmalloc_init(&c));
	c.initial_pools = (unsigned)-1;
	MUST_FAIL(ENOMEM, -1, secmalloc_init(&c));
	for (int again = 0; again < 20; again++) {
		c.initial_pools = 1 + (unsigned)again % 2;
		c.without = again % 3 ? SECMALLOC_HIDDEN : 0;
		MUST(secmalloc_init(&c) == 0);
		MUST(secmalloc_stats(&s) == 0 && s.pool_bytes == c.initial_pools * 16 * KIB);
		MUST(s.locked_bytes <= 64 * KIB);
		MUST(secmalloc(100) != NULL);
		MUST(secmalloc_term() == 0);
	}
}

START_TEST(failed_and_ended_starts_give_every_lock_back)
{
	if (may_drop(__func__))
		assert_exits_0(explicit_sizes_under_64_kib, NULL);
}
END_TEST

int
main(void)
{
	Suite *s;
	TCase *tc;

	if (under_valgrind("contract: smaps"))
		return SKIPPED;
	s = suite_create("contract: smaps");
	tc = add_case(s, "smaps", 0);
	tcase_add_test(tc, each_page_of_a_chunk_is_locked_undumpable_and_not_for_children);
	tcase_add_test(tc, without_locked_says_the_truth_about_locks);
	tcase_add_test(tc, the_byte_behind_a_large_chunk_and_its_alignment_is_out_of_reach);
	tcase_add_test(tc, every_slab_lies_between_guard_pages);
	tcase_add_test(tc, initial_pools_serve_after_setuid_and_a_limit_of_0);
	tcase_add_test(tc, the_unprivileged_get_what_64_kib_of_lockable_memory_hold);
	tcase_add_test(tc, beyond_the_limit_is_enomem_and_never_unlocked_memory);
	tcase_add_test(tc, a_limit_of_0_is_eperm_unless_locks_are_not_wanted);
	tcase_add_test(tc, failed_and_ended_starts_give_every_lock_back);
	return run(s);
}
