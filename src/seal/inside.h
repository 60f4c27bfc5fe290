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

/** sm_hand_take - find and lock. EINVAL, ECHILD, with nothing locked. */
int sm_hand_take(const void *ptr, struct sm_hand *h);

void sm_hand_release(struct sm_hand *h);

/** sm_hand_close - veil a clear chunk; verified and accessible */
void sm_hand_close(struct sm_hand *h, const struct sm_loan *key);

/** sm_hand_open - unveil a sealed chunk, accessible. EBADMSG: it stays as it was. */
int sm_hand_open(struct sm_hand *h, const struct sm_loan *key);

#endif
