/*
 * Pages that nobody may touch: guards, and what is free. They hold nothing and are not there, and of
 * whoever touches a page that is not there the engine hears first: so it is enough that it knows. It
 * takes access to such a page away once somebody does, and the kernel says the rest: a thread gets
 * SIGSEGV, a system call EFAULT. So a run comes and goes without a system call, and a pool is one
 * mapping, in which pages move many at once.
 */
#include "fault/inside.h"

#include <string.h>

/* What is there goes. A page that is closed may have been protected by the program, unnoticed. */
static void
put_down(unsigned char *base, size_t bytes, bool shut)
{
	struct sm_mask m;
	struct sm_span *s;
	struct sm_page *p, *end;

	sm_os_mask(&m);
	sm_engine_take();
	s = sm_engine_span(base);
	p = &s->page[sm_engine_index(s, base)];
	end = p + bytes / sm_engine.page_bytes;
	sm_engine_discard_all(s, (size_t)(p - s->page), (size_t)(end - p));
	for (; p < end; p++) {
		bool known = p->state == SM_PAGE_VIRGIN || sm_mover->shared;

		p->state = !shut ? SM_PAGE_VIRGIN : known ? SM_PAGE_SHUT : SM_PAGE_WALLED;
		p->holds = 0;
		p->ahead = 0;
	}
	sm_engine_let_go();
	sm_os_unmask(&m);
}

void
sm_fault_drop(unsigned char *base, size_t bytes)
{
	put_down(base, bytes, false);
}

void
sm_fault_shut(unsigned char *base, size_t bytes)
{
	put_down(base, bytes, true);
}

static int
lift_walls(const struct sm_page *p, unsigned char *base, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i].state == SM_PAGE_WALLED)
			return sm_os_access(base, n * sm_engine.page_bytes, SECMALLOC_READWRITE);
	return 0;
}

/* Where guards failed, somebody may have touched it already. */
int
sm_fault_reach(unsigned char *base, size_t bytes)
{
	size_t n = bytes / sm_engine.page_bytes;
	struct sm_mask m;
	struct sm_span *s;
	struct sm_page *p;
	int e;

	sm_os_mask(&m);
	sm_engine_take();
	s = sm_engine_span(base);
	p = &s->page[sm_engine_index(s, base)];
	e = lift_walls(p, base, n);
	for (size_t i = 0; e == 0 && i < n; i++) {
		if (sm_page_barred(&p[i]))
			p[i].state = SM_PAGE_VIRGIN;
		p[i].ahead = (uint8_t)sm_min_size(n - 1 - i, UINT8_MAX);
	}
	if (e == 0)
		sm_engine_await(s, (size_t)(p - s->page), n);
	sm_engine_let_go();
	sm_os_unmask(&m);
	return e;
}

/* ------------------------------------------------------------ who touches it */

/* And all beside it, so that walls are few. */
static void
wall(struct sm_span *s, size_t i)
{
	size_t first = i, end = i + 1, page = sm_engine.page_bytes;

	while (first > 0 && sm_page_barred(&s->page[first - 1]))
		first--;
	while (end < s->pages && sm_page_barred(&s->page[end]))
		end++;
	if (sm_os_guard(s->u + first * page, (end - first) * page))
		sm_die_of("a guard was touched, and access to it could not be taken away: raise "
			  "vm.max_map_count", s->u + i * page);
	for (size_t k = first; k < end; k++)
		s->page[k].state = SM_PAGE_WALLED;
	sm_mover->wake(sm_engine.fd, s->u + i * page);
}

bool
sm_engine_bars(void *at)
{
	struct sm_span *s;
	bool barred;

	sm_engine_take();
	s = sm_engine_span(at);
	barred = s && sm_page_barred(&s->page[sm_engine_index(s, at)]);
	if (barred && !sm_mover->shared)
		wall(s, sm_engine_index(s, at));
	sm_engine_let_go();
	return barred;
}

/* A debugger looks through a wall, and waits. */
void
sm_engine_deny(void *at)
{
	struct sm_span *s;
	uint8_t state = SM_PAGE_CLEAR;

	if (sm_frame_stuff(at))
		return;
	sm_engine_take();
	s = sm_engine_span(at);
	if (s)
		state = s->page[sm_engine_index(s, at)].state;
	if (state == SM_PAGE_SHUT)
		wall(s, sm_engine_index(s, at));
	sm_engine_let_go();
	if (state == SM_PAGE_CLEAR) /* by now */
		sm_uffd_wake(sm_engine.fd, at);
}

/* -------------------------------------------------------------- what is advised */

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
		if (!sm_page_barred(&s->page[i]))
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
