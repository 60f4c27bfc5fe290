/*
 * heap.h - whose bytes are whose. Floor 3, beside key.
 *
 * Regions of reserved address space hold pools; a pool's pages are handed out in runs, each
 * followed by a page without access; a run is a slab (slots of one size class) or a large chunk.
 * Free pages have no access, free slots are zero. All that describes them lies out of line, on
 * pages of its own behind guard pages. The heap never asks whether bytes are encrypted.
 */
#ifndef SM_HEAP_H
#define SM_HEAP_H

#include "base/base.h"

/** The largest chunk that shares a slab. */
#define SM_PACKED_MOST_BYTES 16384u

/** What sm_heap_tag_rest has room for. */
#define SM_REST_BYTES 16u

enum sm_life {
	SM_LIFE_FREE = 0, /* never used */
	SM_LIFE_LIVE,
	SM_LIFE_RESTING /* given back: it waits before it is used again; its bytes are zero */
};

enum sm_veil {
	SM_VEIL_CLEAR = 0,
	SM_VEIL_SEALED
};

/** The out-of-line record of one allocation. */
struct sm_chunk {
	struct sm_lock lock;	/* of seal: held while the record or the bytes change */
	_Atomic uint8_t life;	/* of heap: enum sm_life */
	uint8_t veil;		/* of seal, under lock: enum sm_veil; a purge looks at it */
	uint8_t access;		/* of heap, under lock: enum secmalloc_access */
	uint8_t own_pages;	/* of heap: large or isolated placement */
	uint32_t epoch;		/* of seal: the key that sealed it */
	uint8_t elastic;	/* of heap: its pages are locked one by one, by sm_heap_pin */
	uint8_t class;		/* of heap: packed only */
	uint16_t offset;	/* of heap: from the slot's start to the chunk; packed only */
	size_t size;		/* of heap, under lock: bytes asked for */
	_Atomic uintptr_t at;	/* of heap: where the chunk is, or was last; 0: never used */
	uint32_t generation;	/* of heap: counts allocations of this place */
	uint8_t arena;		/* of heap */
	uint8_t opened_by_hold : 1; /* of seal, under lock: the last release closes it */
	uint8_t halted : 1;	/* of seal, under lock: sealed only until the daemon gives the key back */
	uint16_t holds;		/* of seal, under lock; only of a clear chunk */
	union {
		uint64_t nonce;	 /* of seal: sealed only */
		uint64_t opened; /* of seal: clear only, ms; where the config reseals */
	};
	union {
		unsigned char tag[16];	/* of seal: sealed only */
		struct sm_chunk *next;	/* of heap: resting only */
	};
};

_Static_assert(sizeof(struct sm_chunk) <= 64, "a record is cheap beside its 32 bytes");

/** sm_heap_at - where the bytes of a live chunk, whose lock is held, are */
static inline uintptr_t
sm_heap_at(const struct sm_chunk *c)
{
	return atomic_load_explicit(&((struct sm_chunk *)(uintptr_t)c)->at, memory_order_relaxed);
}

/** What sm_heap_find makes of a pointer. */
enum sm_found {
	SM_FOUND,    /* where a chunk starts, or did last; whether it is live, its record says */
	SM_FOREIGN,  /* outside every region of ours */
	SM_INTERIOR, /* inside one, but the start of nothing */
	SM_INHERITED /* in a region of the parent, before fork */
};

/** What the heap holds, in all arenas. */
struct sm_tally {
	uint64_t chunks; /* live ones */
	uint64_t most;	 /* bytes at most; a sum of each arena's, so with threads a bound */
	uint64_t bytes;	 /* what was asked for in them */
};

/**
 * sm_heap_start - reserve the first region and fill it with the initial pools
 *
 * Args:    c  the config about to be frozen; with pool_auto, pool_bytes is set here.
 * Returns: 0, or an errno value of sm_os_obtain, with nothing left behind.
 */
int sm_heap_start(struct sm_config *c);

/** Who sees to the pages of pools, where they are veiled: handed in before start. */
struct sm_watch {
	int (*come)(unsigned char *base, size_t bytes);	 /* a pool is there, not touched yet */
	int (*again)(unsigned char *base, size_t bytes); /* the same, in a child; what it held stays */
	void (*drop)(unsigned char *base, size_t bytes); /* nothing in these pages is kept */
	void (*go)(unsigned char *base, size_t bytes);	 /* it is about to be unmapped */
	/* The same, and nobody may touch them, as it is in a pool that has just come; or again. ENOMEM. */
	void (*shut)(unsigned char *base, size_t bytes);
	int (*reach)(unsigned char *base, size_t bytes);
};
extern const struct sm_watch *sm_heap_watch;

/** sm_heap_stop - wipe and unmap every pool; also after a failed start */
void sm_heap_stop(void);

/** sm_heap_hold, sm_heap_let_go - around a fork: no other thread is inside the heap */
void sm_heap_hold(void);
void sm_heap_let_go(void);

/** sm_heap_reclaim - in a child of such a fork, before anything is mapped there. ENOMEM. */
int sm_heap_reclaim(void);

/**
 * sm_heap_revive - in a child of such a fork: every pool has pages of its own, where it was
 *
 * Zero, guarded and accessible as the parent's were, and not pinned: sm_heap_refill makes chunks of
 * them. What is not refilled is to be given to sm_heap_leave.
 *
 * Returns: 0, or as sm_heap_start.
 */
int sm_heap_revive(void);

/** sm_heap_revived - the child is whole; or it is not, has no secret, and sm_heap_orphan follows */
void sm_heap_revived(bool whole);

/** sm_heap_refill - the bytes of a live chunk, its canaries, and pins if it is clear. ENOMEM. */
int sm_heap_refill(struct sm_chunk *c, const void *bytes, bool clear);

/** sm_heap_stay - a chunk counts again, and its bytes are there without being refilled */
void sm_heap_stay(struct sm_chunk *c);

/** sm_heap_leave - this chunk is nobody's, and its place is never used again */
void sm_heap_leave(struct sm_chunk *c);

/** sm_heap_orphan - in a forked child: cover what was the parent's, remember where it was */
void sm_heap_orphan(void);

/** sm_heap_granted - protection bits that hold for every pool there has been */
unsigned sm_heap_granted(void);

/**
 * sm_heap_purge - zero every open chunk; inside sm_purge_enter, async-signal-safe
 *
 * Also those that a call in progress has in hand: what it stores later it wipes itself.
 */
void sm_heap_purge(void);

/** sm_heap_tally - count the chunks of every arena */
void sm_heap_tally(struct sm_tally *t);

/** A chunk that was made, or why not; in registers. */
struct sm_made {
	struct sm_chunk *c;
	int e; /* 0, or an errno value and c is NULL */
};

/**
 * sm_heap_alloc - a zeroed place with canaries on both sides, pinned, known to nobody yet
 *
 * Args:    align      power of two, 16 to a page
 *          own_pages  isolated placement whatever the size
 * Returns: ENOMEM: no pages that carry what is required, or max_pools reached.
 * Faults:  WRITE_AFTER_FREE
 */
struct sm_made sm_heap_alloc(size_t size, size_t align, bool own_pages);

/** sm_heap_publish - from now on find and next know the chunk */
static inline void
sm_heap_publish(struct sm_chunk *c)
{
	atomic_store_explicit(&c->life, SM_LIFE_LIVE, memory_order_release);
}

/** sm_heap_live - published and not given back */
static inline bool
sm_heap_live(const struct sm_chunk *c)
{
	return atomic_load_explicit(&((struct sm_chunk *)(uintptr_t)c)->life,
		       memory_order_acquire) == SM_LIFE_LIVE;
}

/**
 * sm_heap_free - wipe a chunk and give its place back
 *
 * The caller holds its lock, it is live (or unpublished) and accessible, and its canaries were
 * verified. Its lock is still held afterwards.
 *
 * Args: pinned  it is, and is to be no more
 */
void sm_heap_free(struct sm_chunk *c, void *ptr, bool pinned);

/** sm_heap_doom - a chunk, whose lock is held, is freed but its bytes, which can't be touched now */
void sm_heap_doom(struct sm_chunk *c);

/** sm_heap_doomed - all of those, by next; each is to be given to sm_heap_stay, and freed as any */
struct sm_chunk *sm_heap_doomed(void);

/** sm_heap_pin_pages, sm_heap_unpin_pages - the slow halves of the next two */
SM_COLD int sm_heap_pin_pages(struct sm_chunk *c);
SM_COLD void sm_heap_unpin_pages(struct sm_chunk *c);

/**
 * sm_heap_pin - lock every page of an accessible chunk that is about to be clear, or none
 *
 * Counted for each page. Costs nothing but on elastic pages, where the first costs a system call.
 *
 * Returns: 0; ENOMEM: mlock, or splitting mappings would use up vm.max_map_count.
 */
static inline int
sm_heap_pin(struct sm_chunk *c)
{
	return SM_LIKELY(!c->elastic) ? 0 : sm_heap_pin_pages(c);
}

/** sm_heap_unpin - undo one pin; should the kernel refuse, pages stay locked and counted so */
static inline void
sm_heap_unpin(struct sm_chunk *c)
{
	if (!SM_LIKELY(!c->elastic))
		sm_heap_unpin_pages(c);
}

/** sm_heap_find - from a user's pointer to a record; validates, writes nothing */
enum sm_found sm_heap_find(const void *ptr, struct sm_chunk **c);

/** sm_heap_look - the same; NULL where find does not say SM_FOUND */
struct sm_chunk *sm_heap_look(const void *ptr);

/** sm_heap_bytes - the same address, to use it */
static inline void *
sm_heap_bytes(const struct sm_chunk *c)
{
	return (void *)sm_heap_at(c);
}

/** sm_heap_tag_rest - SM_REST_BYTES beside a record, zero at first; NULL: not in this config */
unsigned char *sm_heap_tag_rest(const struct sm_chunk *c);

/** sm_heap_verify - check both canaries. Faults: UNDERFLOW, OVERFLOW. */
void sm_heap_verify(const struct sm_chunk *c, const void *ptr);

/**
 * sm_heap_resize - change the size where the chunk stands, keeping the bytes up to the smaller
 * size and zeroing grown ones; the caller holds its lock, it is clear and accessible
 *
 * Args:    loose  waste is fine: any smaller size fits
 * Returns: false: it does not fit there, nothing has changed.
 */
bool sm_heap_resize(struct sm_chunk *c, void *ptr, size_t size, bool loose);

/** sm_heap_protect - set what the program may do. ENOTSUP: packed. ENOMEM: mprotect. ECANCELED. */
int sm_heap_protect(struct sm_chunk *c, enum secmalloc_access a);

/** sm_heap_freeze - pages of its own are read-only while they close; false: they cannot be */
bool sm_heap_freeze(struct sm_chunk *c);

/**
 * sm_heap_lift - make the bytes accessible for the library's own work, whatever protect said
 *
 * Returns: 0; ENOMEM: mprotect. sm_heap_drop undoes it; should that fail, the chunk is
 * SECMALLOC_READWRITE from now on, and says so with ENOMEM.
 */
SM_COLD int sm_heap_lift_pages(struct sm_chunk *c);
int sm_heap_drop(struct sm_chunk *c);

static inline int
sm_heap_lift(struct sm_chunk *c)
{
	return SM_LIKELY(c->access == SECMALLOC_READWRITE) ? 0 : sm_heap_lift_pages(c);
}

/** Where a walk stands: all zero to begin. */
struct sm_walk {
	unsigned region;
	unsigned slot;
	size_t page;
};

/**
 * sm_heap_next - one chunk after another, without a lock
 *
 * Every chunk live during the whole walk comes once. One that is handed out may be gone by the
 * time its lock is held: ask sm_heap_live again.
 */
struct sm_chunk *sm_heap_next(struct sm_walk *w);

#endif
