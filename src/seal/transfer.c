#include "seal/inside.h"

#include <errno.h>
#include <string.h>

/*
 * What a child is to keep crosses the fork here: keys, config and clear bytes on pages for secrets
 * that the child inherits, ciphertext on plain ones. Both are there only across it. In transparent
 * mode keys and config do: the pages' ciphertext lies where a child has it anyway.
 */

/** One live chunk, and where its bytes are among those of its kind. */
struct item {
	struct sm_chunk *c;
	size_t at;
};

/** At the head of the pages for secrets; clear bytes follow. */
struct head {
	struct sm_parcel keys;
	struct sm_config config; /* mark 0: a purge has wiped it */
};

static struct {
	struct sm_area secret; /* base NULL: nothing was packed */
	void *secret_reserved;
	_Atomic(unsigned char *) shown; /* to a purge: secret.base */
	struct item *item;
	size_t items, item_bytes;
	unsigned char *sealed; /* ciphertext */
	size_t sealed_bytes;
	struct sm_chunk *bare; /* the parent's: protect could not be restored yet */
	bool shut; /* the gate, by before_fork */
} parcel;

enum { ALIGN = 16, STRAGGLERS = 64 };

static struct head *
head(void)
{
	return (struct head *)(void *)parcel.secret.base;
}

static unsigned char *
bytes_of(const struct item *i)
{
	if (i->c->veil == SM_VEIL_SEALED)
		return parcel.sealed + i->at;
	return parcel.secret.base + sm_round_up(sizeof(struct head), ALIGN) + i->at;
}

/* Hidden pages are common to parent and child: who lets go last has them wiped by the kernel. */
static void
discard(void)
{
	size_t bytes = parcel.secret.bytes;

	atomic_store(&parcel.shown, NULL);
	sm_purge_await();
	if (parcel.secret.base && !(parcel.secret.granted & SECMALLOC_HIDDEN))
		sm_wipe(parcel.secret.base, bytes);
	if (parcel.secret_reserved) {
		sm_os_release(&parcel.secret);
		sm_os_unreserve(parcel.secret_reserved, bytes);
	}
	sm_os_unreserve(parcel.item, parcel.item_bytes);
	sm_os_unreserve(parcel.sealed, parcel.sealed_bytes);
	parcel.secret_reserved = NULL;
	parcel.item = NULL;
	parcel.sealed = NULL;
	parcel.items = parcel.item_bytes = parcel.sealed_bytes = 0;
}

SM_NO_TSAN void
sm_seal_purge(void)
{
	unsigned char *base = atomic_load(&parcel.shown);

	if (base)
		sm_purge_wipe(base, parcel.secret.bytes);
}

/* ------------------------------------------------------------------ parent */

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
		return e;
	}
	atomic_store(&parcel.shown, parcel.secret.base);
	return 0;
}

static size_t
count_chunks(void)
{
	struct sm_walk w = { 0 };
	size_t n = 0;

	while (sm_heap_next(&w) != NULL)
		n++;
	return n;
}

/* Which chunks, and where their bytes go. One that another thread hands out just now may be
 * missing: nobody in the child can know it. */
static int
list_chunks(size_t *clear)
{
	size_t page = sm_os_page_bytes(), most = count_chunks() + STRAGGLERS;
	struct sm_walk w = { 0 };
	struct sm_chunk *c;
	void *at;
	int e = sm_os_plain(sm_round_up(most * sizeof(struct item), page), &at);

	if (e)
		return e;
	parcel.item = at;
	parcel.item_bytes = sm_round_up(most * sizeof(struct item), page);
	while (parcel.items < most && (c = sm_heap_next(&w)) != NULL) {
		size_t *end = c->veil == SM_VEIL_CLEAR ? clear : &parcel.sealed_bytes;

		parcel.item[parcel.items++] = (struct item){ c, *end };
		*end += sm_round_up(c->size, ALIGN);
	}
	parcel.sealed_bytes = sm_round_up(parcel.sealed_bytes + 1, page);
	e = sm_os_plain(parcel.sealed_bytes, &at);
	if (e)
		parcel.sealed_bytes = 0;
	else
		parcel.sealed = at;
	return e;
}

static int
pack_chunk(const struct item *i)
{
	bool barred = i->c->access == SECMALLOC_NOACCESS;
	int e = barred ? sm_heap_lift(i->c) : 0;

	if (e)
		return e;
	memcpy(bytes_of(i), sm_heap_bytes(i->c), i->c->size);
	if (barred)
		e = sm_heap_drop(i->c);
	if (e)
		parcel.bare = i->c;
	return e;
}

static int
pack(void)
{
	size_t clear = 0;
	int e = sm_seal_pager ? sm_seal_pager->pause() : list_chunks(&clear);

	if (e == 0 && sm_seal_pager && sm_key_has_other())
		sm_key_drop(); /* a pause has carried all that was sealed with it */
	if (e == 0)
		e = obtain_secret(sm_round_up(sizeof(struct head) + ALIGN + clear,
			sm_os_page_bytes()));
	if (e)
		return e;
	sm_key_pack(&head()->keys);
	head()->config = *sm_config();
	for (size_t i = 0; e == 0 && i < parcel.items; i++)
		e = pack_chunk(&parcel.item[i]);
	sm_wipe_traces(); /* memcpy leaves plaintext in the vector registers */
	return e ? e : sm_purged() ? sm_state_refuse() : 0;
}

/* Nobody is inside when the fork comes, nor comes in: what the child finds is whole. */
void
sm_seal_before_fork(void)
{
	parcel.shut = false;
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
	if (sm_seal_pager)
		sm_seal_pager->resume();
	discard();
	if (parcel.bare)
		(void)sm_heap_protect(parcel.bare, SECMALLOC_NOACCESS);
	parcel.bare = NULL;
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
	return head()->config.mark ? &head()->config : NULL;
}

void
sm_seal_drop_kept(void)
{
	discard();
	parcel.shut = false;
}

static int
refill_chunk(const struct item *i)
{
	struct sm_chunk *c = i->c;
	bool clear = c->veil == SM_VEIL_CLEAR;

	c->holds = 0;
	c->opened_by_hold = 0;
	if (!clear) {
		sm_count_sub(&sm_count.dropped, 1);
		sm_count_veil(0, 0, c->size);
	}
	return sm_heap_refill(c, bytes_of(i), clear);
}

/* What was made while it was packed is nobody's: its maker is in the parent. */
static int
refill(size_t *filled)
{
	const struct item *i = parcel.item, *end = i + parcel.items;
	struct sm_walk w = { 0 };
	struct sm_sums sums = sm_count_shares();
	struct sm_chunk *c;
	int e = 0;

	sm_count_add(&sm_count.dropped, sm_count_closed(&sums));
	sm_count_veil(0, 0, -sums.bytes_encrypted);
	while (e == 0 && (c = sm_heap_next(&w)) != NULL) {
		if (i == end || i->c != c) {
			sm_heap_leave(c);
			continue;
		}
		e = refill_chunk(i++);
	}
	*filled = (size_t)(i - parcel.item);
	sm_wipe_traces();
	return e;
}

static void
undo(size_t filled)
{
	if (sm_seal_pager)
		sm_seal_pager->undo();
	for (size_t i = 0; i < filled; i++) {
		struct sm_chunk *c = parcel.item[i].c;

		if (c->veil == SM_VEIL_CLEAR && sm_heap_lift(c) == 0)
			sm_wipe(sm_heap_bytes(c), c->size);
	}
	sm_key_stop();
}

void
sm_seal_undo(void)
{
	undo(parcel.items);
}

/* Two keys of the parent's are one too many: what cannot be carried was tampered with, and lost. */
static int
own_key(void)
{
	const struct sm_parcel *p = &head()->keys;
	int e = sm_key_has_other() ? sm_batch_carry(true) : 0;

	if (e == 0)
		e = sm_key_renew(sm_config()->key_provider ? p->whole[p->now] : NULL);
	if (e == 0 && head()->config.mark == 0) /* purged in the parent, and so here */
		e = sm_fail(ECANCELED, "the parent was purged while it forked");
	return e;
}

/* A key of its own comes first: with the parent's nothing is sealed here. */
static int
revive_pages(void)
{
	struct sm_walk w = { 0 };
	struct sm_chunk *c;
	int e = own_key();

	if (e == 0)
		e = sm_seal_pager->revive();
	if (e == 0)
		e = sm_heap_revive();
	while (e == 0 && (c = sm_heap_next(&w)) != NULL) {
		if (c->holds || c->opened_by_hold) /* else its page need not be copied */
			c->holds = c->opened_by_hold = 0;
		sm_heap_stay(c);
	}
	return e ? e : sm_seal_pager->serve();
}

static int
revive_chunks(size_t *filled)
{
	int e = sm_heap_revive();

	if (e == 0)
		e = refill(filled);
	return e ? e : own_key();
}

int
sm_seal_revive(void)
{
	size_t filled = 0;
	int e = sm_heap_reclaim();

	if (e)
		return e;
	sm_key_orphan();
	e = sm_key_unpack(&head()->keys);
	if (e)
		return e;
	e = sm_seal_pager ? revive_pages() : revive_chunks(&filled);
	if (e)
		undo(filled);
	return e;
}
