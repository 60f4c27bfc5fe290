#include "os/inside.h"

#include <string.h>

/* Also those that sigfillset(3) leaves out: by one of them a thread is cancelled. */
void
sm_os_mask(struct sm_mask *m)
{
	struct sm_mask all;

	memset(&all, 0xff, sizeof(all));
	sm_sys_mask(&all, m);
}

void
sm_os_unmask(const struct sm_mask *m)
{
	sm_sys_mask(m, NULL);
}
