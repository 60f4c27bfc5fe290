#include "front/inside.h"

#include "key/key.h"
#include "os/os.h"
#include "seal/seal.h"

#include <errno.h>

/*
 * What the daemon's lock does here, in the thread that listens to it: the gate is shut, threads come
 * to rest, chunks close, keys go. In transparent mode, where a thread opens pages, nobody is stopped
 * but by touching one.
 */

enum { RESERVE = 8 }; /* an eighth of the time is for what follows */

static enum sm_state former; /* where the way back leads */
static bool shut, gave;

static bool
is_late(uint64_t deadline)
{
	return sm_os_now_ms() >= deadline || sm_daemon_ends();
}

static int
too_late(void)
{
	return sm_fail(ETIMEDOUT, "a call that takes long was in the way of the daemon's lock");
}

/* Not while anybody starts, stops or forks, nor while keys change. */
static int
shut_gate(uint64_t deadline)
{
	unsigned turn = 0;
	int e;

	while (!sm_life_try()) {
		if (is_late(deadline))
			return too_late();
		sm_rest(&turn);
	}
	while ((e = sm_seal_shut(&former)) == EAGAIN && !is_late(deadline))
		sm_rest(&turn);
	sm_life_let_go();
	shut = e == 0;
	return e == EAGAIN ? too_late() : e;
}

/* Pages that the kernel is using are free again in a moment. */
static int
give(struct sm_parcel *p, uint64_t deadline)
{
	unsigned turn = 0;
	int e;

	while ((e = sm_seal_give(p)) == EBUSY && !is_late(deadline))
		sm_rest(&turn);
	return e;
}

static void
open_gate(void)
{
	if (shut)
		(void)sm_seal_reopen(former);
	shut = false;
	sm_park_open();
}

int
sm_halt_begin(unsigned ms, struct sm_parcel *p, bool *given)
{
	uint64_t deadline = sm_os_now_ms() + ms - ms / RESERVE;
	int e;

	*given = gave = false;
	sm_park_shut();
	e = shut_gate(deadline);
	if (e == 0 && sm_park_needed())
		e = sm_park_all(deadline);
	if (e == 0 && sm_purged())
		e = sm_state_refuse();
	if (e == 0 && former == SM_UP) {
		e = give(p, deadline);
		*given = gave = e == 0;
	}
	if (e == 0 || e == EBADMSG)
		return e;
	open_gate();
	return sm_purged() ? 0 : e;
}

int
sm_halt_end(const struct sm_parcel *p)
{
	int e = 0;

	if (gave && !sm_purged())
		e = sm_seal_get_back(p);
	if (e && !sm_purged())
		return e;
	if (gave && sm_purged())
		sm_seal_give_up();
	gave = false;
	open_gate();
	return 0;
}
