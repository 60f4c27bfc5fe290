#include "seal/inside.h"

#include "cipher/cipher.h"

#include <errno.h>
#include <string.h>

_Static_assert(SM_TAG_REST_BYTES <= SM_REST_BYTES, "the heap has room for the rest of a tag");

/* What a tag vouches for besides the bytes: a record or a ciphertext moved elsewhere is refused. */
struct bound {
	uint64_t address, size, generation, epoch;
};

static struct bound
bind(const struct sm_hand *h)
{
	return (struct bound){ (uintptr_t)h->ptr, h->c->size, h->c->generation, h->c->epoch };
}

int
sm_hand_missed(const void *ptr)
{
	struct sm_chunk *c;

	switch (sm_heap_find(ptr, &c)) {
	case SM_INHERITED:
		return sm_fail(ECHILD, "this chunk is the parent's: a forked child allocates its own");
	case SM_INTERIOR:
		return sm_fail(EINVAL, "this pointer is inside the heap but not the start of a "
				       "chunk: pass what secmalloc returned");
	case SM_FOUND:
		return sm_fail(EINVAL, "this chunk was freed before: use it no more");
	case SM_FOREIGN:
		break;
	}
	return sm_fail(EINVAL, "this pointer is not secmalloc's: pass what secmalloc returned");
}

struct sm_hand
sm_hand_again(struct sm_chunk *c, const void *ptr)
{
	struct sm_hand h = { c, (unsigned char *)(uintptr_t)ptr };

	while (h.c && sm_waiting()) {
		sm_hand_release(&h);
		sm_gate_await();
		h.c = sm_heap_look(ptr);
		if (h.c)
			sm_lock_take(&h.c->lock, SM_RANK_CHUNK);
	}
	if (h.c && (!sm_heap_live(h.c) || sm_heap_at(h.c) != (uintptr_t)ptr)) {
		sm_hand_release(&h);
		h.c = NULL;
	}
	return h;
}

/* What was stored after a purge came is nobody's any more. */
static SM_COLD int
destroy(struct sm_hand *h)
{
	sm_wipe(h->ptr, h->c->size);
	return sm_state_refuse();
}

static void
wipe_tag(struct sm_chunk *c, unsigned char *rest)
{
	sm_wipe(c->tag, sizeof(c->tag));
	if (rest)
		sm_wipe(rest, SM_TAG_REST_BYTES);
}

const struct sm_pager *sm_seal_pager;

static SM_COLD int
veil_pages(struct sm_hand *h)
{
	int e = sm_seal_pager->close(h->ptr, h->c->size);

	if (e == 0)
		h->c->veil = SM_VEIL_SEALED;
	return e;
}

static SM_COLD int
unveil_pages(struct sm_hand *h)
{
	int e = sm_seal_pager->open(h->ptr, h->c->size);

	sm_count_add(&sm_count.tampered, e == EBADMSG);
	if (e == 0)
		h->c->veil = SM_VEIL_CLEAR;
	return e;
}

/* The ciphertext goes to `to`, and the chunk stays clear, or in place. A key that a purge wiped
 * meanwhile hid nothing. */
static int
veil(struct sm_hand *h, const struct sm_loan *key, unsigned char *to)
{
	struct sm_chunk *c = h->c;
	struct sm_message m = { .bytes = h->ptr, .n = c->size, .tag = c->tag, .to = to,
		.tag_rest = sm_heap_tag_rest(c), .ad_bytes = sizeof(struct bound),
		.traces = key ? key->traces : SM_TRACES_LENT };
	struct bound ad;

	sm_check(c->veil == SM_VEIL_CLEAR);
	if (!SM_LIKELY(!sm_seal_pager))
		return veil_pages(h);
	c->epoch = key->epoch;
	c->nonce = m.nonce = sm_key_nonce();
	ad = bind(h);
	m.ad = &ad;
	sm_cipher_seal(key->state, &m);
	if (!SM_LIKELY(!sm_purged())) {
		if (to)
			(void)sm_heap_lift_pages(c); /* they are frozen */
		return destroy(h);
	}
	if (!to)
		c->veil = SM_VEIL_SEALED;
	return 0;
}

static int
unveil(struct sm_hand *h, const struct sm_loan *key)
{
	struct sm_chunk *c = h->c;
	struct bound ad = bind(h);
	struct sm_message m = { .bytes = h->ptr, .n = c->size, .tag = c->tag, .nonce = c->nonce,
		.tag_rest = sm_heap_tag_rest(c), .ad = &ad, .ad_bytes = sizeof(ad),
		.traces = key->traces };
	int e;

	sm_check(c->veil == SM_VEIL_SEALED);
	if (!SM_LIKELY(!sm_seal_pager))
		return unveil_pages(h);
	e = sm_heap_pin(c);
	if (!SM_LIKELY(e == 0)) {
		sm_wipe_traces(); /* the loan's, as no cipher call will */
		return e;
	}
	e = sm_cipher_open(key->state, &m);
	if (!SM_LIKELY(!sm_purged()))
		e = destroy(h);
	else if (e)
		e = sm_fail(EBADMSG, "a closed chunk of %zu bytes was written: its content is lost, "
				     "free it", c->size);
	if (!SM_LIKELY(e == 0)) {
		sm_heap_unpin(c);
		sm_count_add(&sm_count.tampered, e == EBADMSG);
		return e;
	}
	c->veil = SM_VEIL_CLEAR;
	wipe_tag(c, m.tag_rest);
	return 0;
}

static void
count_closed(const struct sm_chunk *c)
{
	sm_count_veil(1, 0, c->size);
}

static void
count_dropped(const struct sm_chunk *c)
{
	sm_count_add(&sm_count.dropped, 1);
	sm_count_veil(0, 0, -c->size);
}

int
sm_hand_close(struct sm_hand *h, const struct sm_loan *key)
{
	int e = veil(h, key, NULL);

	if (!SM_LIKELY(e == 0))
		return e;
	count_closed(h->c);
	sm_heap_unpin(h->c);
	return 0;
}

int
sm_hand_open(struct sm_hand *h, const struct sm_loan *key)
{
	int e = unveil(h, key);

	if (!SM_LIKELY(e == 0))
		return e;
	sm_hand_stamp(h->c);
	sm_count_veil(0, 1, -h->c->size);
	return 0;
}

/* Pinned and accessible all the while, so that nothing but a wrong key can keep it from opening. */
int
sm_hand_halt(struct sm_hand *h, const struct sm_loan *key)
{
	int e = sm_hand_lift(h);

	if (e)
		return e;
	sm_heap_verify(h->c, h->ptr);
	e = veil(h, key, NULL);
	if (e) {
		(void)sm_heap_drop(h->c);
		return e;
	}
	count_closed(h->c);
	h->c->halted = 1;
	return 0;
}

int
sm_hand_resume(struct sm_hand *h, const struct sm_loan *key)
{
	int e = sm_hand_open(h, key);

	if (e)
		return e;
	sm_heap_unpin(h->c); /* it was all the while */
	h->c->halted = 0;
	return sm_heap_drop(h->c);
}

void
sm_hand_forget(struct sm_hand *h)
{
	h->c->veil = SM_VEIL_CLEAR;
	wipe_tag(h->c, sm_heap_tag_rest(h->c));
	count_dropped(h->c);
}

static int
carry(struct sm_hand *h, const struct sm_loans *keys)
{
	int e = unveil(h, sm_hand_key(keys, h->c->epoch));

	if (e)
		return e;
	e = veil(h, &keys->now, NULL);
	if (e) { /* purged: it stays open, and zero */
		count_dropped(h->c);
	} else {
		sm_heap_unpin(h->c);
	}
	return e;
}

int
sm_hand_carry(struct sm_hand *h, const struct sm_loans *keys)
{
	int e, undone;

	if (h->c->veil == SM_VEIL_CLEAR || h->c->epoch == keys->now.epoch)
		return 0;
	e = sm_hand_lift(h);
	if (e)
		return e;
	e = carry(h, keys);
	undone = sm_heap_drop(h->c);
	return e ? e : undone;
}

static const struct sm_loans none; /* transparent mode lends by itself */

static int
turn(struct sm_hand *h, enum sm_veil to, const struct sm_loans *keys)
{
	uint32_t epoch = to == SM_VEIL_SEALED ? 0 : h->c->epoch;
	struct sm_loan key = { 0 };
	int e = 0;

	if (!SM_LIKELY(!sm_seal_pager))
		keys = &none;
	if (keys)
		key = *sm_hand_key(keys, epoch);
	else
		e = sm_key_lend(&key, epoch);
	if (!SM_LIKELY(e == 0))
		return e;
	e = to == SM_VEIL_SEALED ? sm_hand_close(h, &key) : sm_hand_open(h, &key);
	if (!keys)
		sm_key_return(&key);
	return e;
}

/* In transparent mode a touch opens pages of a closed chunk, and eviction closes those of others. */
static SM_COLD int
pages_again(struct sm_hand *h, enum sm_veil to)
{
	if (h->c->holds)
		return 0;
	if (to == SM_VEIL_SEALED)
		return sm_seal_pager->close(h->ptr, h->c->size);
	return sm_barred() ? sm_state_refuse() : sm_seal_pager->open(h->ptr, h->c->size);
}

int
sm_hand_set_veil(struct sm_hand *h, enum sm_veil to, const struct sm_loans *keys)
{
	int e, undone;

	if (h->c->veil == to)
		return SM_LIKELY(!sm_seal_pager) || keys ? 0 : pages_again(h, to);
	if (!SM_LIKELY(h->c->holds == 0))
		return sm_fail(EBUSY, "the chunk is held: release it first");
	if (to == SM_VEIL_CLEAR && sm_barred())
		return sm_state_refuse();
	e = sm_hand_lift(h);
	if (!SM_LIKELY(e == 0))
		return e;
	if (to == SM_VEIL_SEALED)
		sm_heap_verify(h->c, h->ptr);
	e = turn(h, to, keys);
	undone = sm_heap_drop(h->c);
	return e ? e : undone;
}

/* ------------------------------------------------------------------ frozen */

/* The pages are read-only while the ciphertext is made beside them. */
static int
close_beside(struct sm_hand *h, const struct sm_loan *key, unsigned char *scratch)
{
	int e = veil(h, key, scratch);

	if (e)
		return e;
	e = sm_heap_lift_pages(h->c);
	if (e)
		return e;
	memcpy(h->ptr, scratch, h->c->size);
	h->c->veil = SM_VEIL_SEALED; /* not before: of what is closed a purge wipes the key alone */
	if (!SM_LIKELY(!sm_purge_fence())) {
		h->c->veil = SM_VEIL_CLEAR;
		return destroy(h);
	}
	count_closed(h->c);
	sm_heap_unpin(h->c);
	return 0;
}

static int
close_frozen(struct sm_hand *h, const struct sm_loan *key)
{
	size_t n = h->c->size;
	void *scratch;
	int e;

	if (!h->c->own_pages || n == 0 || sm_os_reserve(n, &scratch))
		return sm_hand_close(h, key);
	if (sm_os_commit(scratch, n) == 0 && sm_heap_freeze(h->c))
		e = close_beside(h, key, scratch);
	else
		e = sm_hand_close(h, key);
	sm_os_unreserve(scratch, n);
	return e;
}

int
sm_hand_close_frozen(struct sm_hand *h)
{
	struct sm_loan key;
	int e = sm_hand_lift(h), undone;

	if (e)
		return e;
	sm_heap_verify(h->c, h->ptr);
	if (sm_seal_pager)
		return sm_hand_close(h, NULL);
	e = sm_key_lend(&key, 0);
	if (e == 0) {
		e = close_frozen(h, &key);
		sm_key_return(&key);
	}
	undone = sm_heap_drop(h->c);
	return e ? e : undone;
}
