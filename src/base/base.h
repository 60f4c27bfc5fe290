/* base.h - the words every room speaks. Floor 0: includes nothing of the house. */
#ifndef SM_BASE_H
#define SM_BASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <secmalloc.h>

#define SM_COLD __attribute__((cold, noinline))
#define SM_NOINLINE __attribute__((noinline))
#define SM_INLINE static inline __attribute__((always_inline))
#define SM_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define SM_NO_TSAN __attribute__((no_sanitize("thread"), noinline)) /* looks at what may change */
#define SM_LIKELY(x) __builtin_expect(!!(x), 1)
#define SM_TLS _Thread_local __attribute__((tls_model("initial-exec")))

/* ------------------------------------------------------------------ sizes */

/** sm_round_up - n rounded up to a multiple of step, a power of two; wraps to 0 past SIZE_MAX */
static inline size_t
sm_round_up(size_t n, size_t step)
{
	return (n + step - 1) & ~(step - 1);
}

/** sm_min_size - the smaller of two */
static inline size_t
sm_min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* ------------------------------------------------------------------- wipe */

/** sm_wipe - zero n bytes, never optimised away: the bytes may be looked at afterwards */
static inline void
sm_wipe(void *p, size_t n)
{
	memset(p, 0, n);
	__asm__ volatile("" ::"r"(p) : "memory");
}

/**
 * sm_wipe_traces - clear what a primitive left behind: dead stack and the vector registers
 *
 * Clears SM_TRACE_BYTES of stack below its caller's frame, less the few at the top that its own
 * frame covers: so the primitive is called through a function whose frame has SM_GAP.
 * Cost: about 20 ns.
 */
#define SM_TRACE_BYTES 2048u
void sm_wipe_traces(void);

/** sm_wipe_vectors - the registers alone: the vector ones, and on x86-64 r8 to r11 */
void sm_wipe_vectors(void);

/** sm_wipe_traces_of - the same, of so many bytes of stack */
void sm_wipe_traces_of(size_t bytes);

#define SM_WALK_TRACE_BYTES 12288u /* of what a walk over chunks has called */

/** SM_GAP - in a function marked SM_NOINLINE: a frame that keeps its callees' stack lower down */
#define SM_GAP unsigned char sm_gap[96]
#define SM_GAP_DEEP unsigned char sm_gap[512] /* what a call further down is to wipe later */
#define SM_GAP_OPEN() __asm__ volatile("" ::"r"(sm_gap) : "memory")
#define SM_GAP_CLOSE() SM_GAP_OPEN() /* after the call, so that it is no tail call */

/* -------------------------------------------------------------------- die */

/**
 * sm_die - report a fault and abort; takes no lock, allocates nothing
 *
 * Args: ptr  handed to on_fault.
 */
_Noreturn SM_COLD void sm_die(enum secmalloc_fault kind, const void *ptr);

/** sm_die_of - the fault INTERNAL, where a cause and its cure can be told */
_Noreturn SM_COLD void sm_die_of(const char *cause, const void *ptr);

/** sm_assert - an invariant of the house; broken, it is the fault INTERNAL */
#define sm_assert(x) (SM_LIKELY(x) ? (void)0 : sm_die(SECMALLOC_FAULT_INTERNAL, NULL))

/** sm_check - an invariant too dear for every build: --enable-checking */
#ifdef SM_CHECKING
#define sm_check(x) sm_assert(x)
#else
#define sm_check(x) ((void)sizeof(x))
#endif

/* ------------------------------------------------------------------ locks */

/*
 * A lock's rank is floor * 16 plus a number.  Holding one, a thread takes only lower ones;
 * checking builds assert it.  Every rank there is, is named here.
 */
enum sm_rank {
	SM_RANK_KEY = 3 * 16 + 0,      /* key: the two halves */
	SM_RANK_WINDOW = 3 * 16 + 3,   /* heap: which elastic pages are locked */
	SM_RANK_POOL = 3 * 16 + 4,     /* heap: regions, pools, page runs */
	SM_RANK_LARGE = 3 * 16 + 5,    /* heap: large chunks that rest */
	SM_RANK_ARENA = 3 * 16 + 6,    /* heap: the slabs and the tally of one arena */
	SM_RANK_KEY_SLOT = 3 * 16 + 8, /* key: one scratch slot; lent while heap works */
	SM_RANK_CHUNK = 4 * 16 + 0,    /* seal: one chunk's record and bytes */
	SM_RANK_BATCH = 4 * 16 + 8,    /* seal: whoever walks over all chunks, or changes the key */
	SM_RANK_CALL = 5 * 16 + 0,     /* fault: a system call for the thread that serves */
	SM_RANK_LIFE = 6 * 16 + 0      /* front: start, stop, fork */
};

/** A lock of 4 bytes, so that each record can have one; all zero: free. */
struct sm_lock {
	_Atomic uint32_t word; /* 0 free, 1 taken */
};

SM_COLD void sm_lock_wait(struct sm_lock *l);
/** sm_rest - what a waiter does between two looks: spin, then yield, then sleep up to 1 ms */
SM_COLD void sm_rest(unsigned *turn);
void sm_lock_note_taken(unsigned rank);
void sm_lock_note_released(unsigned rank);

/** sm_lock_take - take; waits by spinning, then yielding, then sleeping up to 1 ms a turn */
static inline void
sm_lock_take(struct sm_lock *l, enum sm_rank rank)
{
#ifdef SM_CHECKING
	sm_lock_note_taken(rank);
#else
	(void)rank;
#endif
	if (!SM_LIKELY(atomic_exchange_explicit(&l->word, 1, memory_order_acquire) == 0))
		sm_lock_wait(l);
}

/** sm_lock_release - release what this thread took */
static inline void
sm_lock_release(struct sm_lock *l, enum sm_rank rank)
{
#ifdef SM_CHECKING
	sm_lock_note_released(rank);
#else
	(void)rank;
#endif
	atomic_store_explicit(&l->word, 0, memory_order_release);
}

/** sm_lock_try - take it if it is free */
static inline bool
sm_lock_try(struct sm_lock *l, enum sm_rank rank)
{
	if (atomic_exchange_explicit(&l->word, 1, memory_order_acquire) != 0)
		return false;
#ifdef SM_CHECKING
	sm_lock_note_taken(rank);
#else
	(void)rank;
#endif
	return true;
}

/** sm_lock_take_also - one of the rank that this thread took last, further on in a fixed order */
static inline void
sm_lock_take_also(struct sm_lock *l)
{
	if (atomic_exchange_explicit(&l->word, 1, memory_order_acquire) != 0)
		sm_lock_wait(l);
}

/** sm_lock_release_also - undo that */
static inline void
sm_lock_release_also(struct sm_lock *l)
{
	atomic_store_explicit(&l->word, 0, memory_order_release);
}

/** What a thread holds, put aside while it serves itself in the middle of anything. */
struct sm_shelf {
	uint64_t held[2];
};

/** sm_locks_shelve, sm_locks_unshelve - for checking builds: ranks begin anew in between */
void sm_locks_shelve(struct sm_shelf *s);
void sm_locks_unshelve(const struct sm_shelf *s);

/** sm_locks_forget - in a forked child: no lock is held by the calling thread */
void sm_locks_forget(void);

/* ----------------------------------------------------------------- config */

/** What was resolved at start; read-only pages from then until stop, zero in a forked child. */
struct sm_config {
	uint64_t mark;          /* 0 in a forked child: the page is wiped there */
	uint64_t canary;        /* secret of the canaries */
	size_t page_bytes;      /* power of two */
	size_t pool_bytes;      /* multiple of page_bytes, never 0 once running */
	bool pool_auto;         /* pool_bytes was chosen by us */
	bool isolate;           /* every chunk has pages of its own */
	unsigned initial_pools; /* >= 1 */
	unsigned max_pools;     /* >= initial_pools */
	unsigned require;       /* protections; disjoint from without */
	unsigned without;
	unsigned cipher; /* enum secmalloc_cipher as asked, AUTO allowed */
	bool tag_rest;          /* a tag is longer than its place in the record */
	bool key_resident;      /* the expanded key stays on its page */
	size_t prekey_bytes;    /* 32 to 1 MiB */
	int (*key_provider)(unsigned char key[32], void *arg); /* NULL: random */
	void *key_arg;
	unsigned resplit_ms;
	unsigned reseal_ms; /* 0: never */
	bool no_thread;
	bool transparent;
	size_t clear_bytes; /* transparent: what may be clear at once */
	const char *store_dir; /* transparent: a copy of ours; NULL: memory */
	const char *daemon; /* where it listens, a copy of ours; NULL: there is none */
	bool fork_keeps; /* a child has a copy of what there is */
	void (*on_fault)(enum secmalloc_fault, const void *, void *);
	void *fault_arg;
};

enum { SM_MARK = 1, SM_MARK_CHORES = 2 /* each call looks whether there is something to do */ };

/** The config, from the beginning of the start to the end of the stop; never NULL. It points to
 * sm_config_none or to a page that is never unmapped, so whoever read it may use it. */
extern _Atomic(const struct sm_config *) sm_config_now;
extern const struct sm_config sm_config_none;
/** The same, but only while everything is up. */
extern _Atomic(const struct sm_config *) sm_config_up;

/** sm_config - the config in force */
static inline const struct sm_config *
sm_config(void)
{
	return atomic_load_explicit(&sm_config_now, memory_order_acquire);
}

/** sm_config_runs - the library is started, in this very process */
static inline bool
sm_config_runs(void)
{
	return atomic_load_explicit(&sm_config_up, memory_order_acquire)->mark != 0;
}

/** sm_config_check - the invariants of a frozen config */
void sm_config_check(const struct sm_config *c);

/* ------------------------------------------------------------------ state */

/** What the library is in; SM_PURGED is a bit beside the others, and stays until SM_DOWN. */
enum sm_state {
	SM_DOWN = 0, /* before start and after stop */
	SM_STARTING,
	SM_UP,
	SM_LOCKED,  /* closed by secmalloc_lock, or about to be */
	SM_FORKING, /* calls wait until a fork is over */
	SM_HALTED,  /* the daemon has the keys: calls wait until it gives them back */
	SM_PURGED = 8
};
extern _Atomic unsigned sm_state;

/** sm_state_is - in this state, and not purged */
static inline bool
sm_state_is(enum sm_state s)
{
	return atomic_load_explicit(&sm_state, memory_order_acquire) == (unsigned)s;
}

/** sm_purged - what a call that works with keys or clear bytes asks after it has stored some */
static inline bool
sm_purged(void)
{
	return atomic_load_explicit(&sm_state, memory_order_acquire) & SM_PURGED;
}

/** sm_barred - locked or purged: nothing opens any more, whoever is inside already */
static inline bool
sm_barred(void)
{
	unsigned s = atomic_load_explicit(&sm_state, memory_order_acquire);

	return s == SM_LOCKED || s & SM_PURGED;
}

/** sm_waiting - calls wait, for a fork or for the daemon; a purge ends only the latter */
static inline bool
sm_waiting(void)
{
	unsigned s = atomic_load_explicit(&sm_state, memory_order_acquire);

	return (s & ~(unsigned)SM_PURGED) == SM_FORKING || s == SM_HALTED;
}

/** sm_state_change - from one to the other. ECANCELED: purged meanwhile. */
int sm_state_change(enum sm_state from, enum sm_state to);

/** sm_gate_open - from this state to SM_UP: calls may come in. ECANCELED: purged, nobody waits. */
int sm_gate_open(enum sm_state from);

/** sm_gate_shut - from SM_UP to this state: none may come in. ECANCELED: purged. */
int sm_gate_shut(enum sm_state to);

/** sm_gate_await - if calls wait, until they need not; holding no lock */
SM_COLD void sm_gate_await(void);

/** How deep this thread is in calls of the library. */
struct sm_inside {
	volatile unsigned depth;
	volatile bool owes; /* it is to wait on its way out; written by a signal handler too */
};
extern SM_TLS struct sm_inside sm_inside;
/** Handed in by front: wait until all may go on, as long as that takes. NULL: nobody waits so. */
extern void (*_Atomic sm_inside_park)(void);
SM_COLD void sm_inside_pay(void);

/** sm_come, sm_go - around each call: in between no signal of ours stops the thread */
static inline void
sm_come(void)
{
	sm_inside.depth++;
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void
sm_go(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	sm_inside.depth--;
	if (!SM_LIKELY(!sm_inside.owes))
		sm_inside_pay();
}

/** sm_state_refuse - note why nothing goes. ECANCELED: purged; EACCES: locked. */
SM_COLD int sm_state_refuse(void);

/**
 * sm_purge_enter, sm_purge_leave - around a purge: async-signal-safe
 *
 * Between them no page that held clear bytes or keys is taken away by another thread: who does
 * that makes it known first (a record that is no longer live, a pointer that is NULL) and then
 * calls sm_purge_await. Returns: false, and nothing is to be done: nothing runs here.
 */
bool sm_purge_enter(void);
void sm_purge_leave(void);

/** sm_purge_wipe - zero bytes that another thread may be using */
void sm_purge_wipe(void *p, size_t n);

/** sm_purge_await - until no purge is under way that may still see what was there before */
void sm_purge_await(void);

/** sm_purge_fence - sm_purged, asked after all that was stored before is known to every thread */
bool sm_purge_fence(void);

/** sm_purge_forget - in a forked child: nobody purges */
void sm_purge_forget(void);

/** sm_state_forget - in a forked child: nothing runs */
void sm_state_forget(void);

/* -------------------------------------------------------------------- host */

/** What the program around the library is, where that matters: set before start by an outbuilding
 * that has the objects in it. All zero in the library itself. */
struct sm_host {
	bool unaware; /* the program knows nothing: even the C library's own data is in the heap */
	/* Handed in at start by front: make this system call in threads that the C library does
	 * not know too; 0 or an errno value. NULL: there are none. */
	int (*_Atomic everywhere)(long number, const long args[6]);
	/* Likewise: these pages hold zeros from now on, as after madvise(2); false: none of ours. */
	bool (*_Atomic forget)(void *at, size_t bytes);
	/* Likewise: some of these bytes are on pages that are ours to lock and to protect. */
	bool (*_Atomic meets)(const void *at, size_t bytes);
	/* Likewise, of transparent mode: pages closed since start, the most that were clear. */
	uint64_t (*_Atomic pages_closed)(void);
	uint64_t (*_Atomic clear_bytes_most)(void);
	_Atomic int descriptors[20]; /* ours, each + 1: the program is not to close them; 0: none */
};
extern struct sm_host sm_host;

/** sm_host_keep, sm_host_let_go - this descriptor is ours; is about to be closed */
void sm_host_keep(int fd);
void sm_host_let_go(int fd);

/* --------------------------------------------------------------- counters */

/** What stats reports; each is changed by relaxed atomics. */
struct sm_counters {
	_Atomic uint64_t pools, pool_bytes, locked_bytes;
	_Atomic uint64_t dropped; /* chunks that were closed and not opened: freed, or a parent's */
	_Atomic uint64_t reseals, tampered, live_at_term;
};
extern struct sm_counters sm_count;

/** What one thread has closed and opened, so that no other waits for the line in its cache; the
 * first is of all the threads that came too late for one of their own. */
struct sm_share {
	_Alignas(64) _Atomic uint64_t seals, unseals;
	_Atomic uint64_t bytes_encrypted; /* below 0, where others closed what this one opened */
};
enum { SM_SHARES = 64 };
extern struct sm_share sm_shares[SM_SHARES];
extern SM_TLS struct sm_share *sm_my_share; /* NULL: not chosen yet */
SM_COLD struct sm_share *sm_share_choose(void);

static inline void
sm_share_add(_Atomic uint64_t *n, uint64_t by, bool own)
{
	if (SM_LIKELY(own))
		atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + by,
			memory_order_relaxed);
	else
		atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}

/** sm_count_veil - of chunks: closed, opened, and by how many bytes more are closed; less: wraps */
static inline void
sm_count_veil(uint64_t seals, uint64_t unseals, uint64_t bytes)
{
	struct sm_share *s = SM_LIKELY(sm_my_share != NULL) ? sm_my_share : sm_share_choose();
	bool own = s != sm_shares;

	if (seals)
		sm_share_add(&s->seals, seals, own);
	if (unseals)
		sm_share_add(&s->unseals, unseals, own);
	sm_share_add(&s->bytes_encrypted, bytes, own);
}

/** sm_count_shares - of all threads; while they open and close, of about now */
struct sm_sums {
	uint64_t seals, unseals;
	uint64_t bytes_encrypted; /* below 0, if read between a seal and its opening elsewhere */
};
struct sm_sums sm_count_shares(void);

/** sm_count_sealed - bytes that are closed, by these sums; not below 0 */
static inline uint64_t
sm_count_sealed(const struct sm_sums *s)
{
	return s->bytes_encrypted <= INT64_MAX ? s->bytes_encrypted : 0;
}

static inline void
sm_count_add(_Atomic uint64_t *n, uint64_t by)
{
	atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}

static inline void
sm_count_sub(_Atomic uint64_t *n, uint64_t by)
{
	atomic_fetch_sub_explicit(n, by, memory_order_relaxed);
}

static inline uint64_t
sm_count_get(_Atomic uint64_t *n)
{
	return atomic_load_explicit(n, memory_order_relaxed);
}

/** sm_count_closed - chunks that are closed, by these sums; not below 0 while others open */
static inline uint64_t
sm_count_closed(const struct sm_sums *s)
{
	uint64_t gone = s->unseals + sm_count_get(&sm_count.dropped);

	return s->seals > gone ? s->seals - gone : 0;
}

/** sm_count_reset - all to 0 but live_at_term */
void sm_count_reset(void);

/* ------------------------------------------------------------ last error */

/**
 * sm_fail - note the cause and cure of this thread's failure, and hand the errno value on
 *
 * The text must hold no secret.  Allocates nothing and knows no locale, so only %s, %d, %u and
 * %zu, bare.  Keeps errno.  Returns: e.
 */
SM_COLD int sm_fail(int e, const char *fmt, ...) SM_PRINTF(2, 3);

/** sm_error_text - what sm_fail noted last in this thread, be it fatal to the call or not */
const char *sm_error_text(void);

/** sm_error_show - the call fails with what was noted: from now on it is the thread's last error */
void sm_error_show(void);

/** sm_error_restore - what is shown becomes what was noted last */
void sm_error_restore(void);

/** sm_error_shown - what the thread's last failed call died of, or "no error" */
const char *sm_error_shown(void);

#endif
