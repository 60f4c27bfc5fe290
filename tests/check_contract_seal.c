/*
 * check_contract_seal.c - the contract: closing and opening chunks
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <pthread.h>

static const size_t SIZES[] = {0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 255, 256, 1000, 4096,
	12345, 16384, 16385, 20001, 65536, 300000};
#define N_SIZES (sizeof(SIZES) / sizeof(SIZES[0]))

static void
init_with(unsigned cipher)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.cipher = cipher;
	if (secmalloc_init(&c) == 0)
		return;
	ck_assert_msg(errno == ENOTSUP, "%s", secmalloc_error());
	printf("skipped: this CPU lacks cipher %u; XChaCha20-Poly1305 is tested instead\n", cipher);
	c.cipher = SECMALLOC_CIPHER_XCHACHA20POLY1305;
	ck_assert_msg(secmalloc_init(&c) == 0, "%s", secmalloc_error());
}

static void
init_xchacha(void)
{
	init_with(SECMALLOC_CIPHER_XCHACHA20POLY1305);
}

static void
init_aes(void)
{
	init_with(SECMALLOC_CIPHER_AES256GCM);
}

/** sealed_new - a closed chunk of n bytes with content seed */
static unsigned char *
sealed_new(size_t n, unsigned seed)
{
	unsigned char *p = secmalloc(n);

	ck_assert_msg(p != NULL, "%s", secmalloc_error());
	fill(p, n, seed);
	SUCCEEDS(secmalloc_encrypt(p));
	return p;
}

/** assert_opens - the closed chunk p opens to content seed and closes again */
static void
assert_opens(unsigned char *p, size_t n, unsigned seed)
{
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
	SUCCEEDS(secmalloc_decrypt(p));
	ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
	ck_assert(filled(p, n, seed));
	SUCCEEDS(secmalloc_encrypt(p));
}

/** assert_refused - p stays closed with EBADMSG and its bytes are as they were */
static void
assert_refused(unsigned char *p, size_t n)
{
	const uint64_t tampered = stats_now().tampered;
	unsigned char *before = malloc(n);

	ck_assert_ptr_nonnull(before);
	memcpy(before, p, n);
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(p));
	ck_assert_int_eq(memcmp(p, before, n), 0);
	ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
	ck_assert_uint_eq(secmalloc_usable_size(p), n);
	ck_assert_uint_eq(stats_now().tampered, tampered + 1);
	free(before);
}

START_TEST(a_closed_chunk_is_ciphertext_and_opens_to_what_it_was)
{
	for (size_t i = 0; i < N_SIZES; i++) {
		const size_t n = SIZES[i];
		unsigned char *p = secmalloc(n);

		ck_assert_ptr_nonnull(p);
		fill(p, n, (unsigned)i);
		ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
		SUCCEEDS(secmalloc_encrypt(p));
		ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
		ck_assert_int_eq(secmalloc_owns(p), 1);
		ck_assert_uint_eq(secmalloc_usable_size(p), n);
		for (size_t at = 0; at + 16 <= n; at += 16) {
			unsigned char plain[16];

			for (size_t k = 0; k < 16; k++)
				plain[k] = pattern((unsigned)i, at + k);
			ck_assert_int_ne(memcmp(p + at, plain, 16), 0);
		}
		assert_opens(p, n, (unsigned)i);
		secfree(p);
	}
}
END_TEST

START_TEST(closing_twice_and_opening_twice_change_nothing)
{
	unsigned char *p = sealed_new(500, 1), closed[500];

	memcpy(closed, p, 500);
	SUCCEEDS(secmalloc_encrypt(p));
	SUCCEEDS(secmalloc_encrypt_all());
	ck_assert_int_eq(memcmp(p, closed, 500), 0);
	SUCCEEDS(secmalloc_decrypt(p));
	SUCCEEDS(secmalloc_decrypt(p));
	SUCCEEDS(secmalloc_decrypt_all());
	ck_assert(filled(p, 500, 1));
}
END_TEST

START_TEST(no_two_closes_of_the_same_bytes_are_alike)
{
	enum { N = 200 };
	unsigned char *p = sealed_new(32, 7), *q = sealed_new(32, 7), seen[2 * N][32];

	for (size_t i = 0; i < 2 * N; i += 2) {
		memcpy(seen[i], p, 32);
		memcpy(seen[i + 1], q, 32);
		for (size_t j = 0; j < i; j++) {
			ck_assert_int_ne(memcmp(seen[i], seen[j], 32), 0);
			ck_assert_int_ne(memcmp(seen[i + 1], seen[j], 32), 0);
		}
		assert_opens(p, 32, 7);
		assert_opens(q, 32, 7);
	}
}
END_TEST

START_TEST(every_single_flipped_bit_is_refused)
{
	const size_t sizes[] = {1, 15, 16, 33, 64, 256};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned char *p = sealed_new(sizes[i], 2);

		for (size_t bit = 0; bit < 8 * sizes[i]; bit++) {
			p[bit / 8] ^= (unsigned char)(1u << bit % 8);
			assert_refused(p, sizes[i]);
			p[bit / 8] ^= (unsigned char)(1u << bit % 8);
		}
		assert_opens(p, sizes[i], 2);
	}
}
END_TEST

START_TEST(flipped_bits_all_over_a_large_chunk_are_refused)
{
	const size_t n = 64 * KIB;
	unsigned char *p = sealed_new(n, 3);

	for (size_t bit = 0; bit < 8 * n; bit += 8 * n / 300 + 1) {
		p[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_refused(p, n);
		p[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
	p[n - 1] ^= 0x80;
	assert_refused(p, n);
	p[n - 1] ^= 0x80;
	assert_opens(p, n, 3);
}
END_TEST

START_TEST(other_bytes_altogether_are_refused)
{
	unsigned char *p = sealed_new(128, 4), closed[128];

	memcpy(closed, p, 128);
	memset(p, 0, 128);
	assert_refused(p, 128);
	memset(p, 0xff, 128);
	assert_refused(p, 128);
	fill(p, 128, 4);
	assert_refused(p, 128);
	for (size_t i = 0; i < 128; i++)
		p[i] = closed[127 - i];
	assert_refused(p, 128);
	memcpy(p, closed, 128);
	assert_opens(p, 128, 4);
}
END_TEST

START_TEST(two_swapped_chunks_are_refused)
{
	const size_t sizes[] = {16, 64, 4096, 65536};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		const size_t n = sizes[i];
		unsigned char *p = sealed_new(n, 5), *q = sealed_new(n, 6), *t = malloc(n);

		for (int twice = 0; twice < 2; twice++) {
			memcpy(t, p, n);
			memcpy(p, q, n);
			memcpy(q, t, n);
			if (twice)
				break;
			assert_refused(p, n);
			assert_refused(q, n);
		}
		assert_opens(p, n, 5);
		assert_opens(q, n, 6);
		free(t);
	}
}
END_TEST

START_TEST(older_bytes_put_back_are_refused)
{
	const size_t sizes[] = {16, 100, 4096, 65536};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		const size_t n = sizes[i];
		unsigned char *p = sealed_new(n, 8), *old = malloc(n), *new = malloc(n);

		for (int same = 0; same < 2; same++) { /* then the same content again */
			memcpy(old, p, n);
			SUCCEEDS(secmalloc_decrypt(p));
			fill(p, n, 9);
			SUCCEEDS(secmalloc_encrypt(p));
			memcpy(new, p, n);
			memcpy(p, old, n);
			assert_refused(p, n);
			memcpy(p, new, n);
			assert_opens(p, n, 9);
		}
		free(old);
		free(new);
	}
}
END_TEST

START_TEST(bytes_of_a_freed_chunk_at_the_same_address_are_refused)
{
	unsigned char *first = sealed_new(2000, 10), old[2000], *p = NULL;
	int round;

	memcpy(old, first, 2000);
	secfree(first);
	for (round = 0; round < 200000 && p != first; round++) {
		secfree(p);
		p = secmalloc(2000);
		ck_assert_ptr_nonnull(p);
	}
	if (p != first) {
		printf("skipped: no address came again in %d rounds\n", round);
		return;
	}
	fill(p, 2000, 10);
	SUCCEEDS(secmalloc_encrypt(p));
	memcpy(p, old, 2000);
	assert_refused(p, 2000);
}
END_TEST

START_TEST(a_chunk_of_another_start_of_the_library_is_refused)
{
	unsigned char *p = sealed_new(64, 11), old[64];

	memcpy(old, p, 64);
	ck_assert_int_eq(secmalloc_term(), 0);
	ck_assert_int_eq(secmalloc_init(NULL), 0);
	p = sealed_new(64, 11);
	ck_assert_int_ne(memcmp(p, old, 64), 0);
	memcpy(p, old, 64);
	assert_refused(p, 64);
}
END_TEST

START_TEST(a_sealed_chunk_resized_stays_sealed)
{
	for (size_t i = 0; i < N_SIZES; i++) {
		for (size_t j = 1; j < N_SIZES; j++) {
			const size_t from = SIZES[i], to = SIZES[j], least = from < to ? from : to;
			unsigned char *p = sealed_new(from, (unsigned)i);

			errno = ENOTTY;
			p = secrealloc(p, to);
			ck_assert_msg(p != NULL, "%zu to %zu: %s", from, to, secmalloc_error());
			ck_assert_int_eq(errno, ENOTTY);
			ck_assert_int_eq(secmalloc_is_encrypted(p), 1);
			ck_assert_uint_eq(secmalloc_usable_size(p), to);
			if (least >= 16)
				ck_assert(!filled(p, least, (unsigned)i));
			SUCCEEDS(secmalloc_decrypt(p));
			ck_assert(filled(p, least, (unsigned)i));
			ck_assert(all_zero(p + least, to - least));
			secfree(p);
		}
	}
}
END_TEST

START_TEST(a_tampered_chunk_is_not_resized)
{
	const size_t sizes[] = {10, 100, 101, 5000, 20000, 100000};

	for (size_t i = 0; i < 6; i++) {
		unsigned char *p = sealed_new(100, 12);

		spoil(p, 99);
		FAILS_WITH(EBADMSG, NULL, secrealloc(p, sizes[i]));
		ck_assert_uint_eq(secmalloc_usable_size(p), 100);
		assert_refused(p, 100);
		spoil(p, 99);
		assert_opens(p, 100, 12);
	}
	ck_assert_uint_eq(stats_now().chunks, 6);
}
END_TEST

START_TEST(a_sealed_chunk_is_not_resized_beyond_all_bounds)
{
	unsigned char *p = sealed_new(100, 13);

	FAILS_WITH(ENOMEM, NULL, secrealloc(p, launder_size(SIZE_MAX)));
	FAILS_WITH(ENOMEM, NULL, secrealloc(p, launder_size(SIZE_MAX / 2)));
	assert_opens(p, 100, 13);
}
END_TEST

START_TEST(closed_chunks_are_freed_tampered_or_not)
{
	const size_t sizes[] = {0, 64, 16384, 70000};

	for (size_t i = 0; i < 4; i++) {
		unsigned char *p = sealed_new(sizes[i], 14), *q = sealed_new(sizes[i], 14);

		if (sizes[i] > 0)
			spoil(q, 0);
		secfree(p);
		ck_assert_ptr_null(secrealloc(q, 0));
		ck_assert_int_eq(secmalloc_owns(p) + secmalloc_owns(q), 0);
	}
	ck_assert_uint_eq(stats_now().chunks, 0);
	ck_assert_uint_eq(stats_now().chunks_encrypted, 0);
}
END_TEST

START_TEST(all_chunks_close_and_open_at_once)
{
	enum { N = 300 };
	unsigned char *p[N];

	for (unsigned i = 0; i < N; i++) {
		p[i] = secmalloc(SIZES[i % 16]);
		ck_assert_ptr_nonnull(p[i]);
		fill(p[i], SIZES[i % 16], i);
		if (i % 3 == 0)
			ck_assert_int_eq(secmalloc_encrypt(p[i]), 0);
	}
	SUCCEEDS(secmalloc_encrypt_all());
	ck_assert_uint_eq(stats_now().chunks_encrypted, N);
	ck_assert_uint_eq(stats_now().bytes_clear, 0);
	for (unsigned i = 0; i < N; i += 2)
		assert_opens(p[i], SIZES[i % 16], i);
	SUCCEEDS(secmalloc_decrypt_all());
	ck_assert_uint_eq(stats_now().chunks_encrypted, 0);
	for (unsigned i = 0; i < N; i++)
		ck_assert(filled(p[i], SIZES[i % 16], i));
}
END_TEST

START_TEST(decrypt_all_opens_all_but_the_tampered)
{
	enum { N = 60 };
	unsigned char *p[N];

	for (unsigned i = 0; i < N; i++)
		p[i] = sealed_new(80, i);
	spoil(p[20], 3);
	spoil(p[41], 79);
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt_all());
	for (unsigned i = 0; i < N; i++) {
		const int bad = i == 20 || i == 41;

		ck_assert_int_eq(secmalloc_is_encrypted(p[i]), bad);
		ck_assert_int_eq(filled(p[i], 80, i), !bad);
	}
	spoil(p[20], 3);
	spoil(p[41], 79);
	SUCCEEDS(secmalloc_decrypt_all());
	ck_assert(filled(p[20], 80, 20) && filled(p[41], 80, 41));
}
END_TEST

START_TEST(what_is_not_a_chunk_cannot_be_closed_or_opened)
{
	static int still;
	int here;
	char *small = secmalloc(100), *large = secmalloc(50000), *heap = malloc(100), *gone;
	const void *foreign[] = {NULL, &still, &here, heap, "text", small + 1, small + 16,
		small - 16, large + 4096, large + 50000, large - 1, (void *)8, (void *)UINTPTR_MAX,
		(void *)(UINTPTR_MAX / 2 + 1), NULL};

	gone = secmalloc(100);
	secfree(gone);
	foreign[14] = gone;
	for (int sealed = 0; sealed < 2; sealed++) {
		for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
			void *p = launder(foreign[i]);

			FAILS_WITH(EINVAL, -1, secmalloc_encrypt(p));
			FAILS_WITH(EINVAL, -1, secmalloc_decrypt(p));
			FAILS_WITH(EINVAL, -1, secmalloc_is_encrypted(p));
		}
		ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	}
	free(heap);
}
END_TEST

static void *
seal_in_a_thread(void *arg)
{
	unsigned char **shared = arg;

	for (unsigned i = 0; i < 3000; i++) {
		const size_t n = SIZES[1 + i % 13];
		unsigned char *p = secmalloc(n);

		if (p == NULL)
			return "no memory";
		fill(p, n, i);
		if (secmalloc_encrypt(p) != 0 || secmalloc_encrypt(shared[i % 8]) != 0)
			return "not closed";
		if (secmalloc_decrypt(p) != 0 || secmalloc_decrypt(shared[i % 7]) != 0)
			return "not opened";
		if (!filled(p, n, i))
			return "content lost";
		secfree(p);
	}
	return NULL;
}

START_TEST(threads_close_and_open_their_own_and_shared_chunks)
{
	enum { N = 4 };
	pthread_t threads[N];
	unsigned char *shared[8];
	void *complaint;

	for (unsigned i = 0; i < 8; i++)
		shared[i] = sealed_new(5000, i);
	for (int i = 0; i < N; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, seal_in_a_thread, shared), 0);
	for (int i = 0; i < N; i++) {
		ck_assert_int_eq(pthread_join(threads[i], &complaint), 0);
		ck_assert_msg(complaint == NULL, "%s", (char *)complaint);
	}
	ck_assert_int_eq(secmalloc_encrypt_all(), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_opens(shared[i], 5000, i);
	ck_assert_uint_eq(stats_now().tampered, 0);
}
END_TEST

static void
add_tests(Suite *s, const char *name, void (*init)(void))
{
	TCase *tc = add_case(s, name, 0);

	tcase_add_checked_fixture(tc, init, term);
	tcase_add_test(tc, a_closed_chunk_is_ciphertext_and_opens_to_what_it_was);
	tcase_add_test(tc, closing_twice_and_opening_twice_change_nothing);
	tcase_add_test(tc, no_two_closes_of_the_same_bytes_are_alike);
	tcase_add_test(tc, every_single_flipped_bit_is_refused);
	tcase_add_test(tc, flipped_bits_all_over_a_large_chunk_are_refused);
	tcase_add_test(tc, other_bytes_altogether_are_refused);
	tcase_add_test(tc, two_swapped_chunks_are_refused);
	tcase_add_test(tc, older_bytes_put_back_are_refused);
	tcase_add_test(tc, bytes_of_a_freed_chunk_at_the_same_address_are_refused);
	tcase_add_test(tc, a_chunk_of_another_start_of_the_library_is_refused);
	tcase_add_test(tc, a_sealed_chunk_resized_stays_sealed);
	tcase_add_test(tc, a_tampered_chunk_is_not_resized);
	tcase_add_test(tc, a_sealed_chunk_is_not_resized_beyond_all_bounds);
	tcase_add_test(tc, closed_chunks_are_freed_tampered_or_not);
	tcase_add_test(tc, all_chunks_close_and_open_at_once);
	tcase_add_test(tc, decrypt_all_opens_all_but_the_tampered);
	tcase_add_test(tc, what_is_not_a_chunk_cannot_be_closed_or_opened);
	tcase_add_test(tc, threads_close_and_open_their_own_and_shared_chunks);
}

int
main(void)
{
	Suite *s = suite_create("contract: seal");

	add_tests(s, "XChaCha20-Poly1305", init_xchacha);
	add_tests(s, "AES-256-GCM", init_aes);
	return run(s);
}
