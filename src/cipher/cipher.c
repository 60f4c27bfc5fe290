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

/* The lines of the stack that short messages reach, by what is done: learned of all their sizes. */
enum act { SEAL, OPEN, ACTS };
enum { LEARNED_BYTES = 64, LEARNED_AD_BYTES = 32, DEEPEST_LINES = 8 };

static struct {
	uint64_t mark; /* nonzero: it is being learned */
	uint64_t seen[ACTS];
} lines;

static inline void
wipe_traces(const struct sm_raw *r)
{
	if (r->trace_bytes)
		sm_wipe_traces_of(r->trace_bytes);
}

/* Which lines a call writes depends on where its frame begins within one: always there. */
static SM_NOINLINE int
act(enum act what, const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	SM_LINE_ALIGNED unsigned char line[64];
	uintptr_t top = sm_lines_top();
	int e = 0;

	__asm__ volatile("" ::"r"(line) : "memory");
	if (!SM_LIKELY(lines.mark == 0))
		sm_lines_mark(top, lines.mark);
	if (what == SEAL)
		deep_seal(a, state, r);
	else
		e = deep_open(a, state, r, true);
	if (!SM_LIKELY(lines.mark == 0))
		lines.seen[what] |= sm_lines_written(top, lines.mark);
	else if (r->lines)
		sm_lines_wipe(top, r->lines);
	return e;
}

/* In the caller of act, whose own frame may be where a key was expanded. Of what was wiped by lines
 * only what failed may have written others. */
static inline void
wipe_rest(const struct sm_raw *r, int e)
{
	if (!SM_LIKELY(r->lines && e == 0))
		wipe_traces(r);
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
	e = act(OPEN, a, state, r);
	wipe_rest(r, e);
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

/* What expanding a key left is no deeper than SM_TRACE_BYTES. */
static inline size_t
lent_bytes(const struct sm_aead *a)
{
	return a->trace_bytes > SM_TRACE_BYTES ? a->trace_bytes : SM_TRACE_BYTES;
}

static SM_NOINLINE int
open_scrap(const struct sm_aead *a, const void *state, const struct sm_raw *r)
{
	int e = deep_open(a, state, r, true);

	sm_wipe_traces_of(lent_bytes(a));
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
		SM_TRACE_BYTES, 0 };
	int e = EIO;

	sm_assert(a->text_bytes <= sizeof(text) && a->tag_bytes <= sizeof(tag));
	memcpy(text, a->text, a->text_bytes);
	a->expand(state, a->key, a->nonce);
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
		if (a != chosen)
			memset(&lines, 0, sizeof(lines));
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
	static const unsigned char nonce[SM_NONCE_BYTES]; /* as raw() has them */
	SM_GAP_DEEP;

	SM_GAP_OPEN();
	chosen->expand(state, key, nonce);
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
	return t == SM_TRACES_OWN ? chosen->trace_bytes : lent_bytes(chosen);
}

static inline struct sm_raw
raw(const struct sm_message *m, struct whole *w)
{
	memset(w->nonce, 0, sizeof(w->nonce));
	memcpy(w->nonce + chosen->counter_at, &m->nonce, sizeof(m->nonce));
	return (struct sm_raw){ m->bytes, m->to ? m->to : m->bytes, m->n, w->tag, w->nonce, m->ad,
		m->ad_bytes, trace_bytes(m->traces), 0 };
}

static inline bool
is_learned(const struct sm_message *m)
{
	return m->traces == SM_TRACES_OWN && m->n <= LEARNED_BYTES &&
		m->ad_bytes == LEARNED_AD_BYTES;
}

static void
learn(void *state)
{
	unsigned char text[LEARNED_BYTES] = { 0 }, tag[SM_TAG_BYTES], rest[SM_TAG_REST_BYTES];
	unsigned char ad[LEARNED_AD_BYTES] = { 0 };
	struct sm_message m = { .bytes = text, .tag = tag, .tag_rest = rest, .ad = ad,
		.ad_bytes = sizeof(ad), .traces = SM_TRACES_OWN };
	bool opens = true; /* a purge may come, and wipe the state */

	memset(state, 0, SM_CIPHER_STATE_BYTES);
	sm_cipher_expand(state, text);
	for (size_t i = 0; i < 2 * (LEARNED_BYTES + 1); i++) { /* a mark may be what is written */
		lines.mark = i % 2 ? UINT64_C(0x5a5a5a5a5a5a5a5a) : UINT64_C(0xc3c3c3c3c3c3c3c3);
		m.n = i / 2;
		sm_cipher_seal(state, &m);
		opens = sm_cipher_open(state, &m) == 0 && opens;
	}
	lines.mark = 0;
	for (unsigned i = 0; i < ACTS; i++)
		if (!opens || lines.seen[i] >> (64 - DEEPEST_LINES)) /* perhaps deeper than was looked */
			lines.seen[i] = 0;
}

void
sm_cipher_learn(void *state)
{
	if (sm_lines_known() && !lines.seen[SEAL])
		learn(state);
}

void
sm_cipher_seal(const void *state, const struct sm_message *m)
{
	struct whole w;
	struct sm_raw r = raw(m, &w);

	if (is_learned(m))
		r.lines = lines.seen[SEAL];
	(void)act(SEAL, chosen, state, &r);
	memcpy(m->tag, w.tag, SM_TAG_BYTES);
	if (chosen->tag_bytes > SM_TAG_BYTES)
		memcpy(m->tag_rest, w.tag + SM_TAG_BYTES, SM_TAG_REST_BYTES);
	wipe_rest(&r, 0);
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
	if (is_learned(m))
		r.lines = lines.seen[OPEN];
	if (m->scrap)
		return open_scrap(chosen, state, &r);
	e = open_raw(chosen, state, &r);
	if (m->traces == SM_TRACES_LENT && m->n <= SHORT_BYTES)
		sm_wipe_traces(); /* expanding the key left some where the copy was, and is not full */
	return e;
}
