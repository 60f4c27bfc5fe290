/* seal/inside.h - one chunk in hand */
#ifndef SM_SEAL_INSIDE_H
#define SM_SEAL_INSIDE_H

#include "heap/heap.h"
#include "key/key.h"
#include "seal/seal.h"

/** A live chunk whose lock this thread holds. */
struct sm_hand {
	struct sm_chunk *c;
	unsigned char *ptr;
};

/** sm_hand_take - find and lock; c is NULL where nothing was locked
 *
 * The record may have changed hands before its lock was ours, so it is looked at again. */
static inline struct sm_hand
sm_hand_take(const void *ptr)
{
	struct sm_chunk *c = sm_heap_look(ptr);

	if (!SM_LIKELY(c != NULL))
		return (struct sm_hand){ NULL, NULL };
	sm_lock_take(&c->lock, SM_RANK_CHUNK);
	if (SM_LIKELY(sm_heap_live(c) && sm_heap_at(c) == (uintptr_t)ptr))
		return (struct sm_hand){ c, (unsigned char *)(uintptr_t)ptr };
	sm_lock_release(&c->lock, SM_RANK_CHUNK);
	return (struct sm_hand){ NULL, NULL };
}

/** sm_hand_missed - why not: EINVAL, ECHILD */
SM_COLD int sm_hand_missed(const void *ptr);

static inline void
sm_hand_release(struct sm_hand *h)
{
	sm_lock_release(&h->c->lock, SM_RANK_CHUNK);
}

/** sm_hand_close - veil a clear chunk, and unpin it; verified and accessible */
void sm_hand_close(struct sm_hand *h, const struct sm_loan *key);

/** sm_hand_open - pin and unveil a sealed chunk, accessible. EBADMSG, ENOMEM: it is as it was. */
int sm_hand_open(struct sm_hand *h, const struct sm_loan *key);

/** sm_hand_set_veil - open or close, whatever protect said. EBUSY, EBADMSG, ENOMEM. */
int sm_hand_set_veil(struct sm_hand *h, enum sm_veil veil);

/** sm_hand_forget - a sealed chunk counts as clear; its tag is gone */
void sm_hand_forget(struct sm_hand *h);

#endif
