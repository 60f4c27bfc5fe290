/*
 * leak_acts.c - what leak_victim does besides: work in threads, calls that fail, a key from outside
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <secmalloc.h>

#include "leak.h"

enum { THREADS = 4, ROUNDS = 8, SIGNAL_STACK_BYTES = 1 << 16, DEPTH_BYTES = 1 << 16 };

struct thread {
	pthread_t id;
	int rests;
	_Atomic int done; /* 1: as it should, -1: not */
	unsigned char signal_stack[SIGNAL_STACK_BYTES];
};

static struct thread threads[THREADS];

int
leak_expose(int result)
{
	syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), SIGUSR1);
	return result;
}

/* ----------------------------------------------------------------- threads */

/* Far below everything else that a thread calls, so that nothing is overwritten. */
static int
work_deep(void)
{
	volatile unsigned char above[DEPTH_BYTES];

	above[0] = 0;
	for (int i = 0; i < 2 * ROUNDS; i++) {
		void *p = i % 2 ? large : small;

		if (leak_expose(secmalloc_decrypt(p)) || leak_expose(secmalloc_encrypt(p)))
			return -1;
	}
	return above[0] ? -1 : 1;
}

static void *
work(void *arg)
{
	struct thread *t = arg;
	stack_t st = {.ss_sp = t->signal_stack, .ss_size = SIGNAL_STACK_BYTES};

	atomic_store(&t->done, sigaltstack(&st, NULL) == 0 ? work_deep() : -1);
	while (t->rests)
		pause();
	return NULL;
}

/* Every other thread then rests, for gdb to read its registers; the rest end, and leave their
 * stacks to the C library, which keeps them. */
int
leak_threads(void)
{
	int e = 0;

	for (size_t i = 0; i < THREADS; i++) {
		threads[i].rests = i % 2 == 0;
		if (pthread_create(&threads[i].id, NULL, work, &threads[i]) != 0)
			return -1;
	}
	for (size_t i = 0; i < THREADS; i++) {
		while (atomic_load(&threads[i].done) == 0)
			usleep(1000);
		e |= atomic_load(&threads[i].done) < 0;
		if (!threads[i].rests)
			e |= pthread_join(threads[i].id, NULL);
	}
	return e ? -1 : 0;
}

/* -------------------------------------------------------- a key from outside */

int
leak_provide(unsigned char key[32], void *seed)
{
	volatile unsigned char *p = key;

	for (size_t i = 0; i < 32; i++)
		p[i] = leak_byte(LEAK_PROVIDED_SEED(*(uint64_t *)seed), i);
	return 0;
}

/* ---------------------------------------------------------- calls that fail */

static int
fails(int result, int e)
{
	int as_it_should = result == -1 && errno == e;

	return leak_expose(as_it_should ? 0 : -1);
}

static int
refuse_locks(void)
{
	static const char material[] = "right", other[] = "wrong";
	int e = leak_expose(secmalloc_hold(small));

	e |= fails(secmalloc_lock(material, sizeof material), EBUSY);
	e |= leak_expose(secmalloc_release(small));
	e |= leak_expose(secmalloc_lock(material, sizeof material));
	e |= fails(secmalloc_unlock(other, sizeof other), EPERM);
	e |= fails(secmalloc_decrypt(large), EACCES);
	e |= leak_expose(secmalloc_unlock(material, sizeof material));
	return e;
}

/* Both are closed, before and afterwards. */
int
leak_refuse(void)
{
	int e = refuse_locks();

	small[1] ^= 1;
	large[1] ^= 1;
	e |= fails(secmalloc_decrypt(small), EBADMSG);
	e |= fails(secmalloc_decrypt(large), EBADMSG);
	e |= fails(secmalloc_rekey(), EBADMSG);
	e |= fails(secmalloc_decrypt_all(), EBADMSG);
	e |= secrealloc(large, LEAK_LARGE_BYTES / 2) == NULL ? fails(-1, EBADMSG) : -1;
	small[1] ^= 1;
	large[1] ^= 1;
	return e;
}
