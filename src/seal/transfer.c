#include "seal/inside.h"

#include <errno.h>
#include <string.h>

/*
 * What a child is to keep crosses the fork here: keys, config and clear bytes on pages for secrets
 * that the child inherits, ciphertext on plain ones. Both are there only across it.
 */

/** One live chunk, and where its bytes are among those of its kind. */
struct item {
	struct sm_chunk *c;
	size_t at;
};

/** At the head of the pages for secrets; clear bytes follow. */
struct head {
	struct sm_parcel keys;
	struct sm_config config;
};

static struct {
	struct sm_area secret; /* base NULL: nothing was packed */
	void *secret_reserved;
	unsigned char *plain; /* items, then ciphertext */
	size_t plain_bytes;
	size_t items, most_items;
	size_t clear_bytes, sealed_bytes; /* packed so far */
	bool shut;			  /* the gate, by before_fork */
} parcel;

enum { ALIGN = 16 };

static struct head *
head(void)
{
	return (struct head *)(void *)parcel.secret.base;
}

static unsigned char *
clear_place(size_t at)
{
	return parcel.secret.base + sm_round_up(sizeof(struct head), ALIGN) + at;
}

static unsigned char *
sealed_place(size_t at)
{
	return parcel.plain + sm_round_up(parcel.most_items * sizeof(struct item), ALIGN) + at;
}

/* Hidden pages are common to parent and child: who lets go last has them wiped by the kernel. */
static void
discard(void)
{
	if (parcel.secret.base && !(parcel.secret.granted & SECMALLOC_HIDDEN))
		sm_wipe(parcel.secret.base, parcel.secret.bytes);
	if (parcel.secret_reserved) {
		size_t bytes = parcel.secret.bytes;

		sm_os_release(&parcel.secret);
		sm_os_unreserve(parcel.secret_reserved, bytes);
	}
	sm_os_unreserve(parcel.plain, parcel.plain_bytes);
	parcel.secret_reserved = NULL;
	parcel.plain = NULL;
	parcel.plain_bytes = parcel.items = 0;
}

/* ------------------------------------------------------------------ parent */

/* What there is, to know how much room it needs. */
static void
measure(size_t *clear, size_t *sealed, size_t *items)
{
	struct sm_walk w = { 0 };
	struct sm_chunk *c;

	*clear = *sealed = *items = 0;
	while ((c = sm_heap_next(&w)) != NULL) {
		*(c->veil == SM_VEIL_CLEAR ? clear : sealed) += sm_round_up(c->size, ALIGN);
		++*items;
	}
}

static int
obtain_secret(size_t bytes)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require & ~SECMALLOC_FORKSAFE,
		.without = c->without, .inherit = true };
	int e = sm_os_reserve(bytes, &parcel.secret_reserved);

	if (e)
		return e;
	e = sm_os_obtain(parcel.secret_reserved, bytes, &wish, &parcel.secret);
	if (e) {
		sm_os_unreserve(parcel.secret_reserved, bytes);
		parcel.secret_reserved = NULL;
	}
	return e;
}

static int
obtain(size_t clear, size_t sealed, size_t items)
{
	size_t page = sm_os_page_bytes();
	void *plain;
	int e = obtain_secret(sm_round_up(sizeof(struct head) + ALIGN + clear, page));

	if (e)
		return e;
	parcel.plain_bytes = sm_round_up(items * sizeof(struct item) + ALIGN + sealed, page);
	e = sm_os_reserve(parcel.plain_bytes, &plain);
	if (e)
		return e;
	parcel.plain = plain;
	parcel.most_items = items;
	return sm_os_commit(plain, parcel.plain_bytes);
}

static int
pack_chunk(struct sm_chunk *c)
{
	bool clear = c->veil == SM_VEIL_CLEAR;
	size_t *at = clear ? &parcel.clear_bytes : &parcel.sealed_bytes;
	struct item *i = (struct item *)(void *)parcel.plain + parcel.items;
	int e = sm_heap_lift(c);

	if (e)
		return e;
	*i = (struct item){ c, *at };
	memcpy(clear ? clear_place(*at) : sealed_place(*at), sm_heap_bytes(c), c->size);
	*at += sm_round_up(c->size, ALIGN);
	parcel.items++;
	return sm_heap_drop(c);
}

static int
pack(void)
{
	struct sm_walk w = { 0 };
	size_t clear, sealed, items;
	struct sm_chunk *c;
	int e;

	measure(&clear, &sealed, &items);
	parcel.clear_bytes = parcel.sealed_bytes = 0;
	e = obtain(clear, sealed, items);
	if (e)
		return e;
	sm_key_pack(&head()->keys);
	head()->config = *sm_config();
	while (e == 0 && parcel.items < items && (c = sm_heap_next(&w)) != NULL)
		e = pack_chunk(c);
	sm_wipe_traces(); /* memcpy leaves plaintext in the vector registers */
	return e;
}

/* Nobody is inside when the fork comes, nor comes in: what the child finds is whole. */
void
sm_seal_before_fork(void)
{
	if (!sm_config_runs() || !sm_config()->fork_keeps)
		return;
	sm_batch_hold();
	parcel.shut = sm_gate_shut(SM_FORKING) == 0;
	if (!parcel.shut) {
		sm_batch_let_go();
		return;
	}
	sm_os_barrier();
	sm_batch_settle();
	sm_heap_hold();
	if (pack())
		discard();
}

void
sm_seal_after_fork(void)
{
	if (!parcel.shut)
		return;
	discard();
	parcel.shut = false;
	sm_heap_let_go();
	(void)sm_gate_open(SM_FORKING);
	sm_batch_let_go();
}

/* ------------------------------------------------------------------- child */

bool
sm_seal_was_shut(void)
{
	return parcel.shut;
}

const struct sm_config *
sm_seal_kept(void)
{
	if (!parcel.shut || !parcel.secret.base || sm_os_adopt(&parcel.secret))
		return NULL;
	return &head()->config;
}

void
sm_seal_drop_kept(void)
{
	discard();
	parcel.shut = false;
}

static void
mark(struct sm_chunk *c)
{
	c->holds = 0;
	c->opened_by_hold = 0;
}

/* What was made while it was packed is nobody's: its maker is in the parent. */
static int
refill(void)
{
	const struct item *i = (const struct item *)(void *)parcel.plain, *end = i + parcel.items;
	struct sm_walk w = { 0 };
	struct sm_chunk *c;
	int e = 0;

	while (e == 0 && (c = sm_heap_next(&w)) != NULL) {
		bool clear = c->veil == SM_VEIL_CLEAR;

		mark(c);
		if (i == end || i->c != c) {
			sm_heap_leave(c);
			continue;
		}
		e = sm_heap_refill(c, clear ? clear_place(i->at) : sealed_place(i->at), clear);
		i++;
	}
	sm_wipe_traces();
	return e;
}

static int
own_key(void)
{
	const struct sm_parcel *p = &head()->keys;
	int e = sm_key_has_other() ? sm_batch_carry() : 0;

	if (e == 0)
		e = sm_key_renew(sm_config()->key_provider ? p->whole[p->now] : NULL);
	return e;
}

int
sm_seal_revive(void)
{
	int e = sm_heap_reclaim();

	if (e)
		return e;
	sm_key_orphan();
	e = sm_key_unpack(&head()->keys);
	if (e == 0)
		e = sm_heap_revive();
	if (e == 0)
		e = refill();
	if (e == 0)
		e = own_key();
	sm_heap_revived(e == 0);
	return e;
}
