/*
 * check_model.c - random operations on the library, compared with a model of it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * SECMALLOC_SEED repeats a run, SECMALLOC_OPERATIONS makes it longer.  A tape that fails
 * is shrunk and printed; fuzz_model.c built with -DSTANDALONE replays it from a file:
 * xxd -r -p.
 */
#include "contract.h"
#include "model.h"

#include <fcntl.h>
#include <sys/random.h>
#include <time.h>

enum {
	OPERATIONS = 200000,
	OPERATIONS_SLOW = 10000, /* under valgrind */
	TAPE_OPERATIONS = 10000,
	SHRINK_SECONDS = 60,
	TIMEOUT_SECONDS = 900
};

/** struct tape - what is left of the operations of one run */
struct tape {
	unsigned char bytes[TAPE_OPERATIONS * MODEL_STEP_BYTES];
	size_t operations;
	uint64_t seed;
};

static struct tape whole, trial;

static uint64_t
number_from(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

/* splitmix64: any seed will do, 0 too */
static uint64_t
next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void
record(struct tape *t, uint64_t seed, uint64_t number, size_t operations)
{
	uint64_t state = seed + number * 0xd1342543de82ef95u;

	for (size_t i = 0; i < sizeof(t->bytes); i++)
		t->bytes[i] = (unsigned char)next_random(&state);
	t->operations = operations;
	t->seed = seed;
}

static void
cut(struct tape *t, size_t from, size_t operations)
{
	unsigned char *at = t->bytes + from * MODEL_STEP_BYTES;
	const size_t gone = operations * MODEL_STEP_BYTES;

	memmove(at, at + gone, (t->operations - from) * MODEL_STEP_BYTES - gone);
	t->operations -= operations;
}

/* In a child of its own, for a failure is the end of it.  Answers waitpid's status. */
static int
status_of(const struct tape *t, int silent)
{
	const struct rlimit none = {0, 0};
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		const int null = open("/dev/null", O_WRONLY);

		setrlimit(RLIMIT_CORE, &none);
		signal(SIGSEGV, SIG_DFL);
		signal(SIGABRT, SIG_DFL);
		if (silent)
			dup2(null, STDERR_FILENO);
		alarm(TIMEOUT_SECONDS / 3);
		model_run(t->bytes, t->operations * MODEL_STEP_BYTES, t->seed);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	return status;
}

/* Halves, quarters and so on down to single operations: each goes that need not stay. */
static void
shrink(struct tape *t)
{
	const time_t end = time(NULL) + SHRINK_SECONDS;
	size_t step = t->operations / 2 ? t->operations / 2 : 1, dropped = 0;

	for (size_t from = 0; time(NULL) < end; from = from >= t->operations ? 0 : from) {
		const size_t most = from < t->operations ? t->operations - from : 0;

		trial = *t;
		cut(&trial, from, step < most ? step : most);
		if (most && status_of(&trial, 1) != 0) {
			*t = trial;
			dropped = 1;
			continue;
		}
		from += step;
		if (from < t->operations)
			continue;
		if (step == 1 && !dropped)
			return;
		step = step > 1 ? step / 2 : 1;
		dropped = 0;
	}
}

static void
report(struct tape *t, uint64_t number, int status)
{
	fprintf(stderr, "model: seed %llu, tape %llu: status 0x%x in operation %zu of %zu\n",
		(unsigned long long)t->seed, (unsigned long long)number, (unsigned)status,
		*model_progress, t->operations);
	if (*model_progress + 1 < t->operations) {
		trial = *t;
		trial.operations = *model_progress + 1;
		if (status_of(&trial, 1) != 0)
			*t = trial;
	}
	shrink(t);
	model_talks = 1;
	status_of(t, 0);
	fprintf(stderr, "model: %zu operations are enough:\n", t->operations);
	for (size_t i = 0; i < t->operations * MODEL_STEP_BYTES; i++)
		fprintf(stderr, "%02x%s", t->bytes[i], i % 36 == 35 ? "\n" : "");
	fprintf(stderr, "\n");
}

START_TEST(library_and_model_never_differ)
{
	const char *preload = getenv("LD_PRELOAD");
	const int slow = preload && strstr(preload, "/vgpreload_") != NULL;
	const uint64_t all = number_from("SECMALLOC_OPERATIONS",
		slow ? OPERATIONS_SLOW : OPERATIONS);
	uint64_t seed = 0;
	int status;

	ck_assert_int_eq(getrandom(&seed, sizeof(seed), 0), sizeof(seed));
	seed = number_from("SECMALLOC_SEED", seed);
	printf("check_model: SECMALLOC_SEED=%llu, %llu operations\n", (unsigned long long)seed,
		(unsigned long long)all);
	model_progress = mmap(NULL, sizeof(size_t), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne((void *)model_progress, MAP_FAILED);
	for (uint64_t done = 0, i = 0; done < all; done += TAPE_OPERATIONS, i++) {
		record(&whole, seed, i, all - done < TAPE_OPERATIONS ? (size_t)(all - done)
								     : TAPE_OPERATIONS);
		*model_progress = 0;
		status = status_of(&whole, 0);
		if (status != 0)
			report(&whole, i, status);
		ck_assert_msg(status == 0, "seed %llu: status 0x%x", (unsigned long long)seed,
			(unsigned)status);
	}
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("model");
	TCase *tc = add_case(s, "random operations", 0);

	tcase_set_timeout(tc, TIMEOUT_SECONDS);
	tcase_add_test(tc, library_and_model_never_differ);
	return s;
}

int
main(void)
{
	return run(suite());
}
