/*
 * check_store_faults.c - each system call of transparent mode with a store_dir is made to fail
 * once, at each place in turn, with userfaultfd and without; a disk that fails later; and the copy
 * of the file that a child gets
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Linked with --wrap of open, openat, fallocate and ioctl too.
 */
#include "injected.h"
#include "rooms.h"
#include "fault/inside.h"
#include "smaps.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#ifndef UFFDIO_MOVE
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, uint64_t[5])
#endif

static const struct injection {
	const char *name;
	enum call call;
	int error;
} INJECTIONS[] = {
	{ "mmap", MMAP, ENOMEM }, { "mremap", MREMAP, ENOMEM }, { "mremap", MREMAP, EAGAIN },
	{ "memfd_secret", MEMFD_SECRET, ENOSYS }, { "mprotect", MPROTECT, ENOMEM },
	{ "madvise", MADVISE, ENOMEM }, { "madvise", MADVISE, EINVAL },
	{ "open", OPEN_FILE, EMFILE }, { "open", OPEN_FILE, EACCES },
	{ "openat", OPENAT, EOPNOTSUPP }, { "openat", OPENAT, EMFILE }, { "fallocate", FALLOCATE, ENOSPC },
	{ "fallocate", FALLOCATE, EOPNOTSUPP }, { "fallocate", FALLOCATE, EINTR },
	{ "userfaultfd", USERFAULTFD, EPERM }, { "UFFDIO_REGISTER", REGISTER, ENOMEM },
	{ "UFFDIO_MOVE", MOVE, EBUSY }, { "mlock2", MLOCK2, ENOMEM }, { "pwritev", WRITE, EIO },
	{ "pwritev", WRITE, EINTR }, { "preadv", READ, EIO }, { "preadv", READ, EINTR },
};

enum { N_INJECTIONS = sizeof(INJECTIONS) / sizeof(INJECTIONS[0]), PLACES_MOST = 2000 };
enum { BORNE = 10, NO_SUCH_PLACE = 11 }; /* exit statuses */

static bool by_slots; /* userfaultfd is not there at all */

int __real_open(const char *, int, ...);
int __real_openat(int, const char *, int, ...);
int __real_fallocate(int, int, off_t, off_t);
int __real_ioctl(int, unsigned long, ...);
int __wrap_open(const char *, int, ...);
int __wrap_openat(int, const char *, int, ...);
int __wrap_fallocate(int, int, off_t, off_t);
int __wrap_ioctl(int, unsigned long, ...);

int
__wrap_open(const char *path, int flags, ...)
{
	if (by_slots && strcmp(path, "/dev/userfaultfd") == 0) {
		errno = EACCES;
		return -1;
	}
	return fails(OPEN_FILE) ? -1 : __real_open(path, flags);
}

int
__wrap_openat(int fd, const char *path, int flags, ...)
{
	return fails(OPENAT) ? -1 : __real_openat(fd, path, flags, 0600);
}

int
__wrap_fallocate(int fd, int mode, off_t at, off_t n)
{
	return mode == 0 && fails(FALLOCATE) ? -1 : __real_fallocate(fd, mode, at, n);
}

int
__wrap_ioctl(int fd, unsigned long what, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, what);
	arg = va_arg(ap, void *);
	va_end(ap);
	if ((what == UFFDIO_REGISTER && fails(REGISTER)) || (what == UFFDIO_MOVE && fails(MOVE)))
		return -1;
	return __real_ioctl(fd, what, arg);
}

/* As a disk that is full: half is written, and then nothing. */
static long
write_half(const long a[6])
{
	struct iovec half = *(const struct iovec *)a[1];

	half.iov_len /= 2;
	armed.part = false;
	return __real_syscall(SYS_pwritev, a[0], &half, 1L, a[3], a[4]);
}

static bool
done_here(long nr, const long a[6], long *answer)
{
	if (by_slots && nr == SYS_userfaultfd) {
		errno = EPERM;
		*answer = -1;
		return true;
	}
	if (nr != SYS_pwritev || !armed.part || armed.countdown != 1)
		return false;
	*answer = write_half(a);
	return true;
}

/* ------------------------------------------------------------- the scenario */

static struct secmalloc_config
config(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = SECMALLOC_TRANSPARENT;
	c.clear_limit = 32 * PAGE;
	c.pool_size = 64 * PAGE;
	c.store_dir = ".";
	return c;
}

static int
descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	MUST(d != NULL);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void
expect_error(int e)
{
	static const int allowed[] = { EPERM, ENOMEM, ENOTSUP, EAGAIN, EIO, EMFILE, EACCES };

	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		if (e == allowed[i]) {
			MUST(strcmp(secmalloc_error(), "no error") != 0);
			return;
		}
	MUST(!"an errno value that is told");
}

/* Held while it is touched, so that an error of the disk is an errno value. */
static void
use_chunks(void)
{
	enum { N = 12 };
	unsigned char *p[N];

	for (size_t i = 0; i < N; i++) {
		p[i] = secmalloc(30000);
		if (!p[i])
			expect_error(errno);
		if (p[i] && secmalloc_hold(p[i])) {
			expect_error(errno);
			MUST(secmalloc_hold(p[i]) == 0); /* one call failed, not two */
		}
		if (p[i])
			fill(p[i], 30000, (unsigned)i);
		MUST(!p[i] || secmalloc_release(p[i]) == 0);
	}
	if (secmalloc_encrypt_all()) {
		expect_error(errno);
		MUST(secmalloc_encrypt_all() == 0);
	}
	for (size_t i = 0; i < N; i++) {
		if (p[i] && secmalloc_hold(p[i])) {
			expect_error(errno);
			MUST(secmalloc_hold(p[i]) == 0);
		}
		MUST(!p[i] || filled(p[i], 30000, (unsigned)i));
		MUST(!p[i] || secmalloc_release(p[i]) == 0);
		secfree(p[i]);
	}
}

static bool
one_run(const struct injection *i, long place)
{
	struct secmalloc_config c = config();
	size_t before = smaps_unnamed_bytes();
	int open_before = descriptors();

	armed.call = i->call;
	armed.error = i->error;
	armed.countdown = place;
	if (secmalloc_init(&c)) {
		expect_error(errno);
		armed.countdown = 0;
		MUST(smaps_unnamed_bytes() == before && descriptors() == open_before);
		MUST(secmalloc_init(&c) == 0);
	}
	use_chunks();
	armed.countdown = 0;
	MUST(secmalloc_term() == 0);
	MUST(smaps_unnamed_bytes() == before && descriptors() == open_before);
	return armed.hit;
}

static void
one_place(int i, long place)
{
	_exit(one_run(&INJECTIONS[i], place) ? BORNE : NO_SUCH_PLACE);
}

struct place {
	int injection;
	long place;
	bool by_slots;
};

static void
run_place(void *arg)
{
	const struct place *p = arg;

	by_slots = p->by_slots;
	one_place(p->injection, p->place);
}

/** is_here - and what libraries map once, they have mapped then */
static bool
is_here(unsigned mode_most)
{
	struct secmalloc_config c = config();
	bool here = secmalloc_init(&c) == 0;

	if (!here)
		ck_assert_msg(errno == ENOTSUP, "%s", secmalloc_error());
	here = here && stats_now().mode <= mode_most;
	secmalloc_term();
	if (!here || SANITIZED)
		printf("skipped: no transparent mode here\n");
	return here && !SANITIZED;
}

/** died_of_disk - the heap's own look at a page could not be answered, and it was said so */
static bool
died_of_disk(const struct outcome *o, const struct injection *i)
{
	return i->call == READ && i->error == EIO && WIFSIGNALED(o->status) &&
		WTERMSIG(o->status) == SIGABRT && strstr(o->text, "secmalloc: store:");
}

/** is_of_userfaultfd - the others, and not these, are made without it */
static bool
is_of_userfaultfd(enum call c)
{
	return c == USERFAULTFD || c == REGISTER || c == MOVE;
}

static void
every_place(int i, bool slots)
{
	struct place p = { i, 1, slots };
	struct outcome o;
	bool more;

	do {
		o = outcome_of(run_place, &p);
		more = (WIFEXITED(o.status) && WEXITSTATUS(o.status) == BORNE) ||
			died_of_disk(&o, &INJECTIONS[i]);
		ck_assert_msg(more || (WIFEXITED(o.status) && WEXITSTATUS(o.status) == NO_SUCH_PLACE),
			"%s errno %d, place %ld: 0x%x %s", INJECTIONS[i].name, INJECTIONS[i].error,
			p.place, (unsigned)o.status, o.text);
		/* after the first hundred of a kind, some */
		p.place += p.place < 100 ? 1 : 1 + p.place / 10;
	} while (more && p.place < PLACES_MOST);
	printf("%s errno %d %s: up to place %ld\n", INJECTIONS[i].name, INJECTIONS[i].error,
		slots ? "by slots" : "by userfaultfd", p.place);
	ck_assert_msg(p.place > 2 || slots == is_of_userfaultfd(INJECTIONS[i].call),
		"%s was never called: the test is void", INJECTIONS[i].name);
}

START_TEST(a_call_that_fails_is_an_errno_value_or_has_another_way)
{
	if (is_here(SM_MODE_SIGNAL))
		every_place(_i, false);
}
END_TEST

START_TEST(the_same_without_userfaultfd)
{
	if (is_here(SM_MODE_SLOTS))
		every_place(_i, true);
}
END_TEST

/* ------------------------------------------------------------ a disk that fails */

static void
disk_fails(void *unused)
{
	struct secmalloc_config c = config();
	unsigned char *p;

	(void)unused;
	MUST(secmalloc_init(&c) == 0);
	p = secmalloc(20 * PAGE);
	MUST(p != NULL);
	fill(p, 20 * PAGE, 1);
	armed.call = WRITE;
	armed.error = ENOSPC;
	armed.countdown = -1;
	MUST_FAIL(EIO, -1, secmalloc_encrypt(p));
	MUST(strstr(secmalloc_error(), "store_dir") != NULL);
	MUST(secmalloc_is_encrypted(p) == 0);
	MUST_FAIL(EIO, -1, secmalloc_encrypt_all());
	MUST(filled(p, 20 * PAGE, 1)); /* they stayed where they were */
	armed.countdown = 0;
	MUST(secmalloc_encrypt(p) == 0 && secmalloc_encrypt_all() == 0);
	MUST(stats_now().bytes_clear == 0);
	armed.call = READ;
	armed.error = EIO;
	armed.countdown = -1;
	MUST_FAIL(EIO, -1, secmalloc_decrypt(p));
	MUST_FAIL(EIO, -1, secmalloc_hold(p));
	MUST(secmalloc_is_encrypted(p) == 1);
	armed.countdown = 0;
	MUST(secmalloc_hold(p) == 0 && filled(p, 20 * PAGE, 1));
	MUST(stats_now().tampered == 0);
}

START_TEST(a_disk_that_fails_is_EIO_and_nothing_is_lost)
{
	if (is_here(SM_MODE_SLOTS))
		assert_exits_0(disk_fails, NULL);
}
END_TEST

/* A page that is on its way to another key, and of which X has a half. */
static void
half_is_written(void *unused)
{
	enum { BYTES = 60 * 4096 };
	struct secmalloc_config c = config();
	unsigned char *p;

	(void)unused;
	MUST(secmalloc_init(&c) == 0);
	p = secmalloc(BYTES);
	MUST(p != NULL);
	fill(p, BYTES, 1);
	for (long place = 1; place < 20; place += 3) {
		MUST(secmalloc_encrypt_all() == 0);
		armed.call = WRITE;
		armed.error = ENOSPC;
		armed.countdown = place;
		armed.part = true;
		MUST_FAIL(EIO, -1, secmalloc_rekey());
		MUST(armed.countdown == 0 && !armed.part);
		MUST(filled(p, BYTES, 1) && stats_now().tampered == 0);
	}
	MUST(secmalloc_rekey() == 0 && secmalloc_encrypt_all() == 0);
	MUST(stats_now().bytes_clear == 0 && filled(p, BYTES, 1));
}

START_TEST(a_page_of_which_half_is_written_is_not_lost)
{
	if (is_here(SM_MODE_SLOTS))
		assert_exits_0(half_is_written, NULL);
}
END_TEST

/* ---------------------------------------------------------------- inheritance */

static void
read_store(unsigned char *to, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		MUST(sm_store_get(&sm_engine.spans[0], i, to + i * PAGE) == 0);
}

static void
child_writes(size_t pages)
{
	static unsigned char junk[65536];

	MUST(sm_store_inherit() == 0);
	memset(junk, 0x77, PAGE);
	for (size_t i = 0; i < pages; i++)
		MUST(sm_store_put(&sm_engine.spans[0], i, junk) == 0);
	_exit(0);
}

/* As a fork that keeps everything goes: by a bare system call, without the library's handlers. */
static void
heirs(void *unused)
{
	static unsigned char before[64 * 65536], after[sizeof(before)];
	struct secmalloc_config c = config();
	size_t pages;
	unsigned char *p;
	int status, open_before;

	(void)unused;
	MUST(secmalloc_init(&c) == 0);
	p = secmalloc(20 * PAGE);
	MUST(p != NULL);
	fill(p, 20 * PAGE, 1);
	MUST(secmalloc_encrypt_all() == 0);
	open_before = descriptors();
	pages = sm_engine.spans[0].pages;
	MUST(pages * PAGE <= sizeof(before));
	MUST(sm_store_before_fork() == 0);
	read_store(before, pages);
	if (__real_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0)
		child_writes(pages);
	sm_store_after_fork();
	MUST(wait(&status) > 0 && status == 0);
	read_store(after, pages);
	MUST(memcmp(before, after, pages * PAGE) == 0);
	MUST(descriptors() == open_before);
	MUST(filled(p, 20 * PAGE, 1));
	armed.call = OPENAT;
	armed.error = EMFILE;
	armed.countdown = -1;
	MUST(sm_store_before_fork() == EMFILE);
	if (__real_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0)
		_exit(sm_store_inherit() == ENOMEM ? 0 : 1);
	MUST(wait(&status) > 0 && status == 0);
	MUST(descriptors() == open_before);
}

START_TEST(an_heir_reads_the_same_and_never_writes_to_its_parents_file)
{
	if (is_here(SM_MODE_SLOTS))
		assert_exits_0(heirs, NULL);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("store, faults");
	TCase *tc = add_case(s, "injected", 0);

	special = done_here;
	tcase_set_timeout(tc, 240);
	tcase_add_loop_test(
		tc, a_call_that_fails_is_an_errno_value_or_has_another_way, 0, N_INJECTIONS);
	tcase_add_loop_test(tc, the_same_without_userfaultfd, 0, N_INJECTIONS);
	tcase_add_test(tc, a_disk_that_fails_is_EIO_and_nothing_is_lost);
	tcase_add_test(tc, a_page_of_which_half_is_written_is_not_lost);
	tcase_add_test(tc, an_heir_reads_the_same_and_never_writes_to_its_parents_file);
	return run(s);
}
