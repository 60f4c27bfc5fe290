/*
 * A pool that is locked as a whole, as its pages come, counts as a whole against RLIMIT_MEMLOCK. It
 * was locked by a program that had the privilege, or room: once it has neither, nothing else could be
 * locked any more, not the next pool's pages either. Then clear pages alone are locked.
 */
#include "fault/inside.h"

static size_t
whole_bytes(void)
{
	size_t n = 0;

	for (size_t k = 0; k < sm_engine.nspans; k++)
		if (sm_engine.spans[k].u && sm_engine.spans[k].locked)
			n += sm_engine.spans[k].pages * sm_engine.page_bytes;
	return n;
}

/* What is closed is not there, and is locked before it opens. */
static void
thin(struct sm_span *s)
{
	size_t page = sm_engine.page_bytes, from = 0;

	for (size_t i = 0; i <= s->pages; i++) {
		if (i < s->pages && s->page[i].state != SM_PAGE_CLEAR)
			continue;
		if (i > from)
			sm_mover->unlock(s->u + from * page, (i - from) * page);
		from = i + 1;
	}
	s->locked = false;
}

bool
sm_engine_thin(bool must)
{
	size_t limit = sm_os_lock_limit(), whole = whole_bytes();

	if (limit == SIZE_MAX || whole == 0 || (!must && whole <= limit / 2))
		return false;
	if (sm_engine.frames * sm_engine.page_bytes >= limit / 2)
		return false; /* page by page there would be no room either */
	for (size_t k = 0; k < sm_engine.nspans; k++)
		if (sm_engine.spans[k].u && sm_engine.spans[k].locked)
			thin(&sm_engine.spans[k]);
	return true;
}

int
sm_engine_lock_page(const struct sm_span *s, void *u)
{
	int e = s->locked ? 0 : sm_mover->lock(u, sm_engine.page_bytes);

	return e && sm_engine_thin(true) ? sm_mover->lock(u, sm_engine.page_bytes) : e;
}
