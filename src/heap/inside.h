/* heap/inside.h - regions, pools, runs and slabs */
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
	enum sm_kind kind;
	unsigned class;
	size_t back;
	size_t pages;
};

static inline uint64_t
sm_word(const struct sm_run *r)
{
	return (uint64_t)r->used | (uint64_t)r->kind << 1 | (uint64_t)r->class << 3 |
		(uint64_t)r->back << 11 | (uint64_t)r->pages << 37;
}

static inline struct sm_run
sm_run_of(uint64_t w)
{
	return (struct sm_run){ w & 1, (enum sm_kind)(w >> 1 & 3), (unsigned)(w >> 3 & 255),
		(size_t)(w >> 11 & SM_PAGES_MOST), (size_t)(w >> 37 & SM_PAGES_MOST) };
}

/* -------------------------------------------------------------- regions */

/** A pool: pages obtained at one time. In use while area.base is set. Under SM_RANK_POOL. */
struct sm_pool {
	struct sm_area area;
	size_t first;	   /* page of the region */
	size_t room;	   /* pages of the region set aside for this entry */
	size_t pages;
	size_t free_pages; /* neither in a run nor the guard page of one */
	bool initial;	   /* never given back before stop */
};

/** A slab's out-of-line state, at the index of its first page. Under SM_RANK_CLASS. */
struct sm_slab {
	uint64_t free[SM_SLOTS_MOST / 64]; /* bit set: slot free */
	struct sm_slab *next, *prev;	   /* among those of its class with a free slot */
	uint32_t slots, free_slots;
	unsigned char *base; /* of the run */
};

/** Reserved address space for pages, and for what describes each of them. */
struct sm_region {
	unsigned char *base;	  /* first data page */
	size_t pages;		  /* data pages reserved */
	_Atomic size_t pages_used; /* below it the words can be read */
	_Atomic uint64_t *words;  /* one a page */
	struct sm_slab *slabs;	  /* one a page */
	struct sm_chunk *records; /* sm_records_per_page() a page */
	struct sm_pool *pools;	  /* at most one for two pages */
	size_t npools;		  /* entries used so far, released ones among them */
	void *reserved;
	size_t reserved_bytes;
};

extern struct sm_region sm_regions[SM_REGIONS_MOST];
extern _Atomic unsigned sm_region_count;

static inline size_t
sm_records_per_page(void)
{
	return sm_os_page_bytes() / SM_STRIDE_LEAST_BYTES;
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
struct sm_region *sm_region_of(const void *p);

/** sm_region_orphan - in a forked child: cover what describes the pages, forget every region */
void sm_region_orphan(void);

/** sm_region_inherited - the address was the parent's, before fork */
bool sm_region_inherited(const void *p);

/** sm_region_of_record - the region whose record this is */
struct sm_region *sm_region_of_record(const struct sm_chunk *c);

/* ---------------------------------------------------------------- pools */

/** A run handed out: where it is. */
struct sm_place {
	struct sm_region *region;
	size_t page;
	size_t pages;
	bool open_before; /* free pages are not guarded here: they may have been written */
};

/** sm_pool_add - obtain and guard a new pool of at least that many pages. Under SM_RANK_POOL. */
int sm_pool_add(size_t pages, bool initial);

/** sm_pool_granted - protection bits that hold for every pool since the last reset */
unsigned sm_pool_granted(void);

/** sm_pool_orphan - in a forked child: cover every pool */
void sm_pool_orphan(void);

/** sm_pool_reset - wipe and release every pool, without asking who lives in it */
void sm_pool_reset(void);

/**
 * sm_run_get - pages of one run, accessible and zero, a page without access on both sides
 *
 * Args:    least  fewer than `pages` will do, down to this, if a new pool would be needed
 * Returns: 0; ENOMEM.
 */
int sm_run_get(size_t pages, size_t least, struct sm_run kind, struct sm_place *p);

/** sm_run_put - give a run back; its bytes are zero and accessible */
void sm_run_put(struct sm_region *r, size_t page);

/** sm_run_at - the run that this page belongs to, read without a lock */
static inline struct sm_run
sm_run_at(const struct sm_region *r, size_t page)
{
	return sm_run_of(atomic_load_explicit(&r->words[page], memory_order_acquire));
}

/* --------------------------------------------------------------- classes */

struct sm_class {
	uint64_t magic;	 /* ceil(2^SM_MAGIC_SHIFT / stride): divides by one multiplication */
	uint32_t stride; /* bytes from slot to slot: the most a chunk may have, and two canaries */
	uint32_t pages;	 /* of a slab, where there is room */
	uint32_t least;	 /* pages that hold one slot */
};

#define SM_MAGIC_SHIFT 40 /* exact while bytes in a slab times stride stay under 2^40 */

extern struct sm_class sm_classes[SM_CLASSES];

/** sm_class_start - fill in the table; page size decides the slabs */
void sm_class_start(void);

/** sm_class_of - the class for chunks of this size; at most SM_PACKED_MOST_BYTES */
unsigned sm_class_of(size_t size);

/** sm_class_slots - slots in a slab of that many pages */
static inline uint32_t
sm_class_slots(unsigned class, size_t pages)
{
	size_t n = (pages * sm_os_page_bytes() - SM_CANARY_BYTES) / sm_classes[class].stride;

	return n < SM_SLOTS_MOST ? (uint32_t)n : SM_SLOTS_MOST;
}

/** sm_class_most - the largest chunk of a class */
static inline size_t
sm_class_most(unsigned class)
{
	return sm_classes[class].stride - 2 * SM_CANARY_BYTES;
}

int sm_slab_alloc(const struct sm_wanted *w, struct sm_chunk **c, void **ptr);
void sm_slab_free(struct sm_region *r, size_t first, unsigned class, struct sm_chunk *c);
/** sm_slab_start - no slabs, fresh random slot order */
int sm_slab_start(void);
/** sm_slab_trim - give back the empty slabs that classes keep; true if there was one */
bool sm_slab_trim(void);

int sm_large_alloc(const struct sm_wanted *w, struct sm_chunk **c, void **ptr);
void sm_large_free(struct sm_region *r, size_t first, struct sm_chunk *c);

/* ---------------------------------------------------------------- places */

/** Where the place of a chunk is. */
struct sm_spot {
	struct sm_region *region;
	struct sm_run run;
	size_t first;	      /* page of the run */
	unsigned char *start; /* first byte that can be the program's; a canary lies in front */
	unsigned char *end;   /* behind the last one; a packed chunk's canary may follow */
};

/** sm_spot_of - the place of a record whose lock is held, or that nobody knows yet */
struct sm_spot sm_spot_of(const struct sm_chunk *c);

/** sm_is_zero - every byte is zero; in a time that depends on n only */
bool sm_is_zero(const unsigned char *p, size_t n);

/* -------------------------------------------------------------- canaries */

/** sm_canary_set - write both canaries of a chunk whose size and generation are set */
void sm_canary_set(const struct sm_chunk *c, void *ptr);

/** sm_canary_clear - zero both, before a resize or the end */
void sm_canary_clear(const struct sm_chunk *c, void *ptr);

/** sm_chunk_begin - a new life of a record: size, offset, generation; canaries written */
void sm_chunk_begin(struct sm_chunk *c, void *ptr, size_t size, size_t offset);

#endif
