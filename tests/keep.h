/*
 * keep.h - what the tests of SECMALLOC_FORK_KEEP share: ways to start, and chunks to inherit
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_KEEP_H
#define TESTS_KEEP_H

#include "contract.h"
#include <sys/syscall.h>

/** struct variant - a way to start the library */
struct variant {
	const char *name;
	unsigned without, flags, cipher;
	size_t prekey_size;
};

static const struct variant VARIANTS[] = {
	{ "as granted", 0, 0, 0, 0 },
	{ "without hidden", SECMALLOC_HIDDEN, 0, 0, 0 },
	{ "xchacha20", 0, 0, SECMALLOC_CIPHER_XCHACHA20POLY1305, 0 },
	{ "key resident", 0, SECMALLOC_KEY_RESIDENT, 0, 0 },
	{ "long prekey", SECMALLOC_HIDDEN, 0, 0, 16384 },
	{ "isolated", 0, SECMALLOC_ISOLATE, 0, 0 },
	{ "isolated, without hidden", SECMALLOC_HIDDEN, SECMALLOC_ISOLATE, 0, 0 },
	{ "without guards", SECMALLOC_GUARDED, 0, SECMALLOC_CIPHER_XCHACHA20POLY1305, 16384 },
};

enum { N_VARIANTS = sizeof(VARIANTS) / sizeof(VARIANTS[0]) };

static inline struct secmalloc_config
keep_config(unsigned without)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.fork = SECMALLOC_FORK_KEEP;
	c.without = without;
	return c;
}

static inline void
start_with(const struct secmalloc_config *c)
{
	ck_assert_msg(secmalloc_init(c) == 0, "%s", secmalloc_error());
}

static inline void
start_variant(int i)
{
	struct secmalloc_config c = keep_config(VARIANTS[i].without);

	c.flags = VARIANTS[i].flags;
	c.cipher = VARIANTS[i].cipher;
	c.prekey_size = VARIANTS[i].prekey_size;
	start_with(&c);
}

enum manner { OPEN, CLOSED, HELD, OPENED_BY_HOLD };

/** struct heirloom - a chunk, and what is to be done with it before the fork */
struct heirloom {
	size_t size, align;
	enum manner manner;
	enum secmalloc_access access;
	unsigned char *p;
};

#define RW SECMALLOC_READWRITE

static struct heirloom heirlooms[] = {
	{ 0, 16, OPEN, RW, NULL },
	{ 0, 16, CLOSED, RW, NULL },
	{ 1, 16, OPEN, RW, NULL },
	{ 1, 16, CLOSED, RW, NULL },
	{ 500, 16, OPEN, RW, NULL },
	{ 500, 16, CLOSED, RW, NULL },
	{ 500, 16, HELD, RW, NULL },
	{ 500, 16, OPENED_BY_HOLD, RW, NULL },
	{ 100, 4096, OPEN, RW, NULL },
	{ 100, 1024, CLOSED, RW, NULL },
	{ 16384, 16, OPEN, RW, NULL },
	{ 16384, 16, CLOSED, RW, NULL },
	{ 20000, 16, OPEN, SECMALLOC_READONLY, NULL },
	{ 20001, 16, OPEN, SECMALLOC_NOACCESS, NULL },
	{ 20002, 16, CLOSED, SECMALLOC_READONLY, NULL },
	{ 20003, 4096, CLOSED, SECMALLOC_NOACCESS, NULL },
	{ 70000, 16, HELD, RW, NULL },
	{ 70000, 16, OPENED_BY_HOLD, SECMALLOC_READONLY, NULL },
	{ 1200000, 16, OPEN, RW, NULL }, /* larger than the first pool: elastic */
	{ 1200000, 16, CLOSED, RW, NULL },
};

enum { N_HEIRLOOMS = sizeof(heirlooms) / sizeof(heirlooms[0]) };

static inline void
make_heirloom(unsigned i)
{
	struct heirloom *h = &heirlooms[i];

	h->p = secaligned_alloc(h->align, h->size);
	ck_assert_msg(h->p != NULL, "%s", secmalloc_error());
	fill(h->p, h->size, i);
	if (h->manner == CLOSED || h->manner == OPENED_BY_HOLD)
		ck_assert_int_eq(secmalloc_encrypt(h->p), 0);
	if (h->manner == HELD || h->manner == OPENED_BY_HOLD)
		ck_assert_int_eq(secmalloc_hold(h->p), 0);
	if (h->access != SECMALLOC_READWRITE)
		ck_assert_int_eq(secmalloc_protect(h->p, h->access), 0);
}

static inline void
make_heirlooms(void)
{
	for (unsigned i = 0; i < N_HEIRLOOMS; i++)
		make_heirloom(i);
}

/** writable - whether the kernel may write the byte at p; what is there stays */
static inline int
writable(unsigned char *p)
{
	unsigned char same;
	int fds[2], yes;

	if (peek(p, &same, 1) != 1 || pipe(fds) != 0 || write(fds[1], &same, 1) != 1)
		return 0;
	yes = read(fds[0], launder(p), 1) == 1;
	close(fds[0]);
	close(fds[1]);
	return yes;
}

/** access_is - whether the pages of p allow exactly this */
static inline int
access_is(unsigned char *p, enum secmalloc_access a)
{
	unsigned char c;
	const int reads = peek(p, &c, 1) == 1;

	return reads == (a != SECMALLOC_NOACCESS) && writable(p) == (a == SECMALLOC_READWRITE);
}

/** heirloom_is_whole - open or closed as it was left, protected, and of the right content; it is
 * open and free to be written then */
static inline void
heirloom_is_whole(unsigned i)
{
	const struct heirloom *h = &heirlooms[i];

	MUST(secmalloc_owns(h->p) == 1 && secmalloc_usable_size(h->p) == h->size);
	MUST(secmalloc_is_encrypted(h->p) == (h->manner == CLOSED));
	MUST(h->size == 0 || access_is(h->p, h->access));
	MUST(secmalloc_decrypt(h->p) == 0);
	MUST(h->size == 0 || access_is(h->p, h->access));
	if (h->access != SECMALLOC_READWRITE)
		MUST(secmalloc_protect(h->p, SECMALLOC_READWRITE) == 0);
	MUST(filled(h->p, h->size, i));
}

static inline void
heirlooms_are_whole(void)
{
	for (unsigned i = 0; i < N_HEIRLOOMS; i++)
		heirloom_is_whole(i);
}

/** ruin_heirlooms - change each byte, and free every other chunk */
static inline void
ruin_heirlooms(void)
{
	for (unsigned i = 0; i < N_HEIRLOOMS; i++) {
		struct heirloom *h = &heirlooms[i];

		MUST(secmalloc_decrypt(h->p) == 0);
		MUST(h->access == RW || secmalloc_protect(h->p, SECMALLOC_READWRITE) == 0);
		for (size_t k = 0; k < h->size; k++)
			h->p[k] ^= 0xa5;
		if (i % 2)
			secfree(h->p);
	}
}

/** raw_fork - a child of which no pthread_atfork handler hears */
static inline pid_t
raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/** has_nothing - in a child: each pointer of the parent is ECHILD, and memory of its own works */
static inline void
has_nothing(void)
{
	unsigned char *mine;

	for (unsigned i = 0; i < N_HEIRLOOMS; i++) {
		void *p = heirlooms[i].p;

		MUST(secmalloc_owns(p) == 0);
		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(p));
		MUST_FAIL(ECHILD, -1, secmalloc_decrypt(p));
		MUST_FAIL(ECHILD, -1, secmalloc_hold(p));
		MUST_FAIL(ECHILD, NULL, secrealloc(p, 10));
		MUST_FAIL(ECHILD, 0, secmalloc_usable_size(p));
		secfree(p);
	}
	mine = secmalloc(1000);
	MUST(mine != NULL && all_zero(mine, 1000));
	fill(mine, 1000, 1);
	MUST(secmalloc_encrypt(mine) == 0 && secmalloc_decrypt(mine) == 0 && filled(mine, 1000, 1));
	secfree(mine);
	MUST_FAIL(ECHILD, -1, secmalloc_encrypt(heirlooms[4].p));
}

#endif /* TESTS_KEEP_H */
