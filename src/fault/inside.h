/* fault/inside.h - spans, frames, and what the kernel does for them */
#ifndef SM_FAULT_INSIDE_H
#define SM_FAULT_INSIDE_H

#include "cipher/cipher.h"
#include "fault/fault.h"
#include "key/key.h"
#include "os/os.h"

enum sm_page_state {
	SM_PAGE_SHUT = 0, /* nobody may touch it: the heap guards it, or keeps it for later */
	SM_PAGE_WALLED,	  /* the same, and the mapping may be without access, too */
	SM_PAGE_VIRGIN,	  /* never touched: zeros */
	SM_PAGE_SEALED,	  /* in X */
	SM_PAGE_CLEAR,	  /* in U */
	SM_PAGE_LOST	  /* X was tampered with */
};

/** A page of U. Under the engine's lock. */
struct sm_page {
	uint8_t state;
	uint8_t ahead; /* so many pages behind it are of the same run, at least */
	uint16_t holds;
	uint32_t frame; /* clear only: whose place in P is empty meanwhile */
	uint32_t epoch; /* sealed only, as the next three */
	uint64_t nonce;
	unsigned char tag[16], tag_rest[16];
};

/** sm_page_barred - nobody may touch it */
static inline bool
sm_page_barred(const struct sm_page *p)
{
	return p->state == SM_PAGE_SHUT || p->state == SM_PAGE_WALLED;
}

/** A pool: U and what belongs to it, page by page. */
struct sm_span {
	unsigned char *u, *x; /* x NULL: in the store's file, from `at` on */
	uint64_t at;
	size_t pages;
	struct sm_page *page;
	bool locked; /* U as a whole, as far as pages are there */
};

/** sm_span_let_go - nothing of what belongs to U is left, U is */
void sm_span_let_go(struct sm_span *s);

/* ------------------------------------------------------------------ kernel */

/** sm_uffd_open - a descriptor that serves U in this mode, or -1. The best there is comes first. */
int sm_uffd_open(enum sm_mode mode);
/** sm_uffd_keep, sm_uffd_let_go - what one is made from stays open, if this user may open it: for a
 * child that is forked once the program has become another user */
void sm_uffd_keep(void);
void sm_uffd_let_go(void);
/** sm_uffd_watch - a fault in these pages, which nobody has touched, is told from now on. An errno
 * value. */
int sm_uffd_watch(int fd, void *base, size_t bytes);
void sm_uffd_unwatch(int fd, void *base, size_t bytes);
/** sm_uffd_move - one page; who waits for it is not woken. EEXIST, ENOENT, EBUSY, ... What the program
 * has unlocked is locked again. */
int sm_uffd_move(int fd, void *to, void *from);
/** sm_uffd_move_some - pages side by side, and wake who waits for one; so many were moved, from the
 * first on */
size_t sm_uffd_move_some(int fd, void *to, void *from, size_t pages);
/** sm_uffd_place - one page, and wake who waits for it; also where it is there already */
int sm_uffd_place(int fd, void *to, void *from);
/** sm_uffd_fill - a page of zeros where there is none; wakes as well */
int sm_uffd_fill(int fd, void *to);
/** sm_uffd_empty - what lies there goes, even where it is locked */
void sm_uffd_empty(void *at, size_t bytes);
/** sm_uffd_bring - pages of zeros of their own where there are none; `done` of them came; wakes */
int sm_uffd_bring(int fd, void *at, size_t pages, size_t *done);
/** sm_uffd_wake - let who waits for this page try again */
void sm_uffd_wake(int fd, void *page);
/** sm_uffd_wake_all - the same for all who wait in these */
void sm_uffd_wake_all(int fd, void *base, size_t bytes);
/** sm_uffd_self - this thread's number; sm_uffd_teller - of whom sm_uffd_next has told last */
int sm_uffd_self(void);
int sm_uffd_teller(void);
/** sm_uffd_is_ours - that one has this memory for its own; false: it looks in from outside */
bool sm_uffd_is_ours(void);
/** sm_uffd_next - wait for a fault, for so many ms if not 0; its address, or NULL: it took too long,
 * or the descriptor `bell` can be read */
void *sm_uffd_next(int fd, int bell, unsigned ms, bool *rings);

/** sm_uffd_lock - lock pages as they come; undo. An errno value. */
int sm_uffd_lock(void *base, size_t bytes);
void sm_uffd_unlock(void *base, size_t bytes);

/** What the kernel does for a mode. By userfaultfd: as the calls above; by slots: see slots.c. */
struct sm_mover {
	int (*watch)(int fd, void *base, size_t bytes);
	void (*unwatch)(int fd, void *base, size_t bytes);
	int (*put)(int fd, void *u, void *frame);
	int (*take)(int fd, void *frame, void *u);
	int (*zero)(int fd, void *at);
	void (*empty)(void *at, size_t bytes);
	int (*bring)(int fd, void *at, size_t pages, size_t *done); /* shared: never called */
	size_t (*some)(int fd, void *to, void *from, size_t pages);
	void (*wake)(int fd, void *page);
	int (*lock)(void *base, size_t bytes);
	void (*unlock)(void *base, size_t bytes);
	bool shared; /* an open page is in P too; a closed one of U is without access */
};
extern const struct sm_mover sm_uffd, sm_slots;
extern const struct sm_mover *sm_mover; /* the one in use */

/** sm_fault_reopen - pages that are held and closed open. As sm_fault_open. */
int sm_fault_reopen(void);

/* ------------------------------------------------------------------- store */

/*
 * X. In memory it is written directly; in a file by system calls and not through a mapping, so that
 * a disk that fails is an errno value and no signal, address space is used once, and no child has
 * its parent's X in reach. The file holds ciphertext only; tags lie in memory.
 */

/** sm_store_start - open store_dir, if there is one. open(2)'s errno value. */
int sm_store_start(void);
void sm_store_stop(void);

/** sm_store_take - room for the pages of a span that has no X. ENOMEM. Under heap's pool lock. */
int sm_store_take(struct sm_span *s);
/** sm_store_give - and back, when the engine has forgotten the span */
void sm_store_give(struct sm_span *s);

/** sm_store_get, sm_store_put - a page, from or to X. EIO: the disk. */
int sm_store_get(const struct sm_span *s, size_t i, void *page);
int sm_store_put(const struct sm_span *s, size_t i, const void *page);

/**
 * sm_store_before_fork - make a copy for a child, while nobody writes to X; nothing for memory
 *
 * Returns: 0; an errno value: the child cannot have X. Then sm_store_after_fork in the parent, and
 * in the child sm_store_inherit, or sm_store_stop.
 */
int sm_store_before_fork(void);
void sm_store_after_fork(void);
/** sm_store_inherit - the copy is X from now on. ENOMEM: there is none. */
int sm_store_inherit(void);

/* ------------------------------------------------------------------ engine */

enum {
	SM_SPANS_MOST = 1024,
	SM_FRAMES_LEAST = 32, /* one instruction may need several pages at once */
	SM_FRAMES_SPARE = 32  /* beyond clear_limit, for pages that the kernel has pinned */
};

struct sm_engine {
	_Atomic uint32_t next, serving; /* the lock: a ticket each, as an unfair one starves */
	_Atomic bool shut;		/* while all is locked nobody opens a page */
	_Atomic int forker; /* a thread that forks: for others nothing opens; 0: none. Under the lock. */
	_Atomic bool put_off; /* somebody waits for that */
	_Atomic uint64_t served, clear; /* faults; pages */
	_Atomic uint64_t clear_most; /* the most that clear was; written under the lock */
	_Atomic uint64_t closed;	/* pages since start: whoever waits for a frame has hope */
	int fd;
	size_t page_bytes;
	struct sm_area p; /* frames; base NULL: the engine does not run */
	void *p_reserved;
	size_t frames;
	uint64_t *free; /* a bit for each free frame that is in P */
	size_t nfree, at_word; /* how many; where the next search begins */
	uint32_t *bare; /* a stack of free ones that are not */
	size_t nbare;
	size_t nkept;
	size_t hand; /* where the clock stands */
	size_t table_bytes;
	struct sm_owner {
		struct sm_span *span; /* NULL: it is in P */
		size_t page;
		union {
			uint64_t since; /* ms */
			uint64_t nonce; /* kept only: of what X has */
		};
		bool bare; /* it is in `bare`: nothing of its own is in its place in P */
		_Atomic bool stuffed; /* zeros lie in its place in P: see sm_frame_stuff */
		_Atomic(struct sm_span *) kept; /* its page's: see sm_frame_keep; NULL: it is not */
		_Atomic bool taken; /* kept only: by a purge that wipes it, or who puts it back */
		uint8_t forks; /* that the page was back after, and has not been opened since */
	} *owner; /* of each frame */
	struct sm_span spans[SM_SPANS_MOST];
	size_t nspans;
};
extern struct sm_engine sm_engine;
extern enum sm_mode sm_fault_by; /* who serves */

/** What an operation on pages has in hand; the key comes first, its locks are above the engine's */
struct sm_work {
	struct sm_loan key;
	struct sm_mask mask;
	struct sm_shelf shelf;
};

/** sm_engine_begin, sm_engine_end - around work on pages, for this thread; 0: whoever does not fork.
 * As sm_key_lend; EINPROGRESS: another thread forks; EACCES: all is locked. */
int sm_engine_begin_for(int thread, struct sm_work *w);
static inline int
sm_engine_begin(struct sm_work *w)
{
	return sm_engine_begin_for(0, w);
}
/** sm_engine_enter, sm_engine_leave - the same where no signal can come: while a fault is served */
int sm_engine_enter(int thread, struct sm_work *w);
void sm_engine_leave(struct sm_work *w);
void sm_engine_end(struct sm_work *w);

/** sm_engine_waits - all is locked: whoever touches a page is woken once it is not */
bool sm_engine_waits(void);
/** sm_engine_wake - let all who wait for a page try again; async-signal-safe */
void sm_engine_wake(void);

/** sm_engine_take, sm_engine_let_go - the engine's lock, lowest of all; nobody touches U under it */
void sm_engine_take(void);
void sm_engine_let_go(void);

/* Under the lock, the rest. */
struct sm_span *sm_engine_span(const void *at);
size_t sm_engine_index(const struct sm_span *s, const void *at);
/** sm_engine_open - and wake who waits for it. ENOMEM: all is held. EBADMSG: lost. EIO: store_dir.
 * EFAULT: shut. */
int sm_engine_open(struct sm_span *s, size_t i, const struct sm_loan *key);
/** sm_engine_close - a clear page. EBUSY, EIO (store_dir) and others: it stays. */
int sm_engine_close(struct sm_span *s, size_t i, const struct sm_loan *key);
/** sm_engine_note, sm_engine_unnote - a page is clear and has this frame; it came to nothing */
void sm_engine_note(struct sm_span *s, size_t i, uint32_t f);
void sm_engine_unnote(struct sm_span *s, size_t i, uint8_t before);
/** sm_engine_show - what is in a frame becomes a clear page; else the frame is wiped, and free */
int sm_engine_show(struct sm_span *s, size_t i, uint32_t f);
/** sm_engine_fresh - open a virgin page, and some behind it, while frames are plenty; else ENOMEM */
int sm_engine_fresh(struct sm_span *s, size_t i);
/** sm_engine_await - whoever may touch n virgin pages from now on will soon: some open, if any may */
void sm_engine_await(struct sm_span *s, size_t i, size_t n);
/** sm_engine_discard - a clear page is not to be kept: it is virgin again */
void sm_engine_discard(struct sm_span *s, size_t i);
/** sm_engine_discard_all - the same for those of n pages that are clear */
void sm_engine_discard_all(struct sm_span *s, size_t i, size_t n);

/*
 * Frames. A free one that has never been used, or whose page is no more, is bare: it has a place in
 * P and no memory, which comes when it is needed. So the limits of locked memory are met at the
 * start, and those of memory when a page is touched: there it waits, and then says why it ends.
 */

/** sm_frame_at - its place in P */
static inline unsigned char *
sm_frame_at(uint32_t f)
{
	return sm_engine.p.base + f * sm_engine.page_bytes;
}

/** sm_frames_free - how many there are, bare ones too */
size_t sm_frames_free(void);
/** sm_frame_furnish - there is a free one that is in P. ENOMEM. */
int sm_frame_furnish(void);
/** sm_frames_take - free ones in P, side by side, n of them or fewer: *first; 0: there is none */
size_t sm_frames_take(size_t n, uint32_t *first);
/** sm_frame_take, sm_frame_take_bare - one that is in P, one that is not; there is one */
uint32_t sm_frame_take(void);
uint32_t sm_frame_take_bare(void);
/** sm_frame_back - nobody's any more, wiped and in P; sm_frame_gone - nobody's, and not in P */
void sm_frame_back(uint32_t f);
void sm_frame_gone(uint32_t f);
/** sm_frame_keep - a page was taken away for a fork only, and is sealed: its bytes are here, too */
void sm_frame_keep(struct sm_span *s, size_t i, uint32_t f);
/** sm_frames_restore - what is kept is a clear page again, if X is as it was, or nobody's */
void sm_frames_restore(bool show);
/** sm_frame_forgo - one that was kept is free; false: there is none */
bool sm_frame_forgo(void);
/** sm_frame_pull - a clear page goes back to its frame. As the mover's take; async-signal-safe. */
int sm_frame_pull(const struct sm_span *s, size_t i, uint32_t f);
/** sm_frame_pull_some - n pages, whose frames lie side by side; so many went */
size_t sm_frame_pull_some(const struct sm_span *s, size_t i, size_t n);
/** sm_frame_stuff - who brings in all pages there are (mlockall), or reads P from outside, waits for
 * one whose place is empty: zeros, until it is used. False: it is none of P. Without the lock. */
bool sm_frame_stuff(const void *at);

/* -------------------------------------------------------------- from X and to it */

/** sm_engine_seal - a frame's bytes go to X. EIO: they are in the frame as before. */
int sm_engine_seal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key);
/** sm_engine_unseal - from X to a frame. EBADMSG, EIO: it is zero. */
int sm_engine_unseal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key);
/** sm_engine_carry - a page in X, sealed with another key, is sealed with this one. ENOMEM: no frame
 * is free; EBADMSG: it was tampered with, and stays as it was. EIO: X took a part; it is clear. */
int sm_engine_carry(struct sm_span *s, size_t i, const struct sm_loan *key);
/** sm_engine_lock_page - a page that opens, if its span is not locked as a whole. An errno value. */
int sm_engine_lock_page(const struct sm_span *s, void *u);
/** sm_engine_thin - no span is locked as a whole any more, where they take most of what may be locked,
 * or where it must be; false: nothing has changed, as that would be no help */
bool sm_engine_thin(bool must);
/** sm_engine_start - frames in P, for this descriptor. ENOMEM, EPERM, ENOTSUP. */
int sm_engine_start(int fd);
void sm_engine_stop(void);
/** sm_engine_revive - in a forked child: frames of its own, none in use. As sm_engine_start. */
int sm_engine_revive(int fd);

/** sm_engine_deny - a closed page stays so: who touched it waits until it opens for another. Of P he
 * has zeros, where nothing is. */
void sm_engine_deny(void *at);
/** sm_engine_bars - nobody may touch this page: from now on the kernel says so to whoever does */
bool sm_engine_bars(void *at);
/** sm_engine_serve - open the page at this address for who touched it; false: none of ours */
bool sm_engine_serve(void *at);

/* ---------------------------------------------------------------- who serves */

/** sm_server_start - begin to serve. EAGAIN, ENOTSUP. */
int sm_server_start(enum sm_mode mode, int fd);
void sm_server_stop(void);
void sm_server_forget(void);

/** What the thread that serves is told beside faults. */
enum sm_ring { SM_RING_STOP = 'S', SM_RING_CALL = 'C' };
/** sm_server_ring - tell it. An errno value: it hears nothing. */
int sm_server_ring(enum sm_ring what);

/** sm_call_open - from now on sm_fault_call asks the thread; false: it answers 0 by itself */
void sm_call_open(bool open);
/** sm_call_answer - in the thread: make the call that is asked for */
void sm_call_answer(void);
void sm_call_forget(void);

/* ------------------------------------------- a thread that libc does not know */

/* The door has them: struct sm_raw. */

/** sm_raw_await, sm_raw_wake - sleep while a word is what was seen; wake who does */
void sm_raw_await(_Atomic uint32_t *word, uint32_t seen);
void sm_raw_wake(_Atomic uint32_t *word);

/** sm_tls_bytes - what the variables of a thread take; 0: the C library does not tell */
size_t sm_tls_bytes(void);
/** sm_tls_make - lay them out in zero bytes; returns the thread pointer */
void *sm_tls_make(unsigned char *at);

#endif
