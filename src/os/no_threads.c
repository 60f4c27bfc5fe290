/* Where nothing is known of a process's threads: no daemon then, see wire/no_socket.c. */
#include "os/inside.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

int
sm_os_self(void)
{
	return 0;
}

void
sm_os_ours(bool is)
{
	(void)is;
}

void
sm_os_ours_forget(void)
{
}

int
sm_os_threads_begin(void)
{
	return ENOTSUP;
}

void
sm_os_threads_end(void)
{
}

int
sm_os_threads(void (*each)(int tid, void *arg), void *arg)
{
	(void)each, (void)arg;
	return ENOTSUP;
}

bool
sm_os_is_dead(int tid)
{
	(void)tid;
	return false;
}

int
sm_os_signal(int tid, int signal)
{
	(void)tid, (void)signal;
	return ENOTSUP;
}

void
sm_os_sleep(_Atomic uint32_t *word, uint32_t seen)
{
	(void)word, (void)seen;
}

void
sm_os_wake(_Atomic uint32_t *word)
{
	(void)word;
}

void
sm_os_kill_self(void)
{
	kill(getpid(), SIGKILL);
}

bool
sm_os_kill_soon(unsigned ms)
{
	(void)ms;
	return false;
}

void
sm_os_name(char *to, size_t bytes)
{
	(void)bytes;
	*to = '\0';
}
