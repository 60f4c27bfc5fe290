/*
 * check_cipher.c - the room cipher, from inside: self-test, vectors, forgeries, limits
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "cipher.h"
#include <limits.h>

static void
assert_refused(const struct sm_message *m, size_t n, const char *what, size_t bit)
{
	int e = sm_cipher_open(state, m);

	if (e != EBADMSG || memcmp(work, sealed, n + EDGE))
		ck_abort_msg("%zu bytes, bit %zu of %s: %d, %s", n, bit, what, e,
			memcmp(work, sealed, n + EDGE) ? "bytes changed" : "bytes as they were");
}

static void
assert_opens(const struct sm_message *m)
{
	ck_assert_int_eq(sm_cipher_open(state, m), 0);
	ck_assert(m->n == 0 || memcmp(work, clear, m->n) == 0);
	ck_assert(memcmp(work + m->n, sealed + m->n, EDGE) == 0);
}

/** flip_each - step through the bits of one part; the part is not what assert_refused compares */
static void
flip_each(const struct sm_message *m, unsigned char *part, size_t bytes, const char *what)
{
	for (size_t bit = 0; bit < bytes * 8; bit++) {
		part[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_refused(m, m->n, what, bit);
		part[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
}

static void
flip_bytes(const struct sm_message *m, size_t step)
{
	for (size_t bit = 0; bit < m->n * 8; bit += step) {
		work[bit / 8] ^= (unsigned char)(1u << bit % 8);
		sealed[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_refused(m, m->n, "bytes", bit);
		work[bit / 8] ^= (unsigned char)(1u << bit % 8);
		sealed[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
}

static void
assert_every_flip_is_refused(size_t n, size_t step)
{
	struct sm_message m = seal_clear(n, UINT64_C(0x0123456789abcdef));

	flip_bytes(&m, step);
	flip_each(&m, tag, sizeof(tag), "tag");
	if (sm_cipher_tag_bytes() > sizeof(tag))
		flip_each(&m, tag_rest, sizeof(tag_rest), "rest of the tag");
	flip_each(&m, ad, sizeof(ad), "associated data");
	flip_each(&m, (unsigned char *)&m.nonce, sizeof(m.nonce), "nonce");
	m.ad_bytes--;
	assert_refused(&m, n, "length of associated data", 0);
	m.ad_bytes++;
	m.n++;
	assert_refused(&m, n, "length", 0);
	m.n--;
	assert_opens(&m);
}

/* -------------------------------------------------------------- start and self-test */

START_TEST(the_self_test_passes_for_every_cipher_there_is)
{
	if (aeads[_i]->available())
		ck_assert_int_eq(self_test(aeads[_i]), 0);
	ck_assert_int_eq(self_test(&sm_aead_xchacha20poly1305), 0);
	ck_assert(use(&sm_aead_xchacha20poly1305));
}
END_TEST

static bool
never(void)
{
	return false;
}

START_TEST(auto_picks_aegis_256_then_aes_then_xchacha)
{
	bool has_aes = crypto_aead_aes256gcm_is_available();

	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
	if (real_aegis->available())
		ck_assert_uint_eq(sm_cipher_id(), SECMALLOC_CIPHER_AEGIS256);
	aegis.available = never;
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
	ck_assert_uint_eq(sm_cipher_id(), has_aes ? SECMALLOC_CIPHER_AES256GCM
						  : SECMALLOC_CIPHER_XCHACHA20POLY1305);
	aes.available = never;
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
	ck_assert_uint_eq(sm_cipher_id(), SECMALLOC_CIPHER_XCHACHA20POLY1305);
}
END_TEST

static void
assert_lacks(unsigned id, const char *text)
{
	unsigned was = sm_cipher_id();

	ck_assert_int_eq(sm_cipher_start(id), ENOTSUP);
	ck_assert_str_eq(sm_error_text(), text);
	ck_assert_uint_eq(sm_cipher_id(), was);
}

START_TEST(a_cpu_without_the_instructions_is_told_so)
{
	aes.available = aegis.available = never;
	assert_lacks(SECMALLOC_CIPHER_AES256GCM,
		"this CPU has no instructions for AES-256-GCM: use SECMALLOC_CIPHER_AUTO");
	if (real_aegis->seal)
		assert_lacks(SECMALLOC_CIPHER_AEGIS256,
			"this CPU has no instructions for AEGIS-256: use SECMALLOC_CIPHER_AUTO");
}
END_TEST

START_TEST(a_build_without_aegis_says_so)
{
	bool built = SODIUM_LIBRARY_VERSION_MAJOR >= 26; /* 1.0.19 */

	ck_assert_int_eq(real_aegis->seal != NULL, built);
	ck_assert_int_eq(sm_aead_aegis128l.seal != NULL, built);
	ck_assert_int_eq(sm_aead_aegis128l.available(), real_aegis->available());
	if (built)
		return;
	assert_lacks(SECMALLOC_CIPHER_AEGIS256,
		"this build's libsodium has no AEGIS-256: use SECMALLOC_CIPHER_AUTO");
	assert_lacks(SECMALLOC_CIPHER_AEGIS128L,
		"this build's libsodium has no AEGIS-128L: use SECMALLOC_CIPHER_AUTO");
}
END_TEST

START_TEST(unknown_ciphers_are_refused_with_a_text_and_the_choice_stays)
{
	static const unsigned bad[] = { 5, 1000, UINT_MAX };
	char want[100];

	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(want, sizeof(want),
			"this build has no cipher %u: use SECMALLOC_CIPHER_AUTO", bad[i]);
		assert_lacks(bad[i], want);
	}
}
END_TEST

static const struct sm_aead *real; /* of the one that is broken */

static int
open_anything(const void *s, const struct sm_raw *r, bool write)
{
	if (real->open(s, r, false) == 0)
		(void)real->open(s, r, write);
	return 0;
}

static int
open_nothing(const void *s, const struct sm_raw *r, bool write)
{
	(void)s;
	(void)r;
	(void)write;
	return -1;
}

static void
seal_nothing(const void *s, const struct sm_raw *r)
{
	(void)s;
	memset(r->tag, 0, SM_TAG_BYTES);
}

/** break_it - the nth way in which a cipher can compute wrong answers */
static void
break_it(struct sm_aead *a, int nth)
{
	static unsigned char other[128];
	const unsigned char **part[] = { &a->key, &a->nonce, &a->text, &a->ad, &a->tag };

	if (nth < 5) {
		size_t n = (size_t[]){ SM_KEY_BYTES, a == &aes ? 12 : 32, a->text_bytes,
			a->ad_bytes, a->tag_bytes }[nth];

		memcpy(other, *part[nth], n);
		other[n - 1] ^= 0x80;
		*part[nth] = other;
	}
	if (nth == 5)
		a->open = open_anything;
	if (nth == 6)
		a->open = open_nothing;
	if (nth == 7)
		a->seal = seal_nothing;
}

static void
assert_broken(const struct sm_aead *a)
{
	const unsigned which[] = { SECMALLOC_CIPHER_AUTO, a->id };
	char want[100];

	snprintf(want, sizeof(want), "%s failed its self-test: replace libsodium or the machine",
		a->name);
	ck_assert_int_eq(self_test(a), EIO);
	for (size_t i = 0; i < 2; i++) {
		ck_assert_int_eq(sm_cipher_start(which[i]), EIO);
		ck_assert_str_eq(sm_error_text(), want);
		ck_assert_uint_eq(sm_cipher_id(), SECMALLOC_CIPHER_XCHACHA20POLY1305);
	}
}

START_TEST(a_cipher_that_computes_wrong_answers_is_refused)
{
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_XCHACHA20POLY1305), 0);
	if (real_aegis->available()) {
		real = real_aegis;
		break_it(&aegis, _i);
		assert_broken(&aegis);
	}
	aegis.available = never;
	if (real_aes->available()) {
		real = real_aes;
		break_it(&aes, _i);
		assert_broken(&aes);
	}
}
END_TEST

/* -------------------------------------------------------------------------- vectors */

static const char *const published[] = {
	"57754a7d09963e7c787583a2e7b859bb24fa1e04d49fd550b2511a358e3bca252a9b1b8b30cc4a67",
	"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b10"
	"56828838c5f61e6393ba7a0abcc9f662",
	"bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f"
	"4eda7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f"
	"76b2383565d3fff921f9664c97637da9768812f615c68b13b52e",
	"b31052ad1cca4e291abcf2df3502e6bdb1bfd6db36798be3607b1f94d34478aa7ede7f7a990fec10",
};

START_TEST(the_published_vector_gives_the_published_bytes_and_those_of_the_combined_mode)
{
	const struct sm_aead *a = aeads[_i];
	unsigned char got[256], combined[256];
	char hex[512];
	int (*mode[])(unsigned char *, unsigned long long *, const unsigned char *,
		unsigned long long, const unsigned char *, unsigned long long,
		const unsigned char *, const unsigned char *, const unsigned char *) = {
		NULL, crypto_aead_aes256gcm_encrypt, crypto_aead_xchacha20poly1305_ietf_encrypt,
		NULL
	}; /* no test can name what libsodium 1.0.18 has not */
	struct sm_raw r = { got, got, a->text_bytes, got + a->text_bytes, a->nonce, a->ad,
		a->ad_bytes, 0, 0 };
	unsigned long long n = 0;

	if (!a->available())
		return;
	memcpy(got, a->text, a->text_bytes);
	a->expand(state, a->key, a->nonce);
	a->seal(state, &r);
	if (mode[_i]) {
		mode[_i](combined, &n, a->text, a->text_bytes, a->ad, a->ad_bytes, NULL, a->nonce,
			a->key);
		ck_assert_uint_eq(n, a->text_bytes + a->tag_bytes);
		ck_assert_mem_eq(got, combined, n);
	}
	ck_assert_mem_eq(got + a->text_bytes, a->tag, a->tag_bytes);
	sodium_bin2hex(hex, sizeof(hex), got, a->text_bytes);
	ck_assert_str_eq(hex, published[_i]);
	ck_assert_int_eq(open_raw(a, state, &r), 0);
	ck_assert_mem_eq(got, a->text, a->text_bytes);
}
END_TEST

/* ------------------------------------------------------------------ seal and open */

START_TEST(every_flipped_bit_is_refused_and_leaves_the_bytes_as_they_were)
{
	static const size_t sizes[] = { 0, 1, 15, 16, 17, 64 };

	for (size_t i = 0; use(aeads[_i]) && i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_every_flip_is_refused(sizes[i], 1);
}
END_TEST

START_TEST(flipped_bits_are_refused_on_both_sides_of_the_size_copied_aside)
{
	static const size_t sizes[] = { 4095, 4096, 4097, MOST };

	ck_assert_int_eq(SHORT_BYTES, 4096);
	for (size_t i = 0; use(aeads[_i]) && i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_every_flip_is_refused(sizes[i], sizes[i] * 8 / 31);
}
END_TEST

static unsigned writes;

static int
count_writes(const void *s, const struct sm_raw *r, bool write)
{
	writes += write;
	return real->open(s, r, write);
}

/** refuse_all - four forgeries; writes counts what was overwritten first */
static void
refuse_all(struct sm_message *m)
{
	writes = 0;
	tag[3] ^= 1;
	assert_refused(m, m->n, "tag", 3);
	tag[3] ^= 1;
	flip_bytes(m, m->n * 8 - 1);
	m->nonce ^= 1;
	assert_refused(m, m->n, "nonce", 0);
	m->nonce ^= 1;
}

START_TEST(a_long_forgery_is_put_back_or_where_the_place_aside_is_taken_verified_first)
{
	struct sm_message m;

	if (!use(&aes))
		return;
	real = real_aes;
	aes.open = count_writes;
	for (size_t n = LONG; n <= LONG + 1; n++)
		for (int busy = 0; busy < 2; busy++) {
			m = seal_clear(n, n);
			aside.busy = busy;
			refuse_all(&m);
			ck_assert_uint_eq(writes, busy || n > LONG ? 0 : 4);
			assert_opens(&m);
			ck_assert_int_eq(aside.busy, busy);
		}
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AES256GCM), 0);
	ck_assert(!aside.busy);
}
END_TEST

START_TEST(every_nonce_gives_other_bytes_and_another_tag)
{
	static unsigned char seen[65][64 + SM_TAG_MOST_BYTES];
	static const unsigned char untouched[SM_TAG_REST_BYTES];

	for (size_t i = 0; use(aeads[_i]) && i < 65; i++) {
		(void)seal_clear(64, i < 64 ? UINT64_C(1) << i : 0);
		memcpy(seen[i], work, 64);
		memcpy(seen[i] + 64, tag, sizeof(tag));
		memcpy(seen[i] + 80, tag_rest, sizeof(tag_rest));
		ck_assert_int_eq(memcmp(tag_rest, untouched, sizeof(tag_rest)) == 0,
			sm_cipher_tag_bytes() == SM_TAG_BYTES);
		for (size_t j = 0; j < i; j++) {
			ck_assert(memcmp(seen[i], seen[j], 64) != 0);
			ck_assert(memcmp(seen[i] + 64, seen[j] + 64, sizeof(tag)) != 0);
			ck_assert(sm_cipher_tag_bytes() == SM_TAG_BYTES ||
				memcmp(seen[i] + 80, seen[j] + 80, sizeof(tag_rest)) != 0);
		}
	}
}
END_TEST

START_TEST(the_limit_is_what_libsodium_and_addresses_allow)
{
	if (use(&aes))
		ck_assert_uint_eq(sm_cipher_limit(), crypto_aead_aes256gcm_messagebytes_max());
	ck_assert(use(&sm_aead_xchacha20poly1305));
	ck_assert_uint_eq(sm_cipher_limit(),
		sm_min_size(crypto_aead_chacha20poly1305_ietf_messagebytes_max(), PTRDIFF_MAX));
	ck_assert_uint_le(sm_cipher_limit(), PTRDIFF_MAX);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("cipher");
	TCase *tc = tcase_create("cipher");
	SRunner *sr = srunner_create(s);

	tcase_set_timeout(tc, 30);
	tcase_add_checked_fixture(tc, setup, NULL);
	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc, the_self_test_passes_for_every_cipher_there_is, 0, AEADS);
	tcase_add_test(tc, auto_picks_aegis_256_then_aes_then_xchacha);
	tcase_add_test(tc, a_cpu_without_the_instructions_is_told_so);
	tcase_add_test(tc, a_build_without_aegis_says_so);
	tcase_add_test(tc, unknown_ciphers_are_refused_with_a_text_and_the_choice_stays);
	tcase_add_loop_test(tc, a_cipher_that_computes_wrong_answers_is_refused, 0, 8);
	tcase_add_loop_test(tc,
		the_published_vector_gives_the_published_bytes_and_those_of_the_combined_mode,
		0, AEADS);
	tcase_add_loop_test(tc, every_flipped_bit_is_refused_and_leaves_the_bytes_as_they_were,
		0, AEADS);
	tcase_add_loop_test(tc, flipped_bits_are_refused_on_both_sides_of_the_size_copied_aside,
		0, AEADS);
	tcase_add_test(tc,
		a_long_forgery_is_put_back_or_where_the_place_aside_is_taken_verified_first);
	tcase_add_loop_test(tc, every_nonce_gives_other_bytes_and_another_tag, 0, AEADS);
	tcase_add_test(tc, the_limit_is_what_libsodium_and_addresses_allow);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
