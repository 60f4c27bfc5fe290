/*
 * daemon.h - a daemon of few words, for tests of what a program does at its word
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * The test is the daemon, a child of it the program: fake_begin starts one, fake_meet welcomes it,
 * fake_lock and the others say one thing and hear the answer.
 */
#ifndef TESTS_DAEMON_H
#define TESTS_DAEMON_H

#include "contract.h"
#include "wire/wire.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { FAKE_PATIENCE_MS = 45000, FAKE_LOCK_MS = 30000 }; /* where many tests run at once */

/** Where the daemon listens. */
struct fake {
	char folder[32], path[48];
	int fd;
};

/** A program, as its daemon sees it. */
struct peer {
	int fd;
	int lifeline[2]; /* the ends that are held here */
	pid_t pid;
	uint32_t serial;
	char name[SM_WIRE_NAME_BYTES];
	struct sm_wire_parcel keys;
};

/** A child that runs a body, and what it says on stderr. */
struct program {
	pid_t pid;
	int err;
	int up, down; /* pipes: the body writes a byte to say that it is there, and reads one */
};

static struct {
	const char *path;
	int up, down;
} here; /* of the child */

/* ------------------------------------------------------------------- daemon */

static inline void
fake_open(struct fake *f)
{
	strcpy(f->folder, "/tmp/sm-fake.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(f->folder));
	snprintf(f->path, sizeof(f->path), "%s/daemon", f->folder);
	ck_assert_int_eq(sm_wire_listen(f->path, &f->fd), 0);
}

static inline void
fake_close(struct fake *f)
{
	close(f->fd);
	unlink(f->path);
	rmdir(f->folder);
}

/** open_fake, close_fake - the one that a test is about: its fixture */
static struct fake fake;

static inline void
open_fake(void)
{
	fake_open(&fake);
}

static inline void
close_fake(void)
{
	fake_close(&fake);
}

static inline void
fake_await(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	ck_assert_msg(poll(&p, 1, FAKE_PATIENCE_MS) == 1, "nothing came");
}

/** fake_hear - one message of this type, or it is closed: false */
static inline bool
fake_hear(struct peer *p, struct sm_wire_message *m, unsigned type)
{
	struct sm_wire_from from;
	const char *why;

	fake_await(p->fd);
	if (sm_wire_receive(p->fd, m, &from) || from.n == 0)
		return false;
	ck_assert_msg(sm_wire_check(m, from.n, SM_WIRE_CLIENT, from.fds, &why) == 0, "%s", why);
	ck_assert_uint_eq(m->head.type, type);
	return true;
}

/** fake_accept - it has said hello, and waits for its welcome */
static inline void
fake_accept(struct fake *f, struct peer *p)
{
	struct sm_wire_message m;
	struct sm_wire_peer who;

	*p = (struct peer){ .fd = -1 };
	fake_await(f->fd);
	ck_assert_int_eq(sm_wire_accept(f->fd, &p->fd, &who), 0);
	p->pid = who.pid;
	if (who.pidfd >= 0)
		close(who.pidfd);
	ck_assert(fake_hear(p, &m, SM_WIRE_HELLO));
	ck_assert_uint_eq(m.hello.role, SM_WIRE_CLIENT);
	memcpy(p->name, m.hello.name, sizeof(p->name));
}

static inline void
fake_welcome(struct peer *p, unsigned policy)
{
	struct sm_wire_message m;
	int ends[2][2], fds[2];

	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(pipe2(ends[i], O_CLOEXEC), 0);
		fds[i] = ends[i][0];
		p->lifeline[i] = ends[i][1];
	}
	sm_wire_begin(&m, SM_WIRE_WELCOME, 0);
	m.welcome.policy = policy;
	ck_assert_int_eq(sm_wire_send(p->fd, &m, fds, 2), 0);
	close(fds[0]);
	close(fds[1]);
}

static inline void
fake_meet(struct fake *f, struct peer *p, unsigned policy)
{
	fake_accept(f, p);
	fake_welcome(p, policy);
}

static inline void
fake_say(struct peer *p, struct sm_wire_message *m)
{
	ck_assert_int_eq(sm_wire_send(p->fd, m, NULL, 0), 0);
}

/** fake_tell - a message without a body */
static inline void
fake_tell(struct peer *p, unsigned type)
{
	struct sm_wire_message m;

	sm_wire_begin(&m, type, ++p->serial);
	fake_say(p, &m);
}

/** fake_lock - its error; the keys are kept here */
static inline int
fake_lock(struct peer *p, unsigned ms)
{
	struct sm_wire_message m;

	sm_wire_begin(&m, SM_WIRE_LOCK, ++p->serial);
	m.lock.deadline_ms = ms;
	fake_say(p, &m);
	ck_assert(fake_hear(p, &m, SM_WIRE_LOCKED));
	ck_assert_uint_eq(m.head.serial, p->serial);
	p->keys = m.locked;
	return (int)m.locked.error;
}

static inline void
fake_give_back(struct peer *p)
{
	struct sm_wire_message m;

	sm_wire_begin(&m, SM_WIRE_UNLOCK, ++p->serial);
	m.unlock = p->keys;
	m.unlock.error = 0;
	fake_say(p, &m);
}

/** fake_done - the error of what it has done */
static inline int
fake_done(struct peer *p)
{
	struct sm_wire_message m;

	ck_assert(fake_hear(p, &m, SM_WIRE_DONE));
	ck_assert_uint_eq(m.head.serial, p->serial);
	return (int)m.done.error;
}

static inline int
fake_unlock(struct peer *p)
{
	fake_give_back(p);
	return fake_done(p);
}

static inline struct sm_wire_tally
fake_count(struct peer *p)
{
	struct sm_wire_message m;

	fake_tell(p, SM_WIRE_COUNT);
	ck_assert(fake_hear(p, &m, SM_WIRE_TALLY));
	ck_assert_uint_eq(m.head.serial, p->serial);
	return m.tally;
}

/** fake_die - as a daemon that is killed, the watcher with it */
static inline void
fake_die(struct peer *p)
{
	close(p->fd);
	close(p->lifeline[0]);
	close(p->lifeline[1]);
}

/* ------------------------------------------------------------------ program */

/** fake_begin - body(arg) in a child, that exits 0 if it returns */
static inline void
fake_begin(struct fake *f, struct program *g, void (*body)(void *), void *arg)
{
	const struct rlimit none = { 0, 0 };
	int err[2], up[2], down[2];

	ck_assert_int_eq(pipe2(err, O_CLOEXEC) | pipe2(up, O_CLOEXEC) | pipe2(down, O_CLOEXEC), 0);
	fflush(NULL);
	g->pid = fork();
	ck_assert_int_ge(g->pid, 0);
	if (g->pid == 0) {
		setrlimit(RLIMIT_CORE, &none);
		if (getenv("FAKE_SHOW") == NULL)
			dup2(err[1], STDERR_FILENO);
		here.path = f->path;
		here.up = up[1];
		here.down = down[0];
		close(up[0]);
		close(down[1]);
		close(f->fd);
		alarm(55);
		body(arg);
		_exit(0);
	}
	close(err[1]);
	close(up[1]);
	close(down[0]);
	g->err = err[0];
	g->up = up[0];
	g->down = down[1];
}

/** fake_there - the body has called say_there. fake_go_on - its await_word returns. */
static inline void
fake_there(struct program *g)
{
	char c;

	fake_await(g->up);
	ck_assert_msg(read(g->up, &c, 1) == 1, "the program has ended");
}

static inline void
fake_go_on(struct program *g)
{
	ck_assert_int_eq(write(g->down, "", 1), 1);
}

static inline struct outcome
fake_end(struct program *g)
{
	struct outcome o = { 0, "" };

	reap(&o, g->pid, g->err);
	close(g->up);
	close(g->down);
	return o;
}

static inline void
fake_ends_well(struct program *g)
{
	const struct outcome o = fake_end(g);

	ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0, "status 0x%x: %s",
		(unsigned)o.status, o.text);
}

/** fake_is_killed - by SIGKILL, after these words ("" for none, NULL for any) */
static inline void
fake_is_killed(struct program *g, const char *words)
{
	const struct outcome o = fake_end(g);

	ck_assert_msg(WIFSIGNALED(o.status) && WTERMSIG(o.status) == SIGKILL, "status 0x%x: %s",
		(unsigned)o.status, o.text);
	if (words == NULL)
		return;
	if (*words)
		ck_assert_msg(strstr(o.text, words) != NULL, "it said: %s", o.text);
	else
		ck_assert_str_eq(o.text, "");
}

/* In the child. */

static inline void
say_there(void)
{
	MUST(write(here.up, "", 1) == 1);
}

static inline void
await_word(void)
{
	char c;

	MUST(read(here.down, &c, 1) == 1);
}

static inline struct secmalloc_config
daemon_config(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.daemon = here.path;
	c.without = SECMALLOC_HIDDEN; /* so that it can be looked at */
	return c;
}

static inline void
start_with_daemon(void)
{
	const struct secmalloc_config c = daemon_config();

	MUST(secmalloc_init(&c) == 0);
}

static inline int
threads_of(pid_t pid)
{
	char path[40];
	DIR *d;
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	while (d != NULL && readdir(d) != NULL)
		n++;
	if (d != NULL)
		closedir(d);
	return n - 2;
}

#endif /* TESTS_DAEMON_H */
