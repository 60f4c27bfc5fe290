/*
 * sandbox_seccomp.c - the system calls that the loop needs, and no others: seccomp(2)
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * What is not in the list fails with EPERM: a C library that tries a new call and falls back goes
 * on. No file can be opened, no program started, no other process looked into.
 */
#include "inside.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/socket.h>

const char sd_sandbox_name[] = "seccomp";

static const char *const calls[] = {
	/* the loop */
	"poll",
	"ppoll",
	"read",
	"write",
	"close",
	"recvmsg",
	"sendmsg",
	"sendto",
	"accept4",
	"getsockopt",
	"setsockopt",
	"pipe2",
	"pidfd_open",
	"pidfd_send_signal",
	"fcntl",
	"fcntl64",
	"connect",
	"eventfd2",
	"unlink",
	"unlinkat",
	"wait4",
	"waitid",
	"shutdown",
	/* time, memory, chance */
	"clock_gettime",
	"clock_gettime64",
	"clock_nanosleep",
	"clock_nanosleep_time64",
	"nanosleep",
	"gettimeofday",
	"time",
	"mmap",
	"mmap2",
	"munmap",
	"mprotect",
	"mremap",
	"madvise",
	"mlock",
	"mlock2",
	"munlock",
	"brk",
	"memfd_secret",
	"ftruncate",
	"ftruncate64",
	"getrandom",
	"mincore",
	"sysinfo",
	/* threads and the end */
	"clone",
	"clone3",
	"futex",
	"futex_time64",
	"set_robust_list",
	"rseq",
	"sched_yield",
	"sched_getaffinity",
	"set_tid_address",
	"rt_sigaction",
	"rt_sigprocmask",
	"rt_sigreturn",
	"sigreturn",
	"sigaltstack",
	"rt_sigtimedwait",
	"restart_syscall",
	"exit",
	"exit_group",
	"kill",
	"getpid",
	"gettid",
	"tgkill",
	"geteuid",
	"getuid",
	"getegid",
	"getgid",
	"prctl",
	"prlimit64",
	"getrlimit",
	"ugetrlimit",
	"uname",
	/* what stdio asks of a descriptor */
	"fstat",
	"fstat64",
	"newfstatat",
	"statx",
	"lseek",
	"_llseek",
	"writev",
};

/* A name that this processor, or this libseccomp, does not know is no loss. */
static int
allow_calls(scmp_filter_ctx c)
{
	int e = 0;

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls) && e == 0; i++) {
		int number = seccomp_syscall_resolve_name(calls[i]);

		if (number == __NR_SCMP_ERROR)
			continue;
		e = seccomp_rule_add(c, SCMP_ACT_ALLOW, number, 0);
		if (e == -EDOM || e == -EEXIST)
			e = 0;
	}
	/* For syslog, should it start anew; and for the service manager. */
	if (e == 0)
		e = seccomp_rule_add(
			c, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0));
	return -e;
}

int
sd_sandbox(const char *folder)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int e;

	(void)folder;
	if (!c)
		return ENOMEM;
	e = allow_calls(c);
	if (e == 0)
		e = -seccomp_load(c);
	seccomp_release(c);
	return e;
}
