#include "os/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef O_PATH
#define O_PATH O_RDONLY
#endif

enum { DESCRIPTORS_FROM = 900 }; /* out of the way of a program that counts on low numbers */
enum { NAMES_TRIED = 100, SCRATCH_BYTES = 4096 };

int
sm_os_raised(int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, DESCRIPTORS_FROM);

	if (high < 0)
		return fd;
	close(fd);
	return high;
}

int
sm_os_folder(const char *path, int *fd)
{
	int state, e = 0;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	*fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0)
		e = errno;
	else
		*fd = sm_os_raised(*fd);
	pthread_setcancelstate(state, NULL);
	return e;
}

/* Where no file can be made without a name: it has one for a moment, which nobody can guess. */
static int
make_and_unlink(int folder)
{
	char name[40];
	uint64_t word;
	int fd = -1, e = EEXIST;

	for (unsigned n = 0; fd < 0 && e == EEXIST && n < NAMES_TRIED; n++) {
		if (sm_sys_random(&word, sizeof(word)))
			return -1;
		snprintf(name, sizeof(name), ".secmalloc-%016llx", (unsigned long long)word);
		fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			S_IRUSR | S_IWUSR);
		e = errno;
	}
	if (fd < 0 || unlinkat(folder, name, 0) == 0)
		return fd;
	e = errno;
	close(fd);
	errno = e;
	return -1;
}

int
sm_os_nameless(int folder, int *fd)
{
	int state, e = 0;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	*fd = sm_sys_nameless(folder);
	if (*fd < 0)
		*fd = make_and_unlink(folder);
	if (*fd < 0)
		e = errno;
	else
		*fd = sm_os_raised(*fd);
	pthread_setcancelstate(state, NULL);
	return e;
}

void
sm_os_file_close(int fd)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	if (fd >= 0)
		close(fd);
	pthread_setcancelstate(state, NULL);
}

/* ------------------------------------------------------------------- bytes */

/* A call may be interrupted, or do a part; at the end of the file a read gets nothing. */
int
sm_os_file_get(int fd, uint64_t at, void *p, size_t n)
{
	unsigned char *to = p;

	while (n > 0) {
		long got = sm_sys_read_at(fd, to, n, at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? errno : ENODATA;
		to += got;
		at += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

int
sm_os_file_put(int fd, uint64_t at, const void *p, size_t n)
{
	const unsigned char *from = p;

	while (n > 0) {
		long put = sm_sys_write_at(fd, from, n, at);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? errno : ENOSPC;
		from += put;
		at += (uint64_t)put;
		n -= (size_t)put;
	}
	return 0;
}

int
sm_os_file_copy(int from, int to, uint64_t at, size_t n)
{
	unsigned char scratch[SCRATCH_BYTES];
	size_t part;
	int e = 0;

	for (; e == 0 && n > 0; n -= part, at += part) {
		part = sm_min_size(n, sizeof(scratch));
		e = sm_os_file_get(from, at, scratch, part);
		if (e == 0)
			e = sm_os_file_put(to, at, scratch, part);
	}
	return e;
}

/* ------------------------------------------------------------------- space */

static int
put_zeros(int fd, uint64_t at, uint64_t n)
{
	static const unsigned char zeros[SCRATCH_BYTES];
	int e = 0;

	for (uint64_t end = at + n; e == 0 && at < end; at += sizeof(zeros))
		e = sm_os_file_put(fd, at, zeros, sm_min_size(end - at, sizeof(zeros)));
	return e;
}

/* Beyond RLIMIT_FSIZE the kernel would not only refuse, but send SIGXFSZ. */
static int
allocate(int fd, uint64_t at, uint64_t n)
{
	struct rlimit r;
	int e;

	if (getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY &&
		(at + n < at || at + n > r.rlim_cur))
		return EFBIG;
	do
		e = sm_sys_allocate(fd, at, n);
	while (e == EINTR);
	if (e == ENOTSUP || e == EOPNOTSUPP || e == ENOSYS || e == EPERM)
		e = put_zeros(fd, at, n);
	return e;
}

int
sm_os_file_extend(int fd, uint64_t at, uint64_t n)
{
	int state, e;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	e = allocate(fd, at, n);
	if (e)
		sm_sys_deallocate(fd, at, n);
	pthread_setcancelstate(state, NULL);
	return e;
}

void
sm_os_file_shrink(int fd, uint64_t at, uint64_t n)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	sm_sys_deallocate(fd, at, n);
	pthread_setcancelstate(state, NULL);
}
