/*
 * check_contract_read.c - the contract: secrets that come from descriptors and terminals
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "contract.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <termios.h>

/* ------------------------------------------------------------ descriptors */

/** pipe_of - the reading end of a pipe into which a child writes n bytes in pieces of this size */
static int
pipe_of(size_t n, size_t piece, unsigned seed)
{
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	if (fork() == 0) {
		for (size_t i = 0; i < n; i++) {
			unsigned char b = pattern(seed, i);

			if (write(fds[1], &b, 1) != 1)
				_exit(1);
			if (i % piece == piece - 1)
				usleep(200);
		}
		_exit(0);
	}
	close(fds[1]);
	return fds[0];
}

START_TEST(all_bytes_of_a_descriptor_come_whatever_their_pieces)
{
	static const size_t sizes[] = { 0, 1, 31, 4095, 4096, 4097, 20000, 100000 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = sizes[i], len = 77;
		int fd = pipe_of(n, 1000, (unsigned)i);
		unsigned char *p = secmalloc_read_fd(fd, MIB, &len);

		ck_assert_msg(p != NULL, "%s", secmalloc_error());
		ck_assert_uint_eq(len, n);
		ck_assert_uint_eq(secmalloc_usable_size(p), n + 1);
		ck_assert(filled(p, n, (unsigned)i) && p[n] == 0);
		ck_assert_int_eq(secmalloc_is_encrypted(p), 0);
		SUCCEEDS(secmalloc_encrypt(p)); /* not held any more */
		secfree(p);
		close(fd);
	}
	ck_assert_uint_eq(stats_now().chunks, 0);
}
END_TEST

START_TEST(never_more_than_max_bytes_are_taken)
{
	size_t len;
	unsigned char b, *p;
	int fd;

	for (size_t max = 1; max < 20000; max = max * 5 + 1) {
		fd = pipe_of(max + 3, 50000, 1);
		p = secmalloc_read_fd(fd, max, &len);
		ck_assert(p != NULL && len == max && filled(p, max, 1));
		for (size_t i = max; i < max + 3; i++)
			ck_assert(read(fd, &b, 1) == 1 && b == pattern(1, i));
		ck_assert_int_eq(read(fd, &b, 1), 0);
		close(fd);
		secfree(p);
	}
}
END_TEST

START_TEST(read_fd_says_what_is_wrong)
{
	size_t len;

	FAILS_WITH(EINVAL, NULL, secmalloc_read_fd(0, 0, &len));
	FAILS_WITH(EINVAL, NULL, secmalloc_read_fd(0, 10, NULL));
	FAILS_WITH(EBADF, NULL, secmalloc_read_fd(-1, 10, &len));
	ck_assert_ptr_nonnull(strstr(secmalloc_error(), "descriptor -1"));
	ck_assert_uint_eq(stats_now().chunks, 0);
}
END_TEST

/** copies - how often the content numbered seed lies in this process's memory */
static size_t
copies(size_t n, unsigned seed)
{
	static unsigned char page[4096 + 64];
	FILE *maps = fopen("/proc/self/maps", "re");
	int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	unsigned long from, to;
	size_t found = 0;
	char line[512], access[8];

	MUST(maps && mem >= 0 && n <= 64);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &from, &to, access) != 3 || access[0] != 'r' ||
			strstr(line, "[v"))
			continue;
		for (unsigned long at = from; at < to; at += 4096) {
			ssize_t got = pread(mem, page, sizeof(page), (off_t)at);

			if ((uintptr_t)page - at < 4096 || at - (uintptr_t)page < sizeof(page))
				continue;
			for (ssize_t i = 0; i < 4096 && i + (ssize_t)n <= got; i++)
				found += filled(page + i, n, seed);
			memset(page, 0, sizeof(page));
		}
	}
	fclose(maps);
	close(mem);
	return found;
}

static void
read_and_look(void *unused)
{
	struct secmalloc_config c = SECMALLOC_CONFIG_INIT;
	int fd = pipe_of(48, 7, 3);
	unsigned char *p;
	size_t len;

	(void)unused;
	c.without = SECMALLOC_HIDDEN; /* where hiding can't hide a copy */
	MUST(secmalloc_init(&c) == 0);
	p = secmalloc_read_fd(fd, 100, &len);
	MUST(p != NULL && len == 48 && filled(p, 48, 3));
	MUST(copies(48, 3) == 1); /* the chunk itself: so the search works */
	MUST(secmalloc_encrypt(p) == 0);
	MUST(copies(48, 3) == 0);
}

START_TEST(no_copy_of_what_was_read_stays_anywhere)
{
	if (!SANITIZED && !under_valgrind("the search for copies"))
		assert_exits_0(read_and_look, NULL);
}
END_TEST

/* -------------------------------------------------------------- terminals */

/** struct dialogue - what is typed, and what the asking process is to find */
struct dialogue {
	const char *typed;
	const char *expected; /* NULL: the call fails */
	int error;
};

static void
ask(const struct dialogue *d)
{
	char *p;

	signal(SIGINT, SIG_DFL); /* the framework has a handler of its own */
	p = secmalloc_read_passphrase("Passphrase: ", 20);
	if (d->expected)
		MUST(p != NULL && strcmp(p, d->expected) == 0 && secmalloc_usable_size(p) == 21);
	else
		MUST(p == NULL && errno == d->error && stats_now().chunks == 0);
	_exit(0);
}

/** ask_in_session - of a new terminal; dies as the asking process died, echo put back or exit 51 */
static void
ask_in_session(const struct dialogue *d, int terminal)
{
	struct termios t;
	int status;
	pid_t pid;

	close(STDIN_FILENO); /* it must not be needed */
	if (setsid() < 0 || ioctl(terminal, TIOCSCTTY, 0) < 0)
		_exit(50);
	signal(SIGINT, SIG_IGN);
	pid = fork();
	if (pid == 0)
		ask(d);
	while (waitpid(pid, &status, 0) < 0)
		continue;
	if (tcgetattr(terminal, &t) || !(t.c_lflag & ECHO))
		_exit(51);
	_exit(WIFSIGNALED(status) ? 100 + WTERMSIG(status) : WEXITSTATUS(status));
}

/** at_terminal - run the dialogue at a new terminal; answers the exit status */
static int
at_terminal(const struct dialogue *d, char *shown, size_t size)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), terminal, status;
	size_t n = 0;
	ssize_t r;
	pid_t pid;

	ck_assert(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
	ck_assert_int_ge(terminal, 0);
	pid = fork();
	if (pid == 0)
		ask_in_session(d, terminal);
	while (n + 1 < size && !memchr(shown, ':', n) &&
		(r = read(master, shown + n, size - n - 1)) > 0)
		n += (size_t)r;
	ck_assert_int_eq(write(master, d->typed, strlen(d->typed)), strlen(d->typed));
	while (waitpid(pid, &status, 0) < 0)
		continue;
	fcntl(master, F_SETFL, O_NONBLOCK);
	while (n + 1 < size && (r = read(master, shown + n, size - n - 1)) > 0)
		n += (size_t)r;
	shown[n] = '\0';
	close(terminal);
	close(master);
	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

START_TEST(a_line_typed_at_the_terminal_comes_without_echo)
{
	struct dialogue d = { "open sesame\n", "open sesame", 0 };
	char shown[256] = "";
	int status = at_terminal(&d, shown, sizeof(shown));

	ck_assert_int_eq(status, 0);
	ck_assert_ptr_nonnull(strstr(shown, "Passphrase: "));
	ck_assert_ptr_null(strstr(shown, "sesame"));
}
END_TEST

START_TEST(an_empty_line_is_an_empty_string)
{
	struct dialogue d = { "\n", "", 0 };
	char shown[256] = "";

	ck_assert_int_eq(at_terminal(&d, shown, sizeof(shown)), 0);
}
END_TEST

START_TEST(a_line_that_is_too_long_is_EMSGSIZE)
{
	struct dialogue d = { "a line of more than twenty bytes\n", NULL, EMSGSIZE };
	char shown[256] = "";

	ck_assert_int_eq(at_terminal(&d, shown, sizeof(shown)), 0);
}
END_TEST

START_TEST(the_end_of_input_is_ENODATA)
{
	struct dialogue d = { "\4", NULL, ENODATA };
	char shown[256] = "";

	ck_assert_int_eq(at_terminal(&d, shown, sizeof(shown)), 0);
}
END_TEST

START_TEST(an_interrupt_ends_the_process_with_the_terminal_put_back)
{
	struct dialogue d = { "half\3", NULL, EINTR };
	char shown[256] = "";

	ck_assert_int_eq(at_terminal(&d, shown, sizeof(shown)), 100 + SIGINT);
}
END_TEST

/** at_no_terminal - the same with a pipe for standard input */
static int
at_no_terminal(const struct dialogue *d)
{
	int fds[2], status;
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(write(fds[1], d->typed, strlen(d->typed)), strlen(d->typed));
	close(fds[1]);
	pid = fork();
	if (pid == 0) {
		if (setsid() < 0 || dup2(fds[0], STDIN_FILENO) < 0)
			_exit(50);
		ask(d);
	}
	close(fds[0]);
	while (waitpid(pid, &status, 0) < 0)
		continue;
	return status;
}

START_TEST(without_a_terminal_the_line_is_of_standard_input)
{
	static const struct dialogue d[] = { { "from a pipe\nrest", "from a pipe", 0 },
		{ "no newline", "no newline", 0 }, { "twenty bytes exactly\n", "twenty bytes exactly", 0 },
		{ "", NULL, ENODATA }, { "twenty bytes and more", NULL, EMSGSIZE } };

	for (size_t i = 0; i < sizeof(d) / sizeof(d[0]); i++)
		ck_assert_msg(at_no_terminal(&d[i]) == 0, "%zu", i);
}
END_TEST

START_TEST(read_passphrase_says_what_is_wrong)
{
	FAILS_WITH(EINVAL, NULL, secmalloc_read_passphrase(NULL, 10));
	FAILS_WITH(EINVAL, NULL, secmalloc_read_passphrase("? ", 0));
}
END_TEST

/* ------------------------------------------------------------------ scopes */

START_TEST(a_scoped_chunk_is_freed_where_its_variable_ends)
{
	for (int i = 0; i < 3; i++) {
		SECMALLOC_SCOPED char *key = secmalloc(32);
		SECMALLOC_SCOPED char *none = NULL;

		ck_assert(key != NULL && none == NULL);
		ck_assert_uint_eq(stats_now().chunks, 1);
		if (i == 1)
			continue;
		memset(key, 1, 32);
	}
	ck_assert_uint_eq(stats_now().chunks, 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("contract_read");
	TCase *tc = add_case(s, "descriptors", 1);

	tcase_add_test(tc, all_bytes_of_a_descriptor_come_whatever_their_pieces);
	tcase_add_test(tc, never_more_than_max_bytes_are_taken);
	tcase_add_test(tc, read_fd_says_what_is_wrong);
	tcase_add_test(tc, read_passphrase_says_what_is_wrong);
	tcase_add_test(tc, a_scoped_chunk_is_freed_where_its_variable_ends);
	tc = add_case(s, "alone", 0);
	tcase_add_test(tc, no_copy_of_what_was_read_stays_anywhere);
	tcase_add_test(tc, a_line_typed_at_the_terminal_comes_without_echo);
	tcase_add_test(tc, an_empty_line_is_an_empty_string);
	tcase_add_test(tc, a_line_that_is_too_long_is_EMSGSIZE);
	tcase_add_test(tc, the_end_of_input_is_ENODATA);
	tcase_add_test(tc, an_interrupt_ends_the_process_with_the_terminal_put_back);
	tcase_add_test(tc, without_a_terminal_the_line_is_of_standard_input);
	return run(s);
}
