/*
 * inside.h - what the files of the daemon share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * One thread and a poll(2) loop; a second thread for as long as Argon2id takes. Whatever comes in
 * is handled in bounded steps, nothing waits for anybody but the loop itself. Keys and passphrases
 * are in chunks of the library, and only for as long as they are worked on; what stays while all is
 * locked is ciphertext and a public key.
 */
#ifndef SD_INSIDE_H
#define SD_INSIDE_H

#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <syslog.h>

#include "base/base.h"
#include "wire/wire.h"

enum {
	SD_HELLO_MS = 5000,   /* a connection that says nothing is dropped after this */
	SD_COUNT_MS = 300,    /* status waits so long for clients to count */
	SD_LEAVING_MS = 500, /* one that exits or calls exec(2) closes all within this */
	SD_DYING_MS = 1000,   /* and a lock so long for those that it has killed */
	SD_MESSAGES_MOST = 8, /* of one peer in one round */
	SD_QUEUE_MOST = 16,   /* packets that a client has not read */
	SD_SALT_BYTES = crypto_pwhash_argon2id_SALTBYTES,
	SD_SEALED_BYTES = SM_WIRE_PARCEL_BYTES + crypto_box_SEALBYTES
};

/* -------------------------------------------------------------------- clock, log */

/** sd_now - ms, of a clock that goes on in order */
int64_t sd_now(void);

/** sd_log_open - to syslog, or to standard error */
void sd_log_open(bool to_syslog);

/** sd_log - one line, without its newline; no secret may be in it */
void sd_log(int priority, const char *fmt, ...) SM_PRINTF(2, 3);

/* ----------------------------------------------------------------------- options */

enum { SD_PHRASE_ASK = -1, SD_PHRASE_NONE = -2 };

struct sd_options {
	const char *socket; /* NULL: the default */
	unsigned deadline_ms;
	enum sm_wire_policy policy;
	bool kill_late;
	bool foreground;
	bool to_syslog;
	int phrase_fd; /* or SD_PHRASE_ASK, SD_PHRASE_NONE */
};

/** sd_options_read - of the command line. Ends the process: 0 after --help, 2 on a mistake. */
void sd_options_read(int argc, char **argv, struct sd_options *o);

/* -------------------------------------------------------- service manager, process */

/** sd_service_socket - the socket it has bound for us; -1: none. EINVAL, logged: not such a one. */
int sd_service_socket(int *fd);

/** sd_service_tell - "READY=1" and the like, if it wants to know */
void sd_service_tell(const char *what);

/** sd_standard_fds - those of 0, 1 and 2 that were closed are not: what is written there goes to
 * nobody, and not to whoever got the number */
void sd_standard_fds(void);

/** sd_background - go on in a child; the parent ends once sd_background_done is told.
 * sd_background_detach - let the terminal, the session and the folder go */
void sd_background(void);
void sd_background_detach(void);
void sd_background_done(void);

/** sd_harden - no core, no tracer, as many descriptors as may be had */
void sd_harden(void);

/** sd_sandbox - from now on only what the loop needs. 0, or an errno value and nothing changed. */
int sd_sandbox(const char *folder);
extern const char sd_sandbox_name[];

/* ------------------------------------------------------------------------- phrase */

/** What stays of a passphrase. */
struct sd_seal {
	bool set;
	unsigned char salt[SD_SALT_BYTES];
	unsigned char public[crypto_box_PUBLICKEYBYTES];
};

/** What a passphrase gives; in a chunk, for as long as parcels are opened. */
struct sd_pair {
	unsigned char public[crypto_box_PUBLICKEYBYTES];
	unsigned char secret[crypto_box_SECRETKEYBYTES];
	unsigned char seed[crypto_box_SEEDBYTES];
};

/**
 * sd_derive_begin - Argon2id in a thread of its own; one at a time
 *
 * Args:    phrase  n bytes in a chunk that stays as it is until the end
 * Returns: 0; ENOMEM, EAGAIN.
 */
int sd_derive_begin(const unsigned char *phrase, size_t n, const unsigned char *salt);

/** sd_derive_fd - can be read when it is done; -1: none is under way */
int sd_derive_fd(void);

/** sd_derive_end - waits for the thread. 0 and the pair, to be freed by secfree; ENOMEM. */
int sd_derive_end(struct sd_pair **pair);

/** sd_seal_parcel, sd_open_parcel - to the public key, by the pair. sealed has n bytes more than
 * crypto_box_SEALBYTES. EBADMSG: not by this pair. */
int sd_seal_parcel(
	const struct sd_seal *s, const unsigned char *parcel, size_t n, unsigned char *sealed);
int sd_open_parcel(
	const struct sd_pair *pair, const unsigned char *sealed, size_t n, unsigned char *parcel);

/** sd_delay_ms - how long a wrong passphrase takes to be refused, after so many */
unsigned sd_delay_ms(unsigned wrong);

/** sd_phrase_start - the first passphrase, as the options say. 0, or an errno value, logged. */
int sd_phrase_start(int phrase_fd, struct sd_seal *s);

/* ------------------------------------------------------------------------ watcher */

/**
 * sd_watcher_begin - fork the other half; before there are threads, sockets or secrets
 *
 * It has a lifeline to each client too. When the daemon ends while it holds, it kills them all.
 */
int sd_watcher_begin(void);

int sd_watcher_fd(void);

/** sd_watcher_add - of the client id, whose pidfd this is. EAGAIN: later. Its end of the lifeline
 * comes with sd_watcher_take. */
int sd_watcher_add(uint32_t id, int pidfd);

/** sd_watcher_take - EAGAIN: nothing there; EPIPE: it has ended */
int sd_watcher_take(uint32_t *id, int *lifeline);

/** sd_watcher_hold - from now on (or no longer) clients die with us. EPIPE, ETIMEDOUT. */
int sd_watcher_hold(bool on);

/** sd_kill - SIGKILL to just this process. ESRCH: gone; EPERM: another user's by now. */
int sd_kill(int pidfd, pid_t pid);

/* -------------------------------------------------------------------------- peers */

enum sd_stage {
	SD_KNOCKING, /* connected, has not said hello */
	SD_WAITING,  /* a client; for its lifelines, or until all is unlocked */
	SD_OPEN,
	SD_LOCKING,   /* LOCK was sent */
	SD_LOCKED,    /* its parcel is here, sealed */
	SD_UNLOCKING, /* UNLOCK was sent, DONE is to come */
	SD_PURGING,
	SD_PURGED,
	SD_DROPPED,  /* to hang up */
	SD_DYING,    /* was sent SIGKILL; watched by its pidfd */
	SD_LEAVING,   /* hung up while it was told to lock; watched by its lifeline */
	SD_ASKING,   /* a control, said hello */
	SD_ASKED,    /* its question waits for its turn */
	SD_COUNTING, /* status: clients count */
	SD_WORKED,   /* its question is being worked on */
	SD_REFUSED,  /* a wrong passphrase; told so later */
	SD_ANSWERED  /* until all is sent */
};

struct sd_packet {
	struct sd_packet *next;
	bool secret;              /* in a chunk */
	struct sm_wire_message m; /* as much of it as is used */
};

struct sd_peer {
	int fd;
	struct sm_wire_peer who;
	enum sd_stage stage;
	bool gone;        /* swept at the end of the round */
	bool unreachable; /* of another user by now */
	bool told_watcher;
	bool settles; /* locked, and asked to count: when it answers, its own copy of its keys is wiped */
	char name[SM_WIRE_NAME_BYTES];
	uint32_t id;   /* for the watcher, and the order of questions */
	int lifeline;  /* the end that is held; -1 */
	int watched;   /* the watcher's, until it is sent; -1 */
	int64_t until; /* of stages that end by themselves; 0: never */
	uint32_t locked_serial, done_serial, purged_serial, count_serial; /* owed; 0: not */
	struct sm_wire_tally tally;
	uint32_t parcel_bytes; /* of the parcel in sealed; 0: none */
	unsigned char sealed[SD_SEALED_BYTES];
	struct sd_packet *first, *last;
	size_t queued;
	struct sm_wire_message *ask; /* in a chunk, closed while it waits; NULL */
};

enum sd_kind { SD_NOTHING, SD_LOCK, SD_UNLOCK, SD_PURGE };

/** What all clients were told to do; one thing at a time. */
struct sd_job {
	enum sd_kind kind;
	bool last_wait; /* for those that were killed */
	uint32_t serial;
	int64_t began, until;
	unsigned told, done, killed, late, failed;
	struct sd_peer *asker; /* NULL: it went away */
};

/** All there is. */
struct sd {
	struct sd_options o;
	struct sd_peer **peers;
	size_t n, room;
	int listener, signals;
	int64_t deaf_until; /* no descriptors left: nobody is let in before */
	uint32_t serial, ids;
	bool locked; /* from LOCK on until all was told to unlock */
	bool again; /* something has begun or ended: look once more before waiting */
	bool ends, sandboxed;
	struct sd_seal own, now; /* given at start or by passwd; of this lock */
	struct sd_job job;
	struct sd_peer *deriver;        /* whose passphrase it is; NULL: none, or gone */
	struct sm_wire_message *phrase; /* his question, now ours; NULL: none */
	struct sd_seal next;            /* salt of what is being derived */
	bool second;                    /* passwd: the new one is */
	unsigned wrong;
	int64_t barred_until;             /* no passphrase is tried before */
	struct sm_wire_message *in, *out; /* chunks; wiped after each message */
};
extern struct sd sd;

/** sd_peers_accept - whoever knocks, up to a bound */
void sd_peers_accept(void);

/** sd_peer_send - the message, now or when the peer reads; wiped afterwards if it has a parcel */
void sd_peer_send(struct sd_peer *p, struct sm_wire_message *m);

/** sd_peer_flush - what was left */
void sd_peer_flush(struct sd_peer *p);

/** sd_peer_lose - no longer; killed if something of it is locked. why NULL: it left by itself, and
 * is killed only if it goes on running */
void sd_peer_lose(struct sd_peer *p, const char *why);

/** sd_peer_left - of one that hung up in the middle it is known now whether it is still there */
void sd_peer_left(struct sd_peer *p, bool still_there);

/** sd_peer_kill - SIGKILL; false: it is out of reach */
bool sd_peer_kill(struct sd_peer *p);

/** sd_peer_is_deaf - nothing is said to it any more, or heard of it */
bool sd_peer_is_deaf(const struct sd_peer *p);

/** sd_peer_is_client, sd_peer_is_held - it said hello as one; it must not outlive us */
bool sd_peer_is_client(const struct sd_peer *p);
bool sd_peer_is_held(const struct sd_peer *p);

/** sd_peers_sweep - close and free those that are gone */
void sd_peers_sweep(void);

/** sd_peer_hear - what it sent, up to a bound */
void sd_peer_hear(struct sd_peer *p);

/** sd_peer_time - its time has come */
void sd_peer_time(struct sd_peer *p);

/** sd_clients_admit - those that wait, if they may */
void sd_clients_admit(void);

/** sd_watcher_news - lifelines that came */
void sd_watcher_news(void);

/* --------------------------------------------------------------------------- jobs */

/** sd_job_lock, sd_job_unlock, sd_job_purge - tell all clients. pair: opens the parcels. */
void sd_job_lock(struct sd_peer *asker, const struct sd_seal *s);
void sd_job_unlock(struct sd_peer *asker, const struct sd_pair *pair);
void sd_job_purge(struct sd_peer *asker);

/** sd_job_look - is it done, or is it too late? */
void sd_job_look(int64_t now);

/** sd_client_locked, sd_client_settled, sd_client_done - it answered */
void sd_client_locked(struct sd_peer *p, struct sm_wire_message *m);
void sd_client_settled(struct sd_peer *p);
void sd_client_done(struct sd_peer *p, const struct sm_wire_message *m);

/* ---------------------------------------------------------------------- questions */

/** sd_question_take - it asked */
void sd_question_take(struct sd_peer *p, const struct sm_wire_message *m);

/** sd_questions_look - begin those whose turn it is, end those that are done */
void sd_questions_look(int64_t now);

/** sd_answer - and hang up; p may be NULL */
void sd_answer(struct sd_peer *p, int error, const char *fmt, ...) SM_PRINTF(3, 4);

/** sd_count - ask it to count */
void sd_count(struct sd_peer *p);

/** sd_status_look - if all have counted, or now is too late to wait: show */
void sd_status_look(struct sd_peer *p, int64_t now);
void sd_status_begin(struct sd_peer *p);

/* --------------------------------------------------------------------------- loop */

/** sd_loop - until the end. Returns: the exit status. */
int sd_loop(void);

/** sd_doom - purge, kill what is locked, and end */
_Noreturn void sd_doom(const char *why);

#endif
