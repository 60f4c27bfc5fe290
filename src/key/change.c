#include "key/inside.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* A half that is no longer than a key needs no hash, only a function of it that can't be turned
 * round: HChaCha20 (draft-irtf-cfrg-xchacha, 2.2), a quarter faster. The traces lie deep enough for
 * the cipher call that follows a loan to wipe them. */
SM_NOINLINE void
sm_key_mask(unsigned char out[SM_KEY_BYTES], const unsigned char *half)
{
	static const unsigned char zeros[crypto_core_hchacha20_INPUTBYTES];
	SM_GAP_DEEP;

	SM_GAP_OPEN();
	if (sm_keys.prekey_bytes == SM_KEY_BYTES)
		crypto_core_hchacha20(out, zeros, half, NULL);
	else
		crypto_generichash(out, SM_KEY_BYTES, half, sm_keys.prekey_bytes, NULL, 0);
	SM_GAP_CLOSE();
}

void
sm_key_expand(struct sm_key_slot *s, unsigned index)
{
	sm_key_mask(s->whole, sm_keys.right.half);
	sm_key_xor(s->whole, sm_keys.left->half[index]);
	sm_cipher_expand(s->state, s->whole);
	sm_wipe(s->whole, sizeof(s->whole));
}

/* The two masks are joined first, so that no key is ever whole here. Without fresh randomness the
 * old split stays in force until the next turn. */
SM_COLD void
sm_key_split(uint64_t now_ms)
{
	struct sm_right *r = &sm_keys.right;

	sm_keys.split_ms = now_ms;
	if (sm_os_random(r->next, sm_keys.prekey_bytes))
		return;
	sm_key_mask(r->mask[0], r->half);
	sm_key_mask(r->mask[1], r->next);
	sm_key_xor(r->mask[0], r->mask[1]);
	sm_key_xor(sm_keys.left->half[0], r->mask[0]);
	sm_key_xor(sm_keys.left->half[1], r->mask[0]);
	memcpy(r->half, r->next, sm_keys.prekey_bytes);
	sm_wipe(r->next, sm_keys.prekey_bytes);
	sm_wipe(r->mask, 2 * SM_KEY_BYTES);
	sm_wipe_traces();
	if (sm_purged())
		sm_key_purge();
}

/* -------------------------------------------------------------- a new key */

static SM_NOINLINE void
derive(unsigned char out[SM_KEY_BYTES], const struct sm_key_slot *from)
{
	SM_GAP;

	SM_GAP_OPEN();
	crypto_generichash(out, SM_KEY_BYTES, from->state, SM_KEY_BYTES, from->whole, SM_KEY_BYTES);
	SM_GAP_CLOSE();
}

/* What a provider gives is no AEAD key: that is BLAKE2b keyed with it over fresh random bytes, so
 * that the same answer never makes the same key (RFC 7693, 2.9). */
static int
provide(unsigned char out[SM_KEY_BYTES], struct sm_key_slot *scratch, const unsigned char *from)
{
	const struct sm_config *c = sm_config();
	int e = 0;

	if (from)
		memcpy(scratch->whole, from, SM_KEY_BYTES);
	else
		e = c->key_provider(scratch->whole, c->key_arg);
	if (e)
		e = sm_fail(e > 0 ? e : EIO, "key_provider answered %d", e);
	else
		e = sm_os_random(scratch->state, SM_KEY_BYTES);
	if (e == 0)
		derive(out, scratch);
	sm_wipe(scratch, sizeof(*scratch));
	sm_wipe_traces();
	return e;
}

/* The left half of a random key is random, whatever the right one is. A provider is asked without
 * any lock: it may take its time. */
int
sm_key_draw(unsigned index, const unsigned char *from)
{
	unsigned char *half = sm_keys.left->half[index];
	struct sm_mask m;
	int e;

	if (!sm_config()->key_provider) {
		sm_keys_take(&m);
		e = sm_os_random(half, SM_KEY_BYTES);
		sm_keys_let_go(&m);
		return e;
	}
	e = provide(sm_keys.slots->wrap.state, &sm_keys.slots->shared[index], from);
	if (e == 0) {
		sm_keys_take(&m);
		sm_key_mask(half, sm_keys.right.half);
		sm_key_xor(half, sm_keys.slots->wrap.state);
		sm_keys_let_go(&m);
		sm_wipe_traces();
	}
	sm_wipe(&sm_keys.slots->wrap, sizeof(sm_keys.slots->wrap));
	return e;
}

int
sm_key_install(const unsigned char whole[2][SM_KEY_BYTES])
{
	struct sm_right *r = &sm_keys.right;
	bool resident = sm_config()->key_resident;
	int e = sm_os_random(r->half, sm_keys.prekey_bytes);

	if (e)
		return e;
	for (unsigned i = 0; i < 2; i++) {
		unsigned char *half = sm_keys.left->half[i];

		sm_key_mask(half, r->half);
		sm_key_xor(half, whole[i]);
		if (atomic_load(&sm_keys.epoch[i]) == 0)
			sm_wipe(half, SM_KEY_BYTES);
		else if (resident)
			sm_key_expand(&sm_keys.slots->shared[i], i);
	}
	sm_wipe_traces();
	sm_keys.split_ms = sm_os_now_ms();
	return 0;
}

void
sm_key_pack(struct sm_parcel *p)
{
	struct sm_mask m;

	sm_keys_take(&m);
	for (unsigned i = 0; i < 2; i++) {
		p->epoch[i] = atomic_load(&sm_keys.epoch[i]);
		sm_key_mask(p->whole[i], sm_keys.right.half);
		sm_key_xor(p->whole[i], sm_keys.left->half[i]);
	}
	p->now = atomic_load(&sm_keys.now);
	sm_keys_let_go(&m);
	sm_wipe_traces();
}

static int
purged(void)
{
	sm_key_purge();
	return sm_state_refuse();
}

/* Epochs stay when keys are forgotten. */
static bool
is_ours(const struct sm_parcel *p)
{
	return p->now == atomic_load(&sm_keys.now) && p->now < 2 &&
		p->epoch[0] == atomic_load(&sm_keys.epoch[0]) &&
		p->epoch[1] == atomic_load(&sm_keys.epoch[1]);
}

int
sm_key_restore(const struct sm_parcel *p)
{
	struct sm_mask m;
	int e;

	if (!is_ours(p))
		return sm_fail(EPROTO, "the daemon gave the keys of another program back");
	sm_keys_take(&m);
	e = sm_key_install(p->whole);
	if (e == 0)
		atomic_store(&sm_keys.forgotten, false);
	sm_keys_let_go(&m);
	return sm_purged() ? purged() : e;
}

bool
sm_key_has_other(void)
{
	return atomic_load(&sm_keys.epoch[!atomic_load(&sm_keys.now)]) != 0;
}

int
sm_key_renew(const unsigned char *from)
{
	unsigned fresh = !atomic_load(&sm_keys.now);
	struct sm_mask m;
	int e;

	sm_check(!sm_key_has_other());
	e = sm_key_draw(fresh, from);
	if (e)
		return e;
	sm_keys_take(&m);
	if (sm_config()->key_resident) {
		sm_key_expand(&sm_keys.slots->shared[fresh], fresh);
		sm_wipe_traces();
	}
	atomic_store(&sm_keys.epoch[fresh], ++sm_keys.last);
	atomic_store(&sm_keys.now, fresh);
	sm_keys_let_go(&m);
	return sm_purged() ? purged() : 0;
}

void
sm_key_revert(void)
{
	struct sm_mask m;

	sm_keys_take(&m);
	atomic_store(&sm_keys.now, !atomic_load(&sm_keys.now));
	sm_keys_let_go(&m);
}

void
sm_key_drop(void)
{
	struct sm_mask m;
	unsigned other;

	sm_keys_take(&m);
	other = !atomic_load(&sm_keys.now);
	atomic_store(&sm_keys.epoch[other], 0);
	sm_wipe(sm_keys.left->half[other], SM_KEY_BYTES);
	sm_wipe(&sm_keys.slots->shared[other], sizeof(struct sm_key_slot));
	sm_keys_let_go(&m);
}
