/* os/inside.h - what differs from one kernel to another: one file each, picked by configure */
#ifndef SM_OS_INSIDE_H
#define SM_OS_INSIDE_H

#include "os/os.h"

#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0 /* without it the address is a hint, checked afterwards */
#endif

/** What is being obtained just now, for a child that is forked in the middle of it. Only one thread
 * at a time obtains: it holds the lock of the room that asks. */
struct sm_pending {
	void *_Atomic base; /* where the pages are made: not NULL, unmap bytes there */
	void *_Atomic at;   /* where they are going: cover bytes there */
	_Atomic size_t bytes;
};
extern struct sm_pending sm_pending;

/** sm_sys_cover - address space without access over these pages; false: not there, see `how` */
bool sm_sys_cover(void *base, size_t bytes, int how);
/** sm_sys_hidden - over a reservation, pages that no other process can read; ENOTSUP */
int sm_sys_hidden(void *at, size_t bytes);
/** sm_sys_close_strays - in a forked child: descriptors that the parent had just for a moment */
void sm_sys_close_strays(void);
/** sm_sys_hibernates - hidden pages would keep this machine from hibernating */
bool sm_sys_hibernates(void);
/** sm_sys_map_limit - mappings a process may have; SIZE_MAX: no limit known */
size_t sm_sys_map_limit(void);
int sm_sys_nodump(void *p, size_t n);
/** sm_sys_lock - lock pages; not by a mlock(3) that a sanitizer has replaced by nothing */
int sm_sys_lock(const void *p, size_t n);
/** sm_sys_lock_later - the same for each page when it comes; ENOTSUP: not this kernel */
int sm_sys_lock_later(const void *p, size_t n);
int sm_sys_unlock(const void *p, size_t n);
/** sm_sys_mark, sm_sys_unmark - guard markers in an unlocked anonymous mapping; ENOTSUP */
int sm_sys_mark(void *p, size_t n);
int sm_sys_unmark(void *p, size_t n);
int sm_sys_wipe_on_fork(void *p, size_t n);
int sm_sys_absent_in_fork(void *p, size_t n);
/** sm_sys_touch - fault each page in, by a system call, so that a failure is no signal */
int sm_sys_touch(void *p, size_t n);
/** sm_sys_move - move the pages of an area into a reservation */
int sm_sys_move(void *from, size_t n, void *to);
/** sm_sys_may_lock - so many bytes may be locked, as far as limits go */
bool sm_sys_may_lock(size_t n);
int sm_sys_random(void *p, size_t n);
/** sm_sys_read - as read(2), but not one that a sanitizer has replaced */
long sm_sys_read(int fd, void *p, size_t n);
/** sm_sys_read_at, sm_sys_write_at - as pread(2), pwrite(2), but no cancellation points */
long sm_sys_read_at(int fd, void *p, size_t n, uint64_t at);
long sm_sys_write_at(int fd, const void *p, size_t n, uint64_t at);
/** sm_sys_nameless - a file in a folder that never had a name, or -1 and errno */
int sm_sys_nameless(int folder);
/** sm_sys_allocate - room on the disk for bytes of a file; ENOTSUP and others */
int sm_sys_allocate(int fd, uint64_t at, uint64_t n);
/** sm_sys_deallocate - give it back, and what lies there is zero; best effort */
void sm_sys_deallocate(int fd, uint64_t at, uint64_t n);
/** sm_sys_barrier - a memory barrier in every thread of this process; ENOTSUP */
int sm_sys_barrier(void);
int sm_sys_undumpable(void);
/** sm_sys_mask - these signals are blocked for this thread, and no others; what was before, if asked */
void sm_sys_mask(const struct sm_mask *m, struct sm_mask *before);

/** sm_os_ours_forget - in a forked child: none of the library's threads is here */
void sm_os_ours_forget(void);

#endif
