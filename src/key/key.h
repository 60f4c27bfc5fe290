/*
 * key.h - the master key: lent for one operation, hidden otherwise. Floor 3, beside heap.
 *
 * At rest the key is two halves on pages of their own, hidden where granted: the right one, of
 * prekey_size bytes, is random (OpenSSH's shielded keys, sshkey.c), the left one is the key XORed
 * with the BLAKE2b of the right one. Both are re-randomised at the next use after resplit_ms.
 * Whole, and expanded, it exists only in a slot of a third such page, between sm_key_lend and
 * sm_key_return; or, with SECMALLOC_KEY_RESIDENT, expanded on that page for good.
 */
#ifndef SM_KEY_H
#define SM_KEY_H

#include "base/base.h"

/** A key lent: to be returned by the same thread, with no lock of the key room in between. */
struct sm_loan {
	const void *state; /* expanded, for sm_cipher_seal and _open */
	unsigned slot;
};

/**
 * sm_key_start - draw a random key
 *
 * Returns: 0, or what sm_os_obtain and sm_os_random give, with nothing left behind.
 */
int sm_key_start(void);

/** sm_key_stop - wipe the key and give its pages back; also after a failed start */
void sm_key_stop(void);

/** sm_key_orphan - in a forked child: forget pages that were not inherited */
void sm_key_orphan(void);

/** sm_key_granted - protection bits that hold for every page of the key */
unsigned sm_key_granted(void);

/** sm_key_lend - make the key whole in a slot; waits while every slot is lent
 *
 * Its traces on the stack and in registers are wiped by the cipher call that must follow. */
void sm_key_lend(struct sm_loan *l);

/** sm_key_return - wipe the slot */
void sm_key_return(struct sm_loan *l);

/** sm_key_nonce - a number never given out before under this key */
uint64_t sm_key_nonce(void);

/** sm_key_epoch - which key this is: counted over the life of the process */
uint32_t sm_key_epoch(void);

#endif
