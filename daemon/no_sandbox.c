/*
 * no_sandbox.c - for a system that has none
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>

const char sd_sandbox_name[] = "none";

int
sd_sandbox(const char *folder)
{
	(void)folder;
	return ENOSYS;
}
