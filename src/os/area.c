#include "os/inside.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifdef CLOCK_MONOTONIC_COARSE
#define CLOCK_COARSE CLOCK_MONOTONIC_COARSE /* exact to some 4 ms, and five times faster */
#else
#define CLOCK_COARSE CLOCK_MONOTONIC
#endif

struct sm_pending sm_pending;

enum { RESERVE_FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };
enum { SHARED_FLAGS = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED };

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

	clock_gettime(CLOCK_COARSE, &t);
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
sm_os_memory_bytes(void)
{
	long pages = sysconf(_SC_PHYS_PAGES);

	if (pages <= 0 || (size_t)pages > SIZE_MAX / sm_os_page_bytes())
		return SIZE_MAX;
	return (size_t)pages * sm_os_page_bytes();
}

size_t
sm_os_lock_limit(void)
{
	size_t limit = memlock_limit(), page = sm_os_page_bytes();

	if (limit > PTRDIFF_MAX - page)
		return SIZE_MAX;
	return sm_sys_may_lock(sm_round_up(limit, page) + page) ? SIZE_MAX : limit;
}

/* open, read, close and getrandom are cancellation points, and locks are held: not here. */
static int
no_cancel(void)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	return state;
}

static void
may_cancel(int state)
{
	pthread_setcancelstate(state, NULL);
}

size_t
sm_os_map_limit(void)
{
	int state = no_cancel();
	size_t n = sm_sys_map_limit();

	may_cancel(state);
	return n;
}

int
sm_os_random(void *p, size_t n)
{
	int state = no_cancel();
	int e = sm_sys_random(p, n);

	may_cancel(state);
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
sm_os_plain(size_t bytes, void **out)
{
	int e = sm_os_reserve(bytes, out);

	if (e)
		return e;
	e = sm_os_commit(*out, bytes);
	if (e)
		sm_os_unreserve(*out, bytes);
	return e;
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

bool
sm_sys_cover(void *base, size_t bytes, int how)
{
	void *p = mmap(base, bytes, PROT_NONE, RESERVE_FLAGS | how, -1, 0);

	if (p == MAP_FAILED)
		return false;
	if (p != base) {
		munmap(p, bytes);
		return false;
	}
	(void)sm_sys_nodump(base, bytes);
	return true;
}

/* Where the kernel refuses a mapping (MCL_FUTURE and a limit), the old pages stay: empty, unlocked
 * and without access, to be replaced by the next that are placed there. */
void
sm_os_release(struct sm_area *a)
{
	if (!a->base)
		return;
	if (a->granted & SECMALLOC_LOCKED && !a->elastic && !a->veiled) {
		(void)sm_sys_unlock(a->base, a->bytes); /* the mapping goes, and its lock with it */
		sm_count_sub(&sm_count.locked_bytes, a->bytes);
	}
	if (!sm_sys_cover(a->base, a->bytes, MAP_FIXED)) {
		(void)sm_sys_unlock(a->base, a->bytes);
		(void)mprotect(a->base, a->bytes, PROT_NONE);
	}
	*a = (struct sm_area){ 0 };
}

static int
refused_lock(int e, size_t bytes, const char *call)
{
	size_t limit = memlock_limit();

	if (e == EPERM || limit == 0)
		return sm_fail(EPERM, "%s of %zu bytes refused: RLIMIT_MEMLOCK is %zu; raise "
				      "LimitMEMLOCK= or run with CAP_IPC_LOCK", call, bytes, limit);
	if ((e == ENOMEM || e == EAGAIN) && limit != SIZE_MAX &&
		sm_count_get(&sm_count.locked_bytes) + bytes <= limit)
		return sm_fail(ENOMEM, "%s of %zu bytes refused: out of memory, too many mappings "
				       "(vm.max_map_count), or the program has used up RLIMIT_MEMLOCK "
				       "(%zu) itself", call, bytes, limit);
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
	return sm_fail(ENOTSUP, "%s refused (%s): use a newer kernel, or take the protection out "
				"of require and put it in without", what, strerror(e));
}

/* Hidden pages are shared ones: a child that had them would read what the parent stores later, so
 * they are absent there even if FORKSAFE was not wanted. Veiled ones would read as zero where they
 * are closed, as nobody serves their faults there: to touch a hole is SIGSEGV. */
static int
protect_from_fork(void *p, size_t bytes, const struct sm_wish *w, struct sm_area *a)
{
	bool hidden = a->granted & SECMALLOC_HIDDEN, want = !(w->without & SECMALLOC_FORKSAFE);
	bool hole = hidden || w->veiled || w->shared;
	int e = ENOTSUP;

	if (w->inherit || (!want && !hole))
		return 0;
	if (!hole)
		e = sm_sys_wipe_on_fork(p, bytes);
	if (e && !w->mark) {
		e = sm_sys_absent_in_fork(p, bytes);
		a->absent = e == 0;
	}
	if (e && (hole || w->require & SECMALLOC_FORKSAFE))
		return refused("keeping pages from forked children (MADV_WIPEONFORK)", e);
	if (e == 0 && want)
		a->granted |= SECMALLOC_FORKSAFE;
	return 0;
}

/* From here the pages are mapped read-write at p; every protection is asked for, none is assumed */
static int
protect_pages(void *p, size_t bytes, const struct sm_wish *w, struct sm_area *a)
{
	unsigned want = ~w->without;
	int e;

	if (want & SECMALLOC_NODUMP) {
		e = sm_sys_nodump(p, bytes);
		if (e == 0)
			a->granted |= SECMALLOC_NODUMP;
		else if (w->require & SECMALLOC_NODUMP)
			return refused("leaving pages out of core dumps (MADV_DONTDUMP)", e);
	}
	e = protect_from_fork(p, bytes, w, a);
	if (e)
		return e;
	if (w->elastic || w->veiled) {
		a->granted |= SECMALLOC_LOCKED & ~w->without;
		return 0;
	}
	if (!(a->granted & SECMALLOC_HIDDEN) && (want & SECMALLOC_LOCKED)) {
		e = w->later ? sm_sys_lock_later(p, bytes) : sm_sys_lock(p, bytes);
		if (e)
			return refused_lock(e, bytes, "mlock");
		a->granted |= SECMALLOC_LOCKED;
	}
	e = w->later ? 0 : sm_sys_touch(p, bytes);
	if (e)
		return sm_fail(e == EAGAIN ? e : ENOMEM, "touching %zu bytes failed (%s): free "
							 "some memory", bytes, strerror(e));
	return 0;
}

static int
map_hidden(void *at, size_t bytes, const struct sm_wish *w)
{
	bool must = w->require & SECMALLOC_HIDDEN;
	int e;

	if (!must && (w->without & (SECMALLOC_HIDDEN | SECMALLOC_LOCKED)))
		return ENOTSUP;
	if (!must && sm_sys_hibernates())
		return ENOTSUP;
	e = sm_sys_hidden(at, bytes);
	if (e == 0)
		return 0;
	if (e == EAGAIN || e == ENOMEM)
		return refused_lock(e, bytes, "memfd_secret");
	return refused("hiding pages (memfd_secret)", e);
}

/* At p there is address space of ours, recorded as pending. */
static int
make(void *p, void *at, size_t bytes, const struct sm_wish *w, struct sm_area *made)
{
	int e;

	if (made->granted & SECMALLOC_HIDDEN) {
		e = map_hidden(p, bytes, w);
		if (e) { /* should the kernel have emptied the place */
			(void)sm_sys_cover(p, bytes, MAP_FIXED_NOREPLACE);
			return e;
		}
		made->granted |= SECMALLOC_LOCKED & ~w->without;
	} else if (w->shared) {
		if (mmap(p, bytes, PROT_READ | PROT_WRITE, SHARED_FLAGS, -1, 0) == MAP_FAILED)
			return refused_lock(errno, bytes, "mmap");
	} else {
		e = set_access(p, bytes, PROT_READ | PROT_WRITE);
		if (e)
			return e;
	}
	e = protect_pages(p, bytes, w, made);
	if (e)
		return e;
	atomic_store(&sm_pending.at, at);
	e = sm_sys_move(p, bytes, at);
	if (e == 0)
		return 0;
	(void)sm_sys_cover(at, bytes, MAP_FIXED_NOREPLACE); /* as above */
	return sm_fail(ENOMEM, "mremap of %zu bytes failed (%s): free some memory", bytes,
		strerror(e));
}

static int
obtain(void *at, size_t bytes, const struct sm_wish *w, bool hidden, struct sm_area *a)
{
	struct sm_area made = { at, bytes, SECMALLOC_GUARDED & ~w->without, false, w->elastic,
		w->veiled };
	void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int e;

	if (p == MAP_FAILED)
		return refused_lock(errno, bytes, "mmap");
	atomic_store(&sm_pending.bytes, bytes);
	atomic_store(&sm_pending.base, p);
	if (hidden)
		made.granted |= SECMALLOC_HIDDEN;
	e = make(p, at, bytes, w, &made);
	if (e) {
		munmap(p, bytes);
	} else {
		if (made.granted & SECMALLOC_LOCKED && !w->elastic && !w->veiled)
			sm_count_add(&sm_count.locked_bytes, bytes);
		*a = made;
	}
	atomic_store(&sm_pending.base, NULL);
	atomic_store(&sm_pending.at, NULL);
	return e;
}

int
sm_os_obtain(void *at, size_t bytes, const struct sm_wish *w, struct sm_area *a)
{
	int state = no_cancel();
	int e = w->elastic || w->veiled ? ENOTSUP : obtain(at, bytes, w, true, a);

	if (e && !(w->require & SECMALLOC_HIDDEN))
		e = obtain(at, bytes, w, false, a);
	may_cancel(state);
	return e;
}

/* ------------------------------------------------------- elastic pages */

int
sm_os_mark(void *base, size_t bytes)
{
	return sm_sys_mark(base, bytes) ? ENOTSUP : 0;
}

int
sm_os_unmark(void *base, size_t bytes)
{
	int e = sm_sys_unmark(base, bytes);

	if (e == 0)
		return 0;
	return sm_fail(ENOMEM, "removing guards from %zu bytes failed (%s): free some memory", bytes,
		strerror(e));
}

int
sm_os_pin(void *base, size_t bytes, bool *stuck)
{
	int e = sm_sys_lock(base, bytes);

	*stuck = e && sm_sys_unlock(base, bytes); /* a part may be locked */
	if (e == 0 || *stuck)
		sm_count_add(&sm_count.locked_bytes, bytes);
	return e;
}

int
sm_os_pin_refused(int e, size_t bytes)
{
	(void)refused_lock(e, bytes, "mlock");
	return ENOMEM;
}

int
sm_os_unpin(void *base, size_t bytes)
{
	int e = sm_sys_unlock(base, bytes);

	if (e == 0)
		sm_count_sub(&sm_count.locked_bytes, bytes);
	return e;
}
