/*
 * check_transparent_early.c - what a program allocates before the heap is there is locked, or it is
 * not started
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "sleeper.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static char options[] = "mode=thread,clear=262144";
enum { DURING_BYTES = 40000, A_PAGE_OR_TWO = 8192 };

/** struct place - of an allocation, and what is known of the mappings there */
struct place {
	uintptr_t from, to;
	size_t pages, locked, undumped;
};

static void
look_for(const struct sight *s, void *arg)
{
	struct place *p = arg;
	uintptr_t from = p->from > s->from ? p->from : s->from, to = p->to < s->to ? p->to : s->to;

	for (; from < to; from = (from | (OUTSIDE_PAGE - 1)) + 1) {
		p->pages++;
		p->locked += strstr(s->flags, " lo") != NULL;
		p->undumped += strstr(s->flags, " dd") != NULL;
		if (is_watched(s))
			ck_abort_msg("%jx is in the heap", (uintmax_t)p->from);
	}
}

static void
is_locked(pid_t pid, uintptr_t at, size_t n)
{
	struct place p = { .from = at, .to = at + n };

	each_sight(pid, look_for, &p);
	ck_assert_uint_gt(p.pages, 0);
	ck_assert_uint_eq(p.locked, p.pages);
	ck_assert_uint_eq(p.undumped, p.pages);
}

START_TEST(what_comes_before_the_heap_is_locked_in_the_program_and_its_child)
{
	char program[] = "run_early", *argv[] = { program, NULL };
	uintmax_t first, during, child;
	int out[2];
	FILE *told;
	pid_t pid;

	if (!may_launch(__func__))
		return;
	ck_assert(pipe(out) == 0);
	pid = launched(options, argv, out[1], -1);
	close(out[1]);
	ck_assert_ptr_nonnull(told = fdopen(out[0], "r"));
	ck_assert_int_eq(fscanf(told, "%jx %jx %jx", &first, &during, &child), 3);
	is_locked(pid, (uintptr_t)first, 200);
	is_locked(pid, (uintptr_t)during, DURING_BYTES);
	is_locked((pid_t)child, (uintptr_t)first, 200);
	is_locked((pid_t)child, (uintptr_t)during, DURING_BYTES);
	ck_assert(kill((pid_t)child, SIGKILL) == 0 && kill(pid, SIGKILL) == 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	fclose(told);
}
END_TEST

/* No page or two are locked; frames and the like, which are more, are. */
static void
forbid_small_locks(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mlock, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, A_PAGE_OR_TWO, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { sizeof(f) / sizeof(f[0]), f };

	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p, 0, 0) == 0);
}

static void
denied(void *argv)
{
	forbid_small_locks();
	alarm(60);
	become(options, argv);
}

START_TEST(where_it_cannot_be_locked_the_program_is_not_started)
{
	char program[] = "run_early", *argv[] = { program, NULL };
	struct outcome o;

	if (!may_launch(__func__))
		return;
	o = outcome_of(denied, argv);
	ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 2, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_msg(strstr(o.text, "before the start could not be locked") != NULL ||
		strstr(o.text, "mlock of") != NULL, "%s", o.text);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("transparent: early");
	TCase *tc = add_case(s, "early", 0);

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, what_comes_before_the_heap_is_locked_in_the_program_and_its_child);
	tcase_add_test(tc, where_it_cannot_be_locked_the_program_is_not_started);
	return run(s);
}
