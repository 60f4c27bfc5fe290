/*
 * check_keep_faults.c - each system call of a FORK_KEEP fork is made to fail once, at each place in
 * turn, in the parent and in the child
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Linked with --wrap of ioctl and pthread_create too.
 */
#include "injected.h"
#include "keep.h"
#include "marker.h"
#include "smaps.h"
#include <pthread.h>

static const struct injection {
	const char *name;
	enum call call;
	int error;
} INJECTIONS[] = {
	{ "mmap", MMAP, ENOMEM }, { "mlock", MLOCK, ENOMEM }, { "mlock", MLOCK, EPERM },
	{ "mlock2", MLOCK2, ENOMEM }, { "munlock", MUNLOCK, ENOMEM }, { "mprotect", MPROTECT, ENOMEM },
	{ "mprotect", MPROTECT, EACCES }, { "madvise", MADVISE, EINVAL },
	{ "madvise", MADVISE, ENOMEM }, { "mremap", MREMAP, ENOMEM },
	{ "ftruncate", FTRUNCATE, ENOMEM }, { "memfd_secret", MEMFD_SECRET, EMFILE },
	{ "getrandom", GETRANDOM, ENOSYS }, { "pthread_create", THREAD, EAGAIN },
	{ "ioctl", IOCTL, ENOMEM }, { "ioctl", IOCTL, EBUSY }, { "userfaultfd", USERFAULTFD, EMFILE },
};

enum { N_INJECTIONS = sizeof(INJECTIONS) / sizeof(INJECTIONS[0]), PLACES_MOST = 400 };
enum { KEPT = 10, TOLD = 11, NO_SUCH_PLACE = 12 }; /* exit statuses */

int __real_ioctl(int, unsigned long, ...);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_ioctl(int, unsigned long, ...);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *p;

	va_start(ap, request);
	p = va_arg(ap, void *);
	va_end(ap);
	return fails(IOCTL) ? -1 : __real_ioctl(fd, request, p);
}

int
__wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
	return fails(THREAD) ? armed.error : __real_pthread_create(t, a, f, arg);
}

/* ----------------------------------------------------------- the handlers */

static struct {
	const struct injection *what;
	long place;
	int in_child;
} plan;

static void
arm(int in_child)
{
	if (plan.what == NULL || plan.in_child != in_child)
		return;
	armed.call = plan.what->call;
	armed.error = plan.what->error;
	armed.hit = 0;
	armed.countdown = plan.place;
}

static void
disarm(void)
{
	armed.countdown = 0;
}

/* Registered before the library's: last of all to prepare, first of all afterwards. */
static void
first_in_child(void)
{
	disarm();
	arm(1);
}

/* Registered after the library's: first of all to prepare, last of all afterwards. */
static void
first_to_prepare(void)
{
	arm(0);
}

/* ----------------------------------------------------------- the scenario */

static unsigned char *marked;
static bool transparent;

static void
start(unsigned without)
{
	struct secmalloc_config c = keep_config(without);

	ck_assert_int_eq(pthread_atfork(NULL, disarm, first_in_child), 0);
	c.reseal_ms = 1000000;
	if (transparent) {
		c.flags = SECMALLOC_TRANSPARENT;
		c.clear_limit = 32 * 4096;
		for (unsigned i = 0; i < N_HEIRLOOMS; i++)
			heirlooms[i].access = RW;
	}
	start_with(&c);
	ck_assert_int_eq(pthread_atfork(first_to_prepare, disarm, disarm), 0);
	make_heirlooms();
	marked = secmalloc(20000);
	plant_marker(marked);
	ck_assert_int_eq(secmalloc_rekey(), 0);
}

static bool
is_locked(const struct smaps *m, void *unused)
{
	(void)unused;
	return smaps_hidden(m) || smaps_flag(m, "lo");
}

/* A sanitizer's own memory cannot be searched. */
static bool
markers_are(size_t n)
{
	return SANITIZED || markers_in_memory() == n;
}

/** tell - in the child: all of it, or nothing and the word that it is so; never a bit of it */
static void
tell(void)
{
	int status;

	if (secmalloc_owns(heirlooms[4].p)) {
		heirlooms_are_whole();
		MUST(is_marker(marked) && (transparent || markers_are(1)));
		MUST(secmalloc_encrypt_all() == 0 && secmalloc_rekey() == 0);
		status = KEPT;
	} else {
		MUST(markers_are(0));
		MUST(!smaps_each(is_locked, NULL)); /* keys would be there */
		MUST_FAIL(ENOMEM, -1, secmalloc_encrypt(heirlooms[4].p));
		MUST(strstr(secmalloc_error(), "could not be kept") != NULL);
		has_nothing();
		status = TOLD;
	}
	MUST(secmalloc_term() == 0 && secmalloc(10) != NULL);
	_exit(armed.hit || !plan.in_child ? status : NO_SUCH_PLACE);
}

/** one_fork - answers what the child told */
static int
one_fork(void)
{
	const size_t locked = stats_now().locked_bytes, unnamed = smaps_unnamed_bytes();
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_msg(pid >= 0, "errno %d", errno);
	if (pid == 0) {
		alarm(20);
		tell();
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) >= KEPT &&
			WEXITSTATUS(status) <= NO_SUCH_PLACE,
		"%s errno %d, place %ld in the %s: status 0x%x", plan.what->name, plan.what->error,
		plan.place, plan.in_child ? "child" : "parent", (unsigned)status);
	ck_assert_uint_eq(stats_now().locked_bytes, locked);
	ck_assert_uint_eq(smaps_unnamed_bytes(), unnamed);
	if (!plan.in_child && !armed.hit)
		return NO_SUCH_PLACE;
	return WEXITSTATUS(status);
}

static void
parent_is_whole(void)
{
	for (unsigned i = 0; i < N_HEIRLOOMS; i++) {
		const struct heirloom *h = &heirlooms[i];

		ck_assert_msg(h->size == 0 || access_is(h->p, h->access),
			"chunk %u lost its protection: %s errno %d, place %ld", i, plan.what->name,
			plan.what->error, plan.place);
		ck_assert(h->manner == CLOSED || h->access == SECMALLOC_NOACCESS ||
			filled(h->p, h->size, i));
	}
	ck_assert(is_marker(marked));
}

static void
every_place(int i, int in_child, unsigned without)
{
	int told, kept = 0, wiped = 0;

	start(without);
	plan.what = &INJECTIONS[i];
	plan.in_child = in_child;
	plan.place = 1;
	while ((told = one_fork()) != NO_SUCH_PLACE && plan.place < PLACES_MOST) {
		kept += told == KEPT;
		wiped += told == TOLD;
		parent_is_whole();
		plan.place++;
	}
	ck_assert_int_eq(told, NO_SUCH_PLACE);
	printf("%s errno %d in the %s: %d places, %d kept, %d had nothing\n", plan.what->name,
		plan.what->error, in_child ? "child" : "parent", kept + wiped, kept, wiped);
	plan.what = NULL;
	term();
}

START_TEST(a_call_that_fails_in_the_child_leaves_all_or_nothing)
{
	every_place(_i, 1, 0);
}
END_TEST

START_TEST(a_call_that_fails_in_the_child_leaves_all_or_nothing_without_hidden)
{
	every_place(_i, 1, SECMALLOC_HIDDEN);
}
END_TEST

START_TEST(a_call_that_fails_in_the_parent_costs_it_nothing)
{
	every_place(_i, 0, 0);
}
END_TEST

START_TEST(a_call_that_fails_in_the_parent_costs_it_nothing_without_hidden)
{
	every_place(_i, 0, SECMALLOC_HIDDEN);
}
END_TEST

static void
starts(void *arg)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	(void)arg;
	c.flags = SECMALLOC_TRANSPARENT;
	MUST(secmalloc_init(&c) == 0 && stats_now().mode == 1);
}

/** pages_are_watched - whether transparent mode works here, by a thread; asked in a child, as our
 * handlers must come before the library's */
static bool
pages_are_watched(void)
{
	transparent = !SANITIZED && outcome_of(starts, NULL).status == 0;
	return transparent;
}

START_TEST(in_transparent_mode_a_child_has_all_or_nothing_too)
{
	if (pages_are_watched())
		every_place(_i, 1, 0);
}
END_TEST

START_TEST(in_transparent_mode_it_costs_the_parent_nothing_too)
{
	if (pages_are_watched())
		every_place(_i, 0, 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("keep, faults");
	TCase *tc = add_case(s, "injected", 0);

	tcase_set_timeout(tc, 300); /* hundreds of forks each */
	tcase_add_loop_test(
		tc, a_call_that_fails_in_the_child_leaves_all_or_nothing, 0, N_INJECTIONS);
	tcase_add_loop_test(tc,
		a_call_that_fails_in_the_child_leaves_all_or_nothing_without_hidden, 0,
		N_INJECTIONS);
	tcase_add_loop_test(tc, a_call_that_fails_in_the_parent_costs_it_nothing, 0, N_INJECTIONS);
	tcase_add_loop_test(tc, a_call_that_fails_in_the_parent_costs_it_nothing_without_hidden, 0,
		N_INJECTIONS);
	tcase_add_loop_test(tc, in_transparent_mode_a_child_has_all_or_nothing_too, 0, N_INJECTIONS);
	tcase_add_loop_test(tc, in_transparent_mode_it_costs_the_parent_nothing_too, 0,
		N_INJECTIONS);
	return run(s);
}
