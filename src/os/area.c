#include "os/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0 /* without it the address is a hint, checked afterwards */
#endif

enum { RESERVE_FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };

size_t
sm_os_page_bytes(void)
{
	static _Atomic size_t bytes;
	size_t n = atomic_load_explicit(&bytes, memory_order_relaxed);

	if (n == 0) {
		n = (size_t)sysconf(_SC_PAGESIZE);
		atomic_store_explicit(&bytes, n, memory_order_relaxed);
	}
	return n;
}

uint64_t
sm_os_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static size_t
limit_of(int resource)
{
	struct rlimit r;

	if (getrlimit(resource, &r) || r.rlim_cur == RLIM_INFINITY || r.rlim_cur > SIZE_MAX)
		return SIZE_MAX;
	return (size_t)r.rlim_cur;
}

static size_t
memlock_limit(void)
{
	return limit_of(RLIMIT_MEMLOCK);
}

size_t
sm_os_address_limit(void)
{
	return limit_of(RLIMIT_AS);
}

size_t
sm_os_lock_limit(void)
{
	return sm_sys_may_lock_all() ? SIZE_MAX : memlock_limit();
}

size_t
sm_os_map_limit(void)
{
	return sm_sys_map_limit();
}

int
sm_os_random(void *p, size_t n)
{
	int e = sm_sys_random(p, n);

	if (e == EAGAIN)
		return sm_fail(e, "the kernel's random generator is not seeded yet: start later");
	if (e)
		return sm_fail(ENOTSUP, "getrandom failed (%s): allow the system call", strerror(e));
	return 0;
}

int
sm_os_undumpable(void)
{
	int e = sm_sys_undumpable();

	if (e)
		return sm_fail(ENOTSUP, "the process can't be made undumpable (%s): take "
					"UNTRACEABLE out of require", strerror(e));
	return 0;
}

int
sm_os_reserve(size_t bytes, void **out)
{
	void *p = mmap(NULL, bytes, PROT_NONE, RESERVE_FLAGS, -1, 0);

	if (p == MAP_FAILED)
		return sm_fail(ENOMEM, "reserving %zu bytes of address space failed (%s): raise "
				       "RLIMIT_AS, or call mlockall after secmalloc_init",
			bytes, strerror(errno));
	(void)sm_sys_nodump(p, bytes); /* spares debuggers a sparse core; holds no bytes */
	*out = p;
	return 0;
}

void
sm_os_unreserve(void *base, size_t bytes)
{
	if (base)
		munmap(base, bytes);
}

static int
set_access(void *base, size_t bytes, int prot)
{
	if (mprotect(base, bytes, prot) == 0)
		return 0;
	if (errno == ENOMEM)
		return sm_fail(ENOMEM, "mprotect of %zu bytes refused: raise vm.max_map_count, or "
				       "use fewer large chunks", bytes);
	return sm_fail(ENOTSUP, "mprotect of %zu bytes failed (%s): allow the system call", bytes,
		strerror(errno));
}

int
sm_os_commit(void *base, size_t bytes)
{
	return set_access(base, bytes, PROT_READ | PROT_WRITE);
}

int
sm_os_freeze(void *base, size_t bytes)
{
	return set_access(base, bytes, PROT_READ);
}

int
sm_os_guard(void *base, size_t bytes)
{
	return set_access(base, bytes, PROT_NONE);
}

int
sm_os_access(void *base, size_t bytes, enum secmalloc_access access)
{
	static const int prot[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };

	return set_access(base, bytes, prot[access]);
}

/* The addresses stay ours whatever happens: a page of another never lies inside a reservation. */
static void
cover(void *base, size_t bytes, int how)
{
	void *p = mmap(base, bytes, PROT_NONE, RESERVE_FLAGS | how, -1, 0);

	if (p == MAP_FAILED)
		return;
	if (p != base)
		munmap(p, bytes);
	else
		(void)sm_sys_nodump(base, bytes);
}

void
sm_os_release(struct sm_area *a)
{
	if (a->base) {
		if (a->granted & SECMALLOC_LOCKED)
			sm_count_sub(&sm_count.locked_bytes, a->bytes);
		cover(a->base, a->bytes, MAP_FIXED);
	}
	*a = (struct sm_area){ 0 };
}

void
sm_os_cover(void *base, size_t bytes, bool hole)
{
	cover(base, bytes, hole ? MAP_FIXED_NOREPLACE : MAP_FIXED);
}

static int
refused_lock(int e, size_t bytes, const char *call)
{
	size_t limit = memlock_limit();

	if (e == EPERM || limit == 0)
		return sm_fail(EPERM, "%s of %zu bytes refused: RLIMIT_MEMLOCK is %zu; raise "
				      "LimitMEMLOCK= or run with CAP_IPC_LOCK", call, bytes, limit);
	if ((e == ENOMEM || e == EAGAIN) && limit != SIZE_MAX)
		return sm_fail(ENOMEM, "%s of %zu bytes refused: RLIMIT_MEMLOCK is %zu; raise "
				       "LimitMEMLOCK= or run with CAP_IPC_LOCK", call, bytes, limit);
	if (e == ENOMEM || e == EAGAIN)
		return sm_fail(ENOMEM, "%s of %zu bytes refused: out of memory", call, bytes);
	return sm_fail(ENOTSUP, "%s of %zu bytes failed (%s): allow the system call", call, bytes,
		strerror(e));
}

static int
refused(const char *what, int e)
{
	return sm_fail(ENOTSUP, "%s refused (%s): use a newer kernel, or take the protection out of "
				"require and put it in without", what, strerror(e));
}

static unsigned
forksafe(void *p, size_t bytes, bool shared)
{
	if (!shared && sm_sys_wipe_on_fork(p, bytes) == 0)
		return SECMALLOC_FORKSAFE;
	return sm_sys_absent_in_fork(p, bytes) == 0 ? SECMALLOC_FORKSAFE : 0;
}

/* From here the pages are mapped read-write at p; every protection is asked for, none is assumed */
static int
protect_pages(void *p, size_t bytes, const struct sm_wish *w, unsigned *granted)
{
	bool hidden = *granted & SECMALLOC_HIDDEN;
	unsigned want = ~w->without;
	int e;

	if (want & SECMALLOC_NODUMP) {
		e = sm_sys_nodump(p, bytes);
		if (e == 0)
			*granted |= SECMALLOC_NODUMP;
		else if (w->require & SECMALLOC_NODUMP)
			return refused("leaving pages out of core dumps (MADV_DONTDUMP)", e);
	}
	if (want & SECMALLOC_FORKSAFE) {
		*granted |= forksafe(p, bytes, hidden);
		if (w->require & ~*granted & SECMALLOC_FORKSAFE)
			return refused("keeping pages from forked children (MADV_WIPEONFORK)",
				errno);
	}
	if (!hidden && (want & SECMALLOC_LOCKED)) {
		if (mlock(p, bytes) < 0)
			return refused_lock(errno, bytes, "mlock");
		*granted |= SECMALLOC_LOCKED;
	}
	e = sm_sys_touch(p, bytes);
	if (e)
		return sm_fail(e == EAGAIN ? e : ENOMEM, "touching %zu bytes failed (%s): free "
							 "some memory", bytes, strerror(e));
	return 0;
}

static int
map_hidden(size_t bytes, const struct sm_wish *w, void **out)
{
	bool must = w->require & SECMALLOC_HIDDEN;
	int e;

	if (!must && (w->without & (SECMALLOC_HIDDEN | SECMALLOC_LOCKED)))
		return ENOTSUP;
	if (!must && sm_sys_hibernates())
		return ENOTSUP;
	e = sm_sys_hidden(bytes, out);
	if (e == 0)
		return 0;
	if (e == EAGAIN || e == ENOMEM)
		return refused_lock(e, bytes, "memfd_secret");
	return refused("hiding pages (memfd_secret)", e);
}

static int
obtain(void *at, size_t bytes, const struct sm_wish *w, bool hidden, struct sm_area *a)
{
	unsigned granted = SECMALLOC_GUARDED & ~w->without;
	void *p;
	int e;

	if (hidden) {
		e = map_hidden(bytes, w, &p);
		if (e)
			return e;
		granted |= SECMALLOC_HIDDEN | (SECMALLOC_LOCKED & ~w->without);
	} else {
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return refused_lock(errno, bytes, "mmap");
	}
	e = protect_pages(p, bytes, w, &granted);
	if (e)
		goto unmap;
	e = sm_sys_move(p, bytes, at);
	if (e) {
		e = sm_fail(ENOMEM, "mremap of %zu bytes failed (%s): free some memory", bytes,
			strerror(e));
		cover(at, bytes, MAP_FIXED_NOREPLACE); /* should the kernel have emptied it */
		goto unmap;
	}
	if (granted & SECMALLOC_LOCKED)
		sm_count_add(&sm_count.locked_bytes, bytes);
	*a = (struct sm_area){ at, bytes, granted };
	return 0;
unmap:
	munmap(p, bytes);
	return e;
}

int
sm_os_obtain(void *at, size_t bytes, const struct sm_wish *w, struct sm_area *a)
{
	int e = obtain(at, bytes, w, true, a);

	if (e == 0 || w->require & SECMALLOC_HIDDEN)
		return e;
	return obtain(at, bytes, w, false, a);
}
