#include "cipher/inside.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* A forged message must stay as it was, but libsodium zeroes it: up to this size the ciphertext
 * (no secret) is copied aside, above it the message is verified first and decrypted then. */
enum { ASIDE_BYTES = 4096, KAT_TEXT_BYTES = 128 };

static const struct sm_aead *const aeads[] = { &sm_aead_aes256gcm, &sm_aead_xchacha20poly1305 };
static const struct sm_aead *chosen = &sm_aead_xchacha20poly1305;

static SM_NOINLINE int
deep_open(const struct sm_aead *a, const void *state, const struct sm_raw *r, bool write)
{
	SM_GAP;
	int e;

	SM_GAP_OPEN();
	e = a->open(state, r, write);
	SM_GAP_CLOSE();
	return e;
}

static SM_NOINLINE void
deep_seal(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	SM_GAP;

	SM_GAP_OPEN();
	a->seal(state, r);
	SM_GAP_CLOSE();
}

static SM_NOINLINE int
open_long(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	int e = deep_open(a, state, r, false);

	if (e == 0)
		e = deep_open(a, state, r, true);
	sm_wipe_traces();
	return e ? EBADMSG : 0;
}

/* The traces are wiped here, since the copy aside puts what is called from here lower down. */
static SM_NOINLINE int
open_short(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	unsigned char aside[ASIDE_BYTES];
	int e;

	if (r->n)
		memcpy(aside, r->bytes, r->n);
	e = deep_open(a, state, r, true);
	sm_wipe_traces();
	if (e && r->n)
		memcpy(r->bytes, aside, r->n);
	return e ? EBADMSG : 0;
}

static int
open_raw(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	return r->n > ASIDE_BYTES ? open_long(a, state, r) : open_short(a, state, r);
}

static int
self_test(const struct sm_aead *a)
{
	_Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
	unsigned char text[KAT_TEXT_BYTES], tag[SM_TAG_BYTES];
	struct sm_raw r = { text, text, a->text_bytes, tag, a->nonce, a->ad, a->ad_bytes };
	int e = EIO;

	sm_assert(a->text_bytes <= sizeof(text));
	memcpy(text, a->text, a->text_bytes);
	a->expand(state, a->key);
	a->seal(state, &r);
	if (sodium_memcmp(tag, a->tag, sizeof(tag)))
		goto out;
	text[0] ^= 1;
	if (open_raw(a, state, &r) != EBADMSG)
		goto out;
	text[0] ^= 1;
	if (open_raw(a, state, &r) || sodium_memcmp(text, a->text, a->text_bytes))
		goto out;
	e = 0;
out:
	sm_wipe(state, sizeof(state));
	return e;
}

int
sm_cipher_start(unsigned which)
{
	for (size_t i = 0; i < sizeof(aeads) / sizeof(aeads[0]); i++) {
		const struct sm_aead *a = aeads[i];

		if (which != SECMALLOC_CIPHER_AUTO && which != a->id)
			continue;
		if (!a->available()) {
			if (which == SECMALLOC_CIPHER_AUTO)
				continue;
			return sm_fail(ENOTSUP, "this CPU has no instructions for %s: use "
						"SECMALLOC_CIPHER_AUTO", a->name);
		}
		if (self_test(a))
			return sm_fail(EIO, "%s failed its self-test: replace libsodium or the "
					    "machine", a->name);
		chosen = a;
		return 0;
	}
	return sm_fail(ENOTSUP, "this build has no cipher %u: use SECMALLOC_CIPHER_AUTO", which);
}

unsigned
sm_cipher_id(void)
{
	return chosen->id;
}

size_t
sm_cipher_limit(void)
{
	return sm_min_size(chosen->limit(), PTRDIFF_MAX);
}

SM_NOINLINE void
sm_cipher_expand(void *state, const unsigned char key[SM_KEY_BYTES])
{
	SM_GAP;

	SM_GAP_OPEN();
	chosen->expand(state, key);
	SM_GAP_CLOSE();
}

static struct sm_raw
raw(const struct sm_message *m, unsigned char nonce[SM_NONCE_BYTES])
{
	memset(nonce, 0, SM_NONCE_BYTES);
	memcpy(nonce, &m->nonce, sizeof(m->nonce));
	return (struct sm_raw){ m->bytes, m->to ? m->to : m->bytes, m->n, m->tag, nonce, m->ad,
		m->ad_bytes };
}

void
sm_cipher_seal(const void *state, const struct sm_message *m)
{
	unsigned char nonce[SM_NONCE_BYTES];
	struct sm_raw r = raw(m, nonce);

	deep_seal(chosen, state, &r);
	sm_wipe_traces();
}

int
sm_cipher_open(const void *state, const struct sm_message *m)
{
	unsigned char nonce[SM_NONCE_BYTES];
	struct sm_raw r = raw(m, nonce);

	return open_raw(chosen, state, &r);
}
