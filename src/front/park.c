#include "front/inside.h"

#include "fault/fault.h"
#include "os/os.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

/*
 * While the daemon has the keys every thread of the program waits here: each is sent a signal. One
 * that is inside the library goes on to its end first, as it may hold a lock or a key; one that comes
 * to the gate waits there of itself. No other signal comes to it meanwhile.
 *
 * Who waits says so in a table, by its number and that of this halt: what is there from an earlier
 * one does not count, so nobody has to take anything out.
 */
enum {
	SLOTS = 8192, /* a power of two: the threads that can be parked at once, or about as many */
	PROBES = 256,
	ENDED_MS = 20, /* who does not come for so long may have ended */
	AGREE = 2,     /* sweeps: in the first of them who still ran may have started another */
	GAP_BYTES = 512
};

static struct {
	_Atomic uint32_t word; /* odd: wait; it only grows */
	_Atomic uint64_t parked[SLOTS];
	_Atomic uint64_t called[SLOTS]; /* they were sent the signal */
	bool installed;
	struct sigaction former;
} park;

/* Where the signal found this thread inside the library, registers with keys in them were put on a
 * stack. */
static SM_TLS struct {
	unsigned char *low, *high; /* high NULL: on the stack that the thread works on */
} spilled;

/* ------------------------------------------------------------------- table */

static uint64_t
ticket(int tid, uint32_t halt)
{
	return (uint64_t)halt << 32 | (uint32_t)tid;
}

static size_t
place(int tid, size_t probe)
{
	return ((size_t)(unsigned)tid + probe) & (SLOTS - 1);
}

/* False: it is full. */
static bool
note(_Atomic uint64_t *table, int tid, uint32_t halt)
{
	uint64_t mine = ticket(tid, halt);

	for (size_t i = 0; i < PROBES; i++) {
		_Atomic uint64_t *slot = &table[place(tid, i)];
		uint64_t seen = atomic_load(slot);

		while (seen != mine && seen >> 32 != halt)
			if (atomic_compare_exchange_weak(slot, &seen, mine))
				return true;
		if (seen == mine)
			return true;
	}
	return false;
}

static bool
noted(_Atomic uint64_t *table, int tid, uint32_t halt)
{
	uint64_t seen = 0;

	for (size_t i = 0; i < PROBES; i++) {
		seen = atomic_load(&table[place(tid, i)]);
		if (seen == ticket(tid, halt) || seen >> 32 != halt)
			break; /* or it would have been put here */
	}
	return seen == ticket(tid, halt);
}

/* ----------------------------------------------------------------- waiting */

static bool
must_wait(uint32_t *halt)
{
	*halt = atomic_load(&park.word);
	return *halt & 1;
}

/* With all signals blocked. */
static void
wait_here(void)
{
	uint32_t halt;

	while (must_wait(&halt)) {
		(void)note(park.parked, sm_os_self(), halt); /* else it is missed, and said so */
		while (atomic_load(&park.word) == halt)
			sm_os_sleep(&park.word, halt);
	}
}

/* What the signal left is dead by now: below this frame, or on a stack for signals. */
static SM_NOINLINE void
wipe_spilled(void)
{
	unsigned char *here = __builtin_frame_address(0), *low = spilled.low;

	spilled.low = NULL;
	if (spilled.high)
		sm_wipe(low, (size_t)(spilled.high - low));
	else if (low < here)
		sm_wipe_traces_of((size_t)(here - low) + GAP_BYTES);
}

static void
wait_in_call(void)
{
	struct sm_mask m;
	int kept = errno;

	if (spilled.low)
		wipe_spilled();
	sm_os_mask(&m);
	wait_here();
	sm_os_unmask(&m);
	errno = kept;
}

static void
note_spilled(const void *context)
{
	const stack_t *s = &((const ucontext_t *)context)->uc_stack;
	unsigned char *here = __builtin_frame_address(0);
	bool other = !(s->ss_flags & SS_DISABLE) && (uintptr_t)here >= (uintptr_t)s->ss_sp &&
		(uintptr_t)here - (uintptr_t)s->ss_sp < s->ss_size;

	spilled.low = here;
	spilled.high = other ? (unsigned char *)s->ss_sp + s->ss_size : NULL;
}

static void
on_signal(int signal, siginfo_t *info, void *context)
{
	int kept = errno;

	(void)signal, (void)info; /* somebody else's does no harm: nobody is waited for */
	if (sm_inside.depth > 0) {
		note_spilled(context);
		sm_inside.owes = true;
	} else {
		wait_here();
	}
	errno = kept;
}

/* ------------------------------------------------------------------- sweeps */

struct sweep {
	uint32_t halt;
	bool patient; /* who does not come is not looked at yet */
	unsigned missing;
};

static void
look(int tid, void *arg)
{
	struct sweep *s = arg;
	int e = 0;

	if (noted(park.parked, tid, s->halt))
		return;
	if (!noted(park.called, tid, s->halt)) {
		e = sm_os_signal(tid, SM_PARK_SIGNAL);
		if (e == 0)
			(void)note(park.called, tid, s->halt);
	} else if (!s->patient && sm_os_is_dead(tid)) {
		return;
	}
	if (e != ESRCH)
		s->missing++;
}

int
sm_park_all(uint64_t deadline_ms)
{
	uint64_t began = sm_os_now_ms();
	unsigned agreed = 0, turn = 0;

	while (agreed < AGREE) {
		uint64_t now = sm_os_now_ms();
		struct sweep s = { atomic_load(&park.word), now < began + ENDED_MS, 0 };
		int e = sm_os_threads(look, &s);

		if (e)
			return e;
		agreed = s.missing ? 0 : agreed + 1;
		if (s.missing && now >= deadline_ms)
			return sm_fail(ETIMEDOUT, "%u threads could not be stopped", s.missing);
		if (s.missing)
			sm_rest(&turn);
	}
	return 0;
}

void
sm_park_shut(void)
{
	uint32_t word = atomic_load(&park.word);

	if (!(word & 1))
		atomic_store(&park.word, word + 1);
}

void
sm_park_open(void)
{
	uint32_t word = atomic_load(&park.word);

	if (word & 1 && atomic_compare_exchange_strong(&park.word, &word, word + 1))
		sm_os_wake(&park.word);
}

/* --------------------------------------------------------- start and stop */

bool
sm_park_needed(void)
{
	return sm_fault_mode() != SM_MODE_THREAD;
}

static int
install(void)
{
	struct sigaction a;

	if (sm_os_threads_begin())
		return sm_fail(ENOTSUP, "the threads of this process cannot be seen: mount /proc");
	if (sigaction(SM_PARK_SIGNAL, NULL, &park.former))
		return sm_fail(ENOTSUP, "sigaction failed (%d): allow the system call", errno);
	if (park.former.sa_flags & SA_SIGINFO || park.former.sa_handler != SIG_DFL)
		return sm_fail(EBUSY, "signal %d, by which the daemon's lock stops threads, has a "
			"handler: leave it alone, or configure secmalloc --with-park-signal",
			SM_PARK_SIGNAL);
	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_signal;
	a.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
	sigfillset(&a.sa_mask);
	if (sigaction(SM_PARK_SIGNAL, &a, NULL))
		return sm_fail(ENOTSUP, "sigaction failed (%d): allow the system call", errno);
	park.installed = true;
	return 0;
}

int
sm_park_start(void)
{
	int e = sm_park_needed() ? install() : 0;

	if (e)
		sm_os_threads_end();
	else
		atomic_store(&sm_inside_park, wait_in_call);
	return e;
}

/* Unless the program has put its own there meanwhile. A signal that some thread has blocked would end
 * the program later: to ignore it takes it away. */
void
sm_park_stop(void)
{
	const struct sigaction ignore = { .sa_handler = SIG_IGN };
	struct sigaction now;

	atomic_store(&sm_inside_park, NULL);
	sm_os_threads_end();
	if (!park.installed)
		return;
	park.installed = false;
	if (sigaction(SM_PARK_SIGNAL, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO &&
		now.sa_sigaction == on_signal && sigaction(SM_PARK_SIGNAL, &ignore, NULL) == 0)
		sigaction(SM_PARK_SIGNAL, &park.former, NULL);
}

void
sm_park_forget(void)
{
	uint32_t word = atomic_load(&park.word);

	atomic_store(&park.word, word + (word & 1));
	sm_park_stop();
}
