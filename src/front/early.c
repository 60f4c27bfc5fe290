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
 */
static struct sigaction former;
static bool watches;

static void
pass_on(int signal, siginfo_t *info, void *context)
{
	if (former.sa_flags & SA_SIGINFO)
		former.sa_sigaction(signal, info, context);
	else if (former.sa_handler == SIG_DFL || former.sa_handler == SIG_IGN)
		sigaction(signal, &former, NULL); /* the access comes again, and ends the program */
	else
		former.sa_handler(signal);
}

static void
on_sigsegv(int signal, siginfo_t *info, void *context)
{
	if (sm_fork_is_early() && sm_fault_watches(info->si_addr))
		sm_fork_in_child();
	else
		pass_on(signal, info, context);
}

void
sm_early_watch(void)
{
	struct sigaction a;

	if (!sm_host.unaware || !sm_config()->transparent)
		return;
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_sigsegv;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigfillset(&a.sa_mask);
	watches = sigaction(SIGSEGV, &a, &former) == 0;
}

/* Unless the program has put its own there meanwhile. */
void
sm_early_unwatch(void)
{
	struct sigaction now;

	if (watches && sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO &&
		now.sa_sigaction == on_sigsegv)
		sigaction(SIGSEGV, &former, NULL);
	watches = false;
}
