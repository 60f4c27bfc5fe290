#include "front/inside.h"

#include "os/os.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int
resolve(const struct secmalloc_config *c, struct sm_config *out)
{
	memset(out, 0, sizeof(*out));
	return sm_front_resolve(c, out);
}

START_TEST(zero_means_the_documented_default)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct sm_config r;

	ck_assert_int_eq(resolve(&c, &r), 0);
	ck_assert_uint_eq(r.require, SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_NODUMP |
			SECMALLOC_FORKSAFE);
	ck_assert(r.pool_auto);
	ck_assert_uint_eq(r.initial_pools, 1);
	ck_assert_uint_eq(r.max_pools, UINT_MAX);
	ck_assert_uint_eq(r.resplit_ms, 500);
	ck_assert_uint_eq(r.cipher, SECMALLOC_CIPHER_AUTO);
}
END_TEST

START_TEST(without_takes_a_bit_out_of_the_default_require)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct sm_config r;

	c.without = SECMALLOC_NODUMP | SECMALLOC_HIDDEN;
	ck_assert_int_eq(resolve(&c, &r), 0);
	ck_assert_uint_eq(r.require, SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_FORKSAFE);
}
END_TEST

START_TEST(pool_size_is_rounded_up_to_pages)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct sm_config r;

	c.pool_size = 1;
	ck_assert_int_eq(resolve(&c, &r), 0);
	ck_assert_uint_eq(r.pool_bytes, sm_os_page_bytes());
	c.pool_size = sm_os_page_bytes() + 1;
	ck_assert_int_eq(resolve(&c, &r), 0);
	ck_assert_uint_eq(r.pool_bytes, 2 * sm_os_page_bytes());
	ck_assert(!r.pool_auto);
	c.pool_size = SIZE_MAX;
	ck_assert_int_eq(resolve(&c, &r), EINVAL);
}
END_TEST

START_TEST(what_transparent_mode_cannot_do_is_ENOTSUP_and_named)
{
	struct secmalloc_config c[2];
	static const char *const name[2] = { "HIDDEN", "LOCKED" };
	struct sm_config r;

	for (int i = 0; i < 2; i++)
		c[i] = (struct secmalloc_config)SECMALLOC_CONFIG_INIT;
	c[0].flags = c[1].flags = SECMALLOC_TRANSPARENT;
	c[0].require = SECMALLOC_HIDDEN;
	c[1].without = SECMALLOC_LOCKED;
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(resolve(&c[i], &r), ENOTSUP);
		ck_assert_ptr_nonnull(strstr(sm_error_text(), name[i]));
	}
}
END_TEST

START_TEST(a_prekey_has_32_bytes_to_1_MiB)
{
	static const size_t sizes[] = { 1, 31, ((size_t)1 << 20) + 1, SIZE_MAX };
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct sm_config r;

	for (size_t i = 0; i < 4; i++) {
		c.prekey_size = sizes[i];
		ck_assert_int_eq(resolve(&c, &r), EINVAL);
		ck_assert_ptr_nonnull(strstr(sm_error_text(), "prekey_size"));
	}
	c.prekey_size = 1 << 20;
	ck_assert_int_eq(resolve(&c, &r), 0);
	c.prekey_size = 0;
	ck_assert_int_eq(resolve(&c, &r), 0);
	ck_assert_uint_eq(r.prekey_bytes, 32);
}
END_TEST

START_TEST(a_newer_callers_struct_is_fine_while_its_tail_is_zero)
{
	struct {
		struct secmalloc_config c;
		unsigned char tail[32];
	} newer = { SECMALLOC_CONFIG_INIT, { 0 } };
	struct secmalloc_config out;

	newer.c.struct_size = sizeof(newer);
	newer.c.max_pools = 7;
	ck_assert_int_eq(sm_front_copy_config(&newer.c, &out), 0);
	ck_assert_uint_eq(out.max_pools, 7);
	newer.tail[31] = 1;
	ck_assert_int_eq(sm_front_copy_config(&newer.c, &out), EINVAL);
	newer.c.struct_size = sizeof(newer.c) - 1;
	ck_assert_int_eq(sm_front_copy_config(&newer.c, &out), EINVAL);
}
END_TEST

/* ------------------------------------------------------------ start and stop */

static void *
allocate_at_the_bell(void *bell)
{
	void *p;

	while (!atomic_load((atomic_bool *)bell))
		sched_yield();
	p = secmalloc(32);
	if (p)
		memset(p, 1, 32);
	return p;
}

START_TEST(first_allocations_of_many_threads_start_the_library_once)
{
	enum { THREADS = 8 };
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	pthread_t t[THREADS];
	atomic_bool bell = false;
	void *p;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, allocate_at_the_bell, &bell), 0);
	atomic_store(&bell, true);
	for (int i = 0; i < THREADS; i++) {
		ck_assert_int_eq(pthread_join(t[i], &p), 0);
		ck_assert_ptr_nonnull(p);
		ck_assert_int_eq(secmalloc_owns(p), 1);
	}
	ck_assert_int_eq(secmalloc_stats(&s), 0);
	ck_assert_uint_eq(s.pools, 1);
	ck_assert_uint_eq(s.chunks, THREADS);
}
END_TEST

static int
status_of(pid_t pid)
{
	int status;

	ck_assert_int_ge(pid, 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

/* In a child: nothing of the parent's house stands, and its own has the parent's config. */
static void
be_an_orphan(void *parents)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	size_t page = sm_os_page_bytes();

	if (secmalloc_stats(&s) || s.pools != 0 || s.granted != 0 || s.chunks != 0)
		_exit(1);
	if (secmalloc_encrypt(parents) != -1 || errno != ECHILD)
		_exit(2);
	secfree(parents);
	if (secmalloc_owns(parents) || !secmalloc(10))
		_exit(3);
	if (secmalloc_stats(&s) || s.pools != 2 || s.pool_bytes != 2 * 24 * page)
		_exit(4);
	if (secmalloc_decrypt(parents) != -1 || errno != ECHILD)
		_exit(5);
	_exit(0);
}

static void *
parents_chunk(void)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.pool_size = 24 * sm_os_page_bytes();
	c.initial_pools = 2;
	ck_assert_msg(secmalloc_init(&c) == 0, "%s", secmalloc_error());
	return secmalloc(100);
}

START_TEST(a_forked_child_starts_anew_with_the_parents_config)
{
	void *p = parents_chunk();
	pid_t pid = fork();

	if (pid == 0)
		be_an_orphan(p);
	ck_assert_int_eq(status_of(pid), 0);
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
}
END_TEST

START_TEST(a_child_of_a_raw_clone_knows_what_it_is)
{
	void *p = parents_chunk();
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		be_an_orphan(p);
	ck_assert_int_eq(status_of(pid), 0);
	ck_assert_int_eq(secmalloc_encrypt(p), 0);
}
END_TEST

START_TEST(a_grandchild_refuses_the_chunks_of_both)
{
	void *p = parents_chunk(), *mine;
	pid_t pid = fork(), grandchild;

	if (pid == 0) {
		mine = secmalloc(5);
		grandchild = fork();
		if (grandchild == 0) {
			if (secmalloc_is_encrypted(p) != -1 || errno != ECHILD)
				_exit(1);
			if (!mine || secmalloc_is_encrypted(mine) != -1 || errno != ECHILD)
				_exit(2);
			_exit(secmalloc(5) ? 0 : 3);
		}
		_exit(status_of(grandchild) == 0 ? 0 : 1);
	}
	ck_assert_int_eq(status_of(pid), 0);
}
END_TEST

static void *
start_and_stop(void *stop)
{
	while (!atomic_load((atomic_bool *)stop)) {
		if (secmalloc_init(NULL))
			return stop;
		secmalloc_term();
	}
	return NULL;
}

START_TEST(a_fork_in_the_middle_of_a_start_leaves_a_child_that_starts)
{
	atomic_bool stop = false;
	pthread_t t;
	void *failed;

	ck_assert_int_eq(pthread_create(&t, NULL, start_and_stop, &stop), 0);
	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(secmalloc(16) ? 0 : 1);
		ck_assert_int_eq(status_of(pid), 0);
	}
	atomic_store(&stop, true);
	ck_assert_int_eq(pthread_join(t, &failed), 0);
	ck_assert_ptr_null(failed);
}
END_TEST

START_TEST(untraceable_is_granted_only_when_required_and_true)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;

	ck_assert_int_eq(secmalloc_init(&c), 0);
	ck_assert_int_eq(prctl(PR_GET_DUMPABLE), 1);
	ck_assert_int_eq(secmalloc_stats(&s), 0);
	ck_assert_uint_eq(s.granted & SECMALLOC_UNTRACEABLE, 0);
	secmalloc_term();
	c.require = SECMALLOC_LOCKED | SECMALLOC_UNTRACEABLE;
	ck_assert_int_eq(secmalloc_init(&c), 0);
	ck_assert_int_eq(prctl(PR_GET_DUMPABLE), 0);
	ck_assert_int_eq(secmalloc_stats(&s), 0);
	ck_assert_uint_ne(s.granted & SECMALLOC_UNTRACEABLE, 0);
}
END_TEST

static void
add_tests(TCase *t)
{
	tcase_add_test(t, zero_means_the_documented_default);
	tcase_add_test(t, without_takes_a_bit_out_of_the_default_require);
	tcase_add_test(t, pool_size_is_rounded_up_to_pages);
	tcase_add_test(t, what_transparent_mode_cannot_do_is_ENOTSUP_and_named);
	tcase_add_test(t, a_prekey_has_32_bytes_to_1_MiB);
	tcase_add_test(t, a_newer_callers_struct_is_fine_while_its_tail_is_zero);
	tcase_add_test(t, first_allocations_of_many_threads_start_the_library_once);
	tcase_add_test(t, a_forked_child_starts_anew_with_the_parents_config);
	tcase_add_test(t, a_child_of_a_raw_clone_knows_what_it_is);
	tcase_add_test(t, a_grandchild_refuses_the_chunks_of_both);
	tcase_add_test(t, a_fork_in_the_middle_of_a_start_leaves_a_child_that_starts);
	tcase_add_test(t, untraceable_is_granted_only_when_required_and_true);
}

int
main(void)
{
	Suite *s = suite_create("front");
	TCase *t = tcase_create("life");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	add_tests(t);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
