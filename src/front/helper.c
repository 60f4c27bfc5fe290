#include "front/inside.h"

#include "fault/fault.h"
#include "key/key.h"
#include "os/os.h"
#include "seal/seal.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { STACK_BYTES = 128 << 10, TURNS = 8 }; /* a chunk is late by an eighth of reseal_ms at most */

static struct {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool runs;
	bool ends; /* under lock */
} helper;

static _Atomic uint64_t due_ms; /* when whoever calls does the chores */

static unsigned
work(void)
{
	unsigned least = sm_config()->reseal_ms / TURNS, seal = sm_seal_reseal();
	unsigned key = sm_key_tick(), next = seal < key ? seal : key;

	if (sm_config()->transparent) {
		unsigned pages = sm_fault_reseal(sm_config()->reseal_ms);

		next = pages < next ? pages : next;
	}

	return next > least ? next : least + 1;
}

void
sm_helper_chores(void)
{
	uint64_t now = sm_fault_is_apart() ? 0 : sm_os_now_ms(); /* that thread does them */

	if (now == 0 || now < atomic_load(&due_ms))
		return;
	atomic_store(&due_ms, now + work());
}

static struct timespec
in_ms(unsigned ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_nsec -= 1000000000;
		t.tv_sec++;
	}
	return t;
}

static void *
run(void *unused)
{
	struct timespec until;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &(int){ 0 });
	sm_os_ours(true);
	pthread_mutex_lock(&helper.lock);
	while (!helper.ends) {
		pthread_mutex_unlock(&helper.lock);
		until = in_ms(work());
		pthread_mutex_lock(&helper.lock);
		while (!helper.ends &&
			pthread_cond_timedwait(&helper.wake, &helper.lock, &until) == 0)
			;
	}
	pthread_mutex_unlock(&helper.lock);
	sm_os_ours(false);
	return unused;
}

/* All signals are the program's, but the one by which a closed page is opened. */
int
sm_helper_create(pthread_t *thread, void *(*body)(void *))
{
	long least = sysconf(_SC_THREAD_STACK_MIN);
	sigset_t all, before;
	pthread_attr_t a;
	int e = pthread_attr_init(&a);

	if (e)
		return e;
	e = pthread_attr_setstacksize(&a, STACK_BYTES + (least > 0 ? (size_t)least : 0));
	sigfillset(&all);
	if (sm_config()->transparent)
		sigdelset(&all, sm_fault_mode() == SM_MODE_SLOTS ? SIGSEGV : SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (e == 0)
		e = pthread_create(thread, &a, body, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&a);
	return e;
}

static int
prepare(void)
{
	pthread_condattr_t a;
	int e = pthread_condattr_init(&a);

	if (e)
		return e;
	e = pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	if (e == 0)
		e = pthread_cond_init(&helper.wake, &a);
	pthread_condattr_destroy(&a);
	return e ? e : pthread_mutex_init(&helper.lock, NULL);
}

int
sm_helper_start(void)
{
	const struct sm_config *c = sm_config();
	int e;

	atomic_store(&due_ms, 0);
	if (c->reseal_ms == 0 || c->no_thread || sm_host.unaware)
		return 0; /* then who opens pages does it, or the next call */
	helper.ends = false;
	e = prepare();
	if (e == 0)
		e = sm_helper_create(&helper.thread, run);
	if (e)
		return sm_fail(EAGAIN, "the thread for reseal_ms could not be started: raise "
				       "RLIMIT_NPROC, or use SECMALLOC_NO_THREAD");
	helper.runs = true;
	return 0;
}

void
sm_helper_stop(void)
{
	if (!helper.runs)
		return;
	pthread_mutex_lock(&helper.lock);
	helper.ends = true;
	pthread_cond_signal(&helper.wake);
	pthread_mutex_unlock(&helper.lock);
	pthread_join(helper.thread, NULL);
	helper.runs = false;
}

void
sm_helper_forget(void)
{
	helper.runs = false; /* its lock and all are made anew by the next start */
}
