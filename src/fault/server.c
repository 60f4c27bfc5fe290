#include "fault/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { STACK_BYTES = 128 << 10 };
enum { TURNS = 8 }; /* a page is late by an eighth of reseal_ms at most */

static struct {
	enum sm_mode mode;
	bool apart; /* by a thread that the C library does not know */
	int fd;
	int bell[2]; /* a pipe: an enum sm_ring each time */
	pthread_t thread;
	struct sm_raw raw; /* instead, where it is apart */
	uint64_t due_ms; /* of a thread apart: when it sees to reseal_ms again */
	struct sigaction former; /* of the signal */
} server;

/* -------------------------------------------------------------------- bell */

static void
close_bell(void)
{
	for (size_t i = 0; i < 2; i++) {
		sm_host_let_go(server.bell[i]);
		close(server.bell[i]);
	}
}

static int
open_bell(void)
{
	if (pipe2(server.bell, O_CLOEXEC))
		return sm_fail(errno, "pipe failed (%d): raise RLIMIT_NOFILE", errno);
	for (size_t i = 0; i < 2; i++) {
		server.bell[i] = sm_os_raised(server.bell[i]);
		sm_host_keep(server.bell[i]);
	}
	return 0;
}

int
sm_server_ring(enum sm_ring what)
{
	const char c = (char)what;
	long n;

	do
		n = write(server.bell[1], &c, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? 0 : errno;
}

/* ------------------------------------------------------------------ thread */

static int
heard(void)
{
	char what = SM_RING_STOP;

	if (read(server.bell[0], &what, 1) != 1)
		sm_die_of("the descriptors that transparent mode listens to were closed: a program "
			  "closes only its own", NULL);
	return what;
}

/* Where the program knows nothing there is no other thread for this: its own would keep a program
 * from ending whose threads have all ended, and cannot be made in a child so early. Returns: ms until
 * it is due again; 0: it never is. */
static unsigned
do_chores(void)
{
	unsigned every = server.apart ? sm_config()->reseal_ms : 0, pages, key;
	uint64_t now = every ? sm_os_now_ms() : 0;

	if (every && now >= server.due_ms) {
		pages = sm_fault_reseal(every);
		key = sm_key_tick();
		pages = pages < key ? pages : key;
		server.due_ms = now + (pages > every / TURNS ? pages : every / TURNS + 1);
	}
	return every ? (unsigned)(server.due_ms - now) : 0;
}

static int
serve(void *unused)
{
	bool rings;
	void *at;

	(void)unused;
	sm_os_ours(true);
	server.due_ms = 0;
	for (;;) {
		at = sm_uffd_next(server.fd, server.bell[0], do_chores(), &rings);
		if (at && !sm_uffd_is_ours())
			sm_engine_deny(at);
		else if (at && !sm_engine_serve(at))
			sm_uffd_wake(server.fd, at);
		if (!rings)
			continue;
		if (heard() == SM_RING_STOP)
			break;
		sm_call_answer();
	}
	sm_os_ours(false);
	return 0;
}

static void *
serve_in_pthread(void *unused)
{
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &(int){ 0 });
	(void)serve(unused);
	return NULL;
}

static int
start_pthread(void)
{
	long least = sysconf(_SC_THREAD_STACK_MIN);
	sigset_t all, before;
	pthread_attr_t a;
	int e = pthread_attr_init(&a);

	if (e == 0)
		e = pthread_attr_setstacksize(&a, STACK_BYTES + (least > 0 ? (size_t)least : 0));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (e == 0)
		e = pthread_create(&server.thread, &a, serve_in_pthread, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&a);
	if (e == 0)
		return 0;
	return sm_fail(EAGAIN, "the thread that opens pages could not be started (%d): raise "
			       "RLIMIT_NPROC", e);
}

static int
start_thread(void)
{
	int e = open_bell();

	if (e)
		return e;
	server.apart = sm_host.unaware && sm_raw_here();
	e = server.apart ? sm_raw_start(&server.raw, serve) : start_pthread();
	if (e == 0) {
		sm_call_open(server.apart);
		return 0;
	}
	server.apart = false;
	close_bell();
	return e;
}

static void
stop_thread(void)
{
	sm_call_open(false);
	if (sm_server_ring(SM_RING_STOP))
		sm_die_of("the descriptors of transparent mode were closed: a program closes only "
			  "its own", NULL);
	if (server.apart)
		sm_raw_join(&server.raw);
	else
		pthread_join(server.thread, NULL);
	server.apart = false;
	close_bell();
}

/* ------------------------------------------------------------------ signal */

static int
the_signal(void)
{
	return server.mode == SM_MODE_SLOTS ? SIGSEGV : SIGBUS;
}

/* A fault of the program's own takes the course it took before. */
static void
pass_on(int signal, siginfo_t *info, void *context)
{
	if (server.former.sa_flags & SA_SIGINFO) {
		server.former.sa_sigaction(signal, info, context);
		return;
	}
	if (server.former.sa_handler == SIG_IGN && info->si_code <= 0)
		return;
	if (server.former.sa_handler != SIG_DFL && server.former.sa_handler != SIG_IGN) {
		server.former.sa_handler(signal);
		return;
	}
	sigaction(signal, &server.former, NULL); /* the access comes again, and ends the program */
	if (info->si_code <= 0)
		raise(signal);
}

static void
on_signal(int signal, siginfo_t *info, void *context)
{
	int kept = errno;
	bool ours = info->si_code > 0 && sm_engine_serve(info->si_addr);

	errno = kept;
	if (!ours)
		pass_on(signal, info, context);
}

static int
start_signal(void)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_signal;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK;
	memset(&a.sa_mask, 0xff, sizeof(a.sa_mask)); /* as sm_os_mask: locks are held in it */
	if (sigaction(the_signal(), &a, &server.former) == 0)
		return 0;
	return sm_fail(ENOTSUP, "sigaction failed (%d): allow the system call", errno);
}

/* ------------------------------------------------------------------- doors */

int
sm_server_start(enum sm_mode mode, int fd)
{
	int e;

	server.mode = mode;
	server.fd = fd;
	e = mode == SM_MODE_THREAD ? start_thread() : start_signal();
	if (e)
		server.mode = SM_MODE_NONE;
	return e;
}

void
sm_server_stop(void)
{
	if (server.mode == SM_MODE_THREAD)
		stop_thread();
	else
		sigaction(the_signal(), &server.former, NULL);
	server.mode = SM_MODE_NONE;
}

void
sm_server_forget(void)
{
	if (server.mode == SM_MODE_THREAD)
		close_bell();
	if (server.apart)
		sm_raw_forget(&server.raw);
	sm_call_forget();
	server.apart = false;
	if (server.mode == SM_MODE_SIGNAL || server.mode == SM_MODE_SLOTS)
		sigaction(the_signal(), &server.former, NULL);
	server.mode = SM_MODE_NONE;
}

bool
sm_fault_is_apart(void)
{
	return server.apart;
}
