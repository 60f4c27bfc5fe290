/*
 * leak_victim.c - a program with secrets, for others to look for
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	leak_victim MODE SEED [UID]
 *
 *	hidden  HIDDEN required, so that large chunks lie on hidden pages too
 *	plain   HIDDEN not tried
 *	xchacha as plain, with that cipher, a long prekey, and halves drawn anew for each use
 *	bare    neither HIDDEN nor NODUMP nor FORKSAFE: the control for the readers that the
 *	        last two stop
 *	provided, timed  as plain: the key comes from a provider; chunks close by themselves
 *	resident, xresident  as plain and xchacha: the key stays expanded
 *
 * It takes commands from stdin, one a line, and answers each with one line: "ok ...",
 * "unsupported REASON" or "failed REASON".  The markers are written in place, byte by byte, and
 * compared byte by byte, so that no other copy of them is ever made here.  An unlocked buffer
 * with a third marker is there from the start: who does not find that one has not looked.
 *
 * It gives up its privileges itself instead of being started without them, since a user nobody
 * may not be allowed to look into the build directory; what setuid takes away from readers
 * (the dumpable flag) it gives back.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <secmalloc.h>

#include "leak.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) ||                         \
	__has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

enum {
	POOL_BYTES = 1 << 20,
	MEMLOCK_BYTES = 8 << 20, /* for the pool, large chunks and the key; the kernel's default */
	SIGNAL_STACK_BYTES = 1 << 16,
	DEPTH_BYTES = 1 << 16,
	PREKEY_BYTES = 16384,
	RESEAL_MS = 30, WAIT_MS = 5000,
	MOVED_SMALL_BYTES = 3000,
	MOVED_LARGE_BYTES = 3 * LEAK_LARGE_BYTES
};

static uint64_t seed;
static const char *mode;
static unsigned char control[LEAK_CONTROL_BYTES];
static unsigned char material[LEAK_MATERIAL_BYTES], provided[32];
static unsigned char signal_stack[SIGNAL_STACK_BYTES];
unsigned char *small, *large;
static pid_t child;
char leak_note[256];

struct command {
	const char *name;
	int (*run)(void); /* 0, or -1 with a reason in secmalloc_error() or errno */
	int (*call)(int (*run)(void));
};

/* What a call leaves on the stack is overwritten by the next one at the same depth.  So the
 * library is called far below everything else that is called here. */
static int
deep(int (*run)(void))
{
	volatile unsigned char above[DEPTH_BYTES];
	int result;

	above[0] = 0;
	result = run();
	return above[0] ? -1 : result;
}

static int
flat(int (*run)(void))
{
	return run();
}

static void
mark(volatile unsigned char *p, size_t len, uint64_t s)
{
	for (size_t i = 0; i < len; i++)
		p[i] = leak_byte(s, i);
}

static int
marked(const volatile unsigned char *p, size_t len, uint64_t s)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != leak_byte(s, i))
			return 0;
	return 1;
}

/* Both chunks hold their markers (1), or neither even begins with its first word (0). */
static int
both_are(int clear)
{
	int s = marked(small, clear ? LEAK_SMALL_BYTES : 8, LEAK_SMALL_SEED(seed));
	int l = marked(large, clear ? LEAK_LARGE_BYTES : 8, LEAK_LARGE_SEED(seed));

	if (s == clear && l == clear)
		return 0;
	printf("failed the chunks are not as they should be: small %d, large %d\n", s, l);
	exit(1);
}

static void
ignore(int sig)
{
	(void)sig;
}

static void
catch_signals(void)
{
	stack_t st = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
	struct sigaction sa = {.sa_handler = ignore, .sa_flags = SA_ONSTACK | SA_RESTART};

	if (sigaltstack(&st, NULL) != 0 || sigaction(SIGUSR1, &sa, NULL) != 0) {
		printf("failed no signal stack\n");
		exit(1);
	}
}

static int
clear_run(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats st = SECMALLOC_STATS_INIT;

	c.pool_size = POOL_BYTES;
	c.require = SECMALLOC_LOCKED | SECMALLOC_GUARDED;
	if (strcmp(mode, "bare") == 0)
		c.without = SECMALLOC_HIDDEN | SECMALLOC_NODUMP | SECMALLOC_FORKSAFE;
	else
		c.require |= SECMALLOC_NODUMP | SECMALLOC_FORKSAFE;
	if (strcmp(mode, "hidden") == 0)
		c.require |= SECMALLOC_HIDDEN;
	else
		c.without |= SECMALLOC_HIDDEN;
	if (mode[0] == 'x') {
		c.cipher = SECMALLOC_CIPHER_XCHACHA20POLY1305;
		c.prekey_size = PREKEY_BYTES;
		c.resplit_ms = 1;
	}
	if (strstr(mode, "resident") != NULL)
		c.flags = SECMALLOC_KEY_RESIDENT;
	c.key_arg = &seed;
	if (strcmp(mode, "provided") == 0)
		c.key_provider = leak_provide;
	if (strcmp(mode, "timed") == 0)
		c.reseal_ms = RESEAL_MS;
	if (secmalloc_init(&c) != 0)
		return -1;
	small = secmalloc(LEAK_SMALL_BYTES);
	large = secmalloc(LEAK_LARGE_BYTES);
	if (small == NULL || large == NULL || secmalloc_hold(small) || secmalloc_hold(large))
		return -1;
	mark(small, LEAK_SMALL_BYTES, LEAK_SMALL_SEED(seed));
	mark(large, LEAK_LARGE_BYTES, LEAK_LARGE_SEED(seed));
	if (secmalloc_stats(&st) != 0 || (st.granted & c.require) != c.require ||
		(st.granted & c.without & SECMALLOC_HIDDEN) != 0) {
		printf("failed granted is %#x, require was %#x\n", st.granted, c.require);
		exit(1);
	}
	both_are(1);
	return secmalloc_release(small) || secmalloc_release(large) ? -1 : 0;
}

static int
seal_run(void)
{
	if (leak_expose(secmalloc_encrypt(small)) != 0 ||
		leak_expose(secmalloc_encrypt(large)) != 0)
		return -1;
	return both_are(0);
}

static int
open_run(void)
{
	if (leak_expose(secmalloc_decrypt(small)) != 0 ||
		leak_expose(secmalloc_decrypt(large)) != 0)
		return -1;
	return both_are(1);
}

/* To another size class, and to another run of pages. */
static int
move_run(void)
{
	unsigned char *p = secrealloc(small, MOVED_SMALL_BYTES);

	if (leak_expose(p == NULL))
		return -1;
	small = p;
	p = secrealloc(large, MOVED_LARGE_BYTES);
	if (leak_expose(p == NULL))
		return -1;
	large = p;
	return both_are(1);
}

static int
free_run(void)
{
	secfree(small);
	leak_expose(0);
	secfree(large);
	return leak_expose(0);
}

static int
term_run(void)
{
	return leak_expose(secmalloc_term());
}

/* For a control. */
static int
keep_run(void)
{
	mark(material, sizeof material, LEAK_MATERIAL_SEED(seed));
	return leak_provide(provided, &seed);
}

static int
with_material(int (*call)(const void *, size_t))
{
	int e;

	mark(material, sizeof material, LEAK_MATERIAL_SEED(seed));
	e = leak_expose(call(material, sizeof material));
	secmemzero(material, sizeof material);
	return e ? e : both_are(0);
}

static int
lock_run(void)
{
	return with_material(secmalloc_lock);
}

static int
unlock_run(void)
{
	return with_material(secmalloc_unlock);
}

static int
rekey_run(void)
{
	return leak_expose(secmalloc_rekey());
}

static int
purge_run(void)
{
	secmalloc_purge();
	return leak_expose(both_are(0));
}

/* Until both have closed by themselves. */
static int
wait_run(void)
{
	for (int i = 0; i < WAIT_MS; i++) {
		if (secmalloc_is_encrypted(small) == 1 && secmalloc_is_encrypted(large) == 1)
			return leak_expose(both_are(0));
		usleep(1000);
	}
	return -1;
}

/* Writes every page that can be read to a file, straight from where it lies.  The kernel refuses
 * (EFAULT) what this process itself cannot read; a copy is never made in this process. */
static int
dump_to(const char *path)
{
	static char line[512];
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FILE *maps = fopen("/proc/self/maps", "re");
	uintptr_t start, end;
	char perms[8];

	if (fd < 0 || maps == NULL)
		return -1;
	while (fgets(line, sizeof line, maps) != NULL) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &start, &end, perms) != 3 ||
			perms[0] != 'r' || end > INT64_MAX)
			continue;
		for (; start < end; start += page)
			if (write(fd, (const void *)start, page) < 0 && errno != EFAULT)
				return -1;
	}
	fclose(maps);
	return close(fd);
}

static int
dump_run(void)
{
	return dump_to("self.dump");
}

/* The child writes down what it can read itself, then waits to be looked at. */
static void
be_a_child(int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	alarm(LEAK_LIFE_SECONDS);
	if (dump_to("child.dump") != 0 || write(ready, "", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static int
with_child(pid_t (*make)(void))
{
	int ready[2];
	char c;
	ssize_t n;

	if (pipe(ready) != 0)
		return -1;
	child = make();
	if (child == 0)
		be_a_child(ready[1]);
	close(ready[1]);
	n = child < 0 ? -1 : read(ready[0], &c, 1);
	close(ready[0]);
	if (n != 1) {
		printf("failed the child died or could not dump itself\n");
		exit(1);
	}
	return 0;
}

static int
fork_run(void)
{
	return with_child(fork);
}

/* As fork, but past libc and every handler of pthread_atfork. */
static pid_t
raw_fork(void)
{
#ifdef SYS_fork
	return (pid_t)syscall(SYS_fork);
#else
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
#endif
}

static int
raw_run(void)
{
	return with_child(raw_fork);
}

static int
reap_run(void)
{
	if (kill(child, SIGKILL) != 0 || waitpid(child, NULL, 0) != child)
		return -1;
	child = 0;
	return 0;
}

static const struct command commands[] = {
	{"clear", clear_run, deep},
	{"seal", seal_run, deep},
	{"open", open_run, deep},
	{"move", move_run, deep},
	{"free", free_run, deep},
	{"term", term_run, deep},
	{"lock", lock_run, deep},
	{"unlock", unlock_run, deep},
	{"keep", keep_run, flat},
	{"rekey", rekey_run, deep},
	{"purge", purge_run, deep},
	{"wait", wait_run, flat},
	{"threads", leak_threads, flat},
	{"refuse", leak_refuse, deep},
	{"where", leak_where, flat},
	{"spill", leak_spill, deep},
	{"dump", dump_run, flat},
	{"fork", fork_run, flat},
	{"raw", raw_run, flat},
	{"reap", reap_run, flat},
};

/* Limits while there may be a privilege to raise them, then the privileges, then what
 * readers need: the dumpable flag, leave to trace, every mapping in the core. */
static void
become_a_victim(const char *id)
{
	struct rlimit memlock, core;
	uid_t uid = id != NULL ? (uid_t)strtoul(id, NULL, 10) : getuid();
	FILE *f;

	memlock.rlim_cur = memlock.rlim_max = MEMLOCK_BYTES;
	if (setrlimit(RLIMIT_MEMLOCK, &memlock) != 0) {
		printf("unsupported RLIMIT_MEMLOCK is below %d\n", MEMLOCK_BYTES);
		exit(LEAK_REFUSED);
	}
	getrlimit(RLIMIT_CORE, &core);
	core.rlim_cur = core.rlim_max;
	setrlimit(RLIMIT_CORE, &core);
	if (id != NULL && (setgroups(0, NULL) != 0 || setresgid(uid, uid, uid) != 0 ||
				  setresuid(uid, uid, uid) != 0)) {
		printf("unsupported cannot become uid %s: %s\n", id, strerror(errno));
		exit(LEAK_REFUSED);
	}
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	f = fopen("/proc/self/coredump_filter", "we");
	if (f != NULL) {
		fprintf(f, "0xff\n");
		fclose(f);
	}
}

static int
serve(const char *line)
{
	if (strcmp(line, "exit") == 0)
		return 0;
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
		if (strcmp(line, commands[i].name) == 0 && commands[i].run != NULL) {
			errno = 0;
			leak_note[0] = '\0';
			if (commands[i].call(commands[i].run) == 0)
				printf("ok %d %s\n", (int)child, leak_note);
			else
				printf("%s %s: %s; %s\n",
					errno == ENOTSUP ? "unsupported" : "failed", line,
					strerror(errno), secmalloc_error());
			return 1;
		}
	printf("failed no command %s\n", line);
	return 1;
}

int
main(int argc, char **argv)
{
	static char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: leak_victim MODE SEED [UID]\n");
		return 1;
	}
#ifdef SANITIZED
	printf("unsupported built with a sanitizer, whose copies and shadow are no leak of ours\n");
	return LEAK_REFUSED;
#endif
	alarm(LEAK_LIFE_SECONDS);
	mode = argv[1];
	seed = strtoull(argv[2], NULL, 0);
	become_a_victim(argc == 4 ? argv[3] : NULL);
	catch_signals();
	mark(control, sizeof control, LEAK_CONTROL_SEED(seed));
	printf("ok %d\n", (int)getpid());
	while (fgets(line, sizeof line, stdin) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (!serve(line))
			break;
	}
	return marked(control, sizeof control, LEAK_CONTROL_SEED(seed)) ? 0 : 1;
}
