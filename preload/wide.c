/*
 * wide.c - alignments beyond a page: part of a larger chunk, and a table of which
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Without a lock, so that a child of fork never finds one taken. The table lies outside the heap.
 */
#include "inside.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 1 << 16, FARTHEST = 1 << 12, TAKEN = 1 };

struct slot {
	_Atomic uintptr_t at; /* 0 free, TAKEN being filled in; what the program has */
	void *chunk;
	size_t size; /* as asked for */
};

static _Atomic(struct slot *) slots;
static _Atomic size_t reach; /* no entry is so far from its place */

static struct slot *
table(void)
{
	struct slot *t = atomic_load_explicit(&slots, memory_order_acquire), *none = NULL;
	void *made;

	if (t)
		return t;
	made = mmap(NULL, SLOTS * sizeof(*t), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (made == MAP_FAILED)
		return NULL;
	if (atomic_compare_exchange_strong(&slots, &none, made))
		return made;
	munmap(made, SLOTS * sizeof(*t));
	return none;
}

static size_t
place_of(uintptr_t at)
{
	return (size_t)(((uint64_t)at >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> 48);
}

_Static_assert(SLOTS == 1 << 16, "a place is 16 bits");

static struct slot *
find(const void *p)
{
	struct slot *t = atomic_load_explicit(&slots, memory_order_acquire);
	size_t far = atomic_load(&reach), from;

	if (!t || (uintptr_t)p & 0xfff)
		return NULL;
	from = place_of((uintptr_t)p);
	for (size_t i = 0; i < far; i++)
		if (atomic_load(&t[(from + i) % SLOTS].at) == (uintptr_t)p)
			return &t[(from + i) % SLOTS];
	return NULL;
}

static void
stretch(size_t far)
{
	size_t seen = atomic_load(&reach);

	while (seen < far && !atomic_compare_exchange_weak(&reach, &seen, far))
		;
}

static int
note(uintptr_t at, void *chunk, size_t size)
{
	struct slot *t = table();

	for (size_t i = 0; t && i < FARTHEST; i++) {
		struct slot *s = &t[(place_of(at) + i) % SLOTS];
		uintptr_t none = 0;

		if (!atomic_compare_exchange_strong(&s->at, &none, TAKEN))
			continue;
		s->chunk = chunk;
		s->size = size;
		stretch(i + 1);
		atomic_store(&s->at, at);
		return 0;
	}
	return ENOMEM;
}

void *
sm_wide_alloc(size_t size, size_t align)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), more;
	uintptr_t at;
	void *chunk;

	if (__builtin_add_overflow(size, align - page, &more) || more > PTRDIFF_MAX) {
		errno = ENOMEM;
		return NULL;
	}
	chunk = secaligned_alloc(page, more);
	if (!chunk)
		return NULL;
	at = sm_round_up((uintptr_t)chunk, align);
	if (note(at, chunk, size)) {
		secfree(chunk);
		errno = ENOMEM;
		return NULL;
	}
	return (void *)at;
}

bool
sm_wide_size(const void *p, size_t *size)
{
	struct slot *s = find(p);

	if (s)
		*size = s->size;
	return s;
}

/* Of two threads that free it one comes too late, and the heap names its mistake. */
bool
sm_wide_free(void *p)
{
	struct slot *s = find(p);
	uintptr_t at = (uintptr_t)p;
	void *chunk;

	if (!s)
		return false;
	chunk = s->chunk;
	if (!atomic_compare_exchange_strong(&s->at, &at, 0))
		return false;
	secfree(chunk);
	return true;
}
