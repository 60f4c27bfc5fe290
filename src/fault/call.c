#include "fault/inside.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GROUPS_MOST = 65536, NOBODY_ASKS = 0, ASKED, ANSWERED };

static struct {
	struct sm_lock lock; /* SM_RANK_CALL: one asks at a time */
	_Atomic uint32_t state;
	bool open; /* there is a thread that answers */
	long number, args[6];
	int answer;
	/* What arguments point to: were it on a closed page, who opens it would have to wait for
	 * himself. */
	union {
		struct {
			struct __user_cap_header_struct header;
			struct __user_cap_data_struct data[2];
		} caps;
		uint32_t groups[GROUPS_MOST];
	} copy;
} call;

/* --------------------------------------------------------------- arguments */

static void
copy_groups(void)
{
	size_t n = (size_t)call.args[0];

	if (n > GROUPS_MOST || call.args[1] == 0) /* the kernel refuses it unseen */
		return;
	memcpy(call.copy.groups, (void *)call.args[1], n * sizeof(*call.copy.groups));
	call.args[1] = (long)call.copy.groups;
}

/* Who names itself means the thread that makes the call. */
static void
copy_caps(void)
{
	size_t n = sizeof(call.copy.caps.data);

	if (call.args[0] == 0 || call.args[1] == 0)
		return;
	memcpy(&call.copy.caps.header, (void *)call.args[0], sizeof(call.copy.caps.header));
	if (call.copy.caps.header.version == _LINUX_CAPABILITY_VERSION_1)
		n /= 2;
	if (call.copy.caps.header.pid == (int)syscall(SYS_gettid))
		call.copy.caps.header.pid = 0;
	memcpy(call.copy.caps.data, (void *)call.args[1], n);
	call.args[0] = (long)&call.copy.caps.header;
	call.args[1] = (long)call.copy.caps.data;
}

static void
copy_call(long number, const long args[6])
{
	call.number = number;
	memcpy(call.args, args, sizeof(call.args));
	if (number == SYS_setgroups)
		copy_groups();
	if (number == SYS_capset)
		copy_caps();
}

/* ------------------------------------------------------------------- doors */

static int
ask(long number, const long args[6])
{
	int e;

	copy_call(number, args);
	atomic_store_explicit(&call.state, ASKED, memory_order_release);
	e = sm_server_ring(SM_RING_CALL);
	if (e == 0) {
		sm_raw_await(&call.state, ASKED);
		e = call.answer;
	}
	atomic_store(&call.state, NOBODY_ASKS);
	return e;
}

/* No signal, as its handler might ask too. */
int
sm_fault_call(long number, const long args[6])
{
	struct sm_mask m;
	int kept = errno, e;

	sm_os_mask(&m);
	sm_lock_take(&call.lock, SM_RANK_CALL);
	e = call.open ? ask(number, args) : 0;
	sm_lock_release(&call.lock, SM_RANK_CALL);
	sm_os_unmask(&m);
	errno = kept;
	return e;
}

void
sm_call_answer(void)
{
	const long *a = call.args;

	call.answer = 0;
	if (syscall(call.number, a[0], a[1], a[2], a[3], a[4], a[5]) == -1)
		call.answer = errno;
	atomic_store_explicit(&call.state, ANSWERED, memory_order_release);
	sm_raw_wake(&call.state);
}

void
sm_call_open(bool open)
{
	struct sm_mask m;

	sm_os_mask(&m);
	sm_lock_take(&call.lock, SM_RANK_CALL);
	call.open = open;
	sm_lock_release(&call.lock, SM_RANK_CALL);
	sm_os_unmask(&m);
}

void
sm_call_forget(void)
{
	call.lock = (struct sm_lock){ 0 };
	call.open = false;
	atomic_store(&call.state, NOBODY_ASKS);
}
