#include "cipher/inside.h"

#include <sodium.h>

enum { TRACE_BYTES_256 = 832, TRACE_BYTES_128L = 960 };

_Static_assert(crypto_aead_aegis256_KEYBYTES == SM_KEY_BYTES, "one key of ours is one of these");
_Static_assert(crypto_aead_aegis128l_KEYBYTES <= SM_KEY_BYTES, "and more than one of AEGIS-128L");
_Static_assert(crypto_aead_aegis256_ABYTES == SM_TAG_MOST_BYTES &&
		crypto_aead_aegis128l_ABYTES == SM_TAG_MOST_BYTES, "tags have a rest");
_Static_assert(crypto_aead_aegis256_NPUBBYTES <= SM_NONCE_BYTES, "the longest nonce");

/* draft-irtf-cfrg-aegis-aead, test vector 5 of AEGIS-256 and of AEGIS-128L */
static const unsigned char kat_key[] = {
	0x10, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00
};
static const unsigned char kat_nonce[] = {
	0x10, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00
};
static const unsigned char kat_text[] = {
	0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
	0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
	0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37
};
static const unsigned char kat_ad[] = {
	0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
	0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
	0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29
};
static const unsigned char kat_tag_256[] = {
	0xa3, 0xac, 0xa2, 0x70, 0xc0, 0x06, 0x09, 0x4d, 0x71, 0xc2, 0x0e, 0x69, 0x10, 0xb5, 0x16, 0x1c,
	0x08, 0x26, 0xdf, 0x23, 0x3d, 0x08, 0x91, 0x9a, 0x56, 0x6e, 0xc2, 0xc0, 0x59, 0x90, 0xf7, 0x34
};
static const unsigned char kat_tag_128l[] = {
	0xb9, 0x1e, 0x29, 0x47, 0xa3, 0x3d, 0xa8, 0xbe, 0xe8, 0x9b, 0x67, 0x94, 0xe6, 0x47, 0xba, 0xf0,
	0xfc, 0x83, 0x5f, 0xf5, 0x74, 0xac, 0xa3, 0xfc, 0x27, 0xc3, 0x3b, 0xe0, 0xdb, 0x2a, 0xff, 0x98
};

static bool
available(void)
{
	return (sodium_runtime_has_aesni() && sodium_runtime_has_avx()) ||
		sodium_runtime_has_armcrypto();
}

/* ------------------------------------------------------------- AEGIS-256 */

static size_t
limit_256(void)
{
	return crypto_aead_aegis256_messagebytes_max();
}

static void
expand_256(void *state, const unsigned char *key, const unsigned char *nonce)
{
	(void)nonce;
	sm_aead_copy_key(state, key, crypto_aead_aegis256_KEYBYTES);
}

static void
seal_256(const void *state, const struct sm_raw *r)
{
	crypto_aead_aegis256_encrypt_detached(r->to, r->tag, NULL, r->bytes, r->n, r->ad,
		r->ad_bytes, NULL, r->nonce, state);
}

static int
open_256(const void *state, const struct sm_raw *r, bool write)
{
	return crypto_aead_aegis256_decrypt_detached(write ? r->bytes : NULL, NULL, r->bytes, r->n,
		r->tag, r->ad, r->ad_bytes, r->nonce, state);
}

const struct sm_aead sm_aead_aegis256 = {
	.id = SECMALLOC_CIPHER_AEGIS256,
	.name = "AEGIS-256",
	.lack = SM_LACK_CPU,
	.available = available,
	.limit = limit_256,
	.expand = expand_256,
	.seal = seal_256,
	.open = open_256,
	.key = kat_key,
	.nonce = kat_nonce,
	.text = kat_text,
	.ad = kat_ad,
	.tag = kat_tag_256,
	.text_bytes = sizeof(kat_text),
	.ad_bytes = sizeof(kat_ad),
	.tag_bytes = sizeof(kat_tag_256),
	.trace_bytes = TRACE_BYTES_256,
};

/* ------------------------------------------------------------ AEGIS-128L */

static size_t
limit_128l(void)
{
	return crypto_aead_aegis128l_messagebytes_max();
}

static void
expand_128l(void *state, const unsigned char *key, const unsigned char *nonce)
{
	(void)nonce;
	sm_aead_copy_key(state, key, crypto_aead_aegis128l_KEYBYTES);
}

static void
seal_128l(const void *state, const struct sm_raw *r)
{
	crypto_aead_aegis128l_encrypt_detached(r->to, r->tag, NULL, r->bytes, r->n, r->ad,
		r->ad_bytes, NULL, r->nonce, state);
}

static int
open_128l(const void *state, const struct sm_raw *r, bool write)
{
	return crypto_aead_aegis128l_decrypt_detached(write ? r->bytes : NULL, NULL, r->bytes, r->n,
		r->tag, r->ad, r->ad_bytes, r->nonce, state);
}

const struct sm_aead sm_aead_aegis128l = {
	.id = SECMALLOC_CIPHER_AEGIS128L,
	.name = "AEGIS-128L",
	.lack = SM_LACK_CPU,
	.available = available,
	.limit = limit_128l,
	.expand = expand_128l,
	.seal = seal_128l,
	.open = open_128l,
	.key = kat_key,
	.nonce = kat_nonce,
	.text = kat_text,
	.ad = kat_ad,
	.tag = kat_tag_128l,
	.text_bytes = sizeof(kat_text),
	.ad_bytes = sizeof(kat_ad),
	.tag_bytes = sizeof(kat_tag_128l),
	.trace_bytes = TRACE_BYTES_128L,
};
