/*
 * service.c - a service manager's socket and its ear; going to the background; what a process
 * that keeps keys does to itself
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_FD = 3 };

static int parent = -1; /* who waits for us to be ready */

/* ------------------------------------------------------------------ service manager */

static long
number_of(const char *name)
{
	const char *text = getenv(name);
	char *end;
	long n;

	if (!text || *text < '0' || *text > '9')
		return -1;
	n = strtol(text, &end, 10);
	return *end ? -1 : n;
}

int
sd_service_socket(int *fd)
{
	long pid = number_of("LISTEN_PID"), n = number_of("LISTEN_FDS");
	int e;

	*fd = -1;
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (pid != getpid() || n < 1)
		return 0;
	e = n == 1 ? sm_wire_adopt(FIRST_FD) : EINVAL;
	if (e) {
		sd_log(LOG_ERR, "the socket that the service manager gave is of no use: it must be"
				" just one, by ListenSequentialPacket=, of a path");
		return e;
	}
	*fd = FIRST_FD;
	return 0;
}

void
sd_service_tell(const char *what)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	size_t n = path ? strlen(path) : 0;
	int fd;

	if (n < 2 || n >= sizeof(a.sun_path) || (*path != '/' && *path != '@'))
		return;
	memcpy(a.sun_path, path, n);
	if (*path == '@')
		a.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, what, strlen(what), MSG_NOSIGNAL, (struct sockaddr *)&a,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
		sd_log(LOG_WARNING, "the service manager does not listen: %s", strerror(errno));
	close(fd);
}

/* ----------------------------------------------------------------------- background */

void
sd_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/* The parent goes when the child is ready, and says so if it never is. */
void
sd_background(void)
{
	int ends[2], status = 0;
	pid_t child;
	char c;

	if (pipe2(ends, O_CLOEXEC) || (child = fork()) < 0) {
		sd_log(LOG_ERR, "no process for the background: %s; --foreground needs none",
			strerror(errno));
		exit(1);
	}
	if (child == 0) {
		close(ends[0]);
		parent = ends[1];
		return;
	}
	close(ends[1]);
	if (read(ends[0], &c, 1) == 1)
		_exit(0);
	waitpid(child, &status, 0);
	_exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
}

/* Before the sandbox, which lets nothing of this be done. */
void
sd_background_detach(void)
{
	int null;

	if (parent < 0)
		return;
	if (setsid() < 0 || chdir("/"))
		sd_log(LOG_WARNING, "still in this session and folder: %s", strerror(errno));
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd <= STDERR_FILENO && null >= 0; fd++)
		dup2(null, fd);
	if (null > STDERR_FILENO)
		close(null);
}

void
sd_background_done(void)
{
	if (parent < 0)
		return;
	if (write(parent, "", 1) != 1)
		sd_log(LOG_WARNING, "nobody waited for the start");
	close(parent);
	parent = -1;
}

/* --------------------------------------------------------------------------- harden */

void
sd_harden(void)
{
	struct rlimit none = { 0, 0 }, files;

	if (prctl(PR_SET_DUMPABLE, 0) || setrlimit(RLIMIT_CORE, &none))
		sd_log(LOG_WARNING, "cores are not ruled out: %s", strerror(errno));
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &files))
			sd_log(LOG_WARNING, "no more descriptors: %s", strerror(errno));
	}
}
