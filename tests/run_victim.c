/*
 * run_victim.c - a program that knows nothing of the library, for test_run.sh to start
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * run_victim PART: exits with 0 when everything was as malloc(3) says; else names what was not.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(x) ((x) ? (void)0 : fail(#x, __LINE__))

enum { PAGE = 4096, MIB = 1 << 20, THREADS = 4, TURNS = 3000, LIVE = 64, NOBODY = 65534 };

extern char **environ;
static unsigned char *constructed; /* by a constructor, before main */
static void *volatile sink;	   /* so that the compiler keeps what looks idle */
static volatile size_t huge = PTRDIFF_MAX;

static _Noreturn void
fail(const char *what, int line)
{
	fprintf(stderr, "run_victim:%d: %s (errno %d)\n", line, what, errno);
	_exit(1);
}

static void
fill(unsigned char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)(seed + i * 7 + (i >> 12));
}

static bool
is_filled(const unsigned char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != (unsigned char)(seed + i * 7 + (i >> 12)))
			return false;
	return true;
}

static bool
is_zero(const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

__attribute__((constructor)) static void
construct(void)
{
	constructed = malloc(100);
	MUST(constructed);
	fill(constructed, 100, 3);
}

/* ------------------------------------------------------------------ family */

static void
sizes(void)
{
	static const size_t of[] = { 0, 1, 15, 16, 17, 100, 1000, 4096, 16384, 16385, 100000, MIB,
		20 * MIB };
	unsigned char *p, *q;

	for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++) {
		p = malloc(of[i]);
		q = malloc(of[i]);
		MUST(p && q && p != q && (uintptr_t)p % 16 == 0 && (uintptr_t)q % 16 == 0);
		MUST(malloc_usable_size(p) == of[i]);
		fill(p, of[i], (unsigned)i);
		fill(q, of[i], (unsigned)i + 1);
		MUST(is_filled(p, of[i], (unsigned)i));
		errno = 77;
		free(p);
		MUST(errno == 77);
		p = calloc(of[i] ? of[i] : 1, 1);
		MUST(p && is_zero(p, of[i]) && is_filled(q, of[i], (unsigned)i + 1));
		free(p);
		free(q);
	}
	free(NULL);
	MUST(malloc_usable_size(NULL) == 0);
}

static void
refusals(void)
{
	size_t most = SIZE_MAX;
	void *p = malloc(10), *q = &q;

	MUST(!(sink = malloc(huge + 1)) && errno == ENOMEM);
	errno = 0;
	MUST(!(sink = malloc(huge - PAGE)) && errno == ENOMEM);
	errno = 0;
	MUST(!(sink = calloc(huge, 3)) && errno == ENOMEM);
	errno = 0;
	MUST(!(sink = reallocarray(p, huge, 4)) && errno == ENOMEM);
	errno = 0;
	MUST(!(sink = realloc(p, huge)) && errno == ENOMEM);
	MUST(malloc_usable_size(p) == 10);
	free(p);
	errno = 0;
	MUST(!(sink = pvalloc(most)) && errno == ENOMEM);
	errno = 5;
	MUST(posix_memalign(&q, 24, 10) == EINVAL && posix_memalign(&q, 4, 10) == EINVAL);
	MUST(posix_memalign(&q, 0, 10) == EINVAL && posix_memalign(&q, 16, huge) == ENOMEM);
	MUST(q == &q && errno == 5);
	MUST(!(sink = aligned_alloc(huge / 2 + 1, huge / 2)) && errno == ENOMEM);
	MUST(!(sink = memalign(most, 1)) && errno == EINVAL);
}

static void
reallocs(void)
{
	unsigned char *p = realloc(NULL, 10), *q;

	MUST(p);
	fill(p, 10, 9);
	for (size_t n = 10; n < MIB; n = n * 3 + 1) {
		p = realloc(p, n * 3 + 1);
		MUST(p && is_filled(p, n, 9) && malloc_usable_size(p) == n * 3 + 1);
		fill(p, n * 3 + 1, 9);
	}
	for (size_t n = MIB; n > 10; n /= 5) {
		p = realloc(p, n);
		MUST(p && is_filled(p, n, 9));
	}
	MUST(!(sink = realloc(p, 0)));
	p = reallocarray(NULL, 100, 7);
	MUST(p && malloc_usable_size(p) == 700);
	free(p);
	q = constructed;
	MUST(is_filled(q, 100, 3));
	q = realloc(q, 5000);
	MUST(q && is_filled(q, 100, 3));
	free(q);
}

static void
alignments(void)
{
	static const size_t of[] = { 0, 1, 100, 5000, MIB / 4 + 1 };
	void *kept[64];
	unsigned char *p;
	size_t n = 0;

	for (size_t a = 8; a <= 4 * MIB; a *= 4)
		for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++) {
			void *q = NULL;

			MUST(posix_memalign(&q, a, of[i]) == 0 && q && (uintptr_t)q % a == 0);
			MUST(malloc_usable_size(q) == of[i] && is_zero(q, of[i]));
			fill(q, of[i], (unsigned)a);
			kept[n++] = q;
			p = memalign(a - 1, of[i]);
			MUST(p && (uintptr_t)p % a == 0);
			fill(p, of[i], 1);
			p = realloc(p, of[i] + 5000);
			MUST(p && is_filled(p, of[i], 1));
			free(p);
			p = aligned_alloc(a, of[i]);
			MUST(p && (uintptr_t)p % a == 0 && malloc_usable_size(p) == of[i]);
			free(p);
			MUST(is_filled(q, of[i], (unsigned)a));
		}
	while (n > 0)
		free(kept[--n]);
	p = valloc(10);
	MUST(p && (uintptr_t)p % PAGE == 0 && malloc_usable_size(p) == 10);
	free(p);
	p = pvalloc(PAGE + 1);
	MUST(p && (uintptr_t)p % PAGE == 0 && malloc_usable_size(p) == 2 * PAGE);
	free(p);
}

static int
family(void)
{
	sizes();
	refusals();
	reallocs();
	alignments();
	return 0;
}

/* ----------------------------------------------------------------- threads */

static void *
churn(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg, at;
	struct {
		unsigned char *p;
		size_t n;
	} live[LIVE] = { { NULL, 0 } };

	for (unsigned i = 0; i < TURNS; i++) {
		at = (seed = seed * 1103515245 + 12345) >> 16 & (LIVE - 1);
		MUST(is_filled(live[at].p, live[at].n, at));
		live[at].n = seed >> 8 & (i % 16 ? 0x3ff : 0xffff);
		live[at].p = i & 1 ? realloc(live[at].p, live[at].n + 1)
				   : (free(live[at].p), malloc(live[at].n + 1));
		MUST(live[at].p);
		fill(live[at].p, live[at].n, at);
	}
	for (at = 0; at < LIVE; at++) {
		MUST(is_filled(live[at].p, live[at].n, at));
		free(live[at].p);
	}
	return NULL;
}

static int
threads(void)
{
	pthread_t t[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		MUST(pthread_create(&t[i], NULL, churn, (void *)(i + 1)) == 0);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	return 0;
}

/* ------------------------------------------------------------------ kernel */

static void
on_signal(int signal)
{
	MUST(signal == SIGUSR1 && is_filled(constructed, 100, 3));
}

/* The kernel reads and writes pages that are closed: more than may be clear at once. */
static int
kernel(void)
{
	unsigned char *from = malloc(24 * MIB), *to = malloc(24 * MIB);
	char *name = strdup("/tmp/run_victim.XXXXXX");
	int fd;

	MUST(from && to && name);
	fill(from, 24 * MIB, 5);
	fd = mkstemp(name);
	MUST(fd >= 0 && unlink(name) == 0);
	MUST(write(fd, from, 24 * MIB) == 24 * MIB);
	MUST(pread(fd, to, 24 * MIB, 0) == 24 * MIB && is_filled(to, 24 * MIB, 5));
	close(fd);
	MUST(signal(SIGUSR1, on_signal) != SIG_ERR && raise(SIGUSR1) == 0);
	free(from);
	free(to);
	free(name);
	return 0;
}

/* --------------------------------------------------------------------- end */

static char *last_words;

static void
at_exit(void)
{
	printf("%s", last_words);
	free(last_words);
}

__attribute__((destructor)) static void
destruct(void)
{
	char *p = malloc(3 * MIB);

	MUST(p);
	memset(p, 1, 3 * MIB);
	free(p);
}

static int
end(void)
{
	char *buffer = malloc(2 * MIB);
	unsigned char *noise = malloc(2 * MIB);

	MUST(setvbuf(stdout, buffer, _IOFBF, 2 * MIB) == 0 && atexit(at_exit) == 0);
	for (int i = 0; i < 20000; i++)
		printf("%d ", i);
	last_words = strdup("and the last words\n");
	fill(noise, 2 * MIB, 1); /* which closes all of it where little may be clear */
	exit(0);
}

/* --------------------------------------------------------------- processes */

static int
status_of(pid_t pid)
{
	int status;

	MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
	return status;
}

static int
spawn(void)
{
	char *args[] = { strdup("sh"), strdup("-c"), strdup("exit 7"), NULL };
	pid_t pid;

	MUST(posix_spawnp(&pid, "sh", NULL, NULL, args, environ) == 0);
	MUST(WEXITSTATUS(status_of(pid)) == 7);
	pid = vfork();
	if (pid == 0) {
		execvp(args[0], args);
		_exit(1);
	}
	MUST(WEXITSTATUS(status_of(pid)) == 7);
	MUST(WEXITSTATUS(system("exit 9")) == 9);
	for (int i = 0; i < 3; i++)
		free(args[i]);
	return 0;
}

static int
forks(void)
{
	unsigned char *p = malloc(2 * MIB);

	MUST(p);
	fill(p, 2 * MIB, 4);
	for (unsigned i = 0; i < 5; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			MUST(is_filled(p, 2 * MIB, 4) && is_filled(constructed, 100, 3));
			fill(p, 2 * MIB, i);
			free(malloc(100));
			MUST(is_filled(p, 2 * MIB, i));
			free(p);
			exit(threads());
		}
		MUST(status_of(pid) == 0 && is_filled(p, 2 * MIB, 4));
	}
	free(p);
	return 0;
}

static _Atomic bool enough;

static void *
churn_on(void *arg)
{
	while (!enough)
		(void)churn(arg);
	return NULL;
}

/* Children of a program with threads and open files. */
static int
fork_threads(void)
{
	FILE *f = fopen("/dev/null", "w");
	pthread_t t;

	MUST(f && pthread_create(&t, NULL, churn_on, NULL) == 0);
	for (int i = 0; i < 5; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			MUST(fprintf(f, "child") == 5 && churn((void *)1) == NULL);
			_exit(0);
		}
		MUST(status_of(pid) == 0);
	}
	enough = true;
	MUST(pthread_join(t, NULL) == 0);
	fclose(f);
	return 0;
}

/* ---------------------------------------------------------- names and users */

static int
loaded(void)
{
	void *lib = dlopen("libm.so.6", RTLD_NOW), *no = dlopen("no such library", RTLD_NOW);
	double (*root)(double);

	MUST(lib && !no && dlerror());
	*(void **)&root = dlsym(lib, "sqrt");
	MUST(root && root(9.0) == 3.0 && dlclose(lib) == 0);
	MUST(!dlsym(RTLD_DEFAULT, "secmalloc_init")); /* the program may have its own */
	return 0;
}

/* What is left of root in /proc/self/task: of every thread. */
static bool
still_root(void)
{
	char line[256];
	bool found = false;
	FILE *p = popen("cat /proc/$PPID/task/*/status", "r");

	MUST(p);
	while (fgets(line, sizeof(line), p))
		if (strncmp(line, "Uid:", 4) == 0 || strncmp(line, "Gid:", 4) == 0)
			found = found || strstr(line, "\t0");
	pclose(p);
	return found;
}

static int
ids(void)
{
	gid_t list[1] = { NOBODY };
	unsigned char *p = malloc(4 * MIB);

	if (getuid() != 0)
		return 0;
	fill(p, 4 * MIB, 8);
	MUST(setgroups(1, list) == 0 && getgroups(1, list) == 1 && list[0] == NOBODY);
	MUST(initgroups("root", 0) == 0);
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	MUST(seteuid((uid_t)-1) == -1 && errno == EINVAL);
	MUST(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
	MUST(getuid() == NOBODY && setuid(0) == -1 && errno == EPERM);
	MUST(is_filled(p, 4 * MIB, 8));
	unsetenv("LD_PRELOAD"); /* for sh, which may not have a thread of its own any more */
	MUST(!still_root());
	free(p);
	return 0;
}

/* A daemon closes what it did not open; another undoes its locks: nothing of ours is lost. */
static int
keep(void)
{
	unsigned char *p = malloc(4 * MIB);

	fill(p, 4 * MIB, 2);
	MUST(mlockall(MCL_CURRENT | MCL_FUTURE) == 0 && is_filled(p, 4 * MIB, 2));
	MUST(munlockall() == 0 && is_filled(p, 4 * MIB, 2));
	MUST(mlock(p + PAGE, MIB) == 0 && munlock(p + PAGE, MIB) == 0);
	MUST(is_filled(p, 4 * MIB, 2));
	for (int fd = 3; fd < 1024; fd++)
		if (dup2(STDERR_FILENO, fd) == fd)
			MUST(close(fd) == 0);
	MUST(is_filled(p, 4 * MIB, 2));
	closefrom(3);
	MUST(close_range(3, ~0U, 0) == 0 && is_filled(p, 4 * MIB, 2));
	free(p);
	return 0;
}

static int
twice(void)
{
	void *p = sink = malloc(10);

	free(p);
	free(sink);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} parts[] = { { "family", family }, { "threads", threads }, { "kernel", kernel },
		{ "end", end }, { "spawn", spawn }, { "forks", forks },
		{ "fork_threads", fork_threads }, { "loaded", loaded }, { "ids", ids },
		{ "keep", keep }, { "twice", twice } };

	for (size_t i = 0; argc > 1 && i < sizeof(parts) / sizeof(*parts); i++)
		if (strcmp(argv[1], parts[i].name) == 0)
			return parts[i].run();
	fprintf(stderr, "run_victim: no such part\n");
	return 2;
}
