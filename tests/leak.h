/*
 * leak.h - the marker that leak_victim hides and leak_scan looks for
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A marker is the output of a generator, so neither program ever has to keep one: the victim
 * writes it byte by byte into its place, the scanner asks for the bytes it compares with.  At
 * most one word of it is in a register at any time, and a scanner calls 16 bytes a hit.
 */
#ifndef LEAK_H
#define LEAK_H

#include <stddef.h>
#include <stdint.h>

enum {
	LEAK_SMALL_BYTES = 256,
	LEAK_LARGE_BYTES = 65536,
	LEAK_CONTROL_BYTES = 4096,
	LEAK_HIT_BYTES = 16,   /* so many consecutive bytes of a marker, at any offset, are a hit */
	LEAK_REFUSED = 77,     /* exit status: this machine cannot do it, or forbids it */
	LEAK_LIFE_SECONDS = 60 /* no victim outlives its test by more */
};

/** The three markers of a victim that was given `seed`. */
#define LEAK_SMALL_SEED(seed) (seed)
#define LEAK_LARGE_SEED(seed) ((seed) + 1)
#define LEAK_CONTROL_SEED(seed) ((seed) + 2)

static inline uint64_t
leak_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/** leak_word - word i of a marker: its bytes 8i to 8i + 7, the lowest first. */
static inline uint64_t
leak_word(uint64_t seed, size_t i)
{
	return leak_mix(leak_mix(seed) + i);
}

/** leak_byte - byte i of a marker. */
static inline unsigned char
leak_byte(uint64_t seed, size_t i)
{
	return (unsigned char)(leak_word(seed, i / 8) >> (i % 8 * 8));
}

#endif /* LEAK_H */
