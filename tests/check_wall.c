/*
 * check_wall.c - the kernel refuses to take access to a guard away, or to give it back
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include "fault/inside.h"
#include "transparent.h"
#include "transparent_keep.h"
#include <setjmp.h>

#define BYTES ((size_t)200000)

static _Atomic bool refuses;

int __real_sm_os_guard(void *base, size_t bytes);
int __wrap_sm_os_guard(void *base, size_t bytes);
int __real_sm_os_access(void *base, size_t bytes, enum secmalloc_access a);
int __wrap_sm_os_access(void *base, size_t bytes, enum secmalloc_access a);

/** __wrap_sm_os_guard - the library's, or refused */
int
__wrap_sm_os_guard(void *base, size_t bytes)
{
	return refuses ? ENOMEM : __real_sm_os_guard(base, bytes);
}

/** __wrap_sm_os_access - the same */
int
__wrap_sm_os_access(void *base, size_t bytes, enum secmalloc_access a)
{
	return refuses ? sm_fail(ENOMEM, "mprotect refused: free some memory")
		       : __real_sm_os_access(base, bytes, a);
}

static unsigned char *
end_of_run(unsigned char *p)
{
	return p + BYTES + (PAGE - ((uintptr_t)p + BYTES) % PAGE) % PAGE;
}

static void
touch_guard(void *mode)
{
	volatile unsigned char *end;

	start_in(mode, 0);
	end = end_of_run(secmalloc(BYTES));
	refuses = true;
	*end = 1;
}

START_TEST(a_guard_that_the_kernel_refuses_to_wall_ends_the_program_with_a_sentence)
{
	struct outcome o;
	int mode = _i;

	if (!mode_is_here(mode) || (mode == BY_SIGNAL && !may_drop(__func__))) {
		printf("skipped: mode %d is not here\n", mode);
		return;
	}
	o = outcome_of(touch_guard, &mode);
	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_msg(strstr(o.text, "a guard was touched, and access to it could not be taken away: "
				     "raise vm.max_map_count"), "%s", o.text);
}
END_TEST

static sigjmp_buf away;

static void
leave(int sig)
{
	(void)sig;
	siglongjmp(away, 1);
}

/* The page in front was walled as it was free. */
static void
no_way_back(void *mode)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	unsigned char *p;
	unsigned granted;

	start_in(mode, 0);
	MUST(secmalloc_stats(&s) == 0);
	granted = s.granted;
	p = secmalloc(BYTES);
	MUST(p != NULL);
	secfree(p);
	signal(SIGSEGV, leave);
	if (sigsetjmp(away, 1) == 0) {
		*(volatile unsigned char *)p = 1;
		MUST(false);
	}
	refuses = true;
	errno = 0;
	for (int i = 0; i < 3; i++)
		MUST(secmalloc(BYTES) == NULL && errno == ENOMEM);
	refuses = false;
	p = secmalloc(BYTES);
	MUST(p != NULL);
	fill(p, BYTES, 1);
	MUST(filled(p, BYTES, 1) && secmalloc_stats(&s) == 0 && s.granted == granted);
	MUST(secmalloc_term() == 0);
}

START_TEST(a_walled_run_that_cannot_be_reached_is_ENOMEM_and_is_used_later)
{
	(void)in_mode(_i, no_way_back);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("wall");
	TCase *tc = tcase_create("wall");

	tcase_set_timeout(tc, 60);
	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc,
		a_guard_that_the_kernel_refuses_to_wall_ends_the_program_with_a_sentence, BY_THREAD,
		BY_SIGNAL + 1);
	tcase_add_loop_test(tc, a_walled_run_that_cannot_be_reached_is_ENOMEM_and_is_used_later,
		BY_THREAD, BY_SIGNAL + 1);
	return run_rooms(s);
}
