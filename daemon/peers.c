/*
 * peers.c - who is connected: in, out, what is sent to them
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { ACCEPT_MOST = 64, GROWTH = 64, DEAF_MS = 500 };

/* ------------------------------------------------------------------------- in and out */

static int
more_room(void)
{
	struct sd_peer **more;

	if (sd.n < sd.room)
		return 0;
	more = realloc(sd.peers, (sd.room + GROWTH) * sizeof(*more));
	if (!more)
		return ENOMEM;
	sd.peers = more;
	sd.room += GROWTH;
	return 0;
}

static int
add_peer(int fd, const struct sm_wire_peer *who)
{
	struct sd_peer *p;

	if (more_room() || !(p = calloc(1, sizeof(*p))))
		return ENOMEM;
	p->fd = fd;
	p->who = *who;
	p->id = ++sd.ids;
	p->lifeline = p->watched = -1;
	p->until = sd_now() + SD_HELLO_MS;
	strcpy(p->name, "?");
	sd.peers[sd.n++] = p;
	return 0;
}

/* False: for now nobody more is let in. */
static bool
accept_one(void)
{
	struct sm_wire_peer who = { .pidfd = -1 };
	int fd, e = sm_wire_accept(sd.listener, &fd, &who);

	switch (e) {
	case 0:
		if (add_peer(fd, &who)) {
			close(fd);
			if (who.pidfd >= 0)
				close(who.pidfd);
			sd_log(LOG_ERR, "pid %d was sent away: no memory", (int)who.pid);
		}
		return true;
	case EACCES:
		sd_log(LOG_WARNING, "pid %d was refused: it is of uid %u, not of ours",
			(int)who.pid, (unsigned)who.uid);
		return true;
	case EAGAIN:
		return false;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		sd_log(LOG_ERR, "nobody more is let in for now: %s; raise RLIMIT_NOFILE",
			strerror(e));
		sd.deaf_until = sd_now() + DEAF_MS;
		return false;
	default: /* it has ended already */
		return true;
	}
}

void
sd_peers_accept(void)
{
	for (unsigned i = 0; i < ACCEPT_MOST && accept_one(); i++)
		continue;
}

bool
sd_peer_is_client(const struct sd_peer *p)
{
	return p->stage >= SD_WAITING && p->stage <= SD_LEAVING;
}

bool
sd_peer_is_deaf(const struct sd_peer *p)
{
	return p->gone || p->stage == SD_DYING || p->stage == SD_LEAVING;
}

bool
sd_peer_is_held(const struct sd_peer *p)
{
	return p->stage == SD_LOCKING || p->stage == SD_LOCKED || p->stage == SD_UNLOCKING ||
	       p->stage == SD_PURGING || p->stage == SD_DYING;
}

bool
sd_peer_kill(struct sd_peer *p)
{
	int e = sd_kill(p->who.pidfd, p->who.pid);

	if (e == EPERM) {
		if (!p->unreachable)
			sd_log(LOG_ERR, "pid %d (%s) is out of reach: it is another user's by now",
				(int)p->who.pid, p->name);
		p->unreachable = true;
		return false;
	}
	return true;
}

static void
forget_ask(struct sd_peer *p)
{
	secfree(p->ask);
	p->ask = NULL;
	if (sd.deriver == p)
		sd.deriver = NULL;
	if (sd.job.asker == p)
		sd.job.asker = NULL;
}

static void
kill_lost(struct sd_peer *p)
{
	p->until = 0;
	if (sd_peer_kill(p))
		p->stage = SD_DYING;
	else
		p->gone = true;
}

/* What was told to lock is not let go in clear: it is killed, and watched until it is dead. One that
 * exits, or becomes another program, closes its lifelines too, and leaves nothing in clear. */
void
sd_peer_lose(struct sd_peer *p, const char *why)
{
	bool held = sd_peer_is_held(p);

	if (p->gone || p->stage == SD_DYING || p->stage == SD_LEAVING) {
		p->gone = true;
		return;
	}
	if (why)
		sd_log(LOG_WARNING, "pid %d (%s) was sent away: %s%s", (int)p->who.pid, p->name,
			why, held ? "; killed, as it was told to lock" : "");
	if (!held) {
		p->gone = true;
	} else if (why) {
		kill_lost(p);
	} else {
		p->stage = SD_LEAVING;
		p->until = sd_now() + SD_LEAVING_MS;
	}
}

void
sd_peer_left(struct sd_peer *p, bool still_there)
{
	sd_log(LOG_NOTICE, "pid %d (%s) left in the middle%s", (int)p->who.pid, p->name,
		still_there ? " and goes on running: killed" : "");
	if (still_there)
		kill_lost(p);
	else
		p->gone = true;
}

static void
free_packet(struct sd_packet *k)
{
	if (k->secret)
		secfree(k);
	else
		free(k);
}

static void
free_peer(struct sd_peer *p)
{
	struct sd_packet *next;

	forget_ask(p);
	for (struct sd_packet *k = p->first; k; k = next) {
		next = k->next;
		free_packet(k);
	}
	close(p->fd);
	if (p->who.pidfd >= 0)
		close(p->who.pidfd);
	if (p->lifeline >= 0)
		close(p->lifeline);
	if (p->watched >= 0)
		close(p->watched);
	free(p);
}

void
sd_peers_sweep(void)
{
	size_t kept = 0;

	for (size_t i = 0; i < sd.n; i++) {
		if (sd.peers[i]->gone)
			free_peer(sd.peers[i]);
		else
			sd.peers[kept++] = sd.peers[i];
	}
	sd.n = kept;
}

/* ----------------------------------------------------------------------------- sending */

static bool
has_parcel(const struct sm_wire_message *m)
{
	return m->head.type == SM_WIRE_UNLOCK || m->head.type == SM_WIRE_LOCKED ||
	       m->head.type == SM_WIRE_ASK;
}

static void
queue(struct sd_peer *p, const struct sm_wire_message *m)
{
	size_t bytes = offsetof(struct sd_packet, m) + m->head.bytes;
	bool secret = has_parcel(m);
	struct sd_packet *k;

	if (sd_peer_is_client(p) && p->queued >= SD_QUEUE_MOST) {
		sd_peer_lose(p, "it does not read");
		return;
	}
	k = secret ? secmalloc(bytes) : malloc(bytes);
	if (!k) {
		sd_peer_lose(p, "no memory for what it has not read");
		return;
	}
	k->next = NULL;
	k->secret = secret;
	memcpy(&k->m, m, m->head.bytes);
	if (p->last)
		p->last->next = k;
	else
		p->first = k;
	p->last = k;
	p->queued++;
}

void
sd_peer_send(struct sd_peer *p, struct sm_wire_message *m)
{
	int e = sd_peer_is_deaf(p) ? 0 : p->first ? EAGAIN : sm_wire_send(p->fd, m, NULL, 0);

	if (e == EAGAIN)
		queue(p, m);
	else if (e)
		sd_peer_lose(p, e == EPIPE || e == ECONNRESET ? NULL : strerror(e));
	if (has_parcel(m)) {
		sm_wipe(m, sizeof(*m));
		sm_wipe_traces(); /* memcpy leaves keys in the vector registers */
	}
}

void
sd_peer_flush(struct sd_peer *p)
{
	while (p->first && !sd_peer_is_deaf(p)) {
		struct sd_packet *k = p->first;
		int e = sm_wire_send(p->fd, &k->m, NULL, 0);

		if (e == EAGAIN)
			return;
		if (e) {
			sd_peer_lose(p, NULL);
			return;
		}
		p->first = k->next;
		if (!p->first)
			p->last = NULL;
		p->queued--;
		free_packet(k);
	}
	if (p->stage == SD_ANSWERED && !p->first)
		p->gone = true;
}
