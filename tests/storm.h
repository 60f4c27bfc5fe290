/*
 * storm.h - threads change records on far more pages than may be clear, and lose no update
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * The same for a program that knows of the library and for one that does not. Each record has one
 * writer, but pages have several. How often each was changed is counted outside the heap as well:
 * whoever is not at work on a record, here or in a child, finds it so.
 */
#ifndef TESTS_STORM_H
#define TESTS_STORM_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 3, RECORDS = 3000, WORDS = 100, CHILD_CHANGES = 200, FORK_PAUSE_MS = 30 };

#define STORM_MUST(x) ((x) ? (void)0 : storm_fail(#x, __LINE__))

struct record {
	uint64_t number, count, word[WORDS], sum;
};

/** struct storm - what differs */
struct storm {
	void *(*get)(size_t);
	void (*put)(void *);
	void (*close)(unsigned turn); /* in a thread of its own, again and again; or NULL */
	bool children;		      /* they have the records */
	unsigned seconds;
};

static struct {
	struct storm is;
	struct record *record[RECORDS];
	_Atomic uint64_t count[RECORDS];
	_Atomic bool busy[RECORDS], over;
	_Atomic uint64_t updates, forks, closes;
} storm;

static inline void
storm_fail(const char *what, int line)
{
	fprintf(stderr, "storm.h:%d: %s (errno %d)\n", line, what, errno);
	_exit(99);
}

static inline uint64_t
sum_of(const struct record *r)
{
	uint64_t sum = r->number * 31 + r->count;

	for (unsigned i = 0; i < WORDS; i++)
		sum = (sum ^ r->word[i]) * UINT64_C(0x100000001b3);
	return sum;
}

static inline bool
is_right(unsigned i)
{
	const struct record *r = storm.record[i];

	return r->number == i && r->count == storm.count[i] && r->sum == sum_of(r);
}

static inline void
tell(unsigned i)
{
	const struct record *r = storm.record[i];

	fprintf(stderr, "record %u: number %ju, count %ju, not %ju, its sum is %s\n", i,
		(uintmax_t)r->number, (uintmax_t)r->count, (uintmax_t)storm.count[i],
		r->sum == sum_of(r) ? "right" : "wrong");
}

static inline void
make_record(unsigned i)
{
	struct record *r = storm.is.get(sizeof(*r));

	STORM_MUST(r != NULL);
	r->number = i;
	r->count = storm.count[i];
	for (unsigned k = 0; k < WORDS; k++)
		r->word[k] = i * 77 + k;
	r->sum = sum_of(r);
	storm.record[i] = r;
}

static inline void
change(unsigned i)
{
	struct record *r = storm.record[i];

	if (!is_right(i)) {
		tell(i);
		STORM_MUST(!"an update was lost");
	}
	for (unsigned k = 0; k < WORDS; k++)
		r->word[k] += r->count * k + 1;
	r->count++;
	r->sum = sum_of(r);
	storm.count[i]++;
}

static inline unsigned
dice(unsigned *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 8;
}

/* Now and then a record is another one, at another place. */
static inline void *
work(void *arg)
{
	const unsigned mine = (unsigned)(uintptr_t)arg;
	unsigned seed = mine + 1;

	while (!storm.over) {
		unsigned i = dice(&seed) % (RECORDS / WORKERS) * WORKERS + mine;

		storm.busy[i] = true;
		if (dice(&seed) % 64 == 0) {
			struct record *old = storm.record[i];

			STORM_MUST(is_right(i));
			make_record(i);
			storm.is.put(old);
		}
		change(i);
		storm.busy[i] = false;
		storm.updates++;
	}
	return NULL;
}

static inline void
in_child(void)
{
	unsigned busy = 0, seed = (unsigned)getpid();

	alarm(100);
	for (unsigned i = 0; i < RECORDS; i++) {
		busy += storm.busy[i];
		if (storm.busy[i] || is_right(i))
			continue;
		fprintf(stderr, "in a child: ");
		tell(i);
		_exit(98);
	}
	STORM_MUST(busy <= WORKERS);
	for (unsigned n = 0; n < CHILD_CHANGES; n++) {
		unsigned i = dice(&seed) % RECORDS;

		if (!storm.busy[i])
			change(i);
	}
	_exit(0);
}

static inline void *
multiply(void *unused)
{
	int status;

	while (!storm.over) {
		pid_t pid = fork();

		if (pid == 0 && storm.is.children)
			in_child();
		if (pid == 0)
			_exit(0);
		STORM_MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
		if (status)
			fprintf(stderr, "a child ended with 0x%x\n", (unsigned)status);
		STORM_MUST(status == 0);
		storm.forks++;
		nanosleep(&(struct timespec){ 0, FORK_PAUSE_MS * 1000000L }, NULL);
	}
	return unused;
}

static inline void *
close_often(void *unused)
{
	while (!storm.over) {
		storm.is.close((unsigned)storm.closes++);
		nanosleep(&(struct timespec){ 0, 3000000 }, NULL);
	}
	return unused;
}

static inline void
rage(const struct storm *is)
{
	pthread_t thread[WORKERS + 2];
	unsigned n = 0;

	storm.is = *is;
	for (unsigned i = 0; i < RECORDS; i++)
		make_record(i);
	for (; n < WORKERS; n++)
		STORM_MUST(!pthread_create(&thread[n], NULL, work, (void *)(uintptr_t)n));
	STORM_MUST(!pthread_create(&thread[n++], NULL, multiply, NULL));
	if (is->close)
		STORM_MUST(!pthread_create(&thread[n++], NULL, close_often, NULL));
	for (unsigned ms = 0; ms < is->seconds * 1000; ms += 100)
		nanosleep(&(struct timespec){ 0, 100000000 }, NULL);
	storm.over = true;
	while (n > 0)
		STORM_MUST(!pthread_join(thread[--n], NULL));
	for (unsigned i = 0; i < RECORDS; i++)
		if (!is_right(i)) {
			tell(i);
			STORM_MUST(!"an update was lost");
		}
	printf("%ju updates, %ju children, %ju times closed", (uintmax_t)storm.updates,
		(uintmax_t)storm.forks, (uintmax_t)storm.closes);
	STORM_MUST(storm.updates > 0 && storm.forks > 0);
	for (unsigned i = 0; i < RECORDS; i++)
		is->put(storm.record[i]);
}

#endif /* TESTS_STORM_H */
