#include "fault/inside.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	STACK_BYTES = 64 << 10,
	HOW = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
		CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID
};

/* ------------------------------------------------------------------- words */

void
sm_raw_await(_Atomic uint32_t *word, uint32_t seen)
{
	while (atomic_load_explicit(word, memory_order_acquire) == seen)
		(void)syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
}

void
sm_raw_wake(_Atomic uint32_t *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* ------------------------------------------------------------------ thread */

/* Locked like frames, as clear bytes pass through registers and so through a stack. In a child the
 * pages are there, and zero, so that they can be given back. */
static int
obtain(struct sm_raw *r, size_t bytes)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require & ~(unsigned)SECMALLOC_HIDDEN,
		.without = (c->without & ~(unsigned)SECMALLOC_FORKSAFE) | SECMALLOC_HIDDEN,
		.mark = true };
	size_t page = sm_os_page_bytes();
	int e = sm_os_reserve(page + bytes, &r->reserved);

	if (e)
		return e;
	r->reserved_bytes = page + bytes;
	e = sm_os_obtain((unsigned char *)r->reserved + page, bytes, &wish, &r->area);
	if (e)
		sm_os_unreserve(r->reserved, r->reserved_bytes);
	return e;
}

static void
give_back(struct sm_raw *r)
{
	sm_wipe(r->area.base, r->area.bytes);
	sm_os_release(&r->area);
	sm_os_unreserve(r->reserved, r->reserved_bytes);
}

bool
sm_raw_here(void)
{
	return sm_tls_bytes() != 0;
}

int
sm_raw_start(struct sm_raw *r, int (*run)(void *))
{
	unsigned char *top;
	struct sm_mask m;
	int e = obtain(r, STACK_BYTES + sm_tls_bytes());

	if (e)
		return e;
	top = r->area.base + STACK_BYTES;
	sm_os_mask(&m);
	if (clone(run, top, HOW, NULL, &r->tid, sm_tls_make(top), &r->tid) < 0)
		e = sm_fail(EAGAIN, "a thread could not be started (%d): raise "
				    "RLIMIT_NPROC", errno);
	sm_os_unmask(&m);
	if (e)
		give_back(r);
	return e;
}

void
sm_raw_join(struct sm_raw *r)
{
	uint32_t tid = atomic_load(&r->tid);

	if (tid)
		sm_raw_await(&r->tid, tid);
	give_back(r);
}

void
sm_raw_forget(struct sm_raw *r)
{
	r->area = (struct sm_area){ 0 };
	sm_os_unreserve(r->reserved, r->reserved_bytes);
	r->reserved = NULL;
	atomic_store(&r->tid, 0);
}
