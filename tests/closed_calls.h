/*
 * closed_calls.h - system calls whose memory is on closed pages do what they do elsewhere
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * The same for a program that knows of the library and for one that does not. Where a thread serves.
 */
#ifndef TESTS_CLOSED_CALLS_H
#define TESTS_CLOSED_CALLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LARGE = 1 << 20, DIRECT = 1 << 17, SMALL = 3000, CLOSED_PAGE = 4096, RING_BUFFERS = 8 };

#define CLOSED_MUST(x) ((x) ? (void)0 : closed_fail(#x, __LINE__))

/** Memory, and how to close it: set by whoever includes this. */
static struct {
	void *(*get)(size_t align, size_t size);
	void (*put)(void *);
	void (*shut)(void);
} closed;

static inline void
closed_fail(const char *what, int line)
{
	fprintf(stderr, "closed_calls.h:%d: %s (errno %d)\n", line, what, errno);
	_exit(99);
}

static inline unsigned char
closed_byte(unsigned seed, size_t i)
{
	return (unsigned char)(seed * 131 + i * 7 + (i >> 8) * 13 + 1);
}

static inline unsigned char *
closed_get(size_t size, unsigned seed)
{
	unsigned char *p = closed.get(CLOSED_PAGE, size);

	CLOSED_MUST(p != NULL);
	for (size_t i = 0; i < size; i++)
		p[i] = closed_byte(seed, i);
	return p;
}

static inline bool
closed_is(const unsigned char *p, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i++)
		if (p[i] != closed_byte(seed, i))
			return false;
	return true;
}

static inline int
closed_file(int flags)
{
	char name[] = "t_closed.XXXXXX";
	int fd = mkostemp(name, flags);

	if (fd >= 0)
		CLOSED_MUST(unlink(name) == 0);
	return fd;
}

/* LARGE: more at once than may be clear. Direct I/O has all of its pages pinned. */
static inline void
call_files(int flags, size_t n)
{
	unsigned char *from = closed_get(n, 1), *to = closed_get(n, 2);
	int fd = closed_file(flags);

	if (fd < 0 && flags == O_DIRECT) {
		printf("NOT TESTED: O_DIRECT, which this file system has not\n");
		return;
	}
	closed.shut();
	CLOSED_MUST(write(fd, from, n) == (long)n);
	closed.shut();
	CLOSED_MUST(pread(fd, to, n, 0) == (long)n && closed_is(to, n, 1));
	CLOSED_MUST(closed_is(from, n, 1));
	memset(to, 0, n);
	closed.shut();
	CLOSED_MUST(lseek(fd, 0, SEEK_SET) == 0 && read(fd, to, n) == (long)n);
	closed.shut();
	CLOSED_MUST(closed_is(to, n, 1));
	close(fd);
	closed.put(from);
	closed.put(to);
}

static inline void
call_vectors(void)
{
	struct iovec *v = closed.get(CLOSED_PAGE, 2 * sizeof(*v));
	unsigned char *a = closed_get(SMALL, 1), *b = closed_get(SMALL, 2);
	int fd = closed_file(0);

	v[0] = (struct iovec){ a, SMALL };
	v[1] = (struct iovec){ b, SMALL };
	closed.shut();
	CLOSED_MUST(writev(fd, v, 2) == 2 * SMALL);
	memset(a, 0, SMALL);
	memset(b, 0, SMALL);
	closed.shut();
	CLOSED_MUST(preadv(fd, v, 2, 0) == 2 * SMALL);
	closed.shut();
	CLOSED_MUST(closed_is(a, SMALL, 1) && closed_is(b, SMALL, 2));
	close(fd);
	closed.put(a);
	closed.put(b);
	closed.put(v);
}

static inline void
call_sockets(void)
{
	unsigned char *a = closed_get(SMALL, 1), *b = closed_get(SMALL, 2);
	struct pollfd *p = closed.get(CLOSED_PAGE, sizeof(*p));
	int *waits = closed.get(CLOSED_PAGE, sizeof(*waits)), s[2];

	CLOSED_MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	*p = (struct pollfd){ .fd = s[1], .events = POLLIN };
	*waits = -1;
	closed.shut();
	CLOSED_MUST(send(s[0], a, SMALL, 0) == SMALL);
	CLOSED_MUST(poll(p, 1, 1000) == 1);
	closed.shut();
	CLOSED_MUST(ioctl(s[1], FIONREAD, waits) == 0 && *waits == SMALL);
	CLOSED_MUST(p->revents == POLLIN);
	closed.shut();
	CLOSED_MUST(recv(s[1], b, SMALL, MSG_WAITALL) == SMALL && closed_is(b, SMALL, 1));
	close(s[0]);
	close(s[1]);
	closed.put(a);
	closed.put(b);
	closed.put(p);
	closed.put(waits);
}

static inline void
call_paths(void)
{
	char *cwd = closed.get(CLOSED_PAGE, CLOSED_PAGE), plain[CLOSED_PAGE];

	CLOSED_MUST(getcwd(plain, sizeof(plain)) != NULL);
	closed.shut();
	CLOSED_MUST(getcwd(cwd, CLOSED_PAGE) == cwd);
	closed.shut();
	CLOSED_MUST(strcmp(cwd, plain) == 0 && access(cwd, X_OK) == 0);
	closed.put(cwd);
}

static inline void
call_futex(void)
{
	struct timespec *wait = closed.get(CLOSED_PAGE, sizeof(*wait));
	uint32_t *word = closed.get(CLOSED_PAGE, sizeof(*word));

	*word = 7;
	*wait = (struct timespec){ 0, 20000000 };
	closed.shut();
	CLOSED_MUST(syscall(SYS_futex, word, FUTEX_WAIT, 8, wait, NULL, 0) == -1 && errno == EAGAIN);
	closed.shut();
	CLOSED_MUST(syscall(SYS_futex, word, FUTEX_WAIT, 7, wait, NULL, 0) == -1 &&
		errno == ETIMEDOUT);
	closed.put(word);
	closed.put(wait);
}

/* What is executed has its words on closed pages, whether its parent waits for that or not. */
static inline void
call_exec(bool spawned)
{
	static const char *const words[] = { "/bin/sh", "-c", "test \"$CLOSED$0\" = ab", "b",
		"CLOSED=a" };
	char **args = closed.get(CLOSED_PAGE, 5 * sizeof(*args)), *word[5];
	char **env = closed.get(CLOSED_PAGE, 2 * sizeof(*env));
	int status;
	pid_t pid;

	for (size_t i = 0; i < 5; i++)
		word[i] = strcpy(closed.get(CLOSED_PAGE, 100), words[i]);
	memcpy(args, word, 4 * sizeof(*args));
	args[4] = env[1] = NULL;
	env[0] = word[4];
	closed.shut();
	if (spawned) {
		CLOSED_MUST(posix_spawn(&pid, word[0], NULL, NULL, args, env) == 0);
	} else {
		pid = fork();
		if (pid == 0) {
			execve(args[0], args, env);
			_exit(98);
		}
	}
	CLOSED_MUST(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
	for (size_t i = 0; i < 5; i++)
		closed.put(word[i]);
	closed.put(args);
	closed.put(env);
}

/* Another process's memory comes to a closed page. */
static inline void
call_process(void)
{
	static unsigned char plain[SMALL];
	unsigned char *to = closed_get(SMALL, 1);
	struct iovec *v = closed.get(CLOSED_PAGE, 2 * sizeof(*v));
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	for (size_t i = 0; i < SMALL; i++)
		plain[i] = 0; /* ours, not the child's */
	v[0] = (struct iovec){ to, SMALL };
	v[1] = (struct iovec){ plain, SMALL };
	closed.shut();
	CLOSED_MUST(process_vm_readv(pid, v, 1, v + 1, 1, 0) == SMALL);
	closed.shut();
	for (size_t i = 0; i < SMALL; i++)
		CLOSED_MUST(to[i] == 0);
	CLOSED_MUST(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
	closed.put(to);
	closed.put(v);
}

/* ------------------------------------------------------------------ io_uring */

static struct {
	int fd;
	unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
} uring;

static inline bool
ring_open(void)
{
	struct io_uring_params p = { 0 };
	unsigned char *sq, *cq;

	uring.fd = (int)syscall(SYS_io_uring_setup, 8, &p);
	if (uring.fd < 0) {
		printf("NOT TESTED: io_uring (errno %d)\n", errno);
		return false;
	}
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED,
		uring.fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*uring.cqe), PROT_READ | PROT_WRITE,
		MAP_SHARED, uring.fd, IORING_OFF_CQ_RING);
	uring.sqe = mmap(NULL, p.sq_entries * sizeof(*uring.sqe), PROT_READ | PROT_WRITE, MAP_SHARED,
		uring.fd, IORING_OFF_SQES);
	CLOSED_MUST(sq != MAP_FAILED && cq != MAP_FAILED && (void *)uring.sqe != MAP_FAILED);
	uring.sq_tail = (unsigned *)(void *)(sq + p.sq_off.tail);
	uring.sq_mask = (unsigned *)(void *)(sq + p.sq_off.ring_mask);
	uring.sq_array = (unsigned *)(void *)(sq + p.sq_off.array);
	uring.cq_head = (unsigned *)(void *)(cq + p.cq_off.head);
	uring.cq_tail = (unsigned *)(void *)(cq + p.cq_off.tail);
	uring.cq_mask = (unsigned *)(void *)(cq + p.cq_off.ring_mask);
	uring.cqe = (struct io_uring_cqe *)(void *)(cq + p.cq_off.cqes);
	return true;
}

/* One request, waited for: its result. */
static inline int
ring_do(struct io_uring_sqe what)
{
	unsigned tail = *uring.sq_tail, at = tail & *uring.sq_mask, head = *uring.cq_head;
	int result;

	uring.sqe[at] = what;
	uring.sq_array[at] = at;
	__atomic_store_n(uring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	CLOSED_MUST(syscall(SYS_io_uring_enter, uring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	CLOSED_MUST(__atomic_load_n(uring.cq_tail, __ATOMIC_ACQUIRE) != head);
	result = uring.cqe[head & *uring.cq_mask].res;
	__atomic_store_n(uring.cq_head, head + 1, __ATOMIC_RELEASE);
	return result;
}

static inline struct io_uring_sqe
request(int op, int fd, const void *at, unsigned n, int flags)
{
	struct io_uring_sqe e;

	memset(&e, 0, sizeof(e));
	e.opcode = (uint8_t)op;
	e.flags = (uint8_t)flags;
	e.fd = fd;
	e.addr = (uintptr_t)at;
	e.len = n;
	return e;
}

static inline void
ring_both_ways(int op_out, int op_in, unsigned char *p, unsigned n, int flags)
{
	int fd = closed_file(0);

	closed.shut();
	CLOSED_MUST(ring_do(request(op_out, fd, p, n, flags)) == (int)n);
	memset(p, 0, n);
	closed.shut();
	CLOSED_MUST(ring_do(request(op_in, fd, p, n, flags)) == (int)n);
	closed.shut();
	CLOSED_MUST(closed_is(p, n, 1));
	close(fd);
}

/* By the thread that asks, and by one of the kernel's; then with pages that it has pinned. */
static inline void
call_ring(void)
{
	unsigned n = RING_BUFFERS * CLOSED_PAGE;
	unsigned char *p = closed_get(LARGE, 1);
	struct iovec v = { p, n };

	if (!ring_open())
		return;
	ring_both_ways(IORING_OP_WRITE, IORING_OP_READ, p, LARGE, 0);
	ring_both_ways(IORING_OP_WRITE, IORING_OP_READ, p, LARGE, IOSQE_ASYNC);
	closed.shut();
	CLOSED_MUST(syscall(SYS_io_uring_register, uring.fd, IORING_REGISTER_BUFFERS, &v, 1) == 0);
	for (unsigned i = 0; i < 20; i++)
		ring_both_ways(IORING_OP_WRITE_FIXED, IORING_OP_READ_FIXED, p, n, i & 1 ? IOSQE_ASYNC : 0);
	CLOSED_MUST(syscall(SYS_io_uring_register, uring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0) == 0);
	closed.shut();
	CLOSED_MUST(closed_is(p, LARGE, 1));
	close(uring.fd);
	closed.put(p);
}

static inline void
call_all(void)
{
	call_files(0, LARGE);
	call_files(O_DIRECT, DIRECT);
	call_vectors();
	call_sockets();
	call_paths();
	call_futex();
	call_exec(false);
	call_exec(true);
	call_process();
	call_ring();
}

/* ------------------------------------------------------------------- signals */

enum { WATCHED = 400, TICK_US = 300 };

static unsigned char *watched[WATCHED];
static volatile unsigned ticks;

/* Touches pages that are closed, whatever the interrupted code was at. */
static inline void
on_tick(int signal)
{
	int kept = errno;

	(void)signal;
	for (unsigned k = 0; k < 3; k++) {
		unsigned i = (ticks * 7 + k * 131) % WATCHED;

		if (!closed_is(watched[i], 600, i))
			closed_fail("a handler saw what was not there", __LINE__);
	}
	ticks++;
	errno = kept;
}

static inline void
call_in_handlers(unsigned seconds, void (*work)(unsigned turn))
{
	struct sigaction a = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	struct itimerspec every = { { 0, TICK_US * 1000 }, { 0, TICK_US * 1000 } };
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	time_t end = time(NULL) + (time_t)seconds + 1;
	timer_t timer;

	for (unsigned i = 0; i < WATCHED; i++)
		watched[i] = closed_get(600, i);
	CLOSED_MUST(sigaction(SIGUSR1, &a, NULL) == 0);
	CLOSED_MUST(timer_create(CLOCK_MONOTONIC, &e, &timer) == 0);
	CLOSED_MUST(timer_settime(timer, 0, &every, NULL) == 0);
	for (unsigned turn = 0; time(NULL) < end; turn++) {
		size_t n = turn % 16 ? turn * 37 % 2000 + 1 : (turn * 4099) % (LARGE / 2) + 1;
		unsigned char *p = closed_get(n, turn);

		work(turn);
		CLOSED_MUST(closed_is(p, n, turn));
		closed.put(p);
	}
	timer_delete(timer);
	CLOSED_MUST(ticks > 10);
	printf("%u ticks\n", ticks);
}

#endif /* TESTS_CLOSED_CALLS_H */
