/*
 * contract.h - what the tests of the public contract share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A test that must see a process die, lose its privileges or fork again does so in a
 * child made here.  Memory of the library does not outlive a fork, so such a child
 * calls secmalloc_init for itself.
 */
#ifndef TESTS_CONTRACT_H
#define TESTS_CONTRACT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <check.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "secmalloc.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0 /* with one, the stack is not what it is, and libc's mlock does nothing */
#endif

#define NOBODY 65534
#define KIB ((size_t)1024)
#define MIB (KIB * KIB)

/** MUST - in a child: go on if cond holds, else say why not and exit 99 */
#define MUST(cond) must_hold(!!(cond), #cond, __FILE__, __LINE__)

/** MUST_FAIL - in a child: the call answers `answer` and errno says `code` */
#define MUST_FAIL(code, answer, call) MUST((errno = 0, (call) == (answer)) && errno == (code))

/** FAILS_WITH - the call answers `answer` and errno says `code` */
#define FAILS_WITH(code, answer, call)                                                             \
	do {                                                                                       \
		errno = 0;                                                                         \
		ck_assert_msg((call) == (answer), "%s succeeded", #call);                          \
		ck_assert_msg(errno == (code), "%s: errno %d (%s), not %s; error: %s", #call,      \
			errno, strerror(errno), #code, secmalloc_error());                         \
	} while (0)

/** SUCCEEDS - the call answers 0 and leaves errno alone */
#define SUCCEEDS(call)                                                                             \
	do {                                                                                       \
		errno = ENOTTY;                                                                    \
		ck_assert_msg((call) == 0, "%s: errno %d, %s", #call, errno, secmalloc_error());   \
		ck_assert_msg(errno == ENOTTY, "%s changed errno to %d", #call, errno);            \
	} while (0)

/** struct outcome - how a child ended (as of waitpid) and what it wrote on stderr */
struct outcome {
	int status;
	char text[2048];
};

static inline void
must_hold(int holds, const char *what, const char *file, int line)
{
	if (holds)
		return;
	fprintf(stderr, "%s:%d: %s; errno %d; %s\n", file, line, what, errno, secmalloc_error());
	_exit(99);
}

/** launder - the same pointer, of which the compiler knows nothing any more */
static inline void *
launder(const void *p)
{
	volatile uintptr_t v = (uintptr_t)p;

	return (void *)v;
}

/** launder_size - the same size, of which the compiler knows nothing any more */
static inline size_t
launder_size(size_t n)
{
	volatile size_t v = n;

	return v;
}

/** byte_at - the byte `offset` from p, wherever that is */
static inline volatile unsigned char *
byte_at(const void *p, ptrdiff_t offset)
{
	return (volatile unsigned char *)((uintptr_t)launder(p) + (uintptr_t)offset);
}

/** spoil - change the byte `offset` from p to something it was not */
static inline void
spoil(const void *p, ptrdiff_t offset)
{
	*byte_at(p, offset) ^= 0x5a;
}

/** pattern - byte i of the content numbered seed */
static inline unsigned char
pattern(unsigned seed, size_t i)
{
	return (unsigned char)(seed * 131u + i * 7u + (i >> 8) * 13u + 1u);
}

static inline void
fill(void *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		((unsigned char *)p)[i] = pattern(seed, i);
}

/** filled - whether p still holds what fill put there */
static inline int
filled(const void *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		if (((const unsigned char *)p)[i] != pattern(seed, i))
			return 0;
	return 1;
}

static inline int
all_zero(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((const unsigned char *)p)[i] != 0)
			return 0;
	return 1;
}

/** peek - read n bytes at p, be they accessible or not; answers how many could be read */
static inline ssize_t
peek(const void *p, void *into, size_t n)
{
	int fds[2];
	ssize_t got;

	if (pipe(fds) != 0)
		abort();
	got = write(fds[1], launder(p), n);
	if (got > 0 && read(fds[0], into, (size_t)got) != got)
		abort();
	close(fds[0]);
	close(fds[1]);
	return got;
}

static inline struct secmalloc_stats
stats_now(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	ck_assert_int_eq(secmalloc_stats(&s), 0);
	return s;
}

/** reap - wait for a child whose stderr is fd */
static inline void
reap(struct outcome *o, pid_t pid, int fd)
{
	size_t used = 0;
	ssize_t got;

	while (used < sizeof(o->text) - 1 &&
		(got = read(fd, o->text + used, sizeof(o->text) - 1 - used)) > 0)
		used += (size_t)got;
	o->text[used] = '\0';
	close(fd);
	while (waitpid(pid, &o->status, 0) < 0 && errno == EINTR)
		continue;
}

/** outcome_by - run body(arg) in a child made by forker, that exits 0 if body returns */
static inline struct outcome
outcome_by(pid_t (*forker)(void), void (*body)(void *), void *arg)
{
	const struct rlimit none = {0, 0};
	struct outcome o = {0, ""};
	int fds[2];
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	fflush(NULL);
	pid = forker();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGSEGV, SIG_DFL);
		signal(SIGABRT, SIG_DFL);
		dup2(fds[1], STDERR_FILENO);
		close(fds[0]);
		close(fds[1]);
		alarm(50);
		body(arg);
		_exit(0);
	}
	close(fds[1]);
	reap(&o, pid, fds[0]);
	return o;
}

static inline struct outcome
outcome_of(void (*body)(void *), void *arg)
{
	return outcome_by(fork, body, arg);
}

/** assert_exits_0 - body runs to its end */
static inline void
assert_exits_0(void (*body)(void *), void *arg)
{
	const struct outcome o = outcome_of(body, arg);

	ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0, "status 0x%x: %s",
		(unsigned)o.status, o.text);
}

/** assert_segv - body ends by touching what it may not touch, and nothing is said */
static inline void
assert_segv(void (*body)(void *), void *arg)
{
	const struct outcome o = outcome_of(body, arg);

	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGSEGV, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	ck_assert_str_eq(o.text, "");
}

/** may_drop - whether this process can become a user whose limit counts; if not, says so */
static inline int
may_drop(const char *test)
{
	if (geteuid() != 0)
		printf("skipped: %s needs root, to become another user\n", test);
	else
		return 1;
	return 0;
}

/** under_valgrind - whether valgrind runs this process; then says that test is skipped */
static inline int
under_valgrind(const char *test)
{
	const char *preload = getenv("LD_PRELOAD");

	if (preload == NULL || strstr(preload, "/vgpreload_") == NULL)
		return 0;
	printf("skipped: %s, which valgrind does not allow\n", test);
	return 1;
}

/** drop_to - in a child: become nobody, who may lock `limit` bytes */
static inline void
drop_to(size_t limit)
{
	const struct rlimit r = {limit, limit};

	MUST(setrlimit(RLIMIT_MEMLOCK, &r) == 0);
	MUST(setgroups(0, NULL) == 0);
	MUST(setgid(NOBODY) == 0);
	MUST(setuid(NOBODY) == 0);
}

/** init_defaults, term - the checked fixture of most tests */
static inline void
init_defaults(void)
{
	ck_assert_msg(secmalloc_init(NULL) == 0, "%s", secmalloc_error());
}

static inline void
term(void)
{
	ck_assert_int_eq(secmalloc_term(), 0);
}

/** add_case - a test case with or without the fixture */
static inline TCase *
add_case(Suite *s, const char *name, int with_fixture)
{
	TCase *tc = tcase_create(name);

	if (with_fixture)
		tcase_add_checked_fixture(tc, init_defaults, term);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(s, tc);
	return tc;
}

#define SKIPPED 77 /* what main returns to a test driver when it ran nothing */

/** may_lock - whether this process may lock what the tests need */
static inline int
may_lock(void)
{
	void *p = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const int may = p != MAP_FAILED && mlock(p, 4 * MIB) == 0;

	if (p != MAP_FAILED)
		munmap(p, 4 * MIB);
	return may;
}

/** finish - the exit status of a suite that has run */
static inline int
finish(SRunner *sr)
{
	const int failed = srunner_ntests_failed(sr);

	srunner_free(sr);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/** run - what main returns */
static inline int
run(Suite *s)
{
	SRunner *sr = srunner_create(s);

	if (!may_lock()) {
		printf("skipped: all, for RLIMIT_MEMLOCK is under 4 MiB\n");
		srunner_free(sr);
		return SKIPPED;
	}
	srunner_run_all(sr, CK_ENV);
	return finish(sr);
}

#endif /* TESTS_CONTRACT_H */
