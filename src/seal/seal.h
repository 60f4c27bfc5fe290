/*
 * seal.h - when bytes are clear and when they are not. Floor 4; the only writer of a veil.
 *
 * Takes user pointers, finds and locks the record, and does one thing to the chunk. Calls that
 * can fail return 0 or an errno value with sm_error_text() set; each of them ECANCELED once
 * everything is purged, and EACCES where it would open or use a key while all is locked.
 */
#ifndef SM_SEAL_H
#define SM_SEAL_H

#include "base/base.h"

/** A new chunk, or why not; in registers. */
struct sm_got {
	void *ptr;
	int e; /* 0, or an errno value and ptr is NULL */
};

/**
 * sm_seal_alloc - a new open chunk
 *
 * Args:    align  a power of two, at most a page
 * Returns: ENOMEM.
 */
struct sm_got sm_seal_alloc(size_t size, size_t align);

/** sm_seal_copy - a new open chunk of these n bytes and a zero byte, known to nobody before */
struct sm_got sm_seal_copy(const void *from, size_t n);

/**
 * sm_seal_free - wipe and give back. Faults as secfree; a parent's chunk is left alone.
 *
 * Returns: 0; ENOMEM: a protected chunk that cannot be accessed stays live.
 */
int sm_seal_free(void *ptr);

/** sm_seal_realloc - as secrealloc, size not 0. ENOMEM, EBADMSG, EBUSY, ECHILD; faults. */
int sm_seal_realloc(void *ptr, size_t size, void **out);

/** sm_seal_close - encrypt in place. EINVAL, ECHILD, EBUSY, ENOMEM (protected pages). */
int sm_seal_close(void *ptr);

/** sm_seal_open - decrypt in place. EBADMSG, EINVAL, ECHILD, ENOMEM (protected pages). */
int sm_seal_open(void *ptr);

/** sm_seal_hold - open and count. EBADMSG, EINVAL, ECHILD, ENOMEM; EAGAIN: 65,535 times already. */
int sm_seal_hold(void *ptr);

/** sm_seal_release - undo one hold. EINVAL: not held; else as sm_seal_close. */
int sm_seal_release(void *ptr);

/** sm_seal_close_all, sm_seal_open_all - every chunk they can; the first errno value */
int sm_seal_close_all(void);
int sm_seal_open_all(void);

/** sm_seal_rekey - as secmalloc_rekey. EBADMSG, ENOMEM, a provider's: the old key is in force. */
int sm_seal_rekey(void);

/** sm_seal_lock, sm_seal_unlock - as secmalloc_lock and _unlock; n is not 0 */
int sm_seal_lock(const void *material, size_t n);
int sm_seal_unlock(const void *material, size_t n);

/**
 * sm_seal_shut - calls wait from now on
 *
 * Args:    former  where sm_seal_reopen is to lead: SM_UP or SM_LOCKED
 * Returns: 0; EAGAIN: somebody walks over all chunks, or changes keys: try again; ECANCELED.
 */
int sm_seal_shut(enum sm_state *former);

/** sm_seal_reopen - and no more. ECANCELED. */
int sm_seal_reopen(enum sm_state former);

struct sm_parcel;
/**
 * sm_seal_give - close every chunk, held ones too; the keys go to the parcel and are nowhere else
 *
 * Between shut and reopen. Without a pager nobody may touch a chunk meanwhile.
 *
 * Returns: 0; ENOMEM, EBUSY (pages are in use by the kernel), ECANCELED: all is open as it was.
 */
int sm_seal_give(struct sm_parcel *p);

/** sm_seal_get_back - undo that, with those keys. EBADMSG, EPROTO (other keys) and others: some
 * chunk is closed that was open. */
int sm_seal_get_back(const struct sm_parcel *p);

/** sm_seal_give_up - everything was purged since sm_seal_give: what was open is zero */
void sm_seal_give_up(void);

/** sm_seal_reseal - close what has been open for reseal_ms; returns ms until the next is due */
unsigned sm_seal_reseal(void);

/**
 * sm_seal_before_fork, sm_seal_after_fork - in the parent
 *
 * Where children keep what there is, everybody waits meanwhile, and it is packed. If it cannot be,
 * the child has nothing, and is to say so.
 */
void sm_seal_before_fork(void);
void sm_seal_after_fork(void);

/** sm_seal_was_shut - in the child: the parent meant it to keep what there was */
bool sm_seal_was_shut(void);

/** sm_seal_kept - in the child: the config that was packed with the rest; NULL: nothing is here */
const struct sm_config *sm_seal_kept(void);

/** sm_seal_revive - with that config in force: keys, heap and chunks; sm_heap_revived follows */
int sm_seal_revive(void);

/** sm_seal_undo - keys and chunks are wiped again */
void sm_seal_undo(void);

/** sm_seal_drop_kept - wipe what was packed */
void sm_seal_drop_kept(void);

/** sm_seal_purge - the same, async-signal-safe, inside sm_purge_enter */
void sm_seal_purge(void);

/** What is done to pages instead of to chunks, in transparent mode: handed in before start. */
struct sm_pager {
	int (*close)(void *ptr, size_t n);
	int (*open)(void *ptr, size_t n); /* EBADMSG, ENOMEM, EACCES, ECANCELED */
	int (*hold)(void *ptr, size_t n); /* the same */
	void (*release)(void *ptr, size_t n);
	int (*close_all)(void);
	int (*carry)(void); /* all to the key in force. EBADMSG, ENOMEM, EACCES, ECANCELED. */
	int (*lock)(void);  /* close all, and who touches a page waits. EBUSY: one stays open. */
	void (*unlock)(void);
	int (*halt)(void);   /* as lock, held pages too */
	int (*unhalt)(void); /* and those are open again. As open. */
	/* Around a fork, where children keep pages; what is below must hold still. */
	int (*pause)(void);   /* all is in the store, where a child finds it; as sm_key_lend, ENOMEM */
	void (*resume)(void); /* in the parent, also after a pause that failed */
	/* In the child, with its own key in force. */
	int (*revive)(void); /* before the heap has pools again. ENOMEM. */
	int (*serve)(void);  /* once it has. EAGAIN. */
	void (*undo)(void);  /* after either, or instead of them: nothing of it is left */
};
extern const struct sm_pager *sm_seal_pager; /* NULL: none */

/** sm_seal_orphan - in a forked child: nobody walks */
void sm_seal_orphan(void);

/** sm_seal_protect - as secmalloc_protect. EINVAL, ECHILD, ENOTSUP, ENOMEM. */
int sm_seal_protect(void *ptr, enum secmalloc_access a);

/** What sm_seal_ask tells of a chunk. */
struct sm_answer {
	size_t size;
	bool sealed;
};

/** sm_seal_ask - look at a chunk. EINVAL, ECHILD. */
int sm_seal_ask(const void *ptr, struct sm_answer *a);

#endif
