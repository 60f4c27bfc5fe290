/*
 * check_keep_unaware.c - a program that knows nothing of the library, whose heap is transparent:
 * what fork(3) itself and other handlers touch between our own
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include "transparent.h"
#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);

static _Atomic bool inside; /* malloc gives transparent memory */
static _Atomic bool runs;

#define EXPORTED __attribute__((visibility("default"))) /* to the C library */

#if !SANITIZED
EXPORTED void *
malloc(size_t n)
{
	return inside ? secmalloc(n) : __libc_malloc(n);
}

EXPORTED void *
calloc(size_t n, size_t size)
{
	return inside ? seccalloc(n, size) : __libc_calloc(n, size);
}

EXPORTED void *
realloc(void *p, size_t n)
{
	if (runs && p ? secmalloc_owns(p) : inside)
		return secrealloc(p, n);
	return __libc_realloc(p, n);
}

EXPORTED void
free(void *p)
{
	if (runs && p && secmalloc_owns(p))
		secfree(p);
	else
		__libc_free(p);
}
#endif

static void
start_unaware_reseal(const void *mode, unsigned reseal_ms)
{
	struct secmalloc_config c = transparent_config(64);

	sm_host.unaware = true;
	enter_mode(*(const int *)mode, 8 * MIB);
	c.fork = SECMALLOC_FORK_KEEP;
	c.reseal_ms = reseal_ms;
	MUST(secmalloc_init(&c) == 0 && stats_now().mode == (unsigned)*(const int *)mode);
	runs = true;
}

static void
start_unaware(const void *mode)
{
	start_unaware_reseal(mode, 0);
}

/* ------------------------------------------------------------------- stdio */

enum { FILES = 20, SIGNAL_STACK_BYTES = 64 << 10 };

static FILE *file[FILES];
static int pipes[2];
static _Atomic bool over;

static void *
waits(void *arg)
{
	while (!over)
		usleep(1000);
	return arg;
}

static void *
writes(void *arg)
{
	for (unsigned n = 0; !over; n++)
		fprintf(file[n % 3], "%u", n);
	return arg;
}

static void
files_work(void)
{
	char line[100];

	for (int i = 3; i < FILES; i++) {
		MUST(secmalloc_owns(file[i]));
		fprintf(file[i], "number %d\n", i);
	}
	MUST(fflush(file[3]) == 0 && read(pipes[0], line, sizeof(line)) == 9);
	MUST(memcmp(line, "number 3\n", 9) == 0);
}

static void
fork_and_look(unsigned generations)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		alarm(30);
		files_work();
		MUST(getpwnam("root") != NULL);
		if (generations > 1)
			fork_and_look(generations - 1);
		files_work();
		_exit(0);
	}
	MUST(child > 0 && waitpid(child, &status, 0) == child);
	MUST(status == 0);
}

/** stdio - arg[0]: the mode; arg[1]: another thread waits; arg[2]: it writes to such files */
static void
stdio(void *arg)
{
	const int *how = arg;
	pthread_t t;

	start_unaware(how);
	MUST(pipe(pipes) == 0);
	inside = true;
	for (int i = 0; i < FILES; i++)
		MUST((file[i] = i == 3 ? fdopen(pipes[1], "w") : fopen("/dev/null", "w")) != NULL);
	MUST(getpwnam("root") != NULL);
	inside = false;
	if (how[1])
		MUST(pthread_create(&t, NULL, how[2] ? writes : waits, NULL) == 0);
	for (int i = 0; i < 30; i++) {
		if (i % 2)
			MUST(secmalloc_encrypt_all() == 0);
		fork_and_look(i == 7 ? 4 : 1);
	}
	files_work();
	over = true;
	MUST(!how[1] || pthread_join(t, NULL) == 0);
}

static void
in_each_mode(void (*body)(void *), int threads, int write)
{
	for (int mode = BY_THREAD; mode <= BY_SIGNAL; mode++) {
		int how[3] = { mode, threads, write };

		if (mode_is_here(mode) && (mode == BY_THREAD || may_drop(__func__)))
			assert_exits_0(body, how);
	}
}

START_TEST(a_program_of_one_thread_forks_with_files_in_such_memory)
{
	in_each_mode(stdio, 0, 0);
}
END_TEST

START_TEST(a_program_of_several_threads_does)
{
	in_each_mode(stdio, 1, 0);
}
END_TEST

START_TEST(and_while_another_thread_writes_to_them)
{
	in_each_mode(stdio, 1, 1);
}
END_TEST

static unsigned char *signal_stack;
static _Atomic unsigned on_it;

static void
looks(int signal)
{
	uintptr_t here = (uintptr_t)&signal;

	on_it += here - (uintptr_t)signal_stack < SIGNAL_STACK_BYTES;
}

/** signals - arg[0]: the mode; arg[1]: all are blocked; else their stack is in such memory */
static void
signals(void *arg)
{
	const int *how = arg;
	struct sigaction a = { .sa_handler = looks, .sa_flags = SA_ONSTACK };
	sigset_t all, now;
	stack_t now_on;
	pthread_t t;

	start_unaware(how);
	inside = true;
	for (int i = 0; i < FILES; i++)
		MUST((file[i] = fopen("/dev/null", "w")) != NULL);
	signal_stack = malloc(SIGNAL_STACK_BYTES);
	inside = false;
	MUST(secmalloc_owns(signal_stack) && pthread_create(&t, NULL, waits, NULL) == 0);
	MUST(sigaction(SIGUSR1, &a, NULL) == 0);
	sigfillset(&all);
	if (how[1])
		MUST(sigprocmask(SIG_SETMASK, &all, NULL) == 0);
	else
		MUST(sigaltstack(&(stack_t){ .ss_sp = signal_stack,
			.ss_size = SIGNAL_STACK_BYTES }, NULL) == 0);
	for (unsigned i = 0; i < 10; i++) {
		pid_t child = fork();
		int status;

		on_it = 0;
		MUST(sigprocmask(SIG_BLOCK, NULL, &now) == 0 && sigaltstack(NULL, &now_on) == 0);
		MUST(sigismember(&now, SIGSEGV) == how[1] && sigismember(&now, SIGUSR2) == how[1]);
		MUST(how[1] || (now_on.ss_sp == signal_stack && now_on.ss_flags == 0));
		MUST(raise(SIGUSR1) == 0 && on_it == !how[1]);
		for (int k = 0; k < FILES; k++)
			MUST(fprintf(file[k], "%u", i) > 0 && fflush(file[k]) == 0);
		if (child == 0)
			_exit(0);
		MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
	}
	over = true;
	MUST(pthread_join(t, NULL) == 0);
}

START_TEST(and_with_every_signal_blocked)
{
	if (mode_is_here(BY_THREAD))
		assert_exits_0(signals, (int[]){ BY_THREAD, 1 });
}
END_TEST

START_TEST(and_with_its_stack_for_signals_in_such_memory)
{
	if (mode_is_here(BY_THREAD))
		assert_exits_0(signals, (int[]){ BY_THREAD, 0 });
}
END_TEST

static void *
uses_stack(void *arg)
{
	volatile char deep[48 << 10];

	for (size_t i = 0; i < sizeof(deep); i++)
		deep[i] = 1;
	return arg;
}

/* What the C library thinks free it gives to the next thread that asks for as little. */
static void
resealing(void *mode)
{
	pthread_attr_t small;
	pthread_t t;

	start_unaware_reseal(mode, 10);
	inside = true;
	for (int i = 0; i < FILES; i++)
		MUST((file[i] = fopen("/dev/null", "w")) != NULL);
	inside = false;
	MUST(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 100 << 10) == 0);
	MUST(pthread_create(&t, NULL, waits, NULL) == 0);
	for (unsigned i = 0; i < 10; i++) {
		pid_t child = fork();
		pthread_t threads[4];
		int status;

		for (int k = 0; k < 4; k++)
			MUST(pthread_create(&threads[k], &small, uses_stack, NULL) == 0);
		for (int k = 0; k < 4; k++)
			MUST(pthread_join(threads[k], NULL) == 0);
		usleep(30000);
		if (child == 0)
			_exit(0);
		MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
	}
	over = true;
	MUST(pthread_join(t, NULL) == 0);
}

START_TEST(and_while_pages_are_closed_in_time)
{
	in_each_mode(resealing, 0, 0);
}
END_TEST

/* ----------------------------------------------------------- other handlers */

static unsigned *seen; /* a page each: before, in the parent, in the child */

static void
before_fork(void)
{
	if (seen)
		seen[0]++;
}

static void
in_parent(void)
{
	if (seen)
		seen[1024]++;
}

static void
in_child(void)
{
	if (seen)
		seen[2048]++;
}

static void
handlers(void *mode)
{
	int status;

	start_unaware(mode);
	seen = secmalloc(3 * 4096);
	MUST(seen != NULL);
	for (unsigned i = 1; i <= 20; i++) {
		pid_t child = fork();

		if (child == 0) {
			MUST(seen[2048] == 1 && seen[1024] == i - 1);
			_exit(0);
		}
		MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
		MUST(seen[0] == i && seen[1024] == i && seen[2048] == 0);
	}
	MUST(secmalloc_encrypt_all() == 0 && seen[0] == 20);
}

START_TEST(handlers_that_come_between_ours_may_touch_it)
{
	ck_assert_int_eq(pthread_atfork(before_fork, in_parent, in_child), 0); /* ours are inside */
	in_each_mode(handlers, 0, 0);
}
END_TEST

/* ----------------------------------------------------------- SIGSEGV itself */

static _Atomic unsigned caught;
static unsigned char *barred;

static void
opens(int signal)
{
	(void)signal;
	caught++;
	mprotect(barred, 4096, PROT_READ | PROT_WRITE);
}

static void *
faults(void *arg)
{
	while (!over) {
		mprotect(barred, 4096, PROT_NONE);
		*(volatile unsigned char *)barred = 1;
	}
	return arg;
}

static void
own_faults(void *mode)
{
	struct sigaction a = { .sa_handler = opens }, now;
	unsigned char *p;
	pthread_t t;

	start_unaware(mode);
	barred = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(barred != MAP_FAILED && sigaction(SIGSEGV, &a, NULL) == 0);
	p = secmalloc(10000);
	MUST(p && pthread_create(&t, NULL, faults, NULL) == 0);
	for (unsigned i = 0; i < 50; i++) {
		pid_t child = fork();
		int status;

		if (child == 0) {
			MUST(sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_handler == opens);
			MUST(p[5000] == 0);
			_exit(0);
		}
		MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
	}
	over = true;
	MUST(pthread_join(t, NULL) == 0 && caught > 0);
	MUST(sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_handler == opens);
}

START_TEST(the_programs_own_SIGSEGV_is_its_own)
{
	in_each_mode(own_faults, 0, 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("keep, unaware");
	TCase *tc = tcase_create("unaware");

	tcase_set_timeout(tc, 120);
	suite_add_tcase(s, tc);
	tcase_add_test(tc, a_program_of_one_thread_forks_with_files_in_such_memory);
	tcase_add_test(tc, a_program_of_several_threads_does);
	tcase_add_test(tc, and_while_another_thread_writes_to_them);
	tcase_add_test(tc, and_with_every_signal_blocked);
	tcase_add_test(tc, and_with_its_stack_for_signals_in_such_memory);
	tcase_add_test(tc, and_while_pages_are_closed_in_time);
	tcase_add_test(tc, handlers_that_come_between_ours_may_touch_it);
	tcase_add_test(tc, the_programs_own_SIGSEGV_is_its_own);
	return run_rooms(s);
}
