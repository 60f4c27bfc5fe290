/*
 * run_calls.c - a program that knows nothing of the library, and its system calls
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * run_calls PART: calls, handlers SECONDS, discard, advise. Where 64 pages may be clear at once.
 */
#include "closed_calls.h"

enum { FLOOD = 2 << 20, DONTNEED_LOCKED = 24 };

static unsigned char *flood;

static void *
get(size_t align, size_t size)
{
	void *p = NULL;

	CLOSED_MUST(posix_memalign(&p, align, size) == 0);
	return p;
}

/* What is touched last stays open; the rest closes. */
static void
shut(void)
{
	for (size_t i = 0; i < FLOOD; i += CLOSED_PAGE)
		flood[i]++;
}

static void
work(unsigned turn)
{
	if (turn % 8 == 0)
		flood[turn * 4096 % FLOOD]++;
}

/* Pages that a program gives back are zero when it comes again, open or closed as they were. */
static void
discard(void)
{
	unsigned char *p = closed_get(LARGE, 1);

	for (int turn = 0; turn < 3; turn++) {
		CLOSED_MUST(madvise(p, LARGE / 2, turn ? MADV_DONTNEED : DONTNEED_LOCKED) == 0);
		for (size_t i = 0; i < LARGE / 2; i++) {
			CLOSED_MUST(p[i] == 0);
			p[i] = (unsigned char)~i; /* in pages side by side, which go as such */
		}
	}
	CLOSED_MUST(madvise(p, LARGE / 2, MADV_DONTNEED) == 0);
	for (size_t i = LARGE / 2; i < LARGE; i++)
		CLOSED_MUST(p[i] == closed_byte(1, i));
	p[5] = 5;
	shut();
	CLOSED_MUST(p[5] == 5 && p[6] == 0);
	free(p);
	free(closed_get(LARGE, 2));
}

/* What is only a hint may be heard and forgotten; what the program relies on may not. */
static void
advise(void)
{
	static const int hints[] = { MADV_NORMAL, MADV_WILLNEED, MADV_NOHUGEPAGE, MADV_DONTDUMP };
	static const int refused[] = { MADV_DONTFORK, MADV_WIPEONFORK, MADV_REMOVE, MADV_HWPOISON };
	unsigned char *p = closed_get(LARGE, 1);

	for (size_t i = 0; i < sizeof(hints) / sizeof(*hints); i++)
		CLOSED_MUST(madvise(p, LARGE, hints[i]) == 0);
	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
		errno = 0;
		CLOSED_MUST(madvise(p, LARGE, refused[i]) == -1 && errno == EINVAL);
	}
	for (size_t i = 0; i < LARGE; i++)
		CLOSED_MUST(p[i] == closed_byte(1, i));
	free(p);
}

int
main(int argc, char **argv)
{
	closed.get = get;
	closed.put = free;
	closed.shut = shut;
	flood = get(CLOSED_PAGE, FLOOD);
	if (argc > 1 && strcmp(argv[1], "calls") == 0)
		call_all();
	else if (argc > 2 && strcmp(argv[1], "handlers") == 0)
		call_in_handlers((unsigned)atoi(argv[2]), work);
	else if (argc > 1 && strcmp(argv[1], "discard") == 0)
		discard();
	else if (argc > 1 && strcmp(argv[1], "advise") == 0)
		advise();
	else
		return 2;
	return 0;
}
