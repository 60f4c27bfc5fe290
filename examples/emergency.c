/*
 * emergency.c - a key that is gone when the program is in trouble, or told to forget it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * usage: emergency
 *
 * Keeps a random key, and answers each line of standard input with its MAC (here: a checksum) under
 * that key.  SIGTERM and SIGSEGV destroy the key before the program ends by them; SIGUSR1 destroys
 * it and the program goes on without, as ssh-agent does when its keys are removed.
 */
#include <errno.h>
#include <secmalloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum { KEY_BYTES = 32, LINE_BYTES = 256 };

/* SA_RESETHAND: the signal, raised anew, takes its usual course, a core dump without the key. */
static void
forget_and_end(int signal)
{
	secmalloc_purge(); /* async-signal-safe */
	raise(signal);
}

static void
forget(int signal)
{
	(void)signal;
	secmalloc_purge();
}

static int
watch(int signal, void (*handler)(int), int flags)
{
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_handler = handler;
	a.sa_flags = flags;
	return sigaction(signal, &a, NULL);
}

/* Held only while it is used: at rest there is ciphertext. */
static int
sum_of(unsigned char *key, const char *line, unsigned *sum)
{
	if (secmalloc_hold(key))
		return -1;
	*sum = 2166136261u;
	for (size_t i = 0; i < KEY_BYTES; i++)
		*sum = (*sum ^ key[i]) * 16777619u;
	for (; *line; line++)
		*sum = (*sum ^ (unsigned char)*line) * 16777619u;
	return secmalloc_release(key);
}

int
main(void)
{
	unsigned char *key = secmalloc_init(NULL) == 0 ? secmalloc(KEY_BYTES) : NULL;
	char line[LINE_BYTES];
	unsigned sum;

	if (!key || getrandom(key, KEY_BYTES, 0) != KEY_BYTES || secmalloc_encrypt(key) ||
		watch(SIGTERM, forget_and_end, (int)SA_RESETHAND) ||
		watch(SIGSEGV, forget_and_end, (int)SA_RESETHAND) ||
		watch(SIGUSR1, forget, SA_RESTART)) {
		fprintf(stderr, "emergency: %s\n", secmalloc_error());
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin))
		if (sum_of(key, line, &sum))
			printf("%s\n", errno == ECANCELED ? "the key is gone" : secmalloc_error());
		else
			printf("%08x\n", sum);
	secfree(key);
	return secmalloc_term();
}
