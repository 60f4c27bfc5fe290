/*
 * lifeline.c - pipes that never carry data: when the other end closes, the kernel kills who has
 * armed this one, even a process that is stopped
 */
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { AWAITED_MOST = 8 };

static int
set_async(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return errno;
	flags = on ? flags | O_ASYNC : flags & ~O_ASYNC;
	return fcntl(fd, F_SETFL, flags) ? errno : 0;
}

int
sm_wire_arm(int fd)
{
	struct pollfd p = { .fd = fd };
	int e;

	if (fcntl(fd, F_SETSIG, SIGKILL) || fcntl(fd, F_SETOWN, getpid()))
		return errno;
	e = set_async(fd, true);
	if (e == 0 && poll(&p, 1, 0) > 0) /* it has closed before */
		e = EPIPE;
	return e;
}

void
sm_wire_disarm(int fd)
{
	(void)set_async(fd, false);
	(void)fcntl(fd, F_SETSIG, 0);
}

/* Not by poll, which knows of cancellation: the thread may be one that the C library does not. */
int
sm_wire_await(const int *fds, size_t n, unsigned ms, unsigned *readable)
{
	struct pollfd p[AWAITED_MOST];
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };
	long got;

	*readable = 0;
	if (n > AWAITED_MOST)
		return EINVAL;
	for (size_t i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	do /* the kernel stores in t what is left of it */
		got = syscall(SYS_ppoll, p, n, ms ? &t : NULL, NULL, 0);
	while (got < 0 && errno == EINTR);
	if (got <= 0)
		return got < 0 ? errno : ETIMEDOUT;
	for (size_t i = 0; i < n; i++)
		if (p[i].revents)
			*readable |= 1u << i;
	return 0;
}
