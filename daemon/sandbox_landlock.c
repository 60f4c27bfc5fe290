/*
 * sandbox_landlock.c - no file is opened any more: landlock(7), by its bare system calls
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

const char sd_sandbox_name[] = "landlock";

/* As linux/landlock.h has it, of which an older one is of no use. Signals and abstract sockets are
 * not scoped: clients die by the ones, the service manager may listen at the others. */
struct ruleset {
	uint64_t files, net;
};

struct beneath {
	uint64_t allowed;
	int32_t parent;
} __attribute__((packed));

enum { ABI = 1, BENEATH = 1 };
#define FILES_1 0x1fffu /* Linux 5.13: all there were */
#define REMOVE_FILE 0x20u
#define NET_TCP 3u        /* Linux 6.7 */

/* Each ABI knows more rights; those that this kernel does not know are not to be named. */
static struct ruleset
all_rights(long abi, size_t *bytes)
{
	struct ruleset r = { FILES_1, 0 };

	*bytes = sizeof(r.files);
	if (abi >= 2)
		r.files |= 0x2000u; /* REFER */
	if (abi >= 3)
		r.files |= 0x4000u; /* TRUNCATE */
	if (abi >= 4) {
		r.net = NET_TCP;
		*bytes = sizeof(r);
	}
	if (abi >= 5)
		r.files |= 0x8000u; /* IOCTL_DEV */
	return r;
}

/* So that the socket can be taken away at the end. */
static int
allow_removal(int ruleset, const char *folder)
{
	struct beneath b = { REMOVE_FILE, open(folder, O_PATH | O_CLOEXEC) };
	int e = 0;

	if (b.parent < 0)
		return errno;
	if (syscall(SYS_landlock_add_rule, ruleset, BENEATH, &b, 0))
		e = errno;
	close(b.parent);
	return e;
}

int
sd_sandbox(const char *folder)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, ABI);
	struct ruleset r;
	size_t bytes;
	int fd, e = 0;

	if (abi < 1)
		return abi < 0 ? errno : ENOSYS;
	r = all_rights(abi, &bytes);
	fd = (int)syscall(SYS_landlock_create_ruleset, &r, bytes, 0);
	if (fd < 0)
		return errno;
	if (folder)
		e = allow_removal(fd, folder);
	if (e == 0 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
			      syscall(SYS_landlock_restrict_self, fd, 0)))
		e = errno;
	close(fd);
	return e;
}
