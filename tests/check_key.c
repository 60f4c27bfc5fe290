/*
 * check_key.c - the room key, from inside: halves at rest, slots, pages, threads, forks
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sodium.h>
#include <time.h>

#include "cipher/cipher.h"
#include "os/os.h"

/* key.c calls the floor below through these: the nth call fails, and pages are seen go */
static unsigned calls_until_failure; /* 0: none fails */
static unsigned released, released_dirty;

static bool
fails_now(void)
{
	return calls_until_failure && --calls_until_failure == 0;
}

static int
some_random(void *p, size_t n)
{
	if (!fails_now())
		return sm_os_random(p, n);
	memset(p, 0x3c, n / 2); /* a failure may come half-way */
	return EAGAIN;
}

static int
some_reserve(size_t bytes, void **out)
{
	return fails_now() ? ENOMEM : sm_os_reserve(bytes, out);
}

static int
some_obtain(void *at, size_t bytes, const struct sm_wish *w, struct sm_area *a)
{
	return fails_now() ? EPERM : sm_os_obtain(at, bytes, w, a);
}

static void
watched_release(struct sm_area *a)
{
	released += a->base != NULL;
	released_dirty += a->base && !all_zero(a->base, a->bytes);
	sm_os_release(a);
}

#define sm_os_random some_random
#define sm_os_reserve some_reserve
#define sm_os_obtain some_obtain
#define sm_os_release watched_release
#include "key/key.c"
#include "key/change.c"
#include "key/wrap.c"

enum { THREADS = 8, TURNS = 10000, HIDDEN = 0, ANONYMOUS = 1, MODES = 2, PREKEY_BYTES = 32 };

#define IN_FORCE sm_keys.epoch[sm_keys.now] /* the epoch */

static struct sm_config conf;
static unsigned char whole[SM_KEY_BYTES];
static _Alignas(64) unsigned char expanded[SM_CIPHER_STATE_BYTES];

/** join_halves - the key, made whole by the test's own means */
static void
join_halves(void)
{
	static const unsigned char zeros[crypto_core_hchacha20_INPUTBYTES];

	crypto_core_hchacha20(whole, zeros, sm_keys.right.half, NULL);
	for (size_t i = 0; i < sizeof(whole); i++)
		whole[i] ^= sm_keys.left->half[0][i];
	memset(expanded, 0, sizeof(expanded));
	sm_cipher_expand(expanded, whole);
}

static void
setup(void)
{
	ck_assert_int_ge(sodium_init(), 0);
	conf = (struct sm_config){ .mark = 1, .page_bytes = sm_os_page_bytes(),
		.resplit_ms = 1000000, .prekey_bytes = PREKEY_BYTES };
	sm_config_now = &conf;
	ck_assert_int_eq(sm_cipher_start(SECMALLOC_CIPHER_AUTO), 0);
}

/** start - with hidden pages where mode and kernel allow */
static void
start(int mode)
{
	conf.without = mode == ANONYMOUS ? SECMALLOC_HIDDEN : 0;
	ck_assert_msg(sm_key_start() == 0, "%s", sm_error_text());
	ck_assert(mode == HIDDEN || !(sm_key_granted() & SECMALLOC_HIDDEN));
	join_halves();
}

static struct sm_message
message(unsigned char bytes[64], unsigned char tag[SM_TAG_MOST_BYTES])
{
	return (struct sm_message){ .bytes = bytes, .n = 64, .tag = tag, .nonce = sm_key_nonce(),
		.ad = "ad", .ad_bytes = 2, .tag_rest = tag + SM_TAG_BYTES };
}

#define holds(page, what, n) (memmem(page, conf.page_bytes, what, n) != NULL)

/** assert_lends_the_same - a key lent is the one that join_halves gave */
static void
assert_lends_the_same(void)
{
	struct sm_loan l;

	ck_assert_int_eq(sm_key_lend(&l, 0), 0);
	ck_assert_mem_eq(l.state, expanded, sizeof(expanded));
	sm_key_return(&l);
}

/* ------------------------------------------------------------------------ at rest */

START_TEST(the_halves_joined_open_what_a_lent_key_sealed)
{
	unsigned char bytes[64], tag[SM_TAG_MOST_BYTES];
	struct sm_message m;
	struct sm_loan l;

	start(_i);
	m = message(bytes, tag);
	fill(bytes, sizeof(bytes), 3);
	ck_assert_int_eq(sm_key_lend(&l, 0), 0);
	sm_cipher_seal(l.state, &m);
	sm_key_return(&l);
	ck_assert_ptr_null(l.state);
	ck_assert(!filled(bytes, sizeof(bytes), 3));
	ck_assert_int_eq(sm_cipher_open(expanded, &m), 0);
	ck_assert(filled(bytes, sizeof(bytes), 3));
}
END_TEST

START_TEST(no_page_at_rest_holds_the_key_or_more_than_its_half)
{
	struct sm_loan l;

	start(_i);
	for (size_t round = 0; round < 3; round++) {
		for (size_t i = 0; i + 8 <= sizeof(whole); i++) {
			ck_assert(!holds(sm_keys.left, whole + i, 8));
			ck_assert(!holds(sm_keys.right.half, whole + i, 8));
		}
		ck_assert(!all_zero(sm_keys.left, SM_KEY_BYTES));
		ck_assert(!all_zero(sm_keys.right.half, PREKEY_BYTES));
		ck_assert(all_zero(sm_keys.left + 1, conf.page_bytes - sizeof(*sm_keys.left)));
		ck_assert(all_zero(sm_keys.right.next, conf.page_bytes - PREKEY_BYTES));
		ck_assert(all_zero(sm_keys.slots, conf.page_bytes));
		ck_assert_int_eq(sm_key_lend(&l, 0), 0);
		ck_assert(all_zero(sm_keys.slots->lent[l.slot].whole, SM_KEY_BYTES));
		ck_assert_ptr_eq(l.state, sm_keys.slots->lent[l.slot].state);
		ck_assert_uint_eq((uintptr_t)l.state % 64, 0);
		sm_key_return(&l);
		sm_key_split(sm_keys.split_ms + 1);
	}
}
END_TEST

/* ----------------------------------------------------------------------- re-split */

static bool
halves_differ(const struct sm_left *left, const unsigned char *right)
{
	bool l = memcmp(left->half, sm_keys.left->half, sizeof(left->half)) != 0;
	bool r = memcmp(right, sm_keys.right.half, PREKEY_BYTES) != 0;

	ck_assert_int_eq(l, r);
	return l;
}

START_TEST(a_resplit_changes_both_halves_and_not_the_key)
{
	struct sm_left left;
	unsigned char right[PREKEY_BYTES];

	start(_i);
	for (size_t i = 0; i < 100; i++) {
		left = *sm_keys.left;
		memcpy(right, sm_keys.right.half, sizeof(right));
		sm_key_split(sm_keys.split_ms + 1);
		ck_assert(halves_differ(&left, right));
		assert_lends_the_same();
	}
}
END_TEST

START_TEST(a_key_lent_after_resplit_ms_is_resplit_and_before_it_is_not)
{
	struct sm_left left;
	unsigned char right[PREKEY_BYTES];

	start(_i);
	left = *sm_keys.left;
	memcpy(right, sm_keys.right.half, sizeof(right));
	assert_lends_the_same();
	ck_assert(!halves_differ(&left, right));
	conf.resplit_ms = 1;
	nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
	assert_lends_the_same();
	ck_assert(halves_differ(&left, right));
	ck_assert(all_zero(sm_keys.right.next, conf.page_bytes - PREKEY_BYTES));
}
END_TEST

START_TEST(a_resplit_without_randomness_keeps_the_split_and_the_next_one_works)
{
	struct sm_left left;
	unsigned char right[PREKEY_BYTES];

	start(_i);
	left = *sm_keys.left;
	memcpy(right, sm_keys.right.half, sizeof(right));
	calls_until_failure = 1;
	sm_key_split(sm_keys.split_ms + 1);
	ck_assert_uint_eq(calls_until_failure, 0);
	ck_assert(!halves_differ(&left, right));
	assert_lends_the_same();
	sm_key_split(sm_keys.split_ms + 1);
	ck_assert(halves_differ(&left, right));
	assert_lends_the_same();
}
END_TEST

/* -------------------------------------------------------------------------- pages */

/** read_file - the whole of a file of /proc, allocating nothing */
static const char *
read_file(const char *path, char *to, size_t most)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	ssize_t got;

	ck_assert_int_ge(fd, 0);
	while ((got = read(fd, to + n, most - 1 - n)) > 0)
		n += (size_t)got;
	close(fd);
	ck_assert_uint_lt(n, most - 1);
	to[n] = '\0';
	return to;
}

/** flags_of - the line VmFlags of exactly this page's mapping; *head: its first line */
static const char *
flags_of(const void *page, const char **head)
{
	static char smaps[1 << 20];
	char range[64];
	char *at, *flags;

	read_file("/proc/self/smaps", smaps, sizeof(smaps));
	snprintf(range, sizeof(range), "\n%lx-%lx rw-", (unsigned long)(uintptr_t)page,
		(unsigned long)((uintptr_t)page + conf.page_bytes));
	at = strstr(smaps, range);
	ck_assert_msg(at != NULL, "no mapping%s", range);
	flags = strstr(at, "\nVmFlags:");
	ck_assert_ptr_nonnull(flags);
	*strchr(at + 1, '\n') = '\0';
	*strchr(flags + 1, '\n') = '\0';
	*head = at + 1;
	return flags + 1;
}

START_TEST(every_page_is_locked_undumped_and_kept_from_children)
{
	const char *head, *flags;

	start(_i);
	for (size_t i = 0; i < SM_KEY_PAGES; i++) {
		bool hidden = sm_keys.page[i].granted & SECMALLOC_HIDDEN;

		flags = flags_of(sm_keys.page[i].base, &head);
		ck_assert_msg(strstr(flags, " lo") && strstr(flags, " dd"), "%s", flags);
		ck_assert_msg(strstr(flags, hidden ? " dc" : " wf") != NULL, "%s", flags);
		ck_assert_msg(!strstr(head, "secretmem") == !hidden, "%s", head);
	}
	ck_assert_uint_eq(sm_count.locked_bytes, SM_KEY_PAGES * conf.page_bytes);
	ck_assert_uint_eq(sm_key_granted() & ~(unsigned)SECMALLOC_HIDDEN,
		SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_NODUMP | SECMALLOC_FORKSAFE);
}
END_TEST

struct touch {
	int mode;
	size_t page;
	ptrdiff_t offset;
};

static void
touch(void *arg)
{
	const struct touch *t = arg;

	start(t->mode);
	(void)*byte_at(sm_keys.page[t->page].base, t->offset);
}

START_TEST(the_pages_on_both_sides_of_each_page_are_inaccessible)
{
	ptrdiff_t page = (ptrdiff_t)conf.page_bytes;

	for (size_t i = 0; i < SM_KEY_PAGES; i++) {
		assert_exits_0(touch, &(struct touch){ _i, i, 0 });
		assert_exits_0(touch, &(struct touch){ _i, i, page - 1 });
		assert_segv(touch, &(struct touch){ _i, i, -1 });
		assert_segv(touch, &(struct touch){ _i, i, page });
	}
}
END_TEST

/* ----------------------------------------------------------------- start and stop */

START_TEST(a_stop_wipes_and_unmaps_and_may_be_repeated)
{
	static char before[1 << 18], after[1 << 18];

	sm_key_stop();
	read_file("/proc/self/maps", before, sizeof(before));
	start(_i);
	read_file("/proc/self/maps", after, sizeof(after));
	ck_assert_str_ne(before, after);
	sm_key_stop();
	sm_key_stop();
	ck_assert_uint_eq(released, SM_KEY_PAGES);
	ck_assert_uint_eq(released_dirty, 0);
	ck_assert_uint_eq(sm_key_granted(), 0);
	ck_assert_uint_eq(sm_count.locked_bytes, 0);
	ck_assert_str_eq(read_file("/proc/self/maps", after, sizeof(after)), before);
}
END_TEST

START_TEST(a_start_that_fails_at_any_step_leaves_nothing_mapped)
{
	static char before[1 << 18], after[1 << 18];
	unsigned step;
	int e;

	conf.without = _i == ANONYMOUS ? SECMALLOC_HIDDEN : 0;
	read_file("/proc/self/maps", before, sizeof(before));
	for (step = 1; calls_until_failure = step, (e = sm_key_start()) != 0; step++) {
		ck_assert_int_eq(e, step == 1 ? ENOMEM : step <= 4 ? EPERM : EAGAIN);
		ck_assert_str_eq(read_file("/proc/self/maps", after, sizeof(after)), before);
		ck_assert_uint_eq(sm_key_granted(), 0);
		ck_assert_uint_eq(sm_count.locked_bytes, 0);
		ck_assert_uint_eq(IN_FORCE, 0);
		ck_assert_uint_eq(released_dirty, 0);
	}
	ck_assert_uint_eq(step, 7); /* reserve, three pages, two halves */
	calls_until_failure = 0;
	join_halves();
	assert_lends_the_same();
}
END_TEST

START_TEST(every_start_has_its_own_epoch_and_key_and_no_nonce_comes_twice)
{
	unsigned char was[SM_KEY_BYTES] = { 0 };

	for (uint32_t i = 1; i <= 20; i++) {
		start(_i);
		ck_assert_uint_eq(IN_FORCE, i);
		ck_assert_uint_eq(sm_key_nonce(), 2 * i - 2);
		ck_assert_uint_eq(sm_key_nonce(), 2 * i - 1);
		ck_assert(memcmp(was, whole, sizeof(was)) != 0);
		memcpy(was, whole, sizeof(was));
		sm_key_stop();
	}
}
END_TEST

static void
orphan(void *old)
{
	struct sm_loan l;
	uint32_t epoch = IN_FORCE;

	sm_locks_forget();
	sm_key_orphan();
	if (sm_key_granted() || sm_key_start() || IN_FORCE == epoch)
		_exit(1);
	for (size_t i = 0; i < 2 * SM_SLOTS; i++) { /* no lock of the parent is in the way */
		my_slot = 0;
		ck_assert_int_eq(sm_key_lend(&l, 0), 0);
		if (!memcmp(l.state, expanded, sizeof(expanded)))
			_exit(2);
		sm_key_return(&l);
	}
	if (old)
		(void)*byte_at(old, 0);
}

START_TEST(an_orphan_has_lost_the_pages_and_may_start_a_key_of_its_own)
{
	struct sm_loan l;

	start(_i);
	ck_assert_int_eq(sm_key_lend(&l, 0), 0);
	assert_exits_0(orphan, NULL);
	for (size_t i = 0; i < SM_KEY_PAGES; i++)
		assert_segv(orphan, sm_keys.page[i].base);
	sm_key_return(&l);
	assert_lends_the_same();
}
END_TEST

/* ------------------------------------------------------------------------ threads */

static _Atomic unsigned in_slot[SM_SLOTS], faults;
static uint64_t nonces[THREADS * TURNS];

static void *
borrow(void *arg)
{
	uint64_t *mine = arg;
	struct sm_loan l;

	for (size_t i = 0; i < TURNS; i++) {
		ck_assert_int_eq(sm_key_lend(&l, 0), 0);
		faults += in_slot[l.slot]++ != 0;
		mine[i] = sm_key_nonce();
		faults += memcmp(l.state, expanded, sizeof(expanded)) != 0;
		if (i % 64 == 0)
			sched_yield();
		in_slot[l.slot]--;
		sm_key_return(&l);
	}
	return NULL;
}

static int
by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

START_TEST(eight_threads_share_the_slots_one_at_a_time_and_never_a_nonce)
{
	pthread_t t[THREADS];

	conf.resplit_ms = 1;
	start(_i);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, borrow, nonces + i * TURNS), 0);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
	ck_assert_uint_eq(faults, 0);
	ck_assert(all_zero(sm_keys.slots, conf.page_bytes));
	qsort(nonces, THREADS * TURNS, sizeof(nonces[0]), by_value);
	for (size_t i = 1; i < THREADS * TURNS; i++)
		if (nonces[i] == nonces[i - 1])
			ck_abort_msg("nonce %llu twice", (unsigned long long)nonces[i]);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("key");
	TCase *tc = tcase_create("key");
	SRunner *sr = srunner_create(s);

	tcase_set_timeout(tc, 30);
	tcase_add_checked_fixture(tc, setup, NULL);
	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc, the_halves_joined_open_what_a_lent_key_sealed, 0, MODES);
	tcase_add_loop_test(tc, no_page_at_rest_holds_the_key_or_more_than_its_half, 0, MODES);
	tcase_add_loop_test(tc, a_resplit_changes_both_halves_and_not_the_key, 0, MODES);
	tcase_add_loop_test(tc, a_key_lent_after_resplit_ms_is_resplit_and_before_it_is_not,
		0, MODES);
	tcase_add_loop_test(tc, a_resplit_without_randomness_keeps_the_split_and_the_next_one_works,
		0, MODES);
	tcase_add_loop_test(tc, every_page_is_locked_undumped_and_kept_from_children, 0, MODES);
	tcase_add_loop_test(tc, the_pages_on_both_sides_of_each_page_are_inaccessible, 0, MODES);
	tcase_add_loop_test(tc, a_stop_wipes_and_unmaps_and_may_be_repeated, 0, MODES);
	if (!SANITIZED)
		tcase_add_loop_test(tc, a_start_that_fails_at_any_step_leaves_nothing_mapped, 0, MODES);
	tcase_add_loop_test(tc, every_start_has_its_own_epoch_and_key_and_no_nonce_comes_twice,
		0, MODES);
	tcase_add_loop_test(tc, an_orphan_has_lost_the_pages_and_may_start_a_key_of_its_own,
		0, MODES);
	tcase_add_loop_test(tc, eight_threads_share_the_slots_one_at_a_time_and_never_a_nonce,
		0, MODES);
	srunner_run_all(sr, CK_NORMAL);
	return finish(sr);
}
