/*
 * bench.h - what the parts of the benchmark share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A trial is one peer in one row.  Every round runs every trial once, each in a child of its
 * own, so that a peer's state, locks and limits are gone when the next one starts.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

#define BENCH_VALUES 5u /* the most numbers one trial gives */

/** struct peer - an allocator; all but name and what only in the child that uses it */
struct peer {
	const char *name;
	const char *what;		      /* for the reader of the results */
	int (*load)(void);		      /* 0, or -1: not on this machine */
	int (*start)(size_t arena_bytes);     /* 0 or -1; after load */
	void *(*alloc)(size_t size);	      /* NULL: no more */
	void (*release)(void *p, size_t size); /* wipes size bytes, or more, too */
	void (*version)(char *text, size_t bytes);
};

extern const struct peer bench_peers[]; /* the first is secmalloc; the last has no name */

/** Paths of the two peers that no loader finds by itself; NULL: leave them out. */
extern const char *bench_mimalloc_path, *bench_hardened_path;

/** bench_secmalloc_start - secmalloc_init with one pool of that size and that cipher */
int bench_secmalloc_start(size_t pool_bytes, unsigned cipher);

/** struct trial - one peer in one row */
struct trial {
	const char *peer; /* as printed */
	const struct peer *with;
	/* 0 with values, or -1: the peer cannot.  Runs in a child that ends afterwards. */
	int (*run)(const struct trial *t, double values[BENCH_VALUES]);
	size_t size;   /* bytes; what it is of is the row's */
	unsigned kind; /* as well */
	unsigned values;
	char row[BENCH_VALUES][32];
	const char *unit[BENCH_VALUES];
	unsigned most_rounds;
	unsigned rounds; /* that gave values */
	double *got;	 /* most_rounds times values */
};

/** bench_arena - bytes of secure memory each peer is given in the timing rows */
extern size_t bench_arena;

/**
 * bench_time - ns per operation: work(arg, n) does n of them, 0 or -1
 *
 * Returns: processor time, in the kernel too; -1: work failed.
 */
double bench_time(int (*work)(void *arg, size_t n), void *arg);

/** bench_now - ns of a clock that only goes forward */
double bench_now(void);

/** bench_cpu_now - ns of processor time of this process: what others took is nobody's cost */
double bench_cpu_now(void);

/** bench_random - the next number of a small generator, the same sequence in each child */
uint32_t bench_random(void);

/* ------------------------------------------------- the rows: bodies of trial.run */

/** One live chunk: allocate t->size, touch a byte, free.  ns. */
int bench_pair(const struct trial *t, double *values);

/** Free one of 10,000 at random, allocate another; t->size 0: 16 to 512 bytes.  ns. */
int bench_churn(const struct trial *t, double *values);

/**
 * Pairs of t->size beside others, in one thread, in two, and two over one: the best of three
 * runs each.  ns of all threads together, ratio.
 */
int bench_threads(const struct trial *t, double *values);

/** What bench_elastic finds on the page beside its own chunk: values of t->kind. */
enum bench_beside {
	BENCH_BESIDE_NOTHING, /* the page is fetched, locked, unlocked and given back */
	BENCH_BESIDE_SEALED,  /* it is locked and unlocked */
	BENCH_BESIDE_CLEAR    /* others, clear: it is locked anyway */
};

/** secmalloc only: a pair while the pool that stays locked is full.  ns. */
int bench_elastic(const struct trial *t, double *values);

/** Bits of t->kind in the next rows: enum secmalloc_cipher, and how the key is kept. */
#define BENCH_CIPHER 0x0fu
#define BENCH_RESIDENT 0x10u /* SECMALLOC_KEY_RESIDENT */
#define BENCH_PREKEY 0x20u   /* prekey_size 16384 */
#define BENCH_PLAIN 0x40u    /* no hidden pages */

/** secmalloc only: close and open t->size bytes.  ns. */
int bench_seal(const struct trial *t, double *values);

/** libsodium alone: encrypt and decrypt in place, as bench_seal.  ns. */
int bench_bare(const struct trial *t, double *values);

/** secmalloc_encrypt_all of 100,000 chunks of t->size bytes, the best of three.  ns a chunk. */
int bench_all(const struct trial *t, double *values);

/** libsodium alone: encrypt as many texts in place.  ns a text. */
int bench_bare_all(const struct trial *t, double *values);

/** secmalloc_purge with 10,000 closed chunks of 32 bytes and 100 open ones of 4 KiB.  ns. */
int bench_purge(const struct trial *t, double *values);

/** Who opens pages in bench_pages: values of t->kind. */
enum bench_pages {
	BENCH_PAGES_ONE_CPU,  /* a thread, on the CPU of the one that touches */
	BENCH_PAGES_ALL_CPUS, /* a thread, anywhere */
	BENCH_PAGES_SIGNAL    /* SIGBUS in the thread that touches, of a user without privileges */
};

/** Transparent mode, by the clock, the best of 20 laps over 400 pages: touch a closed page, close
 *  one, open one by secmalloc_decrypt.  ns each. */
int bench_pages(const struct trial *t, double *values);

/** The kernel alone: touch a page for the first time.  ns. */
int bench_zero_fill(const struct trial *t, double *values);

/** What bench_live does with each secret: values of t->kind. */
enum bench_keep { BENCH_KEEP_CLEAR, BENCH_KEEP_SEALED };

/**
 * bench_live - secrets of t->size under RLIMIT_MEMLOCK, without privileges
 *
 * Values: how many live at once, how many of them on locked pages, how many clear on pages
 *         that are not, bytes charged as locked a secret, resident bytes a secret.
 */
int bench_live(const struct trial *t, double *values);

#define BENCH_LIVE_MOST 1000000u
#define BENCH_LIVE_LIMIT_BYTES ((size_t)8 << 20)

/* ------------------------------------------------------------------ meta.c */

/** bench_machine - print on what machine this is, and when */
void bench_machine(void);

/** bench_meta - print what this was measured on, one "# name<TAB>text" a line */
void bench_meta(unsigned rounds);

/** bench_print - print a trial's rows: row, peer, median, minimum (of ratios maximum), unit */
void bench_print(const struct trial *t);

#endif /* BENCH_H */
