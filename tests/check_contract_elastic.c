/*
 * check_contract_elastic.c - the contract: beyond the initial pools only clear bytes are locked
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include "smaps.h"

#include <unistd.h>

enum { MILLION = 1000000, OPENED = 1500, RESIDENT_MOST_BYTES = 160 };

/** status_kib - a line of /proc/self/status, such as "VmLck:" */
static size_t
status_kib(const char *name)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long kib = 0;
	char line[256];

	MUST(f != NULL);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, name, strlen(name)) == 0)
			kib = strtoul(line + strlen(name), NULL, 10);
	fclose(f);
	return kib;
}

/* --------------------------------------------------- which pages are locked */

struct range {
	uintptr_t from, to;
};

static struct range locked[8192];
static size_t nlocked;

static bool
note_locked(const struct smaps *m, void *unused)
{
	(void)unused;
	if (!smaps_flag(m, "lo"))
		return false;
	MUST(nlocked < sizeof(locked) / sizeof(locked[0]));
	if (nlocked && locked[nlocked - 1].to == m->start)
		locked[nlocked - 1].to = m->end;
	else
		locked[nlocked++] = (struct range){ m->start, m->end };
	return false;
}

/** look_at_locks - ask the kernel which ranges are locked */
static void
look_at_locks(void)
{
	nlocked = 0;
	(void)smaps_each(note_locked, NULL);
}

/** all_locked - as of look_at_locks, every page of these bytes is */
static bool
all_locked(const void *p, size_t n)
{
	for (size_t i = 0; i < nlocked; i++)
		if ((uintptr_t)p >= locked[i].from && (uintptr_t)p + n <= locked[i].to)
			return true;
	return false;
}

static bool
straddles(const void *p, size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (uintptr_t)p / page != ((uintptr_t)p + n - 1) / page;
}

/* ------------------------------------------------------------- a million */

static unsigned char *secret[MILLION];

static uint32_t
next_random(uint32_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 17;
	*x ^= *x << 5;
	return *x;
}

static void
open_some_at_once(size_t lck)
{
	static size_t which[OPENED];
	uint32_t x = 88172645;
	size_t across = 0;

	for (size_t i = 0; i < OPENED; i++) {
		which[i] = next_random(&x) % MILLION;
		for (size_t k = 0; i < 8 && !straddles(secret[which[i]], 32); k++)
			which[i] = (which[i] + 1) % MILLION; /* some that straddle, for certain */
		MUST(secmalloc_decrypt(secret[which[i]]) == 0);
	}
	look_at_locks();
	for (size_t i = 0; i < OPENED; i++) {
		MUST(all_locked(secret[which[i]], 32));
		MUST(filled(secret[which[i]], 32, (unsigned)which[i]));
		across += straddles(secret[which[i]], 32);
	}
	MUST(across >= 8);
	for (size_t i = 0; i < OPENED; i++)
		MUST(secmalloc_encrypt(secret[which[i]]) == 0);
	MUST(status_kib("VmLck:") == lck);
}

static void
keep_a_million(void *unused)
{
	size_t lck, rss;

	(void)unused;
	drop_to(8 * MIB);
	memset(secret, 1, sizeof(secret)); /* resident before, so that it does not count */
	MUST(secmalloc_init(NULL) == 0);
	lck = status_kib("VmLck:");
	rss = status_kib("VmRSS:");
	for (size_t i = 0; i < MILLION; i++) {
		secret[i] = secmalloc(32);
		MUST(secret[i] != NULL);
		fill(secret[i], 32, (unsigned)i);
		MUST(secmalloc_encrypt(secret[i]) == 0);
	}
	MUST(status_kib("VmLck:") == lck);
	MUST((status_kib("VmRSS:") - rss) * KIB / MILLION < RESIDENT_MOST_BYTES);
	open_some_at_once(lck);
	for (size_t i = 0; i < MILLION; i++) {
		MUST(secmalloc_decrypt(secret[i]) == 0 && filled(secret[i], 32, (unsigned)i));
		secfree(secret[i]);
	}
	MUST(status_kib("VmLck:") == lck);
	MUST(stats_now().chunks == 0 && stats_now().tampered == 0);
}

START_TEST(a_million_closed_secrets_live_under_a_limit_of_8_MiB)
{
	if (may_drop("a million secrets") && !SANITIZED)
		assert_exits_0(keep_a_million, NULL);
}
END_TEST

/* ---------------------------------------------------------- page by page */

/** start_small - a house whose locked pool is soon full */
static void
start_small(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.pool_size = 16 * KIB;
	MUST(secmalloc_init(&c) == 0);
}

static void
lock_page_by_page(void *unused)
{
	enum { N = 200, SIZE = 1500 };
	unsigned char *p[N];
	size_t lck;

	(void)unused;
	start_small();
	lck = stats_now().locked_bytes;
	for (size_t i = 0; i < N; i++) {
		p[i] = secmalloc(SIZE);
		MUST(p[i] != NULL);
		look_at_locks();
		MUST(all_locked(p[i], SIZE));
		fill(p[i], SIZE, (unsigned)i);
	}
	MUST(stats_now().pools > 1 && !(stats_now().granted & SECMALLOC_HIDDEN));
	for (size_t i = 0; i < N; i++) { /* what is still open stays locked, page by page */
		MUST(secmalloc_encrypt(p[i]) == 0);
		look_at_locks();
		for (size_t k = i + 1; k < N; k++)
			MUST(all_locked(p[k], SIZE));
	}
	MUST(stats_now().locked_bytes == lck);
	for (size_t i = 0; i < N; i++) {
		MUST(secmalloc_decrypt(p[i]) == 0 && filled(p[i], SIZE, (unsigned)i));
		look_at_locks();
		MUST(all_locked(p[i], SIZE));
		secfree(p[i]);
		MUST(stats_now().locked_bytes == lck);
	}
}

START_TEST(every_page_of_a_clear_chunk_is_locked_and_no_page_longer)
{
	if (!SANITIZED)
		assert_exits_0(lock_page_by_page, NULL);
}
END_TEST

static void
realloc_across_pools(void *unused)
{
	unsigned char *p, *q;
	size_t lck;

	(void)unused;
	start_small();
	lck = stats_now().locked_bytes;
	for (size_t n = 1000; n < 200000; n *= 2) {
		p = secmalloc(n);
		MUST(p != NULL);
		fill(p, n, 1);
		MUST(secmalloc_encrypt(p) == 0);
		q = secrealloc(p, 2 * n + 5);
		MUST(q != NULL && secmalloc_is_encrypted(q) == 1);
		MUST(stats_now().locked_bytes == lck);
		MUST(secmalloc_decrypt(q) == 0 && filled(q, n, 1));
		look_at_locks();
		MUST(all_locked(q, 2 * n + 5));
		p = secrealloc(q, n / 2);
		MUST(p != NULL && filled(p, n / 2, 1));
		look_at_locks();
		MUST(all_locked(p, n / 2));
		secfree(p);
		MUST(stats_now().locked_bytes == lck);
	}
}

START_TEST(realloc_leaves_no_page_locked_and_none_unlocked)
{
	if (!SANITIZED)
		assert_exits_0(realloc_across_pools, NULL);
}
END_TEST

/* ------------------------------------------------------------ at the limit */

static void
open_up_to_the_limit(void *unused)
{
	enum { N = 4000 };
	static unsigned char *p[N];
	size_t n = 0, opened;

	(void)unused;
	drop_to(256 * KIB);
	start_small();
	while (n < N && (p[n] = secmalloc(3000)) != NULL)
		fill(p[n], 3000, (unsigned)n), n++;
	MUST(n > 40 && n < N && errno == ENOMEM);
	MUST(strstr(secmalloc_error(), "RLIMIT_MEMLOCK is 262144") != NULL);
	look_at_locks();
	for (size_t i = 0; i < n; i++)
		MUST(all_locked(p[i], 3000));
	MUST(secmalloc_encrypt_all() == 0);
	opened = n;
	for (; n < N; n++) { /* closed ones need no limit */
		p[n] = secmalloc(3000);
		MUST(p[n] != NULL);
		fill(p[n], 3000, (unsigned)n);
		MUST(secmalloc_encrypt(p[n]) == 0);
	}
	MUST_FAIL(ENOMEM, -1, secmalloc_decrypt_all());
	MUST(stats_now().bytes_clear / 3000 + 50 > opened);
	MUST(secmalloc_encrypt_all() == 0);
	for (size_t i = 0; i < N; i++) {
		MUST(secmalloc_decrypt(p[i]) == 0 && filled(p[i], 3000, (unsigned)i));
		secfree(p[i]);
	}
}

START_TEST(what_cannot_be_locked_is_not_clear)
{
	if (may_drop("the lock limit") && !SANITIZED)
		assert_exits_0(open_up_to_the_limit, NULL);
}
END_TEST

static void
fall_back_on_locked_pages(void *unused)
{
	enum { N = 3000 };
	static void *p[N];
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	size_t n = 0;

	(void)unused;
	c.pool_size = 256 * KIB;
	MUST(secmalloc_init(&c) == 0);
	drop_to(0);
	for (int round = 0; round < 50; round++) { /* the rest of some 320 chunks is no reason to fail */
		for (n = 0; n < 100; n++) {
			p[n] = secmalloc(1000);
			MUST(p[n] != NULL);
			look_at_locks();
			MUST(all_locked(p[n], 1000));
		}
		while (n > 0)
			secfree(p[--n]);
	}
	while (n < N && (p[n] = secmalloc(1000)) != NULL)
		n++;
	MUST(n > 150 && n < N && errno == ENOMEM);
	MUST(strstr(secmalloc_error(), "RLIMIT_MEMLOCK is 0") != NULL);
}

START_TEST(after_the_drop_the_initial_pools_serve_to_their_end)
{
	if (may_drop("after the drop") && !SANITIZED)
		assert_exits_0(fall_back_on_locked_pages, NULL);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_elastic");
	TCase *tc = add_case(s, "pages", 0);

	tcase_add_test(tc, every_page_of_a_clear_chunk_is_locked_and_no_page_longer);
	tcase_add_test(tc, realloc_leaves_no_page_locked_and_none_unlocked);
	tc = add_case(s, "limits", 0);
	tcase_add_test(tc, what_cannot_be_locked_is_not_clear);
	tcase_add_test(tc, after_the_drop_the_initial_pools_serve_to_their_end);
	tc = add_case(s, "a million", 0);
	tcase_set_timeout(tc, 400);
	tcase_add_test(tc, a_million_closed_secrets_live_under_a_limit_of_8_MiB);
	return run(s);
}
