/* Where there are no packets with descriptors of a known sender: no daemon. */
#include "wire/wire.h"

#include <errno.h>

int
sm_wire_path(const char *path, char *to, size_t bytes)
{
	(void)path;
	if (bytes)
		*to = '\0';
	return ENOTSUP;
}

int
sm_wire_listen(const char *path, int *fd)
{
	(void)path;
	*fd = -1;
	return ENOTSUP;
}

int
sm_wire_accept(int fd, int *client, struct sm_wire_peer *peer)
{
	(void)fd, (void)peer;
	*client = -1;
	return ENOTSUP;
}

int
sm_wire_connect(const char *path, int *fd)
{
	(void)path;
	*fd = -1;
	return ENOTSUP;
}

int
sm_wire_send(int fd, const struct sm_wire_message *m, const int *fds, size_t nfds)
{
	(void)fd, (void)m, (void)fds, (void)nfds;
	return ENOTSUP;
}

int
sm_wire_receive(int fd, struct sm_wire_message *m, struct sm_wire_from *from)
{
	(void)fd, (void)m;
	*from = (struct sm_wire_from){ 0 };
	return ENOTSUP;
}

void
sm_wire_close_fds(struct sm_wire_from *from)
{
	(void)from;
}

int
sm_wire_arm(int fd)
{
	(void)fd;
	return ENOTSUP;
}

void
sm_wire_disarm(int fd)
{
	(void)fd;
}

int
sm_wire_await(const int *fds, size_t n, unsigned ms, unsigned *readable)
{
	(void)fds, (void)n, (void)ms;
	*readable = 0;
	return ENOTSUP;
}
