#include "key/key.h"

#include "cipher/cipher.h"
#include "os/os.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

enum { SLOTS = 4, PAGES = 3 };

struct left {
	unsigned char half[SM_KEY_BYTES]; /* key XOR BLAKE2b(right.half) */
};

/** Where things are on the right page, which may be several. */
struct right {
	unsigned char *half;		       /* prekey_bytes, random */
	unsigned char *next;		       /* as many: scratch of a re-split */
	unsigned char (*mask)[SM_KEY_BYTES];   /* two: scratch of a re-split */
};

struct slot {
	_Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
	unsigned char whole[SM_KEY_BYTES];
};

/** What lies on the third page. */
struct slots {
	struct slot lent[SLOTS]; /* lent[i] under slot_lock[i] */
	struct slot resident;	 /* the expanded key, where the config wants it; read-only */
};

_Static_assert(sizeof(struct slots) <= 4096, "the slots fit one page");

static struct {
	void *reserved; /* guard, left, guard, right, guard, slots, guard */
	size_t reserved_bytes;
	struct sm_area page[PAGES];
	struct left *left;  /* under lock */
	struct right right; /* under lock */
	size_t prekey_bytes;
	struct slots *slots;
	struct sm_lock lock;
	struct sm_lock slot_lock[SLOTS];
	uint64_t split_ms; /* when the halves were last drawn; under lock */
	unsigned granted;
	uint32_t epoch;
	_Atomic uint64_t nonce;
} key;

static SM_TLS unsigned my_slot; /* counted from 1; 0: none yet */

/* Its traces lie deep enough for the cipher call that follows a loan to wipe them. */
static SM_NOINLINE void
mask_of(unsigned char out[SM_KEY_BYTES], const unsigned char *half)
{
	SM_GAP_DEEP;

	SM_GAP_OPEN();
	crypto_generichash(out, SM_KEY_BYTES, half, key.prekey_bytes, NULL, 0);
	SM_GAP_CLOSE();
}

static void
xor_into(unsigned char *to, const unsigned char *from)
{
	for (size_t i = 0; i < SM_KEY_BYTES; i++)
		to[i] ^= from[i];
}

/* The two masks are joined first, so that the key is never whole here. Without fresh randomness
 * the old split stays in force until the next turn. */
static SM_COLD void
resplit(uint64_t now)
{
	struct right *r = &key.right;

	key.split_ms = now;
	if (sm_os_random(r->next, key.prekey_bytes))
		return;
	mask_of(r->mask[0], r->half);
	mask_of(r->mask[1], r->next);
	xor_into(r->mask[0], r->mask[1]);
	xor_into(key.left->half, r->mask[0]);
	memcpy(r->half, r->next, key.prekey_bytes);
	sm_wipe(r->next, key.prekey_bytes);
	sm_wipe(r->mask, 2 * SM_KEY_BYTES);
	sm_wipe_traces();
}

/* Threads spread over the slots, so that they seldom wait for one another. */
static unsigned
slot_of_thread(void)
{
	static _Atomic unsigned threads;

	if (my_slot == 0)
		my_slot = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) % SLOTS + 1;
	return my_slot - 1;
}

static void
lay_out(void)
{
	unsigned char *right = key.page[1].base;

	key.left = (struct left *)(void *)key.page[0].base;
	key.right.half = right;
	key.right.next = right + key.prekey_bytes;
	key.right.mask = (unsigned char (*)[SM_KEY_BYTES])(void *)(right + 2 * key.prekey_bytes);
	key.slots = (struct slots *)(void *)key.page[2].base;
}

static int
obtain_pages(void)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require,
		.without = c->without & ~SECMALLOC_FORKSAFE };
	size_t page = c->page_bytes, right = 2 * (c->prekey_bytes + SM_KEY_BYTES);
	const size_t bytes[PAGES] = { page, sm_round_up(right, page), page };
	unsigned char *at;
	int e;

	key.prekey_bytes = c->prekey_bytes;
	key.reserved_bytes = 2 * PAGES * page + bytes[1];
	e = sm_os_reserve(key.reserved_bytes, &key.reserved);
	if (e)
		return e;
	at = key.reserved;
	key.granted = ~0u;
	for (size_t i = 0; i < PAGES; i++) {
		at += page;
		e = sm_os_obtain(at, bytes[i], &wish, &key.page[i]);
		if (e)
			return e;
		at += bytes[i];
		key.granted &= key.page[i].granted;
	}
	lay_out();
	return 0;
}

static SM_NOINLINE void
derive(unsigned char out[SM_KEY_BYTES], const struct slot *from)
{
	SM_GAP;

	SM_GAP_OPEN();
	crypto_generichash(out, SM_KEY_BYTES, from->state, SM_KEY_BYTES, from->whole, SM_KEY_BYTES);
	SM_GAP_CLOSE();
}

/* What a provider gives is no AEAD key: that is BLAKE2b keyed with it over fresh random bytes, so
 * that the same answer never makes the same key (RFC 7693, 2.9). */
static int
provide(unsigned char out[SM_KEY_BYTES], struct slot *scratch)
{
	const struct sm_config *c = sm_config();
	int e = c->key_provider(scratch->whole, c->key_arg);

	if (e)
		e = sm_fail(e > 0 ? e : EIO, "key_provider answered %d", e);
	else
		e = sm_os_random(scratch->state, SM_KEY_BYTES);
	if (e == 0)
		derive(out, scratch);
	sm_wipe(scratch, sizeof(*scratch));
	sm_wipe_traces();
	return e;
}

/* The left half of a random key is random, whatever the right one is. */
static int
draw_key(void)
{
	int e = sm_os_random(key.right.half, key.prekey_bytes);

	if (e)
		return e;
	if (!sm_config()->key_provider)
		return sm_os_random(key.left, sizeof(*key.left));
	e = provide(key.left->half, &key.slots->lent[0]);
	if (e)
		return e;
	mask_of(key.right.mask[0], key.right.half);
	xor_into(key.left->half, key.right.mask[0]);
	sm_wipe(key.right.mask, SM_KEY_BYTES);
	sm_wipe_traces();
	return 0;
}

/* Under lock, if others may have the key. The traces are the caller's to wipe. */
static void
expand_into(struct slot *s)
{
	mask_of(s->whole, key.right.half);
	xor_into(s->whole, key.left->half);
	sm_cipher_expand(s->state, s->whole);
	sm_wipe(s->whole, sizeof(s->whole));
}

int
sm_key_start(void)
{
	int e = obtain_pages();

	if (e == 0)
		e = draw_key();
	if (e) {
		sm_key_stop();
		return e;
	}
	if (sm_config()->key_resident) {
		expand_into(&key.slots->resident);
		sm_wipe_traces();
	}
	key.split_ms = sm_os_now_ms();
	atomic_store_explicit(&key.nonce, 0, memory_order_relaxed);
	key.epoch++;
	return 0;
}

void
sm_key_stop(void)
{
	for (size_t i = 0; i < PAGES; i++) {
		if (key.page[i].base)
			sm_wipe(key.page[i].base, key.page[i].bytes);
		sm_os_release(&key.page[i]);
	}
	sm_os_unreserve(key.reserved, key.reserved_bytes);
	key.reserved = NULL;
	key.reserved_bytes = 0;
	key.left = NULL;
	key.right = (struct right){ 0 };
	key.slots = NULL;
	key.granted = 0;
}

void
sm_key_orphan(void)
{
	for (size_t i = 0; i < PAGES; i++) {
		if (key.page[i].base)
			sm_os_cover(key.page[i].base, key.page[i].bytes, key.page[i].absent);
		key.page[i] = (struct sm_area){ 0 };
	}
	key.reserved = NULL; /* a few pages of address space, left covered */
	key.lock = (struct sm_lock){ 0 };
	for (size_t i = 0; i < SLOTS; i++)
		key.slot_lock[i] = (struct sm_lock){ 0 };
	sm_key_stop();
}

unsigned
sm_key_granted(void)
{
	return key.granted;
}

void
sm_key_lend(struct sm_loan *l)
{
	struct slot *s;
	uint64_t now;

	l->slot = slot_of_thread();
	sm_lock_take(&key.slot_lock[l->slot], SM_RANK_KEY_SLOT);
	if (sm_config()->key_resident) {
		l->state = key.slots->resident.state;
		return;
	}
	now = sm_os_now_ms();
	s = &key.slots->lent[l->slot];
	sm_lock_take(&key.lock, SM_RANK_KEY);
	if (now > key.split_ms && now - key.split_ms >= sm_config()->resplit_ms)
		resplit(now);
	expand_into(s);
	sm_lock_release(&key.lock, SM_RANK_KEY);
	l->state = s->state;
}

void
sm_key_return(struct sm_loan *l)
{
	if (l->state != key.slots->resident.state)
		sm_wipe(&key.slots->lent[l->slot], sizeof(struct slot));
	l->state = NULL;
	sm_lock_release(&key.slot_lock[l->slot], SM_RANK_KEY_SLOT);
}

uint64_t
sm_key_nonce(void)
{
	return atomic_fetch_add_explicit(&key.nonce, 1, memory_order_relaxed);
}

uint32_t
sm_key_epoch(void)
{
	return key.epoch;
}
