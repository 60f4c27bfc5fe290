/*
 * phrase.c - what a passphrase gives, and parcels sealed to it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Argon2id of the passphrase is the seed of a key pair. Only the salt and the public key stay: with
 * those parcels can be sealed, and a passphrase be recognised, but nothing be opened.
 */
#include "inside.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* As src/key/wrap.c has it. */
#ifndef SM_ARGON2_PASSES
#define SM_ARGON2_PASSES crypto_pwhash_argon2id_OPSLIMIT_MODERATE
#endif
#ifndef SM_ARGON2_BYTES
#define SM_ARGON2_BYTES crypto_pwhash_argon2id_MEMLIMIT_MODERATE
#endif

#ifndef SD_DELAY_MOST_MS
#define SD_DELAY_MOST_MS 5000
#endif

enum { DELAY_FIRST_MS = 100, STACK_BYTES = 512 * 1024, TRACE_BYTES = 32768 };

static struct derive {
	bool runs;
	int fd; /* an eventfd; 0: not made yet */
	pthread_t thread;
	void *stack;
	const unsigned char *phrase;
	size_t n;
	unsigned char salt[SD_SALT_BYTES];
	struct sd_pair *pair;
	int error;
} derive;

/* ------------------------------------------------------------------------- deriving */

static SM_NOINLINE int
make_pair(struct derive *d)
{
	SM_GAP_DEEP;
	int e;

	SM_GAP_OPEN();
	e = crypto_pwhash(d->pair->seed, sizeof(d->pair->seed), (const char *)d->phrase, d->n,
		d->salt, SM_ARGON2_PASSES, SM_ARGON2_BYTES, crypto_pwhash_ALG_ARGON2ID13);
	if (e == 0)
		e = crypto_box_seed_keypair(d->pair->public, d->pair->secret, d->pair->seed);
	SM_GAP_CLOSE();
	return e;
}

static void *
work(void *arg)
{
	struct derive *d = arg;
	uint64_t one = 1;

	d->error = make_pair(d) ? ENOMEM : 0;
	sm_wipe_traces_of(TRACE_BYTES);
	sm_wipe(d->pair->seed, sizeof(d->pair->seed));
	while (write(d->fd, &one, sizeof(one)) < 0 && errno == EINTR)
		continue;
	return NULL;
}

/* A stack that is locked where that may be; it is wiped in any case. */
static int
start_thread(struct derive *d)
{
	pthread_attr_t a;
	int e;

	d->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (d->stack == MAP_FAILED)
		return errno;
	(void)mlock(d->stack, STACK_BYTES);
	e = pthread_attr_init(&a);
	if (e == 0) {
		e = pthread_attr_setstack(&a, d->stack, STACK_BYTES);
		if (e == 0)
			e = pthread_create(&d->thread, &a, work, d);
		pthread_attr_destroy(&a);
	}
	if (e)
		munmap(d->stack, STACK_BYTES);
	return e;
}

int
sd_derive_begin(const unsigned char *phrase, size_t n, const unsigned char *salt)
{
	struct derive *d = &derive;
	int e;

	if (d->fd == 0) {
		d->fd = eventfd(0, EFD_CLOEXEC);
		if (d->fd < 0) {
			d->fd = 0;
			return errno;
		}
	}
	d->pair = secmalloc(sizeof(*d->pair));
	if (!d->pair)
		return errno;
	d->phrase = phrase;
	d->n = n;
	memcpy(d->salt, salt, SD_SALT_BYTES);
	e = start_thread(d);
	d->runs = e == 0;
	if (e)
		secfree(d->pair);
	return e;
}

int
sd_derive_fd(void)
{
	return derive.runs ? derive.fd : -1;
}

int
sd_derive_end(struct sd_pair **pair)
{
	struct derive *d = &derive;
	uint64_t n;

	pthread_join(d->thread, NULL);
	munmap(d->stack, STACK_BYTES);
	d->runs = false;
	if (read(d->fd, &n, sizeof(n)) != sizeof(n))
		sd_log(LOG_WARNING, "an eventfd without event");
	if (d->error) {
		secfree(d->pair);
		return d->error;
	}
	*pair = d->pair;
	return 0;
}

unsigned
sd_delay_ms(unsigned wrong)
{
	unsigned ms = DELAY_FIRST_MS;

	if (wrong == 0)
		return 0;
	while (--wrong && ms < SD_DELAY_MOST_MS)
		ms *= 2;
	return ms < SD_DELAY_MOST_MS ? ms : SD_DELAY_MOST_MS;
}

/* -------------------------------------------------------------------------- parcels */

static SM_NOINLINE int
seal(const struct sd_seal *s, const unsigned char *parcel, size_t n, unsigned char *sealed)
{
	SM_GAP_DEEP;
	int e;

	SM_GAP_OPEN();
	e = crypto_box_seal(sealed, parcel, n, s->public);
	SM_GAP_CLOSE();
	return e;
}

int
sd_seal_parcel(
	const struct sd_seal *s, const unsigned char *parcel, size_t n, unsigned char *sealed)
{
	int e = seal(s, parcel, n, sealed);

	sm_wipe_traces_of(TRACE_BYTES);
	return e ? EINVAL : 0;
}

static SM_NOINLINE int
unseal(const struct sd_pair *pair, const unsigned char *sealed, size_t n, unsigned char *parcel)
{
	SM_GAP_DEEP;
	int e;

	SM_GAP_OPEN();
	e = crypto_box_seal_open(
		parcel, sealed, n + crypto_box_SEALBYTES, pair->public, pair->secret);
	SM_GAP_CLOSE();
	return e;
}

int
sd_open_parcel(
	const struct sd_pair *pair, const unsigned char *sealed, size_t n, unsigned char *parcel)
{
	int e = unseal(pair, sealed, n, parcel);

	sm_wipe_traces_of(TRACE_BYTES);
	return e ? EBADMSG : 0;
}

/* ------------------------------------------------------------------- the first phrase */

static int
adopt(const char *phrase, size_t n, struct sd_seal *s)
{
	struct sd_pair *pair;
	int e;

	randombytes_buf(s->salt, sizeof(s->salt));
	e = sd_derive_begin((const unsigned char *)phrase, n, s->salt);
	if (e == 0)
		e = sd_derive_end(&pair);
	if (e) {
		sd_log(LOG_ERR, "Argon2id needs %zu bytes of memory: %s", (size_t)SM_ARGON2_BYTES,
			strerror(e));
		return e;
	}
	memcpy(s->public, pair->public, sizeof(s->public));
	s->set = true;
	secfree(pair);
	return 0;
}

/* Up to the first newline, as echo(1) puts one there. */
static int
phrase_of_fd(int fd, struct sd_seal *s)
{
	size_t n = 0;
	char *text = secmalloc_read_fd(fd, SM_WIRE_PHRASE_BYTES + 1, &n), *end;
	int e = text ? 0 : errno;

	if (e) {
		sd_log(LOG_ERR, "--passphrase-fd %d: %s", fd, secmalloc_error());
		return e;
	}
	end = memchr(text, '\n', n);
	if (end)
		n = (size_t)(end - text);
	if (n == 0 || n > SM_WIRE_PHRASE_BYTES) {
		sd_log(LOG_ERR, "--passphrase-fd %d: one line of 1 to %d bytes is wanted", fd,
			SM_WIRE_PHRASE_BYTES);
		e = EINVAL;
	}
	if (e == 0)
		e = adopt(text, n, s);
	secfree(text);
	return e;
}

static int
phrase_of_terminal(struct sd_seal *s)
{
	char *first, *again = NULL;
	int e = 0;

	first = secmalloc_read_passphrase(
		"Passphrase to unlock with (none: empty): ", SM_WIRE_PHRASE_BYTES);
	if (!first && errno != ENODATA) {
		e = errno;
		sd_log(LOG_ERR, "no passphrase was read: %s", secmalloc_error());
		return e;
	}
	if (first && *first) {
		again = secmalloc_read_passphrase("Once more: ", SM_WIRE_PHRASE_BYTES);
		if (!again || strlen(again) != strlen(first) ||
			secmemcmp(first, again, strlen(first))) {
			sd_log(LOG_ERR, "the two passphrases differ: start again");
			e = EINVAL;
		}
		if (e == 0)
			e = adopt(first, strlen(first), s);
	}
	secfree(again);
	secfree(first);
	return e;
}

int
sd_phrase_start(int phrase_fd, struct sd_seal *s)
{
	int e = 0;

	if (phrase_fd >= 0) {
		e = phrase_of_fd(phrase_fd, s);
		if (phrase_fd > STDERR_FILENO)
			close(phrase_fd);
	} else if (phrase_fd == SD_PHRASE_ASK) {
		e = phrase_of_terminal(s);
	}
	if (e == 0 && !s->set)
		sd_log(LOG_NOTICE, "no passphrase: lock wants one each time, or set one by"
				   " secmallocctl passwd");
	return e;
}
