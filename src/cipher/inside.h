/* cipher/inside.h - one AEAD of libsodium behind one shape */
#ifndef SM_CIPHER_INSIDE_H
#define SM_CIPHER_INSIDE_H

#include "cipher/cipher.h"

#define SM_NONCE_BYTES 32u /* the longest; shorter ones use the first bytes */

/** A message with nonce and tag in one piece each, so that published vectors can be tested. */
struct sm_raw {
	unsigned char *bytes;
	unsigned char *to; /* sealing: the ciphertext */
	size_t n;
	unsigned char *tag;
	const unsigned char *nonce;
	const void *ad;
	size_t ad_bytes;
	size_t trace_bytes; /* of stack to be wiped afterwards; 0: the caller does it */
};

struct sm_aead {
	enum secmalloc_cipher id;
	const char *name;
	const char *lack; /* what there is not, where it is not available, up to the name */
	bool (*available)(void);
	size_t (*limit)(void);
	void (*expand)(void *state, const unsigned char *key);
	void (*seal)(const void *state, const struct sm_raw *r);
	/* 0 or -1; verify only, writing nothing, where write is false */
	int (*open)(const void *state, const struct sm_raw *r, bool write);
	/* a published vector: key, nonce, text and associated data, and the tag they give */
	const unsigned char *key, *nonce, *text, *ad, *tag;
	size_t text_bytes, ad_bytes, tag_bytes;
	size_t trace_bytes; /* how deep seal and open leave anything worth wiping */
};

extern const struct sm_aead sm_aead_xchacha20poly1305, sm_aead_aes256gcm;
extern const struct sm_aead sm_aead_aegis256, sm_aead_aegis128l;

#define SM_LACK_CPU "this CPU has no instructions for"
#define SM_LACK_BUILD "this build's libsodium has no"

static inline void
sm_aead_copy_key(unsigned char *to, const unsigned char *key, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = key[i];
}

#endif
