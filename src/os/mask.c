#include "os/os.h"

#include <pthread.h>
#include <signal.h>

_Static_assert(sizeof(sigset_t) <= sizeof(struct sm_mask), "a set of signals fits");

void
sm_os_mask(struct sm_mask *m)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, (sigset_t *)(void *)m->bits);
}

void
sm_os_unmask(const struct sm_mask *m)
{
	pthread_sigmask(SIG_SETMASK, (const sigset_t *)(const void *)m->bits, NULL);
}
