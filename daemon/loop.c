/*
 * loop.c - wait, hear everybody, see what is due
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { LISTENER, SIGNALS, WATCHER, DERIVER, FIXED };

static struct pollfd *fds; /* FIXED, then one a peer */
static size_t room;

static int
more_room(void)
{
	struct pollfd *more;

	if (sd.n + FIXED <= room)
		return 0;
	more = realloc(fds, (sd.n + FIXED) * 2 * sizeof(*more));
	if (!more)
		return ENOMEM;
	fds = more;
	room = (sd.n + FIXED) * 2;
	return 0;
}

static void
earlier(int64_t *when, int64_t t)
{
	if (t && (*when == 0 || t < *when))
		*when = t;
}

static bool
waits_for_watcher(void)
{
	for (size_t i = 0; i < sd.n; i++)
		if (sd.peers[i]->stage == SD_WAITING && !sd.peers[i]->told_watcher)
			return true;
	return false;
}

static struct pollfd
poll_peer(const struct sd_peer *p)
{
	if (p->stage == SD_DYING && p->who.pidfd >= 0)
		return (struct pollfd){ p->who.pidfd, POLLIN, 0 };
	if (p->stage == SD_DYING)
		return (struct pollfd){ p->fd, 0, 0 };
	if (p->stage == SD_LEAVING)
		return (struct pollfd){ p->lifeline, 0, 0 };
	return (struct pollfd){ p->fd, (short)(POLLIN | (p->first ? POLLOUT : 0)), 0 };
}

/* Returns: when something is due; 0: never. */
static int64_t
prepare(int64_t now)
{
	int64_t due = 0;

	if (sd.deaf_until && sd.deaf_until <= now)
		sd.deaf_until = 0;
	fds[LISTENER] = (struct pollfd){ sd.deaf_until ? -1 : sd.listener, POLLIN, 0 };
	fds[SIGNALS] = (struct pollfd){ sd.signals, POLLIN, 0 };
	fds[WATCHER] = (struct pollfd){ sd_watcher_fd(),
		(short)(POLLIN | (waits_for_watcher() ? POLLOUT : 0)), 0 };
	fds[DERIVER] = (struct pollfd){ sd.job.kind ? -1 : sd_derive_fd(), POLLIN, 0 };
	earlier(&due, sd.deaf_until);
	if (sd.job.kind)
		earlier(&due, sd.job.until);
	if (sd.barred_until > now)
		earlier(&due, sd.barred_until);
	for (size_t i = 0; i < sd.n; i++) {
		fds[FIXED + i] = poll_peer(sd.peers[i]);
		earlier(&due, sd.peers[i]->until);
	}
	return due;
}

static int
timeout(int64_t due, int64_t now)
{
	if (sd.again)
		return 0;
	if (due == 0)
		return -1;
	if (due <= now)
		return 0;
	return due - now > INT32_MAX ? INT32_MAX : (int)(due - now);
}

static void
hear_signal(void)
{
	struct signalfd_siginfo s;

	if (read(sd.signals, &s, sizeof(s)) == sizeof(s)) {
		sd_log(LOG_NOTICE, "signal %u: ending", s.ssi_signo);
		sd.ends = true;
	}
}

static void
hear_peer(struct sd_peer *p, short what)
{
	if (p->gone || !what)
		return;
	if (p->stage == SD_DYING) { /* it is dead, or has hung up */
		p->gone = true;
		return;
	}
	if (p->stage == SD_LEAVING) {
		sd_peer_left(p, false);
		return;
	}
	if (what & POLLOUT)
		sd_peer_flush(p);
	if (!p->gone && what & (POLLIN | POLLHUP | POLLERR))
		sd_peer_hear(p);
}

static void
hear_all(void)
{
	size_t n = sd.n; /* those who come now are heard in the next round */

	if (fds[SIGNALS].revents)
		hear_signal();
	if (fds[WATCHER].revents & (POLLIN | POLLHUP | POLLERR))
		sd_watcher_news();
	for (size_t i = 0; i < n; i++)
		hear_peer(sd.peers[i], fds[FIXED + i].revents);
	if (fds[LISTENER].revents)
		sd_peers_accept();
}

static void
see_what_is_due(void)
{
	int64_t now = sd_now();

	sd.again = false;
	for (size_t i = 0; i < sd.n; i++) {
		struct sd_peer *p = sd.peers[i];

		if (!p->gone && p->until && p->until <= now && p->stage != SD_COUNTING)
			sd_peer_time(p);
	}
	sd_job_look(now);
	sd_questions_look(now);
	sd_clients_admit();
	for (size_t i = 0; i < sd.n; i++)
		if (sd.peers[i]->stage == SD_ANSWERED && !sd.peers[i]->first)
			sd.peers[i]->gone = true;
	sd_peers_sweep();
}

int
sd_loop(void)
{
	while (!sd.ends) {
		int64_t now = sd_now();

		if (more_room())
			sd_doom("no memory for one more client");
		if (poll(fds, sd.n + FIXED, timeout(prepare(now), now)) < 0) {
			if (errno != EINTR)
				sd_doom("poll failed");
			continue;
		}
		hear_all();
		see_what_is_due();
	}
	return 0;
}
