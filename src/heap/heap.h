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

enum sm_life {
	SM_LIFE_FREE = 0, /* never used, or given back; its bytes are zero */
	SM_LIFE_LIVE
};

enum sm_veil {
	SM_VEIL_CLEAR = 0,
	SM_VEIL_SEALED
};

/** The out-of-line record of one allocation. */
struct sm_chunk {
	struct sm_lock lock;	 /* of seal: held while the record or the bytes change */
	_Atomic uint8_t life;	 /* of heap: enum sm_life */
	uint8_t veil;		 /* of seal, under lock: enum sm_veil */
	uint8_t access;		 /* of heap, under lock: enum secmalloc_access */
	uint8_t own_pages;	 /* of heap: large placement */
	_Atomic uint32_t offset; /* of heap: bytes from the place's start to the chunk */
	uint32_t epoch;		 /* of seal: the key that sealed it */
	size_t size;		 /* of heap, under lock: bytes asked for */
	uint64_t generation;	 /* of heap: counts allocations of this place; 0: never used */
	uint64_t nonce;		 /* of seal: sealed only */
	uint64_t spare;
	unsigned char tag[16];	/* of seal: sealed only */
};

_Static_assert(sizeof(struct sm_chunk) <= 64, "a record is cheap beside its 32 bytes");

/** sm_chunk_offset - bytes from the start of the place to the chunk */
static inline size_t
sm_chunk_offset(const struct sm_chunk *c)
{
	return atomic_load_explicit(&((struct sm_chunk *)(uintptr_t)c)->offset,
		memory_order_relaxed);
}

/** What sm_heap_find makes of a pointer. */
enum sm_found {
	SM_FOUND,    /* the start of a place for a chunk; whether it is live, its record says */
	SM_FOREIGN,  /* outside every region of ours */
	SM_INTERIOR, /* inside one, but the start of nothing */
	SM_INHERITED /* in a region of the parent, before fork */
};

/** How a chunk is to be placed. */
struct sm_wanted {
	size_t size;
	size_t align;	/* power of two, 16 to a page */
	bool own_pages; /* large placement whatever the size */
};

/**
 * sm_heap_start - reserve the first region and fill it with the initial pools
 *
 * Args:    c  the config about to be frozen; with pool_auto, pool_bytes is set here.
 * Returns: 0, or an errno value of sm_os_obtain, with nothing left behind.
 */
int sm_heap_start(struct sm_config *c);

/** sm_heap_stop - wipe and unmap every pool; also after a failed start */
void sm_heap_stop(void);

/** sm_heap_orphan - in a forked child: cover what was the parent's, remember where it was */
void sm_heap_orphan(void);

/** sm_heap_granted - protection bits that hold for every pool there has been */
unsigned sm_heap_granted(void);

/**
 * sm_heap_alloc - a zeroed place with canaries on both sides, known to nobody yet
 *
 * Returns: 0; ENOMEM: no pages that carry what is required, or max_pools reached.
 * Faults:  WRITE_AFTER_FREE
 */
int sm_heap_alloc(const struct sm_wanted *w, struct sm_chunk **c, void **ptr);

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
 */
void sm_heap_free(struct sm_chunk *c, void *ptr);

/** sm_heap_find - from a user's pointer to a record; validates, writes nothing */
enum sm_found sm_heap_find(const void *ptr, struct sm_chunk **c);

/** sm_heap_bytes - where the bytes of a live chunk, whose lock is held, are */
void *sm_heap_bytes(const struct sm_chunk *c);

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

/** sm_heap_protect - set what the program may do. ENOTSUP: packed. ENOMEM: mprotect. */
int sm_heap_protect(struct sm_chunk *c, void *ptr, enum secmalloc_access a);

/**
 * sm_heap_lift - make the bytes accessible for the library's own work, whatever protect said
 *
 * Returns: 0; ENOMEM: mprotect. sm_heap_drop undoes it; should that fail, the chunk is
 * SECMALLOC_READWRITE from now on, and says so with ENOMEM.
 */
int sm_heap_lift(struct sm_chunk *c, void *ptr);
int sm_heap_drop(struct sm_chunk *c, void *ptr);

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
