/*
 * transparent.h - what the tests of SECMALLOC_TRANSPARENT share: both ways to serve a fault
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_TRANSPARENT_H
#define TESTS_TRANSPARENT_H

#include "contract.h"
#include "no_uffd.h"
#include <stdbool.h>
#include <sys/prctl.h>

enum { BY_THREAD = 1, BY_SIGNAL = 2 };

/** transparent_config - so many pages may be clear at once */
static inline struct secmalloc_config
transparent_config(size_t clear_pages)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.flags = SECMALLOC_TRANSPARENT;
	c.clear_limit = clear_pages * 4096;
	c.pool_size = 4 * MIB;
	return c;
}

/** enter_mode - in a child: as root a thread of the library serves, as nobody who touches */
static inline void
enter_mode(int mode, size_t lockable)
{
	if (mode != BY_SIGNAL)
		return;
	drop_to(lockable);
	MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0); /* so that it can be looked at */
	forbid_device();
}

/** mode_is_here - whether faults can be served this way */
static inline bool
mode_is_here(int mode)
{
	struct secmalloc_config c = transparent_config(64);
	bool here = secmalloc_init(&c) == 0;

	if (here && mode == BY_THREAD)
		here = stats_now().mode == BY_THREAD;
	else if (!here)
		ck_assert_msg(errno == ENOTSUP, "%s", secmalloc_error());
	ck_assert_int_eq(secmalloc_term(), 0);
	return here && !SANITIZED;
}

/** in_mode - run the body, whose argument is the mode, where faults are served so; else false */
static inline bool
in_mode(int mode, void (*body)(void *))
{
	struct outcome o;

	if (!mode_is_here(mode) || (mode == BY_SIGNAL && !may_drop(__func__))) {
		printf("skipped: mode %d is not here\n", mode);
		return false;
	}
	o = outcome_of(body, &mode);
	ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	return true;
}

#endif /* TESTS_TRANSPARENT_H */
