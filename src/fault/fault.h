/*
 * fault.h - touching a sealed page opens it; bounds how many stay open. Floor 5: transparent mode.
 *
 * What the program sees, U, are the heap's pools, registered with userfaultfd(2). A page of it that
 * is closed is not there: its ciphertext lies in X, ordinary memory or a file. To open it, X is
 * decrypted into one of a few locked frames, P, and the frame is moved to U by UFFDIO_MOVE; to
 * close it, it is moved back, encrypted to X and wiped. The tag vouches for address and epoch too. A
 * page that was never touched is zero, and comes with those of its run that are next while frames
 * are plenty; it takes a place in P, to which the kernel adds memory no sooner than it is needed.
 * Where the kernel moves no pages, an open page is a second mapping of its frame.
 */
#ifndef SM_FAULT_H
#define SM_FAULT_H

#include "os/os.h"

/** Who serves a fault: secmalloc_stats.mode. */
enum sm_mode {
	SM_MODE_NONE = 0,
	SM_MODE_THREAD = 1, /* a thread of ours: system calls on closed pages work too */
	SM_MODE_SIGNAL = 2, /* SIGBUS in the thread that touches; system calls need a hold */
	SM_MODE_SLOTS = 3   /* the same with SIGSEGV, without userfaultfd */
};

/**
 * sm_fault_start - probe the kernel and begin to serve; before the heap has any pool
 *
 * Returns: 0; ENOTSUP: no mode works here; ENOMEM, EPERM: frames cannot be locked; EAGAIN: no
 * thread; open(2)'s: store_dir.
 */
int sm_fault_start(void);

/** sm_fault_stop - all is wiped; the heap has no pool any more */
void sm_fault_stop(void);

/** sm_fault_orphan - in a forked child: nothing of it is here */
void sm_fault_orphan(void);

/** sm_fault_mode - enum sm_mode */
unsigned sm_fault_mode(void);

/** sm_fault_clear_bytes - on pages that are open now */
uint64_t sm_fault_clear_bytes(void);

/** sm_fault_clear_bytes_most - the most that it has been since start */
uint64_t sm_fault_clear_bytes_most(void);

/** sm_fault_served, sm_fault_closed - faults, and pages that were closed or dropped, since start */
uint64_t sm_fault_served(void);
uint64_t sm_fault_closed(void);

/** sm_fault_is_apart - the thread that serves is not one of the C library's */
bool sm_fault_is_apart(void);

/**
 * sm_fault_call - make a system call in that thread, as it has credentials of its own
 *
 * What the arguments of setgroups and capset point to may be closed; no other's may be.
 *
 * Returns: 0, also where there is no such thread; else what the call failed with; EBADF: somebody
 *          closed the descriptor it listens to. Keeps errno.
 */
int sm_fault_call(long number, const long args[6]);

/** sm_fault_come, sm_fault_go - a pool is there, not touched yet; it is about to go. ENOMEM. */
int sm_fault_come(unsigned char *base, size_t bytes);
void sm_fault_go(unsigned char *base, size_t bytes);

/** sm_fault_drop - what lies in these pages is not kept: zeros from now on */
void sm_fault_drop(unsigned char *base, size_t bytes);

/** sm_fault_forget - the program gives back what lies here, as by madvise(2): all
 * of it is zero. False: not in a pool of ours. */
bool sm_fault_forget(void *at, size_t bytes);

/** sm_fault_meets - some of these bytes are on pages of a pool of ours, or of frames */
bool sm_fault_meets(const void *at, size_t bytes);

/** sm_fault_shut, sm_fault_reach - what lies in these pages is not kept, and nobody may touch them, as
 * in a pool that has just come; or again, and they are zero. ENOMEM: the kernel refused. */
void sm_fault_shut(unsigned char *base, size_t bytes);
int sm_fault_reach(unsigned char *base, size_t bytes);

/** sm_fault_reseal - close what has been open for so many ms; returns ms until the next is due */
unsigned sm_fault_reseal(unsigned ms);

/** sm_fault_purge - wipe what is clear; async-signal-safe, once the key is gone */
void sm_fault_purge(void);

/** sm_fault_close - close the pages that lie wholly inside, the others next. As sm_key_lend; EIO:
 * store_dir could not be written, and some stay open. */
int sm_fault_close(void *ptr, size_t n);

/** sm_fault_open - open the pages. EBADMSG: X was tampered with. ENOMEM: too many are held. EIO:
 * store_dir could not be read. */
int sm_fault_open(void *ptr, size_t n);

/** sm_fault_hold - open them, and they stay so until as many releases. As sm_fault_open. */
int sm_fault_hold(void *ptr, size_t n);
void sm_fault_release(void *ptr, size_t n);

/**
 * sm_fault_carry - pages sealed with another key than the one in force are sealed with that
 *
 * Returns: as sm_key_lend; EBADMSG: X was tampered with; ENOMEM: too many are held. What is carried
 * stays so.
 */
int sm_fault_carry(void);

/**
 * sm_fault_lock, sm_fault_unlock - every page is closed, and whoever touches one waits
 *
 * Around this the key goes and comes back. Returns: as sm_key_lend; EBUSY: some page is held, or the
 * kernel has it pinned; the others are closed, and open when they are touched.
 */
int sm_fault_lock(void);
void sm_fault_unlock(void);

/** sm_fault_halt, sm_fault_unhalt - the same, held pages too; and they are open again. The second
 * returns as sm_fault_open. */
int sm_fault_halt(void);
int sm_fault_unhalt(void);

/**
 * sm_fault_pause, sm_fault_resume - around a fork, in the thread that forks and keeps all else still
 *
 * In between all pages are in the store, sealed with the key in force, where a child has them, and
 * whoever else touches one waits. Returns: as sm_key_lend; ENOMEM: too many pages stay clear.
 */
int sm_fault_pause(void);
void sm_fault_resume(void);

/**
 * sm_fault_revive, sm_fault_again, sm_fault_serve - in the child of such a fork
 *
 * In this order: a descriptor and frames of its own; each pool, whose pages are gone; somebody who
 * serves. Returns: 0; ENOMEM, EPERM, ENOTSUP, EAGAIN: then sm_fault_undo follows.
 */
int sm_fault_revive(void);
int sm_fault_again(unsigned char *base, size_t bytes);
int sm_fault_serve(void);

/** sm_fault_undo - in the child: nothing of it is here */
void sm_fault_undo(void);

/** sm_fault_watches - this address is in a pool of ours */
bool sm_fault_watches(const void *at);

/** sm_fault_close_all - every page that is not held. As sm_fault_close. */
int sm_fault_close_all(void);

/* ------------------------------------------- a thread that libc does not know */

/*
 * Where even the C library's data lies in U, one of its threads would wait for itself before it
 * serves anything.  This one has a stack and variables of its own, starts with no signal, and may
 * use nothing that allocates, prints or knows of a locale.  It goes when the program does.
 */
struct sm_raw {
	void *reserved;
	size_t reserved_bytes;
	struct sm_area area; /* above a guard: the stack, and the thread's variables */
	_Atomic uint32_t tid; /* the kernel makes it 0 once the stack is left for good */
};

/** sm_raw_here - there are such threads on this machine */
bool sm_raw_here(void);
/** sm_raw_start - run this there, if they are here. As sm_os_obtain; EAGAIN. */
int sm_raw_start(struct sm_raw *r, int (*run)(void *));
/** sm_raw_join - wait until `run` has returned; give its stack back */
void sm_raw_join(struct sm_raw *r);
/** sm_raw_forget - in a forked child: it is not here, its stack goes */
void sm_raw_forget(struct sm_raw *r);

#endif
