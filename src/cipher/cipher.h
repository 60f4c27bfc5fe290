/*
 * cipher.h - one AEAD, chosen once at start and self-tested. Floor 2.
 *
 * Knows bytes, not allocations. Keys are 32 bytes, tags 16 or 32; the nonce is a counter that the
 * caller never repeats under one key (NIST SP 800-38D, 8.2.1: deterministic construction).
 */
#ifndef SM_CIPHER_H
#define SM_CIPHER_H

#include "base/base.h"

#define SM_KEY_BYTES 32u
#define SM_TAG_BYTES 16u /* of every tag */
#define SM_TAG_REST_BYTES 16u /* more, of the tags that are longer */
#define SM_TAG_MOST_BYTES (SM_TAG_BYTES + SM_TAG_REST_BYTES)
#define SM_CIPHER_STATE_BYTES 512u /* the largest expanded key: crypto_aead_aes256gcm_state */

/** What an operation leaves on the stack and in registers, and who wipes it. */
enum sm_traces {
	SM_TRACES_LENT = 0, /* wiped, and what expanding the key left behind */
	SM_TRACES_OWN,	    /* wiped: the key was expanded long ago */
	SM_TRACES_STAY	    /* by the caller, by sm_wipe_traces_of(SM_WALK_TRACE_BYTES) */
};

/** One message: encrypted or decrypted in place. */
struct sm_message {
	unsigned char *bytes;
	size_t n;
	unsigned char *tag; /* SM_TAG_BYTES, out of line */
	uint64_t nonce;
	unsigned char *to; /* sealing: where the ciphertext goes; NULL: in place */
	const void *ad; /* associated data: authenticated, not stored */
	size_t ad_bytes;
	bool scrap; /* opening: forged bytes need not stay as they were; the caller wipes them */
	unsigned char *tag_rest; /* SM_TAG_REST_BYTES; used where sm_cipher_tag_bytes needs it */
	enum sm_traces traces;
};

/**
 * sm_cipher_start - choose the AEAD and run its known-answer tests
 *
 * Args:    which  enum secmalloc_cipher
 * Returns: 0; ENOTSUP: the build or the CPU lacks it; EIO: it computes wrong answers.
 */
int sm_cipher_start(unsigned which);

/** sm_cipher_id - enum secmalloc_cipher in use */
unsigned sm_cipher_id(void);

/** sm_cipher_tag_bytes - SM_TAG_BYTES or SM_TAG_MOST_BYTES */
size_t sm_cipher_tag_bytes(void);

/** sm_cipher_limit - the longest message in bytes */
size_t sm_cipher_limit(void);

/**
 * sm_cipher_expand - key to state: SM_CIPHER_STATE_BYTES aligned to 64, on locked pages
 *
 * The caller wipes the traces, once it has done its other work with the key.
 */
void sm_cipher_expand(void *state, const unsigned char key[SM_KEY_BYTES]);

/**
 * sm_cipher_learn - how to wipe the traces of short messages faster, where SM_TRACES_OWN says so
 *
 * Costs some 0.2 ms, once for a cipher; while there is no other thread here.
 * Args: state  scratch, as of sm_cipher_expand: a key of zeros stays there.
 */
void sm_cipher_learn(void *state);

/** sm_cipher_seal - encrypt in place and write the tag; leaves no trace but as `traces` has it */
void sm_cipher_seal(const void *state, const struct sm_message *m);

/**
 * sm_cipher_open - verify and decrypt in place; leaves no trace but as `traces` has it
 *
 * Returns: 0; EBADMSG: forged, every byte is as it was (unless `scrap`) and no plaintext was
 *          written.
 */
int sm_cipher_open(const void *state, const struct sm_message *m);

#endif
