/*
 * socket.c - where the socket is, who is at its other end, and packets with descriptors
 */
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

enum { BACKLOG = 128 };

/* -------------------------------------------------------------------- place */

int
sm_wire_path(const char *path, char *to, size_t bytes)
{
	const char *home = secure_getenv("XDG_RUNTIME_DIR");
	int n;

	if (path && *path)
		n = snprintf(to, bytes, "%s", path);
	else if (home && *home == '/')
		n = snprintf(to, bytes, "%s/secmalloc/daemon", home);
	else
		n = snprintf(to, bytes, "/run/user/%u/secmalloc/daemon", (unsigned)geteuid());
	if (n < 0 || (size_t)n >= bytes ||
		(size_t)n >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return ENAMETOOLONG;
	return 0;
}

static int
address_of(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	return sm_wire_path(path, a->sun_path, sizeof(a->sun_path));
}

/* The folder is the user's and nobody else's: who can put a socket there is the daemon. */
static int
own_folder(const struct sockaddr_un *a)
{
	char folder[sizeof(a->sun_path)];
	struct stat s;
	char *end;

	memcpy(folder, a->sun_path, sizeof(folder));
	end = strrchr(folder, '/');
	if (!end)
		return EACCES;
	*end = 0;
	if (mkdir(folder, S_IRWXU) && errno != EEXIST)
		return errno;
	if (lstat(folder, &s))
		return errno;
	if (!S_ISDIR(s.st_mode) || s.st_uid != geteuid() || s.st_mode & (S_IRWXG | S_IRWXO))
		return EACCES;
	return 0;
}

static int
new_socket(int flags, int *fd)
{
	*fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);
	return *fd < 0 ? errno : 0;
}

/* Of two that find a stale socket at the same time, the second must find the first's. */
static int
lock_folder(const struct sockaddr_un *a, int *guard)
{
	char folder[sizeof(a->sun_path)];
	int e = 0;

	memcpy(folder, a->sun_path, sizeof(folder));
	*strrchr(folder, '/') = 0;
	*guard = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*guard < 0)
		return errno;
	if (flock(*guard, LOCK_EX)) {
		e = errno;
		close(*guard);
	}
	return e;
}

/* Nobody listens there: the socket of a daemon that was killed. */
static int
is_stale(const struct sockaddr_un *a, bool *stale)
{
	int fd, e = new_socket(SOCK_NONBLOCK, &fd);

	if (e)
		return e;
	*stale = connect(fd, (const struct sockaddr *)a, sizeof(*a)) != 0 &&
		errno == ECONNREFUSED;
	close(fd);
	return 0;
}

static int
bind_at(int fd, const struct sockaddr_un *a)
{
	bool stale = false;
	struct stat s;
	int e;

	if (bind(fd, (const struct sockaddr *)a, sizeof(*a)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return errno;
	if (lstat(a->sun_path, &s) == 0 && !S_ISSOCK(s.st_mode))
		return EADDRINUSE;
	e = is_stale(a, &stale);
	if (e)
		return e;
	if (!stale || unlink(a->sun_path))
		return EADDRINUSE;
	return bind(fd, (const struct sockaddr *)a, sizeof(*a)) ? errno : 0;
}

/* What it accepts inherits the flag: no message comes before it. */
int
sm_wire_adopt(int fd)
{
	int type = 0, family = 0, listens = 0, on = 1;
	socklen_t n = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) ||
		getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &n) ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n))
		return errno;
	if (type != SOCK_SEQPACKET || family != AF_UNIX || !listens)
		return EINVAL;
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) || fcntl(fd, F_SETFL, O_NONBLOCK))
		return errno;
	return 0;
}

static int
listen_at(const struct sockaddr_un *a, int *fd)
{
	int e = new_socket(SOCK_NONBLOCK, fd);

	if (e)
		return e;
	e = bind_at(*fd, a);
	if (e == 0 && (chmod(a->sun_path, S_IRUSR | S_IWUSR) || listen(*fd, BACKLOG)))
		e = errno;
	if (e == 0)
		e = sm_wire_adopt(*fd);
	if (e) {
		close(*fd);
		*fd = -1;
	}
	return e;
}

int
sm_wire_listen(const char *path, int *fd)
{
	struct sockaddr_un a;
	int guard, e = address_of(path, &a);

	*fd = -1;
	if (e == 0)
		e = own_folder(&a);
	if (e == 0)
		e = lock_folder(&a, &guard);
	if (e)
		return e;
	e = listen_at(&a, fd);
	close(guard);
	return e;
}

/* --------------------------------------------------------------------- who */

static int
ask_peer(int fd, struct sm_wire_peer *peer)
{
	struct ucred c;
	socklen_t n = sizeof(c);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n))
		return errno;
	*peer = (struct sm_wire_peer){ c.pid, c.uid, -1 };
	return 0;
}

/* Of the very process that connected; by its number where the kernel is older. */
static int
open_pidfd(int fd, struct sm_wire_peer *peer)
{
	socklen_t n = sizeof(peer->pidfd);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &peer->pidfd, &n) == 0)
		return 0;
	if (errno != ENOPROTOOPT)
		return errno;
	peer->pidfd = (int)syscall(SYS_pidfd_open, peer->pid, 0);
	return peer->pidfd < 0 && errno != ENOSYS ? errno : 0;
}

static int
admit(int fd, struct sm_wire_peer *peer)
{
	int e = ask_peer(fd, peer);

	if (e == 0 && peer->uid != geteuid())
		e = EACCES;
	return e ? e : open_pidfd(fd, peer);
}

int
sm_wire_accept(int fd, int *client, struct sm_wire_peer *peer)
{
	int e;

	*client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (*client < 0)
		return errno == EWOULDBLOCK ? EAGAIN : errno;
	e = admit(*client, peer);
	if (e) {
		close(*client);
		*client = -1;
	}
	return e;
}

int
sm_wire_connect(const char *path, int *fd)
{
	struct sm_wire_peer peer = { 0 };
	struct sockaddr_un a;
	int e = address_of(path, &a);

	*fd = -1;
	if (e == 0)
		e = new_socket(0, fd);
	if (e)
		return e;
	if (connect(*fd, (const struct sockaddr *)&a, sizeof(a)))
		e = errno;
	if (e == 0)
		e = ask_peer(*fd, &peer);
	if (e == 0 && peer.uid != geteuid())
		e = EACCES;
	if (e) {
		close(*fd);
		*fd = -1;
	}
	return e;
}

/* ----------------------------------------------------------------- packets */

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(SM_WIRE_FDS_MOST * sizeof(int))];
};

int
sm_wire_send(int fd, const struct sm_wire_message *m, const int *fds, size_t nfds)
{
	struct iovec v = { (void *)(uintptr_t)m, m->head.bytes };
	union control c = { .bytes = { 0 } };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1 };
	ssize_t sent;

	if (nfds > SM_WIRE_FDS_MOST)
		return EINVAL;
	if (nfds) {
		struct cmsghdr *k = &c.align;

		k->cmsg_level = SOL_SOCKET;
		k->cmsg_type = SCM_RIGHTS;
		k->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(k), fds, nfds * sizeof(int));
		h.msg_control = c.bytes;
		h.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
	}
	do
		sent = sendmsg(fd, &h, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return errno == EWOULDBLOCK ? EAGAIN : errno;
	return 0;
}

/* Where no credentials come there is room for more than any message has: those are closed. */
static void
take_fds(const unsigned char *data, size_t n, struct sm_wire_from *from)
{
	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, data + i * sizeof(fd), sizeof(fd));
		if (from->fds < SM_WIRE_FDS_MOST)
			from->fd[from->fds++] = fd;
		else
			close(fd);
	}
}

static void
take_control(struct msghdr *h, struct sm_wire_from *from)
{
	for (struct cmsghdr *k = CMSG_FIRSTHDR(h); k; k = CMSG_NXTHDR(h, k)) {
		size_t n = k->cmsg_len - CMSG_LEN(0);

		if (k->cmsg_level != SOL_SOCKET)
			continue;
		if (k->cmsg_type == SCM_CREDENTIALS && n >= sizeof(struct ucred)) {
			struct ucred u;

			memcpy(&u, CMSG_DATA(k), sizeof(u));
			from->pid = u.pid;
		} else if (k->cmsg_type == SCM_RIGHTS) {
			take_fds(CMSG_DATA(k), n / sizeof(int), from);
		}
	}
}

int
sm_wire_receive(int fd, struct sm_wire_message *m, struct sm_wire_from *from)
{
	struct iovec v = { m, sizeof(*m) };
	union control c = { .bytes = { 0 } };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = c.bytes,
		.msg_controllen = sizeof(c.bytes) };
	ssize_t n;

	*from = (struct sm_wire_from){ 0 };
	do
		n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC | MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK ? EAGAIN : errno;
	from->n = (size_t)n;
	take_control(&h, from);
	if (h.msg_flags & MSG_CTRUNC) { /* more of them than any message has */
		sm_wire_close_fds(from);
		from->fds = SM_WIRE_FDS_MOST; /* too many for any type, and none to close */
		memset(from->fd, -1, sizeof(from->fd));
	}
	return 0;
}

void
sm_wire_close_fds(struct sm_wire_from *from)
{
	for (size_t i = 0; i < from->fds && i < SM_WIRE_FDS_MOST; i++)
		if (from->fd[i] >= 0)
			close(from->fd[i]);
	*from = (struct sm_wire_from){ .pid = from->pid, .n = from->n };
}
