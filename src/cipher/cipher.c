#include "cipher/inside.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* A forged message must stay as it was, but libsodium overwrites it: the ciphertext (no secret) is
 * copied aside, on the stack or, as long as that is free, to one place. Beyond, the message is
 * verified first and decrypted then. */
enum { SHORT_BYTES = 4096, LONG_BYTES = 1 << 20, KAT_TEXT_BYTES = 128 };

static struct {
	_Atomic bool busy;
	unsigned char bytes[LONG_BYTES];
} aside;

/* In AUTO's order, up to the one that is available everywhere. */
static const struct sm_aead *const aeads[] = { &sm_aead_aegis256, &sm_aead_aes256gcm,
	&sm_aead_xchacha20poly1305, &sm_aead_aegis128l };
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

static inline void
wipe_traces(const struct sm_raw *r)
{
	if (r->trace_bytes)
		sm_wipe_traces_of(r->trace_bytes);
}

static SM_NOINLINE int
open_long(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	int e = deep_open(a, state, r, false);

	if (e == 0)
		e = deep_open(a, state, r, true);
	wipe_traces(r);
	return e ? EBADMSG : 0;
}

/* The traces are wiped here, since a short one's copy puts what is called from here lower down. */
static SM_NOINLINE int
open_aside(const struct sm_aead *a, const void *state, const struct sm_raw *r, unsigned char *to)
{
	int e;

	if (r->n)
		memcpy(to, r->bytes, r->n);
	e = deep_open(a, state, r, true);
	wipe_traces(r);
	if (e && r->n)
		memcpy(r->bytes, to, r->n);
	return e ? EBADMSG : 0;
}

static SM_NOINLINE int
open_short(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	unsigned char to[SHORT_BYTES];

	return open_aside(a, state, r, to);
}

static SM_NOINLINE int
open_scrap(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	int e = deep_open(a, state, r, true);

	sm_wipe_traces();
	return e ? EBADMSG : 0;
}

static int
open_raw(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	int e;

	if (r->n <= SHORT_BYTES)
		return open_short(a, state, r);
	if (r->n > LONG_BYTES ||
		atomic_exchange_explicit(&aside.busy, true, memory_order_acquire))
		return open_long(a, state, r);
	e = open_aside(a, state, r, aside.bytes);
	atomic_store_explicit(&aside.busy, false, memory_order_release);
	return e;
}

static int
self_test(const struct sm_aead *a)
{
	_Alignas(64) unsigned char state[SM_CIPHER_STATE_BYTES];
	unsigned char text[KAT_TEXT_BYTES], tag[SM_TAG_MOST_BYTES];
	struct sm_raw r = { text, text, a->text_bytes, tag, a->nonce, a->ad, a->ad_bytes,
		SM_TRACE_BYTES };
	int e = EIO;

	sm_assert(a->text_bytes <= sizeof(text) && a->tag_bytes <= sizeof(tag));
	memcpy(text, a->text, a->text_bytes);
	a->expand(state, a->key);
	a->seal(state, &r);
	if (sodium_memcmp(tag, a->tag, a->tag_bytes))
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
			return sm_fail(ENOTSUP, "%s %s: use SECMALLOC_CIPHER_AUTO", a->lack,
				a->name);
		}
		if (self_test(a))
			return sm_fail(EIO, "%s failed its self-test: replace libsodium or the "
					    "machine", a->name);
		atomic_store(&aside.busy, false); /* in a forked child */
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
sm_cipher_tag_bytes(void)
{
	return chosen->tag_bytes;
}

size_t
sm_cipher_limit(void)
{
	return sm_min_size(chosen->limit(), PTRDIFF_MAX);
}

SM_NOINLINE void
sm_cipher_expand(void *state, const unsigned char key[SM_KEY_BYTES])
{
	SM_GAP_DEEP;

	SM_GAP_OPEN();
	chosen->expand(state, key);
	SM_GAP_CLOSE();
}

/** What a message has elsewhere or in pieces, as the AEADs take it; no secret. */
struct whole {
	unsigned char nonce[SM_NONCE_BYTES], tag[SM_TAG_MOST_BYTES];
};

static inline size_t
trace_bytes(enum sm_traces t)
{
	if (t == SM_TRACES_STAY)
		return 0;
	return t == SM_TRACES_OWN ? chosen->trace_bytes : SM_TRACE_BYTES;
}

static struct sm_raw
raw(const struct sm_message *m, struct whole *w)
{
	memset(w->nonce, 0, sizeof(w->nonce));
	memcpy(w->nonce, &m->nonce, sizeof(m->nonce));
	return (struct sm_raw){ m->bytes, m->to ? m->to : m->bytes, m->n, w->tag, w->nonce, m->ad,
		m->ad_bytes, trace_bytes(m->traces) };
}

void
sm_cipher_seal(const void *state, const struct sm_message *m)
{
	struct whole w;
	struct sm_raw r = raw(m, &w);

	deep_seal(chosen, state, &r);
	memcpy(m->tag, w.tag, SM_TAG_BYTES);
	if (chosen->tag_bytes > SM_TAG_BYTES)
		memcpy(m->tag_rest, w.tag + SM_TAG_BYTES, SM_TAG_REST_BYTES);
	wipe_traces(&r);
}

int
sm_cipher_open(const void *state, const struct sm_message *m)
{
	struct whole w;
	struct sm_raw r = raw(m, &w);
	int e;

	memcpy(w.tag, m->tag, SM_TAG_BYTES);
	if (chosen->tag_bytes > SM_TAG_BYTES)
		memcpy(w.tag + SM_TAG_BYTES, m->tag_rest, SM_TAG_REST_BYTES);
	if (m->scrap)
		return open_scrap(chosen, state, &r);
	e = open_raw(chosen, state, &r);
	if (m->traces == SM_TRACES_LENT && m->n <= SHORT_BYTES)
		sm_wipe_traces(); /* expanding the key left some where the copy was, and is not full */
	return e;
}
