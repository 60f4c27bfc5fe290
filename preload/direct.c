/*
 * direct.c - reads and writes past the page cache, of more than may be clear at once
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Where a file is open with O_DIRECT the kernel keeps the pages of a whole call in use while the disk
 * has them, and they cannot close to let others open. So such a call on the heap is made in parts,
 * each of a quarter of the clear set, and answers as one.
 */
#include "inside.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
	ssize_t (*read)(int, void *, size_t);
	ssize_t (*write)(int, const void *, size_t);
	ssize_t (*pread)(int, void *, size_t, off64_t);
	ssize_t (*pwrite)(int, const void *, size_t, off64_t);
	_Atomic bool found;
} real;

static _Atomic size_t part_bytes; /* 0: the heap is not there yet */

static void
find_all(void)
{
	if (atomic_load_explicit(&real.found, memory_order_acquire))
		return;
	*(void **)&real.read = dlsym(RTLD_NEXT, "read");
	*(void **)&real.write = dlsym(RTLD_NEXT, "write");
	*(void **)&real.pread = dlsym(RTLD_NEXT, "pread64");
	*(void **)&real.pwrite = dlsym(RTLD_NEXT, "pwrite64");
	atomic_store(&real.found, true);
}

void
sm_direct_begin(size_t clear_bytes)
{
	enum { CLEAR_LEAST = 128 << 10, CLEAR_DEFAULT = 1 << 20, PARTS = 4, BLOCK = 4096 };
	size_t clear = clear_bytes ? clear_bytes : CLEAR_DEFAULT;

	find_all(); /* now, and not in a handler that interrupts the dynamic linker */
	atomic_store(&part_bytes, (clear < CLEAR_LEAST ? CLEAR_LEAST : clear) / PARTS &
		~(size_t)(BLOCK - 1));
}

/* How much of it is for one call. */
static size_t
part_of(int fd, uintptr_t p, size_t n)
{
	size_t part = atomic_load_explicit(&part_bytes, memory_order_relaxed);
	int kept = errno, flags;

	if (SM_LIKELY(part == 0 || n <= part) || !sm_keep_is_heap((void *)p, n))
		return n;
	flags = fcntl(fd, F_GETFL);
	errno = kept;
	return flags >= 0 && flags & O_DIRECT ? part : n;
}

enum way { READ, WRITE, PREAD, PWRITE };

static ssize_t
once(enum way way, int fd, uintptr_t p, size_t n, off64_t at)
{
	switch (way) {
	case READ:
		return real.read(fd, (void *)p, n);
	case WRITE:
		return real.write(fd, (void *)p, n);
	case PREAD:
		return real.pread(fd, (void *)p, n, at);
	default:
		return real.pwrite(fd, (void *)p, n, at);
	}
}

/* An error behind a part that went well comes with the next call. */
static ssize_t
in_parts(enum way way, int fd, uintptr_t p, size_t n, off64_t at)
{
	size_t part = part_of(fd, p, n), done = 0, now;
	ssize_t r;

	find_all();
	do {
		now = sm_min_size(part, n - done);
		r = once(way, fd, p + done, now, at + (off64_t)done);
		done += r > 0 ? (size_t)r : 0;
	} while (r > 0 && (size_t)r == now && done < n);
	return done > 0 ? (ssize_t)done : r;
}

SM_SHOWN ssize_t
read(int fd, void *p, size_t n)
{
	return in_parts(READ, fd, (uintptr_t)p, n, 0);
}

SM_SHOWN ssize_t
write(int fd, const void *p, size_t n)
{
	return in_parts(WRITE, fd, (uintptr_t)p, n, 0);
}

SM_SHOWN ssize_t
pread64(int fd, void *p, size_t n, off64_t at)
{
	return in_parts(PREAD, fd, (uintptr_t)p, n, at);
}

SM_SHOWN ssize_t
pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	return in_parts(PWRITE, fd, (uintptr_t)p, n, at);
}

SM_SHOWN ssize_t
pread(int fd, void *p, size_t n, off_t at)
{
	return in_parts(PREAD, fd, (uintptr_t)p, n, at);
}

SM_SHOWN ssize_t
pwrite(int fd, const void *p, size_t n, off_t at)
{
	return in_parts(PWRITE, fd, (uintptr_t)p, n, at);
}

/* Programs compiled with _FORTIFY_SOURCE call these where the room for n bytes is known. */
ssize_t __read_chk(int fd, void *p, size_t n, size_t room);
ssize_t __pread_chk(int fd, void *p, size_t n, off_t at, size_t room);
ssize_t __pread64_chk(int fd, void *p, size_t n, off64_t at, size_t room);

/* The C library says so, and ends the program. */
static void
check_room(size_t n, size_t room)
{
	void (*fail)(void);

	if (SM_LIKELY(n <= room))
		return;
	*(void **)&fail = dlsym(RTLD_NEXT, "__chk_fail");
	if (fail)
		fail();
	abort();
}

SM_SHOWN ssize_t
__read_chk(int fd, void *p, size_t n, size_t room)
{
	check_room(n, room);
	return in_parts(READ, fd, (uintptr_t)p, n, 0);
}

SM_SHOWN ssize_t
__pread_chk(int fd, void *p, size_t n, off_t at, size_t room)
{
	check_room(n, room);
	return in_parts(PREAD, fd, (uintptr_t)p, n, at);
}

SM_SHOWN ssize_t
__pread64_chk(int fd, void *p, size_t n, off64_t at, size_t room)
{
	check_room(n, room);
	return in_parts(PREAD, fd, (uintptr_t)p, n, at);
}

/* The library's own calls come here, as threads make them that the C library does not know. */
ssize_t __wrap_read(int fd, void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);

ssize_t
__wrap_read(int fd, void *p, size_t n)
{
	return syscall(SYS_read, fd, p, n);
}

ssize_t
__wrap_write(int fd, const void *p, size_t n)
{
	return syscall(SYS_write, fd, p, n);
}
