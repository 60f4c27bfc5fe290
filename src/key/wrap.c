#include "key/inside.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* Moderate (libsodium: 256 MiB, 3 passes), unless the builder wants otherwise, as tests do. */
#ifndef SM_ARGON2_PASSES
#define SM_ARGON2_PASSES crypto_pwhash_argon2id_OPSLIMIT_MODERATE
#endif
#ifndef SM_ARGON2_BYTES
#define SM_ARGON2_BYTES crypto_pwhash_argon2id_MEMLIMIT_MODERATE
#endif

enum { ARGON2_STACK_BYTES = 16384 };

_Static_assert(SM_SALT_BYTES == crypto_pwhash_argon2id_SALTBYTES, "libsodium's salt");

/** What the tag of the wrapped keys vouches for besides them. */
struct bound {
	char what[16];
	uint32_t epoch[2];
};

static struct bound
bind(void)
{
	return (struct bound){ "secmalloc lock", { atomic_load(&sm_keys.epoch[0]),
							 atomic_load(&sm_keys.epoch[1]) } };
}

static SM_NOINLINE int
argon2id(struct sm_key_slot *s, const void *material, size_t n)
{
	SM_GAP_DEEP;
	int e;

	SM_GAP_OPEN();
	e = crypto_pwhash(s->whole, SM_KEY_BYTES, material, n, sm_keys.left->wrapped.salt,
		SM_ARGON2_PASSES, SM_ARGON2_BYTES, crypto_pwhash_ALG_ARGON2ID13);
	SM_GAP_CLOSE();
	return e;
}

/* The expanded key of the material, in slots->wrap. */
static int
expand_material(const void *material, size_t n)
{
	struct sm_key_slot *s = &sm_keys.slots->wrap;
	int e;

	if (n > crypto_pwhash_argon2id_PASSWD_MAX)
		return sm_fail(EINVAL, "material of %zu bytes is too long: hash it first", n);
	e = argon2id(s, material, n);
	sodium_stackzero(ARGON2_STACK_BYTES);
	if (e) {
		sm_wipe_traces();
		return sm_fail(ENOMEM, "Argon2id needs %zu bytes of memory: free some",
			(size_t)SM_ARGON2_BYTES);
	}
	sm_cipher_expand(s->state, s->whole);
	sm_wipe_traces();
	sm_wipe(s->whole, sizeof(s->whole));
	return 0;
}

/* Both keys as one message; the nonce never repeats, as the salt makes a new key each time. */
static struct sm_message
wrap_message(struct sm_wrapped *w, const struct bound *ad)
{
	return (struct sm_message){ .bytes = sm_keys.right.whole[0], .n = sizeof(w->keys),
		.tag = w->tag, .tag_rest = w->tag_rest, .ad = ad, .ad_bytes = sizeof(*ad) };
}

/* Under lock. */
static void
seal_keys(void)
{
	struct sm_wrapped *w = &sm_keys.left->wrapped;
	struct sm_right *r = &sm_keys.right;
	struct bound ad = bind();
	struct sm_message m = wrap_message(w, &ad);

	for (unsigned i = 0; i < 2; i++) {
		sm_key_mask(r->whole[i], r->half);
		sm_key_xor(r->whole[i], sm_keys.left->half[i]);
	}
	sm_cipher_seal(sm_keys.slots->wrap.state, &m);
	memcpy(w->keys, r->whole, sizeof(w->keys));
	sm_wipe(r->whole, sizeof(w->keys));
}

static int
wrapped_up(int e)
{
	sm_wipe(&sm_keys.slots->wrap, sizeof(sm_keys.slots->wrap));
	if (!sm_purged())
		return e;
	sm_key_purge();
	return sm_state_refuse();
}

int
sm_key_wrap(const void *material, size_t n)
{
	int e = sm_os_random(sm_keys.left->wrapped.salt, SM_SALT_BYTES);
	struct sm_mask m;

	if (e == 0)
		e = expand_material(material, n);
	if (e == 0) {
		sm_keys_take(&m);
		seal_keys();
		sm_keys_let_go(&m);
	}
	return wrapped_up(e);
}

void
sm_key_unwrapped(void)
{
	sm_wipe(&sm_keys.left->wrapped, sizeof(sm_keys.left->wrapped));
}

/* Who lends from now on sees the flag; who has lent before returns the slot first. A resident key
 * is lent without a slot: no chunk is worked on any more, as the caller has had each in hand. */
void
sm_key_forget(void)
{
	struct sm_mask m;

	atomic_store(&sm_keys.forgotten, true);
	for (unsigned i = 0; i < SM_SLOTS; i++) {
		sm_os_mask(&m);
		sm_lock_take(&sm_keys.slot_lock[i], SM_RANK_KEY_SLOT);
		sm_lock_release(&sm_keys.slot_lock[i], SM_RANK_KEY_SLOT);
		sm_os_unmask(&m);
	}
	sm_keys_take(&m);
	sm_wipe(sm_keys.left->half, sizeof(sm_keys.left->half));
	sm_wipe(sm_keys.page[1].base, sm_keys.page[1].bytes);
	sm_wipe(sm_keys.slots, sizeof(*sm_keys.slots));
	sm_keys_let_go(&m);
}

/* Under lock. */
static int
open_keys(void)
{
	struct sm_wrapped *w = &sm_keys.left->wrapped;
	struct sm_right *r = &sm_keys.right;
	struct bound ad = bind();
	struct sm_message m = wrap_message(w, &ad);
	int e;

	memcpy(r->whole, w->keys, sizeof(w->keys));
	e = sm_cipher_open(sm_keys.slots->wrap.state, &m);
	if (e)
		e = sm_fail(EPERM, "this is not what it was locked with: try again");
	else
		e = sm_key_install(r->whole);
	sm_wipe(r->whole, sizeof(w->keys));
	return e;
}

int
sm_key_unwrap(const void *material, size_t n)
{
	int e = expand_material(material, n);
	struct sm_mask m;

	if (e == 0) {
		sm_keys_take(&m);
		e = open_keys();
		if (e == 0)
			atomic_store(&sm_keys.forgotten, false);
		sm_keys_let_go(&m);
	}
	if (e == 0)
		sm_key_unwrapped();
	return wrapped_up(e);
}
