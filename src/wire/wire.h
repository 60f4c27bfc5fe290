/*
 * wire.h - messages between the daemon, its clients and its remote control. Floor 1, beside os.
 *
 * Knows no keys and no memory: what they send each other of those is a parcel of bytes here.
 *
 * One socket of SOCK_SEQPACKET in a folder of the user's alone. Each message is one packet: a head
 * and the body of its type, of exactly the length that the table in message.c gives, in the byte
 * order of the machine. The table is the protocol:
 *
 *	client   HELLO                          first, and once
 *	daemon   WELCOME + 2 lifelines          when it may run; while all is locked, not before unlock
 *	daemon   LOCK, client LOCKED            with its keys, once nothing is readable; its copy
 *	                                        of them is wiped before it hears the next word
 *	daemon   UNLOCK, client DONE            with those keys; then all goes on
 *	daemon   PURGE, client DONE             also while it is locked: its keys are gone for good
 *	daemon   COUNT, client TALLY
 *	daemon   DROP                           the client is on its own from now on
 *	control  HELLO, ASK                     one question a connection
 *	daemon   ROW for each client, ANSWER
 *
 * A serial goes with each question, and with its answer: what answers another one is refused.
 */
#ifndef SM_WIRE_H
#define SM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	SM_WIRE_VERSION = 1,
	SM_WIRE_MAGIC = 0x736d7731, /* "smw1" */
	SM_WIRE_NAME_BYTES = 32,    /* of a program, with the zero byte */
	SM_WIRE_PARCEL_BYTES = 128, /* the keys of a client, as it packed them */
	SM_WIRE_PHRASE_BYTES = 512, /* the longest passphrase */
	SM_WIRE_TEXT_BYTES = 256,
	SM_WIRE_LIFELINES = 2, /* descriptors that come with WELCOME: the daemon's, the watcher's */
	SM_WIRE_FDS_MOST = 4
};

enum sm_wire_type {
	SM_WIRE_HELLO = 1,
	SM_WIRE_WELCOME,
	SM_WIRE_LOCK,
	SM_WIRE_LOCKED,
	SM_WIRE_UNLOCK,
	SM_WIRE_DONE,
	SM_WIRE_PURGE,
	SM_WIRE_COUNT,
	SM_WIRE_TALLY,
	SM_WIRE_DROP,
	SM_WIRE_ASK,
	SM_WIRE_ROW,
	SM_WIRE_ANSWER,
	SM_WIRE_TYPES
};

/** Who sent it; a bit each. */
enum sm_wire_role { SM_WIRE_CLIENT = 1, SM_WIRE_CONTROL = 2, SM_WIRE_DAEMON = 4 };

/** What a client does when the daemon or its watcher dies. While locked it dies in any case. */
enum sm_wire_policy { SM_WIRE_DIE, SM_WIRE_CARRY_ON, SM_WIRE_POLICIES };

/** What a client is in. */
enum sm_wire_state {
	SM_WIRE_OPEN,
	SM_WIRE_IS_LOCKED,
	SM_WIRE_IS_PURGED,
	SM_WIRE_BUSY, /* between the two; or it has not said hello */
	SM_WIRE_STATES
};

enum sm_wire_command {
	SM_WIRE_STATUS,
	SM_WIRE_DO_LOCK,   /* phrase_bytes 0: the passphrase given at start */
	SM_WIRE_DO_UNLOCK, /* phrase */
	SM_WIRE_DO_PURGE,
	SM_WIRE_PASSWD, /* phrase: the old one; fresh */
	SM_WIRE_DO_DROP, /* pid */
	SM_WIRE_COMMANDS
};

struct sm_wire_head {
	uint32_t magic;
	uint16_t version;
	uint16_t type;	/* enum sm_wire_type */
	uint32_t bytes; /* of the whole message */
	uint32_t serial;
};

struct sm_wire_hello {
	uint32_t role; /* SM_WIRE_CLIENT or SM_WIRE_CONTROL */
	char name[SM_WIRE_NAME_BYTES]; /* ends with a zero byte, as every text here */
};

struct sm_wire_welcome {
	uint32_t policy; /* enum sm_wire_policy */
};

struct sm_wire_lock {
	uint32_t deadline_ms;
};

struct sm_wire_parcel { /* of LOCKED and UNLOCK */
	uint32_t error; /* 0, or an errno value and there are no bytes */
	uint32_t bytes;
	unsigned char parcel[SM_WIRE_PARCEL_BYTES];
};

struct sm_wire_done {
	uint32_t error; /* 0 or an errno value */
};

struct sm_wire_tally { /* of TALLY, and part of a ROW */
	uint64_t bytes, bytes_clear, chunks, chunks_closed;
	uint32_t state; /* enum sm_wire_state */
	uint32_t none;	/* 0 */
};

struct sm_wire_ask {
	uint32_t command; /* enum sm_wire_command */
	int32_t pid;
	uint32_t phrase_bytes, fresh_bytes;
	unsigned char phrase[SM_WIRE_PHRASE_BYTES], fresh[SM_WIRE_PHRASE_BYTES];
};

struct sm_wire_row {
	struct sm_wire_tally tally;
	int32_t pid;
	uint32_t none; /* 0 */
	char name[SM_WIRE_NAME_BYTES];
};

struct sm_wire_answer {
	uint32_t error; /* 0 or an errno value */
	uint32_t locked; /* 1: all is locked; else 0 */
	char text[SM_WIRE_TEXT_BYTES]; /* a line for a person */
};

/** A message as it goes over the wire; how much of it does, head.bytes says. */
struct sm_wire_message {
	struct sm_wire_head head;
	union {
		struct sm_wire_hello hello;
		struct sm_wire_welcome welcome;
		struct sm_wire_lock lock;
		struct sm_wire_parcel locked, unlock;
		struct sm_wire_done done;
		struct sm_wire_tally tally;
		struct sm_wire_ask ask;
		struct sm_wire_row row;
		struct sm_wire_answer answer;
	};
};

/* ---------------------------------------------------------------- messages */

/** sm_wire_name - of a type, for a log; "?" */
const char *sm_wire_name(unsigned type);

/** sm_wire_begin - zero but for the head of this type */
void sm_wire_begin(struct sm_wire_message *m, enum sm_wire_type type, uint32_t serial);

/**
 * sm_wire_check - may this one be believed?  Pure; reads n bytes at most.
 *
 * Args:    n     bytes that came; more than a message holds: cut off, and refused
 *          from  whose they are
 *          fds   descriptors that came with them
 *          why   what is wrong, in a few words; may be NULL
 * Returns: 0; EPROTO.
 */
int sm_wire_check(const struct sm_wire_message *m, size_t n, enum sm_wire_role from, size_t fds,
	const char **why);

/* ------------------------------------------------------------- descriptors */

/** What came with a message. */
struct sm_wire_from {
	pid_t pid; /* who sent it, says the kernel; 0: it does not (a socket of sm_wire_connect) */
	size_t n;  /* bytes; 0: the other end is closed */
	size_t fds;
	int fd[SM_WIRE_FDS_MOST]; /* close-on-exec; the caller's to close */
};

/** What the kernel says of the other end. */
struct sm_wire_peer {
	pid_t pid;
	uid_t uid;
	int pidfd; /* -1: this kernel has none */
};

/**
 * sm_wire_path - where the socket is
 *
 * Args:    path  as the user gave it; NULL or "": $XDG_RUNTIME_DIR/secmalloc/daemon, or below
 *                /run/user/UID where that is not set, or where the program is set-uid
 * Returns: 0; ENAMETOOLONG: more than a socket's address holds.
 */
int sm_wire_path(const char *path, char *to, size_t bytes);

/**
 * sm_wire_listen - a socket there, in a folder of mode 0700 that is made if need be
 *
 * A socket that nobody listens at is taken away first.
 *
 * Returns: 0; EADDRINUSE: somebody listens; EACCES: the folder is another's, or open to others; or
 * what the kernel says.
 */
int sm_wire_listen(const char *path, int *fd);

/** sm_wire_adopt - make ready a socket that another has bound. EINVAL: it is not such a socket. */
int sm_wire_adopt(int fd);

/** sm_wire_accept - the next who knocks. EACCES: another user's, closed; EAGAIN: nobody. */
int sm_wire_accept(int fd, int *client, struct sm_wire_peer *peer);

/** sm_wire_connect - ECONNREFUSED, ENOENT: no daemon; EACCES: it is another user's */
int sm_wire_connect(const char *path, int *fd);

/**
 * sm_wire_send - one message whole, with these descriptors; never a signal
 *
 * Returns: 0; EAGAIN: the other side does not read (of a socket that does not block); EPIPE.
 */
int sm_wire_send(int fd, const struct sm_wire_message *m, const int *fds, size_t nfds);

/** sm_wire_receive - one message, not checked. EAGAIN, ECONNRESET; on error no descriptor came. */
int sm_wire_receive(int fd, struct sm_wire_message *m, struct sm_wire_from *from);

/** sm_wire_close_fds - those that came with it */
void sm_wire_close_fds(struct sm_wire_from *from);

/**
 * sm_wire_arm - from now on this process is killed when the other end of the pipe closes
 *
 * A pipe for each process: whose it is lies in the open file, which all who share it share.
 *
 * Returns: 0; EPIPE: it is closed already.
 */
int sm_wire_arm(int fd);

/** sm_wire_disarm - and no more */
void sm_wire_disarm(int fd);

/**
 * sm_wire_await - until one of these can be read, or its other end is closed
 *
 * Args:    ms        0: as long as it takes
 *          readable  a bit each, the first is bit 0
 * Returns: 0; ETIMEDOUT.
 */
int sm_wire_await(const int *fds, size_t n, unsigned ms, unsigned *readable);

#endif
