#include "heap/inside.h"

static _Atomic bool shown; /* the regions are there */

void
sm_purge_show(bool there)
{
	atomic_store(&shown, there);
	if (!there)
		sm_purge_await();
}

/** Bytes that may be a secret, wherever the record says that it lies. */
struct target {
	unsigned char *start, *end;
	bool disputed; /* its record's owner may take the pages away just now */
};

/* The record may change while it is read: nothing beyond the place is touched. */
SM_NO_TSAN static struct target
target_of(const struct sm_walk *w, const struct sm_chunk *c)
{
	struct sm_region *r = &sm_regions[w->region];
	struct sm_run run = sm_run_at(r, w->page);
	unsigned char *start = r->base + (w->page << sm_page_shift), *end, *at = sm_heap_bytes(c);
	size_t size = c->size;
	struct target t = { at, at, false };

	if (run.kind == SM_KIND_SLAB) {
		start += SM_ALIGN_BYTES + (size_t)(w->slot - 1) * sm_classes[run.class].stride;
		end = start + sm_class_most(run.class);
	} else {
		end = start + (run.pages << sm_page_shift);
	}
	if (at < start || at > end)
		return t;
	t.end = at + sm_min_size(size, (size_t)(end - at));
	return t;
}

/* Pages of its own may be without access: it is given, and where that fails, or another thread, in
 * the middle of a call, might take it away again, the kernel does the writing. */
SM_NO_TSAN static void
destroy(const struct sm_chunk *c, struct target t)
{
	uintptr_t page = sm_os_page_bytes() - 1;
	unsigned char *first = t.start - ((uintptr_t)t.start & page);
	size_t n = (size_t)(t.end - t.start);

	if (!c->own_pages) {
		sm_purge_wipe(t.start, n);
		return;
	}
	if ((t.disputed || c->access != SECMALLOC_READWRITE) &&
		!sm_os_expose(first, sm_round_up((size_t)(t.end - first), page + 1)))
		t.disputed = true;
	if (t.disputed)
		sm_os_blank(t.start, n);
	else
		sm_purge_wipe(t.start, n);
}

SM_NO_TSAN void
sm_heap_purge(void)
{
	struct sm_walk w = { 0 };
	struct sm_chunk *c;

	if (!atomic_load(&shown))
		return;
	while ((c = sm_heap_next(&w)) != NULL) {
		bool busy = atomic_load(&c->lock.word) != 0;
		struct target t;

		if (c->veil != SM_VEIL_CLEAR && !busy)
			continue;
		t = target_of(&w, c);
		t.disputed = busy;
		if (t.end > t.start)
			destroy(c, t);
	}
}
