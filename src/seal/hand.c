#include "seal/inside.h"

#include "cipher/cipher.h"

#include <errno.h>

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

void
sm_hand_close(struct sm_hand *h, const struct sm_loan *key)
{
	struct sm_chunk *c = h->c;
	struct sm_message m = { h->ptr, c->size, c->tag, 0, NULL, sizeof(struct bound) };
	struct bound ad;

	sm_check(c->veil == SM_VEIL_CLEAR);
	c->epoch = sm_key_epoch();
	c->nonce = m.nonce = sm_key_nonce();
	ad = bind(h);
	m.ad = &ad;
	sm_cipher_seal(key->state, &m);
	c->veil = SM_VEIL_SEALED;
	sm_count_add(&sm_count.seals, 1);
	sm_count_add(&sm_count.chunks_encrypted, 1);
	sm_count_add(&sm_count.bytes_encrypted, c->size);
	sm_heap_unpin(c);
}

void
sm_hand_forget(struct sm_hand *h)
{
	struct sm_chunk *c = h->c;

	c->veil = SM_VEIL_CLEAR;
	sm_wipe(c->tag, sizeof(c->tag));
	sm_count_sub(&sm_count.chunks_encrypted, 1);
	sm_count_sub(&sm_count.bytes_encrypted, c->size);
}

int
sm_hand_open(struct sm_hand *h, const struct sm_loan *key)
{
	struct sm_chunk *c = h->c;
	struct bound ad = bind(h);
	struct sm_message m = { h->ptr, c->size, c->tag, c->nonce, &ad, sizeof(ad) };
	int e;

	sm_check(c->veil == SM_VEIL_SEALED);
	e = sm_heap_pin(c);
	if (e) {
		sm_wipe_traces(); /* the loan's, as no cipher call will */
		return e;
	}
	if (sm_cipher_open(key->state, &m)) {
		sm_heap_unpin(c);
		sm_count_add(&sm_count.tampered, 1);
		return sm_fail(EBADMSG, "a closed chunk of %zu bytes was written: its content is "
					"lost, free it", c->size);
	}
	sm_hand_forget(h);
	sm_count_add(&sm_count.unseals, 1);
	return 0;
}

int
sm_hand_set_veil(struct sm_hand *h, enum sm_veil veil)
{
	struct sm_loan key;
	int e, undone;

	if (h->c->veil == veil)
		return 0;
	if (h->c->holds)
		return sm_fail(EBUSY, "the chunk is held: release it first");
	e = sm_heap_lift(h->c);
	if (e)
		return e;
	if (veil == SM_VEIL_SEALED)
		sm_heap_verify(h->c, h->ptr);
	sm_key_lend(&key);
	if (veil == SM_VEIL_SEALED)
		sm_hand_close(h, &key);
	else
		e = sm_hand_open(h, &key);
	sm_key_return(&key);
	undone = sm_heap_drop(h->c);
	return e ? e : undone;
}
