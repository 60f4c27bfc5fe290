#include "front/inside.h"

#include "fault/fault.h"

#include <signal.h>
#include <string.h>

/*
 * Where the program knows nothing of the library, the C library's own data is in the heap, and in a
 * child fork(3) sets the locks of malloc'ed FILEs free before it runs any handler of pthread_atfork
 * (glibc 2.36: fork, _IO_iter_begin; the rest of a thread's keys; its vector of TLS). The heap is
 * not there yet: the access is SIGSEGV. So from the pause on this signal is ours, and the first
 * such access in the child does what our handler would have done a little later; then it comes
 * again. In the parent any SIGSEGV of these microseconds takes the course it took before.
 *
 * The program may fork with all signals blocked, and a blocked SIGSEGV kills; its stack for signals
 * may be in the heap, where nothing can be written yet. So this thread has the signal unblocked, and
 * another stack for it, until our handler of pthread_atfork comes.
 */
static struct {
	struct sigaction action;
	sigset_t mask;
	stack_t stack;
} former;
static bool watches, lends; /* the action is ours; the stack for signals is */
static _Alignas(16) unsigned char stack[64 << 10]; /* one thread forks at a time */

static void
pass_on(int signal, siginfo_t *info, void *context)
{
	if (former.action.sa_flags & SA_SIGINFO)
		former.action.sa_sigaction(signal, info, context);
	else if (former.action.sa_handler == SIG_DFL || former.action.sa_handler == SIG_IGN)
		sigaction(signal, &former.action, NULL); /* the access comes again, and ends the program */
	else
		former.action.sa_handler(signal);
}

static void
on_sigsegv(int signal, siginfo_t *info, void *context)
{
	if (sm_fork_is_early() && sm_fault_watches(info->si_addr))
		sm_fork_inherit();
	else
		pass_on(signal, info, context);
}

void
sm_early_watch(void)
{
	const stack_t ours = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction a;
	sigset_t segv;

	if (!sm_host.unaware || !sm_config()->transparent)
		return;
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_sigsegv;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK;
	memset(&a.sa_mask, 0xff, sizeof(a.sa_mask)); /* as sm_os_mask */
	watches = sigaction(SIGSEGV, &a, &former.action) == 0;
	if (!watches)
		return;
	lends = sigaltstack(&ours, &former.stack) == 0; /* else it is in use: who forks is a handler */
	sigemptyset(&segv);
	sigaddset(&segv, SIGSEGV);
	pthread_sigmask(SIG_UNBLOCK, &segv, &former.mask);
}

/* Unless the program has put its own there meanwhile. */
void
sm_early_unwatch(void)
{
	struct sigaction now;

	if (!watches)
		return;
	watches = false;
	pthread_sigmask(SIG_SETMASK, &former.mask, NULL);
	if (lends)
		sigaltstack(&former.stack, NULL);
	if (sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO &&
		now.sa_sigaction == on_sigsegv)
		sigaction(SIGSEGV, &former.action, NULL);
}
