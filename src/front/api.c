#include "front/inside.h"

#include "fault/fault.h"
#include "heap/heap.h"
#include "key/key.h"
#include "os/os.h"
#include "seal/seal.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* Each call: come, check, one call down, set errno, go. Calls that succeed leave errno alone. */

static inline int
come(void)
{
	sm_come();
	return errno;
}

/* As the last thing of a call. */
static int
answer(int e, int kept)
{
	if (e)
		sm_error_show();
	errno = e ? e : kept;
	sm_go();
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

/* In this order: purged, no chunk, locked. */
static SM_COLD int
turn_away(const void *ptr)
{
	struct sm_answer a;
	int e;

	if (sm_purged())
		return sm_state_refuse();
	e = sm_fork_amid();
	if (e == 0 && ptr)
		e = sm_fork_owes();
	if (e)
		return e;
	if (!ptr || !(sm_state_is(SM_LOCKED) || sm_state_is(SM_HALTED)))
		return stranger(ptr);
	e = sm_seal_ask(ptr, &a);
	return e ? e : sm_state_refuse();
}

static inline int
enter(const void *ptr)
{
	return sm_life_runs() && ptr ? 0 : turn_away(ptr);
}

/* For what goes on while all is locked or purged. */
static inline int
enter_anyway(const void *ptr)
{
	int e;

	if (SM_LIKELY(sm_life_stands() && ptr))
		return 0;
	e = sm_fork_amid();
	return e ? e : stranger(ptr);
}

/* For calls without a pointer: 0 runs, -1 nothing is there, else why not. */
static int
enter_all(void)
{
	int e;

	if (sm_life_runs())
		return 0;
	e = sm_fork_amid();
	if (e == 0)
		e = sm_fork_owes();
	if (e)
		return e;
	return sm_life_stands() ? sm_state_refuse() : -1;
}

/* A mistake in the arguments, unless everything is over anyway. */
static int
mistake(int e)
{
	sm_come();
	return answer(!sm_life_runs() && sm_purged() ? sm_state_refuse() : e, 0);
}

/* ------------------------------------------------------------- lifecycle */

int
secmalloc_init(const struct secmalloc_config *c)
{
	int kept = come();

	return answer(sm_life_init(c), kept);
}

int
secmalloc_term(void)
{
	int kept = come();

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
	int kept = come();

	if (!sm_life_runs())
		got.e = sm_life_start();
	if (SM_LIKELY(got.e == 0))
		got = sm_seal_alloc(size, align);
	if (!SM_LIKELY(got.e == 0))
		return refuse(got.e, kept);
	errno = kept;
	sm_go();
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

	if (!__builtin_mul_overflow(nmemb, size, &bytes))
		return alloc(bytes, 1);
	(void)mistake(sm_fail(ENOMEM, "%zu times %zu bytes overflow: ask for less", nmemb, size));
	return NULL;
}

void *
secaligned_alloc(size_t alignment, size_t size)
{
	if (alignment && !(alignment & (alignment - 1)) && alignment <= sm_os_page_bytes())
		return alloc(size, alignment);
	(void)mistake(sm_fail(EINVAL, "alignment %zu is not a power of two up to a page", alignment));
	return NULL;
}

void *
secrealloc(void *ptr, size_t size)
{
	void *out = NULL;
	int kept, e;

	if (!ptr)
		return secmalloc(size);
	kept = come();
	e = enter(ptr);
	if (size == 0 && e != ECANCELED) {
		secfree(ptr);
		sm_go();
		return NULL;
	}
	if (e == EINVAL && !sm_life_stands())
		sm_die(SECMALLOC_FAULT_INVALID_FREE, ptr);
	if (e == 0 || e == EINVAL) /* which while all is locked is a fault still */
		e = sm_seal_realloc(ptr, size, &out);
	return answer_ptr(e, kept, out);
}

void
secfree(void *ptr)
{
	int kept, e;

	if (!ptr)
		return;
	kept = come();
	e = enter_anyway(ptr);
	if (e == EINVAL)
		sm_die(SECMALLOC_FAULT_INVALID_FREE, ptr);
	if (e == 0 && sm_seal_free(ptr))
		sm_error_show();
	errno = kept;
	sm_go();
}

static char *
duplicate(const char *s, size_t n)
{
	struct sm_got got = { NULL, 0 };
	int kept = come();

	if (!sm_life_runs())
		got.e = sm_life_start();
	if (got.e == 0)
		got = sm_seal_copy(s, n);
	return answer_ptr(got.e, kept, got.ptr);
}

static char *
no_string(void)
{
	(void)mistake(sm_fail(EINVAL, "the string is NULL: pass a string"));
	return NULL;
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
	int e = enter_anyway(ptr), owed = e ? sm_fork_owes() : 0;

	if (e)
		return owed ? owed : e;
	return sm_seal_ask(ptr, a);
}

size_t
secmalloc_usable_size(const void *ptr)
{
	struct sm_answer a = { 0 };
	int kept;

	if (!ptr)
		return 0;
	kept = come();
	return answer(ask(ptr, &a), kept) ? 0 : a.size;
}

int
secmalloc_owns(const void *ptr)
{
	struct sm_chunk *c;
	int owns;

	sm_come();
	owns = ptr && sm_life_stands() && sm_heap_find(ptr, &c) == SM_FOUND && sm_heap_live(c);
	sm_go();
	return owns;
}

int
secmalloc_protect(void *ptr, enum secmalloc_access a)
{
	int kept = come(), e = enter(ptr);

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
	int kept = come(), e = enter(ptr);

	return answer(e ? e : sm_seal_close(ptr), kept);
}

int
secmalloc_decrypt(void *ptr)
{
	int kept = come(), e = enter(ptr);

	return answer(e ? e : sm_seal_open(ptr), kept);
}

int
secmalloc_encrypt_all(void)
{
	int kept = come(), e = enter_all();

	return answer(e ? e > 0 ? e : 0 : sm_seal_close_all(), kept);
}

int
secmalloc_decrypt_all(void)
{
	int kept = come(), e = enter_all();

	return answer(e ? e > 0 ? e : 0 : sm_seal_open_all(), kept);
}

int
secmalloc_is_encrypted(const void *ptr)
{
	struct sm_answer a = { 0 };
	int kept = come(), e = ask(ptr, &a);

	return answer(sm_purged() ? sm_state_refuse() : e, kept) ? -1 : a.sealed;
}

int
secmalloc_hold(void *ptr)
{
	int kept = come(), e = enter(ptr);

	return answer(e ? e : sm_seal_hold(ptr), kept);
}

int
secmalloc_release(void *ptr)
{
	int kept = come(), e = enter(ptr);

	return answer(e ? e : sm_seal_release(ptr), kept);
}

/* -------------------------------------------------- keys and emergencies */

static int
nothing_runs(void)
{
	return sm_fail(EINVAL, "nothing runs: call secmalloc_init first");
}

int
secmalloc_rekey(void)
{
	int kept = come(), e = enter_all();

	return answer(e ? e > 0 ? e : nothing_runs() : sm_seal_rekey(), kept);
}

static int
check_material(const void *material, size_t len)
{
	if (material && len > 0)
		return 0;
	return sm_fail(EINVAL, "the material is empty: pass a passphrase or a key");
}

int
secmalloc_lock(const void *material, size_t len)
{
	int kept = come(), e = enter_all();

	if (e != ECANCELED && check_material(material, len))
		e = EINVAL;
	else if (e < 0)
		e = nothing_runs();
	return answer(e ? e : sm_seal_lock(material, len), kept);
}

int
secmalloc_unlock(const void *material, size_t len)
{
	int kept = come(), e = enter_all();

	if (e != ECANCELED && check_material(material, len))
		e = EINVAL;
	else if (e < 0)
		e = nothing_runs();
	else if (e != ECANCELED)
		e = sm_seal_unlock(material, len);
	return answer(e, kept);
}

/* Async-signal-safe, all the way down: no lock, no text. */
void
secmalloc_purge(void)
{
	int kept = come();

	if (sm_purge_enter()) {
		sm_key_purge();
		sm_daemon_purge();
		sm_seal_purge();
		if (sm_config()->transparent)
			sm_fault_purge();
		else
			sm_heap_purge();
		sm_purge_leave();
	}
	errno = kept;
	sm_go();
}

/* A process that ends leaves nothing in pages that the kernel clears only when it uses them. But
 * where the heap is everybody's, what ends after us has its data in it. */
__attribute__((destructor)) static void
at_exit(void)
{
	if (!sm_host.unaware)
		secmalloc_purge();
}

/* --------------------------------------------------------- what is going on */

int
secmalloc_stats(struct secmalloc_stats *s)
{
	int kept = come();

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
