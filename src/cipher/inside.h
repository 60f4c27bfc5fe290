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
	uint64_t lines;	    /* the same, known line by line; 0: not known */
};

struct sm_aead {
	enum secmalloc_cipher id;
	const char *name;
	const char *lack; /* what there is not, where it is not available, up to the name */
	bool (*available)(void);
	size_t (*limit)(void);
	size_t counter_at; /* where in the nonce the counter is; zeros around it */
	/* the key, for nonces that begin like this one up to counter_at */
	void (*expand)(void *state, const unsigned char *key, const unsigned char *nonce);
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

/**
 * sm_lines_known - whether single lines of dead stack can be wiped faster than all of it: AVX-512
 *
 * Lines of 64 bytes are counted down from the top: where the frames of what the caller calls begin.
 */
bool sm_lines_known(void);
void sm_lines_mark(uintptr_t top, uint64_t mark);
uint64_t sm_lines_written(uintptr_t top, uint64_t mark); /* a bit for each that is not all marks */
void sm_lines_wipe(uintptr_t top, uint64_t lines);	 /* and the vector registers */

/** sm_lines_top - in a function that has an object of SM_LINE_ALIGNED: always as far from the end of
 * its frame */
#define SM_LINE_ALIGNED _Alignas(64)
SM_INLINE uintptr_t
sm_lines_top(void)
{
	uintptr_t top = 0;

#if defined(__x86_64__)
	__asm__ volatile("mov %%rsp,%0" : "=r"(top));
#endif
	return top & ~(uintptr_t)63;
}

#define SM_LACK_CPU "this CPU has no instructions for"
#define SM_LACK_BUILD "this build's libsodium has no"

static inline void
sm_aead_copy_key(unsigned char *to, const unsigned char *key, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = key[i];
}

#endif
