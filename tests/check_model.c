/*
 * check_model.c - random operations on the library, compared with a model of it
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * SECMALLOC_SEED repeats a run, SECMALLOC_OPERATIONS makes it longer.  A tape that fails
 * is shrunk and printed; fuzz_model.c built with -DSTANDALONE replays it from a file:
 * xxd -r -p.
 *
 * tests/corpus is where fuzzers start.  SECMALLOC_CORPUS=DIR writes it there; the tests here
 * replay it and know each byte of it.
 */
#include "contract.h"
#include "model.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <time.h>

enum {
	OPERATIONS = 200000,
	OPERATIONS_SLOW = 10000, /* under valgrind */
	TAPE_OPERATIONS = 10000,
	CORPUS_FILES = 24,
	CORPUS_FILE_BYTES = 600, /* at most */
	SHRINK_SECONDS = 60,
	TIMEOUT_SECONDS = 1500
};

/** struct file - one of the corpus: its name and content */
struct file {
	char name[16];
	unsigned char bytes[CORPUS_FILE_BYTES];
	size_t length;
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
		alarm(300);
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
		model_notes->operation, t->operations);
	if (model_notes->operation + 1 < t->operations) {
		trial = *t;
		trial.operations = model_notes->operation + 1;
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
	model_notes = mmap(NULL, sizeof(*model_notes), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne((void *)model_notes, MAP_FAILED);
	for (uint64_t done = 0, i = 0; done < all; done += TAPE_OPERATIONS, i++) {
		record(&whole, seed, i, all - done < TAPE_OPERATIONS ? (size_t)(all - done)
								     : TAPE_OPERATIONS);
		model_notes->operation = 0;
		status = status_of(&whole, 0);
		if (status != 0)
			report(&whole, i, status);
		ck_assert_msg(status == 0, "seed %llu: status 0x%x", (unsigned long long)seed,
			(unsigned)status);
	}
}
END_TEST

/* ------------------------------------------------------------- the corpus */

/* The length decides how the library starts; one operation is a restart, random ones seldom are. */
static struct file
corpus_file(unsigned seed)
{
	struct file f = {.length = CORPUS_FILE_BYTES - seed * 21 % 64};
	unsigned char *restart = f.bytes + 60 * MODEL_STEP_BYTES;
	uint64_t state = seed;

	snprintf(f.name, sizeof(f.name), "seed-%02u", seed % 100);
	for (size_t i = 0; i < f.length; i++)
		f.bytes[i] = (unsigned char)next_random(&state);
	restart[0] = 255;
	restart[3] = 0;
	return f;
}

static FILE *
open_in(const char *folder, const char *name, const char *mode)
{
	char path[4096];

	if (snprintf(path, sizeof(path), "%s/%s", folder, name) < (int)sizeof(path))
		return fopen(path, mode);
	errno = ENAMETOOLONG;
	return NULL;
}

static int
write_corpus(const char *folder)
{
	for (unsigned seed = 1; seed <= CORPUS_FILES; seed++) {
		const struct file f = corpus_file(seed);
		FILE *out = open_in(folder, f.name, "wb");
		size_t written = out ? fwrite(f.bytes, 1, f.length, out) : 0;

		if (!out || fclose(out) != 0 || written != f.length) {
			perror(folder);
			return EXIT_FAILURE;
		}
	}
	return EXIT_SUCCESS;
}

/* NULL when the test is run by hand, not by make */
static const char *
corpus_folder(const char *test)
{
	static char folder[4000];
	const char *top = getenv("top_srcdir");

	if (!top)
		printf("skipped: %s needs top_srcdir\n", test);
	else
		ck_assert_int_lt(snprintf(folder, sizeof(folder), "%s/tests/corpus", top),
			sizeof(folder));
	return top ? folder : NULL;
}

static size_t
read_file(const char *folder, const char *name, unsigned char *into, size_t most)
{
	FILE *in = open_in(folder, name, "rb");
	size_t got;

	ck_assert_msg(in != NULL, "%s/%s: %s", folder, name, strerror(errno));
	got = fread(into, 1, most, in);
	fclose(in);
	return got;
}

static int
is_visible(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

START_TEST(corpus_is_what_this_test_makes)
{
	const char *folder = corpus_folder("corpus_is_what_this_test_makes");
	unsigned char found[CORPUS_FILE_BYTES + 1];
	struct dirent **entries;

	if (!folder)
		return;
	ck_assert_int_eq(scandir(folder, &entries, is_visible, alphasort), CORPUS_FILES);
	for (unsigned seed = 1; seed <= CORPUS_FILES; seed++) {
		const struct file f = corpus_file(seed);

		ck_assert_str_eq(entries[seed - 1]->d_name, f.name);
		ck_assert_uint_eq(read_file(folder, f.name, found, sizeof(found)), f.length);
		ck_assert_msg(memcmp(found, f.bytes, f.length) == 0, "%s is another", f.name);
		free(entries[seed - 1]);
	}
	free(entries);
}
END_TEST

START_TEST(library_and_model_never_differ_on_the_corpus)
{
	const char *folder = corpus_folder("library_and_model_never_differ_on_the_corpus");
	unsigned char tape[CORPUS_FILE_BYTES];
	size_t some = 0, all = SIZE_MAX;
	struct model_notes notes = {0, 0};

	if (!folder)
		return;
	model_notes = &notes;
	for (unsigned seed = 1; seed <= CORPUS_FILES; seed++) {
		const struct file f = corpus_file(seed);
		const size_t length = read_file(folder, f.name, tape, sizeof(tape));

		fprintf(stderr, "check_model: %s\n", f.name);
		ck_assert_int_eq(LLVMFuzzerTestOneInput(tape, length), 0);
		some |= length;
		all &= length;
	}
	ck_assert_msg(notes.kinds == model_kinds, "0x%x of 0x%x kinds of operations were done",
		notes.kinds, model_kinds);
	ck_assert_msg((some & ~all & 63) == 63, "a bit of the seed is the same in every file");
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("model");
	TCase *tc = add_case(s, "random operations", 0);

	tcase_set_timeout(tc, TIMEOUT_SECONDS);
	tcase_add_test(tc, library_and_model_never_differ);
	tc = add_case(s, "corpus", 0);
	tcase_set_timeout(tc, TIMEOUT_SECONDS);
	tcase_add_test(tc, corpus_is_what_this_test_makes);
	tcase_add_test(tc, library_and_model_never_differ_on_the_corpus);
	return s;
}

int
main(void)
{
	const char *folder = getenv("SECMALLOC_CORPUS");

	return folder ? write_corpus(folder) : run(suite());
}
