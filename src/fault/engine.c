#include "fault/inside.h"

#include <errno.h>
#include <string.h>

enum {
	FRAMES_LEAST = 32, /* one instruction may need several pages at once */
	RESERVE = 32,	   /* frames beyond clear_limit, for pages that the kernel has pinned */
	MAPPINGS_PER_FRAME = 8 /* one for an open page, one behind it, and as many for the program */
};

struct sm_engine sm_engine;
const struct sm_mover *sm_mover = &sm_uffd;

/* -------------------------------------------------------------------- lock */

void
sm_engine_take(void)
{
	uint32_t mine = atomic_fetch_add(&sm_engine.next, 1);
	unsigned turn = 0;

	while (atomic_load_explicit(&sm_engine.serving, memory_order_acquire) != mine)
		sm_rest(&turn);
}

void
sm_engine_let_go(void)
{
	atomic_fetch_add_explicit(&sm_engine.serving, 1, memory_order_release);
}

int
sm_engine_begin(struct sm_work *w)
{
	int e;

	sm_server_mask(&w->mask);
	sm_locks_shelve(&w->shelf);
	e = sm_key_lend(&w->key, 0);
	if (e == 0) {
		sm_engine_take();
		return 0;
	}
	sm_locks_unshelve(&w->shelf);
	sm_server_unmask(&w->mask);
	return e;
}

void
sm_engine_end(struct sm_work *w)
{
	sm_engine_let_go();
	sm_key_return(&w->key);
	sm_locks_unshelve(&w->shelf);
	sm_server_unmask(&w->mask);
}

/* ----------------------------------------------------------------- places */

static unsigned char *
frame_at(uint32_t f)
{
	return sm_engine.p.base + f * sm_engine.page_bytes;
}

struct sm_span *
sm_engine_span(const void *at)
{
	for (size_t i = 0; i < sm_engine.nspans; i++)
		if ((uintptr_t)at - (uintptr_t)sm_engine.spans[i].u <
			sm_engine.spans[i].pages * sm_engine.page_bytes)
			return &sm_engine.spans[i];
	return NULL;
}

size_t
sm_engine_index(const struct sm_span *s, const void *at)
{
	return ((uintptr_t)at - (uintptr_t)s->u) / sm_engine.page_bytes;
}

static struct sm_message
message(const struct sm_span *s, size_t i, unsigned char *bytes, const uint64_t ad[2])
{
	struct sm_page *p = &s->page[i];

	return (struct sm_message){ .bytes = bytes, .n = sm_engine.page_bytes, .tag = p->tag,
		.nonce = p->nonce, .ad = ad, .ad_bytes = 2 * sizeof(*ad), .tag_rest = p->tag_rest };
}

/* ---------------------------------------------------------- seal and unseal */

/* From a frame to X; the frame is zero afterwards. */
int
sm_engine_seal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key)
{
	const uint64_t ad[2] = { (uintptr_t)s->u + i * sm_engine.page_bytes, key->epoch };
	struct sm_message m;
	int e;

	s->page[i].epoch = key->epoch;
	s->page[i].nonce = sm_key_nonce();
	m = message(s, i, frame_at(f), ad);
	m.to = s->x ? s->x + i * sm_engine.page_bytes : frame_at(f);
	sm_cipher_seal(key->state, &m);
	if (sm_purged()) /* a key that is wiped has hidden nothing */
		sm_wipe(m.to, sm_engine.page_bytes);
	e = sm_store_put(s, i, frame_at(f));
	if (e && sm_cipher_open(key->state, &m) == 0)
		return e;
	sm_wipe(frame_at(f), sm_engine.page_bytes);
	if (e == 0)
		s->page[i].state = SM_PAGE_SEALED;
	return e;
}

/* From X to a frame, which stays zero where X was written. */
int
sm_engine_unseal(struct sm_span *s, size_t i, uint32_t f, const struct sm_loan *key)
{
	const uint64_t ad[2] = { (uintptr_t)s->u + i * sm_engine.page_bytes, s->page[i].epoch };
	struct sm_message m = message(s, i, frame_at(f), ad);
	int e = sm_store_get(s, i, frame_at(f));

	if (e == 0)
		e = sm_cipher_open(key->state, &m);
	if (sm_purged())
		e = sm_state_refuse();
	if (e)
		sm_wipe(frame_at(f), sm_engine.page_bytes);
	return e;
}

/* -------------------------------------------------------------- clear pages */

static void
free_frame(uint32_t f)
{
	if (sm_engine.owner[f].span)
		atomic_fetch_sub_explicit(&sm_engine.clear, 1, memory_order_relaxed);
	sm_engine.owner[f].span = NULL;
	sm_engine.free[sm_engine.nfree++] = f;
}

/* The program has thrown the page away (madvise): it is as if it had never been. */
static void
refill(struct sm_span *s, size_t i)
{
	uint32_t f = s->page[i].frame;

	if (sm_mover->zero(sm_engine.fd, frame_at(f)))
		sm_die(SECMALLOC_FAULT_INTERNAL, s->u);
	*(volatile unsigned char *)frame_at(f) = 0; /* a frame of its own, not the page of zeros */
	s->page[i].state = SM_PAGE_VIRGIN;
	free_frame(f);
}

/* X took nothing: the page stays clear. */
static void
put_back(struct sm_span *s, size_t i)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	int e = sm_mover->put(sm_engine.fd, u, frame_at(s->page[i].frame));

	if (e && e != EEXIST)
		sm_die(SECMALLOC_FAULT_STORE, u);
}

/* EEXIST: it was moved already, and the kernel was interrupted. */
int
sm_engine_close(struct sm_span *s, size_t i, const struct sm_loan *key)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	uint32_t f = s->page[i].frame;
	int e = sm_mover->take(sm_engine.fd, frame_at(f), u);

	if (e == ENOENT) {
		refill(s, i);
		return 0;
	}
	if (e && e != EEXIST)
		return e;
	e = sm_engine_seal(s, i, f, key);
	if (e) {
		put_back(s, i);
		return e;
	}
	if (!s->locked)
		sm_mover->unlock(u, sm_engine.page_bytes);
	free_frame(f);
	return 0;
}

/* Also where the kernel has it pinned: then its frame is another one. */
void
sm_engine_discard(struct sm_span *s, size_t i)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	uint32_t f = s->page[i].frame;
	int e = sm_mover->take(sm_engine.fd, frame_at(f), u);

	if (e && e != EEXIST) {
		refill(s, i);
		return;
	}
	if (!s->locked)
		sm_mover->unlock(u, sm_engine.page_bytes);
	sm_wipe(frame_at(f), sm_engine.page_bytes);
	s->page[i].state = SM_PAGE_VIRGIN;
	free_frame(f);
}

/* The clock's hand goes over frames; pages that are held, or pinned by the kernel, stay. */
static int
evict(const struct sm_loan *key)
{
	int e = EBUSY;

	for (size_t n = 0; n < sm_engine.frames && e && e != EIO; n++) {
		struct sm_owner o;

		sm_engine.hand = sm_engine.hand + 1 < sm_engine.frames ? sm_engine.hand + 1 : 0;
		o = sm_engine.owner[sm_engine.hand];
		if (o.span && o.span->page[o.page].holds == 0)
			e = sm_engine_close(o.span, o.page, key);
	}
	return e;
}

static int
take_frame(uint32_t *f, const struct sm_loan *key)
{
	int e = 0;

	while (e == 0 && sm_engine.nfree <= RESERVE)
		e = evict(key);
	if (sm_engine.nfree == 0 && e == EIO)
		return e;
	if (sm_engine.nfree == 0)
		return sm_fail(ENOMEM, "all %zu pages that may be clear are held: raise clear_limit",
			sm_engine.frames);
	*f = sm_engine.free[--sm_engine.nfree];
	return 0;
}

static int
place(struct sm_span *s, size_t i, uint32_t f)
{
	unsigned char *u = s->u + i * sm_engine.page_bytes;
	int e = s->locked ? 0 : sm_mover->lock(u, sm_engine.page_bytes);

	if (e)
		return sm_os_pin_refused(e, sm_engine.page_bytes);
	e = sm_mover->put(sm_engine.fd, u, frame_at(f));
	if (e == 0 || e == EEXIST)
		return 0;
	if (!s->locked)
		sm_mover->unlock(u, sm_engine.page_bytes);
	return sm_fail(ENOMEM, "moving a page failed (%d): free some memory", e);
}

int
sm_engine_open(struct sm_span *s, size_t i, const struct sm_loan *key)
{
	struct sm_page *p = &s->page[i];
	uint32_t f = 0;
	int e;

	if (p->state == SM_PAGE_CLEAR) /* it is there, or was thrown away */
		return sm_mover->zero(sm_engine.fd, s->u + i * sm_engine.page_bytes);
	if (p->state == SM_PAGE_SHUT)
		return EFAULT;
	e = p->state == SM_PAGE_LOST ? EBADMSG : take_frame(&f, key);
	if (e)
		return e;
	if (p->state == SM_PAGE_SEALED)
		e = sm_engine_unseal(s, i, f, key);
	if (e == EBADMSG)
		p->state = SM_PAGE_LOST;
	if (e == 0)
		e = place(s, i, f);
	if (e) {
		sm_wipe(frame_at(f), sm_engine.page_bytes);
		free_frame(f);
		return e;
	}
	p->state = SM_PAGE_CLEAR;
	p->frame = f;
	sm_engine.owner[f] = (struct sm_owner){ s, i, sm_os_now_ms() };
	atomic_fetch_add_explicit(&sm_engine.clear, 1, memory_order_relaxed);
	return 0;
}

/* ---------------------------------------------------------- start and stop */

static int
obtain_frames(size_t bytes)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require & ~(unsigned)SECMALLOC_HIDDEN,
		.without = c->without | SECMALLOC_HIDDEN, .shared = sm_mover->shared };
	int e = sm_os_reserve(bytes, &sm_engine.p_reserved);

	if (e)
		return e;
	if (sm_mover->shared)
		wish.without = c->without;
	e = sm_os_obtain(sm_engine.p_reserved, bytes, &wish, &sm_engine.p);
	if (e) {
		sm_os_unreserve(sm_engine.p_reserved, bytes);
		sm_engine.p_reserved = NULL;
	}
	return e;
}

static int
obtain_tables(void)
{
	size_t owners = sm_engine.frames * sizeof(*sm_engine.owner);
	size_t bytes = sm_round_up(owners + sm_engine.frames * sizeof(*sm_engine.free),
		sm_engine.page_bytes);
	void *at;
	int e = sm_os_plain(bytes, &at);

	if (e)
		return e;
	sm_engine.table_bytes = bytes;
	sm_engine.owner = at;
	sm_engine.free = (uint32_t *)(void *)((unsigned char *)at + owners);
	for (size_t f = sm_engine.frames; f > 0; f--)
		sm_engine.free[sm_engine.nfree++] = (uint32_t)(f - 1);
	return 0;
}

int
sm_engine_start(int fd)
{
	size_t page = sm_os_page_bytes(), n = sm_config()->clear_bytes / page;
	int e;

	sm_engine = (struct sm_engine){ .fd = fd, .page_bytes = page };
	if (sm_mover->shared)
		n = sm_min_size(n, sm_os_map_limit() / MAPPINGS_PER_FRAME);
	sm_engine.frames = (n < FRAMES_LEAST ? FRAMES_LEAST : n) + RESERVE;
	if (sm_mover->shared && sm_os_lock_limit() / 2 < sm_engine.frames * page)
		return sm_fail(ENOMEM, "without userfaultfd each open page is locked twice: lower "
			"clear_limit, or raise RLIMIT_MEMLOCK to %zu", 2 * sm_engine.frames * page);
	e = obtain_frames(sm_engine.frames * page);
	if (e)
		return e;
	e = obtain_tables();
	if (e == 0) {
		e = sm_mover->watch(fd, sm_engine.p.base, sm_engine.p.bytes);
		if (e)
			e = sm_fail(ENOTSUP, "the kernel refused to watch pages (%d)", e);
	}
	if (e)
		sm_engine_stop();
	return e;
}

/* Every page is in P again. */
void
sm_engine_stop(void)
{
	size_t bytes = sm_engine.p.bytes;

	if (!sm_engine.p.base)
		return;
	sm_mover->unwatch(sm_engine.fd, sm_engine.p.base, bytes);
	sm_wipe(sm_engine.p.base, bytes);
	sm_os_release(&sm_engine.p);
	sm_os_unreserve(sm_engine.p_reserved, bytes);
	sm_os_unreserve(sm_engine.owner, sm_engine.table_bytes);
	sm_engine = (struct sm_engine){ .fd = -1 };
}
