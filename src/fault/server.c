#include "fault/inside.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STACK_BYTES = 128 << 10 };

_Static_assert(sizeof(sigset_t) <= sizeof(struct sm_mask), "a set of signals fits");

static struct {
	enum sm_mode mode;
	int fd;
	int stop[2]; /* a pipe: written, the thread ends */
	pthread_t thread;
	struct sigaction former; /* of SIGBUS */
} server;

/* ------------------------------------------------------------------ thread */

static void *
serve(void *unused)
{
	void *at;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &(int){ 0 });
	while ((at = sm_uffd_next(server.fd, server.stop[0])) != NULL)
		if (!sm_engine_serve(at))
			sm_uffd_wake(server.fd, at);
	return unused;
}

static int
start_thread(void)
{
	long least = sysconf(_SC_THREAD_STACK_MIN);
	sigset_t all, before;
	pthread_attr_t a;
	int e;

	e = sm_uffd_pipe(server.stop);
	if (e)
		return e;
	e = pthread_attr_init(&a);
	if (e == 0)
		e = pthread_attr_setstacksize(&a, STACK_BYTES + (least > 0 ? (size_t)least : 0));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (e == 0)
		e = pthread_create(&server.thread, &a, serve, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&a);
	for (int i = 0; i < 2; i++)
		if (e)
			close(server.stop[i]);
		else
			sm_host_keep(server.stop[i]);
	return e;
}

static void
close_pipe(void)
{
	for (int i = 0; i < 2; i++) {
		sm_host_let_go(server.stop[i]);
		close(server.stop[i]);
	}
}

static void
stop_thread(void)
{
	while (write(server.stop[1], "", 1) < 0 && errno == EINTR)
		;
	pthread_join(server.thread, NULL);
	close_pipe();
}

/* ------------------------------------------------------------------ signal */

/* A fault of the program's own takes the course it took before. */
static void
pass_on(int signal, siginfo_t *info, void *context)
{
	if (server.former.sa_flags & SA_SIGINFO) {
		server.former.sa_sigaction(signal, info, context);
		return;
	}
	if (server.former.sa_handler == SIG_IGN)
		return;
	if (server.former.sa_handler != SIG_DFL) {
		server.former.sa_handler(signal);
		return;
	}
	sigaction(signal, &server.former, NULL); /* the access comes again, and ends the program */
}

static void
on_sigbus(int signal, siginfo_t *info, void *context)
{
	int kept = errno;
	bool ours = sm_engine_serve(info->si_addr);

	errno = kept;
	if (!ours)
		pass_on(signal, info, context);
}

static int
start_signal(void)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_sigbus;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigfillset(&a.sa_mask);
	return sigaction(SIGBUS, &a, &server.former) ? errno : 0;
}

/* ------------------------------------------------------------------- doors */

int
sm_server_start(enum sm_mode mode, int fd)
{
	int e;

	server.mode = mode;
	server.fd = fd;
	e = mode == SM_MODE_THREAD ? start_thread() : start_signal();
	if (e == 0)
		return 0;
	return sm_fail(EAGAIN, "the thread that opens pages could not be started (%s): raise "
			       "RLIMIT_NPROC", strerror(e));
}

void
sm_server_stop(void)
{
	if (server.mode == SM_MODE_THREAD)
		stop_thread();
	else
		sigaction(SIGBUS, &server.former, NULL);
	server.mode = SM_MODE_NONE;
}

void
sm_server_forget(void)
{
	if (server.mode == SM_MODE_THREAD)
		close_pipe();
	if (server.mode == SM_MODE_SIGNAL)
		sigaction(SIGBUS, &server.former, NULL);
	server.mode = SM_MODE_NONE;
}

/* Only where the thread that works may be the one that is served. */
void
sm_server_mask(struct sm_mask *m)
{
	sigset_t all;

	if (server.mode != SM_MODE_SIGNAL)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, (sigset_t *)(void *)m->bits);
}

void
sm_server_unmask(const struct sm_mask *m)
{
	if (server.mode == SM_MODE_SIGNAL)
		pthread_sigmask(SIG_SETMASK, (const sigset_t *)(const void *)m->bits, NULL);
}
