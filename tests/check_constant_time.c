/*
 * check_constant_time.c - no branch and no address depends on a key or on a chunk's content
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	valgrind check_constant_time xchacha|aes [resident]
 *
 * As secp256k1's valgrind_ctime_test does: valgrind's memcheck follows undefined bits, and
 * reports each branch and each address that depends on one.  So all that is secret is marked
 * undefined where it is made: whatever getrandom(2), a key_provider or Argon2id writes to the pages
 * of the key, and what a program writes to its chunks.  Then the library works, and each operation
 * has to do so without a report.
 *
 * A test is void unless its secrets arrive: ciphertext must come out undefined, bit for bit; and
 * the control, a comparison that stops at the first difference, must be reported on those bytes.
 *
 * What is public, and is declared defined here: whether a tag was valid, what secmemcmp answers,
 * and the material and the salt on their way into Argon2id, which looks up memory by what it has
 * computed from them in its second half, by design (RFC 9106, 3.4).  What it gives is secret again.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdio.h>

#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#define HAVE_MEMCHECK 1
#endif
#endif

#ifndef HAVE_MEMCHECK
int
main(void)
{
	printf("skipped: built without <valgrind/memcheck.h>: install valgrind, configure anew\n");
	return 77;
}
#else

#include <time.h>

#include "secret.h"

enum { SMALL_BYTES = 100, LARGE_BYTES = 20000, RESEAL_MS = 5 };

static unsigned failed, done;
static unsigned char *small, *large;

/* ------------------------------------------------------------------- the scene */

/* Halves, masks and slots, too, whatever the library has there. */
static void
hide_the_key(void)
{
	unsigned now = atomic_load(&sm_keys.now);

	HIDE(sm_keys.left->half[now], SM_KEY_BYTES);
	HIDE(sm_keys.right.half, sm_keys.prekey_bytes);
	HIDE(sm_keys.slots, sizeof(*sm_keys.slots));
}

/* Held meanwhile: a timer may be there. */
static void
write_secrets(void)
{
	MUST(secmalloc_hold(small) == 0 && secmalloc_hold(large) == 0);
	memset(small, 'a', SMALL_BYTES);
	memset(large, 'b', LARGE_BYTES);
	HIDE(small, SMALL_BYTES);
	HIDE(large, LARGE_BYTES);
	MUST(secmalloc_release(small) == 0 && secmalloc_release(large) == 0);
}

static unsigned
reports(void)
{
	return (unsigned)VALGRIND_COUNT_ERRORS - excused;
}

/* test - run it, and count what valgrind has to say */
static void
test(const char *name, void (*run)(void))
{
	unsigned before = reports(), after;

	run();
	after = reports();
	done++;
	failed += after != before;
	printf("%s %s", after == before ? "ok  " : "FAIL", name);
	if (after != before)
		printf(": %u reports", after - before);
	printf("\n");
}

/* ----------------------------------------------------------------- the control */

__attribute__((noinline)) static int
leaky_compare(const volatile unsigned char *a, const volatile unsigned char *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (a[i] != b[i])
			return -1;
	return 0;
}

__attribute__((noinline)) static unsigned
leaky_lookup(const volatile unsigned char *table, const volatile unsigned char *at)
{
	return table[*at];
}

/* control - what leaks must be seen, or nothing that follows means anything */
static void
control(const unsigned char *secret, size_t n)
{
	static unsigned char other[SMALL_BYTES], table[256];
	unsigned seen[3], sink;

	seen[0] = (unsigned)VALGRIND_COUNT_ERRORS;
	sink = (unsigned)leaky_compare(secret, other, n);
	seen[1] = (unsigned)VALGRIND_COUNT_ERRORS;
	sink += leaky_lookup(table, secret);
	seen[2] = (unsigned)VALGRIND_COUNT_ERRORS;
	SHOW(&sink, sizeof(sink));
	__asm__ volatile("" ::"r"(sink));
	if (seen[1] > seen[0] && seen[2] > seen[1])
		return;
	printf("FAIL (void): valgrind saw no leak where there is one\n");
	exit(1);
}

static void
controls(void)
{
	control(small, SMALL_BYTES);
	control(sm_keys.right.half, SM_KEY_BYTES);
	control(sm_keys.left->half[0], SM_KEY_BYTES);
	printf("ok   leaks_made_on_purpose_are_reported: %u reports\n",
		(unsigned)VALGRIND_COUNT_ERRORS);
}

/* ------------------------------------------------------------------- the tests */

static void
close_both(void)
{
	hide_the_key();
	MUST(secmalloc_encrypt(small) == 0 && secmalloc_encrypt(large) == 0);
	MUST(is_secret(small, SMALL_BYTES) && is_secret(large, LARGE_BYTES));
}

static void
open_both(void)
{
	unsigned before = verdicts;

	hide_the_key();
	MUST(secmalloc_decrypt(small) == 0 && secmalloc_decrypt(large) == 0);
	MUST(verdicts > before);
	MUST(is_secret(small, SMALL_BYTES) && is_secret(large, LARGE_BYTES));
}

static void
seal(void)
{
	write_secrets();
	close_both();
	open_both();
	close_both();
	open_both();
}

static void
forge(void)
{
	for (size_t at = 0; at < SMALL_BYTES; at += SMALL_BYTES - 1) {
		MUST(secmalloc_encrypt(small) == 0);
		small[at] ^= 1;
		MUST(secmalloc_decrypt(small) == -1 && errno == EBADMSG);
		small[at] ^= 1;
		MUST(secmalloc_decrypt(small) == 0);
	}
	MUST(secmalloc_encrypt(large) == 0);
	large[LARGE_BYTES - 1] ^= 1;
	MUST(secmalloc_decrypt(large) == -1 && errno == EBADMSG);
	large[LARGE_BYTES - 1] ^= 1;
	MUST(secmalloc_decrypt(large) == 0);
}

static void
hold(void)
{
	close_both();
	MUST(secmalloc_hold(small) == 0 && secmalloc_release(small) == 0);
	MUST(secmalloc_decrypt_all() == 0 && secmalloc_encrypt_all() == 0);
	open_both();
}

static void
resize(void)
{
	close_both();
	small = secrealloc(small, 3 * SMALL_BYTES);
	large = secrealloc(large, 3 * LARGE_BYTES);
	MUST(small && large);
	small = secrealloc(small, SMALL_BYTES);
	large = secrealloc(large, LARGE_BYTES);
	MUST(small && large);
	open_both();
	small = secrealloc(small, 3 * SMALL_BYTES);
	MUST(small && is_secret(small, SMALL_BYTES));
	small = secrealloc(small, SMALL_BYTES);
	MUST(small && is_secret(small, SMALL_BYTES));
}

/* Often enough for slots to be used again, which are looked at first. */
static void
release(void)
{
	for (unsigned i = 0; i < 600; i++) {
		unsigned char *p = secmalloc(SMALL_BYTES);

		MUST(p != NULL);
		memset(p, 'c', SMALL_BYTES);
		HIDE(p, SMALL_BYTES);
		if (i % 4 == 0)
			MUST(secmalloc_encrypt(p) == 0);
		secfree(p);
	}
	for (unsigned i = 0; i < 2; i++) {
		unsigned char *p = secmalloc(LARGE_BYTES);

		MUST(p != NULL);
		HIDE(p, LARGE_BYTES);
		if (i)
			MUST(secmalloc_encrypt(p) == 0);
		secfree(p);
	}
}

static void
compare(void)
{
	unsigned char same[SMALL_BYTES], other[SMALL_BYTES];
	int equal, unequal;

	memcpy(same, small, SMALL_BYTES);
	memcpy(other, small, SMALL_BYTES);
	other[0] ^= 1;
	MUST(is_secret(same, SMALL_BYTES));
	equal = secmemcmp(small, same, SMALL_BYTES);
	unequal = secmemcmp(small, other, SMALL_BYTES);
	MUST(is_secret(&equal, sizeof(equal)));
	SHOW(&equal, sizeof(equal));
	SHOW(&unequal, sizeof(unequal));
	MUST(equal == 0 && unequal == -1);
	secmemzero(same, SMALL_BYTES);
	secmemzero(other, SMALL_BYTES);
}

static void
rekey(void)
{
	MUST(secmalloc_encrypt(small) == 0);
	MUST(secmalloc_rekey() == 0);
	MUST(is_secret(sm_keys.left->half[atomic_load(&sm_keys.now)], SM_KEY_BYTES));
	close_both();
	MUST(secmalloc_rekey() == 0);
	open_both();
}

static void
split(void)
{
	struct timespec past = { 0, 2000000 };

	nanosleep(&past, NULL); /* resplit_ms is 1: the next use of the key draws halves anew */
	close_both();
	MUST(is_secret(sm_keys.right.half, sm_keys.prekey_bytes));
	nanosleep(&past, NULL);
	open_both();
}

static void
lock_up(void)
{
	char material[] = "a passphrase that nobody has", wrong[] = "another one";

	HIDE(material, sizeof(material) - 1);
	HIDE(wrong, sizeof(wrong) - 1);
	hide_the_key();
	MUST(secmalloc_lock(material, sizeof(material) - 1) == 0);
	MUST(is_secret(sm_keys.left->wrapped.keys[atomic_load(&sm_keys.now)], SM_KEY_BYTES));
	MUST(secmalloc_unlock(wrong, sizeof(wrong) - 1) == -1 && errno == EPERM);
	MUST(secmalloc_unlock(material, sizeof(material) - 1) == 0);
	MUST(is_secret(sm_keys.left->half[atomic_load(&sm_keys.now)], SM_KEY_BYTES));
	MUST(secmalloc_decrypt_all() == 0);
	MUST(is_secret(small, SMALL_BYTES) && is_secret(large, LARGE_BYTES));
}

static void
reseal(void)
{
	struct timespec past = { 0, 4 * RESEAL_MS * 1000000 };

	write_secrets();
	nanosleep(&past, NULL);
	MUST(secmalloc(1) != NULL); /* without a thread a call does it */
	MUST(secmalloc_is_encrypted(small) == 1 && secmalloc_is_encrypted(large) == 1);
	MUST(is_secret(small, SMALL_BYTES) && is_secret(large, LARGE_BYTES));
}

static void
purge(void)
{
	MUST(secmalloc_encrypt(small) == 0 && secmalloc_hold(large) == 0);
	HIDE(large, LARGE_BYTES);
	secmalloc_purge();
	MUST(!is_secret(large, 1) && large[0] == 0);
}

static void
stop(void)
{
	MUST(secmalloc_term() == 0);
}

/* -------------------------------------------------------------------- the house */

static int
provide(unsigned char key[SM_KEY_BYTES], void *arg)
{
	(void)arg;
	memset(key, 'k', SM_KEY_BYTES);
	HIDE(key, SM_KEY_BYTES);
	return 0;
}

static struct secmalloc_config
house(const char *cipher, bool resident)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.without = SECMALLOC_HIDDEN; /* of which valgrind knows nothing */
	c.require = SECMALLOC_GUARDED;
	c.cipher = strcmp(cipher, "aes") == 0 ? SECMALLOC_CIPHER_AES256GCM
					      : SECMALLOC_CIPHER_XCHACHA20POLY1305;
	c.flags = SECMALLOC_NO_THREAD | (resident ? SECMALLOC_KEY_RESIDENT : 0);
	c.resplit_ms = 1;
	return c;
}

static void
begin(const struct secmalloc_config *c)
{
	unsigned before = reports(), after;

	if (secmalloc_init(c) != 0 && errno == ENOTSUP) {
		printf("skipped: %s\n", secmalloc_error());
		exit(77);
	}
	after = reports();
	if (after != before) {
		printf("FAIL the start: %u reports\n", after - before);
		failed++;
	}
	small = secmalloc(SMALL_BYTES);
	large = secmalloc(LARGE_BYTES);
	MUST(small && large);
	MUST(is_secret(sm_keys.right.half, sm_keys.prekey_bytes));
	MUST(is_secret(sm_keys.left->half[0], SM_KEY_BYTES));
	write_secrets();
}

static void
all_tests(struct secmalloc_config c)
{
	begin(&c);
	controls();
	test("a_chunk_closes_and_opens_blindly", seal);
	test("a_forged_chunk_is_refused_blindly", forge);
	test("holds_and_walks_are_blind", hold);
	test("a_closed_chunk_is_resized_blindly", resize);
	test("a_chunk_is_freed_and_used_again_blindly", release);
	test("secmemcmp_and_secmemzero_are_blind", compare);
	test("a_rekey_carries_chunks_over_blindly", rekey);
	test("the_halves_are_drawn_anew_blindly", split);
	test("locking_and_unlocking_are_blind_but_for_argon2id", lock_up);
	test("the_end_is_blind", stop);
	c.key_provider = provide;
	c.reseal_ms = RESEAL_MS;
	begin(&c);
	test("a_timer_closes_chunks_blindly", reseal);
	test("a_provided_key_is_renewed_blindly", rekey);
	test("a_purge_is_blind", purge);
	MUST(secmalloc_term() == 0);
}

int
main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!RUNNING_ON_VALGRIND) {
		printf("skipped: not under valgrind: tests/test_constant_time.sh starts this\n");
		return 77;
	}
	if (argc < 2 || argc > 3) {
		printf("usage: valgrind check_constant_time xchacha|aes [resident]\n");
		return 1;
	}
	all_tests(house(argv[1], argc == 3));
	printf("%u tests, %u failed; %u verdicts, %u of them excused\n", done, failed, verdicts,
		excused);
	return failed != 0;
}

#endif /* HAVE_MEMCHECK */
