/*
 * fuzz_daemon.c - clients and controls that say anything, in any order
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	fuzz_daemon SOCKET SECONDS [SEED]
 *
 * Each conversation is a process of its own, as the daemon may kill it. Fails if the daemon can no
 * longer be reached.
 */
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { AT_ONCE = 6, WORDS = 40 };

static uint64_t seed = 1;
static struct sm_wire_message m, heard;
static int sock;
static uint32_t serial; /* of the last question heard */

static uint32_t
chance(uint32_t of)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % of;
}

static void
fill_any(void)
{
	unsigned char *p = (unsigned char *)&m;

	for (size_t i = 0; i < sizeof(m); i++)
		p[i] = (unsigned char)chance(256);
}

static void
fill_body(enum sm_wire_type type)
{
	switch (type) {
	case SM_WIRE_HELLO:
		m.hello.role = 1 + chance(2);
		strcpy(m.hello.name, "fuzz");
		break;
	case SM_WIRE_LOCKED:
		m.locked.bytes = chance(SM_WIRE_PARCEL_BYTES + 2);
		m.locked.error = chance(8) ? 0 : chance(200);
		break;
	case SM_WIRE_DONE:
		m.done.error = chance(8) ? 0 : chance(200);
		break;
	case SM_WIRE_TALLY:
		m.tally.state = chance(SM_WIRE_STATES);
		m.tally.chunks = chance(1000);
		break;
	case SM_WIRE_ASK:
		m.ask.command = chance(SM_WIRE_COMMANDS + 1);
		m.ask.phrase_bytes = chance(2) ? 1 : chance(SM_WIRE_PHRASE_BYTES + 2);
		m.ask.fresh_bytes = chance(2) ? 1 : chance(SM_WIRE_PHRASE_BYTES + 2);
		m.ask.pid = chance(2) ? getpid() : (int32_t)chance(1000);
		m.ask.phrase[0] = m.ask.fresh[0] = 'x';
		if (chance(2)) { /* what the tests begin with */
			memcpy(m.ask.phrase, "secret", 6);
			m.ask.phrase_bytes = 6;
		}
		break;
	default:
		break;
	}
}

static void
send_raw(const void *bytes, size_t n, bool with_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} c = { .bytes = { 0 } };
	struct iovec v = { (void *)(uintptr_t)bytes, n };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1 };

	if (with_fds) {
		size_t fds = 1 + chance(8);

		c.align = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(fds * sizeof(int)) };
		h.msg_control = c.bytes;
		h.msg_controllen = CMSG_SPACE(fds * sizeof(int)); /* of standard input, many times */
	}
	if (sendmsg(sock, &h, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN &&
		errno != EMSGSIZE)
		_exit(0); /* sent away */
}

/* Mostly one that could be right here. */
static void
say_something(void)
{
	static char big[70000];
	unsigned type = 1 + chance(SM_WIRE_TYPES - 1);
	uint32_t bytes;

	if (chance(20) == 0) {
		fill_any();
		send_raw(&m, chance(sizeof(m) + 1), chance(4) == 0);
		return;
	}
	if (chance(50) == 0) {
		send_raw(big, chance(sizeof(big)), false);
		return;
	}
	sm_wire_begin(&m, type, chance(4) ? serial : chance(100));
	fill_body(type);
	bytes = m.head.bytes;
	for (uint32_t n = chance(4) ? 0 : chance(6); n; n--)
		((unsigned char *)&m)[chance(chance(2) ? 24 : bytes)] ^= 1u << chance(8);
	send_raw(&m, chance(16) ? bytes : chance(sizeof(m)), chance(16) == 0);
}

/* The answer that is wanted, most times. */
static void
hear_something(void)
{
	static const unsigned char answers[SM_WIRE_TYPES] = { [SM_WIRE_LOCK] = SM_WIRE_LOCKED,
		[SM_WIRE_UNLOCK] = SM_WIRE_DONE, [SM_WIRE_PURGE] = SM_WIRE_DONE,
		[SM_WIRE_COUNT] = SM_WIRE_TALLY };
	struct pollfd p = { sock, POLLIN, 0 };
	struct sm_wire_from from;
	unsigned type;

	if (poll(&p, 1, (int)chance(20)) <= 0)
		return;
	if (sm_wire_receive(sock, &heard, &from) || from.n == 0)
		_exit(0);
	sm_wire_close_fds(&from);
	serial = heard.head.serial;
	type = heard.head.type < SM_WIRE_TYPES ? answers[heard.head.type] : 0;
	if (type && chance(8)) {
		sm_wire_begin(&m, type, serial);
		fill_body(type);
		send_raw(&m, m.head.bytes, false);
	}
}

static void
begin_well(void)
{
	unsigned role = 1 + chance(2);

	sm_wire_begin(&m, SM_WIRE_HELLO, 0);
	strcpy(m.hello.name, "fuzz");
	m.hello.role = role;
	send_raw(&m, m.head.bytes, false);
	if (role == SM_WIRE_CONTROL && chance(4)) {
		sm_wire_begin(&m, SM_WIRE_ASK, 1);
		fill_body(SM_WIRE_ASK);
		send_raw(&m, m.head.bytes, false);
	}
}

static void
talk(const char *path)
{
	alarm(20); /* whoever waits for an unlock that does not come */
	if (sm_wire_connect(path, &sock))
		_exit(0);
	if (chance(8))
		begin_well();
	for (uint32_t words = chance(WORDS); words; words--) {
		hear_something();
		if (chance(6) == 0)
			say_something();
	}
	_exit(0);
}

/* Locked or not, it answers. */
static int
is_there(const char *path)
{
	struct sm_wire_from from;
	struct timeval patience = { 10, 0 };
	int e = sm_wire_connect(path, &sock);

	if (e == 0) {
		setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		sm_wire_begin(&m, SM_WIRE_HELLO, 0);
		m.hello.role = SM_WIRE_CONTROL;
		e = sm_wire_send(sock, &m, NULL, 0);
		sm_wire_begin(&m, SM_WIRE_ASK, 1);
		e = e ? e : sm_wire_send(sock, &m, NULL, 0);
		do
			e = e ? e : sm_wire_receive(sock, &m, &from);
		while (e == 0 && from.n && m.head.type == SM_WIRE_ROW);
		if (e == 0 && (from.n == 0 || m.head.type != SM_WIRE_ANSWER))
			e = EPROTO;
		close(sock);
	}
	if (e)
		fprintf(stderr, "fuzz_daemon: it does not answer: %s\n", strerror(e));
	return e;
}

int
main(int argc, char **argv)
{
	time_t end;
	unsigned talks = 0;

	if (argc < 3)
		return 2;
	end = time(NULL) + atoi(argv[2]);
	seed = argc > 3 ? strtoull(argv[3], NULL, 10) | 1 : 1;
	for (unsigned now = 0; time(NULL) < end || now > 0;) {
		if (time(NULL) < end && now < AT_ONCE) {
			pid_t child = fork();

			if (child == 0)
				talk(argv[1]);
			chance(2);
			now += child > 0;
			talks++;
			if (talks % 500 == 0 && is_there(argv[1]))
				return 1;
			continue;
		}
		if (wait(NULL) > 0)
			now--;
	}
	printf("%u conversations\n", talks);
	return is_there(argv[1]) ? 1 : 0;
}
