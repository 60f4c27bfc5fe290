#include "front/inside.h"

#include "fault/fault.h"
#include "key/key.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

/*
 * A thread listens to the daemon, and to the two lifelines, for as long as the library runs. It calls
 * nothing that allocates or prints: other threads stand still wherever they were.
 */

enum { LISTENED = SM_END_BELL + 1, STOP_MS = 1000, LAST_WORDS_MS = 1000 };

_Static_assert(sizeof(struct sm_parcel) <= SM_WIRE_PARCEL_BYTES, "the keys fit a message");

/** What keys pass through. */
struct page {
	struct sm_wire_message message;
	struct sm_parcel parcel;
};

static struct {
	bool runs; /* the thread, which may have ended by itself */
	bool apart; /* it is one that the C library does not know */
	_Atomic bool ends;
	pthread_t thread;
	struct sm_raw raw;
	void *reserved;
	struct sm_area area;
	_Atomic(struct page *) page; /* shown to a purge */
	/* Of the thread alone. */
	bool locked;
	struct sm_wire_tally tally; /* of what is locked */
} d;

bool
sm_daemon_ends(void)
{
	return atomic_load(&d.ends);
}

/* --------------------------------------------------------------------- end */

/* Where nobody reads it, and there is no room, that is no reason to live on. */
static void
say(const char *line)
{
	if (!sm_os_kill_soon(LAST_WORDS_MS))
		return;
	if (write(STDERR_FILENO, line, strlen(line)) < 0)
		return;
}

_Noreturn static void
die(const char *line)
{
	if (!d.locked && sm_park_needed()) { /* what works on zeros might do harm with them */
		sm_park_shut();
		(void)sm_park_all(sm_os_now_ms() + STOP_MS);
	}
	secmalloc_purge();
	say(line);
	for (;;)
		sm_os_kill_self();
}

/* Locked, the key is lost for good. Returns: the thread ends. */
static bool
lose_daemon(void)
{
	if (d.locked || sm_end_policy() == SM_WIRE_DIE)
		die("secmalloc: the daemon is gone: everything was purged, and this program ends\n");
	sm_end_alone();
	return false;
}

/* ---------------------------------------------------------------- messages */

static bool
answer(struct sm_wire_message *m)
{
	int e = sm_wire_send(sm_end_of(SM_END_SOCKET), m, NULL, 0);

	sm_wipe(m, sizeof(*m));
	return e == 0 || lose_daemon();
}

static bool
done(struct sm_wire_message *m, uint32_t serial, int error)
{
	sm_wire_begin(m, SM_WIRE_DONE, serial);
	m->done.error = (uint32_t)error;
	return answer(m);
}

static void
arm(void)
{
	for (int i = 0; i < SM_WIRE_LIFELINES; i++)
		if (sm_wire_arm(sm_end_of(SM_END_LIFELINE + i)))
			(void)lose_daemon();
}

static void
disarm(void)
{
	for (int i = 0; i < SM_WIRE_LIFELINES; i++)
		sm_wire_disarm(sm_end_of(SM_END_LIFELINE + i));
}

static void
note_tally(void)
{
	sm_stats_tally(&d.tally);
	d.tally.bytes_clear = 0;
	d.tally.chunks_closed = d.tally.chunks;
	d.tally.state = SM_WIRE_IS_LOCKED;
}

static bool
lock(struct page *p, uint32_t serial)
{
	struct sm_wire_message *m = &p->message;
	unsigned ms = m->lock.deadline_ms;
	bool given = false;
	int e;

	note_tally();
	e = sm_halt_begin(ms, &p->parcel, &given);
	if (e == EBADMSG)
		die("secmalloc: what was closed for the daemon could not be opened again: everything "
		    "was purged, and this program ends\n");
	if (e && sm_daemon_ends()) /* the program stops the library, and hangs up */
		return false;
	sm_wire_begin(m, SM_WIRE_LOCKED, serial);
	m->locked.error = (uint32_t)e;
	if (e == 0) {
		d.locked = true;
		arm();
	}
	if (given) {
		m->locked.bytes = sizeof(p->parcel);
		memcpy(m->locked.parcel, &p->parcel, sizeof(p->parcel));
		sm_wipe(&p->parcel, sizeof(p->parcel));
		sm_wipe_traces(); /* memcpy leaves keys in the vector registers */
	}
	return answer(m);
}

static bool
unlock(struct page *p, uint32_t serial)
{
	struct sm_wire_message *m = &p->message;
	int e;

	memcpy(&p->parcel, m->unlock.parcel, sizeof(p->parcel));
	sm_wipe(m, sizeof(*m));
	sm_wipe_traces(); /* memcpy leaves keys in the vector registers */
	e = sm_halt_end(&p->parcel);
	sm_wipe(&p->parcel, sizeof(p->parcel));
	if (e) {
		(void)done(m, serial, e);
		die("secmalloc: with the keys that the daemon gave back not everything could be opened: "
		    "everything was purged, and this program ends\n");
	}
	disarm();
	d.locked = false;
	return done(m, serial, 0);
}

static bool
purge(struct page *p, uint32_t serial)
{
	secmalloc_purge();
	if (d.locked) {
		(void)sm_halt_end(&p->parcel);
		disarm();
		d.locked = false;
	}
	return done(&p->message, serial, 0);
}

static bool
count(struct sm_wire_message *m, uint32_t serial)
{
	sm_wire_begin(m, SM_WIRE_TALLY, serial);
	if (d.locked)
		m->tally = d.tally;
	else
		sm_stats_tally(&m->tally);
	if (sm_purged())
		m->tally.state = SM_WIRE_IS_PURGED;
	return answer(m);
}

/* Returns: false: the thread ends. */
static bool
obey(struct page *p)
{
	struct sm_wire_message *m = &p->message;
	uint32_t serial = m->head.serial;

	switch (m->head.type) {
	case SM_WIRE_LOCK:
		return d.locked ? lose_daemon() : lock(p, serial);
	case SM_WIRE_UNLOCK:
		return d.locked ? unlock(p, serial) : lose_daemon();
	case SM_WIRE_PURGE:
		return purge(p, serial);
	case SM_WIRE_COUNT:
		return count(m, serial);
	case SM_WIRE_DROP:
		if (d.locked)
			return lose_daemon();
		sm_end_alone();
		return false;
	default:
		return lose_daemon();
	}
}

static bool
hear(struct page *p)
{
	struct sm_wire_from from;
	int e = sm_wire_receive(sm_end_of(SM_END_SOCKET), &p->message, &from);
	bool goes_on;

	if (e == EAGAIN)
		return true;
	if (e || from.n == 0)
		return lose_daemon();
	if (sm_wire_check(&p->message, from.n, SM_WIRE_DAEMON, from.fds, NULL)) {
		sm_wire_close_fds(&from);
		return lose_daemon();
	}
	goes_on = obey(p);
	sm_wipe(&p->message, sizeof(p->message));
	return goes_on;
}

/* ------------------------------------------------------------------ thread */

static int
listen_on(void *unused)
{
	struct page *p = atomic_load(&d.page);
	bool goes_on = true;
	unsigned readable;
	int fd[LISTENED];

	(void)unused;
	sm_os_ours(true);
	for (int i = 0; i < LISTENED; i++)
		fd[i] = sm_end_of(i);
	while (goes_on && !atomic_load(&d.ends)) {
		int e = sm_wire_await(fd, LISTENED, 0, &readable);

		if (e == 0 && readable & 1u << SM_END_BELL)
			break;
		if (e || readable & (1u << SM_END_LIFELINE | 1u << SM_END_LIFELINE_TOO))
			goes_on = lose_daemon();
		else
			goes_on = hear(p);
	}
	sm_os_ours(false);
	return 0;
}

static void *
listen_in_pthread(void *unused)
{
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &(int){ 0 });
	(void)listen_on(unused);
	return NULL;
}

/* As those of keys. */
static int
obtain_page(void)
{
	const struct sm_config *c = sm_config();
	struct sm_wish wish = { .require = c->require,
		.without = c->without & ~SECMALLOC_FORKSAFE };
	size_t page = c->page_bytes, bytes = sm_round_up(sizeof(struct page), page);
	int e = sm_os_reserve(bytes + 2 * page, &d.reserved);

	if (e)
		return e;
	e = sm_os_obtain((unsigned char *)d.reserved + page, bytes, &wish, &d.area);
	if (e) {
		sm_os_unreserve(d.reserved, bytes + 2 * page);
		d.reserved = NULL;
		return e;
	}
	atomic_store(&d.page, (struct page *)(void *)d.area.base);
	return 0;
}

static void
give_page_back(void)
{
	size_t bytes = d.area.bytes + 2 * sm_os_page_bytes();

	if (!d.reserved)
		return;
	atomic_store(&d.page, NULL);
	sm_purge_await();
	sm_wipe(d.area.base, d.area.bytes);
	sm_os_release(&d.area);
	sm_os_unreserve(d.reserved, bytes);
	d.reserved = NULL;
}

static int
hang_bell(void)
{
	int ends[2];

	if (pipe(ends))
		return sm_fail(errno, "pipe failed (%d): raise RLIMIT_NOFILE", errno);
	for (int i = 0; i < 2; i++) {
		(void)fcntl(ends[i], F_SETFD, FD_CLOEXEC);
		sm_end_take(SM_END_BELL + i, ends[i]);
	}
	return 0;
}

static int
start_thread(void)
{
	int e;

	atomic_store(&d.ends, false);
	d.locked = false;
	d.apart = sm_host.unaware && sm_raw_here();
	e = d.apart ? sm_raw_start(&d.raw, listen_on) :
		      sm_helper_create(&d.thread, listen_in_pthread);
	d.runs = e == 0;
	return e ? sm_fail(EAGAIN, "the thread for the daemon could not be started (%d): raise "
				   "RLIMIT_NPROC", e) : 0;
}

int
sm_daemon_start(void)
{
	int e;

	if (!sm_end_connected())
		return 0;
	e = sm_park_start();
	if (e == 0)
		e = obtain_page();
	if (e == 0)
		e = hang_bell();
	if (e == 0)
		e = start_thread();
	return e;
}

static void
end_thread(void)
{
	if (!d.runs)
		return;
	atomic_store(&d.ends, true);
	if (write(sm_end_of(SM_END_ROPE), "", 1) != 1)
		sm_die_of("the descriptors of the daemon were closed: a program closes only its own",
			NULL);
	if (d.apart)
		sm_raw_join(&d.raw);
	else
		pthread_join(d.thread, NULL);
	d.runs = false;
}

void
sm_daemon_stop(void)
{
	end_thread();
	sm_end_close_all();
	give_page_back();
	sm_park_stop();
}

void
sm_daemon_forget(void)
{
	sm_end_close_all();
	if (d.runs && d.apart)
		sm_raw_forget(&d.raw);
	if (d.area.base)
		sm_os_cover(d.area.base, d.area.bytes, d.area.absent);
	d.area = (struct sm_area){ 0 };
	d.reserved = NULL; /* address space, left covered, as that of keys */
	atomic_store(&d.page, NULL);
	d.runs = d.locked = false;
	sm_park_forget();
}

SM_NO_TSAN void
sm_daemon_purge(void)
{
	struct page *p = atomic_load(&d.page);

	if (p) {
		sm_purge_wipe(&p->parcel, sizeof(p->parcel));
		sm_purge_wipe(p->message.locked.parcel, sizeof(p->message.locked.parcel));
	}
	if (!sm_park_needed())
		sm_park_open();
}
