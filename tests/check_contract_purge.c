/*
 * check_contract_purge.c - the contract: after a purge nothing is left, and nothing comes back
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "every_call.h"

#include <fcntl.h>
#include <sys/ptrace.h>

enum { KEPT = 60, VARIANTS = 8 };

static unsigned char *kept[KEPT];

static size_t
kept_bytes(unsigned i)
{
	static const size_t sizes[] = { 0, 1, 32, 100, 3000, 16384, 16385, 70000 };

	return sizes[i % 8];
}

static int
is_closed(unsigned i)
{
	return i % 3 == 0;
}

static struct secmalloc_config
variant(int i)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = (i & 1 ? SECMALLOC_ISOLATE : 0u) | (i & 2 ? SECMALLOC_KEY_RESIDENT : 0u);
	c.pool_size = i & 4 ? 16 * KIB : 0; /* elastic, mostly */
	return c;
}

/** keep - closed, open, held, and, where they have pages of their own, protected chunks */
static void
keep(const struct secmalloc_config *c)
{
	MUST(secmalloc_init(c) == 0);
	for (unsigned i = 0; i < KEPT; i++) {
		MUST((kept[i] = secmalloc(kept_bytes(i))) != NULL);
		fill(kept[i], kept_bytes(i), i);
		MUST(!is_closed(i) || secmalloc_encrypt(kept[i]) == 0);
		MUST(i % 7 != 1 || is_closed(i) || secmalloc_hold(kept[i]) == 0);
		if (c->flags & SECMALLOC_ISOLATE || kept_bytes(i) > 16384)
			MUST(secmalloc_protect(kept[i], (enum secmalloc_access)(i / 8 % 3)) == 0);
	}
}

/** look - what was open is zero and may be read, what was closed is not what it was */
static void
look(void)
{
	for (unsigned i = 0; i < KEPT; i++) {
		const size_t n = kept_bytes(i);

		if (!is_closed(i))
			MUST(all_zero(kept[i], n));
		else if (i / 8 % 3 == SECMALLOC_READWRITE)
			MUST(!shows(kept[i], n, i) && (n < 8 || !all_zero(kept[i], n)));
	}
}

/** works - from init to term */
static void
works(void)
{
	unsigned char *p;

	MUST(secmalloc_init(NULL) == 0);
	MUST((p = secmalloc(100)) != NULL);
	fill(p, 100, 1);
	MUST(secmalloc_encrypt(p) == 0 && secmalloc_rekey() == 0);
	MUST(secmalloc_decrypt(p) == 0 && filled(p, 100, 1));
	MUST(secmalloc_term() == 0);
}

START_TEST(a_purge_zeroes_every_open_chunk_and_opens_none)
{
	struct secmalloc_config c = variant(_i);

	keep(&c);
	errno = ENOTTY;
	secmalloc_purge();
	ck_assert_int_eq(errno, ENOTTY);
	look();
	secmalloc_purge();
	look();
	for (unsigned i = 0; i < KEPT; i++)
		FAILS_WITH(ECANCELED, -1, secmalloc_decrypt(kept[i]));
	look();
	term();
	works();
}
END_TEST

static void
mistakes_are_ECANCELED(void)
{
	MUST_FAIL(ECANCELED, NULL, secstrdup(launder(NULL)));
	MUST_FAIL(ECANCELED, NULL, secstrndup(launder(NULL), 3));
	MUST_FAIL(ECANCELED, NULL, seccalloc(launder_size(SIZE_MAX), 2));
	MUST_FAIL(ECANCELED, NULL, secmalloc(launder_size(SIZE_MAX)));
	MUST_FAIL(ECANCELED, NULL, secaligned_alloc(launder_size(3), 10));
	MUST_FAIL(ECANCELED, NULL, secmalloc_read_fd(-1, 10, &(size_t){ 0 }));
	MUST_FAIL(ECANCELED, NULL, secmalloc_read_fd(0, 10, NULL));
	MUST_FAIL(ECANCELED, NULL, secmalloc_read_passphrase(NULL, 10));
	MUST_FAIL(ECANCELED, -1, secmalloc_lock(NULL, 0));
	MUST_FAIL(ECANCELED, -1, secmalloc_unlock(NULL, 0));
	MUST_FAIL(ECANCELED, -1, secmalloc_unlock("any", 3));
	MUST_FAIL(ECANCELED, -1, secmalloc_protect(kept[1], (enum secmalloc_access)9));
}

START_TEST(once_purged_every_call_but_a_few_is_ECANCELED)
{
	struct secmalloc_config c = variant(_i);
	char here[32];
	void *freed;

	keep(&c);
	secfree(freed = secmalloc(10));
	secmalloc_purge();
	for (int i = -4; i < KEPT; i++) {
		void *const bad[] = { NULL, here, kept[3] + 1, launder(freed) };
		void *p = i < 0 ? bad[i + 4] : kept[i];

		each_answers(CHUNK_CALLS, CALLS(CHUNK_CALLS), p, ECANCELED);
		MUST(call_is_encrypted(p) == ECANCELED);
		MUST_FAIL(ECANCELED, NULL, secrealloc(p, 10));
		MUST_FAIL(ECANCELED, NULL, secrealloc(p, 0));
		if (i >= 0)
			these_go_on(p, kept_bytes((unsigned)i));
	}
	each_answers(ALL_CALLS, CALLS(ALL_CALLS), NULL, ECANCELED);
	mistakes_are_ECANCELED();
	MUST_FAIL(EALREADY, -1, secmalloc_init(NULL));
	ck_assert_uint_eq(stats_now().chunks, KEPT);
	for (unsigned i = 0; i < KEPT; i++) {
		errno = ENOTTY;
		secfree(kept[i]);
		MUST(errno == ENOTTY && secmalloc_owns(launder(kept[i])) == 0);
	}
	ck_assert_uint_eq(stats_now().chunks, 0);
	term();
	works();
}
END_TEST

START_TEST(before_init_and_after_term_a_purge_does_nothing)
{
	errno = ENOTTY;
	secmalloc_purge();
	ck_assert_int_eq(errno, ENOTTY);
	ck_assert_uint_eq(stats_now().pools, 0);
	works();
	secmalloc_purge();
	works();
	ck_assert_ptr_nonnull(secmalloc(10)); /* starts by itself */
	term();
	secmalloc_purge();
	FAILS_WITH(EINVAL, -1, secmalloc_rekey());
	SUCCEEDS(secmalloc_encrypt_all());
}
END_TEST

/* ------------------------------------------------------- from anywhere */

static void
on_signal(int sig)
{
	secmalloc_purge();
	look();
	_exit(sig == SIGSEGV ? 0 : 1);
}

static void
touch_a_guard(void *unused)
{
	struct secmalloc_config c = variant(1);
	struct sigaction act = { .sa_handler = on_signal };

	(void)unused;
	keep(&c);
	sigaction(SIGSEGV, &act, NULL);
	spoil(kept[18], 4096); /* behind its page */
	_exit(1);
}

START_TEST(a_handler_of_SIGSEGV_may_purge)
{
	if (!SANITIZED)
		assert_exits_0(touch_a_guard, NULL);
}
END_TEST

static void
on_fault(enum secmalloc_fault kind, const void *ptr, void *arg)
{
	MUST(kind == SECMALLOC_FAULT_OVERFLOW && ptr == kept[4] && arg == kept);
	secmalloc_purge();
	look();
	_exit(0);
}

static void
overflow(void *how)
{
	struct secmalloc_config c = variant(0);

	c.on_fault = on_fault;
	c.fault_arg = kept;
	keep(&c);
	spoil(kept[4], (ptrdiff_t)kept_bytes(4));
	if (strcmp(how, "free") == 0)
		secfree(kept[4]);
	else if (strcmp(how, "encrypt") == 0)
		(void)secmalloc_encrypt(kept[4]);
	else
		(void)!secrealloc(kept[4], 9000);
	_exit(1);
}

START_TEST(on_fault_may_purge)
{
	assert_exits_0(overflow, "free");
	assert_exits_0(overflow, "encrypt");
	assert_exits_0(overflow, "realloc");
}
END_TEST

static void
free_after_purge(void *foreign)
{
	struct secmalloc_config c = variant(0);

	keep(&c);
	secmalloc_purge();
	if (!foreign)
		secfree(kept[1]);
	secfree(launder(foreign ? foreign : kept[1]));
}

START_TEST(a_bad_free_is_a_fault_once_purged_too)
{
	char here[32];
	struct outcome o = outcome_of(free_after_purge, here);

	ck_assert(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT);
	ck_assert_ptr_nonnull(strstr(o.text, "invalid free"));
	o = outcome_of(free_after_purge, NULL);
	ck_assert(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGABRT);
	ck_assert_ptr_nonnull(strstr(o.text, "double free"));
}
END_TEST

START_TEST(a_child_of_a_purged_parent_may_start_anew)
{
	struct secmalloc_config c = variant(_i);
	int status;
	pid_t pid;

	keep(&c);
	secmalloc_purge();
	pid = fork();
	if (pid == 0) {
		secmalloc_purge(); /* nothing runs here yet */
		MUST_FAIL(ECHILD, -1, secmalloc_decrypt(kept[1]));
		if (_i & 1)
			MUST(secmalloc(10) != NULL && secmalloc_term() == 0);
		works();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	FAILS_WITH(ECANCELED, NULL, secmalloc(10));
	term();
}
END_TEST

/* ------------------------------------------------------------ exit */

/** end_traced - tell where the chunk is, and end with or without what exit(3) does */
static void
end_traced(int fd, int politely)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.without = SECMALLOC_HIDDEN;
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	keep(&c);
	if (write(fd, &kept[3], sizeof(kept[3])) < 0 || write(fd, &kept[4], sizeof(kept[4])) < 0)
		_exit(1);
	if (politely)
		exit(0);
	_exit(0);
}

/** left_at_end - the content of an open chunk as the kernel tears the process down */
static void
left_at_end(int politely, unsigned char *out, size_t n)
{
	char name[64];
	int fds[2], mem, status;
	uintptr_t at[2];
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		end_traced(fds[1], politely);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSTOPPED(status));
	ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)PTRACE_O_TRACEEXIT);
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status >> 8, SIGTRAP | PTRACE_EVENT_EXIT << 8);
	ck_assert_int_eq(read(fds[0], at, sizeof(at)), sizeof(at));
	snprintf(name, sizeof(name), "/proc/%d/mem", (int)pid);
	mem = open(name, O_RDONLY);
	ck_assert_int_eq(pread(mem, out, n, (off_t)at[1]), (ssize_t)n);
	close(mem);
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	waitpid(pid, &status, 0);
	close(fds[0]);
	close(fds[1]);
}

START_TEST(a_process_that_exits_leaves_no_open_chunk_in_memory)
{
	unsigned char left[3000];

	if (SANITIZED || under_valgrind("exit, traced"))
		return;
	left_at_end(0, left, sizeof(left)); /* it can be seen */
	ck_assert(filled(left, sizeof(left), 4));
	left_at_end(1, left, sizeof(left));
	ck_assert(all_zero(left, sizeof(left)));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_purge");
	TCase *tc = add_case(s, "purge", 0);

	tcase_add_loop_test(tc, a_purge_zeroes_every_open_chunk_and_opens_none, 0, VARIANTS);
	tcase_add_loop_test(tc, once_purged_every_call_but_a_few_is_ECANCELED, 0, VARIANTS);
	tcase_add_test(tc, before_init_and_after_term_a_purge_does_nothing);
	tcase_add_test(tc, a_handler_of_SIGSEGV_may_purge);
	tcase_add_test(tc, on_fault_may_purge);
	tcase_add_test(tc, a_bad_free_is_a_fault_once_purged_too);
	tcase_add_loop_test(tc, a_child_of_a_purged_parent_may_start_anew, 0, 2);
	tcase_add_test(tc, a_process_that_exits_leaves_no_open_chunk_in_memory);
	return run(s);
}
