/*
 * check_wire.c - the room wire: each type, each length, each field; and packets with descriptors
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Environment: SECMALLOC_FUZZ_SECONDS, of random messages (2).
 */
#include "contract.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "wire/wire.h"

/* ck_assert for a loop's body: check writes a note of each success, which takes long */
#define EACH(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			ck_abort_msg("line %d: %s", __LINE__, #cond);                              \
	} while (0)

#define OF(field) sizeof(((struct sm_wire_message *)0)->field)

static const struct type {
	enum sm_wire_type type;
	size_t body;
	unsigned from;
	size_t fds;
} types[] = {
	{ SM_WIRE_HELLO, OF(hello), SM_WIRE_CLIENT | SM_WIRE_CONTROL, 0 },
	{ SM_WIRE_WELCOME, OF(welcome), SM_WIRE_DAEMON, 2 },
	{ SM_WIRE_LOCK, OF(lock), SM_WIRE_DAEMON, 0 },
	{ SM_WIRE_LOCKED, OF(locked), SM_WIRE_CLIENT, 0 },
	{ SM_WIRE_UNLOCK, OF(unlock), SM_WIRE_DAEMON, 0 },
	{ SM_WIRE_DONE, OF(done), SM_WIRE_CLIENT, 0 },
	{ SM_WIRE_PURGE, 0, SM_WIRE_DAEMON, 0 },
	{ SM_WIRE_COUNT, 0, SM_WIRE_DAEMON, 0 },
	{ SM_WIRE_TALLY, OF(tally), SM_WIRE_CLIENT, 0 },
	{ SM_WIRE_DROP, 0, SM_WIRE_DAEMON, 0 },
	{ SM_WIRE_ASK, OF(ask), SM_WIRE_CONTROL, 0 },
	{ SM_WIRE_ROW, OF(row), SM_WIRE_DAEMON, 0 },
	{ SM_WIRE_ANSWER, OF(answer), SM_WIRE_DAEMON, 0 },
};

enum { TYPES = sizeof(types) / sizeof(*types), HEAD = sizeof(struct sm_wire_head) };

static struct sm_wire_message m;

static void
make_message(enum sm_wire_type type)
{
	sm_wire_begin(&m, type, 7);
	if (type == SM_WIRE_HELLO)
		m.hello.role = SM_WIRE_CLIENT;
}

static bool
believed_as(const struct type *t, size_t n, unsigned role, size_t fds)
{
	const char *why = "";
	int e = sm_wire_check(&m, n, role, fds, &why);

	ck_assert(e == 0 || e == EPROTO);
	ck_assert((e == 0) == (why == NULL));
	ck_assert(t != NULL);
	return e == 0;
}

/* By whoever may send it. */
static bool
believed(enum sm_wire_type type)
{
	const struct type *t = &types[type - 1];

	return believed_as(t, HEAD + t->body, t->from & -t->from, t->fds);
}

/* ---------------------------------------------------------------------- messages */

START_TEST(each_type_is_believed_of_its_senders_only)
{
	const struct type *t = &types[_i];

	ck_assert_uint_eq(t->type, (unsigned)_i + 1);
	make_message(t->type);
	for (unsigned role = SM_WIRE_CLIENT; role <= SM_WIRE_DAEMON; role *= 2)
		ck_assert(believed_as(t, HEAD + t->body, role, t->fds) == !!(t->from & role));
	ck_assert_str_ne(sm_wire_name(t->type), "?");
}
END_TEST

START_TEST(each_type_is_believed_of_its_length_only)
{
	const struct type *t = &types[_i];

	for (size_t n = 0; n < sizeof(m) + 64; n++) {
		make_message(t->type);
		ck_assert(believed_as(t, n, t->from & -t->from, t->fds) == (n == HEAD + t->body));
		m.head.bytes = (uint32_t)n; /* nor if the head agrees */
		ck_assert(believed_as(t, n, t->from & -t->from, t->fds) == (n == HEAD + t->body));
	}
}
END_TEST

START_TEST(each_type_is_believed_with_its_descriptors_only)
{
	const struct type *t = &types[_i];

	make_message(t->type);
	for (size_t fds = 0; fds <= SM_WIRE_FDS_MOST; fds++)
		ck_assert(believed_as(t, HEAD + t->body, t->from & -t->from, fds) ==
			(fds == t->fds));
}
END_TEST

START_TEST(a_type_that_there_is_not_is_refused_and_has_no_name)
{
	const unsigned roles = SM_WIRE_CLIENT | SM_WIRE_CONTROL | SM_WIRE_DAEMON;

	for (unsigned type = 0; type <= UINT16_MAX; type++) {
		if (type >= SM_WIRE_HELLO && type < SM_WIRE_TYPES)
			continue;
		sm_wire_begin(&m, SM_WIRE_PURGE, 7);
		m.head.type = (uint16_t)type;
		EACH(sm_wire_check(&m, HEAD, roles, 0, NULL) == EPROTO);
		EACH(strcmp(sm_wire_name(type), "?") == 0);
	}
	ck_assert_str_eq(sm_wire_name(UINT32_MAX), "?");
}
END_TEST

START_TEST(magic_and_version_are_looked_at)
{
	const char *why;

	for (unsigned bit = 0; bit < 48; bit++) {
		make_message(SM_WIRE_DONE);
		((unsigned char *)&m)[bit / 8] ^= (unsigned char)(1u << bit % 8);
		ck_assert_int_eq(sm_wire_check(&m, HEAD + OF(done), SM_WIRE_CLIENT, 0, &why),
			EPROTO);
		ck_assert(bit < 32 || strstr(why, "update"));
	}
}
END_TEST

START_TEST(a_hello_has_a_role_and_a_name_that_ends)
{
	for (unsigned role = 0; role < 9; role++) {
		make_message(SM_WIRE_HELLO);
		m.hello.role = role;
		ck_assert(believed(SM_WIRE_HELLO) ==
			(role == SM_WIRE_CLIENT || role == SM_WIRE_CONTROL));
	}
	make_message(SM_WIRE_HELLO);
	memset(m.hello.name, 'x', sizeof(m.hello.name));
	ck_assert(!believed(SM_WIRE_HELLO));
	m.hello.name[SM_WIRE_NAME_BYTES - 1] = 0;
	ck_assert(believed(SM_WIRE_HELLO));
}
END_TEST

START_TEST(a_parcel_fits_and_is_not_beside_an_error)
{
	static const enum sm_wire_type both[] = { SM_WIRE_LOCKED, SM_WIRE_UNLOCK };

	for (unsigned i = 0; i < 2; i++) {
		make_message(both[i]);
		m.locked.bytes = SM_WIRE_PARCEL_BYTES;
		ck_assert(believed(both[i]));
		m.locked.bytes++;
		ck_assert(!believed(both[i]));
		m.locked.bytes = UINT32_MAX;
		ck_assert(!believed(both[i]));
		m.locked.bytes = 1;
		m.locked.error = EIO;
		ck_assert(!believed(both[i]));
		m.locked.bytes = 0;
		ck_assert(believed(both[i]));
	}
}
END_TEST

START_TEST(a_policy_a_state_and_a_command_are_ones_that_there_are)
{
	for (unsigned n = 0; n < 12; n++) {
		make_message(SM_WIRE_WELCOME);
		m.welcome.policy = n;
		ck_assert(believed(SM_WIRE_WELCOME) == (n < SM_WIRE_POLICIES));
		make_message(SM_WIRE_TALLY);
		m.tally.state = n;
		ck_assert(believed(SM_WIRE_TALLY) == (n < SM_WIRE_STATES));
		make_message(SM_WIRE_ROW);
		m.row.tally.state = n;
		ck_assert(believed(SM_WIRE_ROW) == (n < SM_WIRE_STATES));
		make_message(SM_WIRE_ASK);
		m.ask.command = n;
		ck_assert(believed(SM_WIRE_ASK) == (n < SM_WIRE_COMMANDS));
		make_message(SM_WIRE_ANSWER);
		m.answer.locked = n;
		ck_assert(believed(SM_WIRE_ANSWER) == (n < 2));
	}
}
END_TEST

START_TEST(a_passphrase_fits)
{
	make_message(SM_WIRE_ASK);
	m.ask.phrase_bytes = m.ask.fresh_bytes = SM_WIRE_PHRASE_BYTES;
	ck_assert(believed(SM_WIRE_ASK));
	m.ask.phrase_bytes++;
	ck_assert(!believed(SM_WIRE_ASK));
	m.ask.phrase_bytes = 0;
	m.ask.fresh_bytes++;
	ck_assert(!believed(SM_WIRE_ASK));
}
END_TEST

START_TEST(a_row_and_an_answer_end_and_holes_are_empty)
{
	make_message(SM_WIRE_ROW);
	memset(m.row.name, 'x', sizeof(m.row.name));
	ck_assert(!believed(SM_WIRE_ROW));
	make_message(SM_WIRE_ROW);
	m.row.none = 1;
	ck_assert(!believed(SM_WIRE_ROW));
	make_message(SM_WIRE_TALLY);
	m.tally.none = 1;
	ck_assert(!believed(SM_WIRE_TALLY));
	make_message(SM_WIRE_ANSWER);
	memset(m.answer.text, 'x', sizeof(m.answer.text));
	ck_assert(!believed(SM_WIRE_ANSWER));
}
END_TEST

/* ---------------------------------------------------------------------- fuzzing */

static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint32_t
chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32);
}

/* What is believed keeps every promise that a reader relies on. */
static bool
is_sound(size_t n, unsigned role, size_t fds)
{
	const struct type *t = &types[m.head.type - 1];

	if (m.head.type < 1 || m.head.type > TYPES || n != HEAD + t->body || fds != t->fds ||
		!(t->from & role))
		return false;
	switch (m.head.type) {
	case SM_WIRE_HELLO:
		return memchr(m.hello.name, 0, sizeof(m.hello.name)) != NULL;
	case SM_WIRE_LOCKED:
	case SM_WIRE_UNLOCK:
		return m.locked.bytes <= SM_WIRE_PARCEL_BYTES;
	case SM_WIRE_TALLY:
		return m.tally.state < SM_WIRE_STATES;
	case SM_WIRE_ASK:
		return m.ask.command < SM_WIRE_COMMANDS &&
			m.ask.phrase_bytes <= SM_WIRE_PHRASE_BYTES &&
			m.ask.fresh_bytes <= SM_WIRE_PHRASE_BYTES;
	case SM_WIRE_ROW:
		return m.row.tally.state < SM_WIRE_STATES &&
			memchr(m.row.name, 0, sizeof(m.row.name)) != NULL;
	case SM_WIRE_ANSWER:
		return memchr(m.answer.text, 0, sizeof(m.answer.text)) != NULL;
	}
	return true;
}

/* A message of a type with some bytes changed, cut or grown. */
static size_t
any_message(void)
{
	const struct type *t = &types[chance() % TYPES];
	size_t n = HEAD + t->body;

	make_message(t->type);
	for (uint32_t flips = chance() % 8; flips; flips--)
		((unsigned char *)&m)[chance() % (chance() % 2 ? HEAD + 8 : n)] ^=
			(unsigned char)(1u << chance() % 8);
	if (chance() % 8 == 0)
		n = chance() % (sizeof(m) + 1);
	if (chance() % 8 == 0)
		m.head.bytes = (uint32_t)n;
	return n;
}

START_TEST(whatever_random_messages_are_believed_is_sound)
{
	const char *text = getenv("SECMALLOC_FUZZ_SECONDS");
	time_t end = time(NULL) + (text ? atoi(text) : 2);
	unsigned believed = 0, refused = 0;

	do {
		size_t n = any_message(), fds = chance() % 4 ? 0 : chance() % 5;
		unsigned role = 1u << chance() % 3;
		struct sm_wire_message *exact = malloc(n ? n : 1); /* so that a reader past it is seen */

		memcpy(exact, &m, n);
		if (sm_wire_check(exact, n, role, fds, NULL)) {
			refused++;
		} else {
			believed++;
			EACH(is_sound(n, role, fds));
		}
		free(exact);
	} while (refused % 4096 || time(NULL) < end);
	ck_assert_uint_gt(believed, 0);
	ck_assert_uint_gt(refused, believed);
}
END_TEST

/* ---------------------------------------------------------------------- sockets */

static char place[64], folder[] = "t_wire.XXXXXX";

/* Both ends. */
static void
meet(int *listener, int *client, int *server, struct sm_wire_peer *peer)
{
	ck_assert(mkdtemp(folder) != NULL);
	snprintf(place, sizeof(place), "%s/no/such/daemon", folder);
	ck_assert_int_eq(sm_wire_listen(place, listener), ENOENT);
	snprintf(place, sizeof(place), "%s/daemon", folder);
	ck_assert_int_eq(sm_wire_listen(place, listener), 0);
	ck_assert_int_eq(sm_wire_connect(place, client), 0);
	ck_assert_int_eq(sm_wire_accept(*listener, server, peer), 0);
}

START_TEST(a_message_says_who_sent_it_and_brings_its_descriptors)
{
	int listener, client, server, pipes[2];
	struct sm_wire_peer peer;
	struct sm_wire_from from;

	meet(&listener, &client, &server, &peer);
	ck_assert_int_eq(peer.pid, getpid());
	ck_assert_uint_eq(peer.uid, geteuid());
	make_message(SM_WIRE_HELLO);
	ck_assert_int_eq(sm_wire_send(client, &m, NULL, 0), 0);
	ck_assert_int_eq(sm_wire_receive(server, &m, &from), 0);
	ck_assert_int_eq(from.pid, getpid());
	ck_assert_uint_eq(from.n, HEAD + OF(hello));
	ck_assert_int_eq(sm_wire_receive(server, &m, &from), EAGAIN);
	ck_assert_int_eq(pipe(pipes), 0);
	make_message(SM_WIRE_WELCOME);
	ck_assert_int_eq(sm_wire_send(server, &m, pipes, 2), 0);
	ck_assert_int_eq(sm_wire_receive(client, &m, &from), 0);
	ck_assert_uint_eq(from.fds, 2);
	ck_assert_int_eq(fcntl(from.fd[0], F_GETFD), FD_CLOEXEC);
	sm_wire_close_fds(&from);
	close(client);
	ck_assert_int_eq(sm_wire_receive(server, &m, &from), 0);
	ck_assert_uint_eq(from.n, 0);
	ck_assert_int_eq(sm_wire_send(server, &m, NULL, 0), EPIPE);
	unlink(place);
	rmdir(folder);
}
END_TEST

/* Nobody's credentials are asked for here, so there is room for more of them. */
START_TEST(of_too_many_descriptors_none_is_written_elsewhere_or_left_open)
{
	struct { struct sm_wire_from from; int behind[32]; } got;
	struct sm_wire_message hello;
	union { struct cmsghdr k; char bytes[CMSG_SPACE(32 * sizeof(int))]; } c = { { 0 } };
	struct iovec v = { &hello, HEAD + OF(hello) };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c,
		.msg_controllen = CMSG_SPACE((size_t)_i * sizeof(int)) };
	int ends[2], before, after;

	sm_wire_begin(&hello, SM_WIRE_HELLO, 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	c.k = (struct cmsghdr){ CMSG_LEN((size_t)_i * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memset(&got, 0, sizeof(got)); /* each of them is standard input */
	ck_assert_int_eq(sendmsg(ends[0], &h, 0), (ssize_t)v.iov_len);
	before = dup(0);
	close(before);
	ck_assert_int_eq(sm_wire_receive(ends[1], &m, &got.from), 0);
	ck_assert_uint_gt(got.from.fds, SM_WIRE_LIFELINES);
	ck_assert_uint_le(got.from.fds, SM_WIRE_FDS_MOST);
	for (size_t i = 0; i < 32; i++)
		ck_assert_int_eq(got.behind[i], 0);
	sm_wire_close_fds(&got.from);
	after = dup(0);
	ck_assert_int_eq(after, before);
	close(after);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(one_listens_a_stale_socket_is_taken_over_and_a_file_is_not)
{
	int listener, client, server, second, fd;
	struct sm_wire_peer peer;

	meet(&listener, &client, &server, &peer);
	ck_assert_int_eq(sm_wire_listen(place, &second), EADDRINUSE);
	close(listener);
	ck_assert_int_eq(sm_wire_connect(place, &second), ECONNREFUSED);
	ck_assert_int_eq(sm_wire_listen(place, &listener), 0);
	close(listener);
	unlink(place);
	ck_assert_int_eq(sm_wire_connect(place, &second), ENOENT);
	fd = open(place, O_CREAT | O_WRONLY, 0600);
	ck_assert_int_eq(sm_wire_listen(place, &second), EADDRINUSE);
	close(fd);
	ck_assert_int_eq(access(place, F_OK), 0);
	unlink(place);
	chmod(folder, 0755);
	ck_assert_int_eq(sm_wire_listen(place, &second), EACCES);
	rmdir(folder);
}
END_TEST

START_TEST(only_a_listening_seqpacket_socket_is_adopted)
{
	int ends[2], fd = socket(AF_UNIX, SOCK_STREAM, 0);

	ck_assert_int_eq(sm_wire_adopt(0x7fff), EBADF);
	ck_assert_int_eq(sm_wire_adopt(fd), EINVAL);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	ck_assert_int_eq(sm_wire_adopt(ends[0]), EINVAL);
	close(fd);
	fd = open("/dev/null", O_RDONLY);
	ck_assert_int_eq(sm_wire_adopt(fd), ENOTSOCK);
}
END_TEST

START_TEST(a_place_follows_the_runtime_folder_and_must_fit)
{
	char to[200], big[150];

	setenv("XDG_RUNTIME_DIR", "/some/where", 1);
	ck_assert_int_eq(sm_wire_path(NULL, to, sizeof(to)), 0);
	ck_assert_str_eq(to, "/some/where/secmalloc/daemon");
	setenv("XDG_RUNTIME_DIR", "not/absolute", 1);
	ck_assert_int_eq(sm_wire_path("", to, sizeof(to)), 0);
	ck_assert(strncmp(to, "/run/user/", 10) == 0);
	ck_assert_int_eq(sm_wire_path("/x", to, sizeof(to)), 0);
	ck_assert_str_eq(to, "/x");
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	ck_assert_int_eq(sm_wire_path(big, to, sizeof(to)), ENAMETOOLONG);
	ck_assert_int_eq(sm_wire_path("/xyz", to, 4), ENAMETOOLONG);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("wire");
	TCase *tc = tcase_create("wire");
	SRunner *sr = srunner_create(s);

	tcase_set_timeout(tc, 3600);
	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc, each_type_is_believed_of_its_senders_only, 0, TYPES);
	tcase_add_loop_test(tc, each_type_is_believed_of_its_length_only, 0, TYPES);
	tcase_add_loop_test(tc, each_type_is_believed_with_its_descriptors_only, 0, TYPES);
	tcase_add_test(tc, a_type_that_there_is_not_is_refused_and_has_no_name);
	tcase_add_test(tc, magic_and_version_are_looked_at);
	tcase_add_test(tc, a_hello_has_a_role_and_a_name_that_ends);
	tcase_add_test(tc, a_parcel_fits_and_is_not_beside_an_error);
	tcase_add_test(tc, a_policy_a_state_and_a_command_are_ones_that_there_are);
	tcase_add_test(tc, a_passphrase_fits);
	tcase_add_test(tc, a_row_and_an_answer_end_and_holes_are_empty);
	tcase_add_test(tc, whatever_random_messages_are_believed_is_sound);
	tcase_add_test(tc, a_message_says_who_sent_it_and_brings_its_descriptors);
	tcase_add_loop_test(
		tc, of_too_many_descriptors_none_is_written_elsewhere_or_left_open, 3, 20);
	tcase_add_test(tc, one_listens_a_stale_socket_is_taken_over_and_a_file_is_not);
	tcase_add_test(tc, only_a_listening_seqpacket_socket_is_adopted);
	tcase_add_test(tc, a_place_follows_the_runtime_folder_and_must_fit);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
