/*
 * check_cipher_traces.c - the room cipher, from inside: what it leaves behind on the stack
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "cipher.h"
#include <pthread.h>
#include <sched.h>

/* What a thread left on its stack is read while it waits, running nothing that writes there. */
struct stage {
	bool opens;
	_Atomic bool done, leave;
	struct sm_message m;
	const unsigned char *frame; /* of what ran there */
	unsigned char vectors[512];
	uint64_t words[4];
};

#if defined(__x86_64__)
static SM_NOINLINE void
read_vectors(unsigned char seen[512])
{
	__asm__ volatile(".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
			 "movdqu %%xmm\\i,16*\\i(%0)\n\t"
			 ".endr" ::"r"(seen) : "memory");
}

SM_INLINE void
read_words(uint64_t seen[4])
{
	__asm__ volatile("mov %%r8,(%0)\n\tmov %%r9,8(%0)\n\tmov %%r10,16(%0)\n\t"
			 "mov %%r11,24(%0)" ::"a"(seen) : "memory");
}
#else
SM_INLINE void
read_words(uint64_t seen[4])
{
	(void)seen;
}

static void
read_vectors(unsigned char seen[512])
{
	(void)seen;
}
#endif

static void *
play(void *arg)
{
	struct stage *s = arg;

	s->frame = __builtin_frame_address(0);
	if (s->opens)
		(void)sm_cipher_open(state, &s->m);
	else
		sm_cipher_seal(state, &s->m);
	read_words(s->words);
	read_vectors(s->vectors);
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

/** doubles - likewise of pieces of 4 bytes, twice side by side, as vectors of ChaCha20 have them */
static size_t
doubles(const unsigned char *stack, size_t bytes, const void *what, size_t n)
{
	size_t found = 0;

	for (size_t i = 0; i + 4 <= n; i += 4) {
		unsigned char twice[8];

		memcpy(twice, (const unsigned char *)what + i, 4);
		memcpy(twice + 4, twice, 4);
		if (!all_zero(twice, 8))
			found += memmem(stack, bytes, twice, 8) != NULL;
	}
	return found;
}

enum { STACK = 256 * 1024 };
static _Alignas(4096) unsigned char stack[STACK];

/** on_stage - play one part on a stack of these bytes, up to where it waits to leave */
static pthread_t
on_stage(struct stage *s, void *(*part)(void *), int bytes)
{
	pthread_attr_t attr;
	pthread_t t;

	memset(stack, bytes, sizeof(stack));
	ck_assert_int_eq(pthread_attr_init(&attr), 0);
	ck_assert_int_eq(pthread_attr_setstack(&attr, stack, sizeof(stack)), 0);
	ck_assert_int_eq(pthread_create(&t, &attr, part, s), 0);
	while (!s->done)
		sched_yield();
	return t;
}

static void
assert_no_trace(bool opens, size_t n, enum sm_traces traces, bool scrap)
{
	struct stage s = { .opens = opens, .m = message(n, 5) };
	unsigned char subkey[32], nonce[16] = { 0 };
	const char *doing = opens ? "open" : "seal";
	pthread_t t;

	if (opens)
		s.m = seal_clear(n, 5);
	else
		memcpy(work, clear, n);
	s.m.traces = traces;
	s.m.scrap = scrap;
	crypto_core_hchacha20(subkey, nonce, secret, NULL);
	t = on_stage(&s, play, 0);
	ck_assert_msg(shares(s.vectors, sizeof(s.vectors), state, sizeof(state)) == 0,
		"%s, key in a register, %zu bytes", doing, n);
	ck_assert_msg(shares(s.vectors, sizeof(s.vectors), clear, n) == 0,
		"%s, text in a register, %zu bytes", doing, n);
	ck_assert_msg(shares(stack, STACK, state, sizeof(state)) == 0,
		"%s, key, %zu bytes", doing, n);
	ck_assert_msg(doubles(stack, STACK, state, sizeof(state)) == 0,
		"%s, words of the key, %zu bytes", doing, n);
	ck_assert_msg(shares(stack, STACK, clear, n) == 0, "%s, text, %zu bytes", doing, n);
	ck_assert_msg(shares(stack, STACK, subkey, 32) == 0, "%s, subkey, %zu bytes", doing, n);
	for (size_t i = 0; i < n; i++) /* the key stream */
		work[i] = opens ? sealed[i] ^ clear[i] : work[i] ^ clear[i];
	ck_assert_msg(shares(stack, STACK, work, n) == 0, "%s, key stream, %zu bytes", doing, n);
	ck_assert_msg(shares(s.vectors, sizeof(s.vectors), work, n) == 0,
		"%s, key stream in a register, %zu bytes", doing, n);
	s.leave = true;
	ck_assert_int_eq(pthread_join(t, NULL), 0);
}

START_TEST(seal_and_open_leave_no_trace_on_the_stack_or_in_registers)
{
	static const size_t sizes[] = { 16, 64, 200, 512, 1000, 4096, 5000 };

	for (size_t i = 0; use(aeads[_i]) && i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (enum sm_traces t = SM_TRACES_LENT; t <= SM_TRACES_OWN; t++) {
			assert_no_trace(false, sizes[i], t, false);
			assert_no_trace(true, sizes[i], t, false);
			assert_no_trace(true, sizes[i], t, true);
		}
}
END_TEST

START_TEST(no_word_in_a_register_depends_on_the_key)
{
	static const size_t sizes[] = { 0, 32, 200, 5000 };
	static unsigned char key[SM_KEY_BYTES];
	uint64_t words[2][4];

	for (size_t i = 0; use(aeads[_i]) && i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct stage s = { .m = message(sizes[i / 2], 5) };
		pthread_t t;

		s.m.traces = SM_TRACES_OWN;
		fill(key, sizeof(key), 11 + (unsigned)i % 2);
		sm_cipher_expand(state, key);
		memset(work, 0, sizes[i / 2]);
		t = on_stage(&s, play, 0);
		memcpy(words[i % 2], s.words, sizeof(s.words));
		s.leave = true;
		ck_assert_int_eq(pthread_join(t, NULL), 0);
		ck_assert_msg(i % 2 == 0 || memcmp(words[0], words[1], sizeof(words[0])) == 0,
			"%zu bytes", sizes[i / 2]);
	}
}
END_TEST

/* Expanding a key may have written anywhere below the caller: nothing of SM_TRACE_BYTES is left out
 * but padding of the frames that are no longer dead when it is wiped. */
START_TEST(what_a_loan_may_have_left_is_wiped_from_the_callers_frame_on)
{
	static const size_t sizes[] = { 0, 32, 200, 4096, 5000 };
	enum { PADDING = 48 };

	for (size_t i = 0; use(aeads[_i]) && i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = sizes[i / 2];
		struct stage s = { .opens = i % 2, .m = i % 2 ? seal_clear(n, 5) : message(n, 5) };
		pthread_t t = on_stage(&s, play, 0x77);
		size_t run = 0;

		for (size_t k = 0; k < SM_TRACE_BYTES && run < PADDING; k++)
			run = s.frame[-1 - (ptrdiff_t)k] == 0x77 ? run + 1 : 0;
		ck_assert_msg(run < PADDING, "%s, %zu bytes", i % 2 ? "open" : "seal", n);
		s.leave = true;
		ck_assert_int_eq(pthread_join(t, NULL), 0);
	}
}
END_TEST

/** dive - what is done between two wipes of traces, without them */
static void *
dive(void *arg)
{
	struct stage *s = arg;
	struct whole w;
	struct sm_raw r = raw(&s->m, &w);

	s->frame = __builtin_frame_address(0);
	if (s->opens) {
		(void)deep_open(chosen, state, &r, false);
		(void)deep_open(chosen, state, &r, true);
	} else {
		deep_seal(chosen, state, &r);
	}
	s->done = true;
	while (!s->leave)
		;
	return NULL;
}

START_TEST(no_cipher_reaches_deeper_than_what_is_wiped)
{
	static const size_t sizes[] = { 0, 1, 16, 100, 1000, 4096, MOST };
	const unsigned char paint[8] = { 90, 90, 90, 90, 90, 90, 90, 90 };

	for (size_t i = 0; use(aeads[_i]) && i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct stage s = { .opens = i % 2, .m = message(sizes[i / 2], 5) };
		pthread_t t = on_stage(&s, dive, paint[0]);
		const unsigned char *deepest = stack;

		while (memcmp(deepest, paint, sizeof(paint)) == 0)
			deepest += sizeof(paint);
		ck_assert_msg(s.frame - deepest <= (ptrdiff_t)chosen->trace_bytes, "%s, %zu bytes: %td",
			s.opens ? "open" : "seal", sizes[i / 2], s.frame - deepest);
		s.leave = true;
		ck_assert_int_eq(pthread_join(t, NULL), 0);
	}
}
END_TEST

/* ------------------------------------------------------------------ by lines */

/** remains - what a short message with this key and text leaves below the frame that wipes */
static size_t
remains(bool opens, size_t n, unsigned seed, unsigned char *copy)
{
	static unsigned char bound[LEARNED_AD_BYTES], key[SM_KEY_BYTES];
	static struct stage s;
	pthread_t t;

	s = (struct stage){ .opens = opens, .m = message(n, 5) };
	s.m.ad = bound;
	s.m.ad_bytes = sizeof(bound);
	s.m.traces = SM_TRACES_OWN;
	fill(key, sizeof(key), seed);
	sm_cipher_expand(state, key);
	fill(work, n, seed + 1);
	if (opens)
		sm_cipher_seal(state, &s.m);
	wiped_below = 0;
	t = on_stage(&s, play, 0x77);
	ck_assert_uint_gt(wiped_below, (uintptr_t)stack);
	memcpy(copy, stack, wiped_below - (uintptr_t)stack);
	s.leave = true;
	ck_assert_int_eq(pthread_join(t, NULL), 0);
	return wiped_below - (uintptr_t)stack;
}

START_TEST(what_is_wiped_by_lines_is_all_that_depends_on_key_or_text)
{
	static unsigned char one[STACK], other[STACK];

	if (!sm_lines_known() || !use(aeads[_i]))
		return;
	sm_cipher_learn(state);
	ck_assert(lines.seen[SEAL] && lines.seen[OPEN]);
	for (size_t i = 0; i < 2 * (LEARNED_BYTES + 1); i++) {
		size_t bytes = remains(i % 2, i / 2, 11, one);

		ck_assert_uint_eq(remains(i % 2, i / 2, 47, other), bytes);
		ck_assert_msg(memcmp(one, other, bytes) == 0, "%s, %zu bytes",
			i % 2 ? "open" : "seal", i / 2);
	}
}
END_TEST

static int
refuses(const void *key, const struct sm_raw *r, bool write)
{
	(void)key, (void)r, (void)write;
	return -1;
}

START_TEST(a_purge_while_lines_are_learned_is_no_fault_and_nothing_is_learned)
{
	if (!sm_lines_known() || !use(&aes))
		return;
	aes.open = refuses; /* as where a handler has wiped the state */
	sm_cipher_learn(state);
	ck_assert(!lines.mark && !lines.seen[SEAL] && !lines.seen[OPEN]);
	aes.open = real_aes->open;
	sm_cipher_learn(state);
	ck_assert(lines.seen[SEAL] && lines.seen[OPEN]);
}
END_TEST

START_TEST(what_is_longer_or_bound_otherwise_or_forged_is_not_wiped_by_lines_alone)
{
	struct sm_message m = message(LEARNED_BYTES, 5);

	if (!sm_lines_known() || !use(aeads[_i]))
		return;
	sm_cipher_learn(state);
	sm_cipher_expand(state, secret);
	wiped_below = 0;
	m.traces = SM_TRACES_OWN;
	sm_cipher_seal(state, &m); /* bound to other than LEARNED_AD_BYTES */
	m.ad = clear;
	m.ad_bytes = LEARNED_AD_BYTES;
	m.n = LEARNED_BYTES + 1;
	sm_cipher_seal(state, &m);
	m.n = LEARNED_BYTES;
	m.traces = SM_TRACES_LENT;
	sm_cipher_seal(state, &m);
	ck_assert_uint_eq(wiped_below, 0);
	m.traces = SM_TRACES_OWN;
	work[0] ^= 1;
	wiped_of = 0;
	ck_assert_int_eq(sm_cipher_open(state, &m), EBADMSG);
	ck_assert_uint_eq(wiped_of, chosen->trace_bytes);
	work[0] ^= 1;
	wiped_of = 0;
	ck_assert_int_eq(sm_cipher_open(state, &m), 0);
	ck_assert_uint_ne(wiped_below, 0);
	ck_assert_uint_eq(wiped_of, 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("cipher traces");
	TCase *tc = tcase_create("traces");
	SRunner *sr = srunner_create(s);

	tcase_set_timeout(tc, 30);
	tcase_add_checked_fixture(tc, setup, NULL);
	suite_add_tcase(s, tc);
	if (!SANITIZED) {
		tcase_add_loop_test(tc, seal_and_open_leave_no_trace_on_the_stack_or_in_registers, 0, AEADS);
		tcase_add_loop_test(tc, no_word_in_a_register_depends_on_the_key, 0, AEADS);
		tcase_add_loop_test(tc, what_a_loan_may_have_left_is_wiped_from_the_callers_frame_on, 0,
			AEADS);
		tcase_add_loop_test(tc, what_is_wiped_by_lines_is_all_that_depends_on_key_or_text, 0, AEADS);
		tcase_add_test(tc,
			a_purge_while_lines_are_learned_is_no_fault_and_nothing_is_learned);
		tcase_add_loop_test(tc, what_is_longer_or_bound_otherwise_or_forged_is_not_wiped_by_lines_alone,
			0, AEADS);
		tcase_add_loop_test(tc, no_cipher_reaches_deeper_than_what_is_wiped, 0, AEADS);
	}
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
