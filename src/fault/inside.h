/* fault/inside.h - spans, frames, and what the kernel does for them */
#ifndef SM_FAULT_INSIDE_H
#define SM_FAULT_INSIDE_H

#include "cipher/cipher.h"
#include "fault/fault.h"
#include "key/key.h"
#include "os/os.h"

enum sm_page_state {
	SM_PAGE_VIRGIN = 0, /* never touched: zeros */
	SM_PAGE_SEALED,	    /* in X */
	SM_PAGE_CLEAR,	    /* in U */
	SM_PAGE_LOST	    /* X was tampered with */
};

/** A page of U. Under the engine's lock. */
struct sm_page {
	uint8_t state;
	uint16_t holds;
	uint32_t frame; /* clear only: whose place in P is empty meanwhile */
	uint32_t epoch; /* sealed only, as the next three */
	uint64_t nonce;
	unsigned char tag[16], tag_rest[16];
};

/** A pool: U and what belongs to it, page by page. */
struct sm_span {
	unsigned char *u, *x;
	size_t pages;
	struct sm_page *page;
	bool locked; /* U as a whole, as far as pages are there */
};

/* ------------------------------------------------------------------ kernel */

/** sm_uffd_open - a descriptor that serves U in this mode, or -1. The best there is comes first. */
int sm_uffd_open(enum sm_mode mode);
/** sm_uffd_pipe - both ends out of the program's way. An errno value. */
int sm_uffd_pipe(int ends[2]);
/** sm_uffd_watch - a fault in these pages is told, from now on. An errno value. */
int sm_uffd_watch(int fd, void *base, size_t bytes);
void sm_uffd_unwatch(int fd, void *base, size_t bytes);
/** sm_uffd_move - one page; who waits for it is not woken. EEXIST, ENOENT, EBUSY, ... */
int sm_uffd_move(int fd, void *to, void *from);
/** sm_uffd_fill - a page of zeros where there is none */
int sm_uffd_fill(int fd, void *to);
/** sm_uffd_wake - let who waits for this page try again */
void sm_uffd_wake(int fd, void *page);
/** sm_uffd_next - wait for a fault; its address, or NULL: the descriptor at `stop` can be read */
void *sm_uffd_next(int fd, int stop);

/** sm_uffd_lock - lock pages as they come; undo. An errno value. */
int sm_uffd_lock(void *base, size_t bytes);
void sm_uffd_unlock(void *base, size_t bytes);

/** sm_server_mask, sm_server_unmask - no signal of this thread comes while the engine works */
struct sm_mask {
	unsigned long bits[16];
};
void sm_server_mask(struct sm_mask *m);
void sm_server_unmask(const struct sm_mask *m);

/* ------------------------------------------------------------------ engine */

enum { SM_SPANS_MOST = 1024 };

struct sm_engine {
	_Atomic uint32_t next, serving; /* the lock: a ticket each, as an unfair one starves */
	_Atomic bool shut;		/* while all is locked nobody opens a page */
	_Atomic uint64_t served, clear; /* faults; pages */
	int fd;
	size_t page_bytes;
	struct sm_area p; /* frames; base NULL: the engine does not run */
	void *p_reserved;
	size_t frames;
	uint32_t *free; /* a stack of frames that are in P */
	size_t nfree;
	size_t hand; /* where the clock stands */
	size_t table_bytes;
	struct sm_owner {
		struct sm_span *span; /* NULL: it is in P */
		size_t page;
		uint64_t since; /* ms */
	} *owner; /* of each frame */
	struct sm_span spans[SM_SPANS_MOST];
	size_t nspans;
};
extern struct sm_engine sm_engine;

/** What an operation on pages has in hand; the key comes first, its locks are above the engine's */
struct sm_work {
	struct sm_loan key;
	struct sm_mask mask;
	struct sm_shelf shelf;
};

/** sm_engine_begin, sm_engine_end - around work on pages. As sm_key_lend. */
int sm_engine_begin(struct sm_work *w);
void sm_engine_end(struct sm_work *w);

/** sm_engine_take, sm_engine_let_go - the engine's lock, lowest of all; nobody touches U under it */
void sm_engine_take(void);
void sm_engine_let_go(void);

/* Under the lock, the rest. */
struct sm_span *sm_engine_span(const void *at);
size_t sm_engine_index(const struct sm_span *s, const void *at);
/** sm_engine_open - ENOMEM: all is held. EBADMSG: lost. */
int sm_engine_open(struct sm_span *s, size_t i, const struct sm_loan *key);
/** sm_engine_close - a clear page. EBUSY and others: it stays. */
int sm_engine_close(struct sm_span *s, size_t i, const struct sm_loan *key);
/** sm_engine_discard - a clear page is not to be kept: it is virgin again */
void sm_engine_discard(struct sm_span *s, size_t i);
/** sm_engine_seal - a frame's bytes go to X */
void sm_engine_seal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key);
/** sm_engine_unseal - from X to a frame. EBADMSG: it is zero. */
int sm_engine_unseal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key);
/** sm_engine_start - frames in P, for this descriptor. ENOMEM, EPERM, ENOTSUP. */
int sm_engine_start(int fd);
void sm_engine_stop(void);

/** sm_engine_serve - open the page at this address for who touched it; false: none of ours */
bool sm_engine_serve(void *at);

/* ---------------------------------------------------------------- who serves */

/** sm_server_start - begin to serve. EAGAIN, ENOTSUP. */
int sm_server_start(enum sm_mode mode, int fd);
void sm_server_stop(void);
void sm_server_forget(void);

#endif
