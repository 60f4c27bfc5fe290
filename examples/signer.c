/*
 * signer.c - sign files with an Ed25519 key that no one else can read
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	signer [--demo-scan] KEY FILE...
 *
 * KEY is a private key as `openssl genpkey -algorithm ed25519` writes it.  Each FILE gets a
 * FILE.sig of 64 bytes that `openssl pkeyutl -verify -rawin` accepts.  What takes privileges
 * comes first: memory is locked, the key is read into it and sealed, every file is opened.
 * Then a signer started as root becomes nobody, and no more memory can be locked.  The key
 * is clear while a signature is made, and ciphertext at all other times.
 *
 * FILE.sig is opened before its content is known and cannot be renamed into place by
 * nobody: it is overwritten where it lies.  One that was made for a signature that failed is
 * removed if the process still may; else it stays behind, empty, and verifies nothing.
 *
 * --demo-scan also says what protections hold, and how many copies of the key's seed lie in
 * the memory of this process while the key is clear, sealed and freed.
 *
 * Exit status: 0, 1 after one line on stderr, 2 for a wrong command line.
 */
#define _GNU_SOURCE
#include "pkcs8.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <secmalloc.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAPPING_BYTES ((uintptr_t)1 << 27) /* the scan gives up before a larger mapping */

/** struct target - one file to sign */
struct target {
	const char *path;
	char *sig; /* path.sig */
	int in, out;
	int stray; /* we made path.sig, and no signature is in it */
};

/** struct job - all that the command line asks for */
struct job {
	const char *key_path;
	unsigned char *key; /* a chunk: libsodium's secret key, its first half is the seed */
	struct target *targets;
	size_t count;
	const struct passwd *nobody; /* NULL: not root, stay who we are */
	int scan;
};

/** struct scan - what the scan looks for: not the seed, only what tells it from the rest */
struct scan {
	uint64_t power; /* BASE to the 32nd */
	uint64_t roll;  /* rolling hash of the last 32 bytes */
	unsigned run;   /* so many bytes, at most 32, were seen in a row before next */
	const unsigned char *next;
	unsigned filter;        /* 16 bits of the seed's rolling hash */
	unsigned char hash[32]; /* the seed's BLAKE2b */
	unsigned found;
};

static int
complain(const char *what, const char *why)
{
	fprintf(stderr, "signer: %s: %s\n", what, why);
	return -1;
}

/* ----------------------------------------------------------------- files */

static int
open_target(struct target *t)
{
	struct stat st;

	t->in = open(t->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (t->in < 0 || fstat(t->in, &st) != 0)
		return complain(t->path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return complain(t->path, strerror(EISDIR));
	if (asprintf(&t->sig, "%s.sig", t->path) < 0) {
		t->sig = NULL;
		return complain(t->path, strerror(ENOMEM));
	}
	t->out = open(t->sig, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	t->stray = t->out >= 0;
	/* Root may be led astray by links in a directory of someone else's. */
	if (t->out < 0 && errno == EEXIST)
		t->out = open(t->sig, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (t->out < 0 || fstat(t->out, &st) != 0)
		return complain(t->sig, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		return complain(t->sig, "exists, and is not a plain file with one name");
	return 0;
}

static void
close_target(struct target *t)
{
	if (t->in >= 0)
		close(t->in);
	if (t->out >= 0)
		close(t->out);
	if (t->stray)
		(void)unlink(t->sig);
	free(t->sig);
}

/**
 * read_message - the whole file in ordinary memory
 *
 * A private copy, not a mapping: Ed25519 reads its message twice, and two signatures with
 * one nonce, made of a message that changes in between, give the key away.
 */
static unsigned char *
read_message(struct target *t, size_t *len)
{
	unsigned char *msg, *more;
	size_t size = 4096;
	struct stat st;
	ssize_t n;

	if (fstat(t->in, &st) == 0 && st.st_size > 0)
		size = (size_t)st.st_size + 1;
	*len = 0;
	msg = malloc(size);
	if (msg == NULL)
		goto fail;
	while ((n = read(t->in, msg + *len, size - *len)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			goto fail;
		*len += (size_t)n;
		if (*len == size) {
			size *= 2;
			more = realloc(msg, size);
			if (more == NULL)
				goto fail;
			msg = more;
		}
	}
	return msg;
fail:
	complain(t->path, strerror(errno));
	free(msg);
	return NULL;
}

static int
save_signature(struct target *t, const unsigned char *sig)
{
	size_t done = 0;
	ssize_t n;

	while (done < crypto_sign_BYTES) {
		n = pwrite(t->out, sig + done, crypto_sign_BYTES - done, (off_t)done);
		if (n < 0 && errno != EINTR)
			return -1;
		if (n > 0)
			done += (size_t)n;
	}
	if (ftruncate(t->out, crypto_sign_BYTES) != 0)
		return -1;
	n = close(t->out);
	t->out = -1;
	return (int)n;
}

/* --------------------------------------------------------------- signing */

PKCS8_CLEAN static int
sign_bytes(unsigned char *sig, const unsigned char *msg, size_t len, const unsigned char *key)
{
	int rc = crypto_sign_detached(sig, NULL, msg, len, key);

	sodium_stackzero(PKCS8_STACK_BYTES);
	return rc;
}

/** sign_target - the only place where the key is clear, but for the scan */
static int
sign_target(struct target *t, unsigned char *key)
{
	unsigned char sig[crypto_sign_BYTES], *msg;
	const char *why = NULL;
	size_t len;

	msg = read_message(t, &len);
	if (msg == NULL)
		return -1;
	if (secmalloc_decrypt(key) != 0)
		why = secmalloc_error();
	else if (sign_bytes(sig, msg, len, key) != 0)
		why = "libsodium cannot sign it";
	else if (secmalloc_encrypt(key) != 0)
		why = secmalloc_error();
	free(msg);
	if (why != NULL)
		return complain(t->path, why);
	if (save_signature(t, sig) != 0)
		return complain(t->sig, strerror(errno));
	t->stray = 0;
	printf("signed %s: %s\n", t->path, t->sig);
	return 0;
}

/** drop - become nobody for good, and lock no more memory. */
static int
drop(const struct passwd *nobody)
{
	const struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_MEMLOCK, &none) != 0)
		return complain("setrlimit", strerror(errno));
	if (nobody == NULL) {
		puts("not root: no user switch; RLIMIT_MEMLOCK is now 0");
		return 0;
	}
	if (setgroups(0, NULL) != 0 || setgid(nobody->pw_gid) != 0 || setuid(nobody->pw_uid) != 0)
		return complain("drop to nobody", strerror(errno));
	if (setuid(0) == 0 || seteuid(0) == 0)
		return complain("drop to nobody", "root can be had back");
	printf("now nobody (uid %ju); RLIMIT_MEMLOCK is now 0\n", (uintmax_t)getuid());
	return 0;
}

/* ------------------------------------------------------------- demo scan */

static const uint64_t BASE = UINT64_C(0x9e3779b97f4a7c15);

PKCS8_CLEAN static int
hash_bytes(unsigned char *hash, const unsigned char *bytes)
{
	int rc = crypto_generichash(hash, 32, bytes, 32, NULL, 0);

	sodium_stackzero(PKCS8_STACK_BYTES);
	return rc;
}

/** scan_aim - keep of the seed what recognises it: 16 bits and a hash. */
static void
scan_aim(struct scan *s, const unsigned char *seed)
{
	uint64_t roll = 0;
	int i;

	memset(s, 0, sizeof *s);
	s->power = 1;
	for (i = 0; i < 32; i++) {
		roll = roll * BASE + seed[i];
		s->power *= BASE;
	}
	s->filter = (unsigned)(roll >> 48);
	(void)hash_bytes(s->hash, seed);
}

static void
scan_compare(struct scan *s, const unsigned char *window)
{
	unsigned char hash[32];

	s->found += hash_bytes(hash, window) == 0 && memcmp(hash, s->hash, sizeof hash) == 0;
}

/** scan_page - read memory where it lies */
__attribute__((no_sanitize("address"))) static void
scan_page(struct scan *s, const unsigned char *page, size_t size)
{
	size_t i;

	if (page != s->next)
		s->roll = s->run = 0;
	s->next = page + size;
	for (i = 0; i < size; i++) {
		s->roll = s->roll * BASE + page[i];
		if (s->run == 32)
			s->roll -= *(page + i - 32) * s->power;
		else
			s->run++;
		if (s->run == 32 && s->roll >> 48 == s->filter)
			scan_compare(s, page + i - 31);
	}
}

/** readable - would a load from here be served?  The kernel tries, where we would die. */
static int
readable(const int probe[2], const unsigned char *page)
{
	char byte;

	return write(probe[1], page, 1) == 1 && read(probe[0], &byte, 1) == 1;
}

/** scan_map - one line of the maps: 0, or -1 for a mapping too large. */
static int
scan_map(struct scan *s, const char *line, const int probe[2])
{
	uintptr_t at, start, end, page = (uintptr_t)sysconf(_SC_PAGESIZE);
	char perm;

	if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %c", &start, &end, &perm) != 3 || perm != 'r' ||
		strstr(line, "[vvar") != NULL || strstr(line, "[vsys") != NULL)
		return 0;
	if (end - start > MAPPING_BYTES)
		return -1;
	for (at = start; at < end; at += page)
		if (readable(probe, (const unsigned char *)at))
			scan_page(s, (const unsigned char *)at, page);
	return 0;
}

/**
 * scan_memory - count the copies of the seed in all memory that this process can read
 *
 * Loads, not /proc/self/mem: that refuses the pages of memfd_secret, where the key is.
 * Returns: 0 and the number in s->found, or -1 after one line.
 */
static int
scan_memory(struct scan *s)
{
	int probe[2], rc = 0;
	FILE *maps = fopen("/proc/self/maps", "re");
	char *line = NULL;
	size_t size = 0;

	if (maps == NULL)
		return complain("/proc/self/maps", strerror(errno));
	if (pipe(probe) != 0) {
		fclose(maps);
		return complain("pipe", strerror(errno));
	}
	s->found = 0;
	s->next = NULL;
	while (rc == 0 && getline(&line, &size, maps) > 0)
		rc = scan_map(s, line, probe);
	free(line);
	fclose(maps);
	close(probe[0]);
	close(probe[1]);
	return rc == 0 ? 0 : complain("--demo-scan", "a mapping is too large to scan");
}

/** count_copies - while the key is clear, sealed and freed; frees it. */
static int
count_copies(struct scan *s, unsigned char **key)
{
	unsigned clear, sealed;

	if (secmalloc_decrypt(*key) != 0)
		return complain("decrypt", secmalloc_error());
	if (scan_memory(s) != 0)
		return -1;
	clear = s->found;
	if (secmalloc_encrypt(*key) != 0)
		return complain("encrypt", secmalloc_error());
	if (scan_memory(s) != 0)
		return -1;
	sealed = s->found;
	secfree(*key);
	*key = NULL;
	if (scan_memory(s) != 0)
		return -1;
	printf("copies of the key in this process: clear %u, sealed %u, freed %u\n", clear, sealed,
		s->found);
	return 0;
}

/** report - what the library was granted */
static void
report(void)
{
	static const char *const names[] = {
		"LOCKED", "GUARDED", "NODUMP", "FORKSAFE", "HIDDEN", "UNTRACEABLE"};
	static const char *const ciphers[] = {
		"none", "XChaCha20-Poly1305", "AES-256-GCM", "AEGIS-256", "AEGIS-128L"};
	struct secmalloc_stats st = SECMALLOC_STATS_INIT;
	size_t i;

	secmalloc_stats(&st);
	printf("granted:");
	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (st.granted & 1u << i)
			printf(" %s", names[i]);
	printf("\nnot granted:");
	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (!(st.granted & 1u << i))
			printf(" %s", names[i]);
	printf("%s\npools: %" PRIu64 ", %" PRIu64 " bytes; %" PRIu64 " bytes are locked\n",
		st.granted + 1 == 1u << i ? " nothing" : "", st.pools, st.pool_bytes,
		st.locked_bytes);
	printf("cipher: %s\n", ciphers[st.cipher < 5 ? st.cipher : 0]);
}

/* ------------------------------------------------------------------ main */

/** prepare - all that needs privileges: 0 with the key sealed, or -1 after one line. */
static int
prepare(struct job *job, struct scan *scan)
{
	struct secmalloc_config config = SECMALLOC_CONFIG_INIT;
	const char *why;
	size_t i;

	config.initial_pools = 1; /* holds all that will ever be needed: none can be had later */
	config.require = SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_NODUMP |
			 SECMALLOC_FORKSAFE | SECMALLOC_UNTRACEABLE;
	if (geteuid() == 0) {
		errno = 0;
		job->nobody = getpwnam("nobody");
		if (job->nobody == NULL)
			return complain("user nobody", errno ? strerror(errno) : "does not exist");
	}
	if (secmalloc_init(&config) != 0)
		return complain("secmalloc_init", secmalloc_error());
	if (sodium_init() < 0)
		return complain("sodium_init", "libsodium cannot be used");
	job->key = pkcs8_load(job->key_path, &why);
	if (job->key == NULL)
		return complain(job->key_path, why);
	if (job->scan)
		scan_aim(scan, job->key);
	if (secmalloc_encrypt(job->key) != 0)
		return complain("encrypt", secmalloc_error());
	for (i = 0; i < job->count; i++)
		if (open_target(&job->targets[i]) != 0)
			return -1;
	return 0;
}

static int
run(struct job *job)
{
	struct scan scan;
	size_t i;

	if (prepare(job, &scan) != 0)
		return -1;
	if (job->scan)
		report();
	if (drop(job->nobody) != 0)
		return -1;
	for (i = 0; i < job->count; i++)
		if (sign_target(&job->targets[i], job->key) != 0)
			return -1;
	if (job->scan && count_copies(&scan, &job->key) != 0)
		return -1;
	if (fflush(stdout) != 0)
		return complain("stdout", strerror(errno));
	return 0;
}

int
main(int argc, char **argv)
{
	struct job job = {0};
	int first = 1, rc;
	size_t i;

	if (argc > first && strcmp(argv[first], "--demo-scan") == 0) {
		job.scan = 1;
		first++;
	}
	if (argc < first + 2 || argv[first][0] == '-') {
		fputs("usage: signer [--demo-scan] KEY FILE...\n", stderr);
		return 2;
	}
	job.key_path = argv[first];
	job.count = (size_t)(argc - first - 1);
	job.targets = calloc(job.count, sizeof *job.targets);
	if (job.targets == NULL) {
		complain("calloc", strerror(errno));
		return 1;
	}
	for (i = 0; i < job.count; i++) {
		job.targets[i].path = argv[first + 1 + (int)i];
		job.targets[i].in = job.targets[i].out = -1;
	}
	rc = run(&job);
	secfree(job.key);
	secmalloc_term();
	for (i = 0; i < job.count; i++)
		close_target(&job.targets[i]);
	free(job.targets);
	return rc == 0 ? 0 : 1;
}
