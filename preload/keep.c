/*
 * keep.c - what the program must not take from us: descriptors, and locks on pages
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Programs close descriptors that they did not open, all there are; without ours the kernel would
 * show zeros where a page is closed. And whoever undoes all locks undoes those of clear pages, and
 * a page can only be moved between places that are locked, and protected, alike. What madvise(2) says
 * of the heap is heeded where the program can see it: elsewhere it would undo what was said of it
 * before.
 */
#include "inside.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

enum { OURS = sizeof(sm_host.descriptors) / sizeof(sm_host.descriptors[0]) };

int close_range(unsigned first, unsigned last, int flags);
void closefrom(int first);
int dup3(int from, int to, int flags);

static struct {
	int (*close)(int);
	int (*dup2)(int, int);
	int (*dup3)(int, int, int);
	_Atomic bool found;
} real;

void
sm_keep_begin(void)
{
	if (atomic_load(&real.found))
		return;
	*(void **)&real.close = dlsym(RTLD_NEXT, "close");
	*(void **)&real.dup2 = dlsym(RTLD_NEXT, "dup2");
	*(void **)&real.dup3 = dlsym(RTLD_NEXT, "dup3");
	atomic_store(&real.found, true);
}

/* The smallest of ours from there on, or UINT_MAX. */
static unsigned
next_of_ours(unsigned from)
{
	unsigned next = UINT_MAX;

	for (int i = 0; i < OURS; i++) {
		int fd = atomic_load(&sm_host.descriptors[i]) - 1;

		if (fd >= 0 && (unsigned)fd >= from && (unsigned)fd < next)
			next = (unsigned)fd;
	}
	return next;
}

static bool
is_ours(int fd)
{
	return fd >= 0 && next_of_ours((unsigned)fd) == (unsigned)fd;
}

/* -------------------------------------------------------------- descriptors */

SM_SHOWN int
close(int fd)
{
	sm_keep_begin();
	if (!is_ours(fd))
		return real.close(fd);
	errno = EBADF;
	return -1;
}

SM_SHOWN int
dup2(int from, int to)
{
	sm_keep_begin();
	if (!is_ours(to))
		return real.dup2(from, to);
	errno = EBUSY;
	return -1;
}

SM_SHOWN int
dup3(int from, int to, int flags)
{
	sm_keep_begin();
	if (!is_ours(to))
		return real.dup3(from, to, flags);
	errno = EBUSY;
	return -1;
}

/* Around ours. */
SM_SHOWN int
close_range(unsigned first, unsigned last, int flags)
{
	unsigned ours;

	while ((ours = next_of_ours(first)) <= last && ours != UINT_MAX) {
		if (ours > first && syscall(SYS_close_range, first, ours - 1, flags))
			return -1;
		first = ours + 1;
	}
	return first <= last ? (int)syscall(SYS_close_range, first, last, flags) : 0;
}

SM_SHOWN void
closefrom(int first)
{
	long most = sysconf(_SC_OPEN_MAX);

	if (first < 0)
		first = 0;
	if (close_range((unsigned)first, UINT_MAX, 0) == 0)
		return;
	for (int fd = first; fd < most; fd++)
		(void)close(fd);
}

/* -------------------------------------------------------------------- locks */

bool
sm_keep_is_heap(const void *at, size_t n)
{
	bool (*meets)(const void *, size_t) = atomic_load(&sm_host.meets);

	return n > 0 && (sm_early_meets(at, n) || (meets && meets(at, n)));
}

/* The heap stays locked, whatever else is. */
SM_SHOWN int
munlock(const void *at, size_t n)
{
	return sm_keep_is_heap(at, n) ? 0 : (int)syscall(SYS_munlock, at, n);
}

/* It would undo ours as well, and nobody knows what the program has locked. */
SM_SHOWN int
munlockall(void)
{
	return 0;
}

/* As pages come: to bring in those that are closed would open them all. */
SM_SHOWN int
mlockall(int flags)
{
	return (int)syscall(SYS_mlockall, flags | MCL_ONFAULT);
}

/* ------------------------------------------------------- advice and protection */

int __wrap_madvise(void *at, size_t n, int advice);
int __wrap_mprotect(void *at, size_t n, int access);

/* The library's own calls come here: see Makefile.am. */
int
__wrap_madvise(void *at, size_t n, int advice)
{
	return (int)syscall(SYS_madvise, at, n, advice);
}

/* Pages that come and go in a fork by our own rules can't be kept from a child or wiped there by the
 * program's, nor given guards of its own. The kernel says EINVAL too where it can't. */
static bool
cannot_heed(int advice)
{
	return advice == MADV_DONTFORK || advice == MADV_WIPEONFORK || advice == MADV_REMOVE ||
		advice >= MADV_HWPOISON; /* and the guards of Linux 6.13 */
}

SM_SHOWN int
madvise(void *at, size_t n, int advice)
{
	bool (*forget)(void *, size_t) = atomic_load(&sm_host.forget);
	bool drops = advice == MADV_DONTNEED || advice == MADV_DONTNEED_LOCKED ||
		advice == MADV_FREE;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (forget && (uintptr_t)at % page == 0 && n <= PTRDIFF_MAX && forget(at, drops ? n : 0)) {
		if (!cannot_heed(advice))
			return 0;
		errno = EINVAL;
		return -1;
	}
	return __wrap_madvise(at, n, advice);
}

int
__wrap_mprotect(void *at, size_t n, int access)
{
	return (int)syscall(SYS_mprotect, at, n, access);
}

/* A page that is protected otherwise could be closed no more, nor opened. */
SM_SHOWN int
mprotect(void *at, size_t n, int access)
{
	if (!sm_keep_is_heap(at, n))
		return __wrap_mprotect(at, n, access);
	if (access == (PROT_READ | PROT_WRITE))
		return 0;
	errno = EACCES;
	return -1;
}
