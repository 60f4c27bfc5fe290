/*
 * check_cipher.c - the room cipher, from inside: self-test, vectors, forgeries, limits, traces
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <sodium.h>

#include "cipher/inside.h"

static const struct sm_aead *const real_aes = &sm_aead_aes256gcm;
static struct sm_aead aes; /* what cipher.c takes for AES-256-GCM: a copy that tests break */
#define sm_aead_aes256gcm aes
#include "cipher/cipher.c"

enum { MOST = 100000, AD = 20, EDGE = 32 };

static const unsigned ids[] = { SECMALLOC_CIPHER_AES256GCM, SECMALLOC_CIPHER_XCHACHA20POLY1305 };
static _Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
static unsigned char clear[MOST], sealed[MOST + EDGE], work[MOST + EDGE];
static unsigned char tag[SM_TAG_BYTES], ad[AD];
static const unsigned char secret[SM_KEY_BYTES] = "thirty-two bytes, and no more...";

static void
setup(void)
{
	ck_assert_int_ge(sodium_init(), 0);
	aes = *real_aes;
	fill(clear, sizeof(clear), 1);
	fill(ad, sizeof(ad), 2);
}

/** use - start this cipher; false: this CPU has it not */
static bool
use(unsigned id)
{
	if (id == SECMALLOC_CIPHER_AES256GCM && !crypto_aead_aes256gcm_is_available())
		return false;
	ck_assert_msg(sm_cipher_start(id) == 0, "%s", sm_error_text());
	ck_assert_uint_eq(sm_cipher_id(), id);
	sm_cipher_expand(state, secret);
	return true;
}

static struct sm_message
message(size_t n, uint64_t nonce)
{
	return (struct sm_message){ .bytes = work, .n = n, .tag = tag, .nonce = nonce, .ad = ad,
		.ad_bytes = sizeof(ad) };
}

/** seal_clear - n bytes of clear, sealed in work and copied to sealed */
static struct sm_message
seal_clear(size_t n, uint64_t nonce)
{
	struct sm_message m = message(n, nonce);

	memset(work, 0xa5, sizeof(work));
	memcpy(work, clear, n);
	sm_cipher_seal(state, &m);
	ck_assert_msg(n < 8 || memcmp(work, clear, n) != 0, "%zu bytes stayed clear", n);
	memcpy(sealed, work, sizeof(work));
	return m;
}

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

START_TEST(the_self_test_passes_for_both_ciphers)
{
	ck_assert_int_eq(self_test(&sm_aead_xchacha20poly1305), 0);
	if (real_aes->available())
		ck_assert_int_eq(self_test(real_aes), 0);
	ck_assert(use(SECMALLOC_CIPHER_XCHACHA20POLY1305));
}
END_TEST

START_TEST(auto_picks_aes_where_the_cpu_has_it_and_xchacha_elsewhere)
{
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
	ck_assert_uint_eq(sm_cipher_id(), crypto_aead_aes256gcm_is_available()
			? SECMALLOC_CIPHER_AES256GCM : SECMALLOC_CIPHER_XCHACHA20POLY1305);
}
END_TEST

static bool
never(void)
{
	return false;
}

START_TEST(without_aes_instructions_auto_is_xchacha_and_aes_is_refused)
{
	aes.available = never;
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
	ck_assert_uint_eq(sm_cipher_id(), SECMALLOC_CIPHER_XCHACHA20POLY1305);
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AES256GCM), ENOTSUP);
	ck_assert_str_eq(sm_error_text(),
		"this CPU has no instructions for AES-256-GCM: use SECMALLOC_CIPHER_AUTO");
}
END_TEST

START_TEST(unknown_ciphers_are_refused_with_a_text_and_the_choice_stays)
{
	static const unsigned bad[] = { SECMALLOC_CIPHER_AEGIS256, SECMALLOC_CIPHER_AEGIS128L, 5,
		1000, UINT_MAX };
	char want[100];

	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
	for (size_t i = 0, was = sm_cipher_id(); i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_int_eq(sm_cipher_start(bad[i]), ENOTSUP);
		snprintf(want, sizeof(want),
			"this build has no cipher %u: use SECMALLOC_CIPHER_AUTO", bad[i]);
		ck_assert_str_eq(sm_error_text(), want);
		ck_assert_uint_eq(sm_cipher_id(), was);
	}
}
END_TEST

static int
open_anything(const void *s, const struct sm_raw *r, bool write)
{
	if (real_aes->open(s, r, false) == 0)
		(void)real_aes->open(s, r, write);
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

/** break_aes - the nth way in which a cipher can compute wrong answers */
static void
break_aes(int nth)
{
	static unsigned char other[128];
	const unsigned char **part[] = { &aes.key, &aes.nonce, &aes.text, &aes.ad, &aes.tag };

	if (nth < 5) {
		size_t n = (size_t[]){ SM_KEY_BYTES, 12, aes.text_bytes, aes.ad_bytes, 16 }[nth];

		memcpy(other, *part[nth], n);
		other[n - 1] ^= 0x80;
		*part[nth] = other;
	}
	if (nth == 5)
		aes.open = open_anything;
	if (nth == 6)
		aes.open = open_nothing;
	if (nth == 7)
		aes.seal = seal_nothing;
}

START_TEST(a_cipher_that_computes_wrong_answers_is_refused)
{
	if (!real_aes->available())
		return;
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_XCHACHA20POLY1305), 0);
	break_aes(_i);
	ck_assert_int_eq(self_test(&aes), EIO);
	for (unsigned which = 0; which <= 2; which += 2) {
		ck_assert_int_eq(sm_cipher_start(which), EIO);
		ck_assert_str_eq(sm_error_text(),
			"AES-256-GCM failed its self-test: replace libsodium or the machine");
		ck_assert_uint_eq(sm_cipher_id(), SECMALLOC_CIPHER_XCHACHA20POLY1305);
	}
}
END_TEST

/* -------------------------------------------------------------------------- vectors */

static const char *const published[] = {
	"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b10"
	"56828838c5f61e6393ba7a0abcc9f662",
	"bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f"
	"4eda7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f"
	"76b2383565d3fff921f9664c97637da9768812f615c68b13b52e",
};

START_TEST(the_published_vector_gives_the_published_bytes_and_those_of_the_combined_mode)
{
	const struct sm_aead *a = aeads[_i];
	unsigned char got[256], combined[256];
	char hex[512];
	struct sm_raw r = { got, got, a->text_bytes, got + a->text_bytes, a->nonce, a->ad,
		a->ad_bytes };
	unsigned long long n = 0;

	if (!a->available())
		return;
	memcpy(got, a->text, a->text_bytes);
	a->expand(state, a->key);
	a->seal(state, &r);
	(_i == 0 ? crypto_aead_aes256gcm_encrypt : crypto_aead_xchacha20poly1305_ietf_encrypt)(
		combined, &n, a->text, a->text_bytes, a->ad, a->ad_bytes, NULL, a->nonce, a->key);
	ck_assert_uint_eq(n, a->text_bytes + SM_TAG_BYTES);
	ck_assert_mem_eq(got, combined, n);
	ck_assert_mem_eq(got + a->text_bytes, a->tag, SM_TAG_BYTES);
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

	for (size_t i = 0; use(ids[_i]) && i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_every_flip_is_refused(sizes[i], 1);
}
END_TEST

START_TEST(flipped_bits_are_refused_on_both_sides_of_the_size_copied_aside)
{
	static const size_t sizes[] = { 4095, 4096, 4097, MOST };

	ck_assert_int_eq(ASIDE_BYTES, 4096);
	for (size_t i = 0; use(ids[_i]) && i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_every_flip_is_refused(sizes[i], sizes[i] * 8 / 31);
}
END_TEST

static unsigned writes;

static int
count_writes(const void *s, const struct sm_raw *r, bool write)
{
	writes += write;
	return real_aes->open(s, r, write);
}

START_TEST(a_large_forgery_is_refused_before_anything_is_written)
{
	struct sm_message m;

	if (!use(SECMALLOC_CIPHER_AES256GCM))
		return;
	m = seal_clear(ASIDE_BYTES + 1, 1);
	aes.open = count_writes;
	tag[3] ^= 1;
	assert_refused(&m, m.n, "tag", 24);
	ck_assert_uint_eq(writes, 0);
	tag[3] ^= 1;
	assert_opens(&m);
	ck_assert_uint_eq(writes, 1);
}
END_TEST

START_TEST(every_nonce_gives_other_bytes_and_another_tag)
{
	static unsigned char seen[65][64 + SM_TAG_BYTES];

	for (size_t i = 0; use(ids[_i]) && i < 65; i++) {
		(void)seal_clear(64, i < 64 ? UINT64_C(1) << i : 0);
		memcpy(seen[i], work, 64);
		memcpy(seen[i] + 64, tag, sizeof(tag));
		for (size_t j = 0; j < i; j++) {
			ck_assert(memcmp(seen[i], seen[j], 64) != 0);
			ck_assert(memcmp(seen[i] + 64, seen[j] + 64, sizeof(tag)) != 0);
		}
	}
}
END_TEST

START_TEST(the_limit_is_what_libsodium_and_addresses_allow)
{
	if (use(SECMALLOC_CIPHER_AES256GCM))
		ck_assert_uint_eq(sm_cipher_limit(), crypto_aead_aes256gcm_messagebytes_max());
	ck_assert(use(SECMALLOC_CIPHER_XCHACHA20POLY1305));
	ck_assert_uint_eq(sm_cipher_limit(),
		sm_min_size(crypto_aead_xchacha20poly1305_ietf_messagebytes_max(), PTRDIFF_MAX));
	ck_assert_uint_le(sm_cipher_limit(), PTRDIFF_MAX);
}
END_TEST

/* -------------------------------------------------------------------------- traces */

/* What a thread left on its stack is read while it waits, running nothing that writes there. */
struct stage {
	bool opens;
	_Atomic bool done, leave;
	struct sm_message m;
};

static void *
play(void *arg)
{
	struct stage *s = arg;

	if (s->opens)
		(void)sm_cipher_open(state, &s->m);
	else
		sm_cipher_seal(state, &s->m);
	s->done = true;
	while (!s->leave)
		;
	return NULL;
}

/** shares - how many 8-byte pieces of `what`, at its words, lie anywhere in the stack */
static size_t
shares(const unsigned char *stack, size_t bytes, const void *what, size_t n)
{
	size_t found = 0;

	for (size_t i = 0; i + 8 <= n; i += 8)
		if (!all_zero((const unsigned char *)what + i, 8))
			found += memmem(stack, bytes, (const unsigned char *)what + i, 8) != NULL;
	return found;
}

static void
assert_no_trace(bool opens, size_t n)
{
	enum { STACK = 256 * 1024 };
	static _Alignas(4096) unsigned char stack[STACK];
	struct stage s = { .opens = opens, .m = message(n, 5) };
	unsigned char subkey[32], nonce[24] = { 5 };
	const char *doing = opens ? "open" : "seal";
	pthread_attr_t attr;
	pthread_t t;

	if (opens)
		s.m = seal_clear(n, 5);
	else
		memcpy(work, clear, n);
	crypto_core_hchacha20(subkey, nonce, secret, NULL);
	memset(stack, 0, sizeof(stack));
	ck_assert_int_eq(pthread_attr_init(&attr), 0);
	ck_assert_int_eq(pthread_attr_setstack(&attr, stack, sizeof(stack)), 0);
	ck_assert_int_eq(pthread_create(&t, &attr, play, &s), 0);
	while (!s.done)
		sched_yield();
	ck_assert_msg(shares(stack, STACK, state, sizeof(state)) == 0,
		"%s, key, %zu bytes", doing, n);
	ck_assert_msg(shares(stack, STACK, clear, n) == 0, "%s, text, %zu bytes", doing, n);
	ck_assert_msg(shares(stack, STACK, subkey, 32) == 0, "%s, subkey, %zu bytes", doing, n);
	for (size_t i = 0; i < n; i++) /* the key stream */
		work[i] = opens ? sealed[i] ^ clear[i] : work[i] ^ clear[i];
	ck_assert_msg(shares(stack, STACK, work, n) == 0, "%s, key stream, %zu bytes", doing, n);
	s.leave = true;
	ck_assert_int_eq(pthread_join(t, NULL), 0);
}

START_TEST(seal_and_open_leave_no_trace_on_the_stack)
{
	static const size_t sizes[] = { 16, 64, 200, 1000, 4096, 5000 };

	for (size_t i = 0; use(ids[_i]) && i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_no_trace(false, sizes[i]);
		assert_no_trace(true, sizes[i]);
	}
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
	tcase_add_test(tc, the_self_test_passes_for_both_ciphers);
	tcase_add_test(tc, auto_picks_aes_where_the_cpu_has_it_and_xchacha_elsewhere);
	tcase_add_test(tc, without_aes_instructions_auto_is_xchacha_and_aes_is_refused);
	tcase_add_test(tc, unknown_ciphers_are_refused_with_a_text_and_the_choice_stays);
	tcase_add_loop_test(tc, a_cipher_that_computes_wrong_answers_is_refused, 0, 8);
	tcase_add_loop_test(tc,
		the_published_vector_gives_the_published_bytes_and_those_of_the_combined_mode,
		0, 2);
	tcase_add_loop_test(tc, every_flipped_bit_is_refused_and_leaves_the_bytes_as_they_were,
		0, 2);
	tcase_add_loop_test(tc, flipped_bits_are_refused_on_both_sides_of_the_size_copied_aside,
		0, 2);
	tcase_add_test(tc, a_large_forgery_is_refused_before_anything_is_written);
	tcase_add_loop_test(tc, every_nonce_gives_other_bytes_and_another_tag, 0, 2);
	tcase_add_test(tc, the_limit_is_what_libsodium_and_addresses_allow);
	if (!SANITIZED)
		tcase_add_loop_test(tc, seal_and_open_leave_no_trace_on_the_stack, 0, 2);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
