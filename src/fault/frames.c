#include "fault/inside.h"

#include <errno.h>

enum { MAPPINGS_PER_FRAME = 8 }; /* one for an open page, one behind it, and as many for the program */

/* ---------------------------------------------------------- start and stop */

static int
obtain_frames(size_t bytes)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require & ~(unsigned)SECMALLOC_HIDDEN,
		.without = c->without | SECMALLOC_HIDDEN, .shared = sm_mover->shared };
	int e = sm_os_reserve(bytes, &sm_engine.p_reserved);

	if (e)
		return e;
	if (sm_mover->shared)
		wish.without = c->without;
	e = sm_os_obtain(sm_engine.p_reserved, bytes, &wish, &sm_engine.p);
	if (e) {
		sm_os_unreserve(sm_engine.p_reserved, bytes);
		sm_engine.p_reserved = NULL;
	}
	return e;
}

static void
fill_frames(void)
{
	sm_engine.nfree = 0;
	for (size_t f = sm_engine.frames; f > 0; f--)
		sm_engine.free[sm_engine.nfree++] = (uint32_t)(f - 1);
}

static int
obtain_tables(void)
{
	size_t owners = sm_engine.frames * sizeof(*sm_engine.owner);
	size_t bytes = sm_round_up(owners + sm_engine.frames * sizeof(*sm_engine.free),
		sm_engine.page_bytes);
	void *at;
	int e = sm_os_plain(bytes, &at);

	if (e)
		return e;
	sm_engine.table_bytes = bytes;
	sm_engine.owner = at;
	sm_engine.free = (uint32_t *)(void *)((unsigned char *)at + owners);
	fill_frames();
	return 0;
}

static int
watch_frames(void)
{
	int e = sm_mover->watch(sm_engine.fd, sm_engine.p.base, sm_engine.p.bytes);

	return e ? sm_fail(ENOTSUP, "the kernel refused to watch pages (%d)", e) : 0;
}

int
sm_engine_start(int fd)
{
	size_t page = sm_os_page_bytes(), n = sm_config()->clear_bytes / page;
	int e;

	sm_engine = (struct sm_engine){ .fd = fd, .page_bytes = page };
	if (sm_mover->shared)
		n = sm_min_size(n, sm_os_map_limit() / MAPPINGS_PER_FRAME);
	sm_engine.frames = (n < SM_FRAMES_LEAST ? SM_FRAMES_LEAST : n) + SM_FRAMES_SPARE;
	if (sm_mover->shared && sm_os_lock_limit() / 2 < sm_engine.frames * page)
		return sm_fail(ENOMEM, "without userfaultfd each open page is locked twice: lower "
			"clear_limit, or raise RLIMIT_MEMLOCK to %zu", 2 * sm_engine.frames * page);
	e = obtain_frames(sm_engine.frames * page);
	if (e)
		return e;
	e = obtain_tables();
	if (e == 0)
		e = watch_frames();
	if (e)
		sm_engine_stop();
	return e;
}

int
sm_engine_revive(int fd)
{
	size_t bytes = sm_engine.p.bytes;
	int e;

	if (!sm_engine.p.absent) /* else there is a hole, or by now another's page */
		sm_os_unreserve(sm_engine.p_reserved, bytes);
	sm_engine.p = (struct sm_area){ 0 };
	sm_engine.fd = fd;
	atomic_store(&sm_engine.next, 0);
	atomic_store(&sm_engine.serving, 0);
	atomic_store(&sm_engine.forker, 0);
	atomic_store(&sm_engine.put_off, false);
	atomic_store(&sm_engine.clear, 0);
	atomic_store(&sm_engine.clear_most, 0);
	memset(sm_engine.owner, 0, sm_engine.frames * sizeof(*sm_engine.owner));
	fill_frames();
	e = obtain_frames(bytes);
	return e ? e : watch_frames();
}

/* Every page is in P again. */
void
sm_engine_stop(void)
{
	size_t bytes = sm_engine.p.bytes;

	if (sm_engine.p.base) {
		sm_mover->unwatch(sm_engine.fd, sm_engine.p.base, bytes);
		sm_wipe(sm_engine.p.base, bytes);
		sm_os_release(&sm_engine.p);
		sm_os_unreserve(sm_engine.p_reserved, bytes);
	}
	sm_os_unreserve(sm_engine.owner, sm_engine.table_bytes);
	sm_engine = (struct sm_engine){ .fd = -1 };
}

/* ---------------------------------------------------------------- figures */

uint64_t
sm_fault_clear_bytes(void)
{
	return atomic_load(&sm_engine.clear) * sm_engine.page_bytes;
}

uint64_t
sm_fault_clear_bytes_most(void)
{
	return atomic_load(&sm_engine.clear_most) * sm_engine.page_bytes;
}

uint64_t
sm_fault_served(void)
{
	return atomic_load(&sm_engine.served);
}

uint64_t
sm_fault_closed(void)
{
	return atomic_load(&sm_engine.closed);
}
