/*
 * check_contract_fork.c - the contract: children under SECMALLOC_FORK_WIPE
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"
#include <inttypes.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/syscall.h>

extern char **environ;

enum { SMALL, LARGE, SEALED, SEALED_LARGE, EMPTY, N_HEIRLOOMS };

static const size_t SIZE[N_HEIRLOOMS] = {500, 70000, 500, 70000, 0};

/** heirloom - the parent's chunks, whose addresses a child knows */
static unsigned char *heirloom[N_HEIRLOOMS];

static void
make_heirlooms(void)
{
	for (int i = 0; i < N_HEIRLOOMS; i++) {
		heirloom[i] = secmalloc(SIZE[i]);
		ck_assert_msg(heirloom[i] != NULL, "%s", secmalloc_error());
		fill(heirloom[i], SIZE[i], (unsigned)i);
	}
	ck_assert_int_eq(secmalloc_encrypt(heirloom[SEALED]), 0);
	ck_assert_int_eq(secmalloc_encrypt(heirloom[SEALED_LARGE]), 0);
}

static void
init_granted(void)
{
	init_defaults();
	make_heirlooms();
}

static void
init_without_hidden(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.without = SECMALLOC_HIDDEN;
	ck_assert_msg(secmalloc_init(&c) == 0, "%s", secmalloc_error());
	make_heirlooms();
}

/** check_heirlooms_and_term - the fixture's end: the parent lost nothing to its children */
static void
check_heirlooms_and_term(void)
{
	ck_assert_int_eq(secmalloc_is_encrypted(heirloom[SEALED]), 1);
	ck_assert_int_eq(secmalloc_decrypt_all(), 0);
	for (int i = 0; i < N_HEIRLOOMS; i++) {
		ck_assert(filled(heirloom[i], SIZE[i], (unsigned)i));
		secfree(heirloom[i]);
	}
	term();
}

/** raw_fork - a child of which no pthread_atfork handler hears */
static pid_t
raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/** every_call_is_echild - on each pointer of the parent, and none of them does anything */
static void
every_call_is_echild(void)
{
	for (int i = 0; i < N_HEIRLOOMS; i++) {
		unsigned char *p = heirloom[i];

		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(p));
		MUST_FAIL(ECHILD, -1, secmalloc_decrypt(p));
		MUST_FAIL(ECHILD, -1, secmalloc_is_encrypted(p));
		MUST_FAIL(ECHILD, 0, secmalloc_usable_size(p));
		MUST_FAIL(ECHILD, -1, secmalloc_protect(p, SECMALLOC_READONLY));
		MUST_FAIL(ECHILD, NULL, secrealloc(p, 10));
		MUST_FAIL(ECHILD, NULL, secrealloc(p, 100000));
		MUST_FAIL(0, 0, secmalloc_owns(p));
		MUST_FAIL(0, 0, (secfree(p), 0));
		MUST_FAIL(0, 0, (secfree(p), 0));
		MUST(secrealloc(p, 0) == NULL);
		MUST_FAIL(ECHILD, -1, secmalloc_encrypt(p));
	}
}

/** start_anew - in a child: memory of its own works, at none of the parent's addresses */
static void
start_anew(void)
{
	for (unsigned k = 0; k < 300; k++) {
		const size_t n = k % 50 == 0 ? 70000 : 500;
		unsigned char *p = secmalloc(n);

		MUST(p != NULL && all_zero(p, n) && secmalloc_owns(p) == 1);
		for (int i = 0; i < N_HEIRLOOMS; i++)
			MUST(p + n <= heirloom[i] || p >= heirloom[i] + SIZE[i] + 1);
		fill(p, n, k);
		MUST(secmalloc_encrypt(p) == 0 && secmalloc_decrypt(p) == 0);
		MUST(filled(p, n, k));
		if (k % 2)
			secfree(p);
	}
}

static void
child_uses_heirlooms(void *arg)
{
	(void)arg;
	every_call_is_echild();
}

static void
child_starts_anew(void *arg)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	(void)arg;
	MUST(secmalloc_stats(&s) == 0 && s.chunks == 0 && s.bytes == 0 && s.pools == 0);
	MUST(secmalloc_encrypt_all() == 0 && secmalloc_decrypt_all() == 0);
	start_anew();
	every_call_is_echild();
	MUST(secmalloc_stats(&s) == 0 && s.chunks == 150 && s.tampered == 0);
	MUST_FAIL(EALREADY, -1, secmalloc_init(NULL));
}

static void
child_inits_and_terms(void *arg)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	(void)arg;
	c.pool_size = 512 * KIB;
	for (int round = 0; round < 3; round++) {
		MUST(secmalloc_init(&c) == 0);
		every_call_is_echild();
		start_anew();
		every_call_is_echild();
		MUST(secmalloc_term() == 0);
		every_call_is_echild();
	}
}

static void
child_terms_first(void *arg)
{
	(void)arg;
	MUST(secmalloc_term() == 0);
	every_call_is_echild();
	start_anew();
	every_call_is_echild();
}

static void
child_has_a_child(void *arg)
{
	pid_t pid;
	int status;

	if (arg != NULL)
		start_anew();
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		every_call_is_echild();
		start_anew();
		every_call_is_echild();
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0) == pid && status == 0);
}

static void
by_fork_and_by_clone(void (*body)(void *), void *arg)
{
	const struct outcome o = outcome_by(raw_fork, body, arg);

	assert_exits_0(body, arg);
	ck_assert_msg(o.status == 0, "raw clone: status 0x%x: %s", (unsigned)o.status, o.text);
}

START_TEST(a_pointer_of_the_parent_is_echild_in_the_child)
{
	by_fork_and_by_clone(child_uses_heirlooms, NULL);
}
END_TEST

START_TEST(the_first_allocation_of_a_child_starts_anew)
{
	by_fork_and_by_clone(child_starts_anew, NULL);
}
END_TEST

START_TEST(a_child_may_init_and_term_for_itself)
{
	by_fork_and_by_clone(child_inits_and_terms, NULL);
	by_fork_and_by_clone(child_terms_first, NULL);
}
END_TEST

START_TEST(a_pointer_of_the_grandparent_is_echild_too)
{
	by_fork_and_by_clone(child_has_a_child, NULL);
	by_fork_and_by_clone(child_has_a_child, heirloom);
}
END_TEST

static void
child_reads_heirlooms(void *arg)
{
	unsigned char seen[4096];

	if (arg != NULL)
		start_anew();
	for (int i = SMALL; i <= LARGE; i++) {
		for (size_t at = 0; at < SIZE[i]; at += sizeof(seen)) {
			const size_t n = SIZE[i] - at < sizeof(seen) ? SIZE[i] - at : sizeof(seen);
			const ssize_t got = peek(heirloom[i] + at, seen, n);

			for (ssize_t k = 0; k < got; k++)
				MUST(seen[k] == 0);
		}
	}
}

START_TEST(a_child_reads_nothing_of_the_parents_chunks)
{
	if (under_valgrind(__func__))
		return;
	by_fork_and_by_clone(child_reads_heirlooms, NULL);
	by_fork_and_by_clone(child_reads_heirlooms, heirloom);
}
END_TEST

/** struct range - a mapping of the parent that holds a chunk */
struct range {
	uintptr_t from, to;
};

static struct range
mapping_of(const void *p)
{
	const uintptr_t at = (uintptr_t)p;
	struct range r = {0, 0};
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];

	ck_assert_ptr_nonnull(maps);
	while (fgets(line, sizeof(line), maps) != NULL)
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &r.from, &r.to) == 2 && r.from <= at &&
			at < r.to)
			break;
	fclose(maps);
	ck_assert(r.from <= at && at < r.to);
	return r;
}

static void
child_maps_a_lot(void *arg)
{
	const struct range *r = arg;
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	for (uintptr_t k = 0; k < 4000; k++) {
		const size_t n = (k % 7 ? k % 40 + 1 : 300) * page;
		void *hint = (void *)(k % 2 ? r[k % N_HEIRLOOMS].from + k % 20 * page : 0);
		const uintptr_t p = (uintptr_t)mmap(hint, n, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		MUST((void *)p != MAP_FAILED);
		for (int i = 0; i < N_HEIRLOOMS; i++)
			MUST(p + n <= r[i].from || p >= r[i].to);
	}
	every_call_is_echild();
}

START_TEST(nothing_a_child_maps_lands_on_the_parents_pools)
{
	struct range r[N_HEIRLOOMS];

	for (int i = 0; i < N_HEIRLOOMS; i++)
		r[i] = mapping_of(heirloom[i]);
	assert_exits_0(child_maps_a_lot, r);
}
END_TEST

static void
child_closes_a_chunk(void *arg)
{
	unsigned char *shared = arg, *p = secmalloc(64);

	MUST(p != NULL);
	fill(p, 64, 99);
	MUST(secmalloc_encrypt(p) == 0);
	memcpy(shared, p, 64);
}

START_TEST(no_two_children_close_the_same_bytes_alike)
{
	enum { N = 40 };
	unsigned char *seen =
		mmap(NULL, N * 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(seen, MAP_FAILED);
	for (int i = 0; i < N; i += 2) {
		const struct outcome o =
			outcome_by(raw_fork, child_closes_a_chunk, seen + 64 * (i + 1));

		ck_assert_msg(o.status == 0, "%s", o.text);
		assert_exits_0(child_closes_a_chunk, seen + 64 * i);
	}
	for (int i = 0; i < N; i++)
		for (int j = 0; j < i; j++)
			ck_assert_int_ne(memcmp(seen + 64 * i, seen + 64 * j, 64), 0);
}
END_TEST

static void
child_has_the_parents_config(void *arg)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	(void)arg;
	MUST(secmalloc(10) != NULL);
	MUST(secmalloc_stats(&s) == 0);
	MUST(s.pools == 3 && s.pool_bytes == 3 * 128 * KIB);
	MUST(s.cipher == SECMALLOC_CIPHER_XCHACHA20POLY1305);
	MUST((s.granted & SECMALLOC_HIDDEN) == 0);
}

START_TEST(a_child_starts_with_the_parents_config)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.pool_size = 128 * KIB;
	c.initial_pools = 3;
	c.without = SECMALLOC_HIDDEN;
	c.cipher = SECMALLOC_CIPHER_XCHACHA20POLY1305;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	memset(&c, 0xff, sizeof(c));
	by_fork_and_by_clone(child_has_the_parents_config, NULL);
	term();
}
END_TEST

static void
child_may_lock_nothing(void *arg)
{
	(void)arg;
	drop_to(0);
	for (int i = 0; i < 3; i++)
		MUST_FAIL(EPERM, NULL, secmalloc(10));
	every_call_is_echild();
}

START_TEST(a_child_that_may_lock_nothing_gets_nothing)
{
	if (may_drop(__func__))
		by_fork_and_by_clone(child_may_lock_nothing, NULL);
}
END_TEST

static int
status_of_vfork(void)
{
	int status = -1;
	const pid_t pid = vfork();

	if (pid == 0)
		_exit(3);
	waitpid(pid, &status, 0);
	return status;
}

START_TEST(vfork_spawn_and_system_do_no_harm)
{
	char name[] = "true";
	char *const argv[] = {name, NULL};
	int status;

	for (int round = 0; round < 5; round++) {
		pid_t pid;

		ck_assert_int_eq(status_of_vfork(), 3 << 8);
		ck_assert_int_eq(posix_spawnp(&pid, name, NULL, NULL, argv, environ), 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(status, 0);
		ck_assert_int_eq(system("exit 4"), 4 << 8);
		ck_assert_int_eq(secmalloc_encrypt_all(), 0);
		ck_assert_int_eq(secmalloc_decrypt_all(), 0);
		ck_assert_ptr_nonnull(secmalloc(1000));
	}
	ck_assert_int_eq(secmalloc_encrypt(heirloom[SEALED]), 0);
	ck_assert_uint_eq(stats_now().chunks, N_HEIRLOOMS + 5);
}
END_TEST

static atomic_int stop;

static void *
allocate_while_forking(void *arg)
{
	(void)arg;
	for (unsigned i = 0; !atomic_load(&stop); i++) {
		const size_t n = i % 16 ? i % 3000 : 40000;
		unsigned char *p = secmalloc(n);

		if (p == NULL)
			return "no memory";
		fill(p, n, i);
		if (secmalloc_encrypt(p) != 0 || secmalloc_decrypt(p) != 0 || !filled(p, n, i))
			return "not opened";
		p = secrealloc(p, n + 100);
		if (p == NULL || !filled(p, n, i))
			return "not resized";
		secfree(p);
	}
	return NULL;
}

START_TEST(a_parent_forks_while_its_threads_allocate)
{
	pthread_t threads[3];
	void *complaint;

	atomic_store(&stop, 0);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(
			pthread_create(&threads[i], NULL, allocate_while_forking, NULL), 0);
	for (int i = 0; i < 150; i++)
		assert_exits_0(child_starts_anew, NULL);
	atomic_store(&stop, 1);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(pthread_join(threads[i], &complaint), 0);
		ck_assert_msg(complaint == NULL, "%s", (char *)complaint);
	}
}
END_TEST

static void
add_tests(Suite *s, const char *name, void (*init)(void))
{
	TCase *tc = add_case(s, name, 0);

	tcase_add_checked_fixture(tc, init, check_heirlooms_and_term);
	tcase_add_test(tc, a_pointer_of_the_parent_is_echild_in_the_child);
	tcase_add_test(tc, the_first_allocation_of_a_child_starts_anew);
	tcase_add_test(tc, a_child_may_init_and_term_for_itself);
	tcase_add_test(tc, a_pointer_of_the_grandparent_is_echild_too);
	tcase_add_test(tc, a_child_reads_nothing_of_the_parents_chunks);
	tcase_add_test(tc, nothing_a_child_maps_lands_on_the_parents_pools);
	tcase_add_test(tc, no_two_children_close_the_same_bytes_alike);
	tcase_add_test(tc, a_child_that_may_lock_nothing_gets_nothing);
	tcase_add_test(tc, vfork_spawn_and_system_do_no_harm);
	tcase_add_test(tc, a_parent_forks_while_its_threads_allocate);
}

int
main(void)
{
	Suite *s = suite_create("contract: fork");

	add_tests(s, "as granted", init_granted);
	add_tests(s, "without hidden", init_without_hidden);
	tcase_add_test(add_case(s, "not running", 0), a_child_starts_with_the_parents_config);
	return run(s);
}
