/*
 * ids.c - who the program is, its threads include one that the C library does not know
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * The thread that opens pages is the kernel's alone, so setuid(2) and its like, which the C library
 * spreads over its threads, would leave it with what the program has given up. It goes first: when
 * it may not, the call fails and nothing has changed; when the program's own call fails after that,
 * the thread has less than the program, never more. Its pointers lead outside the heap, whose pages
 * it could not open for itself.
 */
#include "inside.h"

#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef SYS_setuid32 /* the others have 16 bits there */
#define NUMBER(name) SYS_##name##32
#else
#define NUMBER(name) SYS_##name
#endif

enum { GROUPS_MOST = 65536, GROUPS_FIRST = 64 };

int capset(cap_user_header_t header, const cap_user_data_t data);

static _Atomic pid_t self; /* a child of vfork is another process with our memory */

static struct {
	int (*setuid)(uid_t);
	int (*seteuid)(uid_t);
	int (*setreuid)(uid_t, uid_t);
	int (*setresuid)(uid_t, uid_t, uid_t);
	int (*setgid)(gid_t);
	int (*setegid)(gid_t);
	int (*setregid)(gid_t, gid_t);
	int (*setresgid)(gid_t, gid_t, gid_t);
	int (*setfsuid)(uid_t);
	int (*setfsgid)(gid_t);
	int (*setgroups)(size_t, const gid_t *);
	int (*capset)(cap_user_header_t, const cap_user_data_t);
	int (*prctl)(int, ...);
	_Atomic bool found;
} real;

static void
find_all(void)
{
	if (atomic_load(&real.found))
		return;
#define FIND(name) (*(void **)&real.name = dlsym(RTLD_NEXT, #name))
	FIND(setuid);
	FIND(seteuid);
	FIND(setreuid);
	FIND(setresuid);
	FIND(setgid);
	FIND(setegid);
	FIND(setregid);
	FIND(setresgid);
	FIND(setfsuid);
	FIND(setfsgid);
	FIND(setgroups);
	FIND(capset);
	FIND(prctl);
#undef FIND
	atomic_store(&real.found, true);
}

static void
in_child(void)
{
	atomic_store(&self, getpid());
}

void
sm_ids_begin(void)
{
	find_all();
	in_child();
	(void)pthread_atfork(NULL, NULL, in_child);
}

static int
(*other_threads(void))(long, const long[6])
{
	return atomic_load(&self) == getpid() ? atomic_load(&sm_host.everywhere) : NULL;
}

/* false, with errno: it could not be done there. */
static bool
ahead(long number, long a, long b, long c)
{
	int (*everywhere)(long, const long[6]) = other_threads();
	const long args[6] = { a, b, c };
	int e = everywhere ? everywhere(number, args) : 0;

	find_all();
	if (e)
		errno = e;
	return e == 0;
}

/* -------------------------------------------------------------------- users */

SM_SHOWN int
setuid(uid_t u)
{
	return ahead(NUMBER(setuid), (long)u, 0, 0) ? real.setuid(u) : -1;
}

SM_SHOWN int
seteuid(uid_t u)
{
	if (u == (uid_t)-1) {
		errno = EINVAL;
		return -1;
	}
	return ahead(NUMBER(setresuid), -1, (long)u, -1) ? real.seteuid(u) : -1;
}

SM_SHOWN int
setreuid(uid_t r, uid_t e)
{
	return ahead(NUMBER(setreuid), (long)r, (long)e, 0) ? real.setreuid(r, e) : -1;
}

SM_SHOWN int
setresuid(uid_t r, uid_t e, uid_t s)
{
	return ahead(NUMBER(setresuid), (long)r, (long)e, (long)s) ? real.setresuid(r, e, s) : -1;
}

SM_SHOWN int
setfsuid(uid_t u)
{
	(void)ahead(NUMBER(setfsuid), (long)u, 0, 0); /* it answers what was, never an error */
	return real.setfsuid(u);
}

/* ------------------------------------------------------------------- groups */

SM_SHOWN int
setgid(gid_t g)
{
	return ahead(NUMBER(setgid), (long)g, 0, 0) ? real.setgid(g) : -1;
}

SM_SHOWN int
setegid(gid_t g)
{
	if (g == (gid_t)-1) {
		errno = EINVAL;
		return -1;
	}
	return ahead(NUMBER(setresgid), -1, (long)g, -1) ? real.setegid(g) : -1;
}

SM_SHOWN int
setregid(gid_t r, gid_t e)
{
	return ahead(NUMBER(setregid), (long)r, (long)e, 0) ? real.setregid(r, e) : -1;
}

SM_SHOWN int
setresgid(gid_t r, gid_t e, gid_t s)
{
	return ahead(NUMBER(setresgid), (long)r, (long)e, (long)s) ? real.setresgid(r, e, s) : -1;
}

SM_SHOWN int
setfsgid(gid_t g)
{
	(void)ahead(NUMBER(setfsgid), (long)g, 0, 0);
	return real.setfsgid(g);
}

/* A copy of what the program points at, outside the heap. NULL with errno. */
static void *
outside(const void *from, size_t n)
{
	void *to = mmap(NULL, n + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (to == MAP_FAILED)
		return NULL;
	if (n)
		memcpy(to, from, n);
	return to;
}

static bool
ahead_with(long number, long first, const void *from, size_t bytes)
{
	void *copy = outside(from, bytes);
	bool done;

	if (!copy)
		return false;
	done = ahead(number, first, (long)copy, 0);
	munmap(copy, bytes + 1);
	return done;
}

SM_SHOWN int
setgroups(size_t n, const gid_t *list)
{
	if (n > GROUPS_MOST) {
		errno = EINVAL;
		return -1;
	}
	if (!ahead_with(NUMBER(setgroups), (long)n, list, n * sizeof(*list)))
		return -1;
	return real.setgroups(n, list);
}

/* The C library's own would call its own setgroups. */
SM_SHOWN int
initgroups(const char *user, gid_t group)
{
	int n = GROUPS_FIRST, e;
	gid_t *list = malloc((size_t)n * sizeof(*list)), *more;

	while (list && getgrouplist(user, group, list, &n) < 0 && n <= GROUPS_MOST) {
		more = reallocarray(list, (size_t)n, sizeof(*list));
		if (!more)
			free(list);
		list = more;
	}
	if (!list)
		return -1;
	e = setgroups((size_t)n, list);
	free(list);
	return e;
}

/* ------------------------------------------------------------- capabilities */

static size_t
words_of(const struct __user_cap_header_struct *h)
{
	return h->version == _LINUX_CAPABILITY_VERSION_1 ? _LINUX_CAPABILITY_U32S_1
							 : _LINUX_CAPABILITY_U32S_3;
}

/* The header names a thread; where that is the caller, the other one is to name itself. */
static bool
capset_ahead(const struct __user_cap_header_struct *h, const struct __user_cap_data_struct *data)
{
	struct {
		struct __user_cap_header_struct header;
		struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	} all = { *h, { { 0, 0, 0 } } }, *copy;
	bool done;

	if (h->pid != 0 && h->pid != syscall(SYS_gettid))
		return true;
	all.header.pid = 0;
	memcpy(all.data, data, words_of(h) * sizeof(*data));
	copy = outside(&all, sizeof(all));
	if (!copy)
		return false;
	done = ahead(SYS_capset, (long)&copy->header, (long)copy->data, 0);
	munmap(copy, sizeof(all) + 1);
	return done;
}

SM_SHOWN int
capset(cap_user_header_t header, const cap_user_data_t data)
{
	find_all();
	if (header && data && !capset_ahead(header, data))
		return -1;
	return real.capset(header, data);
}

SM_SHOWN int
prctl(int option, ...)
{
	int (*everywhere)(long, const long[6]) = other_threads();
	long args[6] = { option };
	va_list ap;
	int e = 0;

	va_start(ap, option);
	for (int i = 1; i < 5; i++)
		args[i] = va_arg(ap, long);
	va_end(ap);
	find_all();
	if (everywhere && (option == PR_SET_NO_NEW_PRIVS || option == PR_CAPBSET_DROP ||
		option == PR_SET_SECUREBITS || option == PR_CAP_AMBIENT || option == PR_SET_KEEPCAPS))
		e = everywhere(SYS_prctl, args);
	if (e) {
		errno = e;
		return -1;
	}
	return real.prctl(option, args[1], args[2], args[3], args[4]);
}
