/*
 * main.c - secmallocd: the keys of all of a user's programs, taken away by one word
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SD_WITHOUT /* protections that a test does without, to see what it would not */
#define SD_WITHOUT 0
#endif

struct sd sd = { .listener = -1, .signals = -1 };

static char place[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* of the socket, if it is ours */

static _Noreturn void
give_up(int status)
{
	if (*place)
		unlink(place);
	exit(status);
}

/* No answer is waited for: those that are held die, and the lifelines see to those that cannot. */
void
sd_doom(const char *why)
{
	for (size_t i = 0; i < sd.n; i++)
		if (sd_peer_is_held(sd.peers[i]) || (sd.locked && sd.peers[i]->stage == SD_OPEN))
			sd_peer_kill(sd.peers[i]);
	secmalloc_purge();
	sd_log(LOG_CRIT, "%s: ending, and with it whoever is locked", why); /* syslog may wait */
	give_up(1);
}

/* ------------------------------------------------------------------------------- start */

static void
start_library(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.without = SD_WITHOUT;
	if (secmalloc_init(&c)) {
		sd_log(LOG_ERR, "%s", secmalloc_error());
		exit(1);
	}
	sd.in = secmalloc(sizeof(*sd.in));
	sd.out = secmalloc(sizeof(*sd.out));
	if (!sd.in || !sd.out || sodium_init() < 0) {
		sd_log(LOG_ERR, "no memory for a message: %s", secmalloc_error());
		exit(1);
	}
}

static const char *
cure_of(int e)
{
	switch (e) {
	case EADDRINUSE:
		return "another secmallocd runs there, or it is no socket: use another --socket";
	case EACCES:
		return "its folder must be yours and closed to others: chmod 700";
	case ENOENT:
		return "there is no such folder: set XDG_RUNTIME_DIR, or use --socket";
	case ENAMETOOLONG:
		return "use a shorter --socket";
	case ENOSPC:
		return "the disk is full: free some space, or use another --socket";
	case EROFS:
		return "nothing can be written there: use another --socket";
	default:
		return "use another --socket";
	}
}

static void
start_socket(void)
{
	int e = sd_service_socket(&sd.listener);

	if (e)
		exit(1);
	if (sd.listener >= 0)
		return;
	e = sm_wire_path(sd.o.socket, place, sizeof(place));
	if (e == 0)
		e = sm_wire_listen(sd.o.socket, &sd.listener);
	if (e) {
		sd_log(LOG_ERR, "%s: %s: %s", *place ? place : "the socket", strerror(e),
			cure_of(e));
		exit(1);
	}
}

static void
start_signals(void)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGTERM);
	sigaddset(&s, SIGINT);
	sigaddset(&s, SIGHUP);
	sigprocmask(SIG_BLOCK, &s, NULL);
	signal(SIGPIPE, SIG_IGN);
	sd.signals = signalfd(-1, &s, SFD_CLOEXEC | SFD_NONBLOCK);
	if (sd.signals < 0) {
		sd_log(LOG_ERR, "no descriptor for signals: %s", strerror(errno));
		give_up(1);
	}
}

static void
start_sandbox(void)
{
	char folder[sizeof(place)], *end;
	int e;

	memcpy(folder, place, sizeof(folder));
	end = strrchr(folder, '/');
	if (end)
		*end = 0;
	e = sd_sandbox(end ? folder : NULL);
	sd.sandboxed = e == 0;
	if (e)
		sd_log(LOG_WARNING, "no sandbox (%s): %s", sd_sandbox_name, strerror(e));
}

/* The watcher is forked before there is anything that it must not have. */
static void
start(int argc, char **argv)
{
	int e;

	sd_standard_fds();
	sd_options_read(argc, argv, &sd.o);
	sd_log_open(sd.o.foreground && sd.o.to_syslog);
	if (!sd.o.foreground)
		sd_background();
	sd_harden();
	e = sd_watcher_begin();
	if (e) {
		sd_log(LOG_ERR, "no watcher: %s; free some memory or processes", strerror(e));
		exit(1);
	}
	start_library();
	start_socket();
	if (sd_phrase_start(sd.o.phrase_fd, &sd.own))
		give_up(1);
	start_signals();
	if (!sd.o.foreground)
		sd_log_open(true);
	sd_background_detach();
	start_sandbox();
	sd_log(LOG_NOTICE, "ready: passphrase %s, sandbox %s", sd.own.set ? "set" : "none",
		sd.sandboxed ? sd_sandbox_name : "none");
	sd_background_done();
	sd_service_tell("READY=1");
}

int
main(int argc, char **argv)
{
	int status;

	start(argc, argv);
	status = sd_loop();
	sd_service_tell("STOPPING=1");
	if (sd.locked || sd.job.kind)
		sd_doom("told to end while all is locked");
	give_up(status);
}
