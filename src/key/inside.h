/* key/inside.h - where the halves, the slots and the wrapped keys lie */
#ifndef SM_KEY_INSIDE_H
#define SM_KEY_INSIDE_H

#include "cipher/cipher.h"
#include "key/key.h"
#include "os/os.h"

enum { SM_SLOTS = 4, SM_KEY_PAGES = 3, SM_SALT_BYTES = 16 };

/** The keys while the library is locked: ciphertext under what Argon2id makes of the material. */
struct sm_wrapped {
	unsigned char salt[SM_SALT_BYTES];
	unsigned char keys[2][SM_KEY_BYTES];
	unsigned char tag[SM_TAG_BYTES], tag_rest[SM_TAG_REST_BYTES];
};

/** What lies on the left page. */
struct sm_left {
	unsigned char half[2][SM_KEY_BYTES]; /* of each key: key XOR mask of right.half */
	struct sm_wrapped wrapped;
};

/** Where things are on the right page, which may be several. */
struct sm_right {
	unsigned char *half;		       /* prekey_bytes, random */
	unsigned char *next;		       /* as many: scratch of a re-split */
	unsigned char (*mask)[SM_KEY_BYTES];   /* two: scratch of a re-split */
	unsigned char (*whole)[SM_KEY_BYTES];  /* two: scratch of wrapping */
};

struct sm_key_slot {
	_Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
	unsigned char whole[SM_KEY_BYTES];
};

/** What lies on the third page. */
struct sm_slots {
	struct sm_key_slot lent[SM_SLOTS]; /* lent[i] under slot_lock[i] */
	struct sm_key_slot shared[2];      /* of each key: resident where the config wants it, else lent
					* to a batch, under the lock of its caller */
	struct sm_key_slot wrap;	       /* what a passphrase makes; under the same lock */
};

_Static_assert(sizeof(struct sm_slots) <= 4096, "the slots fit one page");

/** The room's one object. A key has an index, 0 or 1: where its half and its shared slot are. */
struct sm_keys {
	void *reserved; /* guard, left, guard, right, guard, slots, guard */
	size_t reserved_bytes;
	struct sm_area page[SM_KEY_PAGES];
	_Atomic(unsigned char *) shown[SM_KEY_PAGES]; /* to a purge */
	struct sm_left *left;			      /* under lock */
	struct sm_right right;			      /* under lock */
	size_t prekey_bytes;
	struct sm_slots *slots;
	struct sm_lock lock;
	struct sm_lock slot_lock[SM_SLOTS];
	uint64_t split_ms; /* when the halves were last drawn; under lock */
	unsigned granted;
	uint32_t last;		   /* epoch given out last, over the life of the process */
	_Atomic uint32_t epoch[2]; /* of each key; 0: there is none */
	_Atomic unsigned now;	   /* index of the key in force */
	_Atomic bool forgotten;	   /* wrapped only */
	_Atomic uint64_t nonce;
};
extern struct sm_keys sm_keys;

/** sm_keys_take, sm_keys_let_go - the lock, and no signal: whoever opens a page needs the key, and a
 * handler may wait for him */
static inline void
sm_keys_take(struct sm_mask *m)
{
	sm_os_mask(m);
	sm_lock_take(&sm_keys.lock, SM_RANK_KEY);
}

static inline void
sm_keys_let_go(const struct sm_mask *m)
{
	sm_lock_release(&sm_keys.lock, SM_RANK_KEY);
	sm_os_unmask(m);
}

/** sm_key_mask - HChaCha20 of a right half of 32 bytes, BLAKE2b of a longer one; its traces are the
 * caller's to wipe */
void sm_key_mask(unsigned char out[SM_KEY_BYTES], const unsigned char *half);

static inline void
sm_key_xor(unsigned char *to, const unsigned char *from)
{
	for (size_t i = 0; i < SM_KEY_BYTES; i++)
		to[i] ^= from[i];
}

/** sm_key_draw - a new key in this half; the right one is there. As sm_key_renew. */
int sm_key_draw(unsigned index, const unsigned char *from);

/** sm_key_install - halves of these keys, the right one drawn anew. Under lock. As sm_os_random. */
int sm_key_install(const unsigned char whole[2][SM_KEY_BYTES]);

/** sm_key_expand - a key from its halves into a slot. Under lock, if others may have the key. The
 * traces are the caller's to wipe. */
void sm_key_expand(struct sm_key_slot *s, unsigned index);

/** sm_key_split - new halves of the same keys. Under lock, as said above. */
void sm_key_split(uint64_t now_ms);

#endif
