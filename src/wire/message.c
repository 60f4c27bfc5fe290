/*
 * message.c - the table of messages, and what may be believed of one. Pure: no system call.
 */
#include "wire/wire.h"

#include <errno.h>
#include <string.h>

#define BODY(field) (sizeof(((struct sm_wire_message *)0)->field))
#define FROM_PEER (SM_WIRE_CLIENT | SM_WIRE_CONTROL)

static const char *sound_hello(const struct sm_wire_message *m);
static const char *sound_welcome(const struct sm_wire_message *m);
static const char *sound_parcel(const struct sm_wire_message *m);
static const char *sound_tally(const struct sm_wire_message *m);
static const char *sound_ask(const struct sm_wire_message *m);
static const char *sound_row(const struct sm_wire_message *m);
static const char *sound_answer(const struct sm_wire_message *m);

static const struct kind {
	const char *name;
	size_t body;
	unsigned from; /* enum sm_wire_role */
	size_t fds;
	const char *(*sound)(const struct sm_wire_message *); /* NULL: whatever is in it will do */
} kinds[SM_WIRE_TYPES] = {
	[SM_WIRE_HELLO] = { "hello", BODY(hello), FROM_PEER, 0, sound_hello },
	[SM_WIRE_WELCOME] = { "welcome", BODY(welcome), SM_WIRE_DAEMON, SM_WIRE_LIFELINES,
		sound_welcome },
	[SM_WIRE_LOCK] = { "lock", BODY(lock), SM_WIRE_DAEMON, 0, NULL },
	[SM_WIRE_LOCKED] = { "locked", BODY(locked), SM_WIRE_CLIENT, 0, sound_parcel },
	[SM_WIRE_UNLOCK] = { "unlock", BODY(unlock), SM_WIRE_DAEMON, 0, sound_parcel },
	[SM_WIRE_DONE] = { "done", BODY(done), SM_WIRE_CLIENT, 0, NULL },
	[SM_WIRE_PURGE] = { "purge", 0, SM_WIRE_DAEMON, 0, NULL },
	[SM_WIRE_COUNT] = { "count", 0, SM_WIRE_DAEMON, 0, NULL },
	[SM_WIRE_TALLY] = { "tally", BODY(tally), SM_WIRE_CLIENT, 0, sound_tally },
	[SM_WIRE_DROP] = { "drop", 0, SM_WIRE_DAEMON, 0, NULL },
	[SM_WIRE_ASK] = { "ask", BODY(ask), SM_WIRE_CONTROL, 0, sound_ask },
	[SM_WIRE_ROW] = { "row", BODY(row), SM_WIRE_DAEMON, 0, sound_row },
	[SM_WIRE_ANSWER] = { "answer", BODY(answer), SM_WIRE_DAEMON, 0, sound_answer },
};

_Static_assert(sizeof(struct sm_wire_head) == 16, "a head has no holes");
_Static_assert(sizeof(struct sm_wire_tally) == 40, "nor has a tally");
_Static_assert(sizeof(struct sm_wire_ask) == 16 + 2 * SM_WIRE_PHRASE_BYTES, "nor a question");
_Static_assert(sizeof(struct sm_wire_row) == 48 + SM_WIRE_NAME_BYTES, "nor a row");
_Static_assert(sizeof(struct sm_wire_parcel) == 8 + SM_WIRE_PARCEL_BYTES, "nor a parcel");
_Static_assert(offsetof(struct sm_wire_message, hello) == sizeof(struct sm_wire_head),
	"a body follows its head at once");

static const struct kind *
kind_of(unsigned type)
{
	return type < SM_WIRE_TYPES && kinds[type].name ? &kinds[type] : NULL;
}

const char *
sm_wire_name(unsigned type)
{
	const struct kind *k = kind_of(type);

	return k ? k->name : "?";
}

void
sm_wire_begin(struct sm_wire_message *m, enum sm_wire_type type, uint32_t serial)
{
	memset(m, 0, sizeof(*m));
	m->head = (struct sm_wire_head){ SM_WIRE_MAGIC, SM_WIRE_VERSION, (uint16_t)type,
		(uint32_t)(sizeof(m->head) + kinds[type].body), serial };
}

/* ------------------------------------------------------------------ bodies */

static bool
is_text(const char *s, size_t bytes)
{
	return memchr(s, 0, bytes) != NULL;
}

static const char *
sound_hello(const struct sm_wire_message *m)
{
	if (m->hello.role != SM_WIRE_CLIENT && m->hello.role != SM_WIRE_CONTROL)
		return "a role that there is not";
	return is_text(m->hello.name, sizeof(m->hello.name)) ? NULL : "a name without end";
}

static const char *
sound_welcome(const struct sm_wire_message *m)
{
	return m->welcome.policy < SM_WIRE_POLICIES ? NULL : "a policy that there is not";
}

static const char *
sound_parcel(const struct sm_wire_message *m)
{
	if (m->locked.bytes > SM_WIRE_PARCEL_BYTES)
		return "a parcel that is too large";
	return m->locked.error && m->locked.bytes ? "a parcel beside an error" : NULL;
}

static const char *
sound_tally(const struct sm_wire_message *m)
{
	return m->tally.state < SM_WIRE_STATES && m->tally.none == 0 ? NULL :
								      "a state that there is not";
}

static const char *
sound_ask(const struct sm_wire_message *m)
{
	if (m->ask.command >= SM_WIRE_COMMANDS)
		return "a command that there is not";
	if (m->ask.phrase_bytes > SM_WIRE_PHRASE_BYTES || m->ask.fresh_bytes > SM_WIRE_PHRASE_BYTES)
		return "a passphrase that is too long";
	return NULL;
}

static const char *
sound_row(const struct sm_wire_message *m)
{
	if (m->row.tally.state >= SM_WIRE_STATES || m->row.tally.none || m->row.none)
		return "a state that there is not";
	return is_text(m->row.name, sizeof(m->row.name)) ? NULL : "a name without end";
}

static const char *
sound_answer(const struct sm_wire_message *m)
{
	if (m->answer.locked > 1)
		return "neither locked nor not";
	return is_text(m->answer.text, sizeof(m->answer.text)) ? NULL : "a text without end";
}

/* ------------------------------------------------------------------- whole */

static const char *
fault_of(const struct sm_wire_message *m, size_t n, enum sm_wire_role from, size_t fds)
{
	const struct kind *k;

	if (n < sizeof(m->head))
		return "too short for a head";
	if (m->head.magic != SM_WIRE_MAGIC)
		return "not one of ours";
	if (m->head.version != SM_WIRE_VERSION)
		return "of another version: update secmalloc on both sides";
	k = kind_of(m->head.type);
	if (!k)
		return "of a type that there is not";
	if (!(k->from & (unsigned)from))
		return "not his to send";
	if (n != sizeof(m->head) + k->body || m->head.bytes != n)
		return "not of the length of its type";
	if (fds != k->fds)
		return "with more or fewer descriptors than belong to it";
	return k->sound ? k->sound(m) : NULL;
}

int
sm_wire_check(const struct sm_wire_message *m, size_t n, enum sm_wire_role from, size_t fds,
	const char **why)
{
	const char *fault = fault_of(m, n, from, fds);

	if (why)
		*why = fault;
	return fault ? EPROTO : 0;
}
