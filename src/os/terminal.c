#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* As OpenBSD's readpassphrase(3): the terminal is put back before any of these takes its course. */
static const int caught[] = { SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN,
	SIGTTOU };
enum { CAUGHT = sizeof(caught) / sizeof(caught[0]) };

static volatile sig_atomic_t came[CAUGHT];
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

int
sm_os_read(int fd, void *p, size_t n, size_t *got)
{
	ssize_t r;
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state); /* the caller holds a chunk */
	do
		r = read(fd, p, n);
	while (r < 0 && errno == EINTR);
	pthread_setcancelstate(state, NULL);
	if (r < 0)
		return sm_fail(errno, "reading descriptor %d failed (%s)", fd, strerror(errno));
	*got = (size_t)r;
	return 0;
}

static void
note(int signal)
{
	for (size_t i = 0; i < CAUGHT; i++)
		if (caught[i] == signal)
			came[i] = 1;
}

/** A terminal, or what stands for it. */
struct line {
	int in, out;
	bool terminal;
	struct termios before;
	struct sigaction handlers[CAUGHT];
};

static void
say(const struct line *l, const char *text)
{
	size_t n = strlen(text);

	while (l->terminal && n > 0) {
		ssize_t done = write(l->out, text, n);

		if (done <= 0)
			return;
		text += done;
		n -= (size_t)done;
	}
}

static void
catch(struct line *l)
{
	struct sigaction a = { .sa_handler = note }; /* no SA_RESTART: read is to return */

	sigemptyset(&a.sa_mask);
	for (size_t i = 0; i < CAUGHT; i++) {
		came[i] = 0;
		sigaction(caught[i], &a, &l->handlers[i]);
	}
}

static void
release(const struct line *l)
{
	for (size_t i = 0; i < CAUGHT; i++)
		sigaction(caught[i], &l->handlers[i], NULL);
}

static int
hush(struct line *l)
{
	struct termios quiet;

	l->terminal = tcgetattr(l->in, &l->before) == 0;
	if (!l->terminal)
		return 0;
	quiet = l->before;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
	if (tcsetattr(l->in, TCSAFLUSH, &quiet) == 0)
		return 0;
	return sm_fail(errno == EINTR ? EINTR : ENOTTY, "the terminal's echo could not be turned off "
		"(%s)", strerror(errno));
}

static bool
any_came(void)
{
	for (size_t i = 0; i < CAUGHT; i++)
		if (came[i])
			return true;
	return false;
}

/* The signals are blocked: they come while it waits, or not before the next turn. */
static ssize_t
read_byte(int fd, unsigned char *p, const sigset_t *unblocked)
{
	struct pollfd f = { .fd = fd, .events = POLLIN };

	if (any_came()) {
		errno = EINTR;
		return -1;
	}
	return ppoll(&f, 1, NULL, unblocked) < 0 ? -1 : read(fd, p, 1);
}

/* One byte a call, straight to where it stays. What is too long is read to its end and dropped. */
static int
read_bytes(const struct line *l, unsigned char *p, size_t most, size_t *n, const sigset_t *unblocked)
{
	unsigned char *at = p;
	size_t total = 0;

	for (;; total++) {
		ssize_t r = read_byte(l->in, at, unblocked);

		if (sm_purged()) /* the newline may have been among what it wiped */
			return ECANCELED;
		if (r < 0)
			return errno;
		if (r == 0 && total == 0)
			return ENODATA;
		if (r == 0 || *at == '\n')
			break;
		if (total < most)
			at++; /* there is room for one more than most */
	}
	*at = 0;
	*n = total;
	return total > most ? EMSGSIZE : 0;
}

/* True: one of them stopped the process, and the question is to be asked again. */
static bool
let_signals_pass(void)
{
	bool again = false;

	for (size_t i = 0; i < CAUGHT; i++)
		if (came[i]) {
			int s = caught[i];

			kill(getpid(), s);
			again |= s == SIGTSTP || s == SIGTTIN || s == SIGTTOU;
		}
	return again;
}

static int
read_line(const struct line *l, unsigned char *p, size_t most, size_t *n)
{
	sigset_t ours, before;
	int e;

	sigemptyset(&ours);
	for (size_t i = 0; i < CAUGHT; i++)
		sigaddset(&ours, caught[i]);
	pthread_sigmask(SIG_BLOCK, &ours, &before);
	e = read_bytes(l, p, most, n, &before);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return e;
}

static int
ask_once(struct line *l, const char *prompt, unsigned char *p, size_t most, size_t *n)
{
	int e;

	catch(l);
	e = hush(l);
	if (e == 0) {
		say(l, prompt);
		e = read_line(l, p, most, n);
		say(l, "\n");
	}
	if (l->terminal)
		(void)tcsetattr(l->in, TCSAFLUSH, &l->before);
	release(l);
	return e;
}

static int
explain(int e, size_t most)
{
	if (e == ECANCELED)
		return sm_state_refuse();
	if (e == EMSGSIZE)
		return sm_fail(e, "more than %zu bytes were typed: allow more, or type less", most);
	if (e == ENODATA)
		return sm_fail(e, "no passphrase was given: type one, or write it to standard input");
	if (e)
		return sm_fail(e, "reading the passphrase failed (%s)", strerror(e));
	return 0;
}

int
sm_os_ask(const char *prompt, unsigned char *p, size_t most, size_t *n)
{
	struct line l = { .in = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC) };
	bool tty = l.in >= 0;
	int e, state;

	l.out = l.in;
	if (!tty) {
		l.in = STDIN_FILENO;
		l.out = STDERR_FILENO;
	}
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	pthread_mutex_lock(&one_at_a_time);
	do
		e = ask_once(&l, prompt, p, most, n);
	while (let_signals_pass() && e == EINTR);
	pthread_mutex_unlock(&one_at_a_time);
	if (tty)
		close(l.in);
	pthread_setcancelstate(state, NULL);
	return explain(e, most);
}
