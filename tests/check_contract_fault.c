/*
 * check_contract_fault.c - the contract: canaries, writes after free, on_fault
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract_fault.h"
#include <pthread.h>

static const size_t PACKED[] = {
	0, 1, 8, 15, 16, 17, 24, 32, 33, 100, 128, 1000, 4000, 4096, 10000, 16383, 16384};
#define N_PACKED (sizeof(PACKED) / sizeof(PACKED[0]))

static const size_t LARGE[] = {16385, 20000, 32768, 65536, 65537, 300000};
#define N_LARGE (sizeof(LARGE) / sizeof(LARGE[0]))

static void
write_around(void *arg)
{
	const struct misuse *m = arg;
	unsigned char *p = chunk_for(m);

	if (m->wrong)
		spoil(p, m->offset);
	else if (m->size > 0)
		spoil(p, m->offset < 0 ? 0 : (ptrdiff_t)m->size - 1);
	use(m, p);
}

START_TEST(one_byte_behind_a_packed_chunk_is_an_overflow_at_free)
{
	for (size_t i = 0; i < N_PACKED; i++)
		assert_dies(write_around,
			(struct misuse){.size = PACKED[i], .offset = (ptrdiff_t)PACKED[i]},
			"overflow");
}
END_TEST

START_TEST(one_byte_before_a_chunk_is_an_underflow_at_free)
{
	for (size_t i = 0; i < N_PACKED; i++)
		assert_dies(write_around, (struct misuse){.size = PACKED[i], .offset = -1},
			"underflow");
	for (size_t i = 0; i < N_LARGE; i++)
		assert_dies(
			write_around, (struct misuse){.size = LARGE[i], .offset = -1}, "underflow");
}
END_TEST

START_TEST(one_byte_around_a_chunk_is_found_at_encrypt_and_realloc)
{
	for (int found = BY_ENCRYPT; found <= BY_SHRINK; found++) {
		for (size_t i = 2; i < N_PACKED; i += 2) {
			struct misuse m = {.size = PACKED[i], .found = found};

			m.offset = (ptrdiff_t)m.size;
			assert_dies(write_around, m, "overflow");
			m.offset = -1;
			assert_dies(write_around, m, "underflow");
		}
		for (size_t i = 0; i < N_LARGE; i++) {
			struct misuse m = {.size = LARGE[i], .found = found, .offset = -1};

			assert_dies(write_around, m, "underflow");
		}
	}
}
END_TEST

START_TEST(one_byte_around_an_aligned_chunk_is_found)
{
	for (size_t alignment = 32; alignment <= 4096; alignment *= 2) {
		struct misuse m = {.size = 100, .alignment = alignment};

		for (int found = BY_FREE; found <= BY_REALLOC; found++) {
			m.found = found;
			m.offset = 100;
			assert_dies(write_around, m, "overflow");
			m.offset = -1;
			assert_dies(write_around, m, "underflow");
		}
	}
}
END_TEST

static void
resize_then_write_around(void *arg)
{
	const struct misuse *m = arg;
	unsigned char *p = chunk_for(m);
	const size_t n = m->size - 3;

	p = secrealloc(p, n);
	MUST(p != NULL);
	if (m->wrong)
		spoil(p, (ptrdiff_t)n);
	use(m, p);
}

START_TEST(a_byte_given_up_by_realloc_may_not_be_written)
{
	for (size_t i = 4; i < N_PACKED; i++)
		assert_dies(
			resize_then_write_around, (struct misuse){.size = PACKED[i]}, "overflow");
}
END_TEST

static void
open_then_write_around(void *arg)
{
	const struct misuse *m = arg;
	unsigned char *p = chunk_for(m);

	MUST(secmalloc_encrypt(p) == 0 && secmalloc_decrypt(p) == 0);
	if (m->wrong)
		spoil(p, m->offset);
	use(m, p);
}

START_TEST(canaries_outlast_closing_and_opening)
{
	for (size_t i = 1; i < N_PACKED; i++) {
		struct misuse m = {.size = PACKED[i], .offset = (ptrdiff_t)PACKED[i]};

		assert_dies(open_then_write_around, m, "overflow");
		m.offset = -1;
		assert_dies(open_then_write_around, m, "underflow");
	}
}
END_TEST

static void
write_behind_closed(void *arg)
{
	const struct misuse *m = arg;
	unsigned char *p = chunk_for(m);

	MUST(secmalloc_encrypt(p) == 0);
	if (m->wrong)
		spoil(p, m->offset);
	use(m, p);
}

START_TEST(one_byte_around_a_closed_chunk_is_found_at_free)
{
	for (size_t i = 0; i < N_PACKED; i += 2) {
		struct misuse m = {.size = PACKED[i], .offset = (ptrdiff_t)PACKED[i]};

		assert_dies(write_behind_closed, m, "overflow");
		m.offset = -1;
		assert_dies(write_behind_closed, m, "underflow");
	}
}
END_TEST

static void
write_after_free(void *arg)
{
	const struct misuse *m = arg;
	unsigned char *p = chunk_for(m), *kept[8];

	for (int i = 0; i < 8; i++)
		MUST((kept[i] = secmalloc(m->size)) != NULL);
	secfree(p);
	if (m->wrong)
		spoil(p, m->offset);
	for (int i = 0; i < 100000; i++) {
		void *q = secmalloc(m->size);

		MUST(q != NULL);
		secfree(q);
	}
	for (int i = 0; i < 8; i++)
		secfree(kept[i]);
}

START_TEST(a_write_after_free_is_found_when_the_slot_is_used_again)
{
	const size_t sizes[] = {16, 32, 100, 1000, 4000};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct misuse m = {.size = sizes[i]};

		assert_dies(write_after_free, m, "write after free");
		m.offset = (ptrdiff_t)sizes[i] / 2;
		assert_dies(write_after_free, m, "write after free");
		m.offset = (ptrdiff_t)sizes[i] - 1;
		assert_dies(write_after_free, m, "write after free");
	}
}
END_TEST

/** struct heard - what on_fault was told, on pages that the child shares */
struct heard {
	int calls;
	enum secmalloc_fault kind;
	const void *ptr;
	const void *expected;
	int leave; /* with _exit(7) */
};

static void
on_fault(enum secmalloc_fault kind, const void *ptr, void *arg)
{
	struct heard *h = arg;

	h->calls++;
	h->kind = kind;
	h->ptr = ptr;
	if (write(STDERR_FILENO, "heard\n", 6) != 6 || h->leave)
		_exit(7);
}

/** chunk_heard - a chunk of a library that reports to h */
static void *
chunk_heard(struct heard *h)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	char *p;

	c.on_fault = on_fault;
	c.fault_arg = h;
	c.without = fault_without;
	MUST(secmalloc_init(&c) == 0);
	memset(&c, 0xff, sizeof(c));
	p = secmalloc(48);
	MUST(p != NULL);
	h->expected = p;
	return p;
}

static void
fault_double_free(void *arg)
{
	void *p = chunk_heard(arg);

	secfree(p);
	secfree(p);
}

static void
fault_invalid_free(void *arg)
{
	struct heard *h = arg;
	char *p = chunk_heard(h);

	h->expected = p + 16;
	secfree(launder(p + 16));
}

static void
fault_overflow(void *arg)
{
	void *p = chunk_heard(arg);

	spoil(p, 48);
	secfree(p);
}

static void
fault_underflow(void *arg)
{
	void *p = chunk_heard(arg);

	spoil(p, -1);
	(void)secmalloc_encrypt(p);
}

static void
fault_write_after_free(void *arg)
{
	void *p = chunk_heard(arg);

	secfree(p);
	spoil(p, 0);
	for (int i = 0; i < 100000; i++)
		secfree(secmalloc(48));
}

START_TEST(on_fault_hears_the_kind_and_the_pointer_before_the_sentence)
{
	static const struct {
		void (*body)(void *);
		enum secmalloc_fault kind;
		const char *word;
	} faults[] = {
		{fault_double_free, SECMALLOC_FAULT_DOUBLE_FREE, "double free"},
		{fault_invalid_free, SECMALLOC_FAULT_INVALID_FREE, "invalid free"},
		{fault_overflow, SECMALLOC_FAULT_OVERFLOW, "overflow"},
		{fault_underflow, SECMALLOC_FAULT_UNDERFLOW, "underflow"},
		{fault_write_after_free, SECMALLOC_FAULT_WRITE_AFTER_FREE, "write after free"},
	};
	struct heard *h =
		mmap(NULL, sizeof(*h), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(h, MAP_FAILED);
	for (size_t i = 0; i < 5; i++) {
		struct outcome o;

		memset(h, 0, sizeof(*h));
		o = outcome_of(faults[i].body, h);
		ck_assert_msg(strncmp(o.text, "heard\n", 6) == 0, "%s", o.text);
		memmove(o.text, o.text + 6, strlen(o.text + 6) + 1);
		assert_sentence(&o, faults[i].word);
		ck_assert_int_eq(h->calls, 1);
		ck_assert_int_eq(h->kind, faults[i].kind);
		ck_assert_ptr_eq(h->ptr, h->expected);
		h->leave = 1;
		o = outcome_of(faults[i].body, h);
		ck_assert(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 7);
		ck_assert_str_eq(o.text, "heard\n");
	}
}
END_TEST

static void *
keep_busy(void *arg)
{
	(void)arg;
	for (;;) {
		void *p = secmalloc(40), *q = secmalloc(30000);

		MUST(p != NULL && q != NULL);
		MUST(secmalloc_encrypt(p) == 0 && secmalloc_decrypt(p) == 0);
		secfree(p);
		secfree(q);
	}
	return NULL;
}

static void
free_twice_among_threads(void *arg)
{
	pthread_t thread;
	void *p = chunk_for(arg);

	for (int i = 0; i < 4; i++)
		MUST(pthread_create(&thread, NULL, keep_busy, NULL) == 0);
	usleep(20000);
	secfree(p);
	secfree(p);
}

START_TEST(a_fault_ends_the_process_whatever_its_threads_do)
{
	struct misuse m = {.size = 64};

	for (int i = 0; i < 30; i++) {
		struct outcome o = outcome_of(free_twice_among_threads, &m);

		assert_sentence(&o, "double free");
	}
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, one_byte_behind_a_packed_chunk_is_an_overflow_at_free);
	tcase_add_test(tc, one_byte_before_a_chunk_is_an_underflow_at_free);
	tcase_add_test(tc, one_byte_around_a_chunk_is_found_at_encrypt_and_realloc);
	tcase_add_test(tc, one_byte_around_an_aligned_chunk_is_found);
	tcase_add_test(tc, a_byte_given_up_by_realloc_may_not_be_written);
	tcase_add_test(tc, canaries_outlast_closing_and_opening);
	tcase_add_test(tc, one_byte_around_a_closed_chunk_is_found_at_free);
	tcase_add_test(tc, a_write_after_free_is_found_when_the_slot_is_used_again);
	tcase_add_test(tc, on_fault_hears_the_kind_and_the_pointer_before_the_sentence);
	tcase_add_test(tc, a_fault_ends_the_process_whatever_its_threads_do);
}

int
main(void)
{
	Suite *s = suite_create("contract: fault");
	TCase *plain = add_case(s, "without hidden", 0);

	add_tests(add_case(s, "as granted", 0));
	tcase_add_checked_fixture(plain, without_hidden, NULL);
	add_tests(plain);
	return run(s);
}
