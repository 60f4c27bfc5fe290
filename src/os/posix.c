/* For kernels without a file of their own: plain POSIX, and the truth about what that lacks. */
#include "os/inside.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

int
sm_sys_hidden(void *at, size_t bytes)
{
	(void)at;
	(void)bytes;
	return ENOTSUP;
}

void
sm_sys_close_strays(void)
{
}

bool
sm_sys_hibernates(void)
{
	return false;
}

size_t
sm_sys_map_limit(void)
{
	return SIZE_MAX;
}

int
sm_sys_nodump(void *p, size_t n)
{
	(void)p;
	(void)n;
	return ENOTSUP;
}

int
sm_sys_lock(const void *p, size_t n)
{
	return mlock(p, n) ? errno : 0;
}

int
sm_sys_lock_later(const void *p, size_t n)
{
	(void)p, (void)n;
	return ENOTSUP;
}

int
sm_sys_unlock(const void *p, size_t n)
{
	return munlock(p, n) ? errno : 0;
}

int
sm_sys_mark(void *p, size_t n)
{
	(void)p;
	(void)n;
	return ENOTSUP;
}

int
sm_sys_unmark(void *p, size_t n)
{
	(void)p;
	(void)n;
	return ENOTSUP;
}

int
sm_sys_wipe_on_fork(void *p, size_t n)
{
	(void)p;
	(void)n;
	return ENOTSUP;
}

int
sm_sys_absent_in_fork(void *p, size_t n)
{
	(void)p;
	(void)n;
	return ENOTSUP;
}

int
sm_sys_touch(void *p, size_t n)
{
	for (size_t at = 0; at < n; at += sm_os_page_bytes())
		((volatile unsigned char *)p)[at] = 0;
	return 0;
}

/* No mremap in POSIX: the pages are still untouched, so new ones at the other place serve. */
int
sm_sys_move(void *from, size_t n, void *to)
{
	munmap(from, n);
	if (mmap(to, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
		MAP_FAILED)
		return errno;
	return sm_sys_lock(to, n);
}

bool
sm_sys_may_lock(size_t n)
{
	(void)n;
	return false;
}

int
sm_sys_random(void *p, size_t n)
{
	unsigned char *at = p;

	for (; n > 0; n -= sm_min_size(n, 256), at += 256)
		if (getentropy(at, sm_min_size(n, 256)) < 0)
			return errno;
	return 0;
}

int
sm_sys_undumpable(void)
{
	return ENOTSUP;
}

long
sm_sys_read(int fd, void *p, size_t n)
{
	return (long)read(fd, p, n);
}

long
sm_sys_read_at(int fd, void *p, size_t n, uint64_t at)
{
	return (long)pread(fd, p, n, (off_t)at);
}

long
sm_sys_write_at(int fd, const void *p, size_t n, uint64_t at)
{
	return (long)pwrite(fd, p, n, (off_t)at);
}

int
sm_sys_nameless(int folder)
{
	(void)folder;
	errno = ENOTSUP;
	return -1;
}

int
sm_sys_allocate(int fd, uint64_t at, uint64_t n)
{
	(void)fd;
	(void)at;
	(void)n;
	return ENOTSUP;
}

void
sm_sys_deallocate(int fd, uint64_t at, uint64_t n)
{
	(void)fd;
	(void)at;
	(void)n;
}

int
sm_sys_barrier(void)
{
	return ENOTSUP;
}

_Static_assert(sizeof(sigset_t) <= sizeof(struct sm_mask), "a set of signals fits");

void
sm_sys_mask(const struct sm_mask *m, struct sm_mask *before)
{
	pthread_sigmask(SIG_SETMASK, (const sigset_t *)(const void *)m->bits,
		before ? (sigset_t *)(void *)before->bits : NULL);
}
