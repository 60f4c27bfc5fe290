/*
 * check_seal.c - the seal room from inside: what is refused, what never repeats, what counts
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "rooms.h"
#include "seal/inside.h"
#include <pthread.h>

/* -------------------------------------------------------------- tampering */

static const unsigned ciphers[] = { SECMALLOC_CIPHER_XCHACHA20POLY1305, SECMALLOC_CIPHER_AES256GCM,
	SECMALLOC_CIPHER_AEGIS256, SECMALLOC_CIPHER_AEGIS128L, SECMALLOC_CIPHER_AUTO };

enum { CIPHERS = sizeof(ciphers) / sizeof(ciphers[0]) };

/** start_cipher - false: this build or CPU lacks it, and that was said */
static bool
start_cipher(unsigned which)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.cipher = which;
	if (secmalloc_init(&c) == 0)
		return true;
	ck_assert_msg(errno == ENOTSUP, "%s", secmalloc_error());
	printf("skipped: cipher %u is not here\n", which);
	return false;
}

/** sealed_chunk - of n bytes with a content numbered seed, closed */
static unsigned char *
sealed_chunk(size_t n, unsigned seed)
{
	unsigned char *p = launder(secmalloc(n));

	EACH(p != NULL);
	fill(p, n, seed);
	EACH(secmalloc_encrypt(p) == 0);
	return p;
}

/** refuses - opening is EBADMSG, is counted, and changes nothing */
static bool
refuses(unsigned char *p, size_t n)
{
	static unsigned char bytes[100000];
	struct sm_chunk before = *record_of(p);
	uint64_t tampered = sm_count_get(&sm_count.tampered);

	memcpy(bytes, p, n);
	errno = 0;
	return secmalloc_decrypt(p) == -1 && errno == EBADMSG && memcmp(bytes, p, n) == 0 &&
		memcmp(&before, record_of(p), sizeof(before)) == 0 &&
		secmalloc_is_encrypted(p) == 1 && sm_count_get(&sm_count.tampered) == tampered + 1;
}

/** opens_as - opening brings the content numbered seed to light */
static bool
opens_as(unsigned char *p, size_t n, unsigned seed)
{
	return secmalloc_decrypt(p) == 0 && filled(p, n, seed);
}

struct field {
	size_t at, bytes;
};

/** flip_each - each bit of one part of what is beside a closed chunk of n bytes, and back */
static void
flip_each(unsigned char *p, size_t n, unsigned char *part, size_t bytes)
{
	for (size_t bit = 0; bit < 8 * bytes; bit++) {
		part[bit / 8] ^= (unsigned char)(1u << bit % 8);
		ck_assert_msg(refuses(p, n), "%zu bytes, bit %zu of %zu", n, bit, 8 * bytes);
		part[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
}

START_TEST(one_flipped_bit_of_the_record_is_refused)
{
	static const struct field fields[] = {
		{ offsetof(struct sm_chunk, tag), 16 }, { offsetof(struct sm_chunk, nonce), 8 },
		{ offsetof(struct sm_chunk, generation), 4 },
		{ offsetof(struct sm_chunk, epoch), 4 },
	};
	static const size_t sizes[] = { 0, 100, 20000 };

	if (!start_cipher(ciphers[_i]))
		return;
	for (size_t k = 0; k < 3; k++) {
		unsigned char *p = sealed_chunk(sizes[k], 3), *c = (unsigned char *)record_of(p);
		unsigned char *rest = sm_heap_tag_rest(record_of(p));

		for (size_t f = 0; f < 4; f++)
			flip_each(p, sizes[k], c + fields[f].at, fields[f].bytes);
		if (rest)
			flip_each(p, sizes[k], rest, SM_REST_BYTES);
		ck_assert(opens_as(p, sizes[k], 3));
	}
}
END_TEST

START_TEST(one_flipped_bit_of_the_size_is_refused)
{
	static const size_t sizes[] = { 0, 100, 20000 };

	if (!start_cipher(ciphers[_i]))
		return;
	for (size_t k = 0; k < 3; k++) {
		unsigned char *p = sealed_chunk(sizes[k], 3);
		struct sm_chunk *c = record_of(p);
		struct spot s = spot_of(p);
		size_t room = (size_t)(s.base + s.run.pages * PAGE - p), tried = 0;

		for (size_t bit = 1; bit <= room; bit *= 2) {
			if ((sizes[k] ^ bit) > room)
				continue; /* bytes that nobody may read: a fault, not a message */
			c->size ^= bit;
			ck_assert_msg(refuses(p, c->size), "%zu", c->size);
			c->size ^= bit;
			tried++;
		}
		ck_assert_uint_ge(tried, 4);
		ck_assert(opens_as(p, sizes[k], 3));
	}
}
END_TEST

START_TEST(one_flipped_bit_of_the_bytes_is_refused)
{
	static const size_t sizes[] = { 1, 16, 100, 1000, 20000 };

	if (!start_cipher(ciphers[_i]))
		return;
	for (size_t k = 0; k < 5; k++) {
		unsigned char *p = sealed_chunk(sizes[k], 5);
		size_t step = 1 + sizes[k] / 300;

		for (size_t bit = 0; bit < 8 * sizes[k]; bit += step) {
			p[bit / 8] ^= (unsigned char)(1u << bit % 8);
			EACH(refuses(p, sizes[k]));
			p[bit / 8] ^= (unsigned char)(1u << bit % 8);
		}
		ck_assert(opens_as(p, sizes[k], 5));
	}
}
END_TEST

static void
swap(void *a, void *b, size_t n)
{
	unsigned char *x = a, *y = b;

	for (size_t i = 0; i < n; i++) {
		unsigned char t = x[i];

		x[i] = y[i];
		y[i] = t;
	}
}

START_TEST(two_closed_chunks_that_changed_places_are_refused)
{
	static const size_t sizes[] = { 32, 1000, 16400 };

	if (!start_cipher(ciphers[_i]))
		return;
	for (size_t k = 0; k < 3; k++) {
		const size_t n = sizes[k];
		unsigned char *p = sealed_chunk(n, 1), *q = sealed_chunk(n, 2);
		struct sm_chunk *c = record_of(p), *d = record_of(q);

		swap(p, q, n);
		ck_assert(refuses(p, n) && refuses(q, n));
		swap(c->tag, d->tag, sizeof(c->tag));
		swap(&c->nonce, &d->nonce, sizeof(c->nonce));
		ck_assert(refuses(p, n) && refuses(q, n));
		swap(&c->generation, &d->generation, sizeof(c->generation));
		swap(&c->epoch, &d->epoch, sizeof(c->epoch));
		ck_assert(refuses(p, n) && refuses(q, n));
		swap(&c->generation, &d->generation, sizeof(c->generation));
		swap(&c->epoch, &d->epoch, sizeof(c->epoch));
		swap(c->tag, d->tag, sizeof(c->tag));
		swap(&c->nonce, &d->nonce, sizeof(c->nonce));
		swap(p, q, n);
		ck_assert(opens_as(p, n, 1) && opens_as(q, n, 2));
	}
}
END_TEST

/** same_place - allocate n bytes until they come at p */
static void
same_place(const void *p, size_t n)
{
	trim();
	for (int i = 0; i < 100000; i++)
		if (secmalloc(n) == p)
			return;
	ck_abort_msg("%p never came again", p);
}

START_TEST(an_earlier_life_of_the_same_place_is_refused)
{
	static const size_t sizes[] = { 0, 48, 5000, 16500 };
	static unsigned char old[16500];

	if (!start_cipher(ciphers[_i]))
		return;
	for (size_t k = 0; k < 4; k++) {
		const size_t n = sizes[k];
		unsigned char *p = sealed_chunk(n, 7);
		struct sm_chunk *c = record_of(p), was = *c;

		memcpy(old, p, n);
		secfree(p);
		same_place(p, n);
		ck_assert_ptr_eq(record_of(p), c);
		fill(p, n, 7);
		ck_assert_int_eq(secmalloc_encrypt(p), 0);
		memcpy(p, old, n);
		memcpy(c->tag, was.tag, sizeof(was.tag));
		c->nonce = was.nonce;
		c->epoch = was.epoch;
		ck_assert(refuses(p, n));
	}
}
END_TEST

START_TEST(older_bytes_of_the_same_life_are_refused)
{
	unsigned char *p, old[100], now[100];

	if (!start_cipher(ciphers[_i]))
		return;
	p = sealed_chunk(100, 1);
	memcpy(old, p, 100);
	ck_assert(opens_as(p, 100, 1));
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	memcpy(now, p, 100);
	ck_assert_int_ne(memcmp(old, now, 100), 0);
	memcpy(p, old, 100);
	ck_assert(refuses(p, 100));
	memcpy(p, now, 100);
	ck_assert(opens_as(p, 100, 1));
}
END_TEST

START_TEST(an_open_record_and_a_freed_one_hold_no_tag)
{
	static unsigned char none[SM_REST_BYTES];
	unsigned char *p, *rest;
	struct sm_chunk *c;

	if (!start_cipher(ciphers[_i]))
		return;
	p = sealed_chunk(100, 1);
	c = record_of(p);
	rest = sm_config()->tag_rest ? sm_heap_tag_rest(c) : none;
	ck_assert(!all_zero(c->tag, sizeof(c->tag)));
	ck_assert_int_eq(all_zero(rest, SM_REST_BYTES), rest == none);
	ck_assert(opens_as(p, 100, 1));
	ck_assert(all_zero(c->tag, sizeof(c->tag)) && all_zero(rest, SM_REST_BYTES));
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
	secfree(p);
	ck_assert(all_zero(c->tag, sizeof(c->tag)) && all_zero(rest, SM_REST_BYTES));
	ck_assert_int_eq(c->veil, SM_VEIL_CLEAR);
}
END_TEST

START_TEST(one_tampered_chunk_does_not_keep_the_others_from_opening)
{
	unsigned char *p[50];

	start(0, 1, 0);
	for (unsigned i = 0; i < 50; i++)
		p[i] = sealed_chunk(i * 400, i);
	p[20][77] ^= 1;
	FAILS_WITH(EBADMSG, -1, secmalloc_decrypt_all());
	for (unsigned i = 0; i < 50; i++) {
		EACH(secmalloc_is_encrypted(p[i]) == (i == 20));
		EACH(i == 20 || filled(p[i], i * 400, i));
	}
	p[20][77] ^= 1;
	SUCCEEDS(secmalloc_decrypt_all());
	ck_assert(filled(p[20], 8000, 20));
}
END_TEST

/* ----------------------------------------------------------------- nonces */

enum { SEALERS = 4, SEALS = 25000 };

static uint64_t nonces[SEALERS * SEALS];

static void *
seal_often(void *at)
{
	uint64_t *mine = at;
	unsigned char *p = secmalloc(64), *q = secmalloc(17000);

	for (size_t i = 0; i < SEALS; i++) {
		unsigned char *one = i % 50 ? p : q;

		if (secmalloc_encrypt(one))
			return at;
		if (i % 100 == 99 && secrealloc(p, i % 200 == 99 ? 63 : 64) != p)
			return at; /* opened and closed again inside */
		mine[i] = record_of(one)->nonce;
		if (secmalloc_decrypt(one))
			return at;
	}
	return NULL;
}

static int
by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

START_TEST(no_nonce_of_a_hundred_thousand_seals_comes_twice)
{
	pthread_t threads[SEALERS];
	void *failed;

	start(0, 1, 0);
	for (size_t i = 0; i < SEALERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, seal_often,
					 nonces + i * SEALS), 0);
	for (size_t i = 0; i < SEALERS; i++) {
		ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
	qsort(nonces, SEALERS * SEALS, sizeof(nonces[0]), by_value);
	for (size_t i = 1; i < SEALERS * SEALS; i++)
		EACH(nonces[i] != nonces[i - 1]);
}
END_TEST

/* ---------------------------------------------------------------- threads */

/*
 * While the sealers run, any chunk may be closed at any time: the workers allocate, resize, close,
 * open and free, and touch no byte. What the chunks hold was written before, is read afterwards.
 */
enum { WORKERS = 2, OWN = 40, TURNS = 20000 };

struct owned {
	unsigned char *p;
	size_t size, kept; /* the content's first bytes that no resize cut off; zero from there */
};

static struct owned owned[WORKERS][OWN];
static _Atomic bool sealing_ends;

static uint32_t
next_random(uint32_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 17;
	*x ^= *x << 5;
	return *x;
}

/** work_once - one thing done to one chunk; false if it failed */
static bool
work_once(struct owned *o, uint32_t r)
{
	size_t n = r >> 8 & ((r & 0xf0) == 0 ? 32767 : 2047);
	void *p;

	switch (r % 5) {
	case 0:
		return secmalloc_encrypt(o->p) == 0;
	case 1:
		return secmalloc_decrypt(o->p) == 0;
	case 2:
		p = secmalloc(n);
		if (!p || ((r & 64) && secmalloc_encrypt(p)))
			return false;
		secfree(p);
		return true;
	default:
		p = secrealloc(o->p, n ? n : 1);
		if (!p)
			return false;
		o->p = p;
		o->size = n ? n : 1;
		o->kept = o->kept < o->size ? o->kept : o->size;
		return true;
	}
}

static void *
work(void *arg)
{
	struct owned *mine = arg;
	uint32_t x = 88172645u + (uint32_t)(mine - owned[0]);

	for (int i = 0; i < TURNS; i++) {
		uint32_t r = next_random(&x);

		if (!work_once(&mine[r / 5 % OWN], r))
			return arg;
	}
	return NULL;
}

static void *
seal_all(void *arg)
{
	while (!sealing_ends)
		if (secmalloc_encrypt_all() || secmalloc_decrypt_all())
			return arg;
	return NULL;
}

/** recount - what the counters say is what a walk sees */
static void
recount(void)
{
	struct secmalloc_stats s = stats_now();
	uint64_t chunks = 0, closed = 0, bytes = 0, bytes_clear = 0;
	struct sm_walk w = { 0 };
	struct sm_chunk *c;

	while ((c = sm_heap_next(&w)) != NULL) {
		chunks++;
		bytes += c->size;
		if (c->veil == SM_VEIL_SEALED)
			closed++;
		else
			bytes_clear += c->size;
	}
	ck_assert_uint_eq(s.chunks, chunks);
	ck_assert_uint_eq(s.chunks_encrypted, closed);
	ck_assert_uint_eq(s.bytes, bytes);
	ck_assert_uint_eq(s.bytes_clear, bytes_clear);
}

START_TEST(closing_and_opening_all_never_harms_chunks_that_others_work_on)
{
	pthread_t t[4];
	void *failed;

	start(64, 1, 0);
	for (unsigned i = 0; i < WORKERS * OWN; i++) {
		struct owned *o = &owned[i / OWN][i % OWN];

		*o = (struct owned){ secmalloc(i * 53), i * 53, i * 53 };
		fill(o->p, o->size, i);
	}
	for (size_t i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, i < 2 ? work : seal_all,
					 i < 2 ? (void *)owned[i] : (void *)&t[i]), 0);
	for (size_t i = 0; i < 4; i++) {
		sealing_ends = i >= 2;
		ck_assert_int_eq(pthread_join(t[i], &failed), 0);
		ck_assert_msg(failed == NULL, "thread %zu failed", i);
	}
	recount();
	ck_assert_uint_eq(stats_now().tampered, 0);
	ck_assert_uint_eq(stats_now().chunks, WORKERS * OWN);
	SUCCEEDS(secmalloc_decrypt_all());
	recount();
	for (unsigned i = 0; i < WORKERS * OWN; i++) {
		struct owned *o = &owned[i / OWN][i % OWN];

		EACH(secmalloc_usable_size(o->p) == o->size && filled(o->p, o->kept, i));
		EACH(all_zero(o->p + o->kept, o->size - o->kept));
		secfree(o->p);
	}
	recount();
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("seal");
	TCase *tc = add_case(s, "tampering", 0);

	tcase_add_loop_test(tc, one_flipped_bit_of_the_record_is_refused, 0, CIPHERS);
	tcase_add_loop_test(tc, one_flipped_bit_of_the_size_is_refused, 0, CIPHERS);
	tcase_add_loop_test(tc, one_flipped_bit_of_the_bytes_is_refused, 0, CIPHERS);
	tcase_add_loop_test(tc, two_closed_chunks_that_changed_places_are_refused, 0, CIPHERS);
	tcase_add_loop_test(tc, an_earlier_life_of_the_same_place_is_refused, 0, CIPHERS);
	tcase_add_loop_test(tc, older_bytes_of_the_same_life_are_refused, 0, CIPHERS);
	tcase_add_loop_test(tc, an_open_record_and_a_freed_one_hold_no_tag, 0, CIPHERS);
	tcase_add_test(tc, one_tampered_chunk_does_not_keep_the_others_from_opening);
	tc = add_case(s, "nonces", 0);
	tcase_add_test(tc, no_nonce_of_a_hundred_thousand_seals_comes_twice);
	tc = add_case(s, "threads", 0);
	tcase_add_test(tc, closing_and_opening_all_never_harms_chunks_that_others_work_on);
	return run_rooms(s);
}
