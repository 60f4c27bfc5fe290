/*
 * check_contract_guards.c - pages of transparent mode that nobody may touch: guards, and what is freed
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "transparent.h"
#include "smaps.h"
#include <fcntl.h>
#include <setjmp.h>
#include <sys/uio.h>

enum { PAGE = 4096, CLEAR_PAGES = 256, MANY = 40, BYTES = 20000,
	LOCKABLE = 5 << 20 };

static sigjmp_buf back;
static void *volatile told; /* by the signal */

static void
on_fault(int signal, siginfo_t *info, void *context)
{
	(void)context;
	MUST(signal == SIGSEGV && info->si_code == SEGV_ACCERR);
	told = info->si_addr;
	siglongjmp(back, 1);
}

static void
enter(int mode)
{
	struct secmalloc_config c = transparent_config(CLEAR_PAGES);
	struct sigaction a;

	enter_mode(mode, LOCKABLE);
	c.fork = SECMALLOC_FORK_KEEP;
	MUST(secmalloc_init(&c) == 0);
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_fault;
	a.sa_flags = SA_SIGINFO;
	MUST(sigaction(SIGSEGV, &a, NULL) == 0);
}

/* Reads it, or writes to it. */
static bool
may_touch(volatile unsigned char *at, bool write)
{
	told = NULL;
	if (sigsetjmp(back, 1)) {
		MUST(told == at);
		return false;
	}
	if (write)
		*at = (unsigned char)(*at ^ 1);
	else
		(void)*at;
	return true;
}

static void
is_barred(unsigned char *at)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	MUST(!may_touch(at, false) && !may_touch(at, true) && !may_touch(at, true));
	MUST(fd >= 0 && read(fd, launder(at), 1) == -1 && errno == EFAULT);
	close(fd);
}

/* The chunk's run: it ends where the chunk does, but for its canary. */
static unsigned char *
end_of_run(unsigned char *p)
{
	uintptr_t end = (uintptr_t)p + BYTES;

	return p + BYTES + (PAGE - end % PAGE) % PAGE;
}

/* ------------------------------------------------------------------ who touches */

static void
around(void *mode)
{
	unsigned char *p, *end;

	enter(*(int *)mode);
	p = secmalloc(BYTES);
	MUST(p != NULL);
	end = end_of_run(p);
	memset(p, 7, BYTES);
	is_barred(end);
	is_barred(end + 100);
	MUST(secmalloc_encrypt(p) == 0);
	is_barred(end);
	for (size_t i = 0; i < BYTES; i++)
		MUST(p[i] == 7);
	secfree(p);
	is_barred(launder(p));
	is_barred(end - 1);
	MUST(secmalloc_term() == 0);
}

START_TEST(a_guard_is_SIGSEGV_and_EFAULT_in_system_calls)
{
	(void)in_mode(_i, around);
}
END_TEST

/* Access that was taken away comes back with the next chunk there, and goes with it. */
static void
again(void *mode)
{
	enter(*(int *)mode);
	for (int round = 0; round < 3 * MANY; round++) {
		unsigned char *p = secmalloc(BYTES);

		MUST(p != NULL);
		for (size_t i = 0; i < BYTES; i++)
			MUST(p[i] == 0);
		memset(p, 9, BYTES);
		if (round % 3 == 1)
			MUST(secmalloc_encrypt(p) == 0);
		is_barred(end_of_run(p));
		secfree(p);
		if (round % 2)
			is_barred(launder(p));
	}
	MUST(secmalloc_term() == 0);
}

START_TEST(what_was_barred_is_used_again)
{
	(void)in_mode(_i, again);
}
END_TEST

/* --------------------------------------------------------------- what it costs */

static bool
counts(const struct smaps *m, void *n)
{
	(void)m;
	++*(size_t *)n;
	return false;
}

static size_t
mappings(void)
{
	size_t n = 0;

	MUST(!smaps_each(counts, &n));
	return n;
}

static void
many(void *mode)
{
	unsigned char *p[MANY];
	size_t n;

	enter(*(int *)mode);
	p[0] = secmalloc(BYTES);
	MUST(p[0] != NULL);
	n = mappings();
	for (int i = 1; i < MANY; i++)
		MUST((p[i] = secmalloc(BYTES)) != NULL);
	MUST(mappings() == n);
	for (int i = 0; i < MANY; i += 2)
		secfree(p[i]);
	MUST(mappings() == n);
}

START_TEST(guards_take_no_mappings)
{
	(void)in_mode(_i, many);
}
END_TEST

/* ------------------------------------------------------------------ who else looks */

static void
in_child(void *mode)
{
	unsigned char *p, *freed;
	int status;
	pid_t child;

	enter(*(int *)mode);
	p = secmalloc(BYTES);
	freed = secmalloc(BYTES);
	MUST(p != NULL && freed != NULL);
	memset(p, 5, BYTES);
	secfree(freed);
	is_barred(end_of_run(p));
	child = fork();
	if (child == 0) {
		for (size_t i = 0; i < BYTES; i++)
			MUST(p[i] == 5);
		is_barred(end_of_run(p));
		is_barred(launder(freed));
		for (int i = 0; i < MANY; i++) {
			unsigned char *q = secmalloc(BYTES);

			MUST(q != NULL && q[0] == 0 && q[BYTES - 1] == 0);
			memset(q, 6, BYTES);
		}
		_exit(0);
	}
	MUST(waitpid(child, &status, 0) == child && status == 0);
	is_barred(launder(freed));
}

START_TEST(a_child_has_the_same_guards)
{
	(void)in_mode(_i, in_child);
}
END_TEST

/* And does not wait. */
static void
from_outside(void *mode)
{
	pid_t parent = getpid(), child;
	unsigned char *end;
	int status;

	enter(*(int *)mode);
	end = secmalloc(BYTES);
	MUST(end != NULL);
	end = end_of_run(end);
	child = fork();
	if (child == 0) {
		static unsigned char byte;
		struct iovec to = { &byte, 1 }, from = { launder(end), 1 };

		alarm(20);
		MUST(process_vm_readv(parent, &to, 1, &from, 1, 0) == -1 && errno == EFAULT);
		_exit(0);
	}
	MUST(waitpid(child, &status, 0) == child && status == 0);
	is_barred(end);
}

START_TEST(who_reads_a_guard_from_outside_is_told_EFAULT)
{
	(void)in_mode(BY_THREAD, from_outside);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: guards");
	TCase *tc = add_case(s, "guards", 0);

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, a_guard_is_SIGSEGV_and_EFAULT_in_system_calls, 1, 3);
	tcase_add_loop_test(tc, what_was_barred_is_used_again, 1, 3);
	tcase_add_loop_test(tc, guards_take_no_mappings, 1, 2);
	tcase_add_loop_test(tc, a_child_has_the_same_guards, 1, 3);
	tcase_add_test(tc, who_reads_a_guard_from_outside_is_told_EFAULT);
	return run(s);
}
