#include "fault/inside.h"

#include <errno.h>

/* Pages follow the key: to a new one, or to none while all is locked. */

enum { AT_ONCE = 32 }; /* then who waits for a page has a turn */

/** Where a walk over all pages stands. */
struct place {
	size_t span, page;
};

/* A span may go, and another come, between two turns: what comes is sealed with the new key. */
static int
carry_some(struct place *at, const struct sm_loan *key)
{
	int e = 0;

	for (unsigned n = 0; e == 0 && n < AT_ONCE && at->span < sm_engine.nspans;) {
		struct sm_span *s = &sm_engine.spans[at->span];

		if (at->page >= s->pages) {
			*at = (struct place){ at->span + 1, 0 };
			continue;
		}
		n += s->page[at->page].state == SM_PAGE_SEALED;
		e = sm_engine_carry(s, at->page++, key);
	}
	return e;
}

int
sm_fault_carry(void)
{
	struct place at = { 0, 0 };
	struct sm_work w;
	int e = 0;

	while (e == 0 && at.span < sm_engine.nspans) {
		e = sm_engine_begin(&w);
		if (e)
			return e;
		e = carry_some(&at, &w.key);
		sm_engine_end(&w);
	}
	sm_count_add(&sm_count.tampered, e == EBADMSG);
	if (e == EBADMSG)
		e = sm_fail(EBADMSG, "the store of a closed page was written: what lies there is "
				     "lost, and the key stays as it was");
	return e;
}

/* ------------------------------------------------------------ lock and unlock */

/* A held page that is closed all the same keeps its count. */
static int
lock(bool held)
{
	struct sm_work w;
	bool all = true;
	int e = sm_engine_begin(&w);

	if (e)
		return e;
	for (size_t f = 0; f < sm_engine.frames; f++) {
		struct sm_owner o = sm_engine.owner[f];
		bool stays = o.span && o.span->page[o.page].holds && !held;

		if (o.span && (stays || sm_engine_close(o.span, o.page, &w.key)))
			all = false;
	}
	atomic_store(&sm_engine.shut, all);
	sm_engine_end(&w);
	return all ? 0 : sm_fail(EBUSY, "the kernel is using some pages, and they stay clear: "
					"lock again once it has done");
}

int
sm_fault_lock(void)
{
	return lock(false);
}

/* What could not be closed stays open, and so must what is held. */
int
sm_fault_halt(void)
{
	int e = lock(true);

	if (e == EBUSY)
		(void)sm_fault_reopen();
	return e;
}

void
sm_fault_unlock(void)
{
	struct sm_mask m;

	sm_os_mask(&m);
	sm_engine_take();
	atomic_store(&sm_engine.shut, false);
	atomic_store(&sm_engine.put_off, false);
	sm_engine_let_go();
	sm_os_unmask(&m);
	sm_engine_wake();
}

int
sm_fault_reopen(void)
{
	struct sm_work w;
	int e = sm_engine_begin(&w);

	if (e)
		return e;
	for (size_t k = 0; k < sm_engine.nspans; k++) {
		struct sm_span *s = &sm_engine.spans[k];

		for (size_t i = 0; e == 0 && i < s->pages; i++)
			if (s->page[i].holds && s->page[i].state == SM_PAGE_SEALED)
				e = sm_engine_open(s, i, &w.key);
	}
	sm_engine_end(&w);
	return e;
}

int
sm_fault_unhalt(void)
{
	sm_fault_unlock();
	return sm_fault_reopen();
}
