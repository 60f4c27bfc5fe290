/*
 * check_contract_keep_keys.c - the contract: under which keys the chunks of a FORK_KEEP child are
 * closed
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "keep.h"

enum { BYTES = 64 };

/** shared - bytes that parent and children see both */
static unsigned char *
shared(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	return p;
}

/** struct writing - a chunk that is open, and where its ciphertext is to be shown */
struct writing {
	unsigned char *p, *shown;
};

static void
closes(void *arg)
{
	const struct writing *w = arg;

	MUST(secmalloc_encrypt(w->p) == 0);
	memcpy(w->shown, w->p, BYTES);
	MUST(secmalloc_decrypt(w->p) == 0 && filled(w->p, BYTES, 5));
}

START_TEST(the_same_bytes_at_the_same_address_are_never_closed_alike)
{
	enum { N = 40 };
	unsigned char *seen = shared(N * BYTES);
	struct writing w;

	start_variant(_i);
	w.p = secmalloc(BYTES);
	fill(w.p, BYTES, 5);
	for (int i = 0; i < N; i++) {
		w.shown = seen + i * BYTES;
		if (i % 4 == 3)
			closes(&w);
		else
			assert_exits_0(closes, &w);
	}
	for (int i = 0; i < N; i++)
		for (int j = 0; j < i; j++)
			if (memcmp(seen + i * BYTES, seen + j * BYTES, BYTES) == 0)
				ck_abort_msg("%d and %d", i, j);
	term();
}
END_TEST

static void
sees_it_as_it_was(void *arg)
{
	unsigned char *was = arg, *p = heirlooms[5].p;

	MUST(memcmp(p, was, heirlooms[5].size) == 0);
	MUST(secmalloc_rekey() == 0);
	MUST(memcmp(p, was, heirlooms[5].size) != 0); /* carried to the child's own key */
	MUST(secmalloc_rekey() == 0 && secmalloc_rekey() == 0);
	heirlooms_are_whole();
}

START_TEST(what_was_closed_crosses_as_it_is_until_it_is_closed_anew)
{
	static unsigned char was[500];

	start_variant(_i);
	make_heirlooms();
	ck_assert_uint_eq(heirlooms[5].size, sizeof(was));
	memcpy(was, heirlooms[5].p, sizeof(was));
	assert_exits_0(sees_it_as_it_was, was);
	ck_assert_int_eq(memcmp(was, heirlooms[5].p, sizeof(was)), 0);
	term();
}
END_TEST

/* A child cannot open what its parent closes after the fork, be it put at the same place. */
static void
opens_the_parents(void *arg)
{
	const struct writing *w = arg;

	MUST(secmalloc_encrypt(w->p) == 0);
	memcpy(w->p, w->shown, BYTES);
	MUST_FAIL(EBADMSG, -1, secmalloc_decrypt(w->p));
	MUST(memcmp(w->p, w->shown, BYTES) == 0);
}

START_TEST(ciphertext_of_the_parent_is_refused_at_the_same_place)
{
	struct writing w = { NULL, shared(BYTES) };

	start_variant(_i);
	w.p = secmalloc(BYTES);
	fill(w.p, BYTES, 5);
	closes(&w);
	assert_exits_0(opens_the_parents, &w);
	ck_assert(filled(w.p, BYTES, 5));
	term();
}
END_TEST

/* ------------------------------------------------------------- generations */

static void
has_descendants(void *arg)
{
	int *left = arg;

	if (*left % 2)
		MUST(secmalloc_rekey() == 0);
	if ((*left)-- > 0) {
		const struct outcome o = outcome_of(has_descendants, left);

		MUST(o.status == 0);
	}
	heirlooms_are_whole();
	MUST(secmalloc_encrypt_all() == 0);
	ruin_heirlooms();
}

START_TEST(generations_have_the_same_chunks)
{
	int left = 8;

	start_variant(_i);
	make_heirlooms();
	assert_exits_0(has_descendants, &left);
	heirlooms_are_whole();
	term();
}
END_TEST

static void
has_all(void *unused)
{
	(void)unused;
	heirlooms_are_whole();
}

START_TEST(a_fork_after_rekey_keeps_everything)
{
	start_variant(_i);
	make_heirlooms();
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(secmalloc_rekey(), 0);
		assert_exits_0(has_all, NULL);
	}
	term();
}
END_TEST

/* ------------------------------------------------------------- tampering */

enum { BAD = 5 }; /* a closed heirloom of 500 bytes */

static void
all_but_one_are_whole(void)
{
	unsigned char was[500];

	memcpy(was, heirlooms[BAD].p, sizeof(was));
	MUST_FAIL(EBADMSG, -1, secmalloc_decrypt(heirlooms[BAD].p));
	MUST(memcmp(was, heirlooms[BAD].p, sizeof(was)) == 0);
	for (unsigned i = 0; i < N_HEIRLOOMS; i++)
		if (i != BAD)
			heirloom_is_whole(i);
}

static void
opens_all_but_one(void *unused)
{
	(void)unused;
	all_but_one_are_whole();
	MUST(secmalloc_encrypt_all() == 0);
	MUST_FAIL(EBADMSG, -1, secmalloc_decrypt_all());
	secfree(heirlooms[BAD].p);
	MUST(secmalloc_encrypt_all() == 0 && secmalloc_rekey() == 0);
	MUST(secmalloc_decrypt_all() == 0);
}

START_TEST(a_chunk_tampered_with_before_the_fork_is_refused_and_the_others_open)
{
	start_variant(_i);
	make_heirlooms();
	spoil(heirlooms[BAD].p, 77);
	assert_exits_0(opens_all_but_one, NULL);
	spoil(heirlooms[BAD].p, 77);
	ck_assert_int_eq(secmalloc_decrypt(heirlooms[BAD].p), 0);
	term();
}
END_TEST

static void
has_a_child_that_opens_all_but_one(void *unused)
{
	const struct outcome o = outcome_of(opens_all_but_one, unused);

	fputs(o.text, stderr);
	MUST(o.status == 0);
	all_but_one_are_whole();
}

START_TEST(a_chunk_tampered_with_costs_a_grandchild_nothing_else)
{
	start_variant(_i);
	make_heirlooms();
	spoil(heirlooms[BAD].p, 77);
	assert_exits_0(has_a_child_that_opens_all_but_one, NULL);
	term();
}
END_TEST

/* ------------------------------------------------------------- providers */

static int *asked; /* shared: how often the provider was */

static int
provide(unsigned char key[32], void *arg)
{
	++*asked;
	memset(key, 0x42, 32);
	return *(int *)arg;
}

static void
never_asks(void *arg)
{
	struct writing w = { heirlooms[4].p, arg };
	const int before = *asked;

	heirlooms_are_whole();
	fill(w.p, BYTES, 5);
	closes(&w);
	MUST(*asked == before);
	MUST(secmalloc_rekey() == 0 && *asked == before + 1);
	heirlooms[4].p[0] ^= 1;
	MUST(secmalloc_term() == 0);
}

START_TEST(a_provider_is_not_asked_for_a_child)
{
	static int answer;
	struct secmalloc_config c = keep_config(_i ? SECMALLOC_HIDDEN : 0);
	unsigned char *seen = shared(4 * BYTES);

	asked = (int *)(void *)shared(sizeof(int));
	c.key_provider = provide;
	c.key_arg = &answer;
	start_with(&c);
	make_heirlooms();
	ck_assert_int_eq(*asked, 1);
	for (int i = 0; i < 4; i++) {
		answer = 0;
		assert_exits_0(never_asks, seen + i * BYTES);
		for (int j = 0; j < i; j++)
			ck_assert_int_ne(memcmp(seen + i * BYTES, seen + j * BYTES, BYTES), 0);
	}
	answer = EACCES;
	FAILS_WITH(EACCES, -1, secmalloc_rekey());
	assert_exits_0(has_all, NULL);
	term();
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: keep, keys");
	TCase *tc = add_case(s, "each way to start", 0), *once = add_case(s, "once", 0);

	tcase_add_loop_test(
		tc, the_same_bytes_at_the_same_address_are_never_closed_alike, 0, N_VARIANTS);
	tcase_add_loop_test(
		tc, what_was_closed_crosses_as_it_is_until_it_is_closed_anew, 0, N_VARIANTS);
	tcase_add_loop_test(
		tc, ciphertext_of_the_parent_is_refused_at_the_same_place, 0, N_VARIANTS);
	tcase_add_loop_test(tc, generations_have_the_same_chunks, 0, N_VARIANTS);
	tcase_add_loop_test(tc, a_fork_after_rekey_keeps_everything, 0, N_VARIANTS);
	tcase_add_loop_test(tc,
		a_chunk_tampered_with_before_the_fork_is_refused_and_the_others_open, 0,
		N_VARIANTS);
	tcase_add_loop_test(once, a_chunk_tampered_with_costs_a_grandchild_nothing_else, 0, 2);
	tcase_add_loop_test(once, a_provider_is_not_asked_for_a_child, 0, 2);
	return run(s);
}
