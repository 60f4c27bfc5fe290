/*
 * check_contract_daemon_run.c - programs that know nothing, under a daemon: secmalloc-run --daemon
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * All the time each of them, and what they fork and start, is locked and unlocked again.
 */
#include "daemon.h"
#include <poll.h>

enum { MOST = 128, REFUSED = 2 };

static struct peer peers[MOST];
static size_t n_peers;

static void
runs(void *part)
{
	const char *build = getenv("top_builddir");
	char preload[512], how[512], victim[512];

	snprintf(preload, sizeof(preload), "%s/.libs/libsecmalloc-preload.so", build ? build : ".");
	snprintf(victim, sizeof(victim), "%s/tests/run_victim", build ? build : ".");
	snprintf(how, sizeof(how), "mode=thread,clear=1048576,daemon=%s", here.path);
	MUST(access(preload, R_OK) == 0);
	setenv("LD_PRELOAD", preload, 1);
	setenv("SECMALLOC_RUN", how, 1);
	execl(victim, victim, (const char *)part, (char *)NULL);
}

static bool
comes(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) > 0;
}

static void
welcome_who_comes(void)
{
	while (n_peers < MOST && comes(fake.fd, 0))
		fake_meet(&fake, &peers[n_peers++], SM_WIRE_DIE);
}

static void
forget(size_t i)
{
	fake_die(&peers[i]);
	peers[i] = peers[--n_peers];
}

/* Whoever ends meanwhile is forgotten. */
static bool
tell(struct peer *p, unsigned type)
{
	struct sm_wire_message m;

	sm_wire_begin(&m, type, ++p->serial);
	if (type == SM_WIRE_LOCK)
		m.lock.deadline_ms = FAKE_LOCK_MS;
	else
		m.unlock = p->keys;
	if (sm_wire_send(p->fd, &m, NULL, 0) ||
		!fake_hear(p, &m, type == SM_WIRE_LOCK ? SM_WIRE_LOCKED : SM_WIRE_DONE))
		return false;
	ck_assert_uint_eq(type == SM_WIRE_LOCK ? m.locked.error : m.done.error, 0);
	if (type == SM_WIRE_LOCK)
		p->keys = m.locked;
	return true;
}

static void
cycle_all(void)
{
	for (size_t i = n_peers; i-- > 0;)
		if (!tell(&peers[i], SM_WIRE_LOCK))
			forget(i);
	usleep(500);
	for (size_t i = n_peers; i-- > 0;)
		if (!tell(&peers[i], SM_WIRE_UNLOCK))
			forget(i);
	usleep(2000);
}

static const char *const parts[] = { "family", "threads", "kernel", "forks", "fork_threads",
	"spawn" };

START_TEST(a_program_that_knows_nothing_comes_through)
{
	struct program g;
	int status = 0, cycles = 0;

	fake_begin(&fake, &g, runs, (void *)(uintptr_t)parts[_i]);
	while (waitpid(g.pid, &status, WNOHANG) == 0) {
		welcome_who_comes();
		cycle_all();
		cycles++;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == REFUSED) {
		printf("skipped: no thread may open pages here\n");
		return;
	}
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status 0x%x", parts[_i],
		(unsigned)status);
	ck_assert_int_gt(cycles, 1);
	while (n_peers > 0)
		forget(0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_daemon_run");
	TCase *tc = add_case(s, "run", 0);

	tcase_add_checked_fixture(tc, open_fake, close_fake);
	tcase_add_loop_test(tc, a_program_that_knows_nothing_comes_through, 0,
		(int)(sizeof(parts) / sizeof(parts[0])));
	return run(s);
}
