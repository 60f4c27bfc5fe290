/*
 * For kernels that move no pages: a frame of P is shared memory, and an open page is a second
 * mapping of its frame, made by mremap(2) of no bytes, which takes the frame's advice along:
 * children and dumps have neither. A closed page of U is address space without access.
 */
#include "fault/inside.h"

#include <errno.h>
#include <sys/mman.h>

enum { RESERVED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };

/* Nothing is advised on it, so that it is one mapping with what lies beside it. */
static int
cover(void *base, size_t bytes)
{
	return mmap(base, bytes, PROT_NONE, RESERVED | MAP_FIXED, -1, 0) == MAP_FAILED ? errno : 0;
}

/* Where the kernel has made a hole before it failed, it is covered. */
static int
put(int fd, void *u, void *frame)
{
	size_t page = sm_engine.page_bytes;
	int e;

	(void)fd;
	if (mremap(frame, 0, page, MREMAP_MAYMOVE | MREMAP_FIXED, u) != MAP_FAILED)
		return 0;
	e = errno;
	sm_os_cover(u, page, true);
	return e;
}

/* From here on no thread reaches the frame but by P; who tries waits for the engine. */
static int
take(int fd, void *frame, void *u)
{
	size_t page = sm_engine.page_bytes;

	(void)fd, (void)frame;
	if (cover(u, page) == 0)
		return 0;
	return mprotect(u, page, PROT_NONE) ? errno : 0;
}

/* A page that is open is put there once more: the program may have thrown it away. */
static int
zero(int fd, void *at)
{
	struct sm_span *s = sm_engine_span(at);
	struct sm_page *p = s ? &s->page[sm_engine_index(s, at)] : NULL;
	size_t page = sm_engine.page_bytes;

	if (!p)
		return EINVAL;
	if (p->state == SM_PAGE_CLEAR)
		return put(fd, at, sm_engine.p.base + p->frame * page);
	return mmap(at, page, PROT_READ | PROT_WRITE, RESERVED | MAP_FIXED, -1, 0) == MAP_FAILED ?
		errno : 0;
}

/* Whether two mappings of a frame are the same page, and one goes without the other. */
static int
probe(void)
{
	volatile unsigned char *frame = sm_engine.p.base, *u;
	void *scratch;
	int e = sm_os_reserve(sm_engine.page_bytes, &scratch);

	if (e)
		return e;
	u = scratch;
	e = put(-1, scratch, sm_engine.p.base);
	if (e == 0) {
		*u = 1;
		e = *frame == 1 ? take(-1, sm_engine.p.base, scratch) : ENOTSUP;
		*frame = 0;
	}
	sm_os_unreserve(scratch, sm_engine.page_bytes);
	return e;
}

static int
watch(int fd, void *base, size_t bytes)
{
	(void)fd;
	return base == sm_engine.p.base ? probe() : cover(base, bytes);
}

static void
unwatch(int fd, void *base, size_t bytes)
{
	(void)fd;
	if (base != sm_engine.p.base)
		(void)cover(base, bytes);
}

/* What take leaves is empty. */
static void
empty(void *at, size_t bytes)
{
	(void)at, (void)bytes;
}

/* Every frame is there from the start. */
static int
bring(int fd, void *at, size_t pages, size_t *done)
{
	(void)fd, (void)at, (void)pages, (void)done;
	return ENOTSUP;
}

/* One by one. */
static size_t
some(int fd, void *to, void *from, size_t pages)
{
	(void)fd, (void)to, (void)from, (void)pages;
	return 0;
}

static void
wake(int fd, void *page)
{
	(void)fd, (void)page;
}

/* The second mapping is locked as the first one is. */
static int
lock(void *base, size_t bytes)
{
	(void)base, (void)bytes;
	return 0;
}

static void
unlock(void *base, size_t bytes)
{
	(void)base, (void)bytes;
}

const struct sm_mover sm_slots = { watch, unwatch, put, take, zero, empty, bring, some, wake, lock,
	unlock, true };
