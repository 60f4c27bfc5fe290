/*
 * status.c - who is there, and what of it is clear
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

static enum sm_wire_state
state_of(const struct sd_peer *p)
{
	switch (p->stage) {
	case SD_OPEN:
		if (p->tally.state == SM_WIRE_IS_PURGED) /* by itself */
			return SM_WIRE_IS_PURGED;
		return p->count_serial ? SM_WIRE_BUSY : SM_WIRE_OPEN;
	case SD_LOCKED:
		return SM_WIRE_IS_LOCKED;
	case SD_PURGED:
		return SM_WIRE_IS_PURGED;
	default:
		return SM_WIRE_BUSY;
	}
}

static void
show(struct sd_peer *asker)
{
	unsigned n = 0;

	for (size_t i = 0; i < sd.n && !asker->gone; i++) {
		struct sd_peer *p = sd.peers[i];
		struct sm_wire_row *r = &sd.out->row;

		if (p->gone || !sd_peer_is_client(p) || sd_peer_is_deaf(p))
			continue;
		sm_wire_begin(sd.out, SM_WIRE_ROW, asker->id);
		r->tally = p->tally;
		r->tally.state = state_of(p);
		r->pid = p->who.pid;
		memcpy(r->name, p->name, sizeof(r->name));
		sd_peer_send(asker, sd.out);
		n++;
	}
	sd_answer(asker, 0,
		"%s: %u clients; passphrase %s; policy %s; deadline %u ms, late: %s; "
		"sandbox %s",
		sd.locked ? "locked" : "open", n, sd.own.set ? "set" : "none",
		sd.o.policy == SM_WIRE_DIE ? "die" : "carry-on", sd.o.deadline_ms,
		sd.o.kill_late ? "kill" : "report", sd.sandboxed ? sd_sandbox_name : "none");
}

void
sd_count(struct sd_peer *p)
{
	p->count_serial = ++sd.serial;
	sm_wire_begin(sd.out, SM_WIRE_COUNT, p->count_serial);
	sd_peer_send(p, sd.out);
}

/* Each client counts; one that has not answered the last time is not asked again. */
void
sd_status_begin(struct sd_peer *asker)
{
	asker->stage = SD_COUNTING;
	asker->until = sd_now() + SD_COUNT_MS;
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (p->gone || p->stage != SD_OPEN || p->count_serial)
			continue;
		sd_count(p);
	}
}

void
sd_status_look(struct sd_peer *asker, int64_t now)
{
	if (now < asker->until)
		for (size_t i = 0; i < sd.n; i++) {
			const struct sd_peer *p = sd.peers[i];

			if (!p->gone && p->stage == SD_OPEN && p->count_serial)
				return;
		}
	show(asker);
}
