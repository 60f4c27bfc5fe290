#include "front/inside.h"

#include "os/os.h"

#include <errno.h>
#include <string.h>

enum { FIRST_BYTES = 4096 };

static void *
fail(int e)
{
	sm_error_show();
	errno = e;
	return NULL;
}

/* Before any other mistake. */
static bool
is_over(void)
{
	return !sm_life_runs() && sm_purged();
}

/* Held, so that nobody closes it while the kernel writes there. */
static unsigned char *
held_chunk(size_t n)
{
	unsigned char *p = secmalloc(n);
	int e;

	if (p && (secmalloc_hold(p) || secmalloc_decrypt(p))) { /* and open after the release */
		e = errno;
		secfree(p);
		errno = e;
		return NULL;
	}
	return p;
}

/* Moved by hand: what is held does not move otherwise. NULL: the old one is still there. */
static unsigned char *
moved(unsigned char *from, size_t used, size_t n)
{
	unsigned char *to = held_chunk(n);

	if (!to)
		return NULL;
	sm_come(); /* no signal of ours puts these registers on a stack */
	memcpy(to, from, used);
	sm_wipe_traces(); /* memcpy leaves plaintext in the vector registers */
	sm_go();
	secfree(from);
	return to;
}

static unsigned char *
give_up(unsigned char *p, int e)
{
	secfree(p);
	errno = e;
	return NULL;
}

void *
secmalloc_read_fd(int fd, size_t max, size_t *len)
{
	size_t room = sm_min_size(max, FIRST_BYTES), used = 0, got = 1;
	unsigned char *p, *q;
	int kept = errno, e;

	if (is_over())
		return fail(sm_state_refuse());
	if (!len || max == 0)
		return fail(sm_fail(EINVAL, "%s: pass where the length goes, and at least 1 byte",
			len ? "max is 0" : "len is NULL"));
	p = held_chunk(room + 1);
	while (p && got > 0 && used < max) {
		e = sm_os_read(fd, p + used, room - used, &got);
		if (e) {
			secfree(p);
			return fail(is_over() ? sm_state_refuse() : e);
		}
		used += got;
		if (used < room || room == max)
			continue;
		room = room > max / 2 ? max : 2 * room;
		q = moved(p, used, room + 1);
		p = q ? q : give_up(p, errno);
	}
	if (p) {
		q = moved(p, used, used + 1);
		p = q ? q : give_up(p, errno);
	}
	if (!p)
		return NULL;
	if (secmalloc_release(p))
		return give_up(p, errno);
	*len = used;
	errno = kept;
	return p;
}

char *
secmalloc_read_passphrase(const char *prompt, size_t max)
{
	int kept = errno, e;
	unsigned char *p;
	size_t n;

	if (is_over())
		return fail(sm_state_refuse());
	if (!prompt || max == 0 || max == SIZE_MAX)
		return fail(sm_fail(EINVAL, "%s", prompt ? "max is out of range: ask for less" :
			"the prompt is NULL: pass a string"));
	p = held_chunk(max + 1);
	if (!p)
		return NULL;
	e = sm_os_ask(prompt, p, max, &n);
	if (e) {
		secfree(p);
		return fail(is_over() ? sm_state_refuse() : e);
	}
	if (secmalloc_release(p)) /* purged meanwhile: only now is all of it here */
		return (char *)give_up(p, errno);
	errno = kept;
	return (char *)p;
}

void
secmalloc_free_at(void *variable)
{
	void *p;

	memcpy(&p, variable, sizeof(p));
	secfree(p);
}
