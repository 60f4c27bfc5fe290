#include "fault/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFDIO_MOVE
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct sm_uffdio_move) /* Linux 6.8 */
#else
#define sm_uffdio_move uffdio_move
#define SM_HAS_MOVE
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#ifndef SM_HAS_MOVE
struct sm_uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#endif

enum { MOVE_DONTWAKE = 1 };
enum { LOOKS = 12, LOOKS_US = 100, LEFT_LEAST = 8, LEFT_MOST = 8192 };

static int teller; /* of the one thread that reads */
static int self;   /* this process */
static int kept; /* the device + 1; 0: it is not kept */

static int
open_device(void)
{
	return open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
}

void
sm_uffd_keep(void)
{
	int fd = open_device();

	if (fd < 0)
		return;
	kept = sm_os_raised(fd) + 1;
	sm_host_keep(kept - 1);
}

void
sm_uffd_let_go(void)
{
	if (!kept)
		return;
	sm_host_let_go(kept - 1);
	close(kept - 1);
	kept = 0;
}

/* Full mode needs privilege, or a device that this user may open, or that was kept. */
static int
open_any(bool full)
{
	int flags = O_CLOEXEC | O_NONBLOCK, device, fd;

	if (!full)
		return (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	fd = (int)syscall(SYS_userfaultfd, flags);
	if (fd >= 0)
		return fd;
	device = kept ? kept - 1 : open_device();
	if (device < 0)
		return -1;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
	if (!kept)
		close(device);
	return fd;
}

int
sm_uffd_open(enum sm_mode mode)
{
	struct uffdio_api api = { .api = UFFD_API,
		.features = UFFD_FEATURE_MOVE | UFFD_FEATURE_THREAD_ID };
	int fd = open_any(mode == SM_MODE_THREAD);

	self = (int)syscall(SYS_getpid);
	if (fd < 0)
		return -1;
	if (mode == SM_MODE_SIGNAL)
		api.features |= UFFD_FEATURE_SIGBUS;
	if (ioctl(fd, UFFDIO_API, &api) == 0)
		return sm_os_raised(fd);
	close(fd);
	return -1;
}

/* Where the program locks all that it maps (MCL_FUTURE) the pages have come as they were mapped, and
 * nobody would ever be told of them. */
int
sm_uffd_watch(int fd, void *base, size_t bytes)
{
	struct uffdio_register r = { .range = { (uintptr_t)base, bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING };

	(void)madvise(base, bytes, MADV_NOHUGEPAGE);
	sm_uffd_empty(base, bytes);
	return ioctl(fd, UFFDIO_REGISTER, &r) ? errno : 0;
}

void
sm_uffd_unwatch(int fd, void *base, size_t bytes)
{
	struct uffdio_range r = { (uintptr_t)base, bytes };

	(void)ioctl(fd, UFFDIO_UNREGISTER, &r);
}

/* EINVAL: not all lies in one mapping, as a run may be several. */
size_t
sm_uffd_move_some(int fd, void *to, void *from, size_t pages)
{
	size_t page = sm_os_page_bytes();

	for (; pages > 0; pages /= 2) {
		struct sm_uffdio_move m = { .dst = (uintptr_t)to, .src = (uintptr_t)from,
			.len = pages * page };

		if (ioctl(fd, UFFDIO_MOVE, &m) == 0)
			return pages;
		if (m.move > 0)
			return (size_t)m.move / page;
		if (errno != EINVAL)
			return 0;
	}
	return 0;
}

static int
move_once(int fd, void *to, void *from, unsigned mode)
{
	struct sm_uffdio_move m = { .dst = (uintptr_t)to, .src = (uintptr_t)from,
		.len = sm_os_page_bytes(), .mode = mode };

	while (ioctl(fd, UFFDIO_MOVE, &m))
		if (errno != EAGAIN || m.move > 0)
			return errno;
	return 0;
}

/* EINVAL: they are not locked alike, as the program has undone one of the locks. */
static int
move(int fd, void *to, void *from, unsigned mode)
{
	int e = move_once(fd, to, from, mode);

	if (e != EINVAL || sm_uffd_lock(to, sm_os_page_bytes()) ||
		sm_uffd_lock(from, sm_os_page_bytes()))
		return e;
	return move_once(fd, to, from, mode);
}

int
sm_uffd_move(int fd, void *to, void *from)
{
	return move(fd, to, from, MOVE_DONTWAKE);
}

/* It is there already: the kernel was interrupted, or nobody knew. */
static int
placed(int fd, void *page, int e)
{
	if (e != EEXIST)
		return e;
	sm_uffd_wake(fd, page);
	return 0;
}

int
sm_uffd_place(int fd, void *to, void *from)
{
	return placed(fd, to, move(fd, to, from, 0));
}

int
sm_uffd_fill(int fd, void *to)
{
	struct uffdio_zeropage z = { .range = { (uintptr_t)to, sm_os_page_bytes() } };

	return placed(fd, to, ioctl(fd, UFFDIO_ZEROPAGE, &z) ? errno : 0);
}

/* What is never written: one page of zeros, as often as there is room for one. */
static unsigned char zeros[16 * 4096];

static int
copy(int fd, unsigned char *to, size_t bytes, size_t *copied)
{
	struct uffdio_copy c = { .dst = (uintptr_t)to, .src = (uintptr_t)zeros, .len = bytes };
	int e = ioctl(fd, UFFDIO_COPY, &c) ? errno : 0;

	*copied = c.copy > 0 ? (size_t)c.copy : 0;
	return e;
}

int
sm_uffd_bring(int fd, void *at, size_t pages, size_t *done)
{
	size_t page = sm_os_page_bytes(), most = sizeof(zeros) / page * page, copied;
	unsigned char *to = at;
	int e = 0;

	for (size_t left = pages * page; left > 0 && e == 0; left -= copied, to += copied) {
		do
			e = copy(fd, to, sm_min_size(left, most), &copied);
		while (e == EAGAIN && copied == 0);
		if (e == EAGAIN)
			e = 0;
	}
	*done = (size_t)(to - (unsigned char *)at) / page;
	return e;
}

void
sm_uffd_empty(void *at, size_t bytes)
{
	(void)madvise(at, bytes, MADV_DONTNEED_LOCKED);
}

void
sm_uffd_wake_all(int fd, void *base, size_t bytes)
{
	struct uffdio_range r = { (uintptr_t)base, bytes };

	(void)ioctl(fd, UFFDIO_WAKE, &r);
}

void
sm_uffd_wake(int fd, void *page)
{
	sm_uffd_wake_all(fd, page, sm_os_page_bytes());
}

int
sm_uffd_self(void)
{
	return (int)syscall(SYS_gettid);
}

int
sm_uffd_teller(void)
{
	return teller;
}

/* A child of vfork or posix_spawn is another process with our memory. Where that cannot be asked, or
 * not of this one (the program has changed its user), it may be such a child. Nobody else has the
 * first thread's number as long as there is any of ours; other threads' are given away again. */
bool
sm_uffd_is_ours(void)
{
	long same;

	if (teller == self || syscall(SYS_tgkill, self, teller, 0) == 0 ||
		syscall(SYS_kcmp, self, self, KCMP_VM, 0, 0))
		return true;
	same = syscall(SYS_kcmp, self, teller, KCMP_VM, 0, 0);
	return same == 0 || (same < 0 && errno != ESRCH);
}

/* Not by read and poll, at which a thread of the C library's can be cancelled. NULL: none yet. */
static void *
look(int fd)
{
	struct uffd_msg m;
	long n = syscall(SYS_read, fd, &m, sizeof(m));

	if (n == (long)sizeof(m) && m.event == UFFD_EVENT_PAGEFAULT) {
		teller = (int)m.arg.pagefault.feat.ptid;
		return (void *)(uintptr_t)m.arg.pagefault.address;
	}
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		sm_die_of("the descriptor that tells of closed pages was closed: a program closes "
			  "only its own", NULL);
	return NULL;
}

static uint64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Whoever was served may touch the next page at once: to yield to him a few times costs less than
 * to sleep and be woken. It costs much more where others are yielded to: then it is left for a
 * while, each time for longer. */
static void *
look_again(int fd)
{
	static unsigned left, next = LEFT_LEAST; /* faults; there is one thread that serves */
	uint64_t began;
	void *at = NULL;

	if (left > 0) {
		left--;
		return NULL;
	}
	began = now_us();
	for (int n = 0; at == NULL && n < LOOKS; n++) {
		sched_yield();
		at = look(fd);
		if (now_us() - began > LOOKS_US) {
			left = next;
			next = next < LEFT_MOST ? next * 2 : next;
			return at;
		}
	}
	next = next > LEFT_LEAST ? next / 2 : LEFT_LEAST;
	return at;
}

void *
sm_uffd_next(int fd, int bell, unsigned ms, bool *rings)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = bell, .events = POLLIN } };
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };
	void *at;
	long n;

	*rings = false;
	for (at = look_again(fd); at == NULL; at = look(fd)) {
		p[1].revents = 0; /* the kernel stores in t what is left of it */
		n = syscall(SYS_ppoll, p, 2, ms ? &t : NULL, NULL, 0);
		*rings = n > 0 && p[1].revents;
		if (*rings || n == 0)
			return NULL;
	}
	return at;
}

int
sm_uffd_lock(void *base, size_t bytes)
{
	return syscall(SYS_mlock2, base, bytes, MLOCK_ONFAULT) ? errno : 0;
}

void
sm_uffd_unlock(void *base, size_t bytes)
{
	(void)syscall(SYS_munlock, base, bytes);
}

const struct sm_mover sm_uffd = { sm_uffd_watch, sm_uffd_unwatch, sm_uffd_place, sm_uffd_move,
	sm_uffd_fill, sm_uffd_empty, sm_uffd_bring, sm_uffd_move_some, sm_uffd_wake, sm_uffd_lock,
	sm_uffd_unlock, false };
