/*
 * check_contract_rekey.c - the contract: a new master key, and no chunk is ever unreadable
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"

/** struct kept - a chunk and what it should be */
struct kept {
	unsigned char *p;
	size_t n;
	unsigned seed;
	int closed, holds;
	enum secmalloc_access access;
};

enum { KEPT = 72, VARIANTS = 32 };

static struct kept kept[KEPT];

/** variant - every combination of flags, prekey, cipher and pool */
static struct secmalloc_config
variant(int i)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = (i & 1 ? SECMALLOC_KEY_RESIDENT : 0u) | (i & 2 ? SECMALLOC_ISOLATE : 0u);
	c.prekey_size = i & 4 ? 16384 : 32;
	c.cipher = i & 8 ? SECMALLOC_CIPHER_XCHACHA20POLY1305 : SECMALLOC_CIPHER_AUTO;
	c.pool_size = i & 16 ? 16 * KIB : 0;
	return c;
}

static int
isolated(const struct kept *k, const struct secmalloc_config *c)
{
	return c->flags & SECMALLOC_ISOLATE || k->n > 16384;
}

/** keep - make chunk i: open or closed, every seventh held, those on their own pages protected */
static void
keep(unsigned i, const struct secmalloc_config *c)
{
	static const size_t sizes[] = { 0, 1, 15, 32, 100, 1000, 4096, 16384, 16385, 70000 };
	struct kept *k = &kept[i];

	*k = (struct kept){ .n = sizes[i % 10], .seed = i, .access = SECMALLOC_READWRITE };
	k->p = secmalloc(k->n);
	ck_assert_ptr_nonnull(k->p);
	fill(k->p, k->n, i);
	if (i % 3) {
		SUCCEEDS(secmalloc_encrypt(k->p));
		k->closed = 1;
	}
	if (i % 7 == 0) {
		SUCCEEDS(secmalloc_hold(k->p));
		k->holds = 1;
	}
	if (isolated(k, c) && i % 4 != 3) {
		k->access = (enum secmalloc_access)(i % 4 % 2);
		SUCCEEDS(secmalloc_protect(k->p, k->access));
	}
}

/** look - the chunk is as it was, and its bytes are there */
static void
look(const struct kept *k)
{
	ck_assert_int_eq(secmalloc_is_encrypted(k->p), k->closed && !k->holds);
	ck_assert_uint_eq(secmalloc_usable_size(k->p), k->n);
	SUCCEEDS(secmalloc_hold(k->p));
	if (k->access == SECMALLOC_NOACCESS) {
		unsigned char byte;

		ck_assert_int_le(peek(k->p, &byte, 1), 0);
		SUCCEEDS(secmalloc_protect(k->p, SECMALLOC_READONLY));
	}
	ck_assert(filled(k->p, k->n, k->seed));
	if (k->access == SECMALLOC_NOACCESS)
		SUCCEEDS(secmalloc_protect(k->p, SECMALLOC_NOACCESS));
	SUCCEEDS(secmalloc_release(k->p));
	ck_assert_int_eq(secmalloc_is_encrypted(k->p), k->closed && !k->holds);
}

static void
keep_all(const struct secmalloc_config *c)
{
	ck_assert_msg(secmalloc_init(c) == 0, "%s", secmalloc_error());
	for (unsigned i = 0; i < KEPT; i++)
		keep(i, c);
}

static void
look_at_all(void)
{
	for (unsigned i = 0; i < KEPT; i++)
		look(&kept[i]);
}

static void
let_go(void)
{
	for (unsigned i = 0; i < KEPT; i++) {
		if (kept[i].holds)
			SUCCEEDS(secmalloc_release(kept[i].p));
		secfree(kept[i].p);
	}
	ck_assert_uint_eq(stats_now().chunks, 0);
	ck_assert_uint_eq(stats_now().chunks_encrypted, 0);
	term();
}

START_TEST(chunks_of_every_kind_outlive_many_rekeys)
{
	struct secmalloc_config c = variant(_i);

	keep_all(&c);
	for (int i = 0; i < 12; i++) {
		SUCCEEDS(secmalloc_rekey());
		if (i % 4 == 0)
			look_at_all();
	}
	look_at_all();
	SUCCEEDS(secmalloc_encrypt(kept[3].p));
	SUCCEEDS(secmalloc_decrypt(kept[3].p));
	look(&kept[3]);
	let_go();
}
END_TEST

START_TEST(a_rekey_counts_as_no_opening_and_no_closing)
{
	struct secmalloc_config c = variant(_i);
	struct secmalloc_stats before, after;

	keep_all(&c);
	before = stats_now();
	for (int i = 0; i < 5; i++)
		SUCCEEDS(secmalloc_rekey());
	after = stats_now();
	ck_assert_int_eq(memcmp(&before, &after, offsetof(struct secmalloc_stats, granted)), 0);
	let_go();
}
END_TEST

START_TEST(a_closed_chunk_has_other_bytes_after_a_rekey)
{
	struct secmalloc_config c = variant(_i);
	unsigned char seen[6][64], *p;

	ck_assert_int_eq(secmalloc_init(&c), 0);
	p = secmalloc(64);
	SUCCEEDS(secmalloc_encrypt(p));
	for (int i = 0; i < 6; i++) {
		memcpy(seen[i], p, 64);
		for (int k = 0; k < i; k++)
			ck_assert_int_ne(memcmp(seen[i], seen[k], 64), 0);
		SUCCEEDS(secmalloc_rekey());
	}
	SUCCEEDS(secmalloc_decrypt(p));
	ck_assert(all_zero(p, 64));
	term();
}
END_TEST

START_TEST(before_init_and_after_term_a_rekey_is_EINVAL)
{
	int status;
	pid_t pid;

	FAILS_WITH(EINVAL, -1, secmalloc_rekey());
	init_defaults();
	SUCCEEDS(secmalloc_rekey());
	pid = fork();
	if (pid == 0) {
		MUST_FAIL(EINVAL, -1, secmalloc_rekey());
		MUST(secmalloc(1) && secmalloc_rekey() == 0);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	term();
	FAILS_WITH(EINVAL, -1, secmalloc_rekey());
}
END_TEST

/* ---------------------------------------------------------------- tampering */

/** tamper - flip a bit of a closed chunk, or flip it back; it may be protected */
static void
tamper(struct kept *k)
{
	SUCCEEDS(secmalloc_protect(k->p, SECMALLOC_READWRITE));
	spoil(k->p, (ptrdiff_t)k->n / 2);
	SUCCEEDS(secmalloc_protect(k->p, k->access));
}

START_TEST(a_tampered_chunk_stops_a_rekey_and_no_other_is_lost)
{
	struct secmalloc_config c = variant(_i | 2);

	keep_all(&c);
	for (unsigned bad = 1; bad < KEPT; bad++) {
		struct kept *k = &kept[bad];

		if (!k->closed || k->holds || k->n == 0)
			continue;
		tamper(k);
		FAILS_WITH(EBADMSG, -1, secmalloc_rekey());
		for (unsigned i = 0; i < KEPT; i++)
			if (i != bad)
				look(&kept[i]);
		FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(k->p));
		FAILS_WITH(EBADMSG, -1, secmalloc_rekey());
		tamper(k);
		look(k);
		SUCCEEDS(secmalloc_rekey());
	}
	look_at_all();
	let_go();
}
END_TEST

START_TEST(a_rekey_succeeds_once_the_tampered_chunk_is_freed)
{
	unsigned char *p = secmalloc(100), *q = secmalloc(100);

	fill(q, 100, 1);
	SUCCEEDS(secmalloc_encrypt_all());
	spoil(p, 7);
	for (int i = 0; i < 20; i++)
		FAILS_WITH(EBADMSG, -1, secmalloc_rekey());
	secfree(p);
	SUCCEEDS(secmalloc_rekey());
	SUCCEEDS(secmalloc_decrypt(q));
	ck_assert(filled(q, 100, 1));
}
END_TEST

/** one_step - something happens to chunk k, whose flips are counted: odd is tampered */
static void
one_step(unsigned r, unsigned char *p, int *closed, int *flipped)
{
	if (r % 4 == 0 && *closed) {
		spoil(p, 5);
		*flipped = !*flipped;
	} else if (r % 4 == 1 && *flipped) {
		FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(p));
	} else if (r % 4 == 1) {
		SUCCEEDS(secmalloc_decrypt(p));
		*closed = 0;
		ck_assert(filled(p, 40, 3));
	} else {
		SUCCEEDS(secmalloc_encrypt(p));
		*closed = 1;
	}
}

START_TEST(a_rekey_fails_just_as_long_as_a_closed_chunk_is_tampered)
{
	enum { N = 12, STEPS = 20000 };
	int closed[N] = { 0 }, flipped[N] = { 0 };
	unsigned char *p[N];
	unsigned r = 1;

	for (unsigned i = 0; i < N; i++)
		fill(p[i] = secmalloc(40), 40, 3);
	for (int i = 0; i < STEPS; i++) {
		unsigned bad = 0, k;

		r = r * 1103515245u + 12345u;
		k = (r >> 24) % N;
		one_step(r >> 16, p[k], &closed[k], &flipped[k]);
		for (k = 0; k < N; k++)
			bad += (unsigned)flipped[k];
		if ((r >> 20) % 3 == 0 && bad)
			FAILS_WITH(EBADMSG, -1, secmalloc_rekey());
		else if ((r >> 20) % 3 == 0)
			SUCCEEDS(secmalloc_rekey());
	}
}
END_TEST

/* ---------------------------------------------------------------- providers */

/** struct answer - what a provider says, and how often it was asked */
struct answer {
	int e;
	unsigned asked;
};

static int
provide(unsigned char key[32], void *arg)
{
	struct answer *a = arg;

	a->asked++;
	memset(key, 7, 32);
	return a->e;
}

START_TEST(a_provider_is_asked_at_every_rekey_and_may_answer_the_same)
{
	struct secmalloc_config c = variant(_i);
	struct answer a = { 0, 0 };
	unsigned char before[32];

	c.key_provider = provide;
	c.key_arg = &a;
	keep_all(&c);
	for (unsigned i = 0; i < 6; i++) {
		ck_assert_uint_eq(a.asked, i + 1);
		memcpy(before, kept[13].p, 32); /* closed, 32 bytes */
		SUCCEEDS(secmalloc_rekey());
		ck_assert_int_ne(memcmp(before, kept[13].p, 32), 0);
	}
	look_at_all();
	let_go();
}
END_TEST

START_TEST(a_providers_errno_leaves_the_old_key_in_force)
{
	struct secmalloc_config c = variant(_i);
	struct answer a = { 0, 0 };
	unsigned char before[32];

	c.key_provider = provide;
	c.key_arg = &a;
	keep_all(&c);
	for (int i = 0; i < 4; i++) {
		memcpy(before, kept[13].p, 32);
		a.e = ENOKEY;
		FAILS_WITH(ENOKEY, -1, secmalloc_rekey());
		ck_assert_ptr_nonnull(strstr(secmalloc_error(), "key_provider"));
		a.e = -5;
		FAILS_WITH(EIO, -1, secmalloc_rekey());
		ck_assert_int_eq(memcmp(before, kept[13].p, 32), 0);
		look_at_all();
		a.e = 0;
		SUCCEEDS(secmalloc_rekey());
	}
	look_at_all();
	let_go();
}
END_TEST

/* ---------------------------------------------------------------- the limit */

static void
rekey_at_the_limit(void *unused)
{
	enum { N = 1500, SIZE = 3000 };
	static unsigned char *p[N];
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	(void)unused;
	drop_to(256 * KIB);
	c.pool_size = 16 * KIB;
	MUST(secmalloc_init(&c) == 0);
	for (unsigned i = 0; i < N; i++) {
		MUST((p[i] = secmalloc(SIZE)) != NULL);
		fill(p[i], SIZE, i);
		MUST(secmalloc_encrypt(p[i]) == 0);
	}
	for (int round = 0; round < 5; round++) {
		MUST_FAIL(ENOMEM, -1, secmalloc_decrypt_all());
		MUST_FAIL(ENOMEM, -1, secmalloc_rekey());
		MUST(strstr(secmalloc_error(), "RLIMIT_MEMLOCK is 262144") != NULL);
		for (unsigned i = 0; i < N; i++)
			if (secmalloc_is_encrypted(p[i]) == 0)
				MUST(filled(p[i], SIZE, i));
		MUST(secmalloc_encrypt_all() == 0);
		for (unsigned i = 0; i < N; i++) {
			MUST(secmalloc_decrypt(p[i]) == 0 && filled(p[i], SIZE, i));
			MUST(secmalloc_encrypt(p[i]) == 0);
		}
		MUST(round % 2 || secmalloc_rekey() == 0);
	}
	MUST(stats_now().tampered == 0);
}

START_TEST(a_rekey_without_locked_pages_leaves_every_chunk_openable)
{
	if (may_drop("the lock limit") && !SANITIZED)
		assert_exits_0(rekey_at_the_limit, NULL);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_rekey");
	TCase *tc = add_case(s, "rekey", 0);

	tcase_add_loop_test(tc, chunks_of_every_kind_outlive_many_rekeys, 0, VARIANTS);
	tcase_add_loop_test(tc, a_rekey_counts_as_no_opening_and_no_closing, 0, VARIANTS);
	tcase_add_loop_test(tc, a_closed_chunk_has_other_bytes_after_a_rekey, 0, VARIANTS);
	tcase_add_test(tc, before_init_and_after_term_a_rekey_is_EINVAL);
	tcase_add_loop_test(tc, a_tampered_chunk_stops_a_rekey_and_no_other_is_lost, 0, 2);
	tcase_add_loop_test(tc, a_provider_is_asked_at_every_rekey_and_may_answer_the_same, 0, 8);
	tcase_add_loop_test(tc, a_providers_errno_leaves_the_old_key_in_force, 0, 8);
	tcase_add_test(tc, a_rekey_without_locked_pages_leaves_every_chunk_openable);
	tc = add_case(s, "tampering", 1);
	tcase_add_test(tc, a_rekey_succeeds_once_the_tampered_chunk_is_freed);
	tcase_add_test(tc, a_rekey_fails_just_as_long_as_a_closed_chunk_is_tampered);
	return run(s);
}
