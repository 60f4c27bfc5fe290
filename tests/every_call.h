/*
 * every_call.h - each call of the contract behind one face, and what it says when it is refused
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Frees no chunk and starts, stops or locks nothing, so that all of it can be called in a row.
 */
#ifndef TESTS_EVERY_CALL_H
#define TESTS_EVERY_CALL_H

#include "contract.h"

/** struct call - run answers 0 or the errno that the call failed with; p: where it wants one */
struct call {
	const char *name;
	int (*run)(void *p);
};

/* A failure without errno is one too. */
static inline int
errno_of(int failed)
{
	return failed ? errno ? errno : -1 : 0;
}

static inline int
got(void *p)
{
	const int e = errno_of(p == NULL);

	secfree(p);
	return e;
}

#define CALL(name, expression)                                                                     \
	static inline int call_##name(void *p)                                                     \
	{                                                                                          \
		(void)p;                                                                           \
		errno = 0;                                                                         \
		return (expression);                                                               \
	}

/* ------------------------------------------------------- with a chunk */

CALL(realloc, errno_of(secrealloc(p, secmalloc_usable_size(p) + 1) == NULL))
CALL(protect, errno_of(secmalloc_protect(p, SECMALLOC_READWRITE)))
CALL(encrypt, errno_of(secmalloc_encrypt(p)))
CALL(decrypt, errno_of(secmalloc_decrypt(p)))
CALL(hold, errno_of(secmalloc_hold(p)))
CALL(release, errno_of(secmalloc_release(p)))
CALL(is_encrypted, errno_of(secmalloc_is_encrypted(p) < 0))
CALL(usable_size, (secmalloc_usable_size(p), errno))

/** CHUNK_CALLS - what is refused while all is locked; NULL and foreign pointers before that */
static const struct call CHUNK_CALLS[] = {
	{ "protect", call_protect },
	{ "encrypt", call_encrypt },
	{ "decrypt", call_decrypt },
	{ "hold", call_hold },
	{ "release", call_release },
};

/* ------------------------------------------------------- without */

static inline int
call_read_fd(void *unused)
{
	size_t len = 7;
	int fds[2], e;

	(void)unused;
	if (pipe(fds) || write(fds[1], "secret", 6) != 6)
		abort();
	close(fds[1]);
	errno = 0;
	e = got(secmalloc_read_fd(fds[0], 100, &len));
	close(fds[0]);
	return e ? e : len == 6 ? 0 : -1;
}

CALL(malloc, got(secmalloc(100)))
CALL(malloc_large, got(secmalloc(100000)))
CALL(malloc_0, got(secmalloc(0)))
CALL(calloc, got(seccalloc(10, 10)))
CALL(aligned, got(secaligned_alloc(256, 10)))
CALL(realloc_null, got(secrealloc(NULL, 10)))
CALL(realloc_null_0, got(secrealloc(NULL, 0)))
CALL(strdup, got(secstrdup("secret")))
CALL(strndup, got(secstrndup("secret", 3)))
CALL(passphrase, got(secmalloc_read_passphrase("never asked: ", 10)))
CALL(encrypt_all, errno_of(secmalloc_encrypt_all()))
CALL(decrypt_all, errno_of(secmalloc_decrypt_all()))
CALL(rekey, errno_of(secmalloc_rekey()))
CALL(lock, errno_of(secmalloc_lock("other", 5)))

/** ALL_CALLS - what takes no chunk and is refused while all is locked or purged */
static const struct call ALL_CALLS[] = {
	{ "secmalloc", call_malloc },
	{ "secmalloc, large", call_malloc_large },
	{ "secmalloc, 0", call_malloc_0 },
	{ "seccalloc", call_calloc },
	{ "secaligned_alloc", call_aligned },
	{ "secrealloc of NULL", call_realloc_null },
	{ "secrealloc of NULL to 0", call_realloc_null_0 },
	{ "secstrdup", call_strdup },
	{ "secstrndup", call_strndup },
	{ "read_fd", call_read_fd },
	{ "read_passphrase", call_passphrase },
	{ "encrypt_all", call_encrypt_all },
	{ "decrypt_all", call_decrypt_all },
	{ "rekey", call_rekey },
	{ "lock", call_lock },
};

#define CALLS(a) (sizeof(a) / sizeof((a)[0]))

/** each_answers - every one of these calls, with p, fails with this errno */
static inline void
each_answers(const struct call *calls, size_t n, void *p, int expected)
{
	for (size_t i = 0; i < n; i++) {
		const int e = calls[i].run(p);

		if (e == expected)
			continue;
		fprintf(stderr, "%s: errno %d (%s), not %d; %s\n", calls[i].name, e, strerror(e),
			expected, secmalloc_error());
		abort();
	}
}

/** shows - whether eight bytes in a row of content `seed` are still in their place */
static inline int
shows(const unsigned char *p, size_t n, unsigned seed)
{
	for (size_t i = 0, row = 0; i < n; i++) {
		row = p[i] == pattern(seed, i) ? row + 1 : 0;
		if (row == 8)
			return 1;
	}
	return 0;
}

/** these_go_on - with a chunk of n bytes that lives, locked or purged */
static inline void
these_go_on(void *p, size_t n)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	char a[3] = "ab";

	errno = ENOTTY;
	MUST(secmalloc_owns(p) == 1 && secmalloc_owns(a) == 0 && secmalloc_owns(NULL) == 0);
	MUST(secmalloc_usable_size(p) == n && secmalloc_usable_size(NULL) == 0);
	MUST(secmalloc_stats(&s) == 0 && s.pools > 0 && s.chunks > 0);
	MUST(secmalloc_error() != NULL && strcmp(secmalloc_version(), SECMALLOC_VERSION) == 0);
	MUST(secmemcmp("ab", a, 2) == 0 && secmemcmp("ac", a, 2) == -1);
	secmemzero(a, 2);
	MUST(all_zero(a, 2));
	secfree(NULL);
	MUST(errno == ENOTTY);
	MUST(call_usable_size(a) == EINVAL);
	MUST_FAIL(EINVAL, -1, secmalloc_stats(NULL));
}

#endif /* TESTS_EVERY_CALL_H */
