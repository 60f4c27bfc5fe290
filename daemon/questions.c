/*
 * questions.c - what the remote control asks
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * One thing at a time is told to the clients, and one passphrase at a time is tried; who asks
 * meanwhile waits for his turn. A wrong passphrase bars all others for a while that grows, whoever
 * comes with them; a lock or a purge is never barred.
 */
#include "inside.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static const char no_memory[] = "Argon2id or the pools have no memory left: free some";

void
sd_answer(struct sd_peer *p, int error, const char *fmt, ...)
{
	va_list ap;

	if (!p)
		return;
	sm_wire_begin(sd.out, SM_WIRE_ANSWER, p->id);
	sd.out->answer.error = (uint32_t)error;
	sd.out->answer.locked = sd.locked;
	va_start(ap, fmt);
	vsnprintf(sd.out->answer.text, sizeof(sd.out->answer.text), fmt, ap);
	va_end(ap);
	secfree(p->ask);
	p->ask = NULL;
	p->stage = SD_ANSWERED;
	p->until = sd_now() + SD_HELLO_MS;
	sd_peer_send(p, sd.out);
}

void
sd_question_take(struct sd_peer *p, const struct sm_wire_message *m)
{
	p->until = 0;
	p->stage = SD_ASKED;
	p->ask = secmalloc(sizeof(*p->ask));
	if (!p->ask) {
		sd_answer(p, ENOMEM, "%s", no_memory);
		return;
	}
	memcpy(p->ask, m, sizeof(*m));
	sm_wipe_traces();
	secmalloc_encrypt(p->ask);
}

/* ------------------------------------------------------------------------- passphrases */

static void
forget_phrase(void)
{
	secfree(sd.phrase);
	sd.phrase = NULL;
	sd.deriver = NULL;
	sd.second = false;
	sm_wipe(&sd.next, sizeof(sd.next));
}

/* Of the question at hand: by this salt, or by a new one. */
static void
derive(const unsigned char *phrase, size_t n, const struct sd_seal *known)
{
	int e;

	if (known)
		memcpy(sd.next.salt, known->salt, SD_SALT_BYTES);
	else
		randombytes_buf(sd.next.salt, SD_SALT_BYTES);
	e = sd_derive_begin(phrase, n, sd.next.salt);
	if (e) {
		sd_answer(sd.deriver, e, "%s", no_memory);
		forget_phrase();
	}
}

static void
begin_phrase(struct sd_peer *p)
{
	struct sm_wire_ask *a = &p->ask->ask;

	sd.deriver = p;
	sd.phrase = p->ask;
	p->ask = NULL;
	p->stage = SD_WORKED;
	switch (a->command) {
	case SM_WIRE_DO_UNLOCK:
		derive(a->phrase, a->phrase_bytes, &sd.now);
		break;
	case SM_WIRE_PASSWD:
		sd.second = !sd.own.set;
		if (sd.second)
			derive(a->fresh, a->fresh_bytes, NULL);
		else
			derive(a->phrase, a->phrase_bytes, &sd.own);
		break;
	default:
		derive(a->phrase, a->phrase_bytes, NULL);
	}
}

/* Told later, and nobody else is heard before. */
static void
refuse_phrase(void)
{
	sd.wrong++;
	sd.barred_until = sd_now() + sd_delay_ms(sd.wrong);
	sd_log(LOG_WARNING, "a wrong passphrase, number %u", sd.wrong);
	if (!sd.deriver)
		return;
	sd.deriver->stage = SD_REFUSED;
	sd.deriver->until = sd.barred_until;
}

static bool
is_right(const struct sd_pair *pair, const struct sd_seal *s)
{
	if (secmemcmp(pair->public, s->public, sizeof(s->public))) {
		refuse_phrase();
		return false;
	}
	/* A passphrase of just this lock says nothing of who tried the other one. */
	if (!sd.own.set || secmemcmp(s->public, sd.own.public, sizeof(s->public)) == 0)
		sd.wrong = 0;
	return true;
}

static void
adopt(const struct sd_pair *pair)
{
	memcpy(sd.next.public, pair->public, sizeof(sd.next.public));
	sd.next.set = true;
}

/* True: there is a second one to derive. */
static bool
change_phrase(const struct sd_pair *pair)
{
	if (!sd.second && !is_right(pair, &sd.own))
		return false;
	if (!sd.second) {
		sd.second = true;
		return true;
	}
	adopt(pair);
	if (sd.locked) { /* under the old one, and it is what unlocks */
		sd_answer(sd.deriver, EACCES, "all is locked: unlock first");
		return false;
	}
	sd.own = sd.next;
	sd_log(LOG_NOTICE, "another passphrase from now on");
	sd_answer(sd.deriver, 0, "another passphrase from now on");
	return false;
}

/* Whoever asked and went away has changed his mind; but a wrong passphrase counts. */
static void
conclude(const struct sd_pair *pair)
{
	struct sm_wire_ask *a = &sd.phrase->ask;
	bool more = false;

	switch (a->command) {
	case SM_WIRE_DO_UNLOCK:
		if (!sd.locked)
			sd_answer(sd.deriver, EINVAL, "nothing is locked");
		else if (is_right(pair, &sd.now) && sd.deriver)
			sd_job_unlock(sd.deriver, pair);
		break;
	case SM_WIRE_PASSWD:
		more = change_phrase(pair);
		break;
	default:
		adopt(pair);
		if (sd.locked)
			sd_answer(sd.deriver, EALREADY, "locked meanwhile, by another passphrase");
		else if (sd.deriver)
			sd_job_lock(sd.deriver, &sd.next);
	}
	if (more && sd.deriver)
		derive(a->fresh, a->fresh_bytes, NULL);
	else
		forget_phrase();
}

static void
end_phrase(void)
{
	struct sd_pair *pair;
	int e = sd_derive_end(&pair);

	if (e) {
		sd_answer(sd.deriver, e, "%s", no_memory);
		forget_phrase();
		return;
	}
	conclude(pair);
	secfree(pair);
}

/* ------------------------------------------------------------------------------- turns */

static void
drop(struct sd_peer *asker, pid_t pid)
{
	unsigned n = 0;

	if (sd.locked) {
		sd_answer(asker, EACCES, "all is locked: unlock first");
		return;
	}
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (p->gone || p->who.pid != pid || (p->stage != SD_OPEN && p->stage != SD_PURGED))
			continue;
		sm_wire_begin(sd.out, SM_WIRE_DROP, 0);
		p->stage = SD_DROPPED;
		p->until = sd_now() + SD_HELLO_MS;
		sd_peer_send(p, sd.out);
		n++;
	}
	if (n == 0) {
		sd_answer(asker, ESRCH, "no client has pid %d: see status", (int)pid);
		return;
	}
	sd_log(LOG_NOTICE, "pid %d is on its own from now on", (int)pid);
	sd_answer(asker, 0, "pid %d is on its own from now on", (int)pid);
}

/* What can be said without a passphrase being tried; false: nothing, try it. */
static bool
answer_now(struct sd_peer *p, const struct sm_wire_ask *a)
{
	if (a->command == SM_WIRE_DO_LOCK && sd.locked)
		sd_answer(p, 0, "locked already");
	else if (a->command == SM_WIRE_DO_LOCK && a->phrase_bytes == 0 && !sd.own.set)
		sd_answer(p, ENOKEY,
			"there is no passphrase: lock --phrase takes one, or set one"
			" by passwd");
	else if (a->command == SM_WIRE_DO_UNLOCK && !sd.locked)
		sd_answer(p, EINVAL, "nothing is locked");
	else if (a->command == SM_WIRE_PASSWD && sd.locked)
		sd_answer(p, EACCES, "all is locked: unlock first");
	else if (a->command == SM_WIRE_PASSWD && a->fresh_bytes == 0)
		sd_answer(p, EINVAL, "the new passphrase is empty: use a longer one");
	else
		return false;
	return true;
}

/* False: it waits. */
static bool
start(struct sd_peer *p, int64_t now)
{
	const struct sm_wire_ask *a = &p->ask->ask;

	if (a->command == SM_WIRE_STATUS) {
		sd_status_begin(p);
		return true;
	}
	if (sd.job.kind != SD_NOTHING)
		return false;
	if (a->command == SM_WIRE_DO_DROP) {
		drop(p, a->pid);
		return true;
	}
	if (a->command == SM_WIRE_DO_PURGE) {
		sd_job_purge(p);
		return true;
	}
	if (answer_now(p, a))
		return true;
	if (a->command == SM_WIRE_DO_LOCK && a->phrase_bytes == 0) {
		sd_job_lock(p, &sd.own);
		return true;
	}
	if (sd.phrase || (a->command != SM_WIRE_DO_LOCK && now < sd.barred_until))
		return false;
	begin_phrase(p);
	return true;
}

static bool
try_start(struct sd_peer *p, int64_t now)
{
	bool started;

	if (secmalloc_decrypt(p->ask)) {
		sd_answer(p, errno, "%s", no_memory);
		return true;
	}
	started = start(p, now);
	if (!started)
		secmalloc_encrypt(p->ask);
	else if (p->ask) { /* all that it asked is known */
		secfree(p->ask);
		p->ask = NULL;
	}
	return started;
}

static bool
is_derived(void)
{
	struct pollfd f = { sd_derive_fd(), POLLIN, 0 };

	return f.fd >= 0 && poll(&f, 1, 0) == 1;
}

void
sd_questions_look(int64_t now)
{
	if (sd.phrase && sd.job.kind == SD_NOTHING && is_derived())
		end_phrase();
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (p->gone)
			continue;
		if (p->stage == SD_ASKED)
			try_start(p, now);
		else if (p->stage == SD_COUNTING)
			sd_status_look(p, now);
	}
}
