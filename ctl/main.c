/*
 * main.c - secmallocctl: one question to secmallocd, and its answer
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

void
sc_say(const char *fmt, ...)
{
	va_list ap;

	fputs("secmallocctl: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* What is said fails where 0 to 2 are closed, and does not go to the daemon by that number. */
static void
standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDONLY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static void
harden(void)
{
	struct rlimit none = { 0, 0 };

	if (prctl(PR_SET_DUMPABLE, 0) || setrlimit(RLIMIT_CORE, &none))
		sc_say("cores are not ruled out: %s", strerror(errno));
}

static int
reach(const struct sc_wish *w, int *fd)
{
	int e = sm_wire_connect(w->socket, fd);

	switch (e) {
	case 0:
		break;
	case ENOENT:
	case ECONNREFUSED:
		sc_say("no secmallocd runs there: start it, or name its --socket");
		break;
	case EACCES:
		sc_say("the socket is another user's: name yours by --socket");
		break;
	case ENAMETOOLONG:
		sc_say("the path of the socket is too long: use a shorter --socket");
		break;
	default:
		sc_say("secmallocd cannot be reached: %s; name its --socket", strerror(e));
	}
	return e;
}

static int
ask(int fd, struct sm_wire_message *question)
{
	struct sm_wire_message hello;
	int e;

	sm_wire_begin(&hello, SM_WIRE_HELLO, 1);
	hello.hello.role = SM_WIRE_CONTROL;
	memcpy(hello.hello.name, "secmallocctl", sizeof("secmallocctl"));
	e = sm_wire_send(fd, &hello, NULL, 0);
	return e ? e : sm_wire_send(fd, question, NULL, 0);
}

/* Rows until the answer. */
static int
hear(int fd, const struct sc_wish *w, struct sm_wire_message *m)
{
	const char *why;
	struct sm_wire_from from;
	int e;

	for (;;) {
		e = sm_wire_receive(fd, m, &from);
		if (e || from.n == 0) {
			sc_say("secmallocd hung up%s%s: see its log", e ? ": " : "",
				e ? strerror(e) : "");
			return EPIPE;
		}
		e = sm_wire_check(m, from.n, SM_WIRE_DAEMON, from.fds, &why);
		sm_wire_close_fds(&from);
		if (e) {
			sc_say("secmallocd said something %s: is it of this version?", why);
			return e;
		}
		if (m->head.type == SM_WIRE_ANSWER)
			return 0;
		if (m->head.type == SM_WIRE_ROW && w->command == SM_WIRE_STATUS)
			sc_show_row(w->json, &m->row);
	}
}

static int
tell(const struct sc_wish *w, const struct sm_wire_answer *a)
{
	if (w->command == SM_WIRE_STATUS && !a->error) {
		if (sc_show_end(w->json, a))
			return SC_DONE;
		sc_say("standard output cannot be written: %s", strerror(errno));
		return SC_FAILED;
	}
	if (a->error)
		sc_say("%s", a->text);
	else
		puts(a->text);
	return a->error ? SC_FAILED : SC_DONE;
}

static int
talk(const struct sc_wish *w, struct sm_wire_message *m)
{
	int fd, e = reach(w, &fd);

	if (e)
		return SC_FAILED;
	(void)ask(fd, m); /* if it failed, there is no answer either */
	sm_wipe(m, sizeof(*m));
	sm_wipe_traces(); /* memcpy leaves passphrases in the vector registers */
	if (w->command == SM_WIRE_STATUS)
		sc_show_begin(w->json);
	return hear(fd, w, m) ? SC_FAILED : tell(w, &m->answer);
}

int
main(int argc, char **argv)
{
	struct sm_wire_message *m;
	struct sc_wish w;
	int status = SC_FAILED;

	standard_fds();
	sc_wish_read(argc, argv, &w);
	harden();
	m = secmalloc(sizeof(*m));
	if (!m) {
		sc_say("%s", secmalloc_error());
		return SC_FAILED;
	}
	sm_wire_begin(m, SM_WIRE_ASK, 2);
	m->ask.command = w.command;
	m->ask.pid = w.pid;
	if (sc_phrases_read(&w, &m->ask))
		status = talk(&w, m);
	secfree(m);
	return status;
}
