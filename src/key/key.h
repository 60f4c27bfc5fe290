/*
 * key.h - the master key: lent for one operation, hidden otherwise. Floor 3, beside heap.
 *
 * At rest the key is two halves on pages of their own, hidden where granted: the right one, of
 * prekey_size bytes, is random (OpenSSH's shielded keys, sshkey.c), the left one is the key XORed
 * with the BLAKE2b of the right one (HChaCha20, where that has 32 bytes). Both are re-randomised
 * every resplit_ms. Whole, and expanded, it exists only in a slot of a third such page, while it is
 * lent; or, with SECMALLOC_KEY_RESIDENT, expanded on that page for good.
 *
 * Each key has an epoch. One is in force; beside it there may be another, whose chunks are on their
 * way to it. Once everything is purged every call fails with ECANCELED and leaves no key behind.
 */
#ifndef SM_KEY_H
#define SM_KEY_H

#include "base/base.h"

/** A key lent: to be returned by the same thread, with no lock of the key room in between. */
struct sm_loan {
	const void *state; /* expanded, for sm_cipher_seal and _open; NULL: none */
	uint32_t epoch;	   /* of this key */
	unsigned slot;
	unsigned char traces; /* enum sm_traces, for sm_message */
};

/** Both keys there may be, lent for many operations. */
struct sm_loans {
	struct sm_loan now, other;
};

/**
 * sm_key_start - draw a random key
 *
 * Returns: 0, or what sm_os_obtain, sm_os_random and the provider give; ECANCELED. Then nothing is
 * left behind.
 */
int sm_key_start(void);

/** sm_key_stop - wipe the keys and give their pages back; also after a failed start */
void sm_key_stop(void);

/** The keys on their way to a forked child, or to the daemon, on pages for secrets. */
struct sm_parcel {
	unsigned char whole[2][32];
	uint32_t epoch[2];
	unsigned now;
};

/** sm_key_pack - put them there */
void sm_key_pack(struct sm_parcel *p);

/** sm_key_unpack - in the child, after sm_key_orphan: the same keys on its own pages. As start. */
int sm_key_unpack(const struct sm_parcel *p);

/** sm_key_orphan - in a forked child: forget pages that were not inherited */
void sm_key_orphan(void);

/** sm_key_granted - protection bits that hold for every page of the keys */
unsigned sm_key_granted(void);

/** sm_key_purge - wipe every page there is; async-signal-safe, inside sm_purge_enter */
void sm_key_purge(void);

/**
 * sm_key_lend - make a key whole in a slot; waits while every slot is lent
 *
 * Its traces on the stack and in registers are wiped by the cipher call that must follow.
 *
 * Args:    epoch  which; 0, or one that there never was: the one in force
 * Returns: 0; EACCES: locked; ECANCELED: then nothing is lent.
 */
int sm_key_lend(struct sm_loan *l, uint32_t epoch);

/** sm_key_lend_now - instead of a loan of another key, one of the key in force. As sm_key_lend. */
int sm_key_lend_now(struct sm_loan *l);

/** sm_key_return - wipe the slot */
void sm_key_return(struct sm_loan *l);

/** sm_key_in_force - what was lent is still what new things are sealed with */
bool sm_key_in_force(const struct sm_loan *l);

/** sm_key_lend_all - both at once, for a walk; one caller at a time. As sm_key_lend. */
int sm_key_lend_all(struct sm_loans *l);
void sm_key_return_all(struct sm_loans *l);

/**
 * sm_key_lend_beside - the other key, while one in force is lent too; one caller at a time, and none
 * of sm_key_lend_all. As sm_key_lend; EINVAL: there is no key of that epoch.
 */
int sm_key_lend_beside(struct sm_loan *l, uint32_t epoch);
void sm_key_return_beside(struct sm_loan *l);

/** sm_key_nonce - a number never given out before in this process */
uint64_t sm_key_nonce(void);

/** sm_key_tick - re-split if it is time; returns ms until it is */
unsigned sm_key_tick(void);

/* The rest is for one caller at a time, the one of sm_key_lend_all, with nothing lent to it. */

/**
 * sm_key_renew - a new key in force; the old one is the other. What a provider, getrandom say.
 *
 * Args:    from  in a child: what stands for the provider's answer; NULL: ask it
 */
int sm_key_renew(const unsigned char *from);

/** sm_key_revert - the other key is in force again */
void sm_key_revert(void);

/** sm_key_drop - wipe the other key: nothing is sealed with it any more */
void sm_key_drop(void);

/** sm_key_has_other - there is one */
bool sm_key_has_other(void);

/**
 * sm_key_wrap - a wrapped copy of the keys, under what Argon2id makes of the material
 *
 * Returns: 0; ENOMEM: the work memory; EINVAL: material too long; as sm_os_random; ECANCELED.
 */
int sm_key_wrap(const void *material, size_t n);

/** sm_key_unwrapped - wipe the wrapped copy */
void sm_key_unwrapped(void);

/** sm_key_forget - wipe all but the wrapped copy, once nothing is lent; resident, nothing is */
void sm_key_forget(void);

/** sm_key_restore - undo sm_key_forget with what was packed before. EPROTO: these are other keys; as
 * sm_os_random, ECANCELED. */
int sm_key_restore(const struct sm_parcel *p);

/** sm_key_unwrap - undo sm_key_forget. EPERM: other material; as sm_key_wrap: forgotten still */
int sm_key_unwrap(const void *material, size_t n);

#endif
