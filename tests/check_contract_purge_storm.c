/*
 * check_contract_purge_storm.c - the contract: a signal handler purges at any moment of any call
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * A timer fires a random time after it was set, while calls are made in a loop.  Prints how many
 * purges came inside of each.  SECMALLOC_STORM_SECONDS: for how long (12).
 */
#include "every_call.h"

#include <time.h>

enum op {
	NONE, INIT, TERM, FORK, REKEY, ENCRYPT, DECRYPT, ENCRYPT_ALL, DECRYPT_ALL, HOLD, RELEASE,
	MOVE, RESIZE, MALLOC, CALLOC, ALIGNED, FREE, STRDUP, STRNDUP, READ_FD, PASSPHRASE, PROTECT,
	LOCK, UNLOCK, USABLE_SIZE, OWNS, IS_ENCRYPTED, STATS, PURGE, OPS
};

static const char *const names[OPS] = {
	"between calls", "init", "term", "fork", "rekey", "encrypt", "decrypt", "encrypt_all",
	"decrypt_all", "hold", "release", "realloc (moves)", "realloc (stays)", "secmalloc",
	"seccalloc", "aligned_alloc", "secfree", "strdup", "strndup", "read_fd", "read_passphrase",
	"protect", "lock", "unlock", "usable_size", "owns", "is_encrypted", "stats", "purge"
};

enum { SLOTS = 10, SEED = 5, TEXT_BYTES = 40000 };

/** struct slot - a chunk; open: 1 yes, 0 no, -1 nobody knows; used: bytes of `text` in it */
struct slot {
	unsigned char *p;
	size_t n, used;
	int open, protect;
};

static struct slot slots[SLOTS];
static char text[TEXT_BYTES + 1];
static volatile sig_atomic_t in_call, fired, hit; /* hit: the call that was purged */
static unsigned hits[OPS], rounds;
static struct slot *volatile target, *last; /* what the call is about, and when it was hit */
static int reseals, may_lock_all, arms_at_unlock;
static timer_t timer;
static unsigned seed = 1;

static unsigned
roll(unsigned n)
{
	seed = seed * 1103515245u + 12345u;
	return (seed >> 12) % n;
}

/** DO - the call, which a purge may interrupt */
#define DO(op, call)                                                                               \
	do {                                                                                       \
		errno = 0;                                                                         \
		in_call = (op);                                                                    \
		call;                                                                              \
		in_call = NONE;                                                                    \
	} while (0)

/** fine - 0 or a pointer, or ECANCELED after a purge; says which */
static int
fine(enum op op, int failed)
{
	if (failed && !(errno == ECANCELED && fired)) {
		fprintf(stderr, "%s: errno %d, purged %d; %s\n", names[op], errno, (int)fired,
			secmalloc_error());
		_exit(98);
	}
	return !failed;
}

static int
readable(const void *p)
{
	unsigned char byte;

	return peek(p, &byte, 1) == 1;
}

/** must_be_gone - nothing of the content is there; if it was open, it is zero */
static void
must_be_gone(const struct slot *s, const char *when)
{
	if (s->n == 0 || (!readable(s->p) && (s->open != 1 || s->protect)))
		return;
	if (!shows(s->p, s->n, SEED) && (s->open != 1 || all_zero(s->p, s->n)))
		return;
	fprintf(stderr, "%s, %s: chunk of %zu bytes, open %d, target %d, %s\n", names[hit],
		when, s->n, s->open, last == s, shows(s->p, s->n, SEED) ? "shows" : "is not zero");
	_exit(97);
}

static void
on_timer(int sig)
{
	(void)sig;
	hit = in_call;
	hits[hit]++;
	last = target;
	secmalloc_purge();
	for (unsigned i = 0; i < SLOTS && in_call != INIT && in_call != TERM; i++)
		if (slots[i].p && slots[i].open == 1 && target != &slots[i] && !slots[i].protect)
			must_be_gone(&slots[i], "as purge returns");
	fired = 1;
}

/* ------------------------------------------------------------------ calls */

static void
set_timer(long us)
{
	const struct itimerspec t = { { 0, 0 }, { 0, us ? 1000 * us + 1 : 0 } };

	MUST(timer_settime(timer, 0, &t, NULL) == 0);
}

static void
got_chunk(struct slot *s, enum op op, void *p, size_t n, size_t used)
{
	if (fine(op, p == NULL)) {
		*s = (struct slot){ .n = n, .used = used, .open = reseals ? -1 : 1 };
		s->p = p;
	}
}

static void
do_read(struct slot *s, enum op op)
{
	size_t n = roll(2) ? 200 : 30000, len;
	void *volatile p;
	int fds[2], in = dup(0);

	MUST(pipe(fds) == 0 && write(fds[1], text, n) == (ssize_t)n && write(fds[1], "\n", 1) == 1);
	close(fds[1]);
	if (op == READ_FD) {
		DO(op, p = secmalloc_read_fd(fds[0], n, &len));
	} else {
		dup2(fds[0], 0);
		DO(op, p = secmalloc_read_passphrase("prompt", n));
		if (!p && errno == EINTR) /* a handler ran while it read: so it says */
			errno = ECANCELED;
		dup2(in, 0);
	}
	got_chunk(s, op, p, n + 1, n);
	close(fds[0]);
	close(in);
}

static void
do_alloc(struct slot *s, enum op op)
{
	size_t n = roll(4) ? 1 + roll(700) : 17000 + roll(20000);
	char kept = text[n];
	void *volatile p;

	if (op == MALLOC)
		DO(op, p = secmalloc(n));
	else if (op == CALLOC)
		DO(op, p = seccalloc(n, 1));
	else if (op == ALIGNED)
		DO(op, p = secaligned_alloc(64, n));
	else if (op == STRNDUP)
		DO(op, p = secstrndup(text, n - 1));
	else {
		text[n - 1] ^= kept = text[n - 1];
		DO(op, p = secstrdup(text));
		text[n - 1] = kept;
	}
	got_chunk(s, op, p, n, op >= STRDUP ? n - 1 : 0);
}

static void
do_free(struct slot *s)
{
	void *p = s->p;

	s->p = NULL;
	DO(FREE, secfree(p));
}

static void
do_realloc(struct slot *s, enum op op)
{
	size_t n = op == RESIZE ? s->n - (s->n > 100) : roll(2) ? 1 + roll(700) : 20000 + roll(9000);
	int open = s->open;
	void *volatile p;

	s->open = -1;
	DO(op, p = secrealloc(s->p, n));
	if (fine(op, p == NULL)) {
		s->p = p;
		s->used = s->used < n ? s->used : n;
		s->n = n;
	}
	s->open = open;
}

static void
do_veil(struct slot *s, enum op op)
{
	volatile int e;

	s->open = -1;
	if (op == ENCRYPT)
		DO(op, e = secmalloc_encrypt(s->p));
	else
		DO(op, e = secmalloc_decrypt(s->p));
	if (fine(op, e) && !reseals)
		s->open = op == DECRYPT;
}

static void
do_hold(struct slot *s)
{
	int open = s->open;
	volatile int e;

	s->open = -1;
	DO(HOLD, e = secmalloc_hold(s->p));
	if (!fine(HOLD, e))
		return;
	MUST(memcmp(s->p, text, s->used) == 0 || fired);
	DO(RELEASE, e = secmalloc_release(s->p));
	if (fine(RELEASE, e))
		s->open = open;
}

static void
do_all(enum op op)
{
	volatile int e;

	for (unsigned i = 0; i < SLOTS; i++)
		slots[i].open = op == REKEY ? slots[i].open : -1;
	if (op == ENCRYPT_ALL)
		DO(op, e = secmalloc_encrypt_all());
	else if (op == DECRYPT_ALL)
		DO(op, e = secmalloc_decrypt_all());
	else if (op == REKEY)
		DO(op, e = secmalloc_rekey());
	else
		DO(op, e = secmalloc_lock("material", 8));
	if (fine(op, e) && op == LOCK) {
		if (arms_at_unlock)
			set_timer(1 + (long)roll(600));
		DO(UNLOCK, e = secmalloc_unlock("material", 8));
	}
	if (op == LOCK)
		fine(UNLOCK, e);
	for (unsigned i = 0; i < SLOTS && e == 0 && op != REKEY && !reseals; i++)
		slots[i].open = op == DECRYPT_ALL;
}

static void
do_protect(struct slot *s)
{
	volatile int e;

	s->protect = 1;
	DO(PROTECT, e = secmalloc_protect(s->p, SECMALLOC_NOACCESS));
	if (e == 0 || errno != ENOTSUP)
		fine(PROTECT, e);
	DO(PROTECT, e = secmalloc_protect(s->p, SECMALLOC_READWRITE));
	if (e && errno == ENOTSUP)
		s->protect = 0;
	else if (fine(PROTECT, e) && !fired)
		s->protect = 0;
}

static void
do_fork(void)
{
	pid_t volatile pid;
	int status;

	DO(FORK, pid = fork());
	MUST(pid >= 0);
	if (pid == 0) {
		alarm(10);
		MUST(secmalloc(10) != NULL && secmalloc_rekey() == 0);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		MUST(errno == EINTR);
	MUST(status == 0);
}

static void
do_ask(struct slot *s, enum op op)
{
	struct secmalloc_stats st = SECMALLOC_STATS_INIT;
	volatile size_t n;
	volatile int e;

	if (op == USABLE_SIZE) {
		DO(op, n = secmalloc_usable_size(s->p));
		MUST(n == s->n);
	} else if (op == OWNS) {
		DO(op, e = secmalloc_owns(s->p));
		MUST(e == 1);
	} else if (op == IS_ENCRYPTED) {
		DO(op, e = secmalloc_is_encrypted(s->p));
		fine(op, e < 0);
	} else if (op == STATS) {
		DO(op, e = secmalloc_stats(&st));
		MUST(e == 0 && st.tampered == 0);
	}
}

/* A purge that meets init may leave nothing that runs; one that meets term, too. */
static void
do_restart(const struct secmalloc_config *c)
{
	volatile int e;

	for (unsigned i = 0; i < SLOTS; i++)
		slots[i].p = NULL;
	DO(TERM, e = secmalloc_term());
	MUST(e == 0);
	DO(INIT, e = secmalloc_init(c));
	if (!fine(INIT, e))
		MUST(stats_now().pools == 0 && stats_now().locked_bytes == 0);
}

static void
step(enum op op, const struct secmalloc_config *c)
{
	struct slot *s = &slots[roll(SLOTS)];

	if (op == INIT || op == TERM) {
		do_restart(c);
		return;
	}
	if (s->p && (op == FREE || (op >= MALLOC && op <= PASSPHRASE)))
		do_free(s);
	if (!s->p && op != FREE)
		do_alloc(s, STRNDUP);
	target = s;
	if (!s->p || op == FREE)
		;
	else if (op == PURGE)
		while (!fired) /* a purge inside a purge */
			DO(op, secmalloc_purge());
	else if (op == READ_FD || op == PASSPHRASE)
		do_free(s), do_read(s, op);
	else if (op >= MALLOC && op <= STRNDUP)
		do_free(s), do_alloc(s, op);
	else if (op == MOVE || op == RESIZE)
		do_realloc(s, op);
	else if (op == ENCRYPT || op == DECRYPT) /* whichever has something to do */
		do_veil(s, s->open == 1 || (s->open < 0 && roll(2)) ? ENCRYPT : DECRYPT);
	else if (op == HOLD || op == RELEASE)
		do_hold(s);
	else if (op == PROTECT)
		do_protect(s);
	else if (op == FORK)
		do_fork();
	else if (op >= USABLE_SIZE)
		for (int i = 0; i < 50; i++)
			do_ask(s, op);
	else if (may_lock_all || (op != LOCK && op != UNLOCK))
		do_all(op == UNLOCK ? LOCK : op);
	target = NULL;
}

/* ------------------------------------------------------------------ rounds */

static struct secmalloc_config
variant(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	unsigned i = roll(64);

	c.flags = (i & 1 ? SECMALLOC_ISOLATE : 0u) | (i & 2 ? SECMALLOC_KEY_RESIDENT : 0u);
	c.pool_size = i & 4 ? 16 * KIB : 64 * KIB; /* elastic, mostly */
	c.without = i & 8 ? 0 : SECMALLOC_HIDDEN;
	c.resplit_ms = 1;
	if (i / 16 == 1)
		c.reseal_ms = 1;
	if (i / 16 == 2) {
		c.reseal_ms = 1;
		c.flags |= SECMALLOC_NO_THREAD;
	}
	return c;
}

/** between - a quick call, so that most of the time is spent in the one that is meant */
static enum op
between(void)
{
	static const enum op quick[] = { ENCRYPT, DECRYPT, HOLD, MOVE, RESIZE, MALLOC, FREE, STRDUP,
		PROTECT, IS_ENCRYPTED };

	return quick[roll(10)];
}

static void
purge_inside(enum op op)
{
	const struct secmalloc_config c = variant();
	int slow = op == INIT || op == TERM || op == FORK || op == LOCK || op == UNLOCK;

	fired = 0;
	reseals = c.reseal_ms != 0;
	memset(slots, 0, sizeof(slots));
	MUST(secmalloc_init(&c) == 0);
	for (unsigned i = 0; i < SLOTS; i++)
		do_alloc(&slots[i], STRNDUP);
	for (unsigned i = 0; i < SLOTS; i += 2)
		do_veil(&slots[i], ENCRYPT);
	arms_at_unlock = op == UNLOCK && may_lock_all;
	if (!arms_at_unlock)
		set_timer(1 + (long)roll(slow ? 3000 : 250));
	while (!fired)
		step(roll(16) ? op : between(), &c);
	if (op != INIT && op != TERM && slots[0].p && secmalloc_owns(slots[0].p))
		(void)fine(MALLOC, secmalloc_encrypt(slots[0].p));
	for (unsigned i = 0; i < SLOTS; i++)
		if (slots[i].p)
			must_be_gone(&slots[i], "afterwards");
	set_timer(0); /* it may have been set anew in the moment when it expired */
	MUST(secmalloc_term() == 0);
	rounds++;
}

/** time_lock - lock takes part where Argon2id was built cheap */
static void
time_lock(void)
{
	struct timespec a, b;

	MUST(secmalloc_init(NULL) == 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	MUST(secmalloc_lock("x", 1) == 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	MUST(secmalloc_term() == 0);
	may_lock_all = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < 150;
	if (!may_lock_all)
		printf("skipped: purges inside lock and unlock, for Argon2id is not built cheap\n");
}

static unsigned
storm_seconds(void)
{
	const char *s = getenv("SECMALLOC_STORM_SECONDS");

	return s ? (unsigned)atoi(s) : 12;
}

static void
purge_in_a_loop(void *unused)
{
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct sigaction act = { .sa_handler = on_timer };
	const time_t end = time(NULL) + storm_seconds();

	(void)unused;
	(void)setsid(); /* no terminal: read_passphrase reads standard input */
	seed = (unsigned)time(NULL) ^ (unsigned)getpid();
	fprintf(stderr, "seed %u\n", seed);
	fill(text, TEXT_BYTES, SEED);
	for (size_t i = 0; i < TEXT_BYTES; i++)
		text[i] = text[i] == 0 || text[i] == '\n' ? 1 : text[i];
	time_lock();
	MUST(sigaction(SIGUSR1, &act, NULL) == 0);
	MUST(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0);
	for (unsigned i = 0; time(NULL) < end; i++) {
		alarm(30); /* a deadlock */
		purge_inside((enum op)(INIT + i % (OPS - INIT)));
	}
	printf("%u purges:", rounds);
	for (unsigned i = 0; i < OPS; i++)
		printf(" %s %u%s", names[i], hits[i], i + 1 < OPS ? "," : "\n");
	fflush(stdout);
}

START_TEST(a_purge_inside_any_call_leaves_nothing_and_the_call_says_ECANCELED)
{
	if (!SANITIZED) /* those keep signals back until a call has ended */
		assert_exits_0(purge_in_a_loop, NULL);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_purge_storm");
	TCase *tc = add_case(s, "storm", 0);

	tcase_set_timeout(tc, 120 + storm_seconds());
	tcase_add_test(tc, a_purge_inside_any_call_leaves_nothing_and_the_call_says_ECANCELED);
	return run(s);
}
