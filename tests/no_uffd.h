/*
 * no_uffd.h - from here on this process and its children may not have all of userfaultfd, or none
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_NO_UFFD_H
#define TESTS_NO_UFFD_H

#include "contract.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { NEW_DESCRIPTOR = 0xaa00 }; /* of /dev/userfaultfd: USERFAULTFD_IOC_NEW */

/** forbid_filter - the device, which some machines give to all; and the system call */
static inline void
forbid_filter(int with_call)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(with_call ? SYS_userfaultfd : -1), 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NEW_DESCRIPTOR, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { sizeof(f) / sizeof(f[0]), f };

	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p, 0, 0) == 0);
}

static inline void
forbid_uffd(void)
{
	forbid_filter(1);
}

static inline void
forbid_device(void)
{
	forbid_filter(0);
}

#endif /* TESTS_NO_UFFD_H */
