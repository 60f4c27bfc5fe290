#include "fault/inside.h"

#include <errno.h>

int
sm_uffd_open(enum sm_mode mode)
{
	(void)mode;
	return -1;
}

int
sm_uffd_pipe(int ends[2])
{
	(void)ends;
	return ENOTSUP;
}

int
sm_uffd_watch(int fd, void *base, size_t bytes)
{
	(void)fd, (void)base, (void)bytes;
	return ENOTSUP;
}

void
sm_uffd_unwatch(int fd, void *base, size_t bytes)
{
	(void)fd, (void)base, (void)bytes;
}

int
sm_uffd_move(int fd, void *to, void *from)
{
	(void)fd, (void)to, (void)from;
	return ENOTSUP;
}

int
sm_uffd_fill(int fd, void *to)
{
	(void)fd, (void)to;
	return ENOTSUP;
}

void
sm_uffd_wake(int fd, void *page)
{
	(void)fd, (void)page;
}

void *
sm_uffd_next(int fd, int stop)
{
	(void)fd, (void)stop;
	return NULL;
}

int
sm_uffd_lock(void *base, size_t bytes)
{
	(void)base, (void)bytes;
	return ENOTSUP;
}

void
sm_uffd_unlock(void *base, size_t bytes)
{
	(void)base, (void)bytes;
}
