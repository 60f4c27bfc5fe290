/*
 * early.c - memory before the heap runs: what ld.so, libsodium and the start itself ask for
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * It is not watched, so that whoever opens pages never waits for himself: the tables of his own
 * thread lie here. Little of it is used, and that is locked before anything lies there: a program
 * whose start cannot be locked is not started, and later there is no memory.
 */
#include "inside.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { EARLY_BYTES = 16 << 20, HEAD_BYTES = 16 };

static _Atomic(unsigned char *) base;
static _Atomic size_t used;

static unsigned char *
arena(void)
{
	unsigned char *at = atomic_load_explicit(&base, memory_order_acquire), *none = NULL;
	void *made;

	if (at)
		return at;
	made = mmap(NULL, EARLY_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (made == MAP_FAILED)
		return NULL;
	(void)madvise(made, EARLY_BYTES, MADV_DONTDUMP);
	if (atomic_compare_exchange_strong(&base, &none, made))
		return made;
	munmap(made, EARLY_BYTES);
	return none;
}

/* Whole pages; those that are locked already stay so. */
static bool
locked(unsigned char *at, size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uintptr_t from = (uintptr_t)at & ~(uintptr_t)(page - 1);

	return syscall(SYS_mlock, from, (uintptr_t)at + n - from) == 0;
}

/* The size stands in front of the bytes. */
void *
sm_early_alloc(size_t size, size_t align)
{
	unsigned char *at = arena();
	size_t room, from;

	if (align < HEAD_BYTES)
		align = HEAD_BYTES;
	if (!at || size > EARLY_BYTES / 2 || align > EARLY_BYTES / 4)
		return NULL;
	room = sm_round_up(size + 1, HEAD_BYTES) + align + HEAD_BYTES;
	if (atomic_load(&used) > EARLY_BYTES - room)
		return NULL;
	from = atomic_fetch_add(&used, room);
	if (from > EARLY_BYTES - room)
		return NULL;
	if (!locked(at + from, room) && atomic_load(&sm_run_state) == SM_RUN_UP)
		return NULL; /* before, sm_early_lock is asked */
	at = (unsigned char *)sm_round_up((uintptr_t)at + from + HEAD_BYTES, align);
	memcpy(at - sizeof(size), &size, sizeof(size));
	sm_count_add(&sm_asked.early, size);
	return at;
}

bool
sm_early_owns(const void *p)
{
	unsigned char *at = atomic_load_explicit(&base, memory_order_acquire);

	return at && (uintptr_t)p - (uintptr_t)at < EARLY_BYTES;
}

bool
sm_early_meets(const void *p, size_t n)
{
	unsigned char *at = atomic_load_explicit(&base, memory_order_acquire);

	return at && (uintptr_t)p < (uintptr_t)at + EARLY_BYTES &&
		n > (uintptr_t)at - sm_min_size((uintptr_t)p, (uintptr_t)at);
}

size_t
sm_early_size(const void *p)
{
	size_t size;

	memcpy(&size, (const unsigned char *)p - sizeof(size), sizeof(size));
	return size;
}

bool
sm_early_lock(void)
{
	unsigned char *at = atomic_load_explicit(&base, memory_order_acquire);

	return !at || locked(at, sm_min_size(atomic_load(&used), EARLY_BYTES));
}

/* A child inherits no lock. */
static void
in_child(void)
{
	if (!sm_early_lock())
		sm_die_of("what was allocated before the start could not be locked in this child: "
			  "raise RLIMIT_MEMLOCK (LimitMEMLOCK=)", NULL);
}

void
sm_early_begin(void)
{
	(void)pthread_atfork(NULL, NULL, in_child);
}
