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
 *  - Checks come in this order: purged (ECANCELED), NULL or foreign pointer
 *    (EINVAL), locked (EACCES), the state of the chunk.
 *  - A child made by fork under SECMALLOC_FORK_WIPE has none of it: a pointer of the parent gives
 *    ECHILD for as long as the child lives (secmalloc_owns: 0), stats are as before init, and the
 *    child's first allocation starts the library anew with the parent's config, unless it calls
 *    secmalloc_init.  Call nothing here between vfork(2) and exec.
 *  - Nothing happens outside the library's own memory unless asked for: no rlimit, dumpable flag,
 *    signal handler or environment variable is touched, and nothing runs when the library is
 *    loaded.  Initialisation registers pthread_atfork(3) handlers, once.
 *  - "Page" is sysconf(_SC_PAGESIZE) bytes.  Sizes are bytes, times are ms.
 *
 * Calls and fields marked "not yet" are declared so that programs can be written against them;
 * in this version they fail with ENOTSUP, whatever the arguments.
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
#define SECMALLOC_HIDDEN 0x10u      /* memfd_secret(2): no reader but this process; the kernel
				     * erases the pages even on SIGKILL.  Such pages keep a
				     * machine from hibernating: one that is set up for it
				     * (/sys/power/resume) gets them only by `require` */
#define SECMALLOC_UNTRACEABLE 0x20u /* prctl(PR_SET_DUMPABLE, 0), process-wide: only when in
				     * `require`; stays in force after secmalloc_term */

/** Flags of secmalloc_config.flags. */
#define SECMALLOC_ISOLATE 0x01u      /* every chunk on pages of its own: see Placement */
#define SECMALLOC_TRANSPARENT 0x02u  /* chunks open when touched; not yet */
#define SECMALLOC_KEY_RESIDENT 0x04u /* keep the expanded key on its page, for speed */
#define SECMALLOC_NO_THREAD 0x08u    /* no helper thread; this version never starts one */

/** What a child made by fork gets: values of secmalloc_config.fork. */
enum secmalloc_fork {
	SECMALLOC_FORK_WIPE = 0, /* nothing; it may init anew */
	SECMALLOC_FORK_KEEP = 1  /* its own locked copy under a new key; not yet */
};

/** Values of secmalloc_config.cipher and secmalloc_stats.cipher. */
enum secmalloc_cipher {
	SECMALLOC_CIPHER_AUTO = 0,          /* AES-256-GCM where the CPU has it, else XChaCha20 */
	SECMALLOC_CIPHER_XCHACHA20POLY1305, /* everywhere */
	SECMALLOC_CIPHER_AES256GCM,         /* needs AES and CLMUL instructions */
	SECMALLOC_CIPHER_AEGIS256,          /* not yet */
	SECMALLOC_CIPHER_AEGIS128L          /* not yet */
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
	SECMALLOC_FAULT_OVERFLOW,        /* "overflow": the canary behind a chunk is damaged.
					  * Looked for by secfree, secrealloc and
					  * secmalloc_encrypt, as is the next: */
	SECMALLOC_FAULT_UNDERFLOW,       /* "underflow": the canary in front of it is */
	SECMALLOC_FAULT_WRITE_AFTER_FREE, /* "write after free": a free slot is no longer zero,
					   * seen when it is used again or its slab given back */
	SECMALLOC_FAULT_INTERNAL         /* "internal": an invariant of the library broke */
};

/**
 * struct secmalloc_config - what secmalloc_init is asked for
 *
 * Start from SECMALLOC_CONFIG_INIT; 0 in a field means its default.  Fields are
 * only ever appended; struct_size tells the library how many the caller knows.
 */
struct secmalloc_config {
	/** sizeof(struct secmalloc_config).  Smaller than the first release's: EINVAL.
	 *  Larger: fine while every byte this library does not know is 0, else EINVAL. */
	size_t struct_size;
	/** Bytes a pool, rounded up to pages; guard pages lie inside it, so a little less can be
	 *  handed out.  0: what may be locked, at most 1 MiB and at most half of RLIMIT_MEMLOCK
	 *  for all initial pools, but at least 4 pages.  An explicit size never shrinks.
	 *  Pools added later are elastic: unlocked, they hold only ciphertext and zeros, but
	 *  for pages that a clear chunk lies on, which are locked for just as long.  So
	 *  RLIMIT_MEMLOCK bounds what is clear at once, not what is kept.  Where LOCKED is in
	 *  `without` they are never locked; where HIDDEN is in `require`, always. */
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
	/** How often the key's halves are re-randomised, at the next use of the key.  0: 500. */
	unsigned resplit_ms;
	/** An open chunk closes by itself after this long.  0: never.  Not yet. */
	unsigned reseal_ms;
	/** Transparent mode: bytes that may be clear at once.  0: 1 MiB.  Not yet. */
	size_t clear_limit;
	/** Transparent mode: where ciphertext is kept.  NULL: in memory.  Not yet. */
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
	uint64_t reseals;          /* chunks closed by timer; not yet, 0 */
	uint64_t tampered;         /* openings refused with EBADMSG */
	uint64_t faults_served;    /* transparent mode; not yet, 0 */
	uint64_t live_at_term;     /* chunks live at the last secmalloc_term; until the next init */
	unsigned granted;          /* protection bits that held for every pool since init */
	unsigned cipher;           /* enum secmalloc_cipher in use */
	unsigned mode;             /* transparent mode's engine; not yet, 0 */
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
 *          ENOTSUP   a required protection, a cipher or a "not yet" field was refused; or the
 *                    kernel can't wipe a page on fork (Linux before 4.14), by which a child
 *                    knows itself
 *          EAGAIN    the kernel's random generator is not ready
 *          another   what the system call named in secmalloc_error() failed with
 * Threads: one at a time, and no other call meanwhile.
 * Cost:    about 4 ms for a hidden pool of 1 MiB, 0.5 ms for one that is only locked.
 */
int secmalloc_init(const struct secmalloc_config *c);

/**
 * secmalloc_term - wipe and unmap everything
 *
 * Live chunks too; their number is kept in live_at_term, their pointers are foreign from now on.
 * secmalloc_init may follow.
 *
 * Returns: 0, also when not running.
 * Threads: no other call meanwhile.
 */
int secmalloc_term(void);

/* ---------------------------------------------------------------- memory */

/*
 * Placement.  Packed: chunks up to 16 KiB share slabs with others of about their size, in
 * random order, a canary on both sides of each, a guard page on both sides of each slab.
 * Isolated (SECMALLOC_ISOLATE, and every larger chunk): pages of its own, whose end is the
 * chunk's, within its alignment, and a guard page behind, so that an overrun is SIGSEGV at
 * the access; a canary in front.
 *
 * Quarantine.  What is freed rests, wiped, before its address is used again, so that a late
 * second free or write is still found: packed, for at least 256 more frees of its size class
 * (and in random order among some 64); isolated, without access, for at least 256 more
 * isolated frees and 1 MiB of them, and the oldest address is used again first.  Rest ends
 * early when memory is not to be had otherwise, and for isolated chunks when 256 MiB rest, or
 * 1 MiB in later pools that are not elastic.
 *
 * Limits.  A guard in an elastic pool is a marker (MADV_GUARD_INSTALL, Linux 6.13) and costs
 * no mapping; elsewhere each costs two.  Pools and guards split mappings up to half of
 * vm.max_map_count, locked elastic pages up to a quarter; then it is ENOMEM with its name.
 * Beyond 64 later pools they become larger.
 */

/**
 * secmalloc - allocate a chunk of secure memory
 *
 * The bytes are zero, aligned to 16 and open (clear).  Size 0 gives a unique pointer
 * to no bytes.  It comes from the initial pools while they have room, then from elastic ones.
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

/**
 * secaligned_alloc - as secmalloc, aligned
 *
 * Args:    alignment  a power of two, at most a page
 * Returns: as secmalloc; EINVAL for another alignment.
 */
void *secaligned_alloc(size_t alignment, size_t size) SECMALLOC_RESIZE(2);

/**
 * secfree - wipe a chunk and give it back
 *
 * Open or closed; NULL does nothing.  Faults: DOUBLE_FREE, INVALID_FREE, OVERFLOW, UNDERFLOW.
 * Keeps errno.  In a child a parent's chunk is left alone.  Should the kernel refuse access to
 * the pages of a protected chunk, it stays live and secmalloc_error() says so.
 */
void secfree(void *ptr);

/** secstrdup, secstrndup - a copy of s, of at most n bytes, and a NUL.  NULL: EINVAL. */
char *secstrdup(const char *s);
char *secstrndup(const char *s, size_t n);

/**
 * secmalloc_read_fd - bytes of a descriptor, straight into a new open chunk
 *
 * Reads until the end or max bytes, never one more.  A zero byte follows them, which *len does
 * not count; the chunk has *len + 1 bytes.  No byte is ever anywhere else in the process.
 *
 * Returns: the chunk, or NULL with errno: EINVAL (max is 0, or len NULL), what read(2) says
 *          (EINTR is tried again), and as secmalloc; what was read is wiped.
 * Threads: no cancellation point.
 */
void *secmalloc_read_fd(int fd, size_t max, size_t *len);

/**
 * secmalloc_read_passphrase - ask for a line at the terminal, echo off, into a new open chunk
 *
 * Where there is no /dev/tty, from standard input without a prompt.  The line comes without its
 * newline, a zero byte behind it, in a chunk of max + 1 bytes.  As with readpassphrase(3), a
 * signal takes its course once the terminal was put back; after SIGTSTP the prompt comes again.
 *
 * Returns: the chunk, or NULL with errno
 *          EINVAL    max is 0, or prompt NULL
 *          EMSGSIZE  the line is longer than max: it was read to its end and dropped
 *          ENODATA   the end came before the first byte
 *          EINTR     a signal that the program handles came
 *          what read(2) says, and as secmalloc
 * Threads: the handlers of SIGALRM, HUP, INT, PIPE, QUIT, TERM, TSTP, TTIN and TTOU are replaced
 *          for as long; a second thread waits for the first; no cancellation point.
 */
char *secmalloc_read_passphrase(const char *prompt, size_t max);

/** secmalloc_free_at - secfree of the pointer in this variable.  NULL there is fine. */
void secmalloc_free_at(void *variable);

/** SECMALLOC_SCOPED - of a pointer variable: its chunk is freed where the variable's scope ends */
#if defined(__GNUC__)
#define SECMALLOC_SCOPED __attribute__((cleanup(secmalloc_free_at)))
#endif

/**
 * secmalloc_usable_size - exactly the size that was asked for
 *
 * Returns: the size; 0 for NULL; 0 with EINVAL for what is no live chunk (ECHILD: the parent's).
 */
size_t secmalloc_usable_size(const void *ptr);

/** secmalloc_owns - 1 if ptr is the start of a live chunk, else 0; never faults or fails. */
int secmalloc_owns(const void *ptr);

/**
 * secmalloc_protect - what the program may do with the pages of an isolated chunk
 *
 * Holds for the chunk open or closed; the library lifts it for its own work and restores it.
 * Should the kernel refuse that, the call fails with ENOMEM although its work is done, and the
 * chunk is SECMALLOC_READWRITE from then on.  secrealloc keeps it.
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
 * and nonce lie out of line.  The associated data binds address, size and generation, so a
 * flipped bit, two chunks swapped or older bytes put back are refused.  A closed chunk may be
 * read.  Writing it is tampering, found when it is opened.  Touch content only while no other
 * thread may close it: a write that overlaps a close loses the chunk (EBADMSG), and its bytes
 * may lie clear.
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

/**
 * secmalloc_encrypt_all, secmalloc_decrypt_all - every chunk they can
 *
 * Returns: 0, also when not running, or -1 with the errno of the first chunk that could
 *          not be closed or opened; the others are.
 */
int secmalloc_encrypt_all(void);
int secmalloc_decrypt_all(void);

/** secmalloc_is_encrypted - 1 closed, 0 open, -1 with EINVAL (ECHILD: the parent's). */
int secmalloc_is_encrypted(const void *ptr);

/**
 * secmalloc_hold - open a chunk and keep it open until it is released as often
 *
 * Until then encrypt, encrypt_all and a moving secrealloc answer EBUSY, so threads can share it.
 * secfree of a held chunk is a mistake, as of one in use, and ends the holds.
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

/** secmalloc_rekey - a new master key; closed chunks are carried over.  Not yet. */
int secmalloc_rekey(void);

/** secmalloc_lock - close everything and wrap the key under material.  Not yet. */
int secmalloc_lock(const void *material, size_t len);

/** secmalloc_unlock - undo secmalloc_lock.  Not yet. */
int secmalloc_unlock(const void *material, size_t len);

/** secmalloc_purge - destroy all keys and open chunks.  Not yet: it only sets errno to ENOTSUP. */
void secmalloc_purge(void);

/* --------------------------------------------------------- what is going on */

/**
 * secmalloc_stats - fill in what both sides know, zero the rest of the caller's
 *
 * Before init and after term every field but struct_size and live_at_term is 0.  Fields are read
 * one by one while other threads work: each is true of some moment.
 *
 * Returns: 0, or -1 with EINVAL: s is NULL or its struct_size is less than a size_t.
 */
int secmalloc_stats(struct secmalloc_stats *s);

/**
 * secmalloc_error - the cause and the cure of the calling thread's last failure
 *
 * Returns: one line without newline, valid until the thread's next failure; "no error"
 *          before the first.  Never NULL.
 */
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
