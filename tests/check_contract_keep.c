/*
 * check_contract_keep.c - the contract: what a child has under SECMALLOC_FORK_KEEP, and that it is
 * its own
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "keep.h"
#include <poll.h>

static void
has_the_chunks(void *arg)
{
	(void)arg;
	heirlooms_are_whole();
}

START_TEST(a_child_has_every_chunk_at_its_address)
{
	start_variant(_i);
	make_heirlooms();
	assert_exits_0(has_the_chunks, NULL);
	assert_exits_0(has_the_chunks, NULL);
	heirlooms_are_whole();
	term();
}
END_TEST

static void
ruins_the_chunks(void *arg)
{
	(void)arg;
	ruin_heirlooms();
}

static void
ruins_by_rekey(void *arg)
{
	ruins_the_chunks(arg);
	MUST(secmalloc_rekey() == 0 && secmalloc_encrypt_all() == 0 && secmalloc_rekey() == 0);
}

static void
ruins_by_lock(void *arg)
{
	(void)arg;
	MUST(secmalloc_lock("material", 8) == 0);
	MUST_FAIL(EACCES, -1, secmalloc_decrypt(heirlooms[4].p));
	MUST(secmalloc_unlock("material", 8) == 0 && secmalloc_decrypt(heirlooms[5].p) == 0);
	MUST(filled(heirlooms[5].p, heirlooms[5].size, 5));
}

static void
ruins_by_purge(void *arg)
{
	(void)arg;
	secmalloc_purge();
	MUST(all_zero(heirlooms[4].p, heirlooms[4].size));
	MUST_FAIL(ECANCELED, -1, secmalloc_decrypt(heirlooms[5].p));
	MUST(secmalloc_term() == 0 && secmalloc(10) != NULL);
}

static void
ruins_by_term(void *arg)
{
	(void)arg;
	MUST(secmalloc_term() == 0);
	MUST_FAIL(EINVAL, -1, secmalloc_encrypt(heirlooms[4].p));
	MUST(secmalloc(10) != NULL && secmalloc_term() == 0);
}

START_TEST(what_a_child_does_changes_nothing_in_the_parent)
{
	start_variant(_i);
	make_heirlooms();
	assert_exits_0(ruins_the_chunks, NULL);
	assert_exits_0(ruins_by_rekey, NULL);
	assert_exits_0(ruins_by_purge, NULL);
	assert_exits_0(ruins_by_term, NULL);
	if (_i == 0) /* it takes a second */
		assert_exits_0(ruins_by_lock, NULL);
	assert_exits_0(has_the_chunks, NULL);
	heirlooms_are_whole();
	term();
}
END_TEST

/** waits_for_the_parent - and then still has all; arg: a pipe's ends */
static void
waits_for_the_parent(void *arg)
{
	const int *fds = arg;
	char c;

	close(fds[1]);
	MUST(read(fds[0], &c, 1) == 0);
	heirlooms_are_whole();
	ruin_heirlooms();
}

static void
the_parent_goes_on(void (*by)(void *), int variant)
{
	int fds[2], status;
	pid_t pid;

	start_variant(variant);
	make_heirlooms();
	ck_assert_int_eq(pipe(fds), 0);
	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		alarm(50);
		waits_for_the_parent(fds);
		_exit(0);
	}
	for (unsigned i = 0; i < N_HEIRLOOMS; i++)
		while (secmalloc_release(heirlooms[i].p) == 0)
			continue;
	by(NULL);
	close(fds[0]);
	close(fds[1]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	term();
}

START_TEST(what_the_parent_does_changes_nothing_in_a_child)
{
	the_parent_goes_on(ruins_the_chunks, _i);
	the_parent_goes_on(ruins_by_rekey, _i);
	the_parent_goes_on(ruins_by_purge, _i);
	the_parent_goes_on(ruins_by_term, _i);
	if (_i == 0) /* it takes a second */
		the_parent_goes_on(ruins_by_lock, _i);
}
END_TEST

static void
has_no_holds(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < N_HEIRLOOMS; i++) {
		void *p = heirlooms[i].p;

		MUST_FAIL(EINVAL, -1, secmalloc_release(p));
		MUST(secmalloc_encrypt(p) == 0 && secmalloc_is_encrypted(p) == 1);
		MUST(secmalloc_hold(p) == 0 && secmalloc_is_encrypted(p) == 0);
		MUST_FAIL(EBUSY, -1, secmalloc_encrypt(p));
		MUST(secmalloc_release(p) == 0 && secmalloc_is_encrypted(p) == 1);
	}
}

START_TEST(a_hold_stays_with_the_parent)
{
	start_variant(_i);
	make_heirlooms();
	assert_exits_0(has_no_holds, NULL);
	for (unsigned i = 0; i < N_HEIRLOOMS; i++) {
		const enum manner m = heirlooms[i].manner;

		if (m != HELD && m != OPENED_BY_HOLD)
			continue;
		FAILS_WITH(EBUSY, -1, secmalloc_encrypt(heirlooms[i].p));
		ck_assert_int_eq(secmalloc_release(heirlooms[i].p), 0);
		ck_assert_int_eq(
			secmalloc_is_encrypted(heirlooms[i].p), m == OPENED_BY_HOLD ? 1 : 0);
	}
	term();
}
END_TEST

static void
frees_again(void *arg)
{
	secfree(arg);
}

static void
dies_of(const char *what, void (*body)(void *), void *arg)
{
	const struct outcome o = outcome_of(body, arg);

	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT &&
			strstr(o.text, what) != NULL,
		"status 0x%x: %s", (unsigned)o.status, o.text);
}

START_TEST(what_the_parent_freed_cannot_be_freed_by_a_child)
{
	static const size_t sizes[] = { 0, 40, 3000, 20000, 300000, 1200000 };

	start_variant(_i);
	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		unsigned char *p = secmalloc(sizes[k]), *q = secmalloc(sizes[k]);

		ck_assert(p != NULL && q != NULL);
		ck_assert_int_eq(secmalloc_encrypt(q), 0);
		secfree(p);
		secfree(q);
		dies_of("double free", frees_again, launder(p));
		dies_of("double free", frees_again, launder(q));
	}
	term();
}
END_TEST

static void
frees_inside(void *arg)
{
	secfree((unsigned char *)arg + 16);
}

static void
overruns(void *arg)
{
	spoil(arg, 501);
	secfree(arg);
}

START_TEST(a_child_knows_its_chunks_and_their_canaries)
{
	start_with(&(struct secmalloc_config){ .struct_size = sizeof(struct secmalloc_config),
		.fork = SECMALLOC_FORK_KEEP });
	make_heirlooms();
	dies_of("invalid free", frees_inside, heirlooms[4].p);
	dies_of("invalid free", frees_inside, heirlooms[18].p);
	dies_of("overflow", overruns, heirlooms[4].p);
	term();
}
END_TEST

/* ------------------------------------------------------------- thousands */

enum { MANY = 3000 };

static unsigned char *many[MANY];

static size_t
size_of(unsigned i)
{
	return i % 500 == 0 ? 30000 : i % 40 == 0 ? 5000 : i % 300;
}

static void
make_many(void)
{
	for (unsigned i = 0; i < MANY; i++) {
		many[i] = secmalloc(size_of(i));
		ck_assert_msg(many[i] != NULL, "%s", secmalloc_error());
		fill(many[i], size_of(i), i);
		if (i % 3 == 0 && secmalloc_encrypt(many[i]))
			ck_abort_msg("%s", secmalloc_error());
	}
	for (unsigned i = 7; i < MANY; i += 13) {
		secfree(many[i]);
		many[i] = NULL;
	}
}

static void
has_many(void *arg)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	const struct secmalloc_stats *theirs = arg;

	MUST(secmalloc_stats(&s) == 0);
	MUST(s.chunks == theirs->chunks && s.bytes == theirs->bytes);
	MUST(s.chunks_encrypted == theirs->chunks_encrypted);
	MUST(s.bytes_clear == theirs->bytes_clear && s.pools == theirs->pools);
	MUST(s.pool_bytes == theirs->pool_bytes && s.granted == theirs->granted);
	MUST(s.locked_bytes == theirs->locked_bytes && s.cipher == theirs->cipher);
	for (unsigned i = 0; i < MANY; i++) {
		if (many[i] == NULL)
			continue;
		MUST(secmalloc_is_encrypted(many[i]) == (i % 3 == 0));
		MUST(i % 3 != 0 || secmalloc_decrypt(many[i]) == 0);
		MUST(filled(many[i], size_of(i), i));
	}
	MUST(secmalloc_encrypt_all() == 0 && secmalloc_rekey() == 0);
	MUST(secmalloc_decrypt_all() == 0);
	for (unsigned i = 0; i < MANY; i++) {
		MUST(many[i] == NULL || filled(many[i], size_of(i), i));
		secfree(many[i]);
	}
	MUST(secmalloc_stats(&s) == 0 && s.chunks == 0 && s.bytes == 0 && s.bytes_clear == 0);
	for (unsigned i = 0; i < MANY; i++)
		MUST((many[i] = secmalloc(size_of(i))) && all_zero(many[i], size_of(i)));
}

START_TEST(thousands_of_chunks_cross_and_stats_say_so)
{
	struct secmalloc_stats s;

	start_variant(_i);
	make_many();
	s = stats_now();
	assert_exits_0(has_many, &s);
	assert_exits_0(has_many, &s);
	ck_assert_uint_eq(stats_now().locked_bytes, s.locked_bytes);
	term();
}
END_TEST

/* ------------------------------------------------------------- reseal */

static void
closes_by_itself(void *arg)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	unsigned char *p = heirlooms[4].p;

	(void)arg;
	for (int ms = 0; ms < 5000 && secmalloc_is_encrypted(p) != 1; ms += 5)
		poll(NULL, 0, 5);
	MUST(secmalloc_is_encrypted(p) == 1);
	MUST(secmalloc_stats(&s) == 0 && s.reseals > 0);
	MUST(secmalloc_hold(p) == 0 && filled(p, heirlooms[4].size, 4));
	poll(NULL, 0, 120);
	MUST(filled(p, heirlooms[4].size, 4) && secmalloc_release(p) == 0);
	MUST((p = secmalloc(50)) != NULL);
	for (int ms = 0; ms < 5000 && secmalloc_is_encrypted(p) != 1; ms += 5)
		poll(NULL, 0, 5);
	MUST(secmalloc_is_encrypted(p) == 1);
	MUST(secmalloc_term() == 0);
}

static void
child_of_child_closes_by_itself(void *arg)
{
	assert_exits_0(closes_by_itself, arg);
	closes_by_itself(arg);
}

START_TEST(an_open_chunk_closes_by_itself_in_a_child_too)
{
	struct secmalloc_config c = keep_config(_i & 1 ? SECMALLOC_HIDDEN : 0);

	c.reseal_ms = 60;
	c.flags = _i & 2 ? SECMALLOC_NO_THREAD : 0;
	start_with(&c);
	make_heirloom(4);
	assert_exits_0(child_of_child_closes_by_itself, NULL);
	term();
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: keep");
	TCase *tc = add_case(s, "each way to start", 0), *once = add_case(s, "once", 0);

	tcase_add_loop_test(tc, a_child_has_every_chunk_at_its_address, 0, N_VARIANTS);
	tcase_add_loop_test(tc, what_a_child_does_changes_nothing_in_the_parent, 0, N_VARIANTS);
	tcase_add_loop_test(tc, what_the_parent_does_changes_nothing_in_a_child, 0, N_VARIANTS);
	tcase_add_loop_test(tc, a_hold_stays_with_the_parent, 0, N_VARIANTS);
	tcase_add_loop_test(tc, what_the_parent_freed_cannot_be_freed_by_a_child, 0, N_VARIANTS);
	tcase_add_loop_test(tc, thousands_of_chunks_cross_and_stats_say_so, 0, N_VARIANTS);
	tcase_add_loop_test(once, an_open_chunk_closes_by_itself_in_a_child_too, 0, 4);
	tcase_add_test(once, a_child_knows_its_chunks_and_their_canaries);
	return run(s);
}
