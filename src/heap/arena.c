#include "heap/canary.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

enum {
	RANDOM_BYTES = 512,
	LOCKED_SHARE = 2, /* of the initial pools, that is, one bin may have */
	LINE_BYTES = 64	  /* what the CPU fetches at once, usually */
};

/** What some of the threads allocate from, so that not all of them wait for one lock. */
struct arena {
	_Alignas(64) struct sm_lock lock; /* SM_RANK_ARENA: all below */
	struct sm_tally tally;
	uint64_t used; /* bit set: this bin is not as it was before the first start */
	size_t random_at;
	unsigned char random[RANDOM_BYTES]; /* decides slot order; its head seeds the next */
	struct sm_bin bins[SM_CLASSES];
};

static struct arena arenas[SM_ARENAS];
static _Atomic unsigned threads;
static SM_TLS struct arena *mine; /* the calling thread's; NULL: none yet */

_Static_assert(RANDOM_BYTES > 2 * randombytes_SEEDBYTES, "a seed and then some");
_Static_assert(SM_CLASSES <= 64, "a bit each");
_Static_assert(SM_SLOTS_MOST <= UINT16_MAX, "two random bytes choose a slot");

int
sm_arena_start(void)
{
	for (unsigned i = 0; i < SM_ARENAS; i++) {
		struct arena *a = &arenas[i];
		int e;

		for (unsigned k = 0; k < SM_CLASSES; k++)
			if (a->used >> k & 1)
				memset(&a->bins[k], 0, sizeof(a->bins[k]));
		a->lock = (struct sm_lock){ 0 };
		a->tally = (struct sm_tally){ 0 };
		a->used = 0;
		a->random_at = RANDOM_BYTES; /* nothing but a seed yet */
		e = sm_os_random(a->random, randombytes_SEEDBYTES);
		if (e)
			return e;
	}
	return 0;
}

static SM_COLD struct arena *
choose_arena(void)
{
	return mine = &arenas[atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) %
		SM_ARENAS];
}

static inline struct arena *
my_arena(void)
{
	return SM_LIKELY(mine != NULL) ? mine : choose_arena();
}

unsigned
sm_arena_mine(void)
{
	return (unsigned)(my_arena() - arenas);
}

static inline uint32_t
random_below(struct arena *a, uint32_t n)
{
	uint16_t r;

	if (!SM_LIKELY(a->random_at + sizeof(r) <= RANDOM_BYTES)) {
		randombytes_buf_deterministic(a->random, RANDOM_BYTES, a->random);
		a->random_at = randombytes_SEEDBYTES;
	}
	memcpy(&r, a->random + a->random_at, sizeof(r));
	a->random_at += sizeof(r);
	return r * n >> 16; /* Lemire 2019; n is at most 512, so the bias is under 1 in 128 */
}

/* ------------------------------------------------------------------ tally */

/* The most is noted when it becomes less, or is asked for; what is discarded never counts. */
static inline void
tally_note(struct sm_tally *t)
{
	if (t->bytes > t->most)
		t->most = t->bytes;
}

static inline void
tally_come(struct sm_tally *t, uint64_t bytes)
{
	t->chunks++;
	t->bytes += bytes;
}

static inline void
tally_go(struct sm_tally *t, uint64_t bytes)
{
	sm_check(t->chunks > 0 && t->bytes >= bytes);
	t->chunks--;
	t->bytes -= bytes;
}

void
sm_arena_count(unsigned arena, size_t bytes, enum sm_turn turn)
{
	struct arena *a = &arenas[arena];

	sm_lock_take(&a->lock, SM_RANK_ARENA);
	if (turn == SM_GOES)
		tally_note(&a->tally);
	if (turn == SM_COMES)
		tally_come(&a->tally, bytes);
	else
		tally_go(&a->tally, bytes);
	sm_lock_release(&a->lock, SM_RANK_ARENA);
}

void
sm_arena_resize(unsigned arena, size_t from, size_t to)
{
	struct arena *a = &arenas[arena];

	sm_lock_take(&a->lock, SM_RANK_ARENA);
	tally_note(&a->tally);
	a->tally.bytes += to - from;
	sm_lock_release(&a->lock, SM_RANK_ARENA);
}

void
sm_arena_hold(void)
{
	sm_lock_take(&arenas[0].lock, SM_RANK_ARENA);
	for (unsigned i = 1; i < SM_ARENAS; i++)
		sm_lock_take_also(&arenas[i].lock);
}

void
sm_arena_let_go(void)
{
	for (unsigned i = SM_ARENAS; --i > 0;)
		sm_lock_release_also(&arenas[i].lock);
	sm_lock_release(&arenas[0].lock, SM_RANK_ARENA);
}

void
sm_arena_revive(void)
{
	for (unsigned i = 0; i < SM_ARENAS; i++) {
		arenas[i].lock = (struct sm_lock){ 0 };
		arenas[i].tally = (struct sm_tally){ 0 };
	}
}

void
sm_heap_tally(struct sm_tally *t)
{
	*t = (struct sm_tally){ 0 };
	for (unsigned i = 0; i < SM_ARENAS; i++) {
		struct arena *a = &arenas[i];

		sm_lock_take(&a->lock, SM_RANK_ARENA);
		tally_note(&a->tally);
		t->chunks += a->tally.chunks;
		t->bytes += a->tally.bytes;
		t->most += a->tally.most;
		sm_lock_release(&a->lock, SM_RANK_ARENA);
	}
}

/* ------------------------------------------------------------- quarantine */

/* Its lines will be in the cache when they are wanted. */
static inline void
fetch(struct sm_slot slot)
{
	const unsigned char *bytes =
		slot.slab->base + (size_t)slot.at * sm_classes[slot.slab->class].stride;

	__builtin_prefetch(slot.slab->records + slot.at, 1);
	__builtin_prefetch(bytes + SM_CANARY_BYTES, 1);
	__builtin_prefetch(bytes + LINE_BYTES, 1);
}

/* Returns: who has rested long enough, or none. */
static inline struct sm_slot
rest(struct arena *a, struct sm_bin *b, struct sm_slot slot)
{
	struct sm_slot *place = &b->mixed[b->place], former = *place, *end, out;

	*place = slot;
	b->place = random_below(a, SM_MIXED);
	__builtin_prefetch(&b->mixed[b->place], 1);
	if (!former.slab)
		return former;
	end = &b->queue[(b->head + b->n) % SM_REST_LEAST];
	out = *end;
	*end = former;
	if (b->n < SM_REST_LEAST) {
		b->n++;
		return (struct sm_slot){ NULL, 0 };
	}
	b->head++; /* the oldest was where the newest is now */
	fetch(b->queue[b->head % SM_REST_LEAST]);
	return out;
}

static void
put_ready(struct sm_bin *b)
{
	if (b->ready.slab)
		sm_slab_put(b, b->ready);
	b->ready.slab = NULL;
}

static void
wake(struct sm_bin *b)
{
	for (; b->n > 0; b->n--)
		sm_slab_put(b, b->queue[b->head++ % SM_REST_LEAST]);
	for (unsigned i = 0; i < SM_MIXED; i++)
		if (b->mixed[i].slab) {
			sm_slab_put(b, b->mixed[i]);
			b->mixed[i].slab = NULL;
		}
}

bool
sm_arena_trim(bool woken)
{
	bool any = false;

	for (unsigned i = 0; i < SM_ARENAS; i++) {
		struct arena *a = &arenas[i];

		sm_lock_take(&a->lock, SM_RANK_ARENA);
		for (unsigned k = 0; k < SM_CLASSES; k++) {
			if (!(a->used >> k & 1))
				continue;
			put_ready(&a->bins[k]);
			if (woken)
				wake(&a->bins[k]);
			any |= sm_slab_give_back(&a->bins[k]);
		}
		sm_lock_release(&a->lock, SM_RANK_ARENA);
	}
	return any;
}

/* ---------------------------------------------------------- alloc and free */

/* Of the locked pools a bin has no more than a share while there are elastic ones: else what rests
 * of one class would be in the way of all others. */
static bool
has_its_share(const struct sm_bin *b)
{
	const struct sm_config *c = sm_config();

	return sm_pool_stretches() &&
		b->locked_bytes >= c->pool_bytes / LOCKED_SHARE * c->initial_pools;
}

/* Locked slots, whatever they cost, before elastic ones, which cost system calls each time. */
static SM_COLD struct sm_slab *
fill_bin(struct arena *a, unsigned class, enum sm_reach reach, bool greedy)
{
	struct sm_bin *b = &a->bins[class];
	unsigned arena = (unsigned)(a - arenas);
	uint64_t returns = sm_run_returns() + 1;
	bool sated = !greedy && has_its_share(b);

	a->used |= UINT64_C(1) << class;
	if (reach == SM_REACH_NONE)
		return NULL;
	if (!sated && b->no_run != returns && sm_slab_new(b, class, arena, SM_REACH_LOCKED))
		b->no_run = returns;
	if (b->partial[0])
		return b->partial[0];
	if (!b->partial[1] && reach >= SM_REACH_ELASTIC)
		(void)sm_slab_new(b, class, arena, sated ? SM_REACH_ELASTIC : reach);
	if (b->partial[0])
		return b->partial[0];
	return reach == SM_REACH_LOCKED ? NULL : b->partial[1];
}

SM_INLINE struct sm_slot
take(struct arena *a, unsigned class, size_t size, enum sm_reach reach, bool greedy)
{
	struct sm_bin *b = &a->bins[class];
	struct sm_slot slot;

	sm_lock_take(&a->lock, SM_RANK_ARENA);
	slot = b->ready;
	b->ready.slab = NULL;
	if (!SM_LIKELY(slot.slab != NULL)) {
		struct sm_slab *s = b->partial[0];

		if (!s)
			s = fill_bin(a, class, reach, greedy);
		if (s)
			slot = sm_slab_take(b, s, random_below(a, s->slots));
	}
	if (SM_LIKELY(slot.slab != NULL))
		tally_come(&a->tally, size);
	sm_lock_release(&a->lock, SM_RANK_ARENA);
	return slot;
}

static struct sm_slot
take_anywhere(unsigned class, size_t size, enum sm_reach reach)
{
	struct sm_slot slot = { NULL, 0 };
	unsigned first = sm_arena_mine();

	for (unsigned i = 0; !slot.slab && i < SM_ARENAS; i++)
		slot = take(&arenas[(first + i) % SM_ARENAS], class, size, reach, true);
	return slot;
}

/* Each step gives up a little more: that a thread keeps to its arena, a system call each time,
 * empty slabs, a pool's price, the share of others, all rest. */
static SM_COLD struct sm_slot
take_hard(unsigned class, size_t size, bool locked)
{
	enum sm_reach most = locked ? SM_REACH_LOCKED : SM_REACH_NEW;
	struct arena *a = my_arena();
	struct sm_slot slot = take_anywhere(class, size, SM_REACH_NONE);

	if (!slot.slab && !locked)
		slot = take(a, class, size, SM_REACH_PRESENT, false);
	if (!slot.slab) {
		(void)sm_arena_trim(false);
		slot = take(a, class, size, most, false);
	}
	if (!slot.slab)
		slot = take_anywhere(class, size, most);
	if (!slot.slab) {
		(void)sm_arena_trim(true);
		slot = take_anywhere(class, size, most);
	}
	if (!slot.slab) {
		sm_large_trim();
		slot = take_anywhere(class, size, most);
	}
	return slot;
}

/* Strides are multiples of 16. Of a large slot each byte is compared with the 16th behind it, as the C
 * library does that with the widest registers there are. */
static inline bool
slot_is_zero(const unsigned char *p, size_t n)
{
	enum { SMALL = 256 };
	size_t first = SM_LIKELY(n <= SMALL) ? n : SM_ALIGN_BYTES;
	uint64_t any = 0, two[2];

	for (size_t i = 0; i < first; i += sizeof(two)) {
		memcpy(two, p + i, sizeof(two));
		any |= two[0] | two[1];
	}
	return any == 0 && (first == n || memcmp(p, p + SM_ALIGN_BYTES, n - SM_ALIGN_BYTES) == 0);
}

struct sm_made
sm_packed_alloc(size_t size, size_t align, bool locked)
{
	unsigned class = sm_class_of(size + align - SM_ALIGN_BYTES);
	uint32_t stride = sm_classes[class].stride;
	struct sm_slot s = take(my_arena(), class, size, SM_REACH_LOCKED, false);
	unsigned char *first, *at;
	struct sm_chunk *c;

	if (!SM_LIKELY(s.slab != NULL))
		s = take_hard(class, size, locked);
	if (!SM_LIKELY(s.slab != NULL))
		return (struct sm_made){ NULL, ENOMEM };
	first = s.slab->base + SM_ALIGN_BYTES + (size_t)s.at * stride;
	at = (unsigned char *)sm_round_up((uintptr_t)first, align);
	if (!SM_LIKELY(slot_is_zero(first - SM_CANARY_BYTES, stride)))
		sm_die(SECMALLOC_FAULT_WRITE_AFTER_FREE, at);
	c = s.slab->records + s.at;
	c->own_pages = 0;
	c->class = (uint8_t)class;
	c->arena = s.slab->arena;
	c->elastic = s.slab->elastic;
	c->offset = (uint16_t)(at - first);
	sm_chunk_begin(c, at, size);
	if (!SM_LIKELY(!s.slab->elastic))
		return sm_heap_pinned((struct sm_made){ c, 0 }, size, align, false);
	return (struct sm_made){ c, 0 };
}

void
sm_packed_free(struct sm_slab *s, struct sm_chunk *c)
{
	struct arena *a = &arenas[s->arena];
	struct sm_bin *b = s->bin;
	struct sm_slot rested;

	sm_lock_take(&a->lock, SM_RANK_ARENA);
	tally_note(&a->tally);
	tally_go(&a->tally, c->size);
	rested = rest(a, b, (struct sm_slot){ s, (uint32_t)(c - s->records) });
	if (SM_LIKELY(rested.slab != NULL)) {
		if (b->ready.slab || rested.slab->elastic)
			sm_slab_put(b, rested);
		else
			b->ready = rested;
	}
	sm_lock_release(&a->lock, SM_RANK_ARENA);
}

void
sm_packed_discard(struct sm_slab *s, struct sm_chunk *c)
{
	struct arena *a = &arenas[c->arena];

	sm_lock_take(&a->lock, SM_RANK_ARENA);
	tally_go(&a->tally, c->size);
	sm_slab_put(&a->bins[c->class], (struct sm_slot){ s, (uint32_t)(c - s->records) });
	sm_lock_release(&a->lock, SM_RANK_ARENA);
}
