/*
 * leak_key.c - make a key of another process whole, so that leak_scan can look for it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	leak_key PID LEFT RIGHT BYTES   the master key and the mask between its halves
 *	leak_key PID SALT SEED          what Argon2id makes of the marker that was the material
 *
 * LEFT, RIGHT and SALT are addresses there, which leak_keys tells; keys are printed in hex.
 * Exit status: 0, 77 where reading was refused, 1 anything else.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "leak.h"

enum { KEY_BYTES = 32, PREKEY_MOST_BYTES = 1 << 20 };

static void
fetch(void *to, size_t n, const char *pid, const char *address)
{
	struct iovec local = {to, n};
	struct iovec remote = {(void *)(uintptr_t)strtoull(address, NULL, 0), n};

	errno = 0;
	if (process_vm_readv((pid_t)atol(pid), &local, 1, &remote, 1, 0) == (ssize_t)n)
		return;
	fprintf(stderr, "leak_key: %zu bytes at %s: %s\n", n, address, strerror(errno));
	exit(errno == EPERM || errno == ENOSYS ? LEAK_REFUSED : 1);
}

static void
print_hex(const unsigned char *key, char behind)
{
	char hex[2 * KEY_BYTES + 1];

	printf("%s%c", sodium_bin2hex(hex, sizeof hex, key, KEY_BYTES), behind);
}

static int
join(const char *pid, const char *left, const char *right, const char *bytes)
{
	static unsigned char half[PREKEY_MOST_BYTES], key[KEY_BYTES], mask[KEY_BYTES];
	static const unsigned char zeros[crypto_core_hchacha20_INPUTBYTES];
	size_t n = strtoull(bytes, NULL, 0);

	if (n > sizeof half)
		return 1;
	fetch(key, KEY_BYTES, pid, left);
	fetch(half, n, pid, right);
	if (n == KEY_BYTES)
		crypto_core_hchacha20(mask, zeros, half, NULL);
	else
		crypto_generichash(mask, KEY_BYTES, half, n, NULL, 0);
	for (size_t i = 0; i < KEY_BYTES; i++)
		key[i] ^= mask[i];
	print_hex(key, ' ');
	print_hex(mask, '\n');
	return 0;
}

static int
stretch(const char *pid, const char *address, const char *seed)
{
	unsigned char salt[crypto_pwhash_SALTBYTES], key[KEY_BYTES];
	char material[LEAK_MATERIAL_BYTES];

	for (size_t i = 0; i < sizeof material; i++)
		material[i] = (char)leak_byte(strtoull(seed, NULL, 0), i);
	fetch(salt, sizeof salt, pid, address);
	if (crypto_pwhash(key, KEY_BYTES, material, sizeof material, salt, LEAK_ARGON2_PASSES,
		    LEAK_ARGON2_BYTES, crypto_pwhash_ALG_ARGON2ID13) != 0)
		return 1;
	print_hex(key, '\n');
	return 0;
}

int
main(int argc, char **argv)
{
	if (sodium_init() < 0)
		return 1;
	if (argc == 5)
		return join(argv[1], argv[2], argv[3], argv[4]);
	if (argc == 4)
		return stretch(argv[1], argv[2], argv[3]);
	fprintf(stderr, "usage: leak_key PID LEFT RIGHT BYTES | leak_key PID SALT SEED\n");
	return 1;
}
