/*
 * run_storm.c - a program that knows nothing of the library, in a storm: run_storm SECONDS
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "storm.h"

int
main(int argc, char **argv)
{
	struct storm is = { malloc, free, NULL, true, 2 };

	if (argc > 1)
		is.seconds = (unsigned)strtoul(argv[1], NULL, 10);
	rage(&is);
	printf("\n");
	return 0;
}
