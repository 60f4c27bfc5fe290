/*
 * model.h - the library against a model of it: plain arrays and a few counters
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A tape is a byte string; every MODEL_STEP_BYTES of it are one operation:
 *
 *   0     what to do; every value means something
 *   1     which of MODEL_SLOTS chunks, or the next live one after it
 *   2..4  a size, 0 to MODEL_SIZE_MOST and mostly small, or a place in the chunk
 *   5     content, access, or the config of a restart
 *
 * So random bytes, a fuzzer's bytes and a shrunk failure are all the same thing.
 */
#ifndef TESTS_MODEL_H
#define TESTS_MODEL_H

#include <stddef.h>
#include <stdint.h>

enum {
	MODEL_SLOTS = 64,
	MODEL_SIZE_MOST = 300000,
	MODEL_STEP_BYTES = 6
};

/** struct model_notes - how far a run has come, for whoever outlives it */
struct model_notes {
	size_t operation; /* under way, from 0 */
	uint32_t kinds;	  /* a bit for each kind of operation that was done in earnest */
};

/** model_notes - where that is noted; NULL: nowhere */
extern volatile struct model_notes *model_notes;

/** model_kinds - what `kinds` is when nothing was left out */
extern const uint32_t model_kinds;

/** model_talks - whether each operation is told on stderr before it is done */
extern int model_talks;

/**
 * model_run - start the library, do what the tape says, compare after each step, stop it
 *
 * A deviation tells seed and operation on stderr and aborts; so does a fault of the library.
 * What is left of a tape after its last whole operation is ignored.
 *
 * Args:    seed  told with a deviation; bit 0 starts with XChaCha20, bit 1 with room for three
 *                small pools, bit 2 without hidden memory, bit 3 frees every chunk in the end,
 *                bit 4 isolates every chunk, bit 5 starts with a pool of 16 KiB, so that most
 *                chunks live in elastic ones
 * Threads: one, and nobody else may use the library meanwhile.
 */
void model_run(const unsigned char *tape, size_t bytes, uint64_t seed);

/** LLVMFuzzerTestOneInput - model_run as fuzzers and the corpus do it; the length is the seed.
 *  In fuzz_model.c; the name is libFuzzer's.  Returns: 0. */
int LLVMFuzzerTestOneInput(const uint8_t *tape, size_t bytes);

#endif /* TESTS_MODEL_H */
