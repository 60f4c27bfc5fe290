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
	LEAK_MATERIAL_BYTES = 64,
	LEAK_ARGON2_PASSES = 1, /* what leak_keys does with its material: the least */
	LEAK_ARGON2_BYTES = 8192,
	LEAK_HIT_BYTES = 16,   /* so many consecutive bytes of a marker, at any offset, are a hit */
	LEAK_REFUSED = 77,     /* exit status: this machine cannot do it, or forbids it */
	LEAK_LIFE_SECONDS = 60 /* no victim outlives its test by more */
};

/** The markers of a victim that was given `seed`; the last two are what it locks with, and what the
 * provider of its key gives. */
#define LEAK_SMALL_SEED(seed) (seed)
#define LEAK_LARGE_SEED(seed) ((seed) + 1)
#define LEAK_CONTROL_SEED(seed) ((seed) + 2)
#define LEAK_MATERIAL_SEED(seed) ((seed) + 3)
#define LEAK_PROVIDED_SEED(seed) ((seed) + 4)

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

/* Of leak_acts.c.  Registers are memory as soon as a signal comes: the kernel puts all of them,
 * the vector ones too, on the stack.  So let one come where a call of the library has just
 * returned; its frame stays on a signal stack, for every reader to see, until the next.
 * Returns: result. */
int leak_expose(int result);

/* Threads that close and open the chunks; calls that fail on closed chunks, and leave them so: 0,
 * or -1.  A key_provider, whose argument is the seed. */
int leak_threads(void);
int leak_refuse(void);
int leak_provide(unsigned char key[32], void *seed);

/* Of leak_victim.c: the chunks, and what the answer to a command says besides. */
extern unsigned char *small, *large;
extern char leak_note[256];

/* Of leak_keys.c, which looks inside the library: tells where the halves of the key are, so that
 * leak_key can make it whole; and makes it whole right here, for a control. 0, or -1. */
int leak_where(void) __attribute__((weak));
int leak_spill(void) __attribute__((weak));

#endif /* LEAK_H */
