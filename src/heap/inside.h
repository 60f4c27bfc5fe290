/* heap/inside.h - regions, pools, runs, slabs, arenas and the quarantine */
#ifndef SM_HEAP_INSIDE_H
#define SM_HEAP_INSIDE_H

#include "heap/heap.h"
#include "os/os.h"

#define SM_CANARY_BYTES 8u
#define SM_ALIGN_BYTES 16u
#define SM_STRIDE_LEAST_BYTES 32u /* 16 bytes and two canaries */
#define SM_SLOTS_MOST 512u	  /* in a slab */
#define SM_CLASSES 36u
#define SM_REGIONS_MOST 32u
#define SM_ARENAS 4u

/* ---------------------------------------------------------------- words */

/*
 * One word a page says all that find needs, so that it can be read without a lock:
 *
 *   bit 0       in use (cleared when the run is given back; the rest stays as a tombstone,
 *               so that a second free is still known for what it is)
 *   bits 1-2    kind
 *   bits 3-10   size class of a slab
 *   bits 11-36  pages back to the run's first page
 *   bits 37-62  pages of the run, its guard page not counted
 *   bit 63      elastic: the pages are locked one by one while they hold clear bytes
 */
enum sm_kind {
	SM_KIND_NONE = 0,
	SM_KIND_SLAB = 1,
	SM_KIND_LARGE = 2,
	SM_KIND_GUARD = 3
};

#define SM_PAGES_MOST ((UINT64_C(1) << 26) - 1)

struct sm_run {
	bool used;
	bool elastic;
	enum sm_kind kind;
	unsigned class;
	size_t back;
	size_t pages;
};

static inline uint64_t
sm_word(const struct sm_run *r)
{
	return (uint64_t)r->used | (uint64_t)r->kind << 1 | (uint64_t)r->class << 3 |
		(uint64_t)r->back << 11 | (uint64_t)r->pages << 37 |
		(uint64_t)r->elastic << 63;
}

static inline struct sm_run
sm_run_of(uint64_t w)
{
	return (struct sm_run){ w & 1, w >> 63, (enum sm_kind)(w >> 1 & 3), (unsigned)(w >> 3 & 255),
		(size_t)(w >> 11 & SM_PAGES_MOST),
		(size_t)(w >> 37 & SM_PAGES_MOST) };
}

/* -------------------------------------------------------------- regions */

/** A pool: pages obtained at one time. In use while area.base is set. Under SM_RANK_POOL. */
struct sm_pool {
	struct sm_area area;
	size_t first;	   /* page of the region */
	size_t room;	   /* pages of the region set aside for this entry */
	size_t pages;
	size_t hint;	   /* no page before it is free */
	size_t free_pages; /* neither in a run nor the guard page of one */
	bool initial;	   /* never given back before stop */
	bool marked;	   /* guards are markers in one mapping, not mappings of their own */
	bool fresh;	   /* in a child that is not whole yet: its pages are there already */
};

/** A slab's out-of-line state, at the index of its first page. Under its arena's lock. */
struct sm_slab {
	uint64_t free[SM_SLOTS_MOST / 64]; /* bit set: slot free */
	struct sm_slab *next, *prev;	   /* among those of its class with a free slot */
	uint16_t slots, free_slots;
	uint8_t class, arena;
	bool elastic;
	struct sm_bin *bin;	  /* of its class, in its arena */
	unsigned char *base;	  /* of the run */
	struct sm_chunk *records; /* of its slots */
};

/** What a record has no room for. */
struct sm_rest {
	unsigned char tag[SM_REST_BYTES]; /* of seal: sealed only, by ciphers of long tags */
};

/** Reserved address space for pages, and for what describes each of them. */
struct sm_region {
	unsigned char *base;	  /* first data page */
	size_t pages;		  /* data pages reserved */
	size_t bytes;		  /* of those */
	_Atomic size_t pages_used; /* below it the words can be read */
	_Atomic uint64_t *words;  /* one a page */
	uint16_t *pins;		  /* one a page, see window.c */
	struct sm_slab *slabs;	  /* one a page */
	struct sm_chunk *records; /* sm_records_per_page() a page */
	struct sm_rest *rests;	  /* one a record; accessible where the config has tag_rest */
	struct sm_pool *pools;	  /* at most one for two pages */
	size_t npools;		  /* entries used so far, released ones among them */
	void *reserved;
	size_t reserved_bytes;
};

extern struct sm_region sm_regions[SM_REGIONS_MOST];
extern _Atomic unsigned sm_region_count;
extern unsigned sm_page_shift; /* set by sm_class_start */

static inline size_t
sm_records_per_page(void)
{
	return ((size_t)1 << sm_page_shift) / SM_STRIDE_LEAST_BYTES;
}

/** sm_region_add - reserve a region of at least that many data pages, not yet known. ENOMEM. */
int sm_region_add(size_t pages);

/** sm_region_publish - the region that was added is complete: find and walk may see it */
void sm_region_publish(void);

/** sm_region_drop - unmap the region that was added and is not known */
void sm_region_drop(void);

/** sm_region_reset - unmap every region */
void sm_region_reset(void);

/** sm_region_open - make words, slabs, records and the pool table of these pages usable */
int sm_region_open(struct sm_region *r, size_t first, size_t pages, size_t pool);

/** sm_region_of - the region that holds this data address, or NULL */
static inline struct sm_region *
sm_region_of(const void *p)
{
	unsigned n = atomic_load_explicit(&sm_region_count, memory_order_acquire);

	for (unsigned i = 0; i < n; i++)
		if ((uintptr_t)p - (uintptr_t)sm_regions[i].base < sm_regions[i].bytes)
			return &sm_regions[i];
	return NULL;
}

/** sm_region_orphan - in a forked child: cover what describes the pages, forget every region */
void sm_region_orphan(void);

/** sm_region_inherited - the address was the parent's, before fork */
bool sm_region_inherited(const void *p);

/* ---------------------------------------------------------------- pools */

/** Which pools a run may come from. */
enum sm_reach {
	SM_REACH_NONE,	  /* no new run */
	SM_REACH_LOCKED,  /* those that are, whole and for good */
	SM_REACH_PRESENT, /* any there is */
	SM_REACH_ELASTIC, /* none but elastic ones, or one more */
	SM_REACH_NEW	  /* any, or one more */
};

/** A run handed out: where it is. */
struct sm_place {
	struct sm_region *region;
	size_t page;
	size_t pages;
	bool elastic;
	bool open_before; /* free pages are not guarded here: they may have been written */
};

/** sm_pool_add - obtain and guard a new pool of at least that many pages. Under SM_RANK_POOL. */
int sm_pool_add(size_t pages, bool initial);

/** sm_pool_stretches - pools to come are elastic, as this config has it */
bool sm_pool_stretches(void);

/** sm_pool_marks - guards of pools to come are markers, as far as is known */
bool sm_pool_marks(void);

/** sm_pool_of - the pool that this page of the region belongs to. Under SM_RANK_POOL. */
struct sm_pool *sm_pool_of(const struct sm_region *r, size_t page);

/** sm_pool_check - the invariants of a pool in use */
void sm_pool_check(const struct sm_pool *p);

/** sm_pool_trim - give back empty later pools, but one of the usual size. Under SM_RANK_POOL. */
bool sm_pool_trim(bool keep_one);

/** sm_pool_forgo - from now on these protections do not hold for every pool */
void sm_pool_forgo(unsigned bits);

/** sm_pool_granted - protection bits that hold for every pool since the last reset */
unsigned sm_pool_granted(void);

/** sm_pool_reclaim - in a forked child, first of all: nobody else gets a pool's place. ENOMEM. */
int sm_pool_reclaim(void);

/** sm_pool_revive - in a forked child: pages of its own for every pool, zero, open as they were */
int sm_pool_revive(void);

/** sm_pool_revived - all is whole, or what was obtained is wiped and covered */
void sm_pool_revived(bool whole);

/** sm_pool_orphan - in a forked child: cover every pool */
void sm_pool_orphan(void);

/** sm_pool_reset - wipe and release every pool, without asking who lives in it */
void sm_pool_reset(void);

/* ----------------------------------------------------------------- runs */

extern struct sm_lock sm_pool_lock; /* SM_RANK_POOL: every sm_pool, and which runs there are */

/** sm_set_words - the words of these pages. Under SM_RANK_POOL. */
void sm_set_words(struct sm_region *r, size_t first, size_t pages, struct sm_run run);

/** sm_run_reset - no runs; how many guards there may be is asked anew */
void sm_run_reset(void);

/** sm_run_forget - a pool is about to go. Under SM_RANK_POOL. */
void sm_run_forget(void);

/** sm_run_returns - how many runs have come back to locked pools so far */
uint64_t sm_run_returns(void);

/**
 * sm_run_get - pages of one run, accessible and zero, a page without access on both sides
 *
 * Args:    least  fewer than `pages` will do, down to this, if a new pool would be needed
 * Returns: 0; ENOMEM.
 */
int sm_run_get(size_t pages, size_t least, struct sm_run kind, enum sm_reach reach,
	struct sm_place *p);

/** sm_run_initial - this run lies in a pool that is kept until stop */
bool sm_run_initial(const struct sm_region *r, size_t page);

/** sm_run_shut - take access to a run in use away: it rests. Its bytes are zero and accessible. */
void sm_run_shut(struct sm_region *r, size_t page);

/** sm_run_reopen - a run that is shut is accessible and zero again. ENOMEM. */
int sm_run_reopen(struct sm_region *r, size_t page, struct sm_place *p);

/** sm_run_put - give a run back that is shut */
void sm_run_put(struct sm_region *r, size_t page);

/** sm_run_revive - in a pool that is guarded as a whole, open what was open */
int sm_run_revive(const struct sm_region *r, const struct sm_pool *p);

/** sm_run_at - the run that this page belongs to, read without a lock */
static inline struct sm_run
sm_run_at(const struct sm_region *r, size_t page)
{
	return sm_run_of(atomic_load_explicit(&r->words[page], memory_order_acquire));
}

/* -------------------------------------------------------------- windows */

/** sm_window_open - pin pages of an elastic run: all or none. ENOMEM. */
int sm_window_open(struct sm_region *r, size_t first, size_t pages);
void sm_window_close(struct sm_region *r, size_t first, size_t pages);

/** sm_window_explain - note once more why that many bytes could not be pinned. Returns: ENOMEM. */
int sm_window_explain(size_t bytes);

/** sm_window_retry - unlock what stayed locked among these pages */
void sm_window_retry(struct sm_region *r, size_t first, size_t pages);

/** sm_window_forget - these pages are about to be unmapped, whatever is pinned */
void sm_window_forget(struct sm_region *r, size_t first, size_t pages);

/** sm_doom_reset - nobody waits to be freed */
void sm_doom_reset(void);

/** sm_window_reset - nothing is pinned */
void sm_window_reset(void);
/** sm_window_revive - in a forked child: nothing is pinned any more */
void sm_window_revive(void);

#include "heap/slab.h"

#endif
