/* What a review found at the edges of a life: forks and cancellations in the middle of things,
 * children without handlers, starts and growths that are refused. Linked with --wrap of close,
 * madvise and mprotect. */
#include "base/base.h"

#include "contract.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* ------------------------------------------------------- what the wrappers do */

static _Thread_local long close_us; /* as if preempted between a mapping and its protection */
static long wipe_countdown; /* 1: the next MADV_WIPEONFORK fails; 0: not armed */
static bool wipe_refused;
static bool refuse_mprotect;
static const struct sm_config *seen_config; /* in force while pages were obtained */

int __real_close(int);
int __wrap_close(int);
int __real_madvise(void *, size_t, int);
int __wrap_madvise(void *, size_t, int);
int __real_mprotect(void *, size_t, int);
int __wrap_mprotect(void *, size_t, int);

static void
sleep_us(long us)
{
	const struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	if (us)
		nanosleep(&t, NULL);
}

int
__wrap_close(int fd)
{
	int r;

	sleep_us(close_us);
	r = __real_close(fd);
	sleep_us(close_us);
	return r;
}

int
__wrap_madvise(void *p, size_t n, int what)
{
	seen_config = sm_config();
	if (what != MADV_WIPEONFORK || wipe_countdown == 0 || --wipe_countdown > 0)
		return __real_madvise(p, n, what);
	wipe_refused = true;
	errno = EINVAL;
	return -1;
}

int
__wrap_mprotect(void *p, size_t n, int prot)
{
	if (!refuse_mprotect)
		return __real_mprotect(p, n, prot);
	errno = ENOMEM;
	return -1;
}

/* --------------------------------------------------------------- helpers */

/* A child for which no handler of pthread_atfork runs. */
static pid_t
bare_clone(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static pid_t
bare_fork(void)
{
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
	return _Fork();
#else
	return bare_clone();
#endif
}

static void
assert_exits_0_by(pid_t (*forker)(void), void (*body)(void *), void *arg)
{
	const struct outcome o = outcome_by(forker, body, arg);

	ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0, "status 0x%x: %s",
		(unsigned)o.status, o.text);
}

/* false: there are no hidden pages here, and so says the output */
static bool
start_hidden(unsigned require, unsigned without, const char *test)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;

	c.pool_size = 32 * KIB;
	c.require = SECMALLOC_LOCKED | SECMALLOC_HIDDEN | require;
	c.without = without;
	if (secmalloc_init(&c) == 0)
		return true;
	printf("skipped: %s: %s\n", test, secmalloc_error());
	return false;
}

/* The whole of a small file, in a buffer of its own: a child may not allocate. */
static const char *
text_of(const char *path)
{
	static char text[1 << 18];
	size_t used = 0;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	MUST(fd >= 0);
	while ((n = read(fd, text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)n;
	close(fd);
	text[used] = '\0';
	return text;
}

/* ------------------------------------------------- forks while pools are added */

static atomic_bool enough;

static void *
grow_and_shrink(void *unused)
{
	void *p;

	close_us = 200;
	for (size_t i = 0; !atomic_load(&enough); i++) {
		p = secmalloc((9 + i % 50) * 4096);
		if (!p)
			return launder("no chunk");
		secfree(p);
		sleep_us(300); /* or a fork waits long for a lock that is not fair */
	}
	return unused;
}

static void
hold_nothing_hidden(void *unused)
{
	char path[32], target[64];
	ssize_t n;

	(void)unused;
	MUST(strstr(text_of("/proc/self/maps"), "secretmem") == NULL);
	for (int fd = 3; fd < 64; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		MUST(strstr(target, "secretmem") == NULL);
	}
}

START_TEST(a_child_forked_while_a_pool_is_added_gets_no_hidden_page_and_no_descriptor)
{
	pthread_t t;
	void *failed;

	if (!start_hidden(SECMALLOC_FORKSAFE, 0, "a fork while a pool is added"))
		return;
	ck_assert_int_eq(pthread_create(&t, NULL, grow_and_shrink, NULL), 0);
	for (int i = 0; i < 100; i++)
		assert_exits_0(hold_nothing_hidden, NULL);
	atomic_store(&enough, true);
	ck_assert_int_eq(pthread_join(t, &failed), 0);
	ck_assert_ptr_null(failed);
}
END_TEST

/* ------------------------------------------------------------ cancellation */

/* Each with a cancellation pending: the library is none of the places where it is obeyed. */
static void *
allocate_cancelled(void *size)
{
	pthread_cancel(pthread_self());
	return secmalloc(*(size_t *)size);
}

static void *
close_cancelled(void *chunk)
{
	pthread_cancel(pthread_self());
	return secmalloc_encrypt(chunk) == 0 ? chunk : NULL;
}

static void *
result_of(void *(*body)(void *), void *arg)
{
	void *result;
	pthread_t t;

	MUST(pthread_create(&t, NULL, body, arg) == 0);
	MUST(pthread_join(t, &result) == 0);
	return result;
}

static void *
grow_slowly(void *unused)
{
	close_us = 50000;
	MUST(secmalloc(2 * MIB) != NULL);
	return unused;
}

/* The lock of a size class is held while that of the pools is waited for. */
static void
cancel_in_a_wait(void *unused)
{
	size_t size = 3000;
	pthread_t t;
	void *p;

	(void)unused;
	alarm(10);
	MUST(secmalloc(100) != NULL);
	MUST(pthread_create(&t, NULL, grow_slowly, NULL) == 0);
	sleep_us(25000);
	p = result_of(allocate_cancelled, &size);
	MUST(p != NULL && p != PTHREAD_CANCELED);
	MUST(pthread_join(t, NULL) == 0 && secmalloc(size) != NULL);
}

static void
cancel_in_a_growth(void *first)
{
	size_t size = 2 * MIB;
	void *p;

	alarm(10);
	MUST(first != NULL || secmalloc(100) != NULL);
	p = result_of(allocate_cancelled, &size);
	MUST(p != NULL && p != PTHREAD_CANCELED);
	MUST(secmalloc(3 * MIB) != NULL);
}

static void
cancel_in_a_resplit(void *unused)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	void *p, *q;

	(void)unused;
	alarm(10);
	c.resplit_ms = 1;
	MUST(secmalloc_init(&c) == 0);
	p = secmalloc(100);
	sleep_us(10000);
	MUST(result_of(close_cancelled, p) == p);
	for (int i = 0; i < 8; i++) { /* every slot of the key */
		q = secmalloc(10);
		MUST(result_of(close_cancelled, q) == q);
	}
	MUST(secmalloc_decrypt(p) == 0 && all_zero(p, 100));
}

START_TEST(a_thread_cancelled_in_the_library_leaves_no_lock_taken)
{
	static void (*const bodies[])(void *) = { cancel_in_a_growth, cancel_in_a_resplit,
		cancel_in_a_wait, cancel_in_a_growth };

	assert_exits_0(bodies[_i], _i == 3 ? launder("the first start") : NULL);
}
END_TEST

/* ----------------------------------------------- children without handlers */

static pthread_barrier_t gate;

static void *
use_all(void *unused)
{
	unsigned char *p;

	pthread_barrier_wait(&gate);
	p = secmalloc(100);
	MUST(p != NULL);
	fill(p, 100, 3);
	MUST(secmalloc_encrypt(p) == 0 && secmalloc_decrypt(p) == 0 && filled(p, 100, 3));
	secfree(p);
	return unused;
}

static void
use_all_at_once(void *parents)
{
	enum { THREADS = 4 };
	pthread_t t[THREADS];

	alarm(10);
	MUST(pthread_barrier_init(&gate, NULL, THREADS) == 0);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_create(&t[i], NULL, use_all, NULL) == 0);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
	MUST_FAIL(ECHILD, -1, secmalloc_encrypt(parents));
}

START_TEST(threads_of_a_child_without_handlers_start_it_once)
{
	void *p = secmalloc(10);

	ck_assert_ptr_nonnull(p);
	for (int i = 0; i < 50; i++)
		assert_exits_0_by(i % 2 ? bare_fork : bare_clone, use_all_at_once, p);
	SUCCEEDS(secmalloc_encrypt(p));
}
END_TEST

/* ------------------------------------------------- FORKSAFE was not wanted */

static void
touch_nothing(void *parents)
{
	unsigned char byte;
	int fds[2];

	for (int turn = 0; turn < 2; turn++) {
		MUST_FAIL(EFAULT, -1, peek(parents, &byte, 1));
		MUST(pipe(fds) == 0 && write(fds[1], "x", 1) == 1);
		MUST_FAIL(EFAULT, -1, read(fds[0], launder(parents), 1));
		MUST(!secmalloc_owns(parents)); /* so much for a child that has called nothing yet */
	}
}

START_TEST(a_child_reaches_no_hidden_page_even_without_FORKSAFE)
{
	unsigned char *p;

	if (!start_hidden(0, SECMALLOC_FORKSAFE, "hidden pages without FORKSAFE"))
		return;
	p = secmalloc(32);
	fill(p, 32, 1);
	assert_exits_0_by(_i ? bare_clone : fork, touch_nothing, p);
	ck_assert(filled(p, 32, 1));
}
END_TEST

static const unsigned withouts[] = { 0, SECMALLOC_HIDDEN, SECMALLOC_FORKSAFE,
	SECMALLOC_FORKSAFE | SECMALLOC_HIDDEN };

/* Of a chunk that is all zero the ciphertext is the keystream. */
static void
write_keystream(void *both)
{
	void *mine, *parents = ((void **)both)[0];
	int fd = *(int *)((void **)both)[1];

	MUST_FAIL(ECHILD, -1, secmalloc_encrypt(parents));
	mine = secmalloc(32);
	MUST(mine != NULL && secmalloc_encrypt(mine) == 0);
	MUST(write(fd, mine, 32) == 32);
}

START_TEST(a_child_without_handlers_never_goes_on_with_the_parents_key)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	unsigned char childs[32];
	int fds[2];
	void *p, *both[2];

	c.without = withouts[_i];
	SUCCEEDS(secmalloc_init(&c));
	p = secmalloc(32);
	ck_assert_int_eq(pipe(fds), 0);
	both[0] = p;
	both[1] = &fds[1];
	assert_exits_0_by(bare_clone, write_keystream, both);
	ck_assert_int_eq(read(fds[0], childs, 32), 32);
	SUCCEEDS(secmalloc_encrypt(p));
	ck_assert_int_ne(memcmp(p, childs, 32), 0);
}
END_TEST

/* ------------------------------------------------------- what is refused */

/* Exits 0, or 1 when there was no such place. */
static void
have_a_child_when_refused(void *config)
{
	struct outcome o;
	void *p;

	if (secmalloc_init(config) == 0) {
		p = secmalloc(100);
		MUST(p != NULL);
		o = outcome_by(bare_clone, use_all_at_once, p);
		if (o.status)
			fprintf(stderr, "child's status 0x%x: %s\n", (unsigned)o.status, o.text);
		MUST(o.status == 0);
	} else
		MUST(wipe_refused);
	_exit(wipe_refused ? 0 : 1);
}

START_TEST(a_refused_MADV_WIPEONFORK_crashes_no_child)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	struct outcome o;
	long place = 0;

	c.without = withouts[_i % 4];
	c.require = _i < 4 ? 0 : SECMALLOC_LOCKED; /* FORKSAFE tried, but not required */
	do {
		wipe_countdown = ++place;
		o = outcome_of(have_a_child_when_refused, &c);
		ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) < 2,
			"place %ld: status 0x%x: %s", place, (unsigned)o.status, o.text);
	} while (WEXITSTATUS(o.status) == 0);
	ck_assert_int_gt(place, 1);
}
END_TEST

static long
vm_kib(void)
{
	const char *line = strstr(text_of("/proc/self/status"), "VmSize:");

	MUST(line != NULL);
	return atol(line + strlen("VmSize:"));
}

static void
grow_in_vain(void *unused)
{
	long before;

	(void)unused;
	drop_to(256 * KIB);
	MUST(secmalloc(10) != NULL);
	before = vm_kib();
	for (size_t size = 4 * MIB; size < (size_t)1 << 36; size += size / 2) {
		MUST_FAIL(ENOMEM, NULL, secmalloc(size));
		MUST(vm_kib() == before);
	}
}

START_TEST(refused_growth_keeps_no_address_space)
{
	if (may_drop("refused growth"))
		assert_exits_0(grow_in_vain, NULL);
}
END_TEST

static void *
start_in_vain(void *unused)
{
	for (int i = 0; i < 500; i++) {
		MUST_FAIL(EPERM, NULL, secmalloc(16));
		MUST(!secmalloc_owns(&i));
	}
	return unused;
}

/* Whoever read the config of a start looks at its page after that has failed. */
static void
fail_to_start(void *unused)
{
	enum { THREADS = 8 };
	pthread_t t[THREADS];
	char byte;

	drop_to(0);
	MUST(start_in_vain(unused) == unused);
	MUST(seen_config != &sm_config_none);
	MUST(peek(seen_config, &byte, 1) == 1);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_create(&t[i], NULL, start_in_vain, NULL) == 0);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_join(t[i], NULL) == 0);
}

START_TEST(a_start_that_fails_under_many_threads_crashes_none)
{
	if (may_drop("a start that fails"))
		assert_exits_0(fail_to_start, NULL);
}
END_TEST

START_TEST(secfree_says_when_it_could_not_lift_a_protection)
{
	char *p = secmalloc(20000);

	fill(p, 20000, 1);
	SUCCEEDS(secmalloc_protect(p, SECMALLOC_NOACCESS));
	ck_assert_str_eq(secmalloc_error(), "no error");
	refuse_mprotect = true;
	errno = ENOTTY;
	if (_i)
		ck_assert_ptr_null(secrealloc(p, 0));
	else
		secfree(p);
	refuse_mprotect = false;
	ck_assert_int_eq(errno, ENOTTY);
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "mprotect"));
	ck_assert_int_eq(secmalloc_owns(p), 1);
	SUCCEEDS(secmalloc_protect(p, SECMALLOC_READWRITE));
	ck_assert(filled(p, 20000, 1));
	secfree(p);
	ck_assert_int_eq(secmalloc_owns(p), 0);
}
END_TEST

/* ---------------------------------------------------------- write after free */

static void
use_again(void *size)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	size_t n = *(size_t *)size;
	unsigned char *p, *q;

	c.without = SECMALLOC_GUARDED;
	c.pool_size = MIB;
	MUST(secmalloc_init(&c) == 0);
	p = secmalloc(20000);
	secfree(p);
	memset(launder(p), 'A', 20000);
	for (size_t used = 0; used < MIB; used += n) {
		q = secmalloc(n);
		MUST(q != NULL && all_zero(q, n));
	}
}

START_TEST(a_freed_run_that_was_written_is_found_or_not_handed_out)
{
	static const size_t sizes[] = { 20000, 17000, 100000, 16384, 1000, 16 };
	size_t n = sizes[_i];
	const struct outcome o = outcome_of(use_again, &n);
	bool found = WIFSIGNALED(o.status) && strstr(o.text, "write after free");

	ck_assert_msg(found || o.status == 0, "status 0x%x: %s", (unsigned)o.status, o.text);
}
END_TEST

static void
add_tests(TCase *t)
{
	tcase_add_test(t,
		a_child_forked_while_a_pool_is_added_gets_no_hidden_page_and_no_descriptor);
	tcase_add_loop_test(t, a_thread_cancelled_in_the_library_leaves_no_lock_taken, 0, 4);
	tcase_add_test(t, threads_of_a_child_without_handlers_start_it_once);
	tcase_add_loop_test(t, a_child_reaches_no_hidden_page_even_without_FORKSAFE, 0, 2);
	tcase_add_loop_test(t, a_child_without_handlers_never_goes_on_with_the_parents_key, 0, 4);
	tcase_add_loop_test(t, a_refused_MADV_WIPEONFORK_crashes_no_child, 0, 6);
	tcase_add_test(t, refused_growth_keeps_no_address_space);
	tcase_add_test(t, a_start_that_fails_under_many_threads_crashes_none);
	tcase_add_loop_test(t, secfree_says_when_it_could_not_lift_a_protection, 0, 2);
	tcase_add_loop_test(t, a_freed_run_that_was_written_is_found_or_not_handed_out, 0, 6);
}

int
main(void)
{
	Suite *s = suite_create("life_edges");

	add_tests(add_case(s, "edges", 0));
	return run(s);
}
