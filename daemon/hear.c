/*
 * hear.c - what peers say, and what it makes of them
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * Each message answers a question with that question's serial, once; anything else sends its sender
 * away.
 */
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { ENDS = 2 };

/* ------------------------------------------------------------------------- lifelines */

static void
tell_watcher(struct sd_peer *p)
{
	int e = sd_watcher_add(p->id, p->who.pidfd);

	if (e == 0)
		p->told_watcher = true;
	else if (e == EPIPE || e == ECONNRESET)
		sd_doom("the watcher has ended");
	else if (e != EAGAIN)
		sd_peer_lose(p, "the watcher cannot take it");
}

static void
welcome(struct sd_peer *p)
{
	int ends[ENDS], both[SM_WIRE_LIFELINES], e;

	if (pipe2(ends, O_CLOEXEC)) {
		sd_peer_lose(p, "no descriptors for its lifeline: raise RLIMIT_NOFILE");
		return;
	}
	sm_wire_begin(sd.out, SM_WIRE_WELCOME, 0);
	sd.out->welcome.policy = sd.o.policy;
	both[0] = ends[0];
	both[1] = p->watched;
	e = sm_wire_send(p->fd, sd.out, both, SM_WIRE_LIFELINES);
	close(ends[0]);
	close(p->watched);
	p->watched = -1;
	p->lifeline = ends[1];
	p->stage = SD_OPEN;
	if (e)
		sd_peer_lose(p, e == EPIPE || e == ECONNRESET ? NULL : strerror(e));
}

void
sd_clients_admit(void)
{
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (p->stage != SD_WAITING || p->gone)
			continue;
		if (!p->told_watcher)
			tell_watcher(p);
		if (p->watched >= 0 && !sd.locked)
			welcome(p);
	}
}

static struct sd_peer *
peer_of(uint32_t id)
{
	for (size_t i = 0; i < sd.n; i++)
		if (sd.peers[i]->id == id && !sd.peers[i]->gone)
			return sd.peers[i];
	return NULL;
}

void
sd_watcher_news(void)
{
	struct sd_peer *p;
	uint32_t id;
	int lifeline, e;

	while ((e = sd_watcher_take(&id, &lifeline)) == 0) {
		p = peer_of(id);
		if (p && p->stage == SD_WAITING && p->watched < 0 && lifeline >= 0) {
			p->watched = lifeline;
			continue;
		}
		if (lifeline >= 0)
			close(lifeline);
		else if (p)
			sd_peer_lose(p, "the watcher has no descriptors: raise RLIMIT_NOFILE");
	}
	if (e != EAGAIN)
		sd_doom("the watcher has ended");
}

/* ---------------------------------------------------------------------------- messages */

static void
hear_hello(struct sd_peer *p, const struct sm_wire_message *m)
{
	if (p->stage != SD_KNOCKING) {
		sd_peer_lose(p, "it said hello twice");
		return;
	}
	memcpy(p->name, m->hello.name, sizeof(p->name));
	for (char *c = p->name; *c; c++)
		if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
			*c = '?';
	p->until = 0;
	p->stage = SD_WAITING;
	if (m->hello.role == SM_WIRE_CONTROL) {
		p->stage = SD_ASKING;
		p->until = sd_now() + SD_HELLO_MS;
	}
}

static void
hear_tally(struct sd_peer *p, const struct sm_wire_message *m)
{
	if (p->count_serial == 0 || m->head.serial != p->count_serial) {
		sd_peer_lose(p, "it counted unasked");
		return;
	}
	p->count_serial = 0;
	p->tally = m->tally;
	sd_client_settled(p);
}

static void
hear_client(struct sd_peer *p, struct sm_wire_message *m)
{
	switch (m->head.type) {
	case SM_WIRE_LOCKED:
		sd_client_locked(p, m);
		break;
	case SM_WIRE_DONE:
		sd_client_done(p, m);
		break;
	case SM_WIRE_TALLY:
		hear_tally(p, m);
		break;
	default:
		sd_peer_lose(p, "a client does not say that");
	}
}

static void
heed(struct sd_peer *p, struct sm_wire_message *m)
{
	if (m->head.type == SM_WIRE_HELLO)
		hear_hello(p, m);
	else if (sd_peer_is_client(p))
		hear_client(p, m);
	else if (p->stage == SD_ASKING && m->head.type == SM_WIRE_ASK)
		sd_question_take(p, m);
	else if (p->stage == SD_KNOCKING)
		sd_peer_lose(p, "it did not say hello first");
	else
		sd_peer_lose(p, "it may not say that now");
}

/* What it may be, before it has said what it is. */
static enum sm_wire_role
role_of(const struct sd_peer *p, const struct sm_wire_message *m)
{
	if (p->stage == SD_KNOCKING)
		return m->head.type == SM_WIRE_ASK ? SM_WIRE_CONTROL : SM_WIRE_CLIENT;
	return sd_peer_is_client(p) ? SM_WIRE_CLIENT : SM_WIRE_CONTROL;
}

/* False: there is nothing more of it for now. */
static bool
hear_one(struct sd_peer *p)
{
	struct sm_wire_from from;
	const char *why;
	int e = sm_wire_receive(p->fd, sd.in, &from);

	if (e == EAGAIN)
		return false;
	if (e || from.n == 0) {
		sm_wire_close_fds(&from);
		sd_peer_lose(p, NULL);
		return false;
	}
	if (from.pid != p->who.pid)
		sd_peer_lose(p, "a message came from another process");
	else if (sm_wire_check(sd.in, from.n, role_of(p, sd.in), from.fds, &why))
		sd_peer_lose(p, why);
	else
		heed(p, sd.in);
	sm_wire_close_fds(&from);
	sm_wipe(sd.in, sizeof(*sd.in));
	return !sd_peer_is_deaf(p);
}

void
sd_peer_hear(struct sd_peer *p)
{
	for (unsigned i = 0; i < SD_MESSAGES_MOST && hear_one(p); i++)
		continue;
}

void
sd_peer_time(struct sd_peer *p)
{
	switch (p->stage) {
	case SD_KNOCKING:
		sd_peer_lose(p, "it says nothing");
		break;
	case SD_ASKING:
		sd_peer_lose(p, "it asks nothing");
		break;
	case SD_DROPPED:
		sd_peer_lose(p, "it was dropped, and did not hang up");
		break;
	case SD_LEAVING:
		sd_peer_left(p, true);
		break;
	case SD_REFUSED:
		sd_answer(p, EPERM, "this is not the passphrase: try again");
		break;
	case SD_ANSWERED:
		sd_peer_lose(p, "it does not read its answer");
		break;
	default:
		p->until = 0;
	}
}
