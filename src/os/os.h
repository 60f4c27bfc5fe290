/*
 * os.h - pages: get, guard, lock, hide, give back. Floor 1.
 *
 * Says truthfully what it could not do: protections that hold come back as SECMALLOC_ bits.
 * Every call that can fail returns 0 or an errno value, with sm_error_text() set; but not
 * sm_os_mark, sm_os_pin and sm_os_unpin, whose callers have another way or say it themselves.
 */
#ifndef SM_OS_H
#define SM_OS_H

#include "base/base.h"

/** Pages that belong to us: whole pages, always. */
struct sm_area {
	unsigned char *base; /* NULL: none */
	size_t bytes;	     /* multiple of the page */
	unsigned granted;    /* SECMALLOC_ bits that hold for every page */
	bool absent;	     /* a forked child has a hole there, not zero pages */
	bool elastic;	     /* as wished: LOCKED in granted holds for pinned pages */
	bool veiled;	     /* as wished: LOCKED in granted is somebody else's care */
};

/** What an area must have, and what not to try. */
struct sm_wish {
	unsigned require; /* without these: an error, and nothing is left behind */
	unsigned without;
	bool inherit; /* a child gets the pages, and reads what was there: sm_os_adopt */
	bool mark; /* a child must find the pages there, and zero: FORKSAFE by no other way */
	bool later; /* anonymous, and locked, each page as it comes; nobody has touched one */
	bool shared; /* pages that can be mapped a second time; never in a child */
	bool veiled; /* anonymous, untouched, and locked by whoever serves its faults */
	bool elastic; /* anonymous, and locked by nothing but sm_os_pin; LOCKED is not in without */
};

/** sm_os_page_bytes - the page size, a power of two */
size_t sm_os_page_bytes(void);

/** sm_os_now_ms - a monotonic clock */
uint64_t sm_os_now_ms(void);

/** sm_os_lock_limit - bytes this process may lock in all; SIZE_MAX: no limit */
size_t sm_os_lock_limit(void);

/** sm_os_address_limit - bytes of address space this process may use in all; SIZE_MAX: no limit */
size_t sm_os_address_limit(void);

/** sm_os_memory_bytes - bytes of memory this machine has; SIZE_MAX: not known */
size_t sm_os_memory_bytes(void);

/** sm_os_map_limit - mappings this process may have (vm.max_map_count); SIZE_MAX: no limit known */
size_t sm_os_map_limit(void);

/** sm_os_random - n bytes from the kernel's generator. EAGAIN: it is not seeded yet. */
int sm_os_random(void *p, size_t n);

/** sm_os_undumpable - make the process undumpable, which refuses ptrace by the same user */
int sm_os_undumpable(void);

/**
 * sm_os_reserve - address space without access, memory or lock charge, left out of dumps
 *
 * Returns: 0; ENOMEM: no such room in the address space (RLIMIT_AS, or MCL_FUTURE in force).
 */
int sm_os_reserve(size_t bytes, void **out);

/** sm_os_unreserve - give a reservation back, with all that was placed in it */
void sm_os_unreserve(void *base, size_t bytes);

/** sm_os_commit - make a part of a reservation plain read-write memory: for records, no secrets */
int sm_os_commit(void *base, size_t bytes);

/** sm_os_plain - both at once: plain memory of its own. ENOMEM. sm_os_unreserve gives it back. */
int sm_os_plain(size_t bytes, void **out);

/** sm_os_freeze - make pages read-only */
int sm_os_freeze(void *base, size_t bytes);

/**
 * sm_os_obtain - pages for secrets, placed inside a reservation: hidden, else anonymous and locked
 *
 * On success every page is mapped read-write and zero, and touched unless elastic; a->granted
 * holds LOCKED, NODUMP, FORKSAFE and HIDDEN as they were granted, and GUARDED unless unwished
 * (the caller guards).
 *
 * Args:    at  page in a reservation of ours, nothing placed there
 * Returns: 0; EPERM: locking not allowed; ENOMEM: over the limit, or no memory; ENOTSUP: another
 *          required protection refused.
 */
int sm_os_obtain(void *at, size_t bytes, const struct sm_wish *w, struct sm_area *a);

/** sm_os_release - give pages back and reserve their addresses again; the caller has wiped them */
void sm_os_release(struct sm_area *a);

/** sm_os_guard - take all access to pages away. ENOMEM: vm.max_map_count. */
int sm_os_guard(void *base, size_t bytes);

/** sm_os_access - allow access to pages again. ENOMEM: vm.max_map_count. */
int sm_os_access(void *base, size_t bytes, enum secmalloc_access access);

/** sm_os_expose - allow access to pages; false, without a word, where it fails; async-signal-safe */
bool sm_os_expose(void *base, size_t bytes);

/** sm_os_blank - zero bytes as far as they can be accessed, or where /dev/zero is not there make
 * them random; async-signal-safe */
void sm_os_blank(void *p, size_t n);

/** sm_os_barrier - what each other thread stored before, and loads after, is so for all of them */
void sm_os_barrier(void);

/**
 * sm_os_mark - take all access to pages away by markers inside their mapping, and drop what they
 * hold; not of locked pages. ENOTSUP: not this kernel.
 */
int sm_os_mark(void *base, size_t bytes);

/** sm_os_unmark - undo; the pages are zero. */
int sm_os_unmark(void *base, size_t bytes);

/**
 * sm_os_pin - lock pages of an elastic area, and touch them
 *
 * Returns: 0; an errno value: none of them is locked, unless `stuck` says that they all are, since
 *          the kernel let neither finish nor undo it.
 */
int sm_os_pin(void *base, size_t bytes, bool *stuck);

/** sm_os_pin_refused - note why sm_os_pin failed with e. Returns: ENOMEM. */
int sm_os_pin_refused(int e, size_t bytes);

/** sm_os_unpin - unlock pages. An errno value: they are all still locked. */
int sm_os_unpin(void *base, size_t bytes);

/** sm_os_mask, sm_os_unmask - no signal comes to this thread in between: its handler might touch a
 * page that only opens once a lock is free which this thread has; nor is it cancelled */
struct sm_mask {
	unsigned long bits[16];
};
void sm_os_mask(struct sm_mask *m);
void sm_os_unmask(const struct sm_mask *m);

/*
 * The threads of this process. Linux only: elsewhere sm_os_threads answers ENOTSUP.
 */

/** sm_os_self - this thread's number */
int sm_os_self(void);

/** sm_os_ours - this thread is the library's own from now on, or no more */
void sm_os_ours(bool is);

/**
 * sm_os_threads_begin, sm_os_threads_end - meanwhile the list of threads is open, so that they are
 * found though no descriptor is left. Returns: 0; what open(2) says.
 */
int sm_os_threads_begin(void);
void sm_os_threads_end(void);

/** sm_os_threads - each other one that is not, without allocating. open(2)'s errno value. */
int sm_os_threads(void (*each)(int tid, void *arg), void *arg);

/** sm_os_is_dead - that one has ended, though it may still be listed */
bool sm_os_is_dead(int tid);

/** sm_os_signal - to one of them. ESRCH, EAGAIN. */
int sm_os_signal(int tid, int signal);

/** sm_os_sleep, sm_os_wake - while a word is what was seen, or a little shorter; all who do */
void sm_os_sleep(_Atomic uint32_t *word, uint32_t seen);
void sm_os_wake(_Atomic uint32_t *word);

/** sm_os_kill_self - the whole process, at once */
void sm_os_kill_self(void);

/** sm_os_kill_soon - the same, but the kernel does it in so many ms. False: it will not. */
bool sm_os_kill_soon(unsigned ms);

/** sm_os_name - the program's, as ps(1) shows it */
void sm_os_name(char *to, size_t bytes);

/** sm_os_read - read(2), once, begun anew when a signal interrupts it. Its errno value. */
int sm_os_read(int fd, void *p, size_t n, size_t *got);

/**
 * sm_os_ask - a line typed at the terminal without echo; without a terminal, of standard input
 *
 * Signals that stop or end a process take their course after the terminal was put back. The line
 * goes byte by byte to p, which has room for one more than `most`, and a zero byte follows it.
 *
 * Returns: 0; EMSGSIZE: longer than `most`, the rest was read and dropped; ENODATA: the end came
 *          before the first byte; EINTR: a signal; else read(2)'s.
 */
int sm_os_ask(const char *prompt, unsigned char *p, size_t most, size_t *n);

/*
 * Files that have no name. Their descriptors are closed by exec and their numbers are high. These
 * calls give errno values without a text: their caller knows what the file is for.
 */

/** sm_os_raised - the same file, out of the way of a program that counts on low numbers; as it was,
 * where that cannot be. It is closed by exec before and after. */
int sm_os_raised(int fd);

/** sm_os_folder - open a folder, to make files in. open(2)'s errno value. */
int sm_os_folder(const char *path, int *fd);

/** sm_os_nameless - a new file there that only we can open; it goes when it is closed. As open(2).
 */
int sm_os_nameless(int folder, int *fd);

/** sm_os_file_close - -1: nothing */
void sm_os_file_close(int fd);

/**
 * sm_os_file_extend - have room on the disk for n bytes, `at` bytes from the beginning
 *
 * Returns: 0; ENOSPC, EDQUOT, EFBIG (RLIMIT_FSIZE) and others: the file holds what it held.
 */
int sm_os_file_extend(int fd, uint64_t at, uint64_t n);

/** sm_os_file_shrink - give the room back, where the file system can */
void sm_os_file_shrink(int fd, uint64_t at, uint64_t n);

/** sm_os_file_get, sm_os_file_put - all n bytes; async-signal-safe. read(2)'s, write(2)'s errno. */
int sm_os_file_get(int fd, uint64_t at, void *p, size_t n);
int sm_os_file_put(int fd, uint64_t at, const void *p, size_t n);

/** sm_os_file_copy - n bytes from one file to another, to the same place. As get and put. */
int sm_os_file_copy(int from, int to, uint64_t at, size_t n);

/** sm_os_adopt - in a forked child: pages obtained with `inherit` are locked here too. ENOMEM. */
int sm_os_adopt(const struct sm_area *a);

/** sm_os_reclaim - in a forked child: cover a hole, in which nobody has put pages yet. ENOMEM. */
int sm_os_reclaim(const struct sm_area *a);

/** sm_os_orphan - in a forked child: undo what another thread of the parent was obtaining */
void sm_os_orphan(void);

/**
 * sm_os_cover - in a forked child: leave no hole and no page where the parent had pages
 *
 * Args: hole  the pages were not inherited (MADV_DONTFORK): what has been mapped there since is
 *             not ours and stays.
 */
void sm_os_cover(void *base, size_t bytes, bool hole);

#endif
