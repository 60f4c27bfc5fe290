/*
 * inside.h - what the files of the preloaded library share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * The library stands between a program that knows nothing of it and the C library. Nothing here
 * calls what allocates, but for the start, whose allocations come from the early arena.
 */
#ifndef SM_PRELOAD_INSIDE_H
#define SM_PRELOAD_INSIDE_H

#include "base/base.h"

#define SM_SHOWN __attribute__((visibility("default")))

/* ------------------------------------------------------------------- start */

enum sm_run { SM_RUN_DOWN = 0, SM_RUN_STARTING, SM_RUN_UP };
extern _Atomic unsigned sm_run_state;

/** sm_run_begin - start, if it is time; false: not yet, or under way. Ends a process that it may
 *  not protect as was asked, with a sentence and status 2. */
SM_COLD bool sm_run_begin(bool now);

/** sm_run_ready - memory comes from the heap; false: from the early arena */
static inline bool
sm_run_ready(void)
{
	return SM_LIKELY(atomic_load_explicit(&sm_run_state, memory_order_acquire) == SM_RUN_UP) ||
		sm_run_begin(false);
}

/** Bytes asked for so far, of either. */
struct sm_asked {
	_Atomic uint64_t heap, early;
};
extern struct sm_asked sm_asked;

/* ----------------------------------------------------------------- options */

/** What the launcher asks for, by the variable SECMALLOC_RUN. */
struct sm_options {
	size_t clear_bytes; /* 0: the default */
	unsigned reseal_ms; /* 0: never */
	unsigned mode;	    /* the weakest that will do: secmalloc_stats.mode */
	long stats_pid;	    /* whose end is worth a line; 0: nobody's */
	const char *store;  /* NULL: in memory */
	bool has_daemon;
	char daemon[128]; /* where it listens; "": in its default place */
};

/** sm_options_read - false: not to be understood */
bool sm_options_read(const char *text, struct sm_options *o);

/* ----------------------------------------------------------- the early arena */

/** sm_early_alloc - zeros, never given back, before and during the start, and while a thread forks.
 * NULL: none left, or it cannot be locked. */
void *sm_early_alloc(size_t size, size_t align);
bool sm_early_owns(const void *p);
/** sm_early_meets - some of these bytes are in it */
bool sm_early_meets(const void *p, size_t n);
/** sm_early_size - exactly what was asked for */
size_t sm_early_size(const void *p);
/** sm_early_lock - all that is used of it is locked; false: it cannot be */
bool sm_early_lock(void);
/** sm_early_begin - from now on it is locked in forked children, too */
void sm_early_begin(void);

/* ------------------------------------------------- alignments beyond a page */

/** sm_wide_alloc - NULL with errno */
void *sm_wide_alloc(size_t size, size_t align);
/** sm_wide_size - false: not one of these */
bool sm_wide_size(const void *p, size_t *size);
/** sm_wide_free - false: not one of these */
bool sm_wide_free(void *p);

/* --------------------------------------------------------------------- ids */

/** sm_ids_begin, sm_keep_begin - look up the functions that ids.c and keep.c stand before */
void sm_ids_begin(void);
void sm_keep_begin(void);
/** sm_keep_is_heap - some of these bytes are on pages of ours */
bool sm_keep_is_heap(const void *at, size_t n);
/** sm_direct_begin - from now on O_DIRECT is for parts of so many clear bytes; 0: the default */
void sm_direct_begin(size_t clear_bytes);

/* -------------------------------------------------------------------- text */

/** One line, put together without the C library's help. */
struct sm_line {
	char text[640];
	size_t n;
};
void sm_line_word(struct sm_line *l, const char *word);
void sm_line_number(struct sm_line *l, uint64_t n);
/** sm_line_show - with a newline */
void sm_line_show(struct sm_line *l, int fd);

#endif
