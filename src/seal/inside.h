/* seal/inside.h - one chunk in hand */
#ifndef SM_SEAL_INSIDE_H
#define SM_SEAL_INSIDE_H

#include "heap/heap.h"
#include "key/key.h"
#include "os/os.h"
#include "seal/seal.h"

/** A live chunk whose lock this thread holds. */
struct sm_hand {
	struct sm_chunk *c;
	unsigned char *ptr;
};

/** sm_hand_again - the gate is shut, or this is no chunk: decide, once no fork is under way */
SM_COLD struct sm_hand sm_hand_again(struct sm_chunk *c, const void *ptr);

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
	if (SM_LIKELY(sm_heap_live(c) && sm_heap_at(c) == (uintptr_t)ptr && sm_config_runs()))
		return (struct sm_hand){ c, (unsigned char *)(uintptr_t)ptr };
	return sm_hand_again(c, ptr);
}

/** sm_hand_missed - why not: EINVAL, ECHILD */
SM_COLD int sm_hand_missed(const void *ptr);

static inline void
sm_hand_release(struct sm_hand *h)
{
	sm_lock_release(&h->c->lock, SM_RANK_CHUNK);
}

/** sm_hand_close - veil a clear chunk, and unpin it; verified and accessible. ECANCELED. */
int sm_hand_close(struct sm_hand *h, const struct sm_loan *key);

/** sm_hand_open - pin and unveil a sealed chunk, accessible. EBADMSG, ENOMEM: it is as it was;
 * ECANCELED. The key is the one of its epoch. */
int sm_hand_open(struct sm_hand *h, const struct sm_loan *key);

/** sm_hand_carry - from the other key to the one in force, if it is sealed with that; as open */
int sm_hand_carry(struct sm_hand *h, const struct sm_loans *keys);

/**
 * sm_hand_set_veil - open or close, whatever protect said
 *
 * Args:    keys  NULL: lent for this chunk
 * Returns: 0; EBUSY, EBADMSG, ENOMEM, EACCES, ECANCELED.
 */
int sm_hand_set_veil(struct sm_hand *h, enum sm_veil veil, const struct sm_loans *keys);

/** sm_hand_close_frozen - close a clear chunk; on pages of its own nobody writes meanwhile */
int sm_hand_close_frozen(struct sm_hand *h);

/** sm_hand_halt, sm_hand_resume - close a clear chunk, be it held, and open it again; in between it
 * stays pinned. ENOMEM, ECANCELED; EBADMSG: it was written. */
int sm_hand_halt(struct sm_hand *h, const struct sm_loan *key);
int sm_hand_resume(struct sm_hand *h, const struct sm_loan *key);

/** sm_hand_forget - a sealed chunk counts as clear; its tag is gone */
void sm_hand_forget(struct sm_hand *h);

/** sm_hand_lift - as sm_heap_lift, unless everything is purged: then ECANCELED */
static inline int
sm_hand_lift(const struct sm_hand *h)
{
	if (SM_LIKELY(h->c->access == SECMALLOC_READWRITE))
		return 0;
	return sm_purge_fence() ? sm_state_refuse() : sm_heap_lift(h->c);
}

/** sm_hand_key - the key for what was sealed in this epoch; tampered with, it is any */
static inline const struct sm_loan *
sm_hand_key(const struct sm_loans *keys, uint32_t epoch)
{
	return epoch && epoch == keys->other.epoch ? &keys->other : &keys->now;
}

/** sm_hand_stamp - it is open from now on */
static inline void
sm_hand_stamp(struct sm_chunk *c)
{
	if (!SM_LIKELY(sm_config()->reseal_ms == 0))
		c->opened = sm_os_now_ms();
}

/** sm_batch_hold, sm_batch_let_go - nobody walks, and the keys stay */
void sm_batch_hold(void);
/** sm_batch_try - the same, if nobody else does */
bool sm_batch_try(void);
void sm_batch_let_go(void);

/** sm_batch_settle - the gate is shut: whoever had a chunk in hand has put it down */
void sm_batch_settle(void);

/** sm_batch_carry - carry all chunks to the key in force, and drop the other
 *
 * Args: forgiving  one that was tampered with is left behind */
int sm_batch_carry(bool forgiving);

/** sm_seal_bury - free what was freed while it could not be touched */
void sm_seal_bury(void);

/** sm_hand_moved - a chunk was put elsewhere: a walk may have missed it on its way */
void sm_hand_moved(void);

#endif
