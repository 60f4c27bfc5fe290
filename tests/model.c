/*
 * model.c - the interpreter of tapes: each operation on the library and on its model
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "model_compare.h"

/** struct step - one operation of the tape */
struct step {
	unsigned what;
	unsigned kind; /* of kinds */
	unsigned slot;
	unsigned spot;
	unsigned salt;
	size_t size;
};

volatile struct model_notes *model_notes;
int model_talks;

/* ------------------------------------------------------------------ steps */

static size_t
size_of(const unsigned char *b)
{
	const size_t v = b[3] | (size_t)b[4] << 8;

	if (b[2] < 144)
		return v % 130;
	if (b[2] < 192)
		return v % 2049;
	if (b[2] < 220)
		return ((size_t)16 << (v & 15) % 11) - 16 + (v >> 8) % 33;
	if (b[2] < 242)
		return v % (SHARED_MOST + 1);
	if (b[2] < 250)
		return v;
	return ((size_t)(b[2] - 250) << 16 | v) % (MODEL_SIZE_MOST + 1);
}

static struct step
step_of(const unsigned char *b)
{
	return (struct step){b[0], 0, b[1] % MODEL_SLOTS, b[3] | (unsigned)b[4] << 8, b[5],
		size_of(b)};
}

/* Whether ENOMEM is an honest answer to a wish for size bytes more. */
static int
may_run_out(size_t size)
{
	size_t bytes = size;

	for (unsigned i = 0; i < MODEL_SLOTS; i++)
		bytes += pieces[i].ptr ? pieces[i].size : 0;
	return now.tight || bytes > ROOMY_BYTES;
}

/* Whether ENOMEM is an honest answer to a wish to open p: RLIMIT_MEMLOCK binds all but root. */
static int
may_not_lock(const struct piece *p)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	struct rlimit r;

	HOLDS(secmalloc_stats(&s) == 0 && getrlimit(RLIMIT_MEMLOCK, &r) == 0);
	return geteuid() != 0 && r.rlim_cur != RLIM_INFINITY &&
		s.locked_bytes + window_most(p) > r.rlim_cur;
}

static int
is_alone(size_t size)
{
	return now.isolated || size > SHARED_MOST;
}

/* The step's kind was done, not passed over. */
static void
in_earnest(const struct step *s)
{
	if (model_notes)
		model_notes->kinds |= UINT32_C(1) << s->kind;
}

/* The step's slot, or the next one in use; NULL if no chunk is live. */
static struct piece *
pick(struct step *s)
{
	for (unsigned i = 0; i < MODEL_SLOTS; i++, s->slot = (s->slot + 1) % MODEL_SLOTS)
		if (pieces[s->slot].ptr)
			return &pieces[s->slot];
	return NULL;
}

static void
gone(struct piece *p)
{
	now.ghost = (uintptr_t)p->ptr;
	HOLDS(secmalloc_owns(p->ptr) == 0);
	memset(p, 0, sizeof(*p));
}

static void
do_free(struct step *s)
{
	struct piece *p = pick(s);

	if (p) {
		KEPT((secfree(p->ptr), 1));
		gone(p);
		in_earnest(s);
	}
}

static void
do_scribble(struct step *s)
{
	struct piece *p = pick(s);
	size_t from;

	if (!p || p->sealed || p->access != SECMALLOC_READWRITE || p->size == 0)
		return;
	from = s->salt & 1 ? s->spot % p->size : 0;
	for (size_t i = from; i < p->size; i++)
		content[s->slot][i] = (unsigned char)(s->salt + now.operation * 29 + i * 7 +
			(i >> 8) * 13 + 1);
	memcpy(p->ptr + from, content[s->slot] + from, p->size - from);
	in_earnest(s);
}

static void
admit(struct step *s, void *ptr, size_t align, int filled)
{
	struct piece *p = &pieces[s->slot];

	if (!ptr) {
		HOLDS(errno == ENOMEM && may_run_out(s->size));
		return;
	}
	HOLDS(errno == ENOTTY);
	*p = (struct piece){ptr, s->size, align < 16 ? 16 : align, s->size, 0,
		SECMALLOC_READWRITE, align > 16};
	in_earnest(s);
	if (!filled)
		memset(content[s->slot], 0, s->size);
	compare_neighbours(s->slot);
	compare_piece(s->slot);
	if (s->salt & 3)
		do_scribble(s);
}

static void
make_room(struct step *s)
{
	if (pieces[s->slot].ptr)
		do_free(s);
	errno = ENOTTY;
}

static void
do_malloc(struct step *s)
{
	make_room(s);
	admit(s, secmalloc(s->size), 1, 0);
}

static void
do_calloc(struct step *s)
{
	const size_t each = s->salt % 7 + 1;

	make_room(s);
	if (s->salt == 0)
		REFUSED(ENOMEM, seccalloc(SIZE_MAX / 2, 3 + s->size) == NULL);
	errno = ENOTTY;
	s->size -= s->size % each;
	admit(s, seccalloc(s->size / each, each), 1, 0);
}

static void
do_aligned(struct step *s)
{
	const size_t align = (size_t)1 << s->salt % 13;

	make_room(s);
	if (s->salt == 255)
		REFUSED(EINVAL, secaligned_alloc(align + 3 + (align == 1), s->size) == NULL);
	errno = ENOTTY;
	admit(s, secaligned_alloc(align, s->size), align, 0);
}

static void
do_strdup(struct step *s)
{
	char *text = (char *)scratch;

	make_room(s);
	if (s->size == 0)
		s->size = 1;
	for (size_t i = 0; i < s->size - 1; i++)
		text[i] = (char)((s->salt + i) % 255 + 1);
	text[s->size - 1] = '\0';
	memcpy(content[s->slot], text, s->size);
	admit(s, secstrdup(text), 1, 1);
}

static void
do_realloc(struct step *s)
{
	struct piece *p = pick(s), old;
	unsigned char *ptr;

	if (!p)
		return;
	old = *p;
	errno = ENOTTY;
	ptr = secrealloc(p->ptr, s->size);
	if (s->size == 0) {
		HOLDS(ptr == NULL && errno == ENOTTY);
		gone(p);
		return;
	}
	if (!ptr) {
		HOLDS(errno == ENOMEM && may_run_out(s->size));
		return;
	}
	HOLDS(errno == ENOTTY);
	p->ptr = ptr;
	p->size = s->size;
	if (s->size > old.size)
		memset(content[s->slot] + old.size, 0, s->size - old.size);
	p->perhaps_alone |= old.access != SECMALLOC_READWRITE ||
		(ptr == old.ptr && old.size > SHARED_MOST);
	if (p->most < p->size || ptr != old.ptr)
		p->most = p->size;
	in_earnest(s);
	if (ptr != old.ptr) {
		now.ghost = (uintptr_t)old.ptr;
		p->align = 16;
		HOLDS(secmalloc_owns(old.ptr) == 0);
	}
	compare_neighbours(s->slot);
}

static void
do_encrypt(struct step *s)
{
	struct piece *p = pick(s);

	if (!p)
		return;
	KEPT(secmalloc_encrypt(p->ptr) == 0);
	if (!p->sealed)
		in_earnest(s);
	p->sealed = 1;
}

static void
do_decrypt(struct step *s)
{
	struct piece *p = pick(s);

	if (!p)
		return;
	if (p->sealed && may_not_lock(p)) {
		p->sealed = secmalloc_decrypt(p->ptr) == 0 ? 0 : 1;
		HOLDS(!p->sealed || errno == ENOMEM);
		return;
	}
	KEPT(secmalloc_decrypt(p->ptr) == 0);
	if (p->sealed)
		in_earnest(s);
	p->sealed = 0;
}

static void
do_encrypt_all(struct step *s)
{
	KEPT(secmalloc_encrypt_all() == 0);
	for (unsigned i = 0; i < MODEL_SLOTS; i++)
		pieces[i].sealed = pieces[i].ptr != NULL;
	in_earnest(s);
}

static void
do_decrypt_all(struct step *s)
{
	int refused;

	errno = ENOTTY;
	refused = secmalloc_decrypt_all();
	HOLDS(errno == (refused ? ENOMEM : ENOTTY));
	for (unsigned i = 0; i < MODEL_SLOTS; i++) {
		if (!pieces[i].ptr || !pieces[i].sealed)
			continue;
		pieces[i].sealed = refused && secmalloc_is_encrypted(pieces[i].ptr) == 1;
		HOLDS(!pieces[i].sealed || may_not_lock(&pieces[i]));
	}
	in_earnest(s);
}

static void
do_protect(struct step *s)
{
	struct piece *p = pick(s);
	const unsigned kind = s->salt % 8;
	const int access = kind < 2 ? (int)kind : SECMALLOC_READWRITE;
	int e;

	if (!p)
		return;
	if (kind == 7)
		REFUSED(EINVAL, secmalloc_protect(p->ptr, (enum secmalloc_access)s->salt) == -1);
	errno = ENOTTY;
	e = secmalloc_protect(p->ptr, (enum secmalloc_access)access);
	HOLDS(e == 0 ? errno == ENOTTY : e == -1 && errno == ENOTSUP);
	HOLDS(!is_alone(p->size) || e == 0);
	HOLDS(is_alone(p->size) || p->perhaps_alone || e == -1);
	if (e != 0)
		return;
	p->access = access;
	in_earnest(s);
}

static void
do_tamper(struct step *s)
{
	struct piece *p = pick(s);
	unsigned char *victim;

	if (!p || !p->sealed || p->access != SECMALLOC_READWRITE || p->size == 0 ||
		may_not_lock(p))
		return;
	victim = p->ptr + s->spot % p->size;
	*victim ^= (unsigned char)(1u << s->salt % 8);
	memcpy(scratch, p->ptr, p->size);
	if (s->salt & 8)
		REFUSED(EBADMSG, secrealloc(p->ptr, s->size + 1) == NULL);
	else
		REFUSED(EBADMSG, secmalloc_decrypt(p->ptr) == -1);
	now.tampered++;
	HOLDS(memcmp(scratch, p->ptr, p->size) == 0);
	*victim ^= (unsigned char)(1u << s->salt % 8);
	in_earnest(s);
}

static void
is_strange(void *ptr)
{
	KEPT(secmalloc_owns(ptr) == 0);
	REFUSED(EINVAL, secmalloc_usable_size(ptr) == 0);
	REFUSED(EINVAL, secmalloc_is_encrypted(ptr) == -1);
	REFUSED(EINVAL, secmalloc_encrypt(ptr) == -1);
	REFUSED(EINVAL, secmalloc_decrypt(ptr) == -1);
	REFUSED(EINVAL, secmalloc_protect(ptr, SECMALLOC_READWRITE) == -1);
}

static void
do_ask_strangers(struct step *s)
{
	struct piece *p = pick(s);

	if (p)
		is_strange(p->ptr + (p->size > 1 ? 1 + s->spot % (p->size - 1) : 1));
	for (unsigned i = 0; i < MODEL_SLOTS; i++)
		if ((uintptr_t)pieces[i].ptr == now.ghost)
			return;
	is_strange((void *)now.ghost);
	in_earnest(s);
}

/* ---------------------------------------------------------------- running */

static void
start(unsigned salt)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	now.tight = (salt & 2) != 0;
	now.isolated = (salt & 16) != 0;
	now.tampered = now.high_water = 0;
	if (salt & 1)
		c.cipher = SECMALLOC_CIPHER_XCHACHA20POLY1305;
	if (now.tight) {
		c.pool_size = (size_t)128 * 1024;
		c.max_pools = 3;
	}
	if (salt & 4)
		c.without = SECMALLOC_HIDDEN;
	if (now.isolated)
		c.flags = SECMALLOC_ISOLATE;
	if (salt & 32)
		c.pool_size = (size_t)16 * 1024;
	c.on_fault = on_fault;
	KEPT(secmalloc_init(&c) == 0);
	KEPT(secmalloc_stats(&s) == 0);
	now.locked = s.locked_bytes;
}

static void
stop(void)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	uint64_t chunks = 0;

	for (unsigned i = 0; i < MODEL_SLOTS; i++)
		chunks += pieces[i].ptr != NULL;
	KEPT(secmalloc_term() == 0);
	KEPT(secmalloc_stats(&s) == 0);
	HOLDS(s.live_at_term == chunks && s.chunks == 0 && s.bytes == 0 && s.locked_bytes == 0);
	memset(pieces, 0, sizeof(pieces));
}

static const struct {
	const char *name;
	void (*body)(struct step *s);
	unsigned share; /* of 32 */
} kinds[] = {
	{"secmalloc", do_malloc, 5},
	{"seccalloc", do_calloc, 1},
	{"secaligned_alloc", do_aligned, 2},
	{"secstrdup", do_strdup, 1},
	{"secrealloc", do_realloc, 5},
	{"secfree", do_free, 3},
	{"write", do_scribble, 3},
	{"encrypt", do_encrypt, 3},
	{"decrypt", do_decrypt, 3},
	{"encrypt_all", do_encrypt_all, 1},
	{"decrypt_all", do_decrypt_all, 1},
	{"protect", do_protect, 2},
	{"tamper", do_tamper, 1},
	{"strangers", do_ask_strangers, 1},
};

enum { RESTART = sizeof(kinds) / sizeof(kinds[0]) };

const uint32_t model_kinds = (UINT32_C(2) << RESTART) - 1;

static void
do_restart(struct step *s)
{
	s->kind = RESTART;
	now.name = "restart";
	if (model_talks)
		fprintf(stderr, "%zu: restart as %u\n", now.operation, s->salt % 64);
	stop();
	start(s->salt);
	in_earnest(s);
}

static void
do_step(struct step *s)
{
	unsigned share = s->what % 32;

	if (s->what == 255 && s->spot % 4 == 0) {
		do_restart(s);
		return;
	}
	while (share >= kinds[s->kind].share)
		share -= kinds[s->kind++].share;
	now.name = kinds[s->kind].name;
	if (model_talks)
		fprintf(stderr, "%zu: %s, slot %u, size %zu, salt %u\n", now.operation, now.name,
			s->slot, s->size, s->salt);
	kinds[s->kind].body(s);
	compare_access(s->slot);
}

void
model_run(const unsigned char *tape, size_t bytes, uint64_t seed)
{
	const char *preload = getenv("LD_PRELOAD");

	memset(&now, 0, sizeof(now));
	now.blind = preload && strstr(preload, "/vgpreload_") != NULL;
	memset(pieces, 0, sizeof(pieces));
	now.seed = seed;
	now.name = "start";
	start((unsigned)seed);
	for (; (now.operation + 1) * MODEL_STEP_BYTES <= bytes; now.operation++) {
		struct step s = step_of(tape + now.operation * MODEL_STEP_BYTES);

		if (model_notes)
			model_notes->operation = now.operation;
		do_step(&s);
		compare_all();
	}
	now.name = "end";
	if (seed & 8)
		for (unsigned i = 0; i < MODEL_SLOTS; i++)
			do_free(&(struct step){.slot = i});
	compare_all();
	stop();
}
