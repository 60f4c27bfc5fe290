#include "base/base.h"

enum { DESCRIPTORS = sizeof(sm_host.descriptors) / sizeof(sm_host.descriptors[0]) };

struct sm_host sm_host;

static void
change(int from, int to)
{
	for (int i = 0; i < DESCRIPTORS; i++) {
		int seen = from;

		if (atomic_compare_exchange_strong(&sm_host.descriptors[i], &seen, to))
			return;
	}
}

void
sm_host_keep(int fd)
{
	change(0, fd + 1);
}

void
sm_host_let_go(int fd)
{
	change(fd + 1, 0);
}
