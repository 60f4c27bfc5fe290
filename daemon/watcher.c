/*
 * watcher.c - the daemon's other half: sees that nobody outlives the daemon in clear
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Forked at start. It has a lifeline to each client, whose other end the client has armed to kill
 * it, and a pidfd. It ends with the daemon, and then the kernel closes its lifelines. The halves
 * speak in the packets of the wire: HELLO is a new client, answered by WELCOME with its end of the
 * lifeline; LOCK is hold, UNLOCK is hold no longer. No message has a secret in it.
 */
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PATIENCE_MS = 1000, ENDS = 2, GROWTH = 64, FIRST_FD = STDERR_FILENO + 1 };

static int other = -1; /* to the watcher; in the watcher, to the daemon */
static pid_t watcher;

static struct watched {     /* in the watcher */
	struct pollfd *fds; /* [0]: the daemon; then two a client: its pidfd, its lifeline */
	size_t n, room;
	bool holds;
} w;

int
sd_kill(int pidfd, pid_t pid)
{
	long n = pidfd >= 0 ? syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)
			    : kill(pid, SIGKILL);

	return n ? errno : 0;
}

/* ----------------------------------------------------------------------- the watcher */

static int
add_client(int pidfd, int lifeline)
{
	struct pollfd *more;

	if (w.n + ENDS > w.room) {
		more = realloc(w.fds, (w.room + GROWTH) * sizeof(*more));
		if (!more)
			return ENOMEM;
		w.fds = more;
		w.room += GROWTH;
	}
	w.fds[w.n++] = (struct pollfd){ pidfd, POLLIN, 0 };
	w.fds[w.n++] = (struct pollfd){ lifeline, 0, 0 };
	return 0;
}

/* Without a lifeline the daemon sends the client away. */
static void
new_client(uint32_t id, int pidfd)
{
	struct sm_wire_message m;
	int ends[ENDS] = { -1, -1 };

	sm_wire_begin(&m, SM_WIRE_WELCOME, id);
	if (pipe2(ends, O_CLOEXEC) || add_client(pidfd, ends[1])) {
		close(ends[1]);
		close(pidfd);
		pidfd = ends[1] = -1;
	}
	if (sm_wire_send(other, &m, ends, ends[1] >= 0 ? 1 : 0))
		_exit(1); /* the daemon has ended */
	close(ends[0]);
}

/* False: there is nobody any more. */
static bool
hear_daemon(void)
{
	struct sm_wire_message m;
	struct sm_wire_from from;
	int e = sm_wire_receive(other, &m, &from);

	if (e)
		return e == EAGAIN;
	if (from.n == 0)
		return false;
	if (m.head.type == SM_WIRE_HELLO) {
		new_client(m.head.serial, from.fds ? from.fd[0] : -1);
		return true;
	}
	w.holds = m.head.type == SM_WIRE_LOCK;
	return true;
}

/* The client has ended, or has closed its end: it is no longer ours. */
static void
forget_gone(void)
{
	for (size_t i = 1; i < w.n; i += ENDS) {
		if (w.fds[i].revents == 0 && w.fds[i + 1].revents == 0)
			continue;
		if (w.fds[i].fd >= 0)
			close(w.fds[i].fd);
		close(w.fds[i + 1].fd);
		w.n -= ENDS;
		w.fds[i] = w.fds[w.n];
		w.fds[i + 1] = w.fds[w.n + 1];
		i -= ENDS;
	}
}

static void
kill_all(void)
{
	unsigned n = 0;

	for (size_t i = 1; i < w.n; i += ENDS)
		if (w.fds[i].fd >= 0 && sd_kill(w.fds[i].fd, 0) == 0)
			n++;
	if (n)
		sd_log(LOG_CRIT, "the daemon ended while all was locked: %u clients killed", n);
}

static _Noreturn void
watch(void)
{
	w.fds = malloc(GROWTH * sizeof(*w.fds));
	if (!w.fds)
		_exit(1);
	w.room = GROWTH;
	w.n = 1;
	for (;;) {
		w.fds[0] = (struct pollfd){ other, POLLIN, 0 };
		if (poll(w.fds, w.n, -1) < 0) {
			if (errno == EINTR || errno == EAGAIN || errno == ENOMEM)
				continue;
			_exit(1);
		}
		forget_gone();
		if (w.fds[0].revents && !hear_daemon())
			break;
	}
	if (w.holds)
		kill_all();
	_exit(0);
}

/* Of all descriptors only the one to the daemon stays, and standard error in the foreground. */
static void
let_go(void)
{
	int null;

	closelog();
	if (other != FIRST_FD && dup3(other, FIRST_FD, O_CLOEXEC) != FIRST_FD)
		_exit(1);
	other = FIRST_FD;
	syscall(SYS_close_range, FIRST_FD + 1, ~0u, 0); /* Linux 5.9 */
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < STDERR_FILENO + !sd.o.foreground && null >= 0; fd++)
		dup2(null, fd);
	if (!sd.o.foreground)
		setsid();
}

/* The terminal's signals are the daemon's to heed: the watcher ends with it. */
static _Noreturn void
begin_watching(void)
{
	static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGTSTP, SIGTTIN,
		SIGTTOU };
	int e;

	for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, "secmalloc-watch");
	prctl(PR_SET_DUMPABLE, 0);
	let_go();
	sd_log_open(sd.o.to_syslog || !sd.o.foreground);
	e = sd_sandbox(NULL);
	if (e)
		sd_log(LOG_WARNING, "the watcher has no sandbox: %s", strerror(e));
	watch();
}

/* ------------------------------------------------------------------- the daemon's side */

int
sd_watcher_begin(void)
{
	int ends[ENDS];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return errno;
	watcher = fork();
	if (watcher < 0) {
		close(ends[0]);
		close(ends[1]);
		return errno;
	}
	other = ends[watcher ? 0 : 1];
	close(ends[watcher ? 1 : 0]);
	if (watcher == 0)
		begin_watching();
	return fcntl(other, F_SETFL, O_NONBLOCK) ? errno : 0;
}

int
sd_watcher_fd(void)
{
	return other;
}

int
sd_watcher_add(uint32_t id, int pidfd)
{
	struct sm_wire_message m;

	sm_wire_begin(&m, SM_WIRE_HELLO, id);
	return sm_wire_send(other, &m, &pidfd, pidfd >= 0 ? 1 : 0);
}

int
sd_watcher_take(uint32_t *id, int *lifeline)
{
	struct sm_wire_message m;
	struct sm_wire_from from;
	int e = sm_wire_receive(other, &m, &from);

	if (e)
		return e == EAGAIN ? e : EPIPE;
	if (from.n == 0)
		return EPIPE;
	*id = m.head.serial;
	*lifeline = from.fds ? from.fd[0] : -1;
	return 0;
}

int
sd_watcher_hold(bool on)
{
	struct pollfd p = { other, POLLOUT, 0 };
	struct sm_wire_message m;
	int e;

	sm_wire_begin(&m, on ? SM_WIRE_LOCK : SM_WIRE_UNLOCK, 0);
	e = sm_wire_send(other, &m, NULL, 0);
	if (e != EAGAIN)
		return e;
	if (poll(&p, 1, PATIENCE_MS) <= 0)
		return ETIMEDOUT;
	return sm_wire_send(other, &m, NULL, 0);
}
