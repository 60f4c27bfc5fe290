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

_Noreturn void
sm_die(enum secmalloc_fault kind, const void *ptr)
{
	const struct sm_config *c = sm_config();
	const char *s = sentence(kind);

	if (c->on_fault)
		c->on_fault(kind, ptr, c->fault_arg);
	if (write(STDERR_FILENO, s, strlen(s)) < 0)
		abort();
	abort();
}
