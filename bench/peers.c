/*
 * peers.c - the allocators that are compared
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Peers but libsodium are opened at run time: no header and no library of theirs is needed
 * to build, and one that is absent is left out.
 */
#include "bench.h"

#include <dlfcn.h>
#include <secmalloc.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef RTLD_DEEPBIND
#define RTLD_DEEPBIND 0
#endif

const char *bench_mimalloc_path, *bench_hardened_path;

/* A function pointer from dlsym without a cast that C forbids. */
static int
look_up(void *library, const char *name, void *function)
{
	void *p = library ? dlsym(library, name) : NULL;

	memcpy(function, &p, sizeof(p));
	return p ? 0 : -1;
}

static int
load_nothing(void)
{
	return 0;
}

static int
start_nothing(size_t arena_bytes)
{
	(void)arena_bytes;
	return 0;
}

/* ------------------------------------------------------------- secmalloc */

int
bench_secmalloc_start(size_t pool_bytes, unsigned cipher)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.pool_size = pool_bytes;
	c.cipher = cipher;
	return secmalloc_init(&c);
}

static int
ours_start(size_t arena_bytes)
{
	return bench_secmalloc_start(arena_bytes, SECMALLOC_CIPHER_AUTO);
}

static void *
ours_alloc(size_t size)
{
	return secmalloc(size);
}

static void
ours_release(void *p, size_t size)
{
	(void)size;
	secfree(p);
}

static void
ours_version(char *text, size_t bytes)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	secmalloc_stats(&s);
	snprintf(text, bytes, "%s; granted:%s%s%s%s%s", secmalloc_version(),
		s.granted & SECMALLOC_LOCKED ? " locked" : "",
		s.granted & SECMALLOC_GUARDED ? " guarded" : "",
		s.granted & SECMALLOC_NODUMP ? " nodump" : "",
		s.granted & SECMALLOC_FORKSAFE ? " forksafe" : "",
		s.granted & SECMALLOC_HIDDEN ? " hidden" : "");
}

/* -------------------------------------------- malloc, and who stands in for it */

static void *(*plain_malloc)(size_t) = malloc;
static void (*plain_free)(void *) = free;

static void *
plain_alloc(size_t size)
{
	return plain_malloc(size);
}

static void
plain_release(void *p, size_t size)
{
	explicit_bzero(p, size);
	plain_free(p);
}

static void
libc_version(char *text, size_t bytes)
{
	const char *(*version)(void);

	if (look_up(dlopen(NULL, RTLD_NOW), "gnu_get_libc_version", &version))
		snprintf(text, bytes, "the C library's");
	else
		snprintf(text, bytes, "glibc %s", version());
}

static void *stand_in;

/* Deep: its own calls of malloc must reach itself. */
static int
stand_in_load(const char *path, const char *alloc, const char *release)
{
	stand_in = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : NULL;
	if (!stand_in)
		return -1;
	if (look_up(stand_in, alloc, &plain_malloc) || look_up(stand_in, release, &plain_free))
		return -1;
	return 0;
}

static int
mimalloc_load(void)
{
	return stand_in_load(bench_mimalloc_path, "mi_malloc", "mi_free");
}

static void
mimalloc_version(char *text, size_t bytes)
{
	int (*version)(void);

	if (look_up(stand_in, "mi_version", &version))
		snprintf(text, bytes, "unknown");
	else
		snprintf(text, bytes, "%d", version());
}

static int
hardened_load(void)
{
	return stand_in_load(bench_hardened_path, "malloc", "free");
}

static void
unknown_version(char *text, size_t bytes)
{
	snprintf(text, bytes, "unknown");
}

/* -------------------------------------------------------------- libsodium */

static int
sodium_start(size_t arena_bytes)
{
	(void)arena_bytes;
	return sodium_init() < 0 ? -1 : 0;
}

static void
sodium_release(void *p, size_t size)
{
	(void)size;
	sodium_free(p);
}

static void
sodium_version(char *text, size_t bytes)
{
	snprintf(text, bytes, "%s", sodium_version_string());
}

/* ---------------------------------------------------------------- OpenSSL */

static void *openssl;
static int (*openssl_init)(size_t bytes, size_t least);
static void *(*openssl_malloc)(size_t size, const char *file, int line);
static void (*openssl_clear_free)(void *p, size_t size, const char *file, int line);

static int
openssl_load(void)
{
	openssl = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
	if (look_up(openssl, "CRYPTO_secure_malloc_init", &openssl_init) ||
		look_up(openssl, "CRYPTO_secure_malloc", &openssl_malloc) ||
		look_up(openssl, "CRYPTO_secure_clear_free", &openssl_clear_free))
		return -1;
	return 0;
}

/* 2 says: made, but not locked or not guarded.  The live rows see that for themselves. */
static int
openssl_start(size_t arena_bytes)
{
	return openssl_init(arena_bytes, 16) > 0 ? 0 : -1;
}

static void *
openssl_alloc(size_t size)
{
	return openssl_malloc(size, "", 0);
}

static void
openssl_release(void *p, size_t size)
{
	openssl_clear_free(p, size, "", 0);
}

static void
openssl_version(char *text, size_t bytes)
{
	const char *(*version)(int);

	if (look_up(openssl, "OpenSSL_version", &version))
		snprintf(text, bytes, "unknown");
	else
		snprintf(text, bytes, "%s", version(0));
}

/* -------------------------------------------------------------- libgcrypt */

/* enum gcry_ctl_cmds */
enum { INIT_SECMEM = 24, DISABLE_SECMEM_WARN = 27, INITIALIZATION_FINISHED = 38 };

static unsigned (*gcrypt_control)(int command, ...);
static const char *(*gcrypt_check_version)(const char *least);
static void *(*gcrypt_malloc_secure)(size_t size);
static void (*gcrypt_free)(void *p);

static int
gcrypt_load(void)
{
	void *library = dlopen("libgcrypt.so.20", RTLD_NOW | RTLD_LOCAL);

	if (look_up(library, "gcry_control", &gcrypt_control) ||
		look_up(library, "gcry_check_version", &gcrypt_check_version) ||
		look_up(library, "gcry_malloc_secure", &gcrypt_malloc_secure) ||
		look_up(library, "gcry_free", &gcrypt_free))
		return -1;
	return 0;
}

static int
gcrypt_start(size_t arena_bytes)
{
	if (!gcrypt_check_version(NULL))
		return -1;
	gcrypt_control(DISABLE_SECMEM_WARN);
	if (gcrypt_control(INIT_SECMEM, (int)arena_bytes, 0))
		return -1;
	return gcrypt_control(INITIALIZATION_FINISHED, 0) ? -1 : 0;
}

static void *
gcrypt_alloc(size_t size)
{
	return gcrypt_malloc_secure(size);
}

static void
gcrypt_release(void *p, size_t size)
{
	(void)size;
	gcrypt_free(p);
}

static void
gcrypt_version(char *text, size_t bytes)
{
	snprintf(text, bytes, "%s", gcrypt_check_version(NULL));
}

/* ------------------------------------------------------------- all of them */

const struct peer bench_peers[] = {
	{ "secmalloc", "secmalloc, secfree", load_nothing, ours_start, ours_alloc, ours_release,
		ours_version },
	{ "malloc+wipe", "malloc; explicit_bzero, free: not locked, not guarded", load_nothing,
		start_nothing, plain_alloc, plain_release, libc_version },
	{ "sodium", "sodium_malloc, sodium_free", load_nothing, sodium_start, sodium_malloc,
		sodium_release, sodium_version },
	{ "openssl", "OPENSSL_secure_malloc, OPENSSL_secure_clear_free", openssl_load,
		openssl_start, openssl_alloc, openssl_release, openssl_version },
	{ "gcrypt", "gcry_malloc_secure, gcry_free", gcrypt_load, gcrypt_start, gcrypt_alloc,
		gcrypt_release, gcrypt_version },
	{ "mimalloc+wipe", "mi_malloc; explicit_bzero, mi_free: not locked", mimalloc_load,
		start_nothing, plain_alloc, plain_release, mimalloc_version },
	{ "hardened+wipe", "hardened_malloc; explicit_bzero, free: not locked", hardened_load,
		start_nothing, plain_alloc, plain_release, unknown_version },
	{ 0 }
};
