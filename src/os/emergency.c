#include "os/inside.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const struct timespec DRAIN = { 0, 10000000 }; /* far longer than any store is on its way */

bool
sm_os_expose(void *base, size_t bytes)
{
	return mprotect(base, bytes, PROT_READ | PROT_WRITE) == 0;
}

/* The kernel stores, and answers EFAULT where this thread would die of a signal. */
void
sm_os_blank(void *p, size_t n)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	ssize_t got = 1;

	for (size_t done = 0; fd >= 0 && done < n && got > 0; done += (size_t)got)
		got = sm_sys_read(fd, (unsigned char *)p + done, n - done);
	if (fd >= 0)
		close(fd);
	else
		(void)sm_sys_random(p, n);
}

void
sm_os_barrier(void)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (sm_sys_barrier())
		nanosleep(&DRAIN, NULL);
	atomic_thread_fence(memory_order_seq_cst);
}
