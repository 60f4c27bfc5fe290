#include "os/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* A page that another has mapped into the hole since splits it: the rest is covered still. */
static void
cover_hole(unsigned char *base, size_t bytes)
{
	size_t half = bytes / 2 & ~(sm_os_page_bytes() - 1);

	if (sm_sys_cover(base, bytes, MAP_FIXED_NOREPLACE) || half == 0)
		return;
	cover_hole(base, half);
	cover_hole(base + half, bytes - half);
}

void
sm_os_cover(void *base, size_t bytes, bool hole)
{
	if (hole)
		cover_hole(base, bytes);
	else
		(void)sm_sys_cover(base, bytes, MAP_FIXED);
}

int
sm_os_reclaim(const struct sm_area *a)
{
	if (sm_sys_cover(a->base, a->bytes, MAP_FIXED_NOREPLACE))
		return 0;
	return sm_fail(ENOMEM, "another mapping was put where %zu bytes of the parent's were: let "
			       "secmalloc's fork handler run first", a->bytes);
}

/* A child inherits no lock. */
int
sm_os_adopt(const struct sm_area *a)
{
	int e = 0;

	if (!(a->granted & SECMALLOC_HIDDEN) && a->granted & SECMALLOC_LOCKED)
		e = sm_sys_lock(a->base, a->bytes);
	if (e)
		return sm_os_pin_refused(e, a->bytes);
	if (a->granted & SECMALLOC_LOCKED)
		sm_count_add(&sm_count.locked_bytes, a->bytes);
	return 0;
}

/* In the child base may have been moved away, and its pages be there, absent, or yet another's:
 * so only what the parent had not protected from fork yet is unmapped, and the place is covered. */
void
sm_os_orphan(void)
{
	size_t bytes = atomic_load(&sm_pending.bytes);
	void *base = atomic_load(&sm_pending.base), *at = atomic_load(&sm_pending.at);

	if (base && !at)
		munmap(base, bytes);
	if (at)
		cover_hole(at, bytes);
	sm_sys_close_strays();
	sm_os_ours_forget();
	atomic_store(&sm_pending.base, NULL);
	atomic_store(&sm_pending.at, NULL);
}
