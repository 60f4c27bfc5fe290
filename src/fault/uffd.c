#include "fault/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#ifndef SM_HAS_MOVE
struct sm_uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#endif

enum { MOVE_DONTWAKE = 1 }; /* whoever waits is woken once all is noted */
enum { DESCRIPTORS_FROM = 900 }; /* out of the way of a program that counts on low numbers */

/* Full mode needs privilege, or a device that this user may open. */
static int
open_any(bool full)
{
	int flags = O_CLOEXEC | O_NONBLOCK, device, fd;

	if (!full)
		return (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	fd = (int)syscall(SYS_userfaultfd, flags);
	if (fd >= 0)
		return fd;
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -1;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
	close(device);
	return fd;
}

static int
raised(int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, DESCRIPTORS_FROM);

	if (high < 0)
		return fd;
	close(fd);
	return high;
}

int
sm_uffd_open(enum sm_mode mode)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	int fd = open_any(mode == SM_MODE_THREAD);

	if (fd < 0)
		return -1;
	if (mode == SM_MODE_SIGNAL)
		api.features |= UFFD_FEATURE_SIGBUS;
	if (ioctl(fd, UFFDIO_API, &api) == 0)
		return raised(fd);
	close(fd);
	return -1;
}

int
sm_uffd_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC))
		return errno;
	ends[0] = raised(ends[0]);
	ends[1] = raised(ends[1]);
	return 0;
}

int
sm_uffd_watch(int fd, void *base, size_t bytes)
{
	struct uffdio_register r = { .range = { (uintptr_t)base, bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING };

	(void)madvise(base, bytes, MADV_NOHUGEPAGE);
	return ioctl(fd, UFFDIO_REGISTER, &r) ? errno : 0;
}

void
sm_uffd_unwatch(int fd, void *base, size_t bytes)
{
	struct uffdio_range r = { (uintptr_t)base, bytes };

	(void)ioctl(fd, UFFDIO_UNREGISTER, &r);
}

int
sm_uffd_move(int fd, void *to, void *from)
{
	struct sm_uffdio_move m = { .dst = (uintptr_t)to, .src = (uintptr_t)from,
		.len = sm_os_page_bytes(), .mode = MOVE_DONTWAKE };

	while (ioctl(fd, UFFDIO_MOVE, &m))
		if (errno != EAGAIN || m.move > 0)
			return errno;
	return 0;
}

int
sm_uffd_fill(int fd, void *to)
{
	struct uffdio_zeropage z = { .range = { (uintptr_t)to, sm_os_page_bytes() } };

	return ioctl(fd, UFFDIO_ZEROPAGE, &z) && errno != EEXIST ? errno : 0;
}

void
sm_uffd_wake(int fd, void *page)
{
	struct uffdio_range r = { (uintptr_t)page, sm_os_page_bytes() };

	(void)ioctl(fd, UFFDIO_WAKE, &r);
}

void *
sm_uffd_next(int fd, int stop)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = stop, .events = POLLIN } };
	struct uffd_msg m;

	for (;;) {
		if (read(fd, &m, sizeof(m)) == (ssize_t)sizeof(m)) {
			if (m.event == UFFD_EVENT_PAGEFAULT)
				return (void *)(uintptr_t)m.arg.pagefault.address;
			continue;
		}
		p[1].revents = 0;
		if (poll(p, 2, -1) > 0 && p[1].revents)
			return NULL;
	}
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
