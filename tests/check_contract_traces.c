/*
 * check_contract_traces.c - what calls leave behind on the stack of the thread that made them
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STACK = 256 * 1024, CHUNKS = 24, MOST = 5000 };

static _Alignas(4096) unsigned char stack[STACK];
static unsigned char *chunk[CHUNKS];
static size_t size[CHUNKS];
static unsigned char planted[CHUNKS][MOST]; /* what is in them, outside of any stack */
static unsigned char stream[CHUNKS][MOST];  /* what that was, or is, encrypted with */

struct part {
	int (*call)(void);
	int (*one)(void *);
	int result;
	_Atomic bool done, leave;
};

/* Afterwards it runs nothing that writes to the stack. */
static void *
play(void *arg)
{
	struct part *p = arg;

	if (p->call)
		p->result = p->call();
	for (size_t i = CHUNKS; p->one && i-- > 0;)
		p->result |= p->one(chunk[i]);
	p->done = true;
	while (!p->leave)
		;
	return NULL;
}

static size_t
pieces_of(unsigned char what[CHUNKS][MOST])
{
	size_t found = 0;

	for (size_t i = 0; i < CHUNKS; i++)
		for (size_t at = 0; at + 8 <= size[i]; at += 8)
			found += memmem(stack, STACK, what[i] + at, 8) != NULL;
	return found;
}

/** pieces - how many 8-byte pieces of plaintext or key stream lie anywhere in the stack */
static size_t
pieces(void)
{
	static const unsigned char zero[8];

	for (size_t i = 0; i < CHUNKS; i++) {
		if (memcmp(chunk[i], planted[i], 8) == 0)
			continue; /* open: the stream is the one it was closed with */
		for (size_t at = 0; at < size[i]; at++)
			stream[i][at] = planted[i][at] ^ chunk[i][at];
	}
	return pieces_of(planted) + (memcmp(stream[0], zero, 8) ? pieces_of(stream) : 0);
}

static void
assert_no_trace_of(struct part p)
{
	pthread_attr_t attr;
	pthread_t t;
	size_t found;

	memset(stack, 0, STACK);
	MUST(pthread_attr_init(&attr) == 0 && pthread_attr_setstack(&attr, stack, STACK) == 0);
	MUST(pthread_create(&t, &attr, play, &p) == 0);
	while (!p.done)
		sched_yield();
	found = pieces();
	p.leave = true;
	MUST(pthread_join(t, NULL) == 0);
	ck_assert_int_eq(p.result, 0);
	ck_assert_uint_eq(found, 0);
}

static void
plant(unsigned flags)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = flags;
	MUST(secmalloc_init(&c) == 0);
	for (size_t i = 0; i < CHUNKS; i++) { /* AES-256-GCM leaves most of a short one */
		size[i] = i ? MOST / i : 16;
		MUST(getentropy(planted[i], 8) == 0);
		for (size_t at = 8; at < size[i]; at++)
			planted[i][at] = (unsigned char)random();
		chunk[i] = secmalloc(size[i]);
		MUST(chunk[i] != NULL);
		memcpy(chunk[i], planted[i], size[i]);
	}
}

/* That pieces are found where there are some. */
START_TEST(what_lies_on_a_stack_is_found)
{
	plant(0);
	memcpy(stack + STACK / 2 + 3, planted[5] + 16, 8);
	ck_assert_uint_eq(pieces(), 1);
}
END_TEST

static const unsigned kinds[] = { 0, SECMALLOC_KEY_RESIDENT };

START_TEST(closing_and_opening_one_leaves_no_trace)
{
	plant(kinds[_i]);
	assert_no_trace_of((struct part){ .one = secmalloc_encrypt });
	assert_no_trace_of((struct part){ .one = secmalloc_decrypt });
}
END_TEST

START_TEST(closing_opening_and_rekeying_all_leave_no_trace)
{
	plant(kinds[_i]);
	assert_no_trace_of((struct part){ .call = secmalloc_encrypt_all });
	assert_no_trace_of((struct part){ .call = secmalloc_rekey });
	assert_no_trace_of((struct part){ .call = secmalloc_decrypt_all });
}
END_TEST

int
main(void)
{
	Suite *s;
	TCase *tc;

	if (SANITIZED) {
		printf("skipped: all, a sanitizer makes frames longer than those that are wiped\n");
		return SKIPPED;
	}
	s = suite_create("traces");
	tc = tcase_create("traces");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, what_lies_on_a_stack_is_found);
	tcase_add_loop_test(tc, closing_and_opening_one_leaves_no_trace, 0, 2);
	tcase_add_loop_test(tc, closing_opening_and_rekeying_all_leave_no_trace, 0, 2);
	suite_add_tcase(s, tc);
	return run(s);
}
