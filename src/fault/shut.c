/* Where no page of U has a mapping of its own, the engine knows which of them are guards. */
#include "fault/inside.h"

#include <string.h>

static bool
mark_pages(unsigned char *base, size_t bytes, enum sm_page_state state)
{
	struct sm_mask m;
	struct sm_span *s;
	size_t first;

	if (!sm_mover->shared)
		return false;
	sm_os_mask(&m);
	sm_engine_take();
	s = sm_engine_span(base);
	first = sm_engine_index(s, base);
	for (size_t i = first; i < first + bytes / sm_engine.page_bytes; i++) {
		if (s->page[i].state == SM_PAGE_CLEAR) /* touched where it was free and not shut */
			sm_engine_discard(s, i);
		s->page[i].state = (uint8_t)state;
	}
	sm_engine_let_go();
	sm_os_unmask(&m);
	return true;
}

bool
sm_fault_shut(unsigned char *base, size_t bytes)
{
	return mark_pages(base, bytes, SM_PAGE_SHUT);
}

/* Where the kernel guards pages, what is known of a run is how long it is. */
static void
note_run(unsigned char *base, size_t bytes)
{
	struct sm_mask m;
	struct sm_span *s;
	size_t first, n;

	sm_os_mask(&m);
	sm_engine_take();
	s = sm_engine_span(base);
	first = sm_engine_index(s, base);
	n = bytes / sm_engine.page_bytes;
	for (size_t k = 0; k < n; k++)
		s->page[first + k].ahead = (uint8_t)sm_min_size(n - 1 - k, UINT8_MAX);
	sm_engine_let_go();
	sm_os_unmask(&m);
}

bool
sm_fault_reach(unsigned char *base, size_t bytes)
{
	if (!sm_mover->shared)
		note_run(base, bytes);
	return mark_pages(base, bytes, SM_PAGE_VIRGIN);
}

/* Whole pages; of one that is not, others may have the rest. */
static size_t
forget_pages(unsigned char *at, size_t bytes)
{
	struct sm_mask m;
	struct sm_span *s;
	size_t first, n = bytes / sm_engine.page_bytes;

	sm_os_mask(&m);
	sm_engine_take();
	s = sm_engine_span(at);
	first = s ? sm_engine_index(s, at) : 0;
	n = s ? sm_min_size(n, s->pages - first) : 0;
	if (n)
		sm_engine_discard_all(s, first, n);
	for (size_t i = first; i < first + n; i++)
		if (s->page[i].state != SM_PAGE_SHUT)
			s->page[i].state = SM_PAGE_VIRGIN;
	sm_engine_let_go();
	sm_os_unmask(&m);
	return n * sm_engine.page_bytes;
}

bool
sm_fault_forget(void *at, size_t bytes)
{
	size_t done;

	if (!sm_engine_span(at))
		return false;
	done = forget_pages(at, bytes);
	if (done < bytes && bytes - done < sm_engine.page_bytes)
		memset((unsigned char *)at + done, 0, bytes - done);
	return true;
}

/* From a page's beginning to a page's end, as the kernel takes them. */
static bool
meets(const void *base, size_t n, uintptr_t from, uintptr_t to)
{
	return base && (uintptr_t)base < to && from < (uintptr_t)base + n;
}

bool
sm_fault_meets(const void *at, size_t bytes)
{
	size_t page = sm_engine.page_bytes;
	uintptr_t from = (uintptr_t)at & ~(uintptr_t)(page - 1);
	uintptr_t to = bytes > UINTPTR_MAX - (uintptr_t)at - page ? UINTPTR_MAX :
			sm_round_up((uintptr_t)at + bytes, page);

	if (meets(sm_engine.p.base, sm_engine.p.bytes, from, to))
		return true;
	for (size_t k = 0; k < sm_engine.nspans; k++)
		if (meets(sm_engine.spans[k].u, sm_engine.spans[k].pages * page, from, to))
			return true;
	return false;
}

void
sm_engine_deny(void *at)
{
	struct sm_span *s;
	bool clear;

	if (sm_frame_stuff(at))
		return;
	sm_engine_take();
	s = sm_engine_span(at);
	clear = !s || s->page[sm_engine_index(s, at)].state == SM_PAGE_CLEAR;
	sm_engine_let_go();
	if (clear) /* by now */
		sm_uffd_wake(sm_engine.fd, at);
}
