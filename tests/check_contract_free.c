/*
 * check_contract_free.c - the contract: freeing what may not be freed
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract_fault.h"

static void
free_twice(void *arg)
{
	const struct misuse *m = arg;
	void *p = chunk_for(m);

	if (m->wrong)
		secfree(p);
	use(m, p);
}

static void
free_beside(void *arg)
{
	const struct misuse *m = arg;
	unsigned char *p = chunk_for(m);

	if (m->wrong)
		use(m, (void *)(uintptr_t)byte_at(p, m->offset));
	use(m, p);
}

START_TEST(freeing_twice_is_a_double_free)
{
	const size_t sizes[] = {0, 1, 32, 1000, 4000, 16384, 16385, 65536, 300000};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct misuse m = {.size = sizes[i]};

		assert_dies(free_twice, m, "double free");
		m.found = BY_REALLOC;
		assert_dies(free_twice, m, "double free");
		m.found = BY_REALLOC_TO_0;
		assert_dies(free_twice, m, "double free");
	}
}
END_TEST

START_TEST(freeing_an_interior_pointer_is_an_invalid_free)
{
	const ptrdiff_t offsets[] = {1, 8, 16, 99, -1, -16, 64};
	const size_t sizes[] = {100, 4000, 65536};

	for (size_t i = 0; i < 3; i++) {
		for (size_t k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++) {
			struct misuse m = {.size = sizes[i], .offset = offsets[k]};

			assert_dies(free_beside, m, "invalid free");
			if (k > 2)
				continue;
			m.found = BY_REALLOC;
			assert_dies(free_beside, m, "invalid free");
			m.found = BY_REALLOC_TO_0;
			assert_dies(free_beside, m, "invalid free");
		}
	}
	assert_dies(free_beside, (struct misuse){.size = 65536, .offset = 65536}, "invalid free");
	assert_dies(free_beside, (struct misuse){.size = 65536, .offset = 4096}, "invalid free");
}
END_TEST

enum foreign { STACK, STATIC, HEAP, MAPPED, TEXT, CODE, LOW, HIGH, NOT_CANONICAL, WILD, OUR_CHUNK };

static void *
foreign(enum foreign kind)
{
	static char still[64];

	switch (kind) {
	case STATIC:
		return still;
	case HEAP:
		return malloc(64);
	case MAPPED:
		return mmap(
			NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	case TEXT:
		return launder("text");
	case CODE:
		return (void *)(uintptr_t)foreign;
	case LOW:
		return (void *)(uintptr_t)16;
	case HIGH:
		return (void *)(UINTPTR_MAX - 15);
	case NOT_CANONICAL:
		return (void *)(UINTPTR_MAX / 2 + 1);
	case WILD:
		return (void *)(uintptr_t)0x123456789ab0u;
	default:
		return secmalloc(64);
	}
}

/** struct stray - which pointer goes to which call, in what state of the library */
struct stray {
	enum foreign kind;
	int resize;
	enum { RUNNING, NEVER_STARTED, AFTER_TERM } state;
};

static void
free_foreign(void *arg)
{
	const struct stray *s = arg;
	char here[64];
	void *p = here;

	if (s->state != NEVER_STARTED)
		MUST(secmalloc_init(NULL) == 0);
	if (s->kind != STACK)
		p = foreign(s->kind);
	if (s->state == AFTER_TERM)
		MUST(secmalloc_term() == 0);
	if (s->resize)
		MUST(secrealloc(launder(p), 100) != NULL);
	else
		secfree(launder(p));
}

START_TEST(freeing_what_is_not_ours_is_an_invalid_free)
{
	for (int state = RUNNING; state <= AFTER_TERM; state++) {
		for (int kind = STACK; kind < OUR_CHUNK; kind++) {
			struct stray s = {kind, 0, state};
			struct outcome o = outcome_of(free_foreign, &s);

			assert_sentence(&o, "invalid free");
			s.resize = 1;
			o = outcome_of(free_foreign, &s);
			assert_sentence(&o, "invalid free");
		}
	}
	assert_exits_0(free_foreign, &(struct stray){OUR_CHUNK, 0, RUNNING});
	assert_exits_0(free_foreign, &(struct stray){OUR_CHUNK, 1, RUNNING});
}
END_TEST

START_TEST(freeing_a_chunk_from_before_term_is_an_invalid_free)
{
	struct stray s = {OUR_CHUNK, 0, AFTER_TERM};
	struct outcome o = outcome_of(free_foreign, &s);

	assert_sentence(&o, "invalid free");
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract: free");
	TCase *tc = add_case(s, "as granted", 0);
	TCase *plain = add_case(s, "without hidden", 0);

	tcase_add_test(tc, freeing_twice_is_a_double_free);
	tcase_add_test(tc, freeing_an_interior_pointer_is_an_invalid_free);
	tcase_add_test(tc, freeing_what_is_not_ours_is_an_invalid_free);
	tcase_add_test(tc, freeing_a_chunk_from_before_term_is_an_invalid_free);
	tcase_add_checked_fixture(plain, without_hidden, NULL);
	tcase_add_test(plain, freeing_twice_is_a_double_free);
	tcase_add_test(plain, freeing_an_interior_pointer_is_an_invalid_free);
	return run(s);
}
