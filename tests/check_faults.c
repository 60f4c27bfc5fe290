/* Every system call the library makes is made to fail once, at each place in turn. Linked with
 * --wrap, so that the library's own calls come here and nobody else's do. */
#include <secmalloc.h>

#include "injected.h"
#include "smaps.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct injection {
	enum call call;
	int error;
} injections[] = { { MMAP, ENOMEM }, { MMAP, EAGAIN }, { MLOCK, ENOMEM }, { MLOCK, EPERM },
	{ MLOCK, EAGAIN }, { MLOCK2, ENOSYS }, { MLOCK2, ENOMEM }, { MUNLOCK, EAGAIN },
	{ MUNLOCK, ENOMEM }, { MPROTECT, ENOMEM },
	{ MPROTECT, EACCES }, { MADVISE, EINVAL },
	{ MADVISE, ENOMEM }, { MREMAP, ENOMEM }, { FTRUNCATE, EPERM }, { FTRUNCATE, ENOMEM },
	{ MEMFD_SECRET, ENOSYS }, { MEMFD_SECRET, EMFILE }, { GETRANDOM, EAGAIN },
	{ GETRANDOM, ENOSYS } };

enum { INJECTIONS = sizeof(injections) / sizeof(injections[0]), PLACES_MOST = 400 };
enum { BORNE = 10, NO_SUCH_PLACE = 11 }; /* exit statuses; a failed assertion exits with 1 */

/* ------------------------------------------------------------- the scenario */

static void
expect_error(int e)
{
	static const int allowed[] = { EPERM, ENOMEM, ENOTSUP, EAGAIN, ENOSYS };

	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		if (e == allowed[i]) {
			ck_assert_str_ne(secmalloc_error(), "no error");
			ck_assert_ptr_null(strchr(secmalloc_error(), '\n'));
			return;
		}
	ck_abort_msg("errno %d (%s): %s", e, strerror(e), secmalloc_error());
}

static bool
readable(const unsigned char *p, int out)
{
	return write(out, p, 1) == 1;
}

/* A guard is a mapping without access, or a marker in one with access. */
static bool
guard_follows(const void *p)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = 0;
	const unsigned char *at = (const unsigned char *)((uintptr_t)p & ~(page - 1));
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	while (pages < 64 && readable(at + pages * page, fds[1]))
		pages++;
	close(fds[0]);
	close(fds[1]);
	return pages < 64;
}

/* What stats say of the pool of this chunk must be what the kernel says. */
static void
expect_truth(const void *p)
{
	struct secmalloc_stats s = SECMALLOC_STATS_INIT;
	struct smaps m;

	ck_assert_int_eq(secmalloc_stats(&s), 0);
	ck_assert(smaps_at(p, &m));
	ck_assert(s.granted & SECMALLOC_LOCKED && smaps_flag(&m, "lo"));
	ck_assert(s.granted & SECMALLOC_NODUMP && smaps_flag(&m, "dd"));
	ck_assert(s.granted & SECMALLOC_FORKSAFE);
	ck_assert(smaps_flag(&m, "wf") || smaps_flag(&m, "dc"));
	if (s.granted & SECMALLOC_HIDDEN)
		ck_assert(smaps_hidden(&m));
	if (s.granted & SECMALLOC_GUARDED)
		ck_assert(guard_follows(p));
}

static void
use_chunks(void)
{
	static const size_t sizes[] = { 0, 1, 32, 300, 4000, 20000, 70000 };
	enum { N = sizeof(sizes) / sizeof(sizes[0]) };
	unsigned char *p[N];

	for (size_t i = 0; i < N; i++) {
		p[i] = secmalloc(sizes[i]);
		if (!p[i]) {
			expect_error(errno);
			continue;
		}
		expect_truth(p[i]);
		memset(p[i], (int)i + 1, sizes[i]);
		if (secmalloc_encrypt(p[i]))
			expect_error(errno);
	}
	for (size_t i = 0; i < N; i++) {
		if (p[i] && secmalloc_decrypt(p[i])) {
			expect_error(errno);
			ck_assert_int_eq(secmalloc_decrypt(p[i]), 0); /* one call failed, not two */
		}
		for (size_t k = 0; p[i] && k < sizes[i]; k++)
			ck_assert_uint_eq(p[i][k], i + 1);
		secfree(p[i]);
	}
}

static void
expect_start(const struct secmalloc_config *c)
{
	ck_assert_msg(secmalloc_init(c) == 0, "%s", secmalloc_error());
}

/* True: the injected failure happened. */
static bool
one_run(const struct injection *i, long place, unsigned without)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	size_t before;

	c.pool_size = 8 * (size_t)sysconf(_SC_PAGESIZE);
	c.without = without;
	before = smaps_unnamed_bytes();
	armed.call = i->call;
	armed.error = i->error;
	armed.countdown = place;
	if (secmalloc_init(&c)) {
		expect_error(errno);
		armed.countdown = 0;
		ck_assert_uint_eq(smaps_unnamed_bytes(), before);
		expect_start(&c);
	}
	use_chunks();
	armed.countdown = 0;
	secmalloc_term();
	ck_assert_uint_eq(smaps_unnamed_bytes(), before);
	return armed.hit;
}

static int
one_child(int i, long place, unsigned without)
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(one_run(&injections[i], place, without) ? BORNE : NO_SUCH_PLACE);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status), "call %d errno %d place %ld: signal %d",
		(int)injections[i].call, injections[i].error, place, WTERMSIG(status));
	return WEXITSTATUS(status);
}

static void
every_place(int i, unsigned without, long least)
{
	long place = 1;
	int r;

	expect_start(NULL); /* what libraries map once, they have mapped then */
	secmalloc_term();
	while ((r = one_child(i, place, without)) == BORNE && place < PLACES_MOST)
		place++;
	ck_assert_msg(r == NO_SUCH_PLACE, "call %d errno %d place %ld failed", (int)injections[i].call,
		injections[i].error, place);
	ck_assert_msg(place > least, "call %d was never made: the test is void",
		(int)injections[i].call);
}

START_TEST(no_failed_call_is_silent_with_hidden_pages)
{
	bool void_here = injections[_i].call == MMAP;

	every_place(_i, 0, void_here ? 0 : 1);
}
END_TEST

START_TEST(no_failed_call_is_silent_with_locked_pages)
{
	enum call c = injections[_i].call;

	every_place(_i, SECMALLOC_HIDDEN, c == FTRUNCATE || c == MEMFD_SECRET ? 0 : 1);
}
END_TEST

/* What the library takes for vm.max_map_count; 0: the truth */
static size_t map_limit;
size_t __real_sm_os_map_limit(void);
size_t __wrap_sm_os_map_limit(void);

size_t
__wrap_sm_os_map_limit(void)
{
	return map_limit ? map_limit : __real_sm_os_map_limit();
}

START_TEST(a_quarter_of_max_map_count_is_left_to_the_program)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	size_t n = 0;
	void *p[24];

	map_limit = 64;
	c.pool_size = 1 << 20;
	expect_start(&c);
	while (n < 24 && (p[n] = secmalloc(20000)) != NULL)
		n++; /* two mappings each */
	ck_assert_uint_gt(n, 15);
	ck_assert_uint_lt(n, 24);
	ck_assert_int_eq(errno, ENOMEM);
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "vm.max_map_count"));
	secfree(p[7]);
	ck_assert_ptr_nonnull(secmalloc(20000));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("faults");
	TCase *t = tcase_create("injected");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, no_failed_call_is_silent_with_hidden_pages, 0, INJECTIONS);
	tcase_add_loop_test(t, no_failed_call_is_silent_with_locked_pages, 0, INJECTIONS);
	tcase_add_test(t, a_quarter_of_max_map_count_is_left_to_the_program);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
