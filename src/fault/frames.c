#include "fault/inside.h"

#include <errno.h>

enum { PER_WORD = 64, LOOKS = 8 };
enum { MAPPINGS_PER_FRAME = 8 }; /* one for an open page, one behind it, and as many for the program */

/* -------------------------------------------------------- free, and in P or not */

static size_t
free_words(void)
{
	return (sm_engine.frames + PER_WORD - 1) / PER_WORD;
}

size_t
sm_frames_free(void)
{
	return sm_engine.nfree + sm_engine.nbare;
}

static void
disown(uint32_t f)
{
	if (sm_engine.owner[f].span) {
		atomic_fetch_sub_explicit(&sm_engine.clear, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&sm_engine.closed, 1, memory_order_relaxed);
	}
	sm_engine.owner[f].span = NULL;
}

static void
set_free(uint32_t f)
{
	sm_assert(!(sm_engine.free[f / PER_WORD] >> f % PER_WORD & 1));
	sm_engine.free[f / PER_WORD] |= UINT64_C(1) << f % PER_WORD;
	sm_engine.nfree++;
}

void
sm_frame_back(uint32_t f)
{
	disown(f);
	set_free(f);
}

void
sm_frame_gone(uint32_t f)
{
	disown(f);
	sm_engine.owner[f].bare = true;
	sm_engine.bare[sm_engine.nbare++] = f;
}

/* Whoever looked at the place has zeros there, of which there may be one page for all. */
static void
unstuff(uint32_t f)
{
	if (atomic_exchange(&sm_engine.owner[f].stuffed, false))
		sm_mover->empty(sm_frame_at(f), sm_engine.page_bytes);
}

/* The bare frame that is next. */
static int
furnish_one(void)
{
	uint32_t f = sm_engine.bare[sm_engine.nbare - 1];
	int e;

	unstuff(f);
	e = sm_mover->bring(sm_engine.fd, sm_frame_at(f), 1, &(size_t){ 0 });
	if (e)
		return sm_fail(ENOMEM, "the kernel has no memory for a page (%d): free some", e);
	set_free(sm_frame_take_bare());
	return 0;
}

int
sm_frame_furnish(void)
{
	if (sm_engine.nfree)
		return 0;
	return sm_engine.nbare ? furnish_one() : ENOMEM;
}

/* The first bits that are set side by side, or the longest ones if none are so many. */
static unsigned
bits_in(uint64_t word, unsigned n, unsigned *first)
{
	unsigned from = 0, most = 0;

	*first = 0;
	while (most < n && from < PER_WORD && word >> from) {
		uint64_t rest;
		unsigned k;

		from += (unsigned)__builtin_ctzll(word >> from);
		rest = ~(word >> from);
		k = rest ? (unsigned)__builtin_ctzll(rest) : PER_WORD;
		if (k > most) {
			most = k;
			*first = from;
		}
		from += k;
	}
	return most < n ? most : n;
}

/* Pages move several at once where they come from, or go to, places side by side: such places are
 * looked for, though not for long. */
size_t
sm_frames_take(size_t n, uint32_t *first)
{
	size_t words = free_words(), best = 0;
	unsigned most = 0, bit = 0, at, k, looks = 0;

	n = sm_min_size(n, PER_WORD);
	for (size_t i = 0; i < words && most < n && looks < LOOKS; i++) {
		size_t w = (sm_engine.at_word + i) % words;

		k = bits_in(sm_engine.free[w], (unsigned)n, &at);
		looks += k > 0;
		if (k <= most)
			continue;
		most = k;
		bit = at;
		best = w;
	}
	if (most == 0)
		return 0;
	sm_engine.at_word = best;
	sm_engine.free[best] &= ~((most < PER_WORD ? (UINT64_C(1) << most) - 1 : UINT64_MAX) << bit);
	sm_engine.nfree -= most;
	*first = (uint32_t)(best * PER_WORD + bit);
	return most;
}

uint32_t
sm_frame_take(void)
{
	uint32_t f = 0;
	size_t n = sm_frames_take(1, &f);

	sm_assert(n == 1);
	return f;
}

uint32_t
sm_frame_take_bare(void)
{
	uint32_t f = sm_engine.bare[--sm_engine.nbare];

	sm_engine.owner[f].bare = false;
	return f;
}

int
sm_frame_pull(const struct sm_span *s, size_t i, uint32_t f)
{
	unstuff(f);
	return sm_mover->take(sm_engine.fd, sm_frame_at(f), s->u + i * sm_engine.page_bytes);
}

size_t
sm_frame_pull_some(const struct sm_span *s, size_t i, size_t n)
{
	uint32_t f = s->page[i].frame;

	for (size_t k = 0; k < n; k++)
		unstuff(f + (uint32_t)k);
	return sm_mover->some(sm_engine.fd, sm_frame_at(f), s->u + i * sm_engine.page_bytes, n);
}

bool
sm_frame_stuff(const void *at)
{
	size_t into = (uintptr_t)at - (uintptr_t)sm_engine.p.base;
	struct sm_owner *o;
	uint32_t f;
	bool empty;

	if (into >= sm_engine.p.bytes)
		return false;
	f = (uint32_t)(into / sm_engine.page_bytes);
	sm_engine_take();
	o = &sm_engine.owner[f];
	empty = o->span || o->bare;
	if (empty) /* noted first, as whoever waits runs on, and may purge */
		atomic_store(&o->stuffed, true);
	if (!empty || sm_mover->zero(sm_engine.fd, sm_frame_at(f)))
		sm_uffd_wake(sm_engine.fd, sm_frame_at(f));
	sm_engine_let_go();
	return true;
}

/* ---------------------------------------------------------- kept over a fork */

/* A purge that did not see it any more as a clear page must find it here, or be seen. */
void
sm_frame_keep(struct sm_span *s, size_t i, uint32_t f)
{
	struct sm_owner *o = &sm_engine.owner[f];

	disown(f);
	o->page = i;
	o->nonce = s->page[i].nonce;
	atomic_store(&o->taken, false);
	atomic_store(&o->kept, s);
	sm_engine.nkept++;
	if (sm_purge_fence())
		sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
}

/* A purge may be wiping it for as long as it likes: then it stays where it is, and nobody's. */
static void
forgo(uint32_t f)
{
	bool purged = atomic_exchange(&sm_engine.owner[f].taken, true);

	sm_wipe(sm_frame_at(f), sm_engine.page_bytes);
	atomic_store(&sm_engine.owner[f].kept, NULL);
	sm_engine.nkept--;
	if (!purged)
		sm_frame_back(f);
}

bool
sm_frame_forgo(void)
{
	uint32_t f = 0;

	if (sm_engine.nkept == 0)
		return false;
	while (!atomic_load(&sm_engine.owner[f].kept))
		f++;
	forgo(f);
	return true;
}

/* The thread that forks may have opened it meanwhile, and another have thrown it away. */
static bool
is_current(const struct sm_owner *o)
{
	const struct sm_page *p = &o->kept->page[o->page];

	return p->state == SM_PAGE_SEALED && p->nonce == o->nonce;
}

void
sm_frames_restore(bool show)
{
	for (uint32_t f = 0; sm_engine.nkept > 0 && f < sm_engine.frames; f++) {
		struct sm_owner *o = &sm_engine.owner[f];
		struct sm_span *s = o->kept;
		uint8_t forks;

		if (!s)
			continue;
		if (!show || !is_current(o) || atomic_exchange(&o->taken, true)) {
			forgo(f);
			continue;
		}
		sm_engine.nkept--;
		atomic_store(&o->kept, NULL); /* it opens like any other */
		forks = o->forks;
		if (sm_engine_show(s, o->page, f) == 0) /* else X has it */
			o->forks = (uint8_t)(forks + 1);
	}
}

/* ---------------------------------------------------------- start and stop */

static int
obtain_frames(size_t bytes)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require & ~(unsigned)SECMALLOC_HIDDEN,
		.without = c->without | SECMALLOC_HIDDEN, .shared = sm_mover->shared,
		.later = !sm_mover->shared };
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

/* A page must find its way back to P also where the kernel has no memory for one of its tables of
 * pages: one frame for each is there from the start, and its table with it. */
static bool
is_anchor(uint32_t f)
{
	size_t page = sm_engine.page_bytes;

	return f == 0 || (uintptr_t)sm_frame_at(f) % (page * (page / sizeof(void *))) == 0;
}

static int
fill_frames(void)
{
	int e = 0;

	for (uint32_t f = (uint32_t)sm_engine.frames; e == 0 && f-- > 0;) {
		if (sm_mover->shared)
			sm_frame_back(f);
		else
			sm_frame_gone(f);
		if (!sm_mover->shared && is_anchor(f))
			e = furnish_one();
	}
	return e;
}

static int
obtain_tables(void)
{
	size_t owners = sm_engine.frames * sizeof(*sm_engine.owner);
	size_t words = free_words() * sizeof(*sm_engine.free);
	size_t bytes = sm_round_up(owners + words + sm_engine.frames * sizeof(*sm_engine.bare),
		sm_engine.page_bytes);
	void *at;
	int e = sm_os_plain(bytes, &at);

	if (e)
		return e;
	sm_engine.table_bytes = bytes;
	sm_engine.owner = at;
	sm_engine.free = (uint64_t *)(void *)((unsigned char *)at + owners);
	sm_engine.bare = (uint32_t *)(void *)((unsigned char *)at + owners + words);
	return 0;
}

static int
watch_frames(void)
{
	int e = sm_mover->watch(sm_engine.fd, sm_engine.p.base, sm_engine.p.bytes);

	return e ? sm_fail(ENOTSUP, "the kernel refused to watch pages (%d)", e) : fill_frames();
}

int
sm_engine_start(int fd)
{
	size_t page = sm_os_page_bytes(), n = sm_config()->clear_bytes / page;
	int e;

	sm_engine = (struct sm_engine){ .fd = fd, .page_bytes = page };
	if (sm_mover->shared)
		n = sm_min_size(n, sm_os_map_limit() / MAPPINGS_PER_FRAME);
	sm_engine.frames = (n < SM_FRAMES_LEAST ? SM_FRAMES_LEAST : n) + SM_FRAMES_SPARE;
	if (sm_os_lock_limit() / 2 < sm_engine.frames * page)
		return sm_fail(ENOMEM, "each page that may be clear is locked twice: lower "
			"clear_limit, or raise RLIMIT_MEMLOCK to %zu", 2 * sm_engine.frames * page);
	e = obtain_frames(sm_engine.frames * page);
	if (e)
		return e;
	e = obtain_tables();
	if (e == 0)
		e = watch_frames();
	if (e)
		sm_engine_stop();
	return e;
}

int
sm_engine_revive(int fd)
{
	size_t bytes = sm_engine.p.bytes;
	int e;

	if (!sm_engine.p.absent) /* else there is a hole, or by now another's page */
		sm_os_unreserve(sm_engine.p_reserved, bytes);
	sm_engine.p = (struct sm_area){ 0 };
	sm_engine.fd = fd;
	atomic_store(&sm_engine.next, 0);
	atomic_store(&sm_engine.serving, 0);
	atomic_store(&sm_engine.forker, 0);
	atomic_store(&sm_engine.put_off, false);
	atomic_store(&sm_engine.clear, 0);
	atomic_store(&sm_engine.clear_most, 0);
	memset(sm_engine.owner, 0, sm_engine.frames * sizeof(*sm_engine.owner));
	memset(sm_engine.free, 0, free_words() * sizeof(*sm_engine.free));
	sm_engine.nfree = sm_engine.nbare = sm_engine.nkept = 0;
	e = obtain_frames(bytes);
	return e ? e : watch_frames();
}

/* What ever came is in P again; to touch the rest would make the kernel fetch it. */
void
sm_engine_stop(void)
{
	size_t bytes = sm_engine.p.bytes;

	if (sm_engine.p.base) {
		sm_mover->unwatch(sm_engine.fd, sm_engine.p.base, bytes);
		while (sm_engine.nfree)
			sm_wipe(sm_frame_at(sm_frame_take()), sm_engine.page_bytes);
		sm_os_release(&sm_engine.p);
		sm_os_unreserve(sm_engine.p_reserved, bytes);
	}
	sm_os_unreserve(sm_engine.owner, sm_engine.table_bytes);
	sm_engine = (struct sm_engine){ .fd = -1 };
}

/* ---------------------------------------------------------------- figures */

uint64_t
sm_fault_clear_bytes(void)
{
	return atomic_load(&sm_engine.clear) * sm_engine.page_bytes;
}

uint64_t
sm_fault_clear_bytes_most(void)
{
	return atomic_load(&sm_engine.clear_most) * sm_engine.page_bytes;
}

uint64_t
sm_fault_served(void)
{
	return atomic_load(&sm_engine.served);
}

uint64_t
sm_fault_closed(void)
{
	return atomic_load(&sm_engine.closed);
}
