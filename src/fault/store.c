#include "fault/inside.h"

#include <errno.h>
#include <string.h>

/* Descriptors + 1, as 0 is: none. The folder is kept for the copies that children get. */
static struct {
	int folder, file;
	int heir; /* the file that a child is to have, while a fork is under way */
} store;

/* ---------------------------------------------------------- start and stop */

static void
let_go(int *fd)
{
	if (*fd)
		sm_host_let_go(*fd - 1);
	sm_os_file_close(*fd - 1);
	*fd = 0;
}

static int
make_file(int *file)
{
	int fd, e = sm_os_nameless(store.folder - 1, &fd);

	*file = e ? 0 : fd + 1;
	if (e == 0)
		sm_host_keep(fd);
	return e;
}

int
sm_store_start(void)
{
	const char *path = sm_config()->store_dir;
	int fd, e;

	if (!path)
		return 0;
	e = sm_os_folder(path, &fd);
	if (e)
		return sm_fail(e, "store_dir cannot be opened (%s): name a folder that is there: %s",
			strerror(e), path);
	store.folder = fd + 1;
	sm_host_keep(fd);
	e = make_file(&store.file);
	if (e) {
		sm_store_stop();
		return sm_fail(e, "no file can be made in store_dir (%s): name a folder where this "
				  "user may write: %s", strerror(e), path);
	}
	return 0;
}

void
sm_store_stop(void)
{
	let_go(&store.heir);
	let_go(&store.file);
	let_go(&store.folder);
}

/* -------------------------------------------------------------------- room */

static uint64_t
bytes_of(const struct sm_span *s)
{
	return (uint64_t)s->pages * sm_engine.page_bytes;
}

/* The first gap between the spans that is large enough; pools come and go one at a time. */
static uint64_t
gap_for(uint64_t bytes)
{
	uint64_t at = 0, before;

	do {
		before = at;
		for (size_t i = 0; i < sm_engine.nspans; i++) {
			const struct sm_span *s = &sm_engine.spans[i];

			if (s->u && at < s->at + bytes_of(s) && s->at < at + bytes)
				at = s->at + bytes_of(s);
		}
	} while (at != before);
	return at;
}

int
sm_store_take(struct sm_span *s)
{
	void *x;
	int e;

	if (!store.file) {
		e = sm_os_plain((size_t)bytes_of(s), &x);
		s->x = e ? NULL : x;
		return e;
	}
	s->at = gap_for(bytes_of(s));
	e = sm_os_file_extend(store.file - 1, s->at, bytes_of(s));
	if (e)
		return sm_fail(ENOMEM, "%zu more bytes refused in store_dir (%s): make room there: %s",
			(size_t)bytes_of(s), strerror(e), sm_config()->store_dir);
	return 0;
}

void
sm_store_give(struct sm_span *s)
{
	if (s->x)
		sm_os_unreserve(s->x, (size_t)bytes_of(s));
	else if (store.file && s->pages)
		sm_os_file_shrink(store.file - 1, s->at, bytes_of(s));
	s->x = NULL;
}

/* ------------------------------------------------------------------- pages */

int
sm_store_get(const struct sm_span *s, size_t i, void *page)
{
	size_t n = sm_engine.page_bytes;
	int e;

	if (s->x) {
		memcpy(page, s->x + i * n, n);
		return 0;
	}
	e = sm_os_file_get(store.file - 1, s->at + i * n, page, n);
	if (e)
		return sm_fail(EIO, "store_dir could not be read (error %d): look after the disk", e);
	return 0;
}

int
sm_store_put(const struct sm_span *s, size_t i, const void *page)
{
	size_t n = sm_engine.page_bytes;
	int e = s->x ? 0 : sm_os_file_put(store.file - 1, s->at + i * n, page, n);

	if (e)
		return sm_fail(EIO, "store_dir could not be written (error %d): look after the disk",
			e);
	return 0;
}

/* -------------------------------------------------------------------- fork */

static int
copy_span(const struct sm_span *s)
{
	size_t n = sm_engine.page_bytes;
	int e = sm_os_file_extend(store.heir - 1, s->at, bytes_of(s));

	for (size_t i = 0; e == 0 && i < s->pages; i++)
		if (s->page[i].state == SM_PAGE_SEALED)
			e = sm_os_file_copy(store.file - 1, store.heir - 1, s->at + i * n, n);
	return e;
}

int
sm_store_before_fork(void)
{
	int e;

	if (!store.file)
		return 0;
	e = make_file(&store.heir);
	for (size_t i = 0; e == 0 && i < sm_engine.nspans; i++)
		if (sm_engine.spans[i].u)
			e = copy_span(&sm_engine.spans[i]);
	if (e) {
		let_go(&store.heir);
		return sm_fail(e, "no copy of store_dir's file for a child (error %d): make room "
				  "there", e);
	}
	return 0;
}

void
sm_store_after_fork(void)
{
	let_go(&store.heir);
}

int
sm_store_inherit(void)
{
	if (!store.file)
		return 0;
	let_go(&store.file);
	store.file = store.heir;
	store.heir = 0;
	return store.file ? 0 : ENOMEM;
}
