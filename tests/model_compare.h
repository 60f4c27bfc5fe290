/*
 * model_compare.h - the model itself, and the library compared with it; for model.c alone
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_MODEL_COMPARE_H
#define TESTS_MODEL_COMPARE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "secmalloc.h"

#define HOLDS(cond) holds(!!(cond), #cond, __LINE__)

/** KEPT - the call makes cond true and leaves errno alone */
#define KEPT(cond)                                                                                 \
	do {                                                                                       \
		errno = ENOTTY;                                                                    \
		HOLDS(cond);                                                                       \
		HOLDS(errno == ENOTTY);                                                            \
	} while (0)

/** REFUSED - the call makes cond true and errno says code */
#define REFUSED(code, cond)                                                                        \
	do {                                                                                       \
		errno = ENOTTY;                                                                    \
		HOLDS(cond);                                                                       \
		HOLDS(errno == (code));                                                            \
	} while (0)

enum {
	SHARED_MOST = 16384,     /* a larger chunk has pages of its own */
	ROOMY_BYTES = 512 * 1024 /* with less asked for, only a tight config runs out */
};

/** struct piece - one live chunk; its content is content[slot] */
struct piece {
	unsigned char *ptr; /* NULL: the slot is empty */
	size_t size;
	size_t align;
	size_t most; /* the largest it has been at this place */
	int sealed;
	int access;
	int perhaps_alone; /* small, and the promise leaves open whether on pages of its own */
};

static struct piece pieces[MODEL_SLOTS];
static unsigned char content[MODEL_SLOTS][MODEL_SIZE_MOST];
static unsigned char scratch[MODEL_SIZE_MOST + 1];
static struct {
	uint64_t seed;
	size_t operation;
	const char *name;
	int tight;
	int isolated;
	int blind;           /* valgrind takes a try at the pages' access for a mistake */
	uint64_t locked;     /* bytes, when no chunk was live */
	uint64_t tampered;
	uint64_t high_water; /* at least */
	uintptr_t ghost;     /* a place that was given back */
} now;

/* ------------------------------------------------------------- deviations */

static inline void
tell(const char *what)
{
	fprintf(stderr, "model: seed %llu, operation %zu (%s): %s", (unsigned long long)now.seed,
		now.operation, now.name, what);
}

static inline void
holds(int cond, const char *what, int line)
{
	const int code = errno;

	if (cond)
		return;
	tell("not so: ");
	fprintf(stderr, "%s; line %d, errno %d, %s\n", what, line, code, secmalloc_error());
	abort();
}

static inline void
differs(unsigned slot, const char *what)
{
	const struct piece *p = &pieces[slot];

	tell(what);
	fprintf(stderr, "; slot %u, %zu bytes at %p, sealed %d, access %d\n", slot, p->size,
		(void *)p->ptr, p->sealed, p->access);
	abort();
}

static inline void
on_fault(enum secmalloc_fault kind, const void *ptr, void *arg)
{
	(void)arg;
	tell("fault");
	fprintf(stderr, " %d at %p\n", (int)kind, ptr);
}

/* -------------------------------------------------------------- comparing */

/* What the kernel lets this process do at ptr; the byte there is as it was afterwards. */
static inline int
access_at(unsigned char *ptr)
{
	int fds[2], access = SECMALLOC_NOACCESS;

	if (pipe(fds) != 0)
		abort();
	if (write(fds[1], ptr, 1) == 1)
		access = read(fds[0], ptr, 1) == 1 ? SECMALLOC_READWRITE : SECMALLOC_READONLY;
	close(fds[0]);
	close(fds[1]);
	return access;
}

static inline void
compare_access(unsigned slot)
{
	const struct piece *p = &pieces[slot];

	if (p->ptr && p->size && !now.blind && access_at(p->ptr) != p->access)
		differs(slot, "the pages' access is another");
}

static inline void
compare_piece(unsigned slot)
{
	const struct piece *p = &pieces[slot];
	int same;

	if (secmalloc_owns(p->ptr) != 1)
		differs(slot, "not owned");
	if (secmalloc_usable_size(p->ptr) != p->size)
		differs(slot, "another size");
	if (secmalloc_is_encrypted(p->ptr) != p->sealed)
		differs(slot, "not sealed as it should be");
	if ((uintptr_t)p->ptr % p->align != 0)
		differs(slot, "not aligned");
	if (p->access != SECMALLOC_READWRITE)
		compare_access(slot);
	if (p->access == SECMALLOC_NOACCESS || p->size == 0)
		return;
	same = memcmp(p->ptr, content[slot], p->size) == 0;
	if (!p->sealed && !same)
		differs(slot, "another content");
	if (p->sealed && same && p->size >= 16)
		differs(slot, "sealed, yet clear");
}

/* The most that an open chunk locks: of its size class or its run, and an end on both sides. */
static inline uint64_t
window_most(const struct piece *p)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return (p->most + p->most / 4 + p->align + 64) / page * page + 2 * page;
}

/* Only pages that an open chunk lies on are locked beyond what init has locked. */
static inline void
compare_locked(uint64_t locked)
{
	uint64_t most = now.locked;

	for (unsigned i = 0; i < MODEL_SLOTS; i++)
		if (pieces[i].ptr && !pieces[i].sealed)
			most += window_most(&pieces[i]);
	HOLDS(locked >= now.locked);
	HOLDS(locked <= most);
}

static inline void
compare_all(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	uint64_t chunks = 0, sealed = 0, bytes = 0, clear = 0;

	errno = ENOTTY;
	for (unsigned i = 0; i < MODEL_SLOTS; i++) {
		if (!pieces[i].ptr)
			continue;
		compare_piece(i);
		chunks++;
		sealed += (unsigned)pieces[i].sealed;
		bytes += pieces[i].size;
		clear += pieces[i].sealed ? 0 : pieces[i].size;
	}
	HOLDS(secmalloc_stats(&s) == 0);
	if (now.high_water < bytes)
		now.high_water = bytes;
	HOLDS(s.chunks == chunks);
	HOLDS(s.chunks_encrypted == sealed);
	HOLDS(s.bytes == bytes);
	HOLDS(s.bytes_clear == clear);
	HOLDS(s.bytes_high_water >= now.high_water);
	HOLDS(s.tampered == now.tampered);
	compare_locked(s.locked_bytes);
}

static inline void
compare_neighbours(unsigned slot)
{
	const uintptr_t from = (uintptr_t)pieces[slot].ptr;
	const size_t size = pieces[slot].size;

	for (unsigned i = 0; i < MODEL_SLOTS; i++) {
		const uintptr_t other = (uintptr_t)pieces[i].ptr;

		if (i == slot || other == 0)
			continue;
		if (from == other || (from < other && other - from < size) ||
			(other < from && from - other < pieces[i].size))
			differs(slot, "overlaps another chunk");
	}
}

#endif /* TESTS_MODEL_COMPARE_H */
