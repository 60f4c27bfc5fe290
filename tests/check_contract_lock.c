/*
 * check_contract_lock.c - the contract: nothing but the right material opens what was locked
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Argon2id takes 0.7 s a try: SECMALLOC_WRONG says how many wrong ones are tried (5).
 */
#include "every_call.h"

#define MATERIAL "correct horse", 13

enum { KEPT = 24, BYTES = 17000 };

static unsigned char *kept[KEPT];

static size_t
kept_bytes(unsigned i)
{
	return i % 5 == 4 ? BYTES : i * 50;
}

/** keep - closed, open and protected chunks */
static void
keep(void)
{
	for (unsigned i = 0; i < KEPT; i++) {
		MUST((kept[i] = secmalloc(kept_bytes(i))) != NULL);
		fill(kept[i], kept_bytes(i), i);
		MUST(i % 2 || secmalloc_encrypt(kept[i]) == 0);
		if (i % 5 == 4)
			MUST(secmalloc_protect(kept[i], (enum secmalloc_access)(i % 2)) == 0);
	}
}

/** look_closed - every chunk is closed */
static void
look_closed(void)
{
	for (unsigned i = 0; i < KEPT; i++)
		MUST(secmalloc_is_encrypted(kept[i]) == 1);
	MUST(stats_now().chunks_encrypted == stats_now().chunks);
	MUST(stats_now().bytes_clear == 0);
}

/** look - every chunk is intact, and protected as it was */
static void
look(void)
{
	unsigned char byte;

	for (unsigned i = 0; i < KEPT; i++) {
		MUST(secmalloc_decrypt(kept[i]) == 0);
		if (i % 5 == 4) {
			MUST(i % 2 || peek(kept[i], &byte, 1) <= 0);
			MUST(secmalloc_protect(kept[i], SECMALLOC_READONLY) == 0);
		}
		MUST(filled(kept[i], kept_bytes(i), i));
		if (i % 5 == 4)
			MUST(secmalloc_protect(kept[i], (enum secmalloc_access)(i % 2)) == 0);
	}
	MUST(stats_now().tampered == 0);
}

static void
start(unsigned flags)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = flags;
	MUST(secmalloc_init(&c) == 0);
}

/* ------------------------------------------------------- lock and unlock */

START_TEST(wrong_material_is_EPERM_and_the_right_one_opens)
{
	const char *wrong = getenv("SECMALLOC_WRONG");
	char text[32];
	int n = wrong ? atoi(wrong) : 5;

	start(0);
	keep();
	SUCCEEDS(secmalloc_lock(MATERIAL));
	look_closed();
	for (int i = 0; i < n; i++) {
		const int len = snprintf(text, sizeof(text), "correct horse%d", i);

		FAILS_WITH(EPERM, -1, secmalloc_unlock(text, (size_t)len));
		FAILS_WITH(EACCES, -1, secmalloc_decrypt(kept[0]));
	}
	FAILS_WITH(EPERM, -1, secmalloc_unlock("correct horse", 12));
	FAILS_WITH(EPERM, -1, secmalloc_unlock("correct horse", 14));
	look_closed();
	SUCCEEDS(secmalloc_unlock(MATERIAL));
	look_closed();
	look();
	term();
}
END_TEST

START_TEST(locked_and_unlocked_again_and_again_with_other_material)
{
	static unsigned char material[3000];

	start(_i ? SECMALLOC_KEY_RESIDENT | SECMALLOC_ISOLATE : 0);
	keep();
	for (unsigned i = 0; i < 3; i++) {
		fill(material, sizeof(material), i);
		memset(material + 1, 0, 5); /* it is no string */
		SUCCEEDS(secmalloc_lock(material, sizeof(material)));
		FAILS_WITH(EACCES, -1, secmalloc_lock(material, sizeof(material)));
		look_closed();
		material[2500] ^= 1;
		FAILS_WITH(EPERM, -1, secmalloc_unlock(material, sizeof(material)));
		material[2500] ^= 1;
		SUCCEEDS(secmalloc_unlock(material, sizeof(material)));
		look_closed();
		MUST(secmalloc_rekey() == 0);
		look();
		FAILS_WITH(EINVAL, -1, secmalloc_unlock(material, sizeof(material)));
	}
	term();
}
END_TEST

START_TEST(a_held_chunk_makes_lock_EBUSY_and_everything_goes_on)
{
	start(0);
	keep();
	SUCCEEDS(secmalloc_hold(kept[1]));
	SUCCEEDS(secmalloc_hold(kept[2]));
	FAILS_WITH(EBUSY, -1, secmalloc_lock(MATERIAL));
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "held"));
	ck_assert_int_eq(secmalloc_is_encrypted(kept[1]), 0);
	ck_assert_int_eq(secmalloc_is_encrypted(kept[3]), 1); /* what could be closed stays so */
	ck_assert(filled(kept[2], kept_bytes(2), 2));
	FAILS_WITH(EINVAL, -1, secmalloc_unlock(MATERIAL));
	secfree(secmalloc(10));
	SUCCEEDS(secmalloc_rekey());
	SUCCEEDS(secmalloc_release(kept[1]));
	SUCCEEDS(secmalloc_release(kept[2]));
	look();
	term();
}
END_TEST

START_TEST(a_chunk_tampered_with_while_locked_is_the_only_one_lost)
{
	start(0);
	keep();
	SUCCEEDS(secmalloc_lock(MATERIAL));
	spoil(kept[8], 3);
	SUCCEEDS(secmalloc_unlock(MATERIAL));
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt(kept[8]));
	FAILS_WITH(EBADMSG, -1, secmalloc_rekey());
	spoil(kept[8], 3);
	SUCCEEDS(secmalloc_rekey());
	SUCCEEDS(secmalloc_decrypt_all());
	ck_assert(filled(kept[8], kept_bytes(8), 8));
}
END_TEST

START_TEST(empty_material_and_nothing_to_unlock_are_EINVAL)
{
	for (int i = 0; i < 3; i++) {
		if (i == 1)
			start(0);
		FAILS_WITH(EINVAL, -1, secmalloc_lock("", 0));
		FAILS_WITH(EINVAL, -1, secmalloc_lock(NULL, 0));
		FAILS_WITH(EINVAL, -1, secmalloc_lock(NULL, 5));
		FAILS_WITH(EINVAL, -1, secmalloc_unlock("", 0));
		FAILS_WITH(EINVAL, -1, secmalloc_unlock(NULL, 5));
		FAILS_WITH(EINVAL, -1, secmalloc_unlock(MATERIAL));
		if (i != 1)
			FAILS_WITH(EINVAL, -1, secmalloc_lock(MATERIAL));
		else
			term();
	}
}
END_TEST

/* ------------------------------------------------------------ while locked */

static void
free_a_foreign_pointer(void *p)
{
	start(0);
	secfree(secmalloc(10));
	MUST(secmalloc_lock(MATERIAL) == 0);
	secfree(p);
}

static void
realloc_a_foreign_pointer(void *p)
{
	start(0);
	secfree(secmalloc(10));
	MUST(secmalloc_lock(MATERIAL) == 0);
	(void)!secrealloc(p, 20);
}

static void
free_twice(void *unused)
{
	void *p;

	(void)unused;
	start(0);
	p = secmalloc(10);
	MUST(secmalloc_lock(MATERIAL) == 0);
	secfree(p);
	secfree(launder(p));
}

static void
assert_dies_of(void (*body)(void *), void *p, const char *sentence)
{
	const struct outcome o = outcome_of(body, p);

	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_msg(strstr(o.text, sentence) != NULL, "%s", o.text);
}

START_TEST(a_bad_pointer_to_free_or_realloc_is_a_fault_while_locked_too)
{
	char here[32];

	assert_dies_of(free_a_foreign_pointer, here, "invalid free");
	assert_dies_of(realloc_a_foreign_pointer, here, "invalid free");
	assert_dies_of(free_twice, NULL, "double free");
}
END_TEST

static void
bad_pointers_are_EINVAL(unsigned char *freed)
{
	char here[32];
	void *const bad[] = { NULL, here, kept[3] + 1, kept[3] + 16, kept[4] + 4096, freed };

	for (size_t i = 0; i < CALLS(bad); i++) {
		each_answers(CHUNK_CALLS, CALLS(CHUNK_CALLS), bad[i], EINVAL);
		MUST(call_is_encrypted(bad[i]) == EINVAL);
		MUST(secmalloc_owns(bad[i]) == 0);
		MUST(i == 0 || call_usable_size(bad[i]) == EINVAL);
	}
	MUST_FAIL(EINVAL, NULL, secstrdup(launder(NULL)));
	MUST_FAIL(EINVAL, NULL, secstrndup(launder(NULL), 3));
	MUST_FAIL(EINVAL, NULL, secmalloc_read_fd(0, 10, NULL));
	MUST_FAIL(EINVAL, NULL, secmalloc_read_passphrase(NULL, 10));
}

static void
start_locked(unsigned char **freed)
{
	start(0);
	keep();
	MUST((*freed = secmalloc(100)) != NULL);
	secfree(*freed);
	MUST(secmalloc_lock(MATERIAL) == 0);
}

START_TEST(while_locked_every_call_but_a_few_is_EACCES)
{
	unsigned char *freed;
	int e;

	start_locked(&freed);
	for (unsigned i = 0; i < KEPT; i++) {
		each_answers(CHUNK_CALLS, CALLS(CHUNK_CALLS), kept[i], EACCES);
		MUST(call_realloc(kept[i]) == EACCES);
		these_go_on(kept[i], kept_bytes(i));
	}
	each_answers(ALL_CALLS, CALLS(ALL_CALLS), NULL, EACCES);
	bad_pointers_are_EINVAL(launder(freed));
	errno = 0;
	MUST(secmalloc_init(NULL) == -1);
	e = errno;
	MUST(e == EACCES);
	look_closed();
	SUCCEEDS(secmalloc_unlock(MATERIAL));
	look();
	term();
}
END_TEST

START_TEST(while_locked_chunks_can_be_freed)
{
	void *p[8];

	start(0);
	keep();
	for (unsigned i = 0; i < 8; i++)
		MUST((p[i] = secmalloc(i * 5000)) != NULL);
	SUCCEEDS(secmalloc_lock(MATERIAL));
	for (unsigned i = 0; i < 8; i++) {
		errno = ENOTTY;
		if (i % 2)
			secfree(p[i]);
		else
			ck_assert_ptr_null(secrealloc(p[i], 0));
		ck_assert_int_eq(errno, ENOTTY);
		ck_assert_int_eq(secmalloc_owns(launder(p[i])), 0);
	}
	ck_assert_uint_eq(stats_now().chunks, KEPT);
	look_closed();
	SUCCEEDS(secmalloc_unlock(MATERIAL));
	look();
	term();
}
END_TEST

START_TEST(a_term_while_locked_ends_the_lock)
{
	start(0);
	keep();
	SUCCEEDS(secmalloc_lock(MATERIAL));
	term();
	ck_assert_uint_eq(stats_now().live_at_term, KEPT);
	ck_assert_int_eq(secmalloc_owns(kept[0]), 0);
	FAILS_WITH(EINVAL, -1, secmalloc_unlock(MATERIAL));
	start(0);
	FAILS_WITH(EINVAL, -1, secmalloc_unlock(MATERIAL));
	keep();
	look();
	term();
}
END_TEST

START_TEST(what_is_purged_while_locked_stays_lost)
{
	start(_i ? SECMALLOC_KEY_RESIDENT : 0);
	keep();
	SUCCEEDS(secmalloc_lock(MATERIAL));
	secmalloc_purge();
	FAILS_WITH(ECANCELED, -1, secmalloc_unlock(MATERIAL));
	FAILS_WITH(ECANCELED, -1, secmalloc_decrypt(kept[0]));
	FAILS_WITH(ECANCELED, -1, secmalloc_decrypt(NULL));
	term();
	start(0);
	keep();
	look();
	term();
}
END_TEST

/* --------------------------------------------------------------- children */

static void
be_a_locked_parents_child(unsigned char *theirs)
{
	unsigned char *p;

	MUST_FAIL(EINVAL, -1, secmalloc_unlock(MATERIAL));
	MUST(stats_now().chunks == 0);
	each_answers(CHUNK_CALLS, CALLS(CHUNK_CALLS), theirs, ECHILD);
	MUST(call_is_encrypted(theirs) == ECHILD && call_usable_size(theirs) == ECHILD);
	MUST((p = secmalloc(100)) != NULL);
	fill(p, 100, 1);
	MUST_FAIL(EINVAL, -1, secmalloc_unlock(MATERIAL));
	MUST(secmalloc_lock("mine", 4) == 0);
	each_answers(CHUNK_CALLS, CALLS(CHUNK_CALLS), theirs, ECHILD);
	each_answers(CHUNK_CALLS, CALLS(CHUNK_CALLS), p, EACCES);
	MUST_FAIL(ECHILD, NULL, secrealloc(theirs, 100));
	secfree(theirs);
	MUST_FAIL(EPERM, -1, secmalloc_unlock(MATERIAL));
	MUST(secmalloc_unlock("mine", 4) == 0);
	MUST(secmalloc_decrypt(p) == 0 && filled(p, 100, 1));
	_exit(0);
}

START_TEST(a_child_of_a_locked_parent_is_not_locked)
{
	int status;
	pid_t pid;

	start(0);
	keep();
	SUCCEEDS(secmalloc_lock(MATERIAL));
	pid = fork();
	if (pid == 0)
		be_a_locked_parents_child(kept[1]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	SUCCEEDS(secmalloc_unlock(MATERIAL));
	look();
	term();
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_lock");
	const char *wrong = getenv("SECMALLOC_WRONG");
	TCase *tc = add_case(s, "lock", 0);

	tcase_set_timeout(tc, 100 + 2 * (wrong ? atoi(wrong) : 0));
	tcase_add_test(tc, wrong_material_is_EPERM_and_the_right_one_opens);
	tcase_add_loop_test(tc, locked_and_unlocked_again_and_again_with_other_material, 0, 2);
	tcase_add_test(tc, a_held_chunk_makes_lock_EBUSY_and_everything_goes_on);
	tcase_add_test(tc, a_chunk_tampered_with_while_locked_is_the_only_one_lost);
	tcase_add_test(tc, empty_material_and_nothing_to_unlock_are_EINVAL);
	tc = add_case(s, "locked", 0);
	tcase_add_test(tc, a_bad_pointer_to_free_or_realloc_is_a_fault_while_locked_too);
	tcase_add_test(tc, while_locked_every_call_but_a_few_is_EACCES);
	tcase_add_test(tc, while_locked_chunks_can_be_freed);
	tcase_add_test(tc, a_term_while_locked_ends_the_lock);
	tcase_add_loop_test(tc, what_is_purged_while_locked_stays_lost, 0, 2);
	tcase_add_test(tc, a_child_of_a_locked_parent_is_not_locked);
	return run(s);
}
