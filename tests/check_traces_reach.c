/*
 * check_traces_reach.c - no call leaves on the stack what expanding a key, long before the message
 * and elsewhere on the stack, wrote there
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include "key/inside.h"

enum { DEEP = 12288, WORD = 8, STARTS = 8 };

static unsigned char expanded[SM_CIPHER_STATE_BYTES];

void __real_sm_key_expand(struct sm_key_slot *s, unsigned index);
void __wrap_sm_key_expand(struct sm_key_slot *s, unsigned index);

/** __wrap_sm_key_expand - the library's, and what it made is known */
void
__wrap_sm_key_expand(struct sm_key_slot *s, unsigned index)
{
	__real_sm_key_expand(s, index);
	memcpy(expanded, s->state, sizeof(expanded));
	sm_wipe_vectors();
}

/** words_left - of the expanded key, on the stack below the caller's frame */
static SM_NOINLINE unsigned
words_left(void)
{
	unsigned char below[DEEP];
	unsigned found = 0;

	__asm__ volatile("" ::"r"(below) : "memory");
	for (size_t i = 0; i < sizeof(expanded); i += WORD)
		if (!all_zero(expanded + i, WORD))
			found += memmem(below, sizeof(below), expanded + i, WORD) != NULL;
	return found;
}

static SM_NOINLINE void
spill(void)
{
	unsigned char below[DEEP / 2];

	memcpy(below, expanded, sizeof(expanded));
	__asm__ volatile("" ::"r"(below) : "memory");
}

/* Frames are aligned, so that what lies between two of them depends on where the first begins. */
static SM_NOINLINE int
from(size_t lower, int (*call)(void *), void *p)
{
	unsigned char room[lower];
	int e;

	__asm__ volatile("" ::"r"(room) : "memory");
	e = call(p);
	__asm__ volatile("" ::"r"(room) : "memory");
	return e;
}

static void
leaves_no_word(unsigned cipher, size_t prekey, size_t size)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	unsigned char *p;

	c.cipher = cipher;
	c.prekey_size = prekey;
	if (secmalloc_init(&c)) /* not in this build or on this CPU */
		return;
	p = secmalloc(size);
	ck_assert_ptr_nonnull(p);
	for (unsigned i = 0; i < 2 * STARTS; i++) {
		memset(expanded, 0, sizeof(expanded));
		ck_assert_int_eq(from(16 + i / 2 * 16, i % 2 ? secmalloc_decrypt : secmalloc_encrypt,
			p), 0);
		ck_assert(!all_zero(expanded, sizeof(expanded)));
		ck_assert_msg(words_left() == 0, "cipher %u, prekey %zu, %s %zu bytes", cipher,
			prekey, i % 2 ? "open" : "close", size);
		spill();
		ck_assert_uint_ne(words_left(), 0);
		sm_wipe_traces_of(DEEP);
	}
	secfree(p);
	ck_assert_int_eq(secmalloc_term(), 0);
}

START_TEST(no_call_leaves_a_word_of_the_expanded_key_on_the_stack)
{
	static const size_t sizes[] = { 0, 32, 64, 256, 4096, 5000 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		leaves_no_word((unsigned)_i, 32, sizes[i]);
		leaves_no_word((unsigned)_i, 4096, sizes[i]);
	}
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("traces reach");
	TCase *tc = tcase_create("reach");
	SRunner *sr = srunner_create(s);

	tcase_set_timeout(tc, 30);
	suite_add_tcase(s, tc);
	if (!SANITIZED)
		tcase_add_loop_test(tc, no_call_leaves_a_word_of_the_expanded_key_on_the_stack,
			SECMALLOC_CIPHER_XCHACHA20POLY1305, SECMALLOC_CIPHER_AEGIS128L + 1);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
