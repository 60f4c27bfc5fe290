/*
 * pkcs8.h - from a private key file to libsodium's secret key, in secure memory all the way
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef PKCS8_H
#define PKCS8_H

/** What a function is marked with that has libsodium work on a key: the registers that leaves
 *  full of key must not be spilled by whatever is called next.  (gcc 11, clang 15)  No effect
 *  before a tail call, so the function has to return something it kept. */
#define PKCS8_CLEAN __attribute__((noinline))
#if defined(__has_attribute)
#if __has_attribute(zero_call_used_regs)
#undef PKCS8_CLEAN
#define PKCS8_CLEAN __attribute__((noinline, zero_call_used_regs("all")))
#endif
#endif

/** Bytes for sodium_stackzero after such a call: more than libsodium reaches down. */
#define PKCS8_STACK_BYTES 16384

/**
 * pkcs8_load - read an Ed25519 private key, PEM or DER, as `openssl genpkey` writes it
 *
 * PKCS#8 of version 1 or 2 (RFC 5958, RFC 8410), not encrypted.  On the way every byte of
 * the file lies in chunks that are wiped before this returns.
 *
 * Args:    path  a file of less than 4096 bytes; a pipe will do
 *          why   on failure: one short sentence that says what is wrong with the file
 * Returns: an open chunk of crypto_sign_SECRETKEYBYTES, its first half the seed, or NULL.
 */
unsigned char *pkcs8_load(const char *path, const char **why);

#endif /* PKCS8_H */
