#include "cipher/inside.h"

#include <sodium.h>
#include <string.h>

enum { TRACE_BYTES = 2688 };

/* draft-irtf-cfrg-xchacha-03, appendix A.3.1 */
static const unsigned char kat_key[] = {
	0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f,
	0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f
};
static const unsigned char kat_nonce[] = { 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
	0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57 };
static const unsigned char kat_text[] =
	"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
	"future, sunscreen would be it.";
static const unsigned char kat_ad[] = { 0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4,
	0xc5, 0xc6, 0xc7 };
static const unsigned char kat_tag[] = { 0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47,
	0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49 };

static bool
available(void)
{
	return true;
}

static size_t
limit(void)
{
	return crypto_aead_chacha20poly1305_ietf_messagebytes_max();
}

/* The subkey of these nonces: all that are used have the same first bytes, so once is enough. */
static void
expand(void *state, const unsigned char *key, const unsigned char *nonce)
{
	crypto_core_hchacha20(state, nonce, key, NULL);
}

/* draft-irtf-cfrg-xchacha-03, 2.3: four zeros and what HChaCha20 did not take */
struct short_nonce {
	unsigned char bytes[crypto_aead_chacha20poly1305_ietf_NPUBBYTES];
};

static struct short_nonce
shorten(const unsigned char *nonce)
{
	struct short_nonce s = { { 0 } };

	memcpy(s.bytes + 4, nonce + crypto_core_hchacha20_INPUTBYTES, 8);
	return s;
}

static void
seal(const void *state, const struct sm_raw *r)
{
	struct short_nonce nonce = shorten(r->nonce);

	crypto_aead_chacha20poly1305_ietf_encrypt_detached(r->to, r->tag, NULL, r->bytes, r->n,
		r->ad, r->ad_bytes, NULL, nonce.bytes, state);
}

static int
open(const void *state, const struct sm_raw *r, bool write)
{
	struct short_nonce nonce = shorten(r->nonce);

	return crypto_aead_chacha20poly1305_ietf_decrypt_detached(write ? r->bytes : NULL, NULL,
		r->bytes, r->n, r->tag, r->ad, r->ad_bytes, nonce.bytes, state);
}

const struct sm_aead sm_aead_xchacha20poly1305 = {
	.id = SECMALLOC_CIPHER_XCHACHA20POLY1305,
	.name = "XChaCha20-Poly1305",
	.available = available,
	.limit = limit,
	.counter_at = crypto_core_hchacha20_INPUTBYTES,
	.expand = expand,
	.seal = seal,
	.open = open,
	.key = kat_key,
	.nonce = kat_nonce,
	.text = kat_text,
	.ad = kat_ad,
	.tag = kat_tag,
	.text_bytes = sizeof(kat_text) - 1,
	.ad_bytes = sizeof(kat_ad),
	.tag_bytes = sizeof(kat_tag),
	.trace_bytes = TRACE_BYTES,
};
