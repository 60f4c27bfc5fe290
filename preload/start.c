/*
 * start.c - the heap starts with the program's first allocation, or before its first constructor
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { REFUSED = 2, DESCRIPTORS_FROM = 900, DESCRIPTORS_AT_LEAST = 10 };
static const size_t POOL_BYTES = (size_t)16 << 20; /* few pools: a fault looks for its own */

_Atomic unsigned sm_run_state;
static struct sm_options options;
static int report = -1; /* where the line at the end goes: some programs close theirs before */

/* -------------------------------------------------------------------- text */

void
sm_line_word(struct sm_line *l, const char *word)
{
	while (*word && l->n < sizeof(l->text) - 1)
		l->text[l->n++] = *word++;
}

void
sm_line_number(struct sm_line *l, uint64_t n)
{
	char digits[24], *at = digits + sizeof(digits) - 1;

	*at = '\0';
	do
		*--at = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	sm_line_word(l, at);
}

void
sm_line_show(struct sm_line *l, int fd)
{
	size_t done = 0;

	l->text[l->n++] = '\n';
	while (done < l->n) {
		ssize_t n = write(fd, l->text + done, l->n - done);

		if (n < 0 && errno != EINTR)
			return;
		done += n > 0 ? (size_t)n : 0;
	}
}

/* ----------------------------------------------------------------- refusal */

_Noreturn static void
refuse(const char *why, const char *cure)
{
	struct sm_line l = { .n = 0 };

	sm_line_word(&l, "secmalloc-run: not started, as it could not be protected: ");
	sm_line_word(&l, why);
	sm_line_word(&l, cure);
	sm_line_show(&l, STDERR_FILENO);
	_exit(REFUSED);
}

static void
check_mode(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	(void)secmalloc_stats(&s);
	if (s.mode != 0 && s.mode <= options.mode)
		return;
	refuse("only a thread can open pages for the kernel too, and this user may not have one",
		": run as root or with CAP_SYS_PTRACE, or let root run "
		"'sysctl vm.unprivileged_userfaultfd=1', or a udev rule give this user "
		"/dev/userfaultfd (KERNEL==\"userfaultfd\", MODE=\"0666\"), "
		"or insist by --mode signal");
}

/* ------------------------------------------------------------------- start */

static void
start(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	if (!sm_options_read(getenv("SECMALLOC_RUN"), &options))
		refuse("the variable SECMALLOC_RUN is not to be understood",
			": leave it to secmalloc-run");
	c.flags = SECMALLOC_TRANSPARENT;
	c.fork = SECMALLOC_FORK_KEEP;
	c.pool_size = POOL_BYTES;
	c.clear_limit = options.clear_bytes;
	c.reseal_ms = options.reseal_ms;
	c.store_dir = options.store;
	c.daemon = options.has_daemon ? options.daemon : NULL;
	sm_host.unaware = true;
	if (secmalloc_init(&c))
		refuse(secmalloc_error(), "");
	check_mode();
	if (!sm_early_lock())
		refuse("what was allocated before the start could not be locked",
			": raise RLIMIT_MEMLOCK (LimitMEMLOCK=), or run with CAP_IPC_LOCK");
	if (options.stats_pid != getpid())
		return;
	report = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, DESCRIPTORS_FROM);
	if (report < 0)
		report = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, DESCRIPTORS_AT_LEAST);
	if (report >= 0) /* else a program that closes all might have a file of its own there */
		sm_host_keep(report);
}

/* Before the C library knows the environment it is too early. */
bool
sm_run_begin(bool now)
{
	unsigned down = SM_RUN_DOWN;
	int kept = errno;

	if (!now && !environ)
		return false;
	if (!atomic_compare_exchange_strong(&sm_run_state, &down, SM_RUN_STARTING))
		return down == SM_RUN_UP;
	start();
	atomic_store_explicit(&sm_run_state, SM_RUN_UP, memory_order_release);
	errno = kept;
	return true;
}

/* A program that shows a malloc of its own is asked before us. Its address would not tell: it may
 * be the program's way to ours. */
static void
check_order(void)
{
	void *(*get)(size_t);
	void (*put)(void *);
	bool ours;
	void *p;

	*(void **)&get = dlsym(RTLD_DEFAULT, "malloc");
	*(void **)&put = dlsym(RTLD_DEFAULT, "free");
	p = get(1);
	ours = secmalloc_owns(p);
	put(p);
	if (!ours)
		refuse("the program brings a malloc of its own", "");
}

__attribute__((constructor)) static void
at_load(void)
{
	(void)sm_run_begin(true);
	check_order();
	sm_ids_begin();
	sm_keep_begin();
	sm_direct_begin(options.clear_bytes);
	sm_early_begin();
}

/* --------------------------------------------------------------------- end */

static uint64_t
handed_in(uint64_t (*_Atomic *figure)(void))
{
	uint64_t (*get)(void) = atomic_load(figure);

	return get ? get() : 0;
}

static void
show(const struct secmalloc_stats *s)
{
	static const char *const names[] = { "none", "thread", "signal", "slots" };
	struct sm_line l = { .n = 0 };

	sm_line_word(&l, "secmalloc-run: mode ");
	sm_line_word(&l, s->mode < sizeof(names) / sizeof(*names) ? names[s->mode] : "unknown");
	sm_line_word(&l, ", ");
	sm_line_number(&l, s->faults_served);
	sm_line_word(&l, " pages opened, ");
	sm_line_number(&l, handed_in(&sm_host.pages_closed));
	sm_line_word(&l, " closed, ");
	sm_line_number(&l, handed_in(&sm_host.clear_bytes_most));
	sm_line_word(&l, " bytes clear at most, ");
	sm_line_number(&l, s->bytes);
	sm_line_word(&l, " bytes live, ");
	sm_line_number(&l, s->bytes_clear);
	sm_line_word(&l, " of them clear, ");
	sm_line_number(&l, s->bytes_high_water);
	sm_line_word(&l, " at most, ");
	sm_line_number(&l, sm_count_get(&sm_asked.heap));
	sm_line_word(&l, " asked for, ");
	sm_line_number(&l, sm_count_get(&sm_asked.early));
	sm_line_word(&l, " before the start");
	sm_line_show(&l, report >= 0 ? report : STDERR_FILENO);
}

/* In that process alone, not in what it forked or started. */
__attribute__((destructor)) static void
at_end(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	int kept = errno;

	if (options.stats_pid == getpid() && secmalloc_stats(&s) == 0)
		show(&s);
	errno = kept;
}
