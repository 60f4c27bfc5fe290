/*
 * injected.h - system calls that fail when they are told to; for programs linked with injected_wraps
 * (Makefile.am), so that the library's own calls come here and nobody else's do
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_INJECTED_H
#define TESTS_INJECTED_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

enum call { MMAP, MLOCK, MLOCK2, MUNLOCK, MPROTECT, MADVISE, MREMAP, FTRUNCATE, MEMFD_SECRET, GETRANDOM,
	THREAD, IOCTL, USERFAULTFD, REGISTER, MOVE, OPEN_FILE, OPENAT, FALLOCATE, WRITE, READ };

static struct {
	enum call call;
	int error;
	long countdown; /* 1: the next one fails; 0: not armed; -1: each one fails */
	bool hit, part; /* it failed; a write does a part before it does */
} armed;

/** special - what a test does beside; true: the call has been made, and this is its answer */
static bool (*special)(long nr, const long a[6], long *answer);

static inline bool
fails(enum call c)
{
	if (armed.countdown == 0 || armed.call != c || (armed.countdown > 0 && --armed.countdown))
		return false;
	armed.hit = true;
	errno = armed.error;
	return true;
}

void *__real_mmap(void *, size_t, int, int, int, off_t);
int __real_mprotect(void *, size_t, int);
int __real_madvise(void *, size_t, int);
void *__real_mremap(void *, size_t, size_t, int, ...);
int __real_ftruncate(int, off_t);
long __real_syscall(long, ...);
ssize_t __real_getrandom(void *, size_t, unsigned);
void *__wrap_mmap(void *, size_t, int, int, int, off_t);
int __wrap_mprotect(void *, size_t, int);
int __wrap_madvise(void *, size_t, int);
void *__wrap_mremap(void *, size_t, size_t, int, ...);
int __wrap_ftruncate(int, off_t);
long __wrap_syscall(long, ...);
ssize_t __wrap_getrandom(void *, size_t, unsigned);

void *
__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t off)
{
	return fails(MMAP) ? MAP_FAILED : __real_mmap(a, n, prot, flags, fd, off);
}

int
__wrap_mprotect(void *a, size_t n, int prot)
{
	return fails(MPROTECT) ? -1 : __real_mprotect(a, n, prot);
}

int
__wrap_madvise(void *a, size_t n, int what)
{
	return fails(MADVISE) ? -1 : __real_madvise(a, n, what);
}

void *
__wrap_mremap(void *a, size_t n, size_t m, int flags, ...)
{
	va_list ap;
	void *to;

	va_start(ap, flags);
	to = va_arg(ap, void *);
	va_end(ap);
	return fails(MREMAP) ? MAP_FAILED : __real_mremap(a, n, m, flags, to);
}

int
__wrap_ftruncate(int fd, off_t n)
{
	return fails(FTRUNCATE) ? -1 : __real_ftruncate(fd, n);
}

ssize_t
__wrap_getrandom(void *p, size_t n, unsigned flags)
{
	return fails(GETRANDOM) ? -1 : __real_getrandom(p, n, flags);
}

static inline bool
syscall_fails(long nr)
{
	static const struct {
		long nr;
		enum call call;
	} calls[] = { { SYS_memfd_secret, MEMFD_SECRET }, { SYS_mlock, MLOCK }, { SYS_mlock2, MLOCK2 },
		{ SYS_munlock, MUNLOCK }, { SYS_userfaultfd, USERFAULTFD }, { SYS_pwritev, WRITE },
		{ SYS_preadv, READ } };

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].nr == nr)
			return fails(calls[i].call);
	return false;
}

long
__wrap_syscall(long nr, ...)
{
	long a[6], answer;
	va_list ap;

	va_start(ap, nr);
	for (size_t i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (special && special(nr, a, &answer))
		return answer;
	return syscall_fails(nr) ? -1 : __real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#endif /* TESTS_INJECTED_H */
