/*
 * secmalloc.h - memory for keys, passwords and tokens
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * secmalloc hands out memory that is locked (never in swap), fenced by guard pages, left out of
 * core dumps, absent from forked children and, where the kernel has memfd_secret(2), invisible to
 * every reader but the process itself.  A chunk can be sealed in place: its bytes become AEAD
 * ciphertext, and only this process can open it again.
 *
 * General rules, true of every call below unless it says otherwise:
 *
 *  - 0 or a pointer means success.  -1 or NULL means failure: errno is set, secmalloc_error()
 *    names the cause and the cure in one line, and nothing has changed.  Calls that succeed
 *    leave errno alone.
 *  - A mistake that means memory is corrupt (enum secmalloc_fault) is not an error but a fault:
 *    on_fault is called, one fixed sentence goes to stderr, the process aborts.  That path takes
 *    no lock and allocates nothing.
 *  - Every call is thread-safe, secmalloc_init and secmalloc_term excepted.
 *    None but secmalloc_purge may be called from a signal handler.
 *  - Checks come in this order: purged (ECANCELED), NULL or foreign pointer (EINVAL), locked
 *    (EACCES), the state of the chunk.  What goes on while locked: secfree, secrealloc(p, 0), owns,
 *    usable_size, is_encrypted, stats, error, version, unlock, purge, term, secmemcmp and
 *    secmemzero; once purged the same, less secrealloc, is_encrypted and unlock.
 *  - A child made by fork under SECMALLOC_FORK_WIPE has none of it: a pointer of the parent gives
 *    ECHILD for as long as the child lives (secmalloc_owns: 0), stats are as before init, and the
 *    child's first allocation starts the library anew with the parent's config, unless it calls
 *    secmalloc_init.  Call nothing here between vfork(2) and exec.
 *  - Nothing happens outside the library's own memory unless asked for: no rlimit, dumpable flag,
 *    signal handler or environment variable is touched, and nothing runs when the library is
 *    loaded.  Initialisation registers pthread_atfork(3) handlers, once.
 *  - "Page" is sysconf(_SC_PAGESIZE) bytes.  Sizes are bytes, times are ms.
 */
#ifndef SECMALLOC_H
#define SECMALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SECMALLOC_ALLOC(...) __attribute__((malloc, alloc_size(__VA_ARGS__)))
#define SECMALLOC_RESIZE(n) __attribute__((alloc_size(n)))
#pragma GCC visibility push(default)
#else
#define SECMALLOC_ALLOC(...)
#define SECMALLOC_RESIZE(n)
#endif

/** The version of this header; secmalloc_version() gives the library's. */
#define SECMALLOC_VERSION "0.1.0"
#define SECMALLOC_VERSION_MAJOR 0
#define SECMALLOC_VERSION_MINOR 1
#define SECMALLOC_VERSION_PATCH 0

/** Protections: bits of `require` and `without`, and of what was granted. */
#define SECMALLOC_LOCKED 0x01u      /* clear bytes never reach swap: mlock(2) */
#define SECMALLOC_GUARDED 0x02u     /* inaccessible pages on both sides of each slab */
#define SECMALLOC_NODUMP 0x04u      /* kernel core dumps leave the pages out: MADV_DONTDUMP */
#define SECMALLOC_FORKSAFE 0x08u    /* a forked child holds nothing: WIPEONFORK or DONTFORK */
#define SECMALLOC_HIDDEN 0x10u      /* memfd_secret(2): no reader but this process, erased even
				     * on SIGKILL.  A machine set up to hibernate, from which
				     * they would keep it, has them only by `require` */
#define SECMALLOC_UNTRACEABLE 0x20u /* prctl(PR_SET_DUMPABLE, 0), process-wide: only when in
				     * `require`; stays in force after secmalloc_term */

/** Flags of secmalloc_config.flags. */
#define SECMALLOC_ISOLATE 0x01u      /* every chunk on pages of its own: see Placement */
#define SECMALLOC_TRANSPARENT 0x02u  /* pages open when touched, and few stay so: secmalloc(7) */
#define SECMALLOC_KEY_RESIDENT 0x04u /* keep the expanded key on its page, for speed */
#define SECMALLOC_NO_THREAD 0x08u    /* no helper thread: its work is done by later calls */

/** What a child made by fork gets.  KEEP copies every chunk, and waits for calls in progress; holds
 * stay behind.  Where the copy cannot be locked the child has nothing and its next call fails with
 * ENOMEM; after a clone(2) without fork(3), or of a locked or purged parent, it has nothing. */
enum secmalloc_fork {
	SECMALLOC_FORK_WIPE = 0, /* nothing; it may init anew */
	SECMALLOC_FORK_KEEP = 1  /* its own locked copy, at the same addresses, under a new key */
};

/** Values of secmalloc_config.cipher and secmalloc_stats.cipher. */
enum secmalloc_cipher {
	SECMALLOC_CIPHER_AUTO = 0,          /* the first of AEGIS-256, AES-256-GCM, XChaCha20 */
	SECMALLOC_CIPHER_XCHACHA20POLY1305, /* everywhere */
	SECMALLOC_CIPHER_AES256GCM,         /* needs AES and CLMUL instructions */
	SECMALLOC_CIPHER_AEGIS256,          /* needs AES instructions and libsodium 1.0.19 */
	SECMALLOC_CIPHER_AEGIS128L          /* the same; a key of 128 bits: AUTO never takes it */
};

/** What the program may do with a chunk's pages: secmalloc_protect(). */
enum secmalloc_access {
	SECMALLOC_NOACCESS = 0,
	SECMALLOC_READONLY = 1,
	SECMALLOC_READWRITE = 2
};

/** Mistakes that end the process; the words in quotes are in the sentence on stderr. */
enum secmalloc_fault {
	SECMALLOC_FAULT_DOUBLE_FREE = 1, /* "double free" */
	SECMALLOC_FAULT_INVALID_FREE,    /* "invalid free": a foreign or interior pointer */
	SECMALLOC_FAULT_OVERFLOW,        /* "overflow": the canary behind a chunk is damaged; as the
					  * next, looked for by secfree, secrealloc, _encrypt */
	SECMALLOC_FAULT_UNDERFLOW,       /* "underflow": the canary in front of it is */
	SECMALLOC_FAULT_WRITE_AFTER_FREE, /* "write after free": a free slot is no longer zero,
					   * seen when it is used again or its slab given back */
	SECMALLOC_FAULT_INTERNAL, /* "internal": an invariant of the library broke */
	SECMALLOC_FAULT_TAMPERED, /* "tampered": of transparent mode, a closed page was written */
	SECMALLOC_FAULT_STORE     /* "store": store_dir could not be read or written at a touch */
};

/** struct secmalloc_config - start from SECMALLOC_CONFIG_INIT; 0 in a field means its default */
struct secmalloc_config {
	/** sizeof(struct secmalloc_config).  Fields are only ever appended.  Smaller than the first
	 *  release's: EINVAL.  Larger: fine while the unknown bytes are 0, else EINVAL. */
	size_t struct_size;
	/** Bytes a pool, rounded up to pages; guard pages lie inside it.  0: what may be locked, at
	 *  most 1 MiB and at most half of RLIMIT_MEMLOCK for all initial pools, but at least 4
	 *  pages.  An explicit size never shrinks.  Later pools are elastic: only pages that a
	 *  clear chunk lies on are locked, for just as long, so RLIMIT_MEMLOCK bounds what is clear
	 *  at once, not what is kept.  Where HIDDEN is in `require` they are locked for good. */
	size_t pool_size;
	/** Pools mapped, guarded, locked and touched before init returns, so that privileges can
	 *  be dropped afterwards.  0: 1. */
	unsigned initial_pools;
	/** At most this many pools.  0: no limit.  Less than initial_pools: EINVAL. */
	unsigned max_pools;
	/** Protections without which init fails, and without which no later pool is added.
	 *  0: LOCKED | GUARDED | NODUMP | FORKSAFE, less what `without` names. */
	unsigned require;
	/** Protections not to try.  A bit in both `require` and `without`: EINVAL.  LOCKED here
	 *  keeps HIDDEN from being tried too (hidden pages are always locked), unless required. */
	unsigned without;
	/** SECMALLOC_ISOLATE, _TRANSPARENT, _KEY_RESIDENT, _NO_THREAD. */
	unsigned flags;
	/** enum secmalloc_fork */
	unsigned fork;
	/** enum secmalloc_cipher; ENOTSUP where the build or the CPU lacks it. */
	unsigned cipher;
	/** Random bytes hashed into the key, 32 to 1 MiB: a dump with a wrong bit in them is worth
	 *  nothing (OpenSSH shields keys with 16384).  They are hashed for each operation: 0.1 µs
	 *  for 32, 15 µs for 16384; with KEY_RESIDENT only once.  0: 32. */
	size_t prekey_size;
	/** How often the key's halves are re-randomised: by the thread of reseal_ms, else at the
	 *  next use of the key.  0: 500. */
	unsigned resplit_ms;
	/** An open chunk closes by itself this long after it was opened or allocated (or an eighth
	 *  and 1 ms later), never while held.  A thread of ours does it, all signals blocked; with
	 *  NO_THREAD the next call.  Pages of an isolated chunk are read-only while it closes:
	 *  a write then is SIGSEGV.  0: never, and no thread. */
	unsigned reseal_ms;
	/** Transparent mode: bytes that may be clear at once, and 128 KiB more.  0: 1 MiB. */
	size_t clear_limit;
	/** Transparent mode: a folder (copied; as open(2)) for ciphertext.  NULL: it is in memory. */
	const char *store_dir;
	/** Where the master key comes from (a token, a TPM, a keyring): fills in 32 bytes and answers
	 *  0, or the errno value that secmalloc_init fails with (EIO for a negative one); must not
	 *  call the library.  The AEAD key is BLAKE2b, keyed with its bytes, of 32 fresh random
	 *  ones, so the same answer never makes the same key.  NULL: random. */
	int (*key_provider)(unsigned char key[32], void *arg);
	void *key_arg;
	/** Called on a fault before the sentence is written and the process aborts, with the
	 *  kind, the pointer concerned and fault_arg.  Locks of the library may be held: it must
	 *  not call the library (secmalloc_purge excepted).  It may leave with _exit. */
	void (*on_fault)(enum secmalloc_fault kind, const void *ptr, void *arg);
	void *fault_arg;
	/** Where secmallocd(8) listens (copied), or "": its default place.  init says hello and waits
	 *  for a welcome; then a thread of ours does as it is told.  While the daemon has the keys
	 *  every other thread waits, stopped by a real-time signal (configure --with-park-signal).
	 *  Should it die the process is purged and killed, unless its policy says otherwise, and
	 *  a child says hello for itself: secmalloc(7).  NULL: none. */
	const char *daemon;
};

#define SECMALLOC_CONFIG_INIT { .struct_size = sizeof(struct secmalloc_config) }

/** struct secmalloc_stats - what is going on; start from SECMALLOC_STATS_INIT */
struct secmalloc_stats {
	size_t struct_size;
	uint64_t pools;            /* pools mapped now */
	uint64_t pool_bytes;       /* bytes in them, guard pages inside them included */
	uint64_t locked_bytes;     /* bytes locked: pools, elastic pages, the key's pages */
	uint64_t chunks;           /* live chunks */
	uint64_t chunks_encrypted; /* those of them that are closed */
	uint64_t bytes;            /* bytes asked for, in live chunks */
	uint64_t bytes_clear;      /* those of them in open chunks */
	uint64_t bytes_high_water; /* the most that `bytes` has been since init; with several
				    * threads a bound: the sum of what each arena's most was */
	uint64_t seals;            /* chunks closed since init */
	uint64_t unseals;          /* chunks opened since init */
	uint64_t reseals;          /* chunks closed by timer */
	uint64_t tampered;         /* openings refused with EBADMSG */
	uint64_t faults_served;    /* transparent mode: pages opened when touched, or along */
	uint64_t live_at_term;     /* chunks live at the last secmalloc_term; until the next init */
	unsigned granted;          /* protection bits that held for every pool since init */
	unsigned cipher;           /* enum secmalloc_cipher in use */
	unsigned mode;             /* who opens transparent pages: 1 a thread, 2 SIGBUS, 3 SIGSEGV */
};

#define SECMALLOC_STATS_INIT { .struct_size = sizeof(struct secmalloc_stats) }

/* ------------------------------------------------------------- lifecycle */

/**
 * secmalloc_init - map, guard, lock and touch the first pools, and make the key
 *
 * Call it while the process may still lock memory; else the first allocation starts with the
 * defaults.
 *
 * Args:    c  what is wanted; NULL: every default.  Not kept: the caller may free it.
 * Returns: 0, or -1 with nothing left behind and errno
 *          EALREADY  running already; it goes on unchanged
 *          EINVAL    a field out of range, unknown bits, or struct_size wrong
 *          EPERM     locking is not allowed: RLIMIT_MEMLOCK is 0
 *          ENOMEM    over RLIMIT_MEMLOCK or out of memory
 *          ENOTSUP   a required protection, a cipher or transparent mode was refused; or Linux
 *                    is older than 4.14, whose children do not know themselves
 *          EAGAIN    the kernel's random generator is not ready, or no thread for reseal_ms
 *          ECANCELED secmalloc_purge came meanwhile; nothing runs
 *          EBUSY     the program has a handler for the signal of the daemon's lock
 *          another   as secmalloc_error() tells: ENOENT, EACCES of store_dir, ECONNREFUSED of daemon
 * Threads: one at a time, and no other call meanwhile.
 * Cost:    about 4 ms for a hidden pool of 1 MiB, 0.5 ms for one that is only locked.
 */
int secmalloc_init(const struct secmalloc_config *c);

/** secmalloc_term - wipe and unmap everything, live chunks too; secmalloc_init may follow.
 * Returns: 0, also when not running.  Threads: no other call meanwhile. */
int secmalloc_term(void);

/* ---------------------------------------------------------------- memory */

/*
 * Placement.  Packed: chunks up to 16 KiB share slabs with others of about their size, in random
 * order, a canary on both sides of each, a guard page on both sides of each slab.  Isolated
 * (SECMALLOC_ISOLATE, and every larger chunk): pages of its own, a canary in front, and a guard
 * page right behind its end, within its alignment, so that an overrun is SIGSEGV at the access.
 *
 * Quarantine.  What is freed rests, wiped, before its address is used again, so that a late second
 * free or write is found: packed, for at least 256 more frees of its size class; isolated, without
 * access, for at least 256 more isolated frees and 1 MiB of them.  It ends early when memory is not
 * to be had otherwise.  secmalloc(7) has the details, and what the guards cost.
 */

/**
 * secmalloc - allocate a chunk of secure memory
 *
 * The bytes are zero, aligned to 16 and open (clear).  Size 0 gives a unique pointer to no bytes.
 *
 * Returns: the chunk, or NULL with errno
 *          ENOMEM  no memory that carries every required protection is to be had, max_pools
 *                  is reached, or size is above the cipher's message limit
 *          and, when this first call starts the library, all that secmalloc_init gives.
 * Cost:    some 20 ns for a small chunk of an initial pool, as is its secfree; 3 µs each where
 *          an elastic page has to be locked and unlocked.  One size class has at most half of
 *          the initial pools: raise pool_size where chunks of 2 KiB and more come and go.
 */
void *secmalloc(size_t size) SECMALLOC_ALLOC(1);

/** seccalloc - as secmalloc(nmemb * size).  Returns: as secmalloc; ENOMEM on overflow. */
void *seccalloc(size_t nmemb, size_t size) SECMALLOC_ALLOC(1, 2);

/**
 * secrealloc - change the size of a chunk, moving it if need be
 *
 * Bytes up to the smaller size are kept, grown bytes are zero, a place left behind is wiped.  A
 * sealed chunk stays sealed, a protected one protected; alignment beyond 16 may be lost.
 *
 * Args:    ptr   NULL: as secmalloc(size).  A bad pointer or a damaged canary is a fault, as in
 *                secfree.
 *          size  0: as secfree(ptr), and NULL is returned with errno unchanged.
 * Returns: the chunk, or NULL and the old chunk is untouched, with errno
 *          ENOMEM   as secmalloc; a protected chunk (secmalloc_protect) that would have to
 *                   shrink into a slab stays on pages of its own
 *          EBADMSG  a closed chunk was tampered with; it stays closed
 *          EACCES   locked (size 0 frees all the same)
 *          ECHILD   the parent's chunk
 *          EBUSY    held and it would have to move
 */
void *secrealloc(void *ptr, size_t size) SECMALLOC_RESIZE(2);

/** secaligned_alloc - as secmalloc, aligned to a power of two, at most a page; else EINVAL. */
void *secaligned_alloc(size_t alignment, size_t size) SECMALLOC_RESIZE(2);

/**
 * secfree - wipe a chunk, open or closed, and give it back; NULL does nothing; keeps errno
 *
 * Faults: DOUBLE_FREE, INVALID_FREE, OVERFLOW, UNDERFLOW.  In a child a parent's chunk is left
 * alone.  If the kernel refuses access to a protected chunk, it stays live (secmalloc_error()).
 */
void secfree(void *ptr);

/** secstrdup, secstrndup - a copy of s, of at most n bytes, and a NUL.  NULL: EINVAL. */
char *secstrdup(const char *s);
char *secstrndup(const char *s, size_t n);

/**
 * secmalloc_read_fd - bytes of a descriptor, straight into a new open chunk
 *
 * Reads until the end or max bytes, never one more.  A zero byte follows them, which *len does
 * not count.  No byte is ever anywhere else in the process.  No cancellation point.
 *
 * Returns: the chunk, or NULL with errno: EINVAL (max is 0, or len NULL), what read(2) says
 *          (EINTR is tried again), and as secmalloc; what was read is wiped.
 */
void *secmalloc_read_fd(int fd, size_t max, size_t *len);

/**
 * secmalloc_read_passphrase - ask for a line at the terminal, echo off, into a new open chunk
 *
 * Where there is no /dev/tty, from standard input without a prompt.  The line comes without its
 * newline, a zero byte behind it, in a chunk of max + 1 bytes.  As with readpassphrase(3), a
 * signal takes its course once the terminal was put back; after SIGTSTP the prompt comes again.
 *
 * Returns: the chunk, or NULL with errno: EINVAL (max is 0, or prompt NULL), EMSGSIZE (the line is
 *          longer than max: it was read to its end and dropped), ENODATA (the end came before the
 *          first byte), EINTR (a signal that the program handles), as read(2) and as secmalloc
 * Threads: the handlers of SIGALRM, HUP, INT, PIPE, QUIT, TERM, TSTP, TTIN and TTOU are replaced
 *          for as long; a second thread waits for the first; no cancellation point.
 */
char *secmalloc_read_passphrase(const char *prompt, size_t max);

/** secmalloc_free_at - secfree of the pointer in this variable.  NULL there is fine. */
void secmalloc_free_at(void *variable);

#if defined(__GNUC__) /* a pointer variable so marked: its chunk is freed where its scope ends */
#define SECMALLOC_SCOPED __attribute__((cleanup(secmalloc_free_at)))
#endif

/** secmalloc_usable_size - what was asked for; 0 for NULL; 0 with EINVAL or ECHILD for no chunk. */
size_t secmalloc_usable_size(const void *ptr);

/** secmalloc_owns - 1 if ptr is the start of a live chunk, else 0; never fails. */
int secmalloc_owns(const void *ptr);

/**
 * secmalloc_protect - what the program may do with the pages of an isolated chunk
 *
 * Open or closed; the library lifts it for its own work and restores it.  Should the kernel refuse
 * that, the call fails with ENOMEM although its work is done, and the chunk is SECMALLOC_READWRITE
 * from then on.  secrealloc keeps it.
 *
 * Returns: 0, or -1 with errno
 *          EINVAL   NULL, foreign, interior or freed pointer; unknown access
 *          ENOTSUP  the chunk is packed: it shares its pages with others
 *          ENOMEM   mprotect(2) failed: vm.max_map_count
 *          ECHILD, EACCES, ECANCELED as in the general rules
 * Cost:    one mprotect(2), 2 to 10 µs.
 */
int secmalloc_protect(void *ptr, enum secmalloc_access a);

/** secmemcmp - compare n bytes in a time that depends on n only: 0 equal, -1 not. */
int secmemcmp(const void *a, const void *b, size_t n);

/** secmemzero - zero n bytes, never optimised away. */
void secmemzero(void *p, size_t n);

/* --------------------------------------------------------------- sealing */

/*
 * A closed chunk's bytes are AEAD ciphertext, under a nonce never used before with that key; tag
 * and nonce lie out of line.  The associated data binds address, size and generation, so a flipped
 * bit, two chunks swapped or older bytes put back are refused.  A closed chunk may be read.  Writing
 * it is tampering, found when it is opened.  Where reseal_ms or another thread may close a chunk,
 * touch its content only between hold and release: a write that overlaps a close loses the chunk
 * (EBADMSG), and its bytes may lie clear.
 */

/**
 * secmalloc_encrypt - close a chunk: ciphertext in place
 *
 * Returns: 0, also if it was closed already, or -1 with errno
 *          EINVAL  NULL, foreign, interior or freed pointer
 *          EBUSY   held: it stays open
 *          ECHILD, EACCES, ECANCELED as in the general rules
 * Faults:  OVERFLOW, UNDERFLOW
 * Cost:    the AEAD's (0.15 µs for 32 B of AES-256-GCM), and some 0.3 µs for the key.
 */
int secmalloc_encrypt(void *ptr);

/**
 * secmalloc_decrypt - open a chunk
 *
 * Returns: 0, also if it was open already, or -1 with errno
 *          EBADMSG  tampered with: it stays closed, its bytes are as they were, and no
 *                   plaintext was released
 *          ENOMEM   its pages cannot all be locked; it stays closed
 *          EINVAL, ECHILD, EACCES, ECANCELED as secmalloc_encrypt
 */
int secmalloc_decrypt(void *ptr);

/** secmalloc_encrypt_all, secmalloc_decrypt_all - every chunk they can.  Returns: 0, also when not
 * running, or -1 with the errno of the first one that they could not. */
int secmalloc_encrypt_all(void);
int secmalloc_decrypt_all(void);

/** secmalloc_is_encrypted - 1 closed, 0 open, -1 with EINVAL (ECHILD: the parent's). */
int secmalloc_is_encrypted(const void *ptr);

/**
 * secmalloc_hold - open a chunk and keep it open until it is released as often
 *
 * Until then encrypt, encrypt_all, lock and a moving secrealloc answer EBUSY, and reseal_ms leaves
 * it.  secfree of a held chunk is a mistake, as of one in use, and ends the holds.
 *
 * Returns: 0, or -1 with errno as secmalloc_decrypt; EAGAIN: held 65,535 times already
 */
int secmalloc_hold(void *ptr);

/**
 * secmalloc_release - undo one secmalloc_hold
 *
 * The last one closes the chunk again if a hold opened it and no secmalloc_decrypt came since.
 *
 * Returns: 0, or -1 with errno as secmalloc_encrypt; EINVAL: not held; ENOMEM: as it was
 * Faults:  OVERFLOW, UNDERFLOW, where it closes the chunk
 */
int secmalloc_release(void *ptr);

/* -------------------------------------------------- keys and emergencies */

/**
 * secmalloc_rekey - a new master key; closed chunks are carried over, in locked memory
 *
 * Each record names its key, so every chunk can be opened at any moment.
 *
 * Returns: 0, or -1 with errno, and the old key is in force
 *          EBADMSG  a closed chunk was tampered with: free it
 *          ENOMEM   the pages of one cannot be locked
 *          EINVAL   nothing runs
 *          EACCES, ECANCELED as in the general rules, and what key_provider answers
 * Cost:    opening and closing every closed chunk.
 */
int secmalloc_rekey(void);

/**
 * secmalloc_lock - close every chunk, and keep the key only under this material
 *
 * Argon2id of the material and a random salt wraps the key, every chunk is closed, the key is
 * wiped.  The material is not kept.  Argon2id's work memory (256 MiB) is not locked.
 *
 * Returns: 0, or -1 with errno and nothing is locked; chunks already closed stay so
 *          EBUSY   a chunk is held
 *          EINVAL  the material is empty, or nothing runs
 *          ENOMEM  Argon2id's work memory, or as secmalloc_encrypt
 *          EACCES, ECANCELED as in the general rules
 * Threads: those inside a call finish it, or are refused with EACCES.
 * Cost:    0.7 s.
 */
int secmalloc_lock(const void *material, size_t len);

/**
 * secmalloc_unlock - undo secmalloc_lock; the chunks are still closed
 *
 * Returns: 0, or -1 with errno and it is still locked
 *          EPERM   other material
 *          EINVAL  the material is empty, or nothing is locked (in a forked child, say)
 *          ENOMEM  Argon2id's work memory
 *          ECANCELED as in the general rules
 */
int secmalloc_unlock(const void *material, size_t len);

/**
 * secmalloc_purge - destroy all keys and open chunks, for good until secmalloc_term
 *
 * Async-signal-safe: takes no lock and allocates nothing.  When it returns, all stored keys are
 * zero, so that what is closed cannot be opened by anybody, and so are open chunks, their protection
 * lifted.  A call in progress, which a signal interrupted or another thread is in, wipes what it
 * has in hand when it next runs and fails with ECANCELED.  Before init and after term it does
 * nothing.  A process that calls exit(3), or returns from main, is purged last of all.
 */
void secmalloc_purge(void);

/* --------------------------------------------------------- what is going on */

/** secmalloc_stats - fill in what both sides know, zero the rest of the caller's.
 * While nothing runs every field but struct_size and live_at_term is 0.  While other threads work
 * each field is true of some moment.  Returns: 0, or -1 with EINVAL: s NULL, struct_size too small. */
int secmalloc_stats(struct secmalloc_stats *s);

/** secmalloc_error - one line on the calling thread's last failure; "no error" before the first. */
const char *secmalloc_error(void);

/** secmalloc_version - the library's version, as SECMALLOC_VERSION. */
const char *secmalloc_version(void);

#ifdef __cplusplus
}
#endif

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#undef SECMALLOC_ALLOC
#undef SECMALLOC_RESIZE

#endif /* SECMALLOC_H */
