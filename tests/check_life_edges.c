/* What a review found at the edges of a life: forks and cancellations in the middle of things,
 * children without handlers, starts and growths that are refused. Linked with --wrap of close,
 * madvise and mprotect. */
#include "base/base.h"
#include "contract.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>

static _Thread_local useconds_t close_us; /* as if preempted between a mapping and its protection */
static long wipe_countdown; /* 1: the next MADV_WIPEONFORK fails; 0: not armed */
static bool wipe_refused;
static bool refuse_mprotect;
static const struct sm_config *seen_config; /* in force while pages were obtained */

int __real_close(int), __wrap_close(int);
int __real_madvise(void *, size_t, int), __wrap_madvise(void *, size_t, int);
int __real_mprotect(void *, size_t, int), __wrap_mprotect(void *, size_t, int);

int
__wrap_close(int fd)
{
	usleep(close_us);
	return __real_close(fd);
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

/* A child for which no handler of pthread_atfork runs. */
static pid_t
bare_clone(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
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

static atomic_bool enough;

static void *
grow_and_shrink(void *unused)
{
	void *p;

	close_us = 400;
	for (size_t i = 0; !atomic_load(&enough); i++) {
		p = secmalloc((9 + i % 50) * 4096);
		MUST(p != NULL);
		secfree(p);
		usleep(300); /* or a fork waits long for a lock that is not fair */
	}
	return unused;
}

static void
hold_nothing_hidden(void *unused)
{
	char path[32], target[64] = "";

	(void)unused;
	MUST(strstr(text_of("/proc/self/maps"), "secretmem") == NULL);
	for (int fd = 3; fd < 64; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		MUST(readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, "secretmem"));
	}
}

START_TEST(a_child_forked_while_a_pool_is_added_gets_no_hidden_page_and_no_descriptor)
{
	pthread_t t;

	if (!start_hidden(SECMALLOC_FORKSAFE, 0, "a fork while a pool is added"))
		return;
	ck_assert_int_eq(pthread_create(&t, NULL, grow_and_shrink, NULL), 0);
	for (int i = 0; i < 100; i++)
		assert_exits_0(hold_nothing_hidden, NULL);
	atomic_store(&enough, true);
	ck_assert_int_eq(pthread_join(t, NULL), 0);
}
END_TEST

static void
all_at_once(unsigned threads, void *(*body)(void *))
{
	pthread_t t[8];

	for (unsigned i = 0; i < threads; i++)
		MUST(pthread_create(&t[i], NULL, body, NULL) == 0);
	for (unsigned i = 0; i < threads; i++)
		MUST(pthread_join(t[i], NULL) == 0);
}

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
	void *result = NULL;
	pthread_t t;

	MUST(pthread_create(&t, NULL, body, arg) == 0 && pthread_join(t, &result) == 0);
	return result;
}

static void *
grow_slowly(void *unused)
{
	close_us = 100000;
	MUST(secmalloc(2 * MIB) != NULL);
	return unused;
}

enum where { FIRST_START, GROWTH, WAIT };

/* In WAIT the lock of a size class is held, and the one of the pools waited for. */
static void
cancel_in_secmalloc(void *where)
{
	enum where at = *(const enum where *)where;
	size_t size = at == WAIT ? 3000 : 2 * MIB;
	pthread_t t;
	void *p;

	alarm(10);
	MUST(at == FIRST_START || secmalloc(100) != NULL);
	MUST(at != WAIT || pthread_create(&t, NULL, grow_slowly, NULL) == 0);
	usleep(at == WAIT ? 25000 : 0);
	p = result_of(allocate_cancelled, &size);
	MUST(p != NULL && p != PTHREAD_CANCELED);
	MUST(secmalloc(size) != NULL && secmalloc(3 * MIB) != NULL);
	MUST(at != WAIT || pthread_join(t, NULL) == 0);
}

static void
cancel_in_a_resplit(void *unused)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	void *p;

	(void)unused;
	alarm(10);
	c.resplit_ms = 1;
	MUST(secmalloc_init(&c) == 0);
	for (int i = 0; i < 8; i++) { /* every slot of the key */
		p = secmalloc(100);
		usleep(3000);
		MUST(result_of(close_cancelled, p) == p);
		MUST(secmalloc_decrypt(p) == 0 && all_zero(p, 100));
	}
}

START_TEST(a_thread_cancelled_in_the_library_leaves_no_lock_taken)
{
	enum where at = (enum where)_i;

	assert_exits_0(_i <= WAIT ? cancel_in_secmalloc : cancel_in_a_resplit, &at);
}
END_TEST

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
	alarm(10);
	MUST(pthread_barrier_init(&gate, NULL, 4) == 0);
	all_at_once(4, use_all);
	MUST_FAIL(ECHILD, -1, secmalloc_encrypt(parents));
}

START_TEST(threads_of_a_child_without_handlers_start_it_once)
{
	void *p = secmalloc(10);

	for (int i = 0; i < 50; i++)
		assert_exits_0_by(bare_clone, use_all_at_once, p);
	SUCCEEDS(secmalloc_encrypt(p));
}
END_TEST

static void
touch_nothing(void *parents)
{
	unsigned char byte;
	int fds[2];

	MUST(pipe(fds) == 0);
	for (int turn = 0; turn < 2; turn++) {
		MUST_FAIL(EFAULT, -1, peek(parents, &byte, 1));
		MUST(write(fds[1], "x", 1) == 1);
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

static int keystream[2]; /* a pipe */

/* Of a chunk that is all zero the ciphertext is the keystream. */
static void
write_keystream(void *parents)
{
	void *mine = secmalloc(32);

	MUST_FAIL(ECHILD, -1, secmalloc_encrypt(parents));
	MUST(mine != NULL && secmalloc_encrypt(mine) == 0);
	MUST(write(keystream[1], mine, 32) == 32);
}

START_TEST(a_child_without_handlers_never_goes_on_with_the_parents_key)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	unsigned char childs[32];
	void *p;

	c.without = withouts[_i];
	SUCCEEDS(secmalloc_init(&c));
	p = secmalloc(32);
	ck_assert_int_eq(pipe(keystream), 0);
	assert_exits_0_by(bare_clone, write_keystream, p);
	ck_assert_int_eq(read(keystream[0], childs, 32), 32);
	SUCCEEDS(secmalloc_encrypt(p));
	ck_assert_int_ne(memcmp(p, childs, 32), 0);
}
END_TEST

/* Exits 0, or 1 when there was no such place. */
static void
have_a_child_when_refused(void *config)
{
	struct outcome o;
	void *p;

	if (secmalloc_init(config) == 0) {
		p = secmalloc(100);
		wipe_countdown = 0; /* a child's own start is not refused anything */
		o = outcome_by(bare_clone, use_all_at_once, p);
		fprintf(stderr, "child: status 0x%x, %s\n", (unsigned)o.status, o.text);
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
	c.require = _i < 4 ? 0 : SECMALLOC_LOCKED; /* FORKSAFE is tried, but not required */
	do {
		wipe_countdown = ++place;
		o = outcome_of(have_a_child_when_refused, &c);
		ck_assert_msg(WIFEXITED(o.status) && WEXITSTATUS(o.status) < 2,
			"place %ld: status 0x%x: %s", place, (unsigned)o.status, o.text);
	} while (WEXITSTATUS(o.status) == 0);
}
END_TEST

static void
grow_in_vain(void *unused)
{
	char before[32];

	(void)unused;
	drop_to(256 * KIB);
	MUST(secmalloc(10) != NULL);
	memcpy(before, strstr(text_of("/proc/self/status"), "VmSize:"), sizeof(before));
	*strchr(before, '\n') = '\0';
	for (size_t size = 4 * MIB; size < (size_t)1 << 36; size += size / 2) {
		MUST_FAIL(ENOMEM, NULL, secmalloc(size));
		MUST(strstr(text_of("/proc/self/status"), before) != NULL);
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
	char byte;

	drop_to(0);
	MUST(start_in_vain(unused) == unused && seen_config != &sm_config_none);
	MUST(peek(seen_config, &byte, 1) == 1);
	all_at_once(8, start_in_vain);
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

	SUCCEEDS(secmalloc_protect(p, SECMALLOC_NOACCESS));
	refuse_mprotect = true;
	errno = ENOTTY;
	secfree(p);
	refuse_mprotect = false;
	ck_assert(errno == ENOTTY && secmalloc_owns(p));
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "mprotect"));
	secfree(p);
	ck_assert(!secmalloc_owns(p));
}
END_TEST

static void
use_again(void *size)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	size_t n = *(size_t *)size;
	unsigned char *p = NULL;

	c.without = SECMALLOC_GUARDED;
	c.pool_size = MIB;
	MUST(secmalloc_init(&c) == 0 && (p = secmalloc(20000)) != NULL);
	secfree(p);
	memset(launder(p), 'A', 20000);
	for (size_t used = 0; used < MIB; used += n) {
		p = secmalloc(n);
		MUST(p != NULL && all_zero(p, n));
	}
}

START_TEST(a_freed_run_that_was_written_is_found_or_not_handed_out)
{
	size_t n = (const size_t[]){ 20000, 17000, 100000, 16384, 1000, 16 }[_i];
	const struct outcome o = outcome_of(use_again, &n);

	ck_assert_msg(o.status == 0 || strstr(o.text, "write after free"), "%s", o.text);
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
	tcase_add_test(t, secfree_says_when_it_could_not_lift_a_protection);
	tcase_add_loop_test(t, a_freed_run_that_was_written_is_found_or_not_handed_out, 0, 6);
}

int
main(void)
{
	Suite *s = suite_create("life edges");

	add_tests(add_case(s, "edges", 0));
	return run(s);
}
