/*
 * check_daemon.c - the daemon's passphrases, from inside: key pairs, sealed parcels, delays
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"

#include "../daemon/phrase.c"

static const char phrase[] = "open sesame";
static struct sd_seal seal_of_phrase;

void
sd_log(int priority, const char *fmt, ...)
{
	(void)priority, (void)fmt;
}

static struct sd_pair *
pair_of(const char *text, const unsigned char *salt)
{
	char *kept = secstrdup(text);
	struct sd_pair *pair = NULL;

	ck_assert_int_eq(sd_derive_begin((unsigned char *)kept, strlen(kept), salt), 0);
	ck_assert_int_ge(sd_derive_fd(), 0);
	ck_assert_int_eq(sd_derive_end(&pair), 0);
	ck_assert_int_eq(sd_derive_fd(), -1);
	secfree(kept);
	return pair;
}

static void
begin(void)
{
	MUST(secmalloc_init(NULL) == 0);
	ck_assert_int_ge(sodium_init(), 0);
	ck_assert_int_eq(adopt(phrase, strlen(phrase), &seal_of_phrase), 0);
}

static void
finish_it(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	secmalloc_stats(&s);
	ck_assert_uint_eq(s.chunks, 0); /* nothing of a pair is left behind */
	secmalloc_term();
}

START_TEST(a_passphrase_and_its_salt_make_the_same_pair_again_and_others_do_not)
{
	unsigned char salt[SD_SALT_BYTES];
	struct sd_pair *same = pair_of(phrase, seal_of_phrase.salt);
	struct sd_pair *other = pair_of("open sesamf", seal_of_phrase.salt), *third;

	ck_assert(seal_of_phrase.set);
	memcpy(salt, seal_of_phrase.salt, sizeof(salt));
	salt[0] ^= 1;
	third = pair_of(phrase, salt);
	ck_assert_mem_eq(same->public, seal_of_phrase.public, sizeof(same->public));
	ck_assert_mem_ne(other->public, seal_of_phrase.public, sizeof(same->public));
	ck_assert_mem_ne(third->public, seal_of_phrase.public, sizeof(same->public));
	ck_assert(sodium_is_zero(same->seed, sizeof(same->seed)));
	secfree(same);
	secfree(other);
	secfree(third);
}
END_TEST

START_TEST(a_parcel_of_each_length_opens_by_its_pair_and_unchanged_only)
{
	unsigned char parcel[SM_WIRE_PARCEL_BYTES], sealed[SD_SEALED_BYTES],
		opened[SM_WIRE_PARCEL_BYTES];
	struct sd_pair *pair = pair_of(phrase, seal_of_phrase.salt);
	struct sd_pair *other = pair_of("other", seal_of_phrase.salt);

	randombytes_buf(parcel, sizeof(parcel));
	for (size_t n = 0; n <= sizeof(parcel); n++) {
		ck_assert_int_eq(sd_seal_parcel(&seal_of_phrase, parcel, n, sealed), 0);
		ck_assert_int_eq(sd_open_parcel(pair, sealed, n, opened), 0);
		ck_assert(memcmp(parcel, opened, n) == 0);
		ck_assert_int_eq(sd_open_parcel(other, sealed, n, opened), EBADMSG);
		sealed[randombytes_uniform((uint32_t)n + crypto_box_SEALBYTES)] ^= 4;
		ck_assert_int_eq(sd_open_parcel(pair, sealed, n, opened), EBADMSG);
	}
	secfree(pair);
	secfree(other);
}
END_TEST

START_TEST(a_wrong_passphrase_costs_twice_as_long_each_time_and_at_most_5_seconds)
{
	ck_assert_uint_eq(sd_delay_ms(0), 0);
	ck_assert_uint_eq(sd_delay_ms(1), 100);
	for (unsigned wrong = 2; wrong <= 6; wrong++)
		ck_assert_uint_eq(sd_delay_ms(wrong), 2 * sd_delay_ms(wrong - 1));
	for (unsigned wrong = 7; wrong < 2000; wrong++)
		if (sd_delay_ms(wrong) != 5000)
			ck_abort_msg("%u", sd_delay_ms(wrong));
	ck_assert_uint_eq(sd_delay_ms(UINT_MAX), 5000);
}
END_TEST

START_TEST(a_passphrase_from_a_descriptor_is_its_first_line_of_1_to_512_bytes)
{
	static const struct {
		size_t n;
		int error;
	} tries[] = { { 0, EINVAL }, { 1, 0 }, { 512, 0 }, { 513, EINVAL }, { 2000, EINVAL } };
	char text[2001];

	for (size_t i = 0; i < sizeof(tries) / sizeof(*tries); i++) {
		struct sd_seal s = { 0 };
		int ends[2];

		memset(text, 'x', sizeof(text));
		text[tries[i].n] = '\n';
		ck_assert_int_eq(pipe(ends), 0);
		ck_assert_int_eq(write(ends[1], text, tries[i].n + 1), (ssize_t)tries[i].n + 1);
		close(ends[1]);
		ck_assert_int_eq(sd_phrase_start(ends[0], &s), tries[i].error);
		ck_assert(s.set == (tries[i].error == 0));
	}
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("daemon");
	TCase *tc = tcase_create("daemon");
	SRunner *sr = srunner_create(s);

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, begin, finish_it);
	suite_add_tcase(s, tc);
	tcase_add_test(tc, a_passphrase_and_its_salt_make_the_same_pair_again_and_others_do_not);
	tcase_add_test(tc, a_parcel_of_each_length_opens_by_its_pair_and_unchanged_only);
	tcase_add_test(tc, a_wrong_passphrase_costs_twice_as_long_each_time_and_at_most_5_seconds);
	tcase_add_test(tc, a_passphrase_from_a_descriptor_is_its_first_line_of_1_to_512_bytes);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
