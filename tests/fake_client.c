/*
 * fake_client.c - speaks the protocol without the library: well, or in a way that it should not
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	fake_client SOCKET MODE [NUMBER]
 *
 * good: answers all; its keys are random bytes, which must come back as they were. The other modes
 * are told at their functions. Events go to standard output, a word a line.
 */
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEYS_BYTES = 96 };

static const char *path, *mode;
static int number, sock = -1, lifeline[SM_WIRE_LIFELINES] = { -1, -1 };
static unsigned char keys[KEYS_BYTES], kept[KEYS_BYTES]; /* as they are; as they were */
static uint32_t policy;
static struct sm_wire_message m;

static void
say(const char *word)
{
	dprintf(STDOUT_FILENO, "%s\n", word);
}

static void
put(enum sm_wire_type type, uint32_t serial)
{
	sm_wire_begin(&m, type, serial);
}

static void
send_it(void)
{
	if (sm_wire_send(sock, &m, NULL, 0)) {
		say("unsent");
		exit(4);
	}
}

static void
connect_it(void)
{
	int e = EAGAIN;

	for (int i = 0; i < 500 && (e == EAGAIN || e == ECONNREFUSED); i++) {
		e = sm_wire_connect(path, &sock);
		if (e)
			usleep(10000);
	}
	if (e) {
		fprintf(stderr, "fake_client: %s: %s\n", path, strerror(e));
		exit(5);
	}
}

static void
hello(void)
{
	put(SM_WIRE_HELLO, 0);
	m.hello.role = SM_WIRE_CLIENT;
	snprintf(m.hello.name, sizeof(m.hello.name), "fake %s", mode);
	send_it();
}

/* Exits when the daemon is gone, as its policy says. */
static void
next(void)
{
	struct sm_wire_from from;
	int e = sm_wire_receive(sock, &m, &from);

	if (e || from.n == 0) {
		say("hungup");
		if (policy == SM_WIRE_CARRY_ON)
			for (;;)
				pause();
		raise(SIGKILL);
	}
	if (sm_wire_check(&m, from.n, SM_WIRE_DAEMON, from.fds, NULL)) {
		say("nonsense");
		exit(6);
	}
	if (m.head.type == SM_WIRE_WELCOME) {
		policy = m.welcome.policy;
		memcpy(lifeline, from.fd, sizeof(lifeline));
	}
}

static void
arm(bool on)
{
	for (int i = 0; i < SM_WIRE_LIFELINES; i++) {
		int fd = lifeline[i];

		if (fcntl(fd, F_SETOWN, getpid()) || fcntl(fd, F_SETSIG, SIGKILL) ||
			fcntl(fd, F_SETFL, on ? O_ASYNC : 0)) {
			say("unarmed");
			exit(7);
		}
	}
}

/* ------------------------------------------------------------------------- well done */

static void
fill_locked(uint32_t serial)
{
	put(SM_WIRE_LOCKED, serial);
	m.locked.bytes = sizeof(keys);
	memcpy(m.locked.parcel, keys, sizeof(keys));
}

static void
lock(uint32_t serial)
{
	arm(true);
	fill_locked(serial);
	memset(keys, 0, sizeof(keys));
	send_it();
	say("locked");
}

static void
unlock(void)
{
	uint32_t serial = m.head.serial;

	memcpy(keys, m.unlock.parcel, sizeof(keys));
	say(m.unlock.bytes == sizeof(keys) && memcmp(keys, kept, sizeof(keys)) == 0 ? "unlocked"
										    : "CHANGED");
	arm(false);
	put(SM_WIRE_DONE, serial);
	send_it();
}

static void
count(void)
{
	put(SM_WIRE_TALLY, m.head.serial);
	m.tally.bytes = 4096;
	m.tally.bytes_clear = 1024;
	m.tally.chunks = 4;
	m.tally.chunks_closed = 3;
	send_it();
}

static void
answer(void)
{
	switch (m.head.type) {
	case SM_WIRE_WELCOME:
		say("welcome");
		break;
	case SM_WIRE_LOCK:
		lock(m.head.serial);
		break;
	case SM_WIRE_UNLOCK:
		unlock();
		break;
	case SM_WIRE_PURGE:
		arm(false);
		put(SM_WIRE_DONE, m.head.serial);
		send_it();
		say("purged");
		break;
	case SM_WIRE_COUNT:
		count();
		break;
	case SM_WIRE_DROP:
		say("dropped");
		exit(0);
	}
}

/* Keys that a scanner of memory can look for. */
static void
tell_keys(void)
{
	char hex[2 * KEYS_BYTES + 1];

	for (size_t i = 0; i < KEYS_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", keys[i]);
	dprintf(STDOUT_FILENO, "keys %s\n", hex);
}

static void
good(void)
{
	tell_keys();
	hello();
	for (;;) {
		next();
		answer();
	}
}

/* --------------------------------------------------------------------------- otherwise */

/* Up to the LOCK, whose serial it returns. */
static uint32_t
until_lock(void)
{
	hello();
	for (;;) {
		next();
		if (m.head.type == SM_WIRE_LOCK)
			return m.head.serial;
		answer();
	}
}

static void
stay(void)
{
	for (;;)
		next();
}

/* Locks itself so many ms late, each time. */
static void
late(void)
{
	hello();
	for (;;) {
		next();
		if (m.head.type == SM_WIRE_LOCK) {
			uint32_t serial = m.head.serial;

			usleep((useconds_t)number * 1000);
			lock(serial);
		} else {
			answer();
		}
	}
}

/* Run by root: connects as the user of that number, and becomes root again. */
static void
escape(void)
{
	if (seteuid((uid_t)number))
		exit(9);
	connect_it();
	hello();
	next();
	answer();
	if (seteuid(0))
		exit(9);
	stay();
}

static void
on_lock(void)
{
	uint32_t serial = until_lock();

	if (strcmp(mode, "leave") == 0)
		exit(0);
	if (strcmp(mode, "hangup") == 0) { /* but goes on running */
		close(sock);
		for (;;)
			pause();
	}
	if (strcmp(mode, "exec") == 0) { /* another program, with nothing of this one */
		say("exec");
		execlp("sleep", "sleep", "60", (char *)NULL);
		exit(10);
	}
	if (strcmp(mode, "stop") == 0)
		raise(SIGSTOP);
	if (strcmp(mode, "error") == 0) {
		put(SM_WIRE_LOCKED, serial);
		m.locked.error = ENOMEM;
		send_it();
	} else if (strcmp(mode, "forked") == 0) {
		fill_locked(serial);
		if (fork() == 0) {
			send_it();
			_exit(0);
		}
	} else if (strcmp(mode, "wrong") == 0) {
		fill_locked(serial + 1);
		send_it();
	} else if (strcmp(mode, "replay") == 0) {
		fill_locked(serial);
		send_it();
		send_it();
	} /* mute: nothing */
	stay();
}

static void
from_start(void)
{
	if (strcmp(mode, "twice") == 0) {
		hello();
		hello();
	} else if (strcmp(mode, "early") == 0) {
		fill_locked(1);
		send_it();
	} else if (strcmp(mode, "garbage") == 0) {
		getrandom(&m, sizeof(m), 0);
		m.head.bytes = sizeof(m);
		send_it();
	} else if (strcmp(mode, "short") == 0) {
		put(SM_WIRE_HELLO, 0);
		m.head.bytes = 8;
		send_it();
	} else if (strcmp(mode, "long") == 0) {
		static char big[65536];

		if (write(sock, big, sizeof(big)) < 0)
			say("unsent");
	} else if (strcmp(mode, "empty") == 0) {
		if (send(sock, "", 0, 0))
			say("unsent");
	} else if (strcmp(mode, "flood") == 0) {
		hello();
		for (;;) {
			put(SM_WIRE_TALLY, 1);
			if (sm_wire_send(sock, &m, NULL, 0))
				break;
		}
	} /* silent: nothing */
	stay();
}

static void
one(void)
{
	static const char *const later[] = { "leave", "hangup", "exec", "stop", "error", "forked", "wrong",
		"replay", "mute" };

	if (strcmp(mode, "escape") == 0)
		escape();
	connect_it();
	getrandom(keys, sizeof(keys), 0);
	memcpy(kept, keys, sizeof(keys));
	if (strcmp(mode, "good") == 0)
		good();
	if (strcmp(mode, "late") == 0)
		late();
	for (size_t i = 0; i < sizeof(later) / sizeof(*later); i++)
		if (strcmp(mode, later[i]) == 0)
			on_lock();
	from_start();
}

/* good, so many times. */
static void
many(void)
{
	int status, bad = 0;

	mode = "good";
	for (int i = 0; i < number; i++)
		if (fork() == 0)
			one();
	while (wait(&status) > 0)
		bad += !WIFSIGNALED(status);
	exit(bad ? 8 : 0);
}

int
main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	path = argv[1];
	mode = argv[2];
	number = argc > 3 ? atoi(argv[3]) : 0;
	if (strcmp(mode, "many") == 0)
		many();
	one();
	return 0;
}
