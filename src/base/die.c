#include "base/base.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *
sentence(enum secmalloc_fault kind)
{
	switch (kind) {
	case SECMALLOC_FAULT_DOUBLE_FREE:
		return "secmalloc: double free: this chunk was given back before\n";
	case SECMALLOC_FAULT_INVALID_FREE:
		return "secmalloc: invalid free: not the start of a chunk of secmalloc\n";
	case SECMALLOC_FAULT_OVERFLOW:
		return "secmalloc: overflow: bytes behind the end of a chunk were written\n";
	case SECMALLOC_FAULT_UNDERFLOW:
		return "secmalloc: underflow: bytes in front of a chunk were written\n";
	case SECMALLOC_FAULT_WRITE_AFTER_FREE:
		return "secmalloc: write after free: a chunk was written after it was given back\n";
	case SECMALLOC_FAULT_TAMPERED:
		return "secmalloc: tampered: a closed page was written from outside\n";
	case SECMALLOC_FAULT_STORE:
		return "secmalloc: store: the file in store_dir could not be read or written\n";
	case SECMALLOC_FAULT_INTERNAL:
		break;
	}
	return "secmalloc: internal: an invariant of the library is broken, please report this\n";
}

static void
tell(enum secmalloc_fault kind, const void *ptr)
{
	const struct sm_config *c = sm_config();

	if (c->on_fault)
		c->on_fault(kind, ptr, c->fault_arg);
}

_Noreturn void
sm_die(enum secmalloc_fault kind, const void *ptr)
{
	const char *s = sentence(kind);

	tell(kind, ptr);
	if (write(STDERR_FILENO, s, strlen(s)) < 0)
		abort();
	abort();
}

/* One write, so that nobody's words come in between. */
_Noreturn void
sm_die_of(const char *cause, const void *ptr)
{
	static const char head[] = "secmalloc: internal: ";
	char line[320];
	size_t n = sm_min_size(strlen(cause), sizeof(line) - sizeof(head));

	tell(SECMALLOC_FAULT_INTERNAL, ptr);
	memcpy(line, head, sizeof(head) - 1);
	memcpy(line + sizeof(head) - 1, cause, n);
	line[sizeof(head) - 1 + n] = '\n';
	if (write(STDERR_FILENO, line, sizeof(head) + n) < 0)
		abort();
	abort();
}
