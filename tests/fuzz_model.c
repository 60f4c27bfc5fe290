/*
 * fuzz_model.c - the model driven by a fuzzer, or by the files such a one has left
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * clang -fsanitize=fuzzer,address, this file, model.c and the library: soak.sh does so, and
 * starts from the corpus that check_model makes and replays.  With -DSTANDALONE it is a
 * program that replays files, and tells what they do when SECMALLOC_TALK is set;
 * SECMALLOC_SEED is the seed of check_model where that one has shrunk a file.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

int
LLVMFuzzerTestOneInput(const uint8_t *tape, size_t bytes)
{
	uint64_t seed = 4 | (bytes & 59);

	/* Small pools that are not hidden, since these start ten times faster. */
	if (!(seed & 32))
		seed |= 2;
	model_run(tape, bytes, seed);
	return 0;
}

#ifdef STANDALONE

static int
replay(const char *path)
{
	static unsigned char tape[1 << 20];
	const char *seed = getenv("SECMALLOC_SEED");
	FILE *f = fopen(path, "rb");
	size_t n;

	if (!f) {
		perror(path);
		return 1;
	}
	n = fread(tape, 1, sizeof(tape), f);
	fclose(f);
	fprintf(stderr, "%s: %zu operations\n", path, n / MODEL_STEP_BYTES);
	if (!seed)
		return LLVMFuzzerTestOneInput(tape, n);
	model_run(tape, n, strtoull(seed, NULL, 0));
	return 0;
}

int
main(int argc, char **argv)
{
	int failed = 0;

	model_talks = getenv("SECMALLOC_TALK") != NULL;
	for (int i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	return failed;
}

#endif /* STANDALONE */
