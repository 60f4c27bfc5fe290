/* heap/slab.h - size classes, slabs, arenas, places; the second half of inside.h */
#ifndef SM_HEAP_SLAB_H
#define SM_HEAP_SLAB_H

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
static inline unsigned
sm_class_of(size_t size)
{
	size_t step;
	unsigned shift;

	if (size <= 128)
		return size == 0 ? 0 : (unsigned)((size - 1) / 16);
	shift = 63 - (unsigned)__builtin_clzll(size - 1) - 7; /* size is in (128, 256] << shift */
	step = (size_t)32 << shift;
	return 8 + 4 * shift + (unsigned)((size - 1 - ((size_t)128 << shift)) / step);
}

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

/* ------------------------------------------------------------ quarantine */

/*
 * What is freed rests before its address is used again, so that a late second free, or a late
 * write, is still found: first in a random place of `mixed`, whose former holder then goes to the
 * end of a queue (hardened_malloc, "Quarantines"). Zero, and for pages of its own without access.
 */
#define SM_MIXED 64u
#define SM_REST_LEAST 256u /* frees of its class that a chunk rests, while memory lasts */

/** A slot of a slab; slab NULL: none. */
struct sm_slot {
	struct sm_slab *slab;
	uint32_t at;
};

/* ---------------------------------------------------------------- slabs */

/** What an arena has of one class: slabs with a free slot, at most one empty, and who rests. */
struct sm_bin {
	struct sm_slab *partial[2]; /* [1]: elastic ones */
	struct sm_slot ready;	    /* of a locked slab, rested, the next to be handed out */
	size_t locked_bytes;	    /* of slabs that are not elastic */
	uint32_t empty;		    /* of the linked slabs */
	uint64_t no_run; /* sm_run_returns() + 1 when no locked pool had a run; 0: there may be */
	uint32_t head, n;	    /* of the queue: its oldest, and how many */
	uint32_t place;		    /* of mixed: where the next one goes */
	struct sm_slot mixed[SM_MIXED];
	struct sm_slot queue[SM_REST_LEAST];
};

/** sm_slab_new - a slab for this bin, linked. ENOMEM. Under the arena's lock, as all below. */
int sm_slab_new(struct sm_bin *b, unsigned class, unsigned arena, enum sm_reach reach);
void sm_slab_link(struct sm_bin *b, struct sm_slab *s);
void sm_slab_unlink(struct sm_bin *b, struct sm_slab *s);
/** sm_slab_drop - give an empty slab back, linked in its bin */
SM_COLD void sm_slab_drop(struct sm_bin *b, struct sm_slab *s);

/** sm_slab_check - the invariants of a slab */
static inline void
sm_slab_check(const struct sm_slab *s)
{
	sm_check(s->slots > 0 && s->slots <= SM_SLOTS_MOST && s->free_slots <= s->slots);
	sm_check(s->class < SM_CLASSES && s->arena < SM_ARENAS);
	sm_check(s->base != NULL && sm_region_of(s->base) != NULL);
	(void)s;
}

/** sm_slab_take - the first free slot of a slab from this one on, around the end */
static inline struct sm_slot
sm_slab_take(struct sm_bin *b, struct sm_slab *s, uint32_t from)
{
	uint32_t words = (s->slots + 63u) / 64, at = from / 64, bit;
	uint64_t bits = s->free[at] & ~UINT64_C(0) << from % 64;

	while (bits == 0) {
		at = at + 1 == words ? 0 : at + 1;
		bits = s->free[at];
	}
	bit = (uint32_t)__builtin_ctzll(bits);
	s->free[at] &= ~(UINT64_C(1) << bit);
	b->empty -= s->free_slots == s->slots;
	if (--s->free_slots == 0)
		sm_slab_unlink(b, s);
	sm_slab_check(s);
	return (struct sm_slot){ s, at * 64 + bit };
}

/** sm_slab_put - a slot is free again; its slab goes if it is one empty too many */
static inline void
sm_slab_put(struct sm_bin *b, struct sm_slot slot)
{
	struct sm_slab *s = slot.slab;
	uint64_t bit = UINT64_C(1) << slot.at % 64;

	sm_assert(slot.at < s->slots && !(s->free[slot.at / 64] & bit));
	s->free[slot.at / 64] |= bit;
	if (s->free_slots++ == 0)
		sm_slab_link(b, s);
	sm_slab_check(s);
	if (s->free_slots != s->slots)
		return;
	b->empty++;
	if (s->next || s->prev)
		sm_slab_drop(b, s);
}

/** sm_slab_give_back - every empty slab of the bin; true: there was one */
bool sm_slab_give_back(struct sm_bin *b);

/* --------------------------------------------------------------- arenas */

/** sm_arena_start - no slabs, nothing rests, fresh random order */
int sm_arena_start(void);

/** sm_packed_alloc - a slot of the class. As sm_heap_alloc; if `locked`, of a locked pool */
struct sm_made sm_packed_alloc(size_t size, size_t align, bool locked);
void sm_packed_free(struct sm_slab *s, struct sm_chunk *c);
/** sm_packed_discard - the same for what nobody has seen: it does not rest */
void sm_packed_discard(struct sm_slab *s, struct sm_chunk *c);

/** sm_arena_mine - the index of the calling thread's arena */
unsigned sm_arena_mine(void);

enum sm_turn {
	SM_COMES,
	SM_GOES,
	SM_NEVER_WAS /* it came, and nobody has seen it */
};

/** sm_arena_count - a chunk of pages of its own comes or goes in this arena's tally */
void sm_arena_count(unsigned arena, size_t bytes, enum sm_turn turn);
/** sm_arena_resize - a chunk changes its size where it is */
void sm_arena_resize(unsigned arena, size_t from, size_t to);

/** sm_arena_trim - give back slabs that are empty, once nothing rests any more if `wake`; true:
 * there was one */
bool sm_arena_trim(bool wake);

struct sm_made sm_large_alloc(size_t size, size_t align, bool locked);
/** sm_large_free - give a large chunk back, whose bytes are zero; it may be left out of the rest */
void sm_large_free(struct sm_chunk *c, bool rests);
/** sm_large_reset - nothing rests */
void sm_large_reset(void);
/** sm_large_trim - end the rest of every large chunk */
void sm_large_trim(void);

/* Around a fork: nobody else is in the room; _unlock and _revive in the child. */
void sm_arena_hold(void);
void sm_arena_let_go(void);
void sm_arena_revive(void); /* and nothing is counted */
void sm_large_hold(void);
void sm_large_let_go(void);
void sm_large_unlock(void);
void sm_window_hold(void);
void sm_window_let_go(void);

/** sm_purge_show - a purge may walk, or may not, and does not any more */
void sm_purge_show(bool there);

/** sm_heap_pinned - pin a chunk that was made, or make it anew on locked pages */
SM_COLD struct sm_made sm_heap_pinned(struct sm_made m, size_t size, size_t align, bool own_pages);

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
static inline struct sm_spot
sm_spot_of(const struct sm_chunk *c)
{
	struct sm_region *r = sm_region_of(sm_heap_bytes(c));
	size_t page = (sm_heap_at(c) - (uintptr_t)r->base) >> sm_page_shift;
	struct sm_spot s = { r, sm_run_at(r, page), 0, NULL, NULL };

	sm_assert(s.run.used && s.run.back <= page);
	s.first = page - s.run.back;
	s.start = r->base + (s.first << sm_page_shift);
	if (s.run.kind == SM_KIND_SLAB) {
		size_t slot = (size_t)(c - r->slabs[s.first].records);

		s.start += SM_ALIGN_BYTES + slot * sm_classes[s.run.class].stride;
		s.end = s.start + sm_class_most(s.run.class);
	} else {
		s.end = s.start + (s.run.pages << sm_page_shift);
	}
	return s;
}

/** sm_is_zero - every byte is zero; in a time that depends on n only */
static inline bool
sm_is_zero(const unsigned char *p, size_t n)
{
	uint64_t any = 0, word;

	for (; n >= sizeof(word); n -= sizeof(word), p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		any |= word;
	}
	for (; n > 0; n--)
		any |= *p++;
	return any == 0;
}

/** sm_assert_zero - the same, else it is the fault WRITE_AFTER_FREE */
static inline void
sm_assert_zero(const unsigned char *bytes, size_t n, const void *ptr)
{
	if (!SM_LIKELY(sm_is_zero(bytes, n)))
		sm_die(SECMALLOC_FAULT_WRITE_AFTER_FREE, ptr);
}

#endif
