#include "front/inside.h"

#include "os/os.h"

#include <errno.h>
#include <unistd.h>

/* The way to the daemon: descriptors, and the greeting. */

static struct {
	int fd[SM_ENDS]; /* each + 1; 0: none */
	unsigned policy; /* enum sm_wire_policy */
	bool connected;
	bool on_its_own; /* the daemon let it go, or is gone: children are alone too */
	int failure;
} d;

/* ------------------------------------------------------------- descriptors */

int
sm_end_of(int which)
{
	return d.fd[which] - 1;
}

void
sm_end_take(int which, int fd)
{
	fd = sm_os_raised(fd);
	sm_host_keep(fd);
	d.fd[which] = fd + 1;
}

static void
close_end(int which)
{
	int fd = sm_end_of(which);

	if (fd < 0)
		return;
	d.fd[which] = 0;
	sm_host_let_go(fd);
	close(fd);
}

void
sm_end_hang_up(void)
{
	for (int i = SM_END_SOCKET; i < SM_END_BELL; i++)
		close_end(i);
	d.connected = false;
}

/* --------------------------------------------------------------- greetings */

static int
no_connection(int e, const char *path)
{
	if (e == ENOENT || e == ECONNREFUSED)
		return sm_fail(e, "no daemon listens at %s: start secmallocd, or ask for none", path);
	if (e == EACCES)
		return sm_fail(e, "the daemon at %s is another user's, or may not be spoken to: start "
				  "your own secmallocd", path);
	if (e == ENOTSUP)
		return sm_fail(e, "this system has no daemon: leave the field NULL");
	return sm_fail(e, "the daemon at %s could not be reached (%d): see that secmallocd runs", path,
		e);
}

static int
say_hello(int fd)
{
	struct sm_wire_message m;

	sm_wire_begin(&m, SM_WIRE_HELLO, 0);
	m.hello.role = SM_WIRE_CLIENT;
	sm_os_name(m.hello.name, sizeof(m.hello.name));
	return sm_wire_send(fd, &m, NULL, 0);
}

static int
hear_welcome(int fd, unsigned ms)
{
	struct sm_wire_message m;
	struct sm_wire_from from;
	const char *why = "not a welcome";
	unsigned readable;
	int e = sm_wire_await(&fd, 1, ms, &readable);

	if (e)
		return sm_fail(e, "the daemon has not answered: it is locked, or stopped");
	e = sm_wire_receive(fd, &m, &from);
	if (e || from.n == 0)
		return sm_fail(e ? e : ECONNRESET, "the daemon hung up: its log tells why");
	if (sm_wire_check(&m, from.n, SM_WIRE_DAEMON, from.fds, &why) ||
		m.head.type != SM_WIRE_WELCOME) {
		sm_wire_close_fds(&from);
		return sm_fail(EPROTO, "the daemon's greeting is %s", why ? why : "not a welcome");
	}
	d.policy = m.welcome.policy;
	for (int i = 0; i < SM_WIRE_LIFELINES; i++)
		sm_end_take(SM_END_LIFELINE + i, from.fd[i]);
	return 0;
}

static int
greet(const char *path, unsigned ms)
{
	int fd, e = sm_wire_connect(path, &fd);

	if (e)
		return no_connection(e, path);
	sm_end_take(SM_END_SOCKET, fd);
	e = say_hello(sm_end_of(SM_END_SOCKET));
	if (e)
		e = sm_fail(e, "the daemon at %s hung up: its log tells why", path);
	else
		e = hear_welcome(sm_end_of(SM_END_SOCKET), ms);
	d.connected = e == 0;
	if (e)
		sm_end_hang_up();
	return e;
}

int
sm_daemon_connect(const char *path, unsigned ms)
{
	d.failure = path && !d.on_its_own ? greet(path, ms) : 0;
	return d.failure;
}

int
sm_daemon_failure(void)
{
	return d.failure;
}

void
sm_daemon_renew(void)
{
	d.on_its_own = false;
	d.failure = 0;
}

unsigned
sm_end_policy(void)
{
	return d.policy;
}

bool
sm_end_connected(void)
{
	return d.connected;
}

void
sm_end_alone(void)
{
	d.on_its_own = true;
	sm_end_hang_up();
}

void
sm_end_close_all(void)
{
	sm_end_hang_up();
	close_end(SM_END_BELL);
	close_end(SM_END_ROPE);
}
