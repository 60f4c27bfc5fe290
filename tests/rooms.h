/*
 * rooms.h - what the tests that look inside the rooms share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_ROOMS_H
#define TESTS_ROOMS_H

#include "contract.h"
#include "heap/inside.h"

/** EACH - ck_assert for a loop's body: check writes a note of each success, which takes long */
#define EACH(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			ck_abort_msg("line %d: %s", __LINE__, #cond);                              \
	} while (0)

#define PAGE (sm_os_page_bytes())
#define SPAN(pages) ((pages) * PAGE - 64) /* bytes of a large chunk that fills that many pages */

/** struct spot - the run that a chunk lies in */
struct spot {
	struct sm_region *r;
	struct sm_run run;
	size_t first; /* page of the region */
	unsigned char *base;
};

/** start - a house of pools this small; 0: as secmalloc_init has it */
static inline void
start(size_t pool_pages, unsigned initial, unsigned most)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.pool_size = pool_pages * PAGE;
	c.initial_pools = initial;
	c.max_pools = most;
	MUST(secmalloc_init(&c) == 0);
}

/** trim - whatever rests is ready to be used again, and what is empty then is given back */
static inline bool
trim(void)
{
	bool any = sm_arena_trim(true);

	sm_large_trim();
	return any;
}

/** region_of_record - the region whose record this is */
static inline struct sm_region *
region_of_record(const struct sm_chunk *c)
{
	for (unsigned i = 0; i < sm_region_count; i++)
		if ((size_t)(c - sm_regions[i].records) < sm_regions[i].pages * sm_records_per_page())
			return &sm_regions[i];
	return NULL;
}

static inline enum sm_found
find(const void *p)
{
	struct sm_chunk *c;

	return sm_heap_find(p, &c);
}

/** record_of - the record of a place, live or not */
static inline struct sm_chunk *
record_of(const void *p)
{
	struct sm_chunk *c = NULL;

	EACH(p && sm_heap_find(p, &c) == SM_FOUND);
	return c;
}

static inline struct spot
spot_of(const void *p)
{
	struct spot s = { .r = sm_region_of(p) };
	size_t page;

	EACH(s.r != NULL);
	page = ((uintptr_t)p - (uintptr_t)s.r->base) / PAGE;
	s.run = sm_run_at(s.r, page);
	s.first = page - s.run.back;
	s.base = s.r->base + s.first * PAGE;
	return s;
}

/** readable - whether the byte at p can be read, asked of the kernel */
static inline bool
readable(const void *p)
{
	char c;
	int fds[2];
	bool yes;

	EACH(pipe(fds) == 0);
	yes = write(fds[1], launder(p), 1) == 1;
	EACH(!yes || read(fds[0], &c, 1) == 1);
	close(fds[0]);
	close(fds[1]);
	return yes;
}

/** run_rooms - what main returns: 77, which is a skip, where too little may be locked */
static inline int
run_rooms(Suite *s)
{
	const size_t least = 8 * MIB; /* the kernel's default */

	if (sm_os_lock_limit() >= least)
		return run(s);
	printf("skipped: RLIMIT_MEMLOCK is %zu, these tests lock up to %zu bytes\n",
		sm_os_lock_limit(), least);
	return 77;
}

#endif /* TESTS_ROOMS_H */
