/*
 * contract_fault.h - how a test of the contract sees a process die over a misuse
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Each misuse dies in a child of its own, by SIGABRT and with one sentence that names it;
 * the same steps without the misuse exit 0.
 */
#ifndef TESTS_CONTRACT_FAULT_H
#define TESTS_CONTRACT_FAULT_H

#include "contract.h"

/** struct misuse - what to do to a chunk of `size`, or where `wrong` its twin without fault */
struct misuse {
	size_t size;
	size_t alignment; /* 0: secmalloc */
	ptrdiff_t offset; /* where to write, or how far off to free */
	int wrong;
	enum { BY_FREE, BY_ENCRYPT, BY_REALLOC, BY_REALLOC_TO_0, BY_SHRINK } found;
};

/** fault_without - what the children's pools go without: set by the fixture */
static unsigned fault_without;

static inline void
without_hidden(void)
{
	fault_without = SECMALLOC_HIDDEN;
}

/** assert_sentence - the child aborted and said one line: secmalloc: ... word ... */
static inline void
assert_sentence(const struct outcome *o, const char *word)
{
	static const char *const words[] = {"double free", "invalid free", "overflow", "underflow",
		"write after free", "internal"};

	ck_assert_msg(WIFSIGNALED(o->status) && WTERMSIG(o->status) == SIGABRT,
		"%s: status 0x%x: %s", word, (unsigned)o->status, o->text);
	ck_assert_msg(strncmp(o->text, "secmalloc: ", 11) == 0, "%s: %s", word, o->text);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		ck_assert_msg((strstr(o->text, words[i]) != NULL) == (strcmp(words[i], word) == 0),
			"%s: %s", word, o->text);
	ck_assert_msg(strchr(o->text, '\n') == o->text + strlen(o->text) - 1, "%s", o->text);
}

/** assert_dies - with m->wrong body aborts over word, without it exits 0 */
static inline void
assert_dies(void (*body)(void *), struct misuse m, const char *word)
{
	struct outcome o;

	m.wrong = 1;
	o = outcome_of(body, &m);
	assert_sentence(&o, word);
	m.wrong = 0;
	assert_exits_0(body, &m);
}

static inline unsigned char *
chunk_for(const struct misuse *m)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	unsigned char *p;

	c.without = fault_without;
	MUST(secmalloc_init(&c) == 0);
	p = m->alignment ? secaligned_alloc(m->alignment, m->size) : secmalloc(m->size);
	MUST(p != NULL);
	fill(p, m->size, 1);
	return p;
}

/** use - the call at which the misuse of p is to be found */
static inline void
use(const struct misuse *m, void *p)
{
	switch (m->found) {
	case BY_FREE:
		secfree(p);
		break;
	case BY_ENCRYPT:
		MUST(secmalloc_encrypt(p) == 0);
		break;
	case BY_REALLOC:
		MUST(secrealloc(p, m->size + 70) != NULL);
		break;
	case BY_REALLOC_TO_0:
		MUST(secrealloc(p, 0) == NULL);
		break;
	case BY_SHRINK:
		MUST(secrealloc(p, m->size - m->size / 4) != NULL);
		break;
	}
}

#endif /* TESTS_CONTRACT_FAULT_H */
