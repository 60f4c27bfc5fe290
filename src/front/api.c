#include "front/inside.h"

#include "heap/heap.h"
#include "os/os.h"
#include "seal/seal.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* Each call: check, one call down, set errno. Calls that succeed leave errno alone. */

static int
answer(int e, int kept)
{
	if (e)
		sm_error_show();
	errno = e ? e : kept;
	return e ? -1 : 0;
}

static void *
answer_ptr(int e, int kept, void *ptr)
{
	return answer(e, kept) ? NULL : ptr;
}

/* What a pointer is while nothing runs: a parent's, or nobody's. */
static SM_COLD int
stranger(const void *ptr)
{
	struct sm_chunk *c;

	if (ptr && sm_heap_find(ptr, &c) == SM_INHERITED)
		return sm_fail(ECHILD, "this chunk is the parent's: a forked child allocates its own");
	return sm_fail(EINVAL, "%s", ptr ? "nothing is allocated: pass what secmalloc returned"
					 : "the pointer is NULL: pass what secmalloc returned");
}

static inline int
enter(const void *ptr)
{
	return sm_life_runs() && ptr ? 0 : stranger(ptr);
}

/* The one place where calls of later versions are refused. */
static int
later(const char *call)
{
	return answer(sm_fail(ENOTSUP, "%s: not in version %s", call, SECMALLOC_VERSION), 0);
}

/* ------------------------------------------------------------- lifecycle */

int
secmalloc_init(const struct secmalloc_config *c)
{
	int kept = errno;

	return answer(sm_life_init(c), kept);
}

int
secmalloc_term(void)
{
	int kept = errno;

	sm_life_term();
	return answer(0, kept);
}

/* ---------------------------------------------------------------- memory */

static SM_COLD void *
refuse(int e, int kept)
{
	return answer_ptr(e, kept, NULL);
}

static inline void *
alloc(size_t size, size_t align)
{
	struct sm_got got = { NULL, 0 };
	int kept = errno;

	if (!sm_life_runs())
		got.e = sm_life_start();
	if (SM_LIKELY(got.e == 0))
		got = sm_seal_alloc(size, align);
	if (!SM_LIKELY(got.e == 0))
		return refuse(got.e, kept);
	errno = kept;
	return got.ptr;
}

void *
secmalloc(size_t size)
{
	return alloc(size, 1);
}

void *
seccalloc(size_t nmemb, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(nmemb, size, &bytes))
		return answer_ptr(sm_fail(ENOMEM, "%zu times %zu bytes overflow: ask for less",
					  nmemb, size), 0, NULL);
	return alloc(bytes, 1);
}

void *
secaligned_alloc(size_t alignment, size_t size)
{
	if (alignment == 0 || (alignment & (alignment - 1)) || alignment > sm_os_page_bytes())
		return answer_ptr(sm_fail(EINVAL, "alignment %zu is not a power of two up to a page",
					  alignment), 0, NULL);
	return alloc(size, alignment);
}

void *
secrealloc(void *ptr, size_t size)
{
	int kept = errno, e;
	void *out = NULL;

	if (!ptr)
		return secmalloc(size);
	if (size == 0) {
		secfree(ptr);
		return NULL;
	}
	e = enter(ptr);
	if (e == EINVAL)
		sm_die(SECMALLOC_FAULT_INVALID_FREE, ptr);
	if (e == 0)
		e = sm_seal_realloc(ptr, size, &out);
	return answer_ptr(e, kept, out);
}

void
secfree(void *ptr)
{
	int kept = errno, e;

	if (!ptr)
		return;
	e = enter(ptr);
	if (e == EINVAL)
		sm_die(SECMALLOC_FAULT_INVALID_FREE, ptr);
	if (e == 0 && sm_seal_free(ptr))
		sm_error_show();
	errno = kept;
}

static char *
duplicate(const char *s, size_t n)
{
	struct sm_got got = { NULL, 0 };
	int kept = errno;

	if (!sm_life_runs())
		got.e = sm_life_start();
	if (got.e == 0)
		got = sm_seal_copy(s, n);
	return answer_ptr(got.e, kept, got.ptr);
}

static char *
no_string(void)
{
	return answer_ptr(sm_fail(EINVAL, "the string is NULL: pass a string"), 0, NULL);
}

char *
secstrdup(const char *s)
{
	return s ? duplicate(s, strlen(s)) : no_string();
}

char *
secstrndup(const char *s, size_t n)
{
	return s ? duplicate(s, strnlen(s, n)) : no_string();
}

static int
ask(const void *ptr, struct sm_answer *a)
{
	int e = enter(ptr);

	return e ? e : sm_seal_ask(ptr, a);
}

size_t
secmalloc_usable_size(const void *ptr)
{
	struct sm_answer a = { 0 };
	int kept = errno;

	if (!ptr)
		return 0;
	return answer(ask(ptr, &a), kept) ? 0 : a.size;
}

int
secmalloc_owns(const void *ptr)
{
	struct sm_chunk *c;

	return ptr && sm_life_runs() && sm_heap_find(ptr, &c) == SM_FOUND && sm_heap_live(c);
}

int
secmalloc_protect(void *ptr, enum secmalloc_access a)
{
	int kept = errno, e = enter(ptr);

	if (e == 0 && (unsigned)a > SECMALLOC_READWRITE)
		e = sm_fail(EINVAL, "access %u is unknown: use a SECMALLOC_ name", (unsigned)a);
	if (e == 0)
		e = sm_seal_protect(ptr, a);
	return answer(e, kept);
}

int
secmemcmp(const void *a, const void *b, size_t n)
{
	return n ? sodium_memcmp(a, b, n) : 0;
}

void
secmemzero(void *p, size_t n)
{
	if (n)
		sm_wipe(p, n);
}

/* --------------------------------------------------------------- sealing */

int
secmalloc_encrypt(void *ptr)
{
	int kept = errno, e = enter(ptr);

	return answer(e ? e : sm_seal_close(ptr), kept);
}

int
secmalloc_decrypt(void *ptr)
{
	int kept = errno, e = enter(ptr);

	return answer(e ? e : sm_seal_open(ptr), kept);
}

int
secmalloc_encrypt_all(void)
{
	int kept = errno;

	return answer(sm_life_runs() ? sm_seal_close_all() : 0, kept);
}

int
secmalloc_decrypt_all(void)
{
	int kept = errno;

	return answer(sm_life_runs() ? sm_seal_open_all() : 0, kept);
}

int
secmalloc_is_encrypted(const void *ptr)
{
	struct sm_answer a = { 0 };
	int kept = errno;

	return answer(ask(ptr, &a), kept) ? -1 : a.sealed;
}

int
secmalloc_hold(void *ptr)
{
	int kept = errno, e = enter(ptr);

	return answer(e ? e : sm_seal_hold(ptr), kept);
}

int
secmalloc_release(void *ptr)
{
	int kept = errno, e = enter(ptr);

	return answer(e ? e : sm_seal_release(ptr), kept);
}

/* -------------------------------------------------- of later versions */

int
secmalloc_rekey(void)
{
	return later("secmalloc_rekey");
}

int
secmalloc_lock(const void *material, size_t len)
{
	(void)material;
	(void)len;
	return later("secmalloc_lock");
}

int
secmalloc_unlock(const void *material, size_t len)
{
	(void)material;
	(void)len;
	return later("secmalloc_unlock");
}

void
secmalloc_purge(void)
{
	errno = ENOTSUP; /* async-signal-safe: no text */
}

/* --------------------------------------------------------- what is going on */

int
secmalloc_stats(struct secmalloc_stats *s)
{
	int kept = errno;

	return answer(sm_stats_fill(s), kept);
}

const char *
secmalloc_error(void)
{
	return sm_error_shown();
}

const char *
secmalloc_version(void)
{
	return SECMALLOC_VERSION;
}
