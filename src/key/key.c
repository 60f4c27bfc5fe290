#include "key/key.h"

#include "cipher/cipher.h"
#include "os/os.h"

#include <sodium.h>
#include <string.h>

enum { SLOTS = 4, PREKEY_BYTES = 32, PAGES = 3 };

struct left {
	unsigned char half[SM_KEY_BYTES]; /* key XOR BLAKE2b(right.half) */
};

struct right {
	unsigned char half[PREKEY_BYTES];
	unsigned char next[PREKEY_BYTES];    /* scratch of a re-split */
	unsigned char mask[2][SM_KEY_BYTES]; /* scratch of a re-split */
};

struct slot {
	_Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
	unsigned char whole[SM_KEY_BYTES];
};

_Static_assert(SLOTS * sizeof(struct slot) <= 4096, "the slots fit one page");

static struct {
	void *reserved; /* guard, left, guard, right, guard, slots, guard */
	size_t reserved_bytes;
	struct sm_area page[PAGES];
	struct left *left;   /* under lock */
	struct right *right; /* under lock */
	struct slot *slots;  /* slots[i] under slot_lock[i] */
	struct sm_lock lock;
	struct sm_lock slot_lock[SLOTS];
	uint64_t split_ms; /* when the halves were last drawn; under lock */
	unsigned granted;
	uint32_t epoch;
	_Atomic uint64_t nonce;
} key;

static SM_TLS unsigned my_slot; /* counted from 1; 0: none yet */

static SM_NOINLINE void
mask_of(unsigned char out[SM_KEY_BYTES], const unsigned char half[PREKEY_BYTES])
{
	SM_GAP;

	SM_GAP_OPEN();
	crypto_generichash(out, SM_KEY_BYTES, half, PREKEY_BYTES, NULL, 0);
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
static void
resplit(uint64_t now)
{
	struct right *r = key.right;

	key.split_ms = now;
	if (sm_os_random(r->next, sizeof(r->next)))
		return;
	mask_of(r->mask[0], r->half);
	mask_of(r->mask[1], r->next);
	xor_into(r->mask[0], r->mask[1]);
	xor_into(key.left->half, r->mask[0]);
	memcpy(r->half, r->next, sizeof(r->half));
	sm_wipe(r->next, sizeof(r->next));
	sm_wipe(r->mask, sizeof(r->mask));
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

static int
obtain_pages(void)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require,
		.without = c->without & ~SECMALLOC_FORKSAFE };
	size_t page = c->page_bytes;
	unsigned char *base;
	int e;

	e = sm_os_reserve((2 * PAGES + 1) * page, &key.reserved);
	if (e)
		return e;
	key.reserved_bytes = (2 * PAGES + 1) * page;
	base = key.reserved;
	key.granted = ~0u;
	for (size_t i = 0; i < PAGES; i++) {
		e = sm_os_obtain(base + (2 * i + 1) * page, page, &wish, &key.page[i]);
		if (e)
			return e;
		key.granted &= key.page[i].granted;
	}
	key.left = (struct left *)(void *)key.page[0].base;
	key.right = (struct right *)(void *)key.page[1].base;
	key.slots = (struct slot *)(void *)key.page[2].base;
	return 0;
}

int
sm_key_start(void)
{
	int e = obtain_pages();

	if (e == 0) /* the left half of a random key is random, whatever the right one is */
		e = sm_os_random(key.left, sizeof(*key.left));
	if (e == 0)
		e = sm_os_random(key.right->half, sizeof(key.right->half));
	if (e) {
		sm_key_stop();
		return e;
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
	key.right = NULL;
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
	uint64_t now = sm_os_now_ms();

	l->slot = slot_of_thread();
	sm_lock_take(&key.slot_lock[l->slot], SM_RANK_KEY_SLOT);
	s = &key.slots[l->slot];
	sm_lock_take(&key.lock, SM_RANK_KEY);
	if (now > key.split_ms && now - key.split_ms >= sm_config()->resplit_ms)
		resplit(now);
	mask_of(s->whole, key.right->half);
	xor_into(s->whole, key.left->half);
	sm_lock_release(&key.lock, SM_RANK_KEY);
	sm_cipher_expand(s->state, s->whole);
	sm_wipe(s->whole, sizeof(s->whole));
	sm_wipe_traces();
	l->state = s->state;
}

void
sm_key_return(struct sm_loan *l)
{
	sm_wipe(&key.slots[l->slot], sizeof(struct slot));
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
