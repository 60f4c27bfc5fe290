/*
 * check_contract_memory.c - the contract: allocating, resizing, protecting
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"

static const size_t SIZES[] = {0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 255, 256, 1000,
	4000, 4096, 4097, 8192, 12345, 16383, 16384, 16385, 20001, 65536, 100003, 262144};
#define N_SIZES (sizeof(SIZES) / sizeof(SIZES[0]))

/** assert_wiped - at p there is nothing, or nothing but zeros */
static void
assert_wiped(const void *p, size_t n)
{
	unsigned char seen[1024];

	n = n < sizeof(seen) ? n : sizeof(seen);
	memset(seen, 0, sizeof(seen));
	if (peek(p, seen, n) > 0)
		ck_assert(all_zero(seen, n));
}

START_TEST(a_chunk_is_zero_aligned_exact_and_open)
{
	void *p;

	for (size_t i = 0; i < N_SIZES; i++) {
		errno = ENOTTY;
		p = secmalloc(SIZES[i]);
		ck_assert_msg(p != NULL, "%zu: %s", SIZES[i], secmalloc_error());
		ck_assert_int_eq(errno, ENOTTY);
		ck_assert_uint_eq((uintptr_t)p % 16, 0);
		ck_assert(all_zero(p, SIZES[i]));
		ck_assert_uint_eq(secmalloc_usable_size(p), SIZES[i]);
		ck_assert_int_eq(secmalloc_owns(p), 1);
		ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
		memset(p, 0xff, SIZES[i]);
		secfree(p);
		ck_assert_int_eq(errno, ENOTTY);
		ck_assert_int_eq(secmalloc_owns(p), 0);
		FAILS_WITH(EINVAL, 0, secmalloc_usable_size(p));
	}
}
END_TEST

START_TEST(chunks_used_again_are_zero)
{
	void *p[64];

	for (int round = 0; round < 40; round++) {
		for (size_t i = 0; i < 64; i++) {
			const size_t n = SIZES[i % 23];

			p[i] = secmalloc(n);
			ck_assert_msg(p[i] != NULL, "%s", secmalloc_error());
			ck_assert(all_zero(p[i], n));
			memset(p[i], 0xee, n);
		}
		for (size_t i = 0; i < 64; i++)
			secfree(p[i]);
	}
}
END_TEST

START_TEST(a_freed_chunk_is_wiped)
{
	for (size_t i = 1; i < N_SIZES; i++) {
		void *p = secmalloc(SIZES[i]), *other = secmalloc(SIZES[i]);

		fill(p, SIZES[i], 3);
		secfree(p);
		assert_wiped(p, SIZES[i]);
		secfree(other);
	}
}
END_TEST

START_TEST(many_live_chunks_keep_their_content_apart)
{
	enum { N = 4000 };
	static unsigned char *p[N];

	for (unsigned i = 0; i < N; i++) {
		p[i] = secmalloc(SIZES[i % 17]);
		ck_assert_msg(p[i] != NULL, "%s", secmalloc_error());
		fill(p[i], SIZES[i % 17], i);
	}
	for (unsigned i = 0; i < N; i += 2) {
		ck_assert(filled(p[i], SIZES[i % 17], i));
		secfree(p[i]);
	}
	for (unsigned i = 1; i < N; i += 2)
		ck_assert(filled(p[i], SIZES[i % 17], i));
}
END_TEST

START_TEST(chunks_of_no_bytes_are_unique)
{
	void *p[500];

	for (size_t i = 0; i < 500; i++) {
		p[i] = i % 3 == 0 ? secmalloc(0) : i % 3 == 1 ? seccalloc(0, 7) : seccalloc(7, 0);
		ck_assert_ptr_nonnull(p[i]);
		ck_assert_int_eq(secmalloc_owns(p[i]), 1);
		for (size_t j = 0; j < i; j++)
			ck_assert_ptr_ne(p[i], p[j]);
	}
	for (size_t i = 0; i < 500; i++)
		secfree(p[i]);
}
END_TEST

START_TEST(impossible_sizes_and_products_are_enomem)
{
	const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 15, SIZE_MAX - 16,
		SIZE_MAX - 4095, SIZE_MAX - 8192, SIZE_MAX / 2 + 1, SIZE_MAX / 2, SIZE_MAX / 4};
	char *p = secstrdup("untouched");

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		const size_t n = launder_size(sizes[i]);

		FAILS_WITH(ENOMEM, NULL, secmalloc(n));
		FAILS_WITH(ENOMEM, NULL, seccalloc(n, 1));
		FAILS_WITH(ENOMEM, NULL, seccalloc(1, n));
		FAILS_WITH(ENOMEM, NULL, seccalloc(n / 2 + 1, 8));
		FAILS_WITH(ENOMEM, NULL, seccalloc(n, n));
		FAILS_WITH(ENOMEM, NULL, secrealloc(NULL, n));
		FAILS_WITH(ENOMEM, NULL, secrealloc(p, n));
		FAILS_WITH(ENOMEM, NULL, secaligned_alloc(16, n));
		FAILS_WITH(ENOMEM, NULL, secaligned_alloc(4096, n));
		ck_assert_str_eq(p, "untouched");
	}
	ck_assert_uint_eq(stats_now().chunks, 1);
	ck_assert_uint_eq(secmalloc_usable_size(seccalloc(launder_size(25), 4)), 100);
}
END_TEST

START_TEST(alignments_up_to_a_page_are_honoured_and_others_einval)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const size_t bad[] = {
		0, 3, 5, 6, 12, 24, 48, 100, 4095, page + 1, 2 * page, SIZE_MAX, SIZE_MAX / 2 + 1};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		FAILS_WITH(EINVAL, NULL, secaligned_alloc(launder_size(bad[i]), 64));
		FAILS_WITH(EINVAL, NULL, secaligned_alloc(launder_size(bad[i]), 0));
	}
	for (size_t a = 1; a <= page; a *= 2) {
		for (size_t i = 0; i < N_SIZES; i++) {
			unsigned char *p = secaligned_alloc(a, SIZES[i]);

			ck_assert_msg(p != NULL, "%zu, %zu: %s", a, SIZES[i], secmalloc_error());
			ck_assert_uint_eq((uintptr_t)p % a, 0);
			ck_assert_uint_eq((uintptr_t)p % 16, 0);
			ck_assert_uint_eq(secmalloc_usable_size(p), SIZES[i]);
			ck_assert(all_zero(p, SIZES[i]));
			fill(p, SIZES[i], 9);
			ck_assert_int_eq(secmalloc_encrypt(p), 0);
			ck_assert_int_eq(secmalloc_decrypt(p), 0);
			ck_assert(filled(p, SIZES[i], 9));
			secfree(p);
		}
	}
}
END_TEST

START_TEST(realloc_keeps_the_old_bytes_and_zeroes_the_new_ones)
{
	for (size_t i = 0; i < N_SIZES; i++) {
		for (size_t j = 1; j < N_SIZES; j++) {
			const size_t from = SIZES[i], to = SIZES[j], least = from < to ? from : to;
			unsigned char *p = secmalloc(from), *q;

			ck_assert_ptr_nonnull(p);
			fill(p, from, (unsigned)i);
			errno = ENOTTY;
			q = secrealloc(p, to);
			ck_assert_msg(q != NULL, "%zu to %zu: %s", from, to, secmalloc_error());
			ck_assert_int_eq(errno, ENOTTY);
			ck_assert_uint_eq(secmalloc_usable_size(q), to);
			ck_assert_uint_eq((uintptr_t)q % 16, 0);
			ck_assert(filled(q, least, (unsigned)i));
			ck_assert(all_zero(q + least, to - least));
			if (q != p)
				ck_assert_int_eq(secmalloc_owns(p), 0);
			if (q + to <= p || p + from <= q)
				assert_wiped(p, from);
			secfree(q);
		}
	}
	ck_assert_uint_eq(stats_now().chunks, 0);
}
END_TEST

START_TEST(bytes_given_up_and_taken_back_are_zero)
{
	for (size_t i = 2; i < N_SIZES; i++) {
		unsigned char *p = secmalloc(SIZES[i]);

		memset(p, 0xff, SIZES[i]);
		p = secrealloc(p, SIZES[i] - SIZES[i] / 8 - 1);
		p = secrealloc(p, SIZES[i]);
		ck_assert(all_zero(p + SIZES[i] - SIZES[i] / 8 - 1, SIZES[i] / 8 + 1));
		secfree(p);
	}
}
END_TEST

START_TEST(realloc_of_null_allocates_and_to_0_frees)
{
	void *p = secrealloc(NULL, 40), *q = secrealloc(NULL, 0);

	ck_assert(p != NULL && q != NULL);
	ck_assert_uint_eq(secmalloc_usable_size(p), 40);
	ck_assert_int_eq(secmalloc_owns(q), 1);
	fill(p, 40, 1);
	errno = ENOTTY;
	ck_assert_ptr_null(secrealloc(p, 0));
	ck_assert_int_eq(errno, ENOTTY);
	ck_assert_int_eq(secmalloc_owns(p), 0);
	assert_wiped(p, 40);
	ck_assert_ptr_null(secrealloc(q, 0));
	ck_assert_uint_eq(stats_now().chunks, 0);
}
END_TEST

START_TEST(a_size_stays_after_realloc_fails_for_want_of_memory)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	void *p;

	ck_assert_int_eq(secmalloc_term(), 0);
	c.pool_size = 256 * KIB;
	c.max_pools = 1;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	p = secmalloc(30000);
	ck_assert_ptr_nonnull(p);
	fill(p, 30000, 4);
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, 300000));
	ck_assert_uint_eq(secmalloc_usable_size(p), 30000);
	ck_assert(filled(p, 30000, 4));
	secfree(p);
}
END_TEST

START_TEST(strings_are_copied_to_exact_chunks)
{
	const char word[] = "a correct horse";
	char *p;

	p = secstrdup(word);
	ck_assert_str_eq(p, word);
	ck_assert_uint_eq(secmalloc_usable_size(p), sizeof(word));
	p = secstrdup("");
	ck_assert_str_eq(p, "");
	ck_assert_uint_eq(secmalloc_usable_size(p), 1);
	p = secstrndup(word, 9);
	ck_assert_str_eq(p, "a correct");
	ck_assert_uint_eq(secmalloc_usable_size(p), 10);
	p = secstrndup(word, launder_size(SIZE_MAX));
	ck_assert_str_eq(p, word);
	ck_assert_uint_eq(secmalloc_usable_size(p), sizeof(word));
	p = secstrndup(word, 0);
	ck_assert_uint_eq(secmalloc_usable_size(p), 1);
	FAILS_WITH(EINVAL, NULL, secstrdup(launder(NULL)));
	FAILS_WITH(EINVAL, NULL, secstrndup(launder(NULL), 0));
	FAILS_WITH(EINVAL, NULL, secstrndup(launder(NULL), 10));
}
END_TEST

START_TEST(strndup_reads_no_byte_behind_n)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *two =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p;

	ck_assert_ptr_ne(two, MAP_FAILED);
	ck_assert_int_eq(mprotect(two + page, page, PROT_NONE), 0);
	memset(two, 'x', page);
	p = secstrndup(two + page - 5, 5);
	ck_assert_str_eq(p, "xxxxx");
	munmap(two, 2 * page);
}
END_TEST

START_TEST(what_is_not_a_chunk_is_not_owned_and_has_no_size)
{
	static int still;
	int here;
	char *small = secmalloc(100), *large = secmalloc(50000), *heap = malloc(100), *gone;
	const void *foreign[] = {&still, &here, heap, "text", small + 1, small + 16, small - 16,
		large + 4096, large + 50000, large - 1, (void *)8, (void *)UINTPTR_MAX,
		(void *)(UINTPTR_MAX / 2 + 1), (void *)0xdeadbeefdeadbee0u};

	for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
		void *p = launder(foreign[i]);

		errno = 0;
		ck_assert_int_eq(secmalloc_owns(p), 0);
		ck_assert_int_eq(errno, 0);
		FAILS_WITH(EINVAL, 0, secmalloc_usable_size(p));
		FAILS_WITH(EINVAL, -1, secmalloc_protect(p, SECMALLOC_READONLY));
	}
	gone = secmalloc(100);
	secfree(gone);
	FAILS_WITH(EINVAL, -1, secmalloc_protect(gone, SECMALLOC_READONLY));
	FAILS_WITH(EINVAL, -1, secmalloc_protect(NULL, SECMALLOC_READONLY));
	ck_assert_int_eq(secmalloc_owns(NULL), 0);
	ck_assert_int_eq(secmalloc_owns(gone), 0);
	errno = ENOTTY;
	ck_assert_uint_eq(secmalloc_usable_size(NULL), 0);
	ck_assert_int_eq(errno, ENOTTY);
	secfree(NULL);
	ck_assert_int_eq(errno, ENOTTY);
	free(heap);
}
END_TEST

START_TEST(protect_is_for_large_chunks_and_known_accesses)
{
	void *small = secmalloc(16384), *large = secmalloc(16385);

	FAILS_WITH(ENOTSUP, -1, secmalloc_protect(small, SECMALLOC_READONLY));
	FAILS_WITH(ENOTSUP, -1, secmalloc_protect(small, SECMALLOC_NOACCESS));
	FAILS_WITH(EINVAL, -1, secmalloc_protect(large, (enum secmalloc_access)3));
	FAILS_WITH(EINVAL, -1, secmalloc_protect(large, (enum secmalloc_access)77));
	SUCCEEDS(secmalloc_protect(large, SECMALLOC_READONLY));
	SUCCEEDS(secmalloc_protect(large, SECMALLOC_NOACCESS));
	SUCCEEDS(secmalloc_protect(large, SECMALLOC_READWRITE));
	fill(large, 16385, 1);
	SUCCEEDS(secmalloc_protect(large, SECMALLOC_NOACCESS));
	secfree(large);
	ck_assert_uint_eq(stats_now().chunks, 1);
}
END_TEST

/** struct touch - an access to a protected chunk, on which one thing was done before */
struct touch {
	enum secmalloc_access access;
	enum { NOTHING, SEAL, SEAL_AND_OPEN, GROW, SHRINK, TO_A_SLAB } before;
	int write;
};

static void
touch_protected(void *arg)
{
	const struct touch *t = arg;
	char *p;

	MUST(secmalloc_init(NULL) == 0);
	p = secmalloc(60000);
	MUST(p != NULL);
	MUST(secmalloc_protect(p, t->access) == 0);
	if (t->before == SEAL || t->before == SEAL_AND_OPEN)
		MUST(secmalloc_encrypt(p) == 0 && secmalloc_is_encrypted(p) == 1);
	if (t->before == SEAL_AND_OPEN)
		MUST(secmalloc_decrypt(p) == 0);
	if (t->before == GROW)
		p = secrealloc(p, 200000);
	if (t->before == SHRINK)
		p = secrealloc(p, 20000);
	if (t->before == TO_A_SLAB)
		p = secrealloc(p, 100);
	MUST(p != NULL);
	if (t->write)
		spoil(p, 70);
	else
		(void)*byte_at(p, 70);
}

START_TEST(protection_governs_accesses_whatever_the_library_does)
{
	struct touch t;

	for (int before = NOTHING; before <= TO_A_SLAB; before++) {
		t = (struct touch){SECMALLOC_NOACCESS, before, 0};
		assert_segv(touch_protected, &t);
		t = (struct touch){SECMALLOC_NOACCESS, before, 1};
		assert_segv(touch_protected, &t);
		t = (struct touch){SECMALLOC_READONLY, before, 0};
		assert_exits_0(touch_protected, &t);
		t = (struct touch){SECMALLOC_READONLY, before, 1};
		assert_segv(touch_protected, &t);
		t = (struct touch){SECMALLOC_READWRITE, before, 1};
		assert_exits_0(touch_protected, &t);
	}
}
END_TEST

START_TEST(memcmp_tells_equal_from_not_and_memzero_zeroes)
{
	unsigned char a[300], b[300];

	fill(a, sizeof(a), 1);
	fill(b, sizeof(b), 1);
	SUCCEEDS(secmemcmp(a, b, sizeof(a)));
	for (size_t i = 0; i < sizeof(a); i++) {
		for (int bit = 1; bit < 256; bit *= 2) {
			b[i] ^= (unsigned char)bit;
			ck_assert_int_eq(secmemcmp(a, b, sizeof(a)), -1);
			ck_assert_int_eq(secmemcmp(b, a, sizeof(a)), -1);
			ck_assert_int_eq(secmemcmp(a, b, i), 0);
			b[i] ^= (unsigned char)bit;
		}
	}
	ck_assert_int_eq(secmemcmp(a, b, 0), 0);
	secmemzero(b + 1, 0);
	ck_assert(filled(b, sizeof(b), 1));
	secmemzero(b + 1, sizeof(b) - 2);
	ck_assert(all_zero(b + 1, sizeof(b) - 2));
	ck_assert_uint_eq(b[0], a[0]);
	ck_assert_uint_eq(b[299], a[299]);
}
END_TEST

START_TEST(random_operations_agree_with_a_model)
{
	enum { N = 100, STEPS = 40000 };
	struct {
		unsigned char *p;
		size_t n;
		unsigned seed;
	} m[N];
	unsigned r = 12345;

	memset(m, 0, sizeof(m));
	for (unsigned step = 1; step <= STEPS; step++) {
		unsigned i, pick;
		size_t n;

		r = r * 1103515245u + 12345u;
		i = (r >> 8) % N;
		pick = (r >> 16) % 8;
		n = SIZES[(r >> 20) % (step % 16 == 0 ? N_SIZES - 2 : 18)];
		if (m[i].p != NULL) {
			ck_assert_int_eq(secmalloc_decrypt(m[i].p), 0);
			ck_assert(filled(m[i].p, m[i].n, m[i].seed));
		}
		if (pick < 3) {
			secfree(m[i].p);
			m[i].p = NULL;
			continue;
		}
		if (pick == 3 && m[i].p != NULL)
			ck_assert_int_eq(secmalloc_encrypt(m[i].p), 0);
		m[i].p = m[i].p != NULL && n == 0 ? m[i].p : secrealloc(m[i].p, n);
		ck_assert_msg(m[i].p != NULL, "step %u: %s", step, secmalloc_error());
		m[i].n = secmalloc_usable_size(m[i].p);
		ck_assert_int_eq(secmalloc_decrypt(m[i].p), 0);
		m[i].seed = step;
		fill(m[i].p, m[i].n, step);
		if (pick > 5)
			ck_assert_int_eq(secmalloc_encrypt(m[i].p), 0);
	}
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: memory");
	TCase *tc = add_case(s, "running", 1);
	TCase *bare = add_case(s, "not running", 0);

	tcase_add_test(tc, a_chunk_is_zero_aligned_exact_and_open);
	tcase_add_test(tc, chunks_used_again_are_zero);
	tcase_add_test(tc, a_freed_chunk_is_wiped);
	tcase_add_test(tc, many_live_chunks_keep_their_content_apart);
	tcase_add_test(tc, chunks_of_no_bytes_are_unique);
	tcase_add_test(tc, impossible_sizes_and_products_are_enomem);
	tcase_add_test(tc, alignments_up_to_a_page_are_honoured_and_others_einval);
	tcase_add_test(tc, realloc_keeps_the_old_bytes_and_zeroes_the_new_ones);
	tcase_add_test(tc, bytes_given_up_and_taken_back_are_zero);
	tcase_add_test(tc, realloc_of_null_allocates_and_to_0_frees);
	tcase_add_test(tc, a_size_stays_after_realloc_fails_for_want_of_memory);
	tcase_add_test(tc, strings_are_copied_to_exact_chunks);
	tcase_add_test(tc, strndup_reads_no_byte_behind_n);
	tcase_add_test(tc, what_is_not_a_chunk_is_not_owned_and_has_no_size);
	tcase_add_test(tc, protect_is_for_large_chunks_and_known_accesses);
	tcase_add_test(bare, protection_governs_accesses_whatever_the_library_does);
	tcase_add_test(bare, memcmp_tells_equal_from_not_and_memzero_zeroes);
	tcase_add_test(tc, random_operations_agree_with_a_model);
	return run(s);
}
