/*
 * check_base_wipe.c - the room base: what is wiped is gone, from stack and registers too
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <pthread.h>
#include <sched.h>

#include "base/base.h"

/* ------------------------------------------------------------- sizes and wiping */

#define MARK UINT64_C(0xc75ad1e6b39f4287)

/* What a thread left on its stack is read while it waits, running nothing that writes there. */
struct stage {
	_Atomic bool wipe, leave;
	_Atomic(volatile uint64_t *) frame;
};

static SM_NOINLINE void
scatter(void)
{
	volatile uint64_t dead[SM_TRACE_BYTES / sizeof(uint64_t) - 80];

	for (size_t i = 0; i < sizeof(dead) / sizeof(dead[0]); i++)
		dead[i] = MARK;
}

static SM_NOINLINE void
litter(void)
{
	SM_GAP;

	SM_GAP_OPEN();
	scatter();
	SM_GAP_CLOSE();
}

static void *
play(void *arg)
{
	struct stage *s = arg;

	litter();
	if (s->wipe)
		sm_wipe_traces();
	s->frame = __builtin_frame_address(0);
	while (!s->leave)
		;
	return NULL;
}

static size_t
marks_left(bool wipe)
{
	struct stage s = { .wipe = wipe };
	size_t found = 0;
	pthread_t t;

	ck_assert_int_eq(pthread_create(&t, NULL, play, &s), 0);
	while (!s.frame)
		sched_yield();
	for (size_t i = 1; i <= SM_TRACE_BYTES / sizeof(uint64_t); i++)
		found += s.frame[-(ptrdiff_t)i] == MARK;
	s.leave = true;
	ck_assert_int_eq(pthread_join(t, NULL), 0);
	return found;
}

START_TEST(wipe_traces_clears_the_dead_stack)
{
	ck_assert_uint_gt(marks_left(false), 150);
	ck_assert_uint_eq(marks_left(true), 0);
}
END_TEST

#if defined(__x86_64__)
#define LOW ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
#define HIGH ".irp i,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n\t"

/* glibc's memcpy uses the high ones; no compiler does unless told to, so they go unnamed */
START_TEST(wipe_traces_clears_the_low_and_the_high_vector_registers)
{
	unsigned char mark[16], seen[512] = { 0 };
	size_t known = __builtin_cpu_supports("avx512vl") ? 512 : 256;

	memset(mark, 0xa5, sizeof(mark));
	for (int wipe = 0; wipe < 2; wipe++) {
		if (known == 512)
			__asm__ volatile(HIGH "vmovdqu64 %0,%%xmm\\i\n\t.endr" ::"m"(mark));
		__asm__ volatile(LOW "movdqu %0,%%xmm\\i\n\t.endr" ::"m"(mark)
				 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
				 "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
				 "xmm14", "xmm15");
		if (wipe)
			sm_wipe_traces();
		__asm__ volatile(LOW "movdqu %%xmm\\i,16*\\i(%0)\n\t.endr" ::"r"(seen) : "memory");
		if (known == 512)
			__asm__ volatile(HIGH "vmovdqu64 %%xmm\\i,16*\\i(%0)\n\t.endr" ::"r"(seen)
					 : "memory");
		for (size_t i = 0; i < known; i++)
			ck_assert_msg(seen[i] == (wipe ? 0 : 0xa5), "wipe %d, xmm%zu", wipe,
				i / 16);
	}
}
END_TEST
#endif

START_TEST(sm_wipe_clears_these_bytes_and_sm_round_up_rounds_up)
{
	unsigned char b[64], want[64];

	for (size_t n = 0; n <= 62; n++) {
		memset(want, 0xa5, sizeof(want));
		memset(b, 0xa5, sizeof(b));
		memset(want + 1, 0, n);
		sm_wipe(b + 1, n);
		ck_assert_mem_eq(b, want, sizeof(b));
		ck_assert_uint_eq(sm_round_up(n, 16), (n / 16 + (n % 16 != 0)) * 16);
	}
	ck_assert_uint_eq(sm_round_up(SIZE_MAX - 15, 16), SIZE_MAX - 15);
	ck_assert_uint_eq(sm_round_up(SIZE_MAX - 14, 16), 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("base wipe");
	TCase *tc = tcase_create("wipe");
	SRunner *sr = srunner_create(s);

	suite_add_tcase(s, tc);
	if (!SANITIZED)
		tcase_add_test(tc, wipe_traces_clears_the_dead_stack);
#if defined(__x86_64__)
	tcase_add_test(tc, wipe_traces_clears_the_low_and_the_high_vector_registers);
#endif
	tcase_add_test(tc, sm_wipe_clears_these_bytes_and_sm_round_up_rounds_up);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
