/*
 * jobs.c - lock, unlock, purge: told to all clients at once, and their answers awaited
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>

static void
begin(enum sd_kind kind, struct sd_peer *asker)
{
	int64_t now = sd_now();

	sd.job = (struct sd_job){ .kind = kind,
		.serial = ++sd.serial,
		.asker = asker,
		.began = now,
		.until = now + sd.o.deadline_ms };
	sd.again = true;
	if (asker)
		asker->stage = SD_WORKED;
}

static void
tell(struct sd_peer *p, enum sd_stage stage)
{
	sd.job.told++;
	p->stage = stage;
	sd_peer_send(p, sd.out);
}

static void
hold(bool on)
{
	int e = sd_watcher_hold(on);

	if (e)
		sd_doom(e == ETIMEDOUT ? "the watcher does not listen" : "the watcher has ended");
}

/* ----------------------------------------------------------------------------- begin */

/* One that was told before and has not answered yet is just waited for. */
void
sd_job_lock(struct sd_peer *asker, const struct sd_seal *s)
{
	begin(SD_LOCK, asker);
	sd.now = *s;
	sd.locked = true;
	hold(true);
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (p->gone || (p->stage != SD_OPEN && p->stage != SD_UNLOCKING))
			continue;
		sm_wire_begin(sd.out, SM_WIRE_LOCK, sd.job.serial);
		sd.out->lock.deadline_ms = sd.o.deadline_ms;
		p->locked_serial = sd.job.serial;
		tell(p, SD_LOCKING);
	}
}

static void
forget_parcel(struct sd_peer *p)
{
	sm_wipe(p->sealed, sizeof(p->sealed));
	p->parcel_bytes = 0;
}

static void
unlock_one(struct sd_peer *p, const struct sd_pair *pair)
{
	int e;

	sm_wire_begin(sd.out, SM_WIRE_UNLOCK, sd.job.serial);
	sd.out->unlock.bytes = p->parcel_bytes;
	e = sd_open_parcel(pair, p->sealed, p->parcel_bytes, sd.out->unlock.parcel);
	forget_parcel(p);
	if (e) {
		sd_peer_lose(p, "its keys were changed while they were here");
		return;
	}
	p->done_serial = sd.job.serial;
	tell(p, SD_UNLOCKING);
}

void
sd_job_unlock(struct sd_peer *asker, const struct sd_pair *pair)
{
	begin(SD_UNLOCK, asker);
	for (size_t i = 0; i < sd.n; i++)
		if (sd.peers[i]->stage == SD_LOCKED && !sd.peers[i]->gone)
			unlock_one(sd.peers[i], pair);
}

void
sd_job_purge(struct sd_peer *asker)
{
	begin(SD_PURGE, asker);
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (p->gone || (p->stage != SD_OPEN && p->stage != SD_LOCKING &&
				       p->stage != SD_LOCKED && p->stage != SD_UNLOCKING))
			continue;
		forget_parcel(p);
		p->purged_serial = sd.job.serial;
		sm_wire_begin(sd.out, SM_WIRE_PURGE, sd.job.serial);
		tell(p, SD_PURGING);
	}
}

/* --------------------------------------------------------------------------- answers */

/* It was late, and all is unlocked again, or about to be: its keys go back at once. */
static void
give_back(struct sd_peer *p, const struct sm_wire_message *m)
{
	uint32_t serial = ++sd.serial;

	sm_wire_begin(sd.out, SM_WIRE_UNLOCK, serial);
	sd.out->unlock.bytes = m->locked.bytes;
	memcpy(sd.out->unlock.parcel, m->locked.parcel, m->locked.bytes);
	p->done_serial = serial;
	p->stage = SD_UNLOCKING;
	sd_peer_send(p, sd.out);
}

static void
keep_parcel(struct sd_peer *p, const struct sm_wire_message *m)
{
	int e = sd_seal_parcel(&sd.now, m->locked.parcel, m->locked.bytes, p->sealed);

	if (e) {
		sd_peer_lose(p, "its keys cannot be sealed");
		return;
	}
	p->parcel_bytes = m->locked.bytes;
	p->stage = SD_LOCKED;
	p->tally.bytes_clear = 0;
	p->tally.chunks_closed = p->tally.chunks;
	p->settles = true;
	sd_count(p);
}

/* What it sent it has wiped before it hears the next word. */
void
sd_client_settled(struct sd_peer *p)
{
	if (p->settles && sd.job.kind == SD_LOCK)
		sd.job.done++;
	p->settles = false;
}

static void
cannot_lock(struct sd_peer *p, unsigned error)
{
	bool kill = sd.o.kill_late && sd.locked;

	sd_log(LOG_ERR, "pid %d (%s) could not lock itself: %s%s", (int)p->who.pid, p->name,
		strerror((int)error), kill ? "; killed" : "");
	p->stage = SD_OPEN;
	if (sd.job.kind == SD_LOCK && !kill)
		sd.job.failed++;
	if (kill && sd_peer_kill(p)) {
		p->stage = SD_DYING;
		sd.job.killed++;
	}
}

void
sd_client_locked(struct sd_peer *p, struct sm_wire_message *m)
{
	if (p->locked_serial == 0 || m->head.serial != p->locked_serial || p->done_serial) {
		sd_peer_lose(p, "it locked itself unasked");
		return;
	}
	p->locked_serial = 0;
	if (p->stage != SD_LOCKING) /* told to purge meanwhile */
		return;
	if (m->locked.error)
		cannot_lock(p, m->locked.error);
	else if (sd.locked && sd.job.kind != SD_UNLOCK)
		keep_parcel(p, m);
	else
		give_back(p, m);
}

void
sd_client_done(struct sd_peer *p, const struct sm_wire_message *m)
{
	uint32_t serial = m->head.serial;

	if (serial && serial == p->done_serial) {
		p->done_serial = 0;
		if (m->done.error) {
			sd_log(LOG_ERR, "pid %d (%s) could not take its keys back: %s",
				(int)p->who.pid, p->name, strerror((int)m->done.error));
			sd_peer_lose(p, "it is locked for good");
		} else if (p->stage == SD_UNLOCKING) {
			p->stage = SD_OPEN;
			sd.job.done += sd.job.kind == SD_UNLOCK;
		}
	} else if (serial && serial == p->purged_serial && p->stage == SD_PURGING) {
		p->purged_serial = 0;
		p->stage = SD_PURGED;
		sd.job.done += sd.job.kind == SD_PURGE;
		p->tally = (struct sm_wire_tally){ .chunks = p->tally.chunks,
			.chunks_closed = p->tally.chunks,
			.bytes = p->tally.bytes };
	} else {
		sd_peer_lose(p, "it has done what it was not asked for");
	}
}

/* ------------------------------------------------------------------------------- end */

static bool
is_owing(const struct sd_peer *p)
{
	static const enum sd_stage owing[] = {
		[SD_LOCK] = SD_LOCKING, [SD_UNLOCK] = SD_UNLOCKING, [SD_PURGE] = SD_PURGING
	};

	return !p->gone && (sd_peer_is_deaf(p) || p->stage == owing[sd.job.kind] ||
		(p->settles && sd.job.kind == SD_LOCK));
}

static void
kill_late(void)
{
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (!is_owing(p) || p->stage == SD_DYING || !sd_peer_kill(p))
			continue;
		sd_log(LOG_WARNING, "pid %d (%s) missed the deadline: killed", (int)p->who.pid,
			p->name);
		p->stage = SD_DYING;
		p->until = 0;
		sd.job.killed++;
	}
}

static void
report_late(void)
{
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (!is_owing(p))
			continue;
		sd_log(LOG_WARNING, "pid %d (%s) %s", (int)p->who.pid, p->name,
			p->unreachable         ? "is out of reach"
			: p->stage == SD_DYING ? "was killed and is not dead yet"
					       : "has missed the deadline");
		sd.job.late++;
	}
}

static void
finish(void)
{
	static const char *const words[] = { "", "locked", "unlocked", "purged" };
	struct sd_job j = sd.job;
	unsigned bad = j.late + j.failed;
	char line[SM_WIRE_TEXT_BYTES];

	snprintf(line, sizeof(line), "%s: %u of %u clients in %d ms, %u killed, %u late%s",
		words[j.kind], j.done, j.told, (int)(sd_now() - j.began), j.killed, bad,
		bad ? ": see the log and status" : "");
	sd_log(bad ? LOG_WARNING : LOG_NOTICE, "%s", line);
	if (j.kind != SD_LOCK) {
		sd.locked = false;
		sm_wipe(&sd.now, sizeof(sd.now));
		hold(false);
	}
	sd.job = (struct sd_job){ 0 };
	sd.again = true;
	sd_answer(j.asker, bad ? ETIMEDOUT : 0, "%s", line);
}

void
sd_job_look(int64_t now)
{
	bool owing = false;

	if (sd.job.kind == SD_NOTHING)
		return;
	for (size_t i = 0; i < sd.n && !owing; i++)
		owing = is_owing(sd.peers[i]);
	if (owing && now < sd.job.until)
		return;
	if (owing && sd.o.kill_late && sd.job.kind != SD_UNLOCK && !sd.job.last_wait) {
		kill_late();
		sd.job.last_wait = true;
		sd.job.until = now + SD_DYING_MS;
		return;
	}
	report_late();
	finish();
}
