#include "os/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447 /* the same on every architecture */
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#define MADV_GUARD_REMOVE 103
#endif

#ifndef SYS_membarrier
#define SYS_membarrier (-1)
#endif

/* linux/membarrier.h: the first needs no registration and takes some ms, the next does some us */
enum { MEMBARRIER_GLOBAL = 1, MEMBARRIER_EXPEDITED = 1 << 3, MEMBARRIER_REGISTER = 1 << 4 };

enum { DEFAULT_MAX_MAP_COUNT = 65530 }; /* linux/mm.h */

static int
advise(void *p, size_t n, int what)
{
	return madvise(p, n, what) ? errno : 0;
}

int
sm_sys_nodump(void *p, size_t n)
{
	return advise(p, n, MADV_DONTDUMP);
}

int
sm_sys_lock(const void *p, size_t n)
{
	return syscall(SYS_mlock, p, n) ? errno : 0;
}

int
sm_sys_lock_later(const void *p, size_t n)
{
	return syscall(SYS_mlock2, p, n, MLOCK_ONFAULT) ? errno : 0;
}

int
sm_sys_unlock(const void *p, size_t n)
{
	return syscall(SYS_munlock, p, n) ? errno : 0;
}

int
sm_sys_mark(void *p, size_t n)
{
	return advise(p, n, MADV_GUARD_INSTALL);
}

int
sm_sys_unmark(void *p, size_t n)
{
	return advise(p, n, MADV_GUARD_REMOVE);
}

int
sm_sys_wipe_on_fork(void *p, size_t n)
{
	return advise(p, n, MADV_WIPEONFORK);
}

int
sm_sys_absent_in_fork(void *p, size_t n)
{
	return advise(p, n, MADV_DONTFORK);
}

/*
 * Descriptors of hidden pages live for a moment. fork(2) copies descriptors first and memory later,
 * so a child may have one that its parent has closed since: the latest are remembered.
 */
enum { STRAYS = 8, DESCRIPTORS_MOST = 1 << 16 };

static struct {
	_Atomic int fd;	      /* + 1; 0: none */
	_Atomic uint64_t ino; /* its inode; 0: not known yet */
} strays[STRAYS];
static unsigned stray_turn;
static atomic_bool making; /* there may be one that is not noted yet */

/* Of what was being made: by now the parent may have given it its size. */
static bool
is_just_made(int fd)
{
	size_t bytes = atomic_load(&sm_pending.bytes);
	char path[32], target[32] = "";
	struct stat st;

	if (fstat(fd, &st) || (st.st_size != 0 && (size_t)st.st_size != bytes))
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, target, sizeof(target) - 1) > 0 && strstr(target, "secretmem");
}

void
sm_sys_close_strays(void)
{
	for (unsigned i = 0; i < STRAYS; i++) {
		int fd = atomic_load(&strays[i].fd) - 1;
		uint64_t ino = atomic_load(&strays[i].ino);
		struct stat st;

		if (fd >= 0 && (ino ? fstat(fd, &st) == 0 && st.st_ino == ino :
				      is_just_made(fd)))
			close(fd);
		atomic_store(&strays[i].fd, 0);
	}
	for (int fd = 0; atomic_load(&making) && fd < DESCRIPTORS_MOST; fd++)
		if (is_just_made(fd))
			close(fd);
	atomic_store(&making, false);
}

static int
make_hidden(void)
{
	unsigned i = stray_turn++ % STRAYS;
	struct stat st;
	int fd;

	atomic_store(&strays[i].fd, 0);
	atomic_store(&strays[i].ino, 0);
	atomic_store(&making, true);
	fd = (int)syscall(SYS_memfd_secret, (unsigned)O_CLOEXEC);
	if (fd >= 0) {
		atomic_store(&strays[i].fd, fd + 1);
		if (fstat(fd, &st) == 0)
			atomic_store(&strays[i].ino, st.st_ino);
	}
	atomic_store(&making, false);
	return fd;
}

/* The descriptor is closed at once: with it open, pidfd_getfd(2) and mmap read the pages. */
int
sm_sys_hidden(void *at, size_t bytes)
{
	int fd = make_hidden(), e = 0;

	if (fd < 0)
		return errno;
	if (ftruncate(fd, (off_t)bytes) < 0 ||
		mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		e = errno;
	close(fd);
	return e;
}

/* The first line of a small file of the kernel's; false: it is not there. */
static bool
read_line(const char *path, char *line, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, line, size - 1);
	close(fd);
	if (n <= 0)
		return false;
	line[n] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return true;
}

/* Documentation/power/swsusp: resume= names the device; 0:0 says there is none */
bool
sm_sys_hibernates(void)
{
	char dev[16];

	return read_line("/sys/power/resume", dev, sizeof(dev)) && strcmp(dev, "0:0") != 0;
}

size_t
sm_sys_map_limit(void)
{
	char count[24];

	if (!read_line("/proc/sys/vm/max_map_count", count, sizeof(count)))
		return DEFAULT_MAX_MAP_COUNT;
	return strtoul(count, NULL, 10);
}

/* memfd_secret has no MAP_POPULATE, and a page that can't be had would be SIGBUS */
int
sm_sys_touch(void *p, size_t n)
{
	for (size_t at = 0; at < n; at += sm_os_page_bytes()) {
		unsigned char *byte = (unsigned char *)p + at;

		if (getrandom(byte, 1, GRND_NONBLOCK) != 1)
			return errno == EFAULT ? ENOMEM : errno;
		*byte = 0;
	}
	return 0;
}

int
sm_sys_move(void *from, size_t n, void *to)
{
	return mremap(from, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ? errno : 0;
}

/* Tried rather than asked for: CAP_IPC_LOCK in a user namespace does not lift the limit. Nothing is
 * faulted in, so nothing is locked. */
bool
sm_sys_may_lock(size_t n)
{
	void *p = mmap(NULL, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bool may;

	if (p == MAP_FAILED)
		return false;
	may = syscall(SYS_mlock2, p, n, MLOCK_ONFAULT) == 0;
	munmap(p, n);
	return may;
}

int
sm_sys_random(void *p, size_t n)
{
	unsigned char *at = p;

	while (n > 0) {
		ssize_t got = getrandom(at, n, GRND_NONBLOCK);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? errno : EIO;
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

int
sm_sys_undumpable(void)
{
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) ? errno : 0;
}

/* The C library's would leave out its own signals, which cancel threads and set ids. */
void
sm_sys_mask(const struct sm_mask *m, struct sm_mask *before)
{
	enum { SET_BYTES = _NSIG / 8 }; /* the kernel's */

	_Static_assert(SET_BYTES <= sizeof(*m), "a set of signals fits");
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, m, before, SET_BYTES);
}

long
sm_sys_read(int fd, void *p, size_t n)
{
	return syscall(SYS_read, fd, p, n);
}

/* preadv(2) takes the offset in two words everywhere, pread64(2) does not. */
long
sm_sys_read_at(int fd, void *p, size_t n, uint64_t at)
{
	struct iovec v = { p, n };

	return syscall(SYS_preadv, fd, &v, 1L, (long)at, (long)(at >> 32));
}

long
sm_sys_write_at(int fd, const void *p, size_t n, uint64_t at)
{
	struct iovec v = { (void *)(uintptr_t)p, n };

	return syscall(SYS_pwritev, fd, &v, 1L, (long)at, (long)(at >> 32));
}

int
sm_sys_nameless(int folder)
{
	return openat(folder, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR);
}

int
sm_sys_allocate(int fd, uint64_t at, uint64_t n)
{
	return fallocate(fd, 0, (off_t)at, (off_t)n) ? errno : 0;
}

void
sm_sys_deallocate(int fd, uint64_t at, uint64_t n)
{
	(void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n);
}

static int
membarrier(int what)
{
	return syscall(SYS_membarrier, what, 0) ? errno : 0;
}

int
sm_sys_barrier(void)
{
	if (membarrier(MEMBARRIER_EXPEDITED) == 0)
		return 0;
	if (membarrier(MEMBARRIER_REGISTER) == 0 && membarrier(MEMBARRIER_EXPEDITED) == 0)
		return 0;
	return membarrier(MEMBARRIER_GLOBAL) ? ENOTSUP : 0;
}
