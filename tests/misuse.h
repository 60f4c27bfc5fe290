/*
 * misuse.h - misuses of a chunk, packed or isolated: how each may end
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A deed is one misuse.  It is played in a child of its own, which tells on pages shared with
 * the test how far it came: before the misuse, at it, after it, past where it had to be found.
 * An access that must fault is caught on a stack of its own, and counts only if the address is
 * the one that was touched and lies where the chunk's guard is.  The same play without the
 * misuse exits 0.
 */
#ifndef TESTS_MISUSE_H
#define TESTS_MISUSE_H

#include "contract.h"
#include <setjmp.h>

enum {
	TRAPPED = 42, /* a child's exit code: SIGSEGV at the access, in the guard */
	ASTRAY = 43   /* SIGSEGV anywhere else */
};

/** How a play may end: bits. */
enum {
	RUNS = 1,
	TRAPS = 2,
	DIES_AT_CALL = 4, /* with the deed's sentence */
	DIES_LATER = 8
};

enum {
	INTO_NEXT_PAGE = 0,   /* an amount: up to one byte of the next page */
	TURNS_TO_FIND = 2000, /* after which a write after free is found */
	CROWD = 6,            /* chunks beside the one concerned, unless a play asks for more */
	CROWD_MOST = 600,
	SEED = 1000 /* of the chunk concerned */
};

enum stage { BEFORE, AT_IT, AFTER, TOO_LATE };

struct play;

/** struct deed - a misuse and how it may end */
struct deed {
	const char *name;
	void (*act)(struct play *, unsigned char *p); /* frees p, too */
	size_t amount;                                /* of bytes, of frees between, or which */
	const char *word;                             /* of the sentence */
	unsigned packed, isolated;                    /* endings; 0: not to be played */
};

/** struct play - a deed with its circumstances; on shared pages */
struct play {
	const struct deed *deed;
	size_t size;
	size_t pool_size;
	unsigned flags;
	unsigned crowd; /* other chunks that live; 0: CROWD */
	size_t limit;   /* 0, or the child becomes nobody, who may lock that much */
	int by_encrypt; /* secmalloc_encrypt, before secfree, looks for damage */
	int wrong;      /* 0: the twin without fault */
	volatile enum stage stage;
};

/** Where a child touches memory that may fault: `at` within [low, high), or longjmp if careful. */
static struct {
	volatile uintptr_t at, low, high;
	volatile sig_atomic_t careful;
	sigjmp_buf back;
} trap;

/** way_without, way_require - what the children's pools are asked for: set by a fixture */
static unsigned way_without, way_require;

static inline void
way_without_hidden(void)
{
	way_without = SECMALLOC_HIDDEN;
}

static inline void
way_with_hidden(void)
{
	way_require = SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_NODUMP | SECMALLOC_FORKSAFE |
		      SECMALLOC_HIDDEN;
}

static inline void
on_segv(int number, siginfo_t *info, void *context)
{
	const uintptr_t at = (uintptr_t)info->si_addr;

	(void)number;
	(void)context;
	if (at == trap.at && trap.careful)
		siglongjmp(trap.back, 1);
	_exit(at == trap.at && at >= trap.low && at < trap.high ? TRAPPED : ASTRAY);
}

static inline void
catch_segv(void)
{
	static _Alignas(16) unsigned char other[65536];
	const stack_t stack = {.ss_sp = other, .ss_size = sizeof(other)};
	struct sigaction a;

	memset(&a, 0, sizeof(a));
	a.sa_sigaction = on_segv;
	a.sa_flags = SA_SIGINFO | SA_ONSTACK;
	MUST(sigaltstack(&stack, NULL) == 0);
	MUST(sigaction(SIGSEGV, &a, NULL) == 0);
}

static inline uintptr_t
page_bytes(void)
{
	return (uintptr_t)sysconf(_SC_PAGESIZE);
}

static inline uintptr_t
page_up(uintptr_t at)
{
	return (at + page_bytes() - 1) & ~(page_bytes() - 1);
}

static inline void
expect_between(uintptr_t low, uintptr_t high)
{
	trap.low = low;
	trap.high = high;
}

/** expect_behind, expect_in_front - in the guard of a chunk, whose canary shares its page */
static inline void
expect_behind(const unsigned char *p, size_t size)
{
	const uintptr_t end = page_up((uintptr_t)p + size);

	expect_between(end, end + page_bytes());
}

static inline void
expect_in_front(const unsigned char *p)
{
	const uintptr_t first = page_up((uintptr_t)p) - page_bytes();

	expect_between(first - page_bytes(), first);
}

/** read_at - the byte at p, which may fault */
static inline unsigned char
read_at(const unsigned char *p)
{
	trap.at = (uintptr_t)p;
	return *byte_at(p, 0);
}

static inline void
change_at(const unsigned char *p)
{
	trap.at = (uintptr_t)p;
	*byte_at(p, 0) ^= 0x55;
}

/** glance - read the byte at p; -1: it cannot be read */
static inline int
glance(const unsigned char *p)
{
	int byte = -1;

	trap.careful = 1;
	if (sigsetjmp(trap.back, 1) == 0)
		byte = read_at(p);
	trap.careful = 0;
	return byte;
}

/** zero_or_closed - no byte of the n at p can be read but zeros */
static inline int
zero_or_closed(const unsigned char *p, size_t n)
{
	volatile size_t i = 0;
	volatile int zero = 1;

	trap.careful = 1;
	if (sigsetjmp(trap.back, 1) != 0) /* comes back here from each page that is closed */
		i += page_bytes() - (trap.at & (page_bytes() - 1));
	for (; i < n && zero; i++)
		zero = read_at(p + i) == 0;
	trap.careful = 0;
	return zero;
}

/* ------------------------------------------------------------------- markers */

enum { MARKER_BYTES = 16, MARKER_MASK = 0xa5 };

/** marker_byte - no two of a marker are equal; masked, lest the program's copy be found */
static inline unsigned char
marker_byte(size_t i)
{
	static const unsigned char masked[MARKER_BYTES] = {0x9e, 0x37, 0x79, 0xb9, 0x7f, 0x4a, 0x7c,
		0x15, 0xf3, 0x9c, 0xc0, 0x60, 0x5c, 0xed, 0xc8, 0x34};

	return masked[i % MARKER_BYTES] ^ MARKER_MASK;
}

static inline void
mark(unsigned char *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		*byte_at(p, (ptrdiff_t)i) = marker_byte(i);
}

/* ------------------------------------------------------------------ playing */

static inline void
start(const struct play *y)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	if (y->limit)
		drop_to(y->limit);
	c.flags = y->flags;
	c.pool_size = y->pool_size;
	c.without = way_without;
	c.require = way_require;
	MUST(secmalloc_init(&c) == 0);
	MUST(secmalloc_stats(&s) == 0 && s.granted & SECMALLOC_GUARDED);
	catch_segv();
}

/** new_chunk - zeros, of which the head, or all, is then filled */
static inline unsigned char *
new_chunk(size_t size, size_t head, unsigned seed)
{
	unsigned char *p = secmalloc(size);

	MUST(p != NULL && all_zero(p, size));
	fill(p, head < size ? head : size, seed);
	return launder(p);
}

/** The other chunks: their heads are filled, each with its index. */
static struct {
	unsigned char *chunks[CROWD_MOST];
	unsigned n, next;
} crowd;

enum { HEAD = 32 };

static inline void
crowd_comes(const struct play *y, unsigned n)
{
	for (crowd.n = n; crowd.next < n; crowd.next++)
		crowd.chunks[crowd.next] = new_chunk(y->size, HEAD, crowd.next);
}

/** full_house - so many that slabs are full: a place that did not rest would have one again */
static inline unsigned
full_house(size_t size, unsigned flags)
{
	return flags & SECMALLOC_ISOLATE || size > 1000 ? 60 : CROWD_MOST;
}

static inline void
one_goes(const struct play *y, unsigned i)
{
	MUST(filled(crowd.chunks[i], y->size < HEAD ? y->size : HEAD, i));
	secfree(crowd.chunks[i]);
}

/** churn - so many times one of the crowd goes and another comes: who could get a place has it */
static inline void
churn(const struct play *y, size_t turns)
{
	for (size_t i = 0; i < turns; i++) {
		const unsigned who = crowd.next++ % crowd.n;

		one_goes(y, who);
		crowd.chunks[who] = new_chunk(y->size, HEAD, who);
	}
}

static inline void
perform(void *arg)
{
	struct play *y = arg;
	const unsigned n = y->crowd ? y->crowd : CROWD;
	unsigned char *p;

	start(y);
	crowd_comes(y, n / 2);
	p = new_chunk(y->size, y->size, SEED);
	crowd_comes(y, n);
	y->deed->act(y, p);
	for (unsigned i = 0; i < n; i++)
		one_goes(y, i);
	MUST(secmalloc_term() == 0);
}

/** speaks - one line: secmalloc: ... word ..., and no other fault's word */
static inline int
speaks(const char *text, const char *word)
{
	static const char *const words[] = {"double free", "invalid free", "overflow", "underflow",
		"write after free", "internal"};

	if (word == NULL || strncmp(text, "secmalloc: ", 11) != 0)
		return 0;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if ((strstr(text, words[i]) != NULL) != (strcmp(words[i], word) == 0))
			return 0;
	return strchr(text, '\n') == text + strlen(text) - 1;
}

/** ending - how it ended, or 0: as nothing should */
static inline unsigned
ending(const struct play *y, const struct outcome *o)
{
	const int aborted = WIFSIGNALED(o->status) && WTERMSIG(o->status) == SIGABRT;

	if (aborted && speaks(o->text, y->deed->word))
		return y->stage == AT_IT ? DIES_AT_CALL : y->stage == AFTER ? DIES_LATER : 0;
	if (!WIFEXITED(o->status) || o->text[0] != '\0')
		return 0;
	if (WEXITSTATUS(o->status) == TRAPPED && y->stage == AT_IT)
		return TRAPS;
	return WEXITSTATUS(o->status) == 0 && y->stage >= AFTER ? RUNS : 0;
}

/** new_play - a play on pages that its children share with the test */
static inline struct play *
new_play(void)
{
	struct play *y =
		mmap(NULL, sizeof(*y), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(y, MAP_FAILED);
	memset(y, 0, sizeof(*y));
	return y;
}

static inline unsigned
play_once(struct play *y, int wrong, unsigned allowed)
{
	struct outcome o;
	unsigned how;

	y->wrong = wrong;
	y->stage = BEFORE;
	o = outcome_of(perform, y);
	how = ending(y, &o);
	ck_assert_msg((how & allowed) != 0,
		"%s%s, amount %zu, %s chunk of %zu, pool_size %zu, limit %zu, found by %s: "
		"ended as %u, not as %u, at stage %d with status 0x%x: %s",
		wrong ? "" : "control of ", y->deed->name, y->deed->amount,
		y->flags & SECMALLOC_ISOLATE ? "isolated" : "packed", y->size, y->pool_size,
		y->limit, y->by_encrypt ? "encrypt" : "free", how, allowed, (int)y->stage,
		(unsigned)o.status, o.text);
	return how;
}

/** play - the deed ends as it may, its twin exits 0; answers how the deed ended, 0: not played */
static inline unsigned
play(struct play *y, const struct deed *d)
{
	const unsigned allowed = y->flags & SECMALLOC_ISOLATE ? d->isolated : d->packed;
	unsigned how;

	if (allowed == 0)
		return 0;
	y->deed = d;
	how = play_once(y, 1, allowed);
	(void)play_once(y, 0, RUNS);
	return how;
}

/* --------------------------------------------------------- after the chunk's end */

/** write_late - write into a chunk that was freed `amount` frees ago */
static inline void
write_late(struct play *y, unsigned char *p)
{
	if (!y->wrong)
		change_at(p + y->size / 2);
	secfree(p);
	churn(y, y->deed->amount);
	y->stage = AT_IT;
	expect_between((uintptr_t)p, (uintptr_t)p + y->size);
	if (y->wrong)
		change_at(p + y->size / 2);
	y->stage = AFTER;
	churn(y, TURNS_TO_FIND);
}

static inline void
free_late(struct play *y, unsigned char *p)
{
	secfree(p);
	churn(y, y->deed->amount);
	y->stage = AT_IT;
	if (y->wrong)
		secfree(launder(p));
	y->stage = AFTER;
}

/** read_late - where it can be read, the chunk is zero */
static inline void
read_late(struct play *y, unsigned char *p)
{
	if (!y->wrong)
		MUST(filled(p, y->size, SEED));
	secfree(p);
	churn(y, y->deed->amount);
	y->stage = AT_IT;
	expect_between((uintptr_t)p, (uintptr_t)p + y->size);
	for (size_t i = 0; y->wrong && i < y->size; i++)
		MUST(read_at(p + i) == 0);
	y->stage = AFTER;
}

/* -------------------------------------------------------------------- suites */

/** may_lock_for - whether so many bytes can be locked; if not, says what is skipped */
static inline int
may_lock_for(const char *what, size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const int may = p != MAP_FAILED && mlock(p, n) == 0;

	if (p != MAP_FAILED)
		munmap(p, n);
	if (!may)
		printf("skipped: %s, for RLIMIT_MEMLOCK is under %zu\n", what, n);
	return may;
}

/** hidden_to_be_had - whether the library starts when HIDDEN is required; if not, says so */
static inline int
hidden_to_be_had(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	const pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		c.require = SECMALLOC_HIDDEN;
		_exit(secmalloc_init(&c) == 0 ? 0 : 1);
	}
	if (pid > 0 && waitpid(pid, &status, 0) == pid && status == 0)
		return 1;
	printf("skipped: with hidden, which is not to be had\n");
	return 0;
}

/** add_ways - the tests that add adds, with each kind of pages; so many hidden ones are needed */
static inline void
add_ways(Suite *s, void (*add)(TCase *), size_t hidden_bytes)
{
	TCase *tc = add_case(s, "without hidden", 0);

	add(add_case(s, "as granted", 0));
	tcase_add_checked_fixture(tc, way_without_hidden, NULL);
	add(tc);
	if (!may_lock_for("with hidden", hidden_bytes) || !hidden_to_be_had())
		return;
	tc = add_case(s, "hidden required", 0);
	tcase_add_checked_fixture(tc, way_with_hidden, NULL);
	add(tc);
}

#endif /* TESTS_MISUSE_H */
