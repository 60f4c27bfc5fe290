#include "os/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { OURS_MOST = 8, LIST_BYTES = 2048, NUMBER_BYTES = 12, STAT_BYTES = 256 };

static _Atomic int ours[OURS_MOST];
static int folder = -1; /* of this process's threads */

/* What the kernel fills a folder's list with: getdents64(2). */
struct entry {
	uint64_t ino;
	int64_t off;
	uint16_t bytes;
	uint8_t type;
	char name[];
};

int
sm_os_self(void)
{
	return (int)syscall(SYS_gettid);
}

void
sm_os_ours(bool is)
{
	int me = sm_os_self(), from = is ? 0 : me, to = is ? me : 0;

	for (int i = 0; i < OURS_MOST; i++) {
		int seen = from;

		if (atomic_compare_exchange_strong(&ours[i], &seen, to))
			return;
	}
}

void
sm_os_ours_forget(void)
{
	for (int i = 0; i < OURS_MOST; i++)
		atomic_store(&ours[i], 0);
}

static bool
is_ours(int tid)
{
	for (int i = 0; i < OURS_MOST; i++)
		if (atomic_load(&ours[i]) == tid)
			return true;
	return false;
}

/* ------------------------------------------------------------------- all */

static int
number(const char *s)
{
	int n = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		n = n * 10 + (*s - '0');
	return *s ? 0 : n;
}

static void
each_of(const char *list, size_t n, void (*each)(int tid, void *arg), void *arg)
{
	int me = sm_os_self();

	for (size_t at = 0; at < n;) {
		const struct entry *d = (const struct entry *)(const void *)(list + at);
		int tid = number(d->name);

		if (tid && tid != me && !is_ours(tid))
			each(tid, arg);
		at += d->bytes;
	}
}

int
sm_os_threads_begin(void)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/task",
		O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	if (fd < 0)
		return errno;
	folder = sm_os_raised(fd);
	sm_host_keep(folder);
	return 0;
}

void
sm_os_threads_end(void)
{
	if (folder < 0)
		return;
	sm_host_let_go(folder);
	(void)syscall(SYS_close, folder);
	folder = -1;
}

int
sm_os_threads(void (*each)(int tid, void *arg), void *arg)
{
	_Alignas(8) char list[LIST_BYTES];
	long n = syscall(SYS_lseek, folder, 0L, SEEK_SET);

	while (n >= 0 && (n = syscall(SYS_getdents64, folder, list, sizeof(list))) > 0)
		each_of(list, (size_t)n, each, arg);
	return n < 0 ? errno : 0;
}

static void
task_path(char *to, int tid)
{
	static const char head[] = "/proc/self/task/", tail[] = "/stat";
	char digits[NUMBER_BYTES];
	size_t at = sizeof(digits), n;

	do
		digits[--at] = (char)('0' + tid % 10);
	while ((tid /= 10) > 0);
	n = sizeof(digits) - at;
	memcpy(to, head, sizeof(head) - 1);
	memcpy(to + sizeof(head) - 1, digits + at, n);
	memcpy(to + sizeof(head) - 1 + n, tail, sizeof(tail));
}

/* The state follows the name, in which there may be any character. */
bool
sm_os_is_dead(int tid)
{
	char path[64], stat[STAT_BYTES];
	long n;
	int fd;

	task_path(path, tid);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return errno == ENOENT;
	n = syscall(SYS_read, fd, stat, sizeof(stat));
	(void)syscall(SYS_close, fd);
	if (n < 0)
		return errno == ESRCH;
	for (; n > 2; n--)
		if (stat[n - 3] == ')')
			return stat[n - 1] == 'Z' || stat[n - 1] == 'X';
	return false;
}

int
sm_os_signal(int tid, int signal)
{
	return syscall(SYS_tgkill, syscall(SYS_getpid), tid, signal) ? errno : 0;
}

/* ------------------------------------------------------------------ words */

void
sm_os_sleep(_Atomic uint32_t *word, uint32_t seen)
{
	(void)syscall(SYS_futex, word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, seen, NULL, NULL, 0);
}

void
sm_os_wake(_Atomic uint32_t *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
}

/* ----------------------------------------------------------------- itself */

void
sm_os_kill_self(void)
{
	(void)syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
}

bool
sm_os_kill_soon(unsigned ms)
{
	struct sigevent kill = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
	const long t[] = { 0, 0, ms / 1000, (long)(ms % 1000) * 1000000 }; /* as the kernel has it */
	int timer;

	return syscall(SYS_timer_create, CLOCK_MONOTONIC, &kill, &timer) == 0 &&
		syscall(SYS_timer_settime, timer, 0, t, NULL) == 0;
}

void
sm_os_name(char *to, size_t bytes)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/comm", O_RDONLY | O_CLOEXEC, 0);
	long n = fd < 0 ? 0 : syscall(SYS_read, fd, to, bytes - 1);

	if (fd >= 0)
		(void)syscall(SYS_close, fd);
	to[n > 0 ? n : 0] = '\0';
	to[strcspn(to, "\n")] = '\0';
}
