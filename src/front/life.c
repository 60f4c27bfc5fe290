#include "front/inside.h"

#include "cipher/cipher.h"
#include "fault/fault.h"
#include "heap/heap.h"
#include "key/key.h"
#include "os/os.h"
#include "seal/seal.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

enum { SOCKET_BYTES = 256 }; /* more than a socket's address has */

static struct secmalloc_config asked = SECMALLOC_CONFIG_INIT; /* for a child's start */
static char paths[2][PATH_MAX]; /* one of them is what asked.store_dir points to, if anything */
static char sockets[2][SOCKET_BYTES]; /* the same of asked.daemon */
static bool undumpable;
static struct sm_area config_area; /* kept from start to start */
static bool handlers_registered;

unsigned
sm_life_granted(void)
{
	unsigned bits = sm_heap_granted() & sm_key_granted();

	return undumpable ? bits | SECMALLOC_UNTRACEABLE : bits;
}

/* ------------------------------------------------------ the staircase up */

/* The library aborts when the kernel's generator fails inside sodium_init: so it is asked first. */
static int
start_sodium(void)
{
	unsigned char probe[16];
	int e = sm_os_random(probe, sizeof(probe));

	if (e)
		return e;
	if (sodium_init() < 0)
		return sm_fail(ENOTSUP, "libsodium could not be initialised: reinstall it");
	return 0;
}

static int
start_undumpable(const struct sm_config *c)
{
	int e = 0;

	if (c->require & SECMALLOC_UNTRACEABLE)
		e = sm_os_undumpable();
	if (e == 0)
		undumpable = c->require & SECMALLOC_UNTRACEABLE;
	return e;
}

/* A page of its own: absent from dumps, zero in a forked child, read-only once filled. It is kept
 * for the next start, since another thread may be looking at it. */
static int
config_page(const struct sm_config *wanted, struct sm_config **out)
{
	struct sm_wish wish = { .require = SECMALLOC_FORKSAFE,
		.without = SECMALLOC_HIDDEN | SECMALLOC_LOCKED, .mark = true };
	struct sm_area *area = &config_area;
	void *at;
	int e;

	if (area->base) {
		*out = (struct sm_config *)(void *)area->base;
		return sm_os_access(area->base, area->bytes, SECMALLOC_READWRITE);
	}
	e = sm_os_reserve(wanted->page_bytes, &at);
	if (e)
		return e;
	e = sm_os_obtain(at, wanted->page_bytes, &wish, area);
	if (e)
		sm_os_unreserve(at, wanted->page_bytes);
	*out = at;
	return e;
}

static int
start_config(const struct sm_config *wanted, struct sm_config **out)
{
	int e = config_page(wanted, out);

	if (e)
		return e;
	memcpy(*out, wanted, sizeof(*wanted));
	(*out)->mark = SM_MARK;
	if (wanted->reseal_ms && (wanted->no_thread || sm_host.unaware))
		(*out)->mark = SM_MARK_CHORES;
	e = sm_os_random(&(*out)->canary, sizeof((*out)->canary));
	if (e == 0)
		atomic_store_explicit(&sm_config_now, *out, memory_order_release);
	return e;
}

static void
stop_config(void)
{
	atomic_store_explicit(&sm_config_up, &sm_config_none, memory_order_release);
	atomic_store_explicit(&sm_config_now, &sm_config_none, memory_order_release);
}

/* In a child, where the page is there and zero. */
int
sm_life_keep_config(const struct sm_config *kept)
{
	struct sm_config *c = (struct sm_config *)(void *)config_area.base;
	int e = sm_os_access(c, config_area.bytes, SECMALLOC_READWRITE);

	if (e)
		return e;
	memcpy(c, kept, sizeof(*c));
	return sm_os_freeze(c, config_area.bytes);
}

void
sm_life_lose_config(void)
{
	if (config_area.base && sm_config()->mark &&
		sm_os_access(config_area.base, config_area.bytes, SECMALLOC_READWRITE) == 0)
		sm_wipe(config_area.base, config_area.bytes);
	config_area = (struct sm_area){ 0 }; /* a thread may still read it: it stays zero */
	undumpable = false;
	stop_config();
}

/* Transparent mode: whoever sees to pages is there before the heap has any. */
static int
start_pages(const struct sm_config *c)
{
	static const struct sm_watch watch = { sm_fault_come, sm_fault_again, sm_fault_drop,
		sm_fault_go, sm_fault_shut, sm_fault_reach };
	static const struct sm_pager pager = { sm_fault_close, sm_fault_open, sm_fault_hold,
		sm_fault_release, sm_fault_close_all, sm_fault_carry, sm_fault_lock,
		sm_fault_unlock, sm_fault_halt, sm_fault_unhalt, sm_fault_pause,
		sm_fault_resume, sm_fault_revive, sm_fault_serve, sm_fault_undo };
	int e;

	sm_heap_watch = c->transparent ? &watch : NULL;
	sm_seal_pager = c->transparent ? &pager : NULL;
	e = c->transparent ? sm_fault_start() : 0;
	if (e == 0 && sm_fault_is_apart())
		atomic_store(&sm_host.everywhere, sm_fault_call);
	if (e == 0 && c->transparent) {
		atomic_store(&sm_host.forget, sm_fault_forget);
		atomic_store(&sm_host.meets, sm_fault_meets);
		atomic_store(&sm_host.pages_closed, sm_fault_closed);
		atomic_store(&sm_host.clear_bytes_most, sm_fault_clear_bytes_most);
	}
	return e;
}

static void
stop_pages(void)
{
	atomic_store(&sm_host.everywhere, NULL);
	atomic_store(&sm_host.forget, NULL);
	atomic_store(&sm_host.meets, NULL);
	atomic_store(&sm_host.pages_closed, NULL);
	atomic_store(&sm_host.clear_bytes_most, NULL);
	sm_fault_stop();
	sm_seal_pager = NULL;
}

/* And then calls may come in. */
static int
start_threads(void)
{
	int e = sm_helper_start();

	if (e)
		return e;
	e = sm_daemon_start();
	if (e == 0)
		e = sm_gate_open(SM_STARTING);
	if (e) {
		sm_daemon_stop();
		sm_helper_stop();
	}
	return e;
}

static int
climb(const struct sm_config *wanted)
{
	struct sm_config *c;
	int e;

	sm_count_reset();
	e = start_sodium();
	if (e)
		return e;
	e = start_config(wanted, &c);
	if (e)
		return e;
	e = sm_cipher_start(c->cipher);
	if (e)
		goto stop_config;
	c->tag_rest = sm_cipher_tag_bytes() > SM_TAG_BYTES;
	e = sm_key_start();
	if (e)
		goto stop_config;
	e = start_pages(c);
	if (e)
		goto stop_key;
	e = sm_heap_start(c);
	if (e)
		goto stop_pages;
	sm_config_check(c);
	e = sm_os_freeze(c, c->page_bytes);
	if (e)
		goto stop_heap;
	e = start_undumpable(c);
	if (e)
		goto stop_heap;
	e = start_threads();
	if (e)
		goto stop_heap;
	atomic_store_explicit(&sm_count.live_at_term, 0, memory_order_relaxed);
	return 0;
stop_heap:
	sm_heap_stop();
stop_pages:
	stop_pages();
stop_key:
	sm_key_stop();
stop_config:
	stop_config();
	return e;
}

static int
start(const struct sm_config *wanted)
{
	int e = sm_state_change(SM_DOWN, SM_STARTING);

	if (e == 0)
		e = sm_daemon_connect(wanted->daemon, 0); /* there is no secret here while it waits */
	if (e == 0) {
		e = climb(wanted);
		if (e)
			sm_daemon_stop();
	}
	if (e)
		atomic_store(&sm_state, SM_DOWN);
	return e;
}

/* ---------------------------------------------------------- start and stop */

static int
register_handlers(void)
{
	int e;

	if (handlers_registered)
		return 0;
	e = pthread_atfork(sm_fork_before, sm_fork_in_parent, sm_fork_in_child);
	if (e)
		return sm_fail(ENOMEM, "pthread_atfork failed: free some memory");
	handlers_registered = true;
	return 0;
}

/* The caller may free his string. */
static int
copy_path(struct secmalloc_config *c)
{
	char *to = asked.store_dir == paths[0] ? paths[1] : paths[0];
	size_t n;

	if (!c->store_dir || c->store_dir == asked.store_dir)
		return 0;
	n = strnlen(c->store_dir, PATH_MAX);
	if (n == PATH_MAX)
		return sm_fail(ENAMETOOLONG, "store_dir has more than %d bytes: name it otherwise",
			PATH_MAX - 1);
	memcpy(to, c->store_dir, n + 1);
	c->store_dir = to;
	return 0;
}

static int
copy_socket(struct secmalloc_config *c)
{
	char *to = asked.daemon == sockets[0] ? sockets[1] : sockets[0];
	int e;

	if (!c->daemon || c->daemon == asked.daemon)
		return 0;
	e = sm_wire_path(c->daemon, to, SOCKET_BYTES);
	c->daemon = to;
	if (e == ENOTSUP)
		return sm_fail(e, "this system has no daemon: leave the field daemon NULL");
	return e ? sm_fail(e, "the daemon's socket has a path of more bytes than a socket can have: "
			      "name it otherwise") : 0;
}

/* Under the lock, and not running. */
static int
init(const struct secmalloc_config *c)
{
	struct secmalloc_config copy;
	struct sm_config wanted = { 0 };
	int e = sm_front_copy_config(c, &copy);

	if (e == 0)
		e = copy_path(&copy);
	if (e == 0)
		e = copy_socket(&copy);
	if (e == 0)
		e = sm_front_resolve(&copy, &wanted);
	if (e == 0)
		e = register_handlers();
	if (e == 0)
		e = start(&wanted);
	if (e == 0) {
		asked = copy;
		sm_fork_settled(wanted.fork_keeps);
	}
	return e;
}

int
sm_life_init(const struct secmalloc_config *c)
{
	int e = sm_fork_amid(), state;

	if (e)
		return e;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	(void)sm_life_runs();
	sm_life_take();
	if (sm_state_is(SM_LOCKED))
		e = sm_state_refuse();
	else if (atomic_load(&sm_state) != SM_DOWN)
		e = sm_fail(EALREADY, "secmalloc runs already: call secmalloc_init before the "
				      "first allocation, and once");
	else {
		sm_daemon_renew();
		e = init(c);
	}
	sm_life_let_go();
	pthread_setcancelstate(state, NULL);
	return e;
}

int
sm_life_start(void)
{
	int e = sm_fork_amid(), state;

	if (e)
		return e;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	sm_life_take();
	e = sm_fork_owes();
	if (e == 0 && (sm_purged() || sm_state_is(SM_LOCKED)))
		e = sm_state_refuse();
	else if (e == 0 && sm_state_is(SM_DOWN)) /* else it is being unlocked, and opens in a moment */
		e = init(&asked);
	sm_life_let_go();
	pthread_setcancelstate(state, NULL);
	return e;
}

void
sm_life_term(void)
{
	struct sm_tally t;

	if (!sm_life_stands())
		return;
	sm_life_take();
	sm_daemon_stop();
	sm_helper_stop();
	sm_daemon_renew();
	atomic_store(&sm_config_up, &sm_config_none);
	sm_heap_tally(&t);
	atomic_store_explicit(&sm_count.live_at_term, t.chunks, memory_order_relaxed);
	sm_heap_stop();
	stop_pages();
	sm_key_stop();
	stop_config();
	atomic_store(&sm_state, SM_DOWN);
	sm_count_reset();
	undumpable = false;
	asked = (struct secmalloc_config)SECMALLOC_CONFIG_INIT;
	sm_life_let_go();
}
