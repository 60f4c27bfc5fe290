#include "seal/inside.h"

#include "cipher/cipher.h"

#include <errno.h>
#include <string.h>

/* -------------------------------------------------------- open and close */

static int
set_veil(struct sm_hand *h, enum sm_veil veil)
{
	struct sm_loan key;
	int e, undone;

	if (h->c->veil == veil)
		return 0;
	e = sm_heap_lift(h->c, h->ptr);
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
	undone = sm_heap_drop(h->c, h->ptr);
	return e ? e : undone;
}

static int
set_veil_of(void *ptr, enum sm_veil veil)
{
	struct sm_hand h;
	int e = sm_hand_take(ptr, &h);

	if (e)
		return e;
	e = set_veil(&h, veil);
	sm_hand_release(&h);
	return e;
}

int
sm_seal_close(void *ptr)
{
	return set_veil_of(ptr, SM_VEIL_SEALED);
}

int
sm_seal_open(void *ptr)
{
	return set_veil_of(ptr, SM_VEIL_CLEAR);
}

static int
set_all(enum sm_veil veil)
{
	struct sm_walk w = { 0 };
	struct sm_chunk *c;
	int first = 0;

	while ((c = sm_heap_next(&w)) != NULL) {
		struct sm_hand h = { c, NULL };
		int e = 0;

		sm_lock_take(&c->lock, SM_RANK_CHUNK);
		if (sm_heap_live(c)) {
			h.ptr = sm_heap_bytes(c);
			e = set_veil(&h, veil);
		}
		sm_hand_release(&h);
		if (first == 0 && e) {
			first = e;
			sm_error_show();
		}
	}
	if (first)
		sm_error_restore(); /* the text is the first failure's, as errno is */
	return first;
}

int
sm_seal_close_all(void)
{
	return set_all(SM_VEIL_SEALED);
}

int
sm_seal_open_all(void)
{
	return set_all(SM_VEIL_CLEAR);
}

/* -------------------------------------------------------- alloc and free */

static void
count_in(const struct sm_chunk *c)
{
	sm_count_add(&sm_count.chunks, 1);
	sm_count_bytes(c->size);
}

static void
count_out(const struct sm_chunk *c)
{
	sm_count_sub(&sm_count.chunks, 1);
	sm_count_sub(&sm_count.bytes, c->size);
	if (c->veil == SM_VEIL_SEALED) {
		sm_count_sub(&sm_count.chunks_encrypted, 1);
		sm_count_sub(&sm_count.bytes_encrypted, c->size);
	}
}

static int
alloc(const struct sm_wanted *w, struct sm_hand *h)
{
	void *ptr;
	int e;

	if (w->size > sm_cipher_limit())
		return sm_fail(ENOMEM, "%zu bytes are more than the cipher can seal at once (%zu): "
				       "ask for less", w->size, sm_cipher_limit());
	e = sm_heap_alloc(w, &h->c, &ptr);
	if (e)
		return e;
	h->ptr = ptr;
	count_in(h->c);
	return 0;
}

int
sm_seal_alloc(size_t size, size_t align, void **out)
{
	struct sm_wanted w = { size, align < 16 ? 16 : align, false };
	struct sm_hand h;
	int e = alloc(&w, &h);

	if (e)
		return e;
	sm_heap_publish(h.c);
	*out = h.ptr;
	return 0;
}

/* A bad pointer to free or realloc is a fault. Returns ECHILD for a parent's chunk. */
static int
take_or_die(void *ptr, struct sm_hand *h)
{
	struct sm_chunk *c = NULL;
	int e = sm_hand_take(ptr, h);

	if (e == 0 || e == ECHILD)
		return e;
	if (sm_heap_find(ptr, &c) == SM_FOUND && c->generation != 0)
		sm_die(SECMALLOC_FAULT_DOUBLE_FREE, ptr);
	sm_die(SECMALLOC_FAULT_INVALID_FREE, ptr);
}

static void
put_back(struct sm_hand *h)
{
	count_out(h->c);
	h->c->veil = SM_VEIL_CLEAR;
	sm_wipe(h->c->tag, sizeof(h->c->tag));
	sm_heap_free(h->c, h->ptr);
}

int
sm_seal_free(void *ptr)
{
	struct sm_hand h;
	int e = take_or_die(ptr, &h);

	if (e)
		return e == ECHILD ? 0 : e;
	e = sm_heap_lift(h.c, h.ptr);
	if (e == 0) {
		sm_heap_verify(h.c, h.ptr);
		put_back(&h);
	}
	sm_hand_release(&h);
	return e;
}

/* ---------------------------------------------------------------- realloc */

/* h is clear and accessible. The new chunk is too, and nobody knows it yet. */
static int
copy_elsewhere(const struct sm_hand *h, size_t size, struct sm_hand *to)
{
	struct sm_wanted w = { size, 16, h->c->access != SECMALLOC_READWRITE };
	int e = alloc(&w, to);

	if (e)
		return e;
	memcpy(to->ptr, h->ptr, sm_min_size(size, h->c->size));
	sm_wipe_traces(); /* memcpy leaves plaintext in the vector registers */
	if (!w.own_pages)
		return 0;
	e = sm_heap_protect(to->c, to->ptr, (enum secmalloc_access)h->c->access);
	if (e == 0)
		e = sm_heap_lift(to->c, to->ptr);
	if (e) {
		(void)sm_heap_protect(to->c, to->ptr, SECMALLOC_READWRITE);
		put_back(to);
	}
	return e;
}

static bool
resize_in_place(struct sm_hand *h, size_t size, bool loose)
{
	size_t from = h->c->size;

	if (!sm_heap_resize(h->c, h->ptr, size, loose))
		return false;
	if (size > from)
		sm_count_bytes(size - from);
	else
		sm_count_sub(&sm_count.bytes, from - size);
	return true;
}

/* Where the bytes are afterwards is in `now`: h itself, also on error, or a copy elsewhere. */
static int
resize(struct sm_hand *h, size_t size, struct sm_hand *now)
{
	struct sm_hand to;
	int e;

	if (resize_in_place(h, size, false))
		return 0;
	e = copy_elsewhere(h, size, &to);
	if (e == 0)
		*now = to;
	else if (resize_in_place(h, size, true))
		e = 0;
	return e;
}

/* The chunk in h, accessible, and clear unless `key` is lent to open it and close it again. */
static int
resize_opened(struct sm_hand *h, size_t size, const struct sm_loan *key, struct sm_hand *now)
{
	int e = key ? sm_hand_open(h, key) : 0;

	if (e)
		return e;
	e = resize(h, size, now);
	if (key)
		sm_hand_close(now, key);
	if (now->c == h->c)
		return e;
	e = sm_heap_drop(now->c, now->ptr);
	if (e == 0) {
		put_back(h);
		sm_heap_publish(now->c);
		return 0;
	}
	put_back(now);
	*now = *h;
	if (key)
		sm_hand_close(h, key);
	return e;
}

static int
resize_in_hand(struct sm_hand *h, size_t size, struct sm_hand *now)
{
	bool sealed = h->c->veil == SM_VEIL_SEALED;
	struct sm_loan key;
	int e = sm_heap_lift(h->c, h->ptr), undone = 0;

	if (e)
		return e;
	sm_heap_verify(h->c, h->ptr);
	if (sealed)
		sm_key_lend(&key);
	e = resize_opened(h, size, sealed ? &key : NULL, now);
	if (sealed)
		sm_key_return(&key);
	if (now->c == h->c)
		undone = sm_heap_drop(h->c, h->ptr);
	return e ? e : undone;
}

int
sm_seal_realloc(void *ptr, size_t size, void **out)
{
	struct sm_hand h, now;
	int e;

	e = take_or_die(ptr, &h);
	if (e)
		return e;
	now = h;
	e = resize_in_hand(&h, size, &now);
	sm_hand_release(&h);
	if (e == 0)
		*out = now.ptr;
	return e;
}

/* ------------------------------------------------------------------- ask */

int
sm_seal_protect(void *ptr, enum secmalloc_access a)
{
	struct sm_hand h;
	int e = sm_hand_take(ptr, &h);

	if (e)
		return e;
	e = sm_heap_protect(h.c, h.ptr, a);
	sm_hand_release(&h);
	return e;
}

int
sm_seal_ask(const void *ptr, struct sm_answer *a)
{
	struct sm_hand h;
	int e = sm_hand_take(ptr, &h);

	if (e)
		return e;
	*a = (struct sm_answer){ h.c->size, h.c->veil == SM_VEIL_SEALED };
	sm_hand_release(&h);
	return 0;
}
