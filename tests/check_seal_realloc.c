/*
 * check_seal_realloc.c - the seal room from inside: resizing closed, open and protected chunks
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include "seal/inside.h"
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

/** writable - whether the kernel would write the byte at p; if so, it is zero now */
static bool
writable(void *p)
{
	int fds[2];
	bool yes;

	EACH(pipe(fds) == 0 && write(fds[1], "", 1) == 1);
	yes = read(fds[0], launder(p), 1) == 1;
	close(fds[0]);
	close(fds[1]);
	return yes;
}

/** assert_wiped - zero, on pages still in use and on those given back */
static void
assert_wiped(const unsigned char *from, size_t n)
{
	const struct sm_region *r = sm_region_of(from);

	for (size_t i = 0; i < n;) {
		size_t page = ((uintptr_t)(from + i) - (uintptr_t)r->base) / PAGE;
		size_t rest = (page + 1) * PAGE - ((uintptr_t)(from + i) - (uintptr_t)r->base);
		unsigned char *base = r->base + page * PAGE;
		bool shut = !readable(base), marked = sm_pool_of(r, page)->marked;

		rest = rest < n - i ? rest : n - i;
		EACH(shut || sm_run_at(r, page).used);
		if (!shut || !marked) { /* pages behind a marker are gone */
			EACH(!shut || sm_os_access(base, PAGE, SECMALLOC_READWRITE) == 0);
			EACH(all_zero(from + i, rest));
			EACH(!shut || sm_os_guard(base, PAGE) == 0);
		}
		i += rest;
	}
}

/** assert_counts - what the counters say of this many chunks of so many bytes in all */
static void
assert_counts(uint64_t chunks, uint64_t bytes, uint64_t closed, uint64_t bytes_closed)
{
	const struct secmalloc_stats s = stats_now();

	ck_assert_uint_eq(s.chunks, chunks);
	ck_assert_uint_eq(s.bytes, bytes);
	ck_assert_uint_eq(s.chunks_encrypted, closed);
	ck_assert_uint_eq(s.bytes_clear, bytes - bytes_closed);
	ck_assert_uint_eq(s.tampered, 0);
}

/** chunk_of - n bytes of the content numbered seed, closed or open */
static unsigned char *
chunk_of(size_t n, unsigned seed, bool closed)
{
	unsigned char *p = launder(secmalloc(n));

	ck_assert_msg(p != NULL, "%s", secmalloc_error());
	fill(p, n, seed);
	ck_assert_int_eq(closed ? secmalloc_encrypt(p) : 0, 0);
	return p;
}

/** assert_holds - size bytes, of which the first `kept` are the content numbered seed */
static void
assert_holds(unsigned char *p, size_t size, size_t kept, unsigned seed, bool closed)
{
	ck_assert_uint_eq(secmalloc_usable_size(p), size);
	ck_assert_int_eq(secmalloc_is_encrypted(p), closed);
	if (closed && kept > 8)
		ck_assert(!filled(p, kept, seed));
	ck_assert_msg(secmalloc_decrypt(p) == 0, "%s", secmalloc_error());
	ck_assert(filled(p, kept, seed) && all_zero(p + kept, size - kept));
}

/* --------------------------------------------------------- it succeeds */

struct resize {
	size_t from, to;
	bool moves;
};

static const struct resize resizes[] = {
	{ 0, 16, false }, { 1, 16, false }, { 16, 1, false }, { 16, 17, true }, { 17, 16, true },
	{ 97, 112, false }, { 112, 97, false }, { 100, 100, false }, { 100, 1000, true },
	{ 1000, 100, true }, { 16384, 14337, false }, { 100, 16384, true }, { 16384, 3, true },
	{ 100, 20000, true }, { 20000, 100, true }, { 16384, 16385, true },
	{ 16385, 16384, true }, { 16385, 16400, false }, { 20001, 20008, false },
	{ 20008, 20001, false }, { 20001, 60000, true }, { 60000, 20001, true },
	{ 60000, 60032, true }, { 3, 300000, true }, { 300000, 3, true },
};
enum { RESIZES = sizeof(resizes) / sizeof(resizes[0]) };

START_TEST(realloc_keeps_content_and_state_and_wipes_the_old_place)
{
	const struct resize *z = &resizes[_i / 2];
	const bool closed = _i % 2;
	const size_t kept = z->from < z->to ? z->from : z->to;
	unsigned char *p, *q;
	struct spot s;
	size_t place;

	start(200, 1, 0);
	p = chunk_of(z->from, 4, closed);
	s = spot_of(p);
	place = s.run.kind == SM_KIND_SLAB ? sm_classes[s.run.class].stride - SM_CANARY_BYTES
					   : (size_t)(s.base + s.run.pages * PAGE - p);
	q = secrealloc(p, z->to);
	ck_assert_msg(q != NULL, "%s", secmalloc_error());
	ck_assert_int_eq(q != p, z->moves);
	assert_counts(1, z->to, closed, closed ? z->to : 0);
	if (z->moves) {
		assert_wiped(p - SM_CANARY_BYTES, place + SM_CANARY_BYTES);
		ck_assert(!secmalloc_owns(p));
	}
	assert_holds(q, z->to, kept, 4, closed);
	memset(q, 0xff, z->to);
	ck_assert_int_eq(secmalloc_encrypt(q), 0);
	secfree(q);
	assert_counts(0, 0, 0, 0);
}
END_TEST

START_TEST(bytes_shrunk_away_are_zero_when_they_come_back)
{
	static const struct resize there_and_back[] = { { 112, 97, false }, { 16384, 14337, false },
		{ 20016, 20001, false } };

	start(0, 1, 0);
	for (size_t i = 0; i < 6; i++) {
		const struct resize *z = &there_and_back[i / 2];
		unsigned char *p = chunk_of(z->from, 6, i % 2);

		ck_assert_ptr_eq(secrealloc(p, z->to), p);
		ck_assert_ptr_eq(secrealloc(p, z->from), p);
		assert_holds(p, z->from, z->to, 6, i % 2);
		secfree(p);
	}
}
END_TEST

START_TEST(an_aligned_chunk_is_resized_like_any_other)
{
	start(0, 1, 0);
	for (size_t i = 0; i < RESIZES * 2; i++) {
		const struct resize *z = &resizes[i / 2];
		size_t kept = z->from < z->to ? z->from : z->to;
		unsigned char *p = launder(secaligned_alloc(16u << i % 8, z->from));

		fill(p, z->from, 8);
		ck_assert_int_eq(i % 2 ? secmalloc_encrypt(p) : 0, 0);
		p = secrealloc(p, z->to);
		ck_assert_msg(p != NULL, "%s", secmalloc_error());
		assert_holds(p, z->to, kept, 8, i % 2);
		secfree(p);
	}
	assert_counts(0, 0, 0, 0);
}
END_TEST

/* ------------------------------------------------------------- it fails */

/** fill_up - allocate n bytes at a time until nothing is left */
static size_t
fill_up(size_t n)
{
	size_t count = 0;

	while (secmalloc(n) != NULL)
		count++;
	ck_assert_int_eq(errno, ENOMEM);
	return count;
}

START_TEST(realloc_that_fails_changes_nothing)
{
	static const size_t from[] = { 0, 16, 100, 1000, 16384, 16385, 20001 };
	const bool closed = _i % 2;
	const size_t n = from[_i / 2];
	unsigned char *p;
	struct sm_chunk before;

	start(8, 1, 1);
	p = chunk_of(n, 2, closed);
	before = *record_of(p);
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, 40000));
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, launder_size(SIZE_MAX / 2)));
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, launder_size(SIZE_MAX)));
	assert_counts(1, n, closed, closed ? n : 0);
	ck_assert_uint_eq(record_of(p)->generation, before.generation);
	ck_assert_uint_eq(record_of(p)->veil, before.veil);
	assert_holds(p, n, n, 2, closed);
	secfree(p);
	assert_counts(0, 0, 0, 0);
	ck_assert_ptr_nonnull(secmalloc(20001));
}
END_TEST

START_TEST(a_packed_chunk_shrinks_even_where_nothing_is_left)
{
	unsigned char *p[2];
	size_t others;

	start(8, 1, 1);
	for (size_t i = 0; i < 2; i++)
		p[i] = chunk_of(1000, (unsigned)i, i);
	others = fill_up(1000);
	for (size_t i = 0; i < 2; i++)
		for (size_t n = 900; n > 0; n /= 3) {
			ck_assert_ptr_eq(secrealloc(p[i], n), p[i]);
			ck_assert_int_eq(secmalloc_is_encrypted(p[i]), i);
		}
	assert_counts(2 + others, 2 + others * 1000, 1, 1);
	for (size_t i = 0; i < 2; i++) {
		assert_holds(p[i], 1, 1, (unsigned)i, i);
		ck_assert_ptr_eq(secrealloc(p[i], 1000), p[i]);
		assert_holds(p[i], 1000, 1, (unsigned)i, false);
	}
}
END_TEST

START_TEST(realloc_of_a_tampered_chunk_is_refused_wherever_it_would_go)
{
	static const struct resize there[] = { { 100, 105, false }, { 100, 90, true },
		{ 100, 9000, true }, { 20001, 20005, false }, { 20001, 50, true } };

	start(0, 1, 0);
	for (size_t i = 0; i < sizeof(there) / sizeof(there[0]); i++) {
		const size_t n = there[i].from;
		unsigned char *p = chunk_of(n, 9, true);
		struct sm_chunk before = *record_of(p);

		p[n / 2] ^= 4;
		FAILS_WITH(EBADMSG, NULL, secrealloc(p, there[i].to));
		ck_assert_int_eq(memcmp(before.tag, record_of(p)->tag, sizeof(before.tag)), 0);
		ck_assert_uint_eq(record_of(p)->size, n);
		ck_assert_uint_eq(stats_now().chunks, i + 1);
		p[n / 2] ^= 4;
		assert_holds(p, n, n, 9, true);
	}
}
END_TEST

/* ------------------------------------------------------------ protected */

static const enum secmalloc_access accesses[] = { SECMALLOC_NOACCESS, SECMALLOC_READONLY };

/** assert_access - of every page of a large chunk, as its record says too */
static void
assert_access(unsigned char *p, enum secmalloc_access a)
{
	struct spot s = spot_of(p);

	ck_assert_int_eq(record_of(p)->access, a);
	ck_assert(s.run.kind == SM_KIND_LARGE && record_of(p)->own_pages);
	for (size_t page = 0; page < s.run.pages; page++) {
		EACH(readable(s.base + page * PAGE) == (a != SECMALLOC_NOACCESS));
		EACH(writable(s.base + page * PAGE) == (a == SECMALLOC_READWRITE));
	}
}

/** unprotect - make the bytes plain again, to be looked at */
static void
unprotect(unsigned char *p)
{
	ck_assert_int_eq(secmalloc_protect(p, SECMALLOC_READWRITE), 0);
	ck_assert(readable(p));
}

START_TEST(realloc_keeps_the_protection_of_a_large_chunk)
{
	static const size_t to[] = { 1, 100, 16384, 20002, 20016, 20017, 60000 };
	const enum secmalloc_access a = accesses[_i / 2];
	const bool closed = _i % 2;

	start(64, 1, 0);
	for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++) {
		unsigned char *p = chunk_of(20001, 3, closed), *q;

		ck_assert_int_eq(secmalloc_protect(p, a), 0);
		assert_access(p, a);
		q = secrealloc(p, to[i]);
		ck_assert_msg(q != NULL, "%s", secmalloc_error());
		assert_access(q, a);
		assert_counts(1, to[i], closed, closed ? to[i] : 0);
		if (q != p)
			assert_wiped(p - SM_CANARY_BYTES, 20001 + SM_CANARY_BYTES);
		unprotect(q);
		assert_holds(q, to[i], to[i] < 20001 ? to[i] : 20001, 3, closed);
		secfree(q);
	}
}
END_TEST

START_TEST(realloc_that_fails_keeps_the_protection)
{
	const enum secmalloc_access a = accesses[_i / 2];
	const bool closed = _i % 2;
	unsigned char *p;

	start(8, 1, 1);
	p = chunk_of(20001, 3, closed);
	ck_assert_int_eq(secmalloc_protect(p, a), 0);
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, 50000));
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, 19000));
	assert_access(p, a);
	assert_counts(1, 20001, closed, closed ? 20001 : 0);
	unprotect(p);
	assert_holds(p, 20001, 20001, 3, closed);
}
END_TEST

START_TEST(closing_and_opening_keep_the_protection)
{
	const enum secmalloc_access a = accesses[_i / 2];
	const bool all = _i % 2;
	unsigned char *p;

	start(0, 1, 0);
	p = chunk_of(50000, 5, false);
	ck_assert_int_eq(secmalloc_protect(p, a), 0);
	SUCCEEDS(all ? secmalloc_encrypt_all() : secmalloc_encrypt(p));
	assert_access(p, a);
	SUCCEEDS(all ? secmalloc_decrypt_all() : secmalloc_decrypt(p));
	assert_access(p, a);
	SUCCEEDS(secmalloc_encrypt(p));
	unprotect(p);
	p[100] ^= 1;
	ck_assert_int_eq(secmalloc_protect(p, a), 0);
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(p));
	assert_access(p, a);
	unprotect(p);
	p[100] ^= 1;
	assert_holds(p, 50000, 50000, 5, true);
	ck_assert_int_eq(secmalloc_protect(p, a), 0);
	secfree(p);
	assert_wiped(p - SM_CANARY_BYTES, 50000);
}
END_TEST

START_TEST(pages_that_cannot_be_opened_leave_everything_as_it_was)
{
	const enum secmalloc_access a = accesses[_i / 2];
	const bool closed = _i % 2;
	unsigned char *p;

	start(0, 1, 0);
	p = chunk_of(20001, 7, closed);
	ck_assert_int_eq(secmalloc_protect(p, a), 0);
	refused_prot = PROT_READ | PROT_WRITE;
	FAILS_WITH(ENOMEM, -1, closed ? secmalloc_decrypt(p) : secmalloc_encrypt(p));
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, 20005));
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, 60000));
	FAILS_WITH(ENOMEM, -1, secmalloc_protect(p, SECMALLOC_READWRITE));
	refused_prot = -1;
	assert_access(p, a);
	assert_counts(1, 20001, closed, closed ? 20001 : 0);
	unprotect(p);
	assert_holds(p, 20001, 20001, 7, closed);
}
END_TEST

START_TEST(a_protection_that_cannot_be_restored_is_said_to_be_gone)
{
	static const size_t to[] = { 20005, 60000 };
	static const int prots[] = { PROT_NONE, PROT_READ };
	const bool closed = _i % 2;
	unsigned char *p;

	for (size_t i = 0; i < 2; i++) {
		start(0, 1, 0);
		p = chunk_of(20001, 7, closed);
		ck_assert_int_eq(secmalloc_protect(p, accesses[_i / 2]), 0);
		refused_prot = prots[_i / 2];
		FAILS_WITH(ENOMEM, NULL, secrealloc(p, to[i]));
		refused_prot = -1;
		ck_assert_int_eq(record_of(p)->access, SECMALLOC_READWRITE);
		ck_assert_uint_eq(stats_now().chunks, 1);
		ck_assert_int_eq(secmalloc_is_encrypted(p), closed);
		ck_assert_int_eq(secmalloc_decrypt(p), 0);
		ck_assert(filled(p, 20001, 7));
		secfree(p);
		ck_assert_int_eq(secmalloc_term(), 0);
	}
}
END_TEST

START_TEST(a_place_that_was_protected_is_plain_in_its_next_life)
{
	unsigned char *p;

	start(8, 1, 1);
	for (size_t i = 0; i < 4; i++) {
		p = chunk_of(20001, 1, i % 2);
		ck_assert_int_eq(secmalloc_protect(p, accesses[i / 2]), 0);
		secfree(p);
		ck_assert_ptr_eq(secmalloc(20001), p);
		ck_assert_int_eq(record_of(p)->access, SECMALLOC_READWRITE);
		ck_assert(all_zero(p, 20001));
		fill(p, 20001, 1);
		assert_holds(p, 20001, 20001, 1, false);
		secfree(p);
	}
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("seal_realloc");
	TCase *tc = add_case(s, "it succeeds", 0);

	tcase_add_loop_test(tc, realloc_keeps_content_and_state_and_wipes_the_old_place, 0,
		RESIZES * 2);
	tcase_add_test(tc, bytes_shrunk_away_are_zero_when_they_come_back);
	tcase_add_test(tc, an_aligned_chunk_is_resized_like_any_other);
	tc = add_case(s, "it fails", 0);
	tcase_add_loop_test(tc, realloc_that_fails_changes_nothing, 0, 14);
	tcase_add_test(tc, a_packed_chunk_shrinks_even_where_nothing_is_left);
	tcase_add_test(tc, realloc_of_a_tampered_chunk_is_refused_wherever_it_would_go);
	tc = add_case(s, "protected", 0);
	tcase_add_loop_test(tc, realloc_keeps_the_protection_of_a_large_chunk, 0, 4);
	tcase_add_loop_test(tc, realloc_that_fails_keeps_the_protection, 0, 4);
	tcase_add_loop_test(tc, closing_and_opening_keep_the_protection, 0, 4);
	tcase_add_loop_test(tc, pages_that_cannot_be_opened_leave_everything_as_it_was, 0, 4);
	tcase_add_loop_test(tc, a_protection_that_cannot_be_restored_is_said_to_be_gone, 0, 4);
	tcase_add_test(tc, a_place_that_was_protected_is_plain_in_its_next_life);
	return run_rooms(s);
}
