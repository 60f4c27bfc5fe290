#include "fault/inside.h"

#include <errno.h>

int
sm_uffd_open(enum sm_mode mode)
{
	(void)mode;
	return -1;
}

void
sm_uffd_keep(void)
{
}

void
sm_uffd_let_go(void)
{
}

int
sm_uffd_watch(int fd, void *base, size_t bytes)
{
	(void)fd, (void)base, (void)bytes;
	return ENOTSUP;
}

void
sm_uffd_unwatch(int fd, void *base, size_t bytes)
{
	(void)fd, (void)base, (void)bytes;
}

int
sm_uffd_move(int fd, void *to, void *from)
{
	(void)fd, (void)to, (void)from;
	return ENOTSUP;
}

int
sm_uffd_place(int fd, void *to, void *from)
{
	(void)fd, (void)to, (void)from;
	return ENOTSUP;
}

int
sm_uffd_fill(int fd, void *to)
{
	(void)fd, (void)to;
	return ENOTSUP;
}

void
sm_uffd_empty(void *at, size_t bytes)
{
	(void)at, (void)bytes;
}

void
sm_uffd_wake(int fd, void *page)
{
	(void)fd, (void)page;
}

void
sm_uffd_wake_all(int fd, void *base, size_t bytes)
{
	(void)fd, (void)base, (void)bytes;
}

int
sm_uffd_bring(int fd, void *at, size_t pages, size_t *done)
{
	(void)fd, (void)at, (void)pages, (void)done;
	return ENOTSUP;
}

size_t
sm_uffd_move_some(int fd, void *to, void *from, size_t pages)
{
	(void)fd, (void)to, (void)from, (void)pages;
	return 0;
}

int
sm_uffd_self(void)
{
	return 0;
}

int
sm_uffd_teller(void)
{
	return 0;
}

bool
sm_uffd_is_ours(void)
{
	return true;
}

void *
sm_uffd_next(int fd, int bell, unsigned ms, bool *rings)
{
	(void)fd, (void)bell, (void)ms, (void)rings;
	return NULL;
}

int
sm_uffd_lock(void *base, size_t bytes)
{
	(void)base, (void)bytes;
	return ENOTSUP;
}

void
sm_uffd_unlock(void *base, size_t bytes)
{
	(void)base, (void)bytes;
}

const struct sm_mover sm_uffd = { sm_uffd_watch, sm_uffd_unwatch, sm_uffd_move, sm_uffd_move,
	sm_uffd_fill, sm_uffd_empty, sm_uffd_bring, sm_uffd_move_some, sm_uffd_wake, sm_uffd_lock,
	sm_uffd_unlock, false };
const struct sm_mover sm_slots = { sm_uffd_watch, sm_uffd_unwatch, sm_uffd_move, sm_uffd_move,
	sm_uffd_fill, sm_uffd_empty, sm_uffd_bring, sm_uffd_move_some, sm_uffd_wake, sm_uffd_lock,
	sm_uffd_unlock, true };
