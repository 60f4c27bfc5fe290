#include "os/inside.h"

#include "smaps.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 8, NOBODY = 65534 };
static const unsigned USUAL = SECMALLOC_LOCKED | SECMALLOC_NODUMP | SECMALLOC_FORKSAFE;

/* --wrap=open: what the library reads in /sys/power/resume */
static const char *resume_file;

int __real_open(const char *, int, ...);
int __wrap_open(const char *, int, ...);

int
__wrap_open(const char *path, int flags, ...)
{
	if (resume_file && strcmp(path, "/sys/power/resume") == 0)
		path = resume_file;
	return __real_open(path, flags, 0600);
}

static size_t
bytes_of(size_t pages)
{
	return pages * sm_os_page_bytes();
}

static unsigned char *
reserved(void)
{
	void *p;

	ck_assert_int_eq(sm_os_reserve(bytes_of(PAGES), &p), 0);
	return p;
}

static struct sm_area
obtained(unsigned require, unsigned without)
{
	struct sm_wish w = { .require = require, .without = without };
	unsigned char *at = reserved();
	struct sm_area a;
	int e = sm_os_obtain(at + bytes_of(1), bytes_of(PAGES - 2), &w, &a);

	ck_assert_msg(e == 0, "%s", sm_error_text());
	ck_assert_ptr_eq(a.base, at + bytes_of(1));
	return a;
}

/* Runs fn in a child; its wait status. */
static int
in_child(void (*fn)(void *), void *arg)
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		fn(arg);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static void
touch(void *p)
{
	signal(SIGSEGV, SIG_DFL);
	*(volatile unsigned char *)p = 1;
}

START_TEST(a_reservation_has_no_access_and_is_not_dumped)
{
	unsigned char *p = reserved();
	struct smaps m;

	ck_assert(smaps_at(p, &m));
	ck_assert_str_eq(m.access, "---p");
	ck_assert(smaps_flag(&m, "dd"));
	ck_assert_int_eq(WTERMSIG(in_child(touch, p)), SIGSEGV);
	sm_os_unreserve(p, bytes_of(PAGES));
	ck_assert(!smaps_at(p, &m));
}
END_TEST

START_TEST(plain_pages_are_locked_undumped_and_wiped_on_fork)
{
	struct sm_area a = obtained(USUAL, SECMALLOC_HIDDEN);
	struct smaps m;

	ck_assert(smaps_at(a.base, &m));
	ck_assert_uint_eq(a.granted & (USUAL | SECMALLOC_HIDDEN), USUAL);
	ck_assert(smaps_flag(&m, "lo") && smaps_flag(&m, "dd") && smaps_flag(&m, "wf"));
	ck_assert_uint_eq(m.locked_kb, a.bytes / 1024); /* touched, not only promised */
}
END_TEST

START_TEST(hidden_pages_are_secretmem_and_absent_in_a_child)
{
	struct sm_area a = obtained(USUAL, 0);
	struct smaps m;

	if (!(a.granted & SECMALLOC_HIDDEN)) {
		puts("skipped: this kernel grants no memfd_secret");
		return;
	}
	ck_assert(smaps_at(a.base, &m));
	ck_assert_uint_eq(a.granted & USUAL, USUAL);
	ck_assert(smaps_hidden(&m));
	ck_assert(smaps_flag(&m, "lo") && smaps_flag(&m, "dd") && smaps_flag(&m, "dc"));
	ck_assert_int_eq(WTERMSIG(in_child(touch, a.base)), SIGSEGV);
}
END_TEST

START_TEST(what_is_in_without_is_neither_tried_nor_granted)
{
	struct sm_area a = obtained(0, USUAL | SECMALLOC_GUARDED);
	struct smaps m;

	ck_assert(smaps_at(a.base, &m));
	ck_assert_uint_eq(a.granted, 0);
	ck_assert(!smaps_flag(&m, "lo") && !smaps_flag(&m, "wf") && !smaps_hidden(&m));
}
END_TEST

START_TEST(released_pages_leave_their_addresses_reserved)
{
	struct sm_area a = obtained(USUAL, 0), old = a;
	uint64_t before = sm_count_get(&sm_count.locked_bytes);
	struct smaps m;

	ck_assert_uint_eq(before, a.bytes);
	sm_os_release(&a);
	ck_assert_uint_eq(sm_count_get(&sm_count.locked_bytes), 0);
	ck_assert(smaps_at(old.base, &m));
	ck_assert_str_eq(m.access, "---p");
	ck_assert(!smaps_flag(&m, "lo"));
	ck_assert_ptr_null(a.base);
	sm_os_release(&a);
}
END_TEST

START_TEST(covering_a_hole_leaves_what_another_mapped_there)
{
	unsigned char *at = reserved(), *theirs = at + bytes_of(2);
	struct smaps m;

	munmap(at, bytes_of(PAGES));
	ck_assert_ptr_eq(mmap(theirs, bytes_of(1), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), theirs);
	*theirs = 42;
	sm_os_cover(at, bytes_of(PAGES), true);
	ck_assert_uint_eq(*theirs, 42);
	munmap(theirs, bytes_of(1));
	sm_os_cover(at, bytes_of(PAGES), true);
	ck_assert(smaps_at(theirs, &m));
	ck_assert_str_eq(m.access, "---p");
}
END_TEST

START_TEST(frozen_pages_refuse_a_write)
{
	unsigned char *at = reserved();

	ck_assert_int_eq(sm_os_commit(at, bytes_of(1)), 0);
	*at = 7;
	ck_assert_int_eq(sm_os_freeze(at, bytes_of(1)), 0);
	ck_assert_uint_eq(*at, 7);
	ck_assert_int_eq(WTERMSIG(in_child(touch, at)), SIGSEGV);
}
END_TEST

/* Of this thread, as the kernel tells. */
static unsigned long long
blocked(void)
{
	unsigned long long set = 0;
	char line[128];
	FILE *f = fopen("/proc/thread-self/status", "r");

	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "SigBlk: %llx", &set) == 1)
			break;
	fclose(f);
	return set;
}

START_TEST(no_signal_is_left_out_not_even_those_of_the_C_library)
{
	const unsigned long long never = 1ULL << (SIGKILL - 1) | 1ULL << (SIGSTOP - 1);
	unsigned long long before = blocked();
	struct sm_mask m;

	sm_os_mask(&m);
	ck_assert_uint_eq(blocked(), ~never);
	sm_os_unmask(&m);
	ck_assert_uint_eq(blocked(), before);
}
END_TEST

START_TEST(random_bytes_differ)
{
	unsigned char a[32] = { 0 }, b[32] = { 0 };

	ck_assert_int_eq(sm_os_random(a, sizeof(a)), 0);
	ck_assert_int_eq(sm_os_random(b, sizeof(b)), 0);
	ck_assert_mem_ne(a, b, sizeof(a));
}
END_TEST

static void
be_undumpable(void *arg)
{
	(void)arg;
	if (prctl(PR_GET_DUMPABLE) != 1 || sm_os_undumpable() || prctl(PR_GET_DUMPABLE) != 0)
		_exit(1);
}

START_TEST(undumpable_is_what_the_kernel_says)
{
	ck_assert_int_eq(in_child(be_undumpable, NULL), 0);
}
END_TEST

/* --------------------------------------------------------------- limits */

struct limited {
	rlim_t limit;
	size_t bytes;
	unsigned require;
	int error;
};

static void
obtain_limited(void *arg)
{
	const struct limited *l = arg;
	struct rlimit r = { l->limit, l->limit };
	struct sm_wish w = { .require = USUAL | l->require };
	unsigned char *at = reserved();
	struct sm_area a;

	if (setrlimit(RLIMIT_MEMLOCK, &r) || setgid(NOBODY) || setuid(NOBODY))
		_exit(1);
	if (sm_os_lock_limit() != l->limit)
		_exit(2);
	if (sm_os_obtain(at, l->bytes, &w, &a) != l->error)
		_exit(3);
	if (l->error && !strstr(sm_error_text(), "RLIMIT_MEMLOCK"))
		_exit(4);
}

static void
expect_limited(struct limited l)
{
	if (getuid() != 0) {
		puts("skipped: not root, so another user's limit cannot be had");
		return;
	}
	ck_assert_int_eq(in_child(obtain_limited, &l), 0);
}

START_TEST(no_right_to_lock_is_EPERM_and_says_so)
{
	expect_limited((struct limited){ 0, bytes_of(1), 0, EPERM });
	expect_limited((struct limited){ 0, bytes_of(1), SECMALLOC_HIDDEN, EPERM });
}
END_TEST

START_TEST(over_the_limit_is_ENOMEM_and_says_so)
{
	expect_limited((struct limited){ bytes_of(2), bytes_of(3), 0, ENOMEM });
	expect_limited((struct limited){ bytes_of(2), bytes_of(3), SECMALLOC_HIDDEN, ENOMEM });
	expect_limited((struct limited){ bytes_of(3), bytes_of(3), 0, 0 });
}
END_TEST

/* ---------------------------------------------------------- hibernation */

static unsigned
granted_with_resume(const char *content)
{
	char path[] = "/tmp/secmalloc-resume-XXXXXX";
	int fd = mkstemp(path);
	unsigned granted;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, content, strlen(content)), (ssize_t)strlen(content));
	close(fd);
	resume_file = path;
	granted = obtained(USUAL, 0).granted;
	resume_file = NULL;
	unlink(path);
	return granted;
}

START_TEST(hiding_is_not_tried_where_the_machine_hibernates)
{
	unsigned usual = obtained(USUAL, 0).granted;

	ck_assert_uint_eq(granted_with_resume("8:2\n") & SECMALLOC_HIDDEN, 0);
	ck_assert_uint_eq(granted_with_resume("0:0\n"), usual);
	ck_assert_uint_eq(granted_with_resume(""), usual);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("os");
	TCase *t = tcase_create("areas");
	SRunner *r;
	int failed;

	tcase_add_test(t, a_reservation_has_no_access_and_is_not_dumped);
	tcase_add_test(t, plain_pages_are_locked_undumped_and_wiped_on_fork);
	tcase_add_test(t, hidden_pages_are_secretmem_and_absent_in_a_child);
	tcase_add_test(t, what_is_in_without_is_neither_tried_nor_granted);
	tcase_add_test(t, released_pages_leave_their_addresses_reserved);
	tcase_add_test(t, covering_a_hole_leaves_what_another_mapped_there);
	tcase_add_test(t, frozen_pages_refuse_a_write);
	tcase_add_test(t, random_bytes_differ);
	tcase_add_test(t, no_signal_is_left_out_not_even_those_of_the_C_library);
	tcase_add_test(t, undumpable_is_what_the_kernel_says);
	tcase_add_test(t, no_right_to_lock_is_EPERM_and_says_so);
	tcase_add_test(t, over_the_limit_is_ENOMEM_and_says_so);
	tcase_add_test(t, hiding_is_not_tried_where_the_machine_hibernates);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
