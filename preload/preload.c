/*
 * preload.c - malloc and its family over the heap that closes itself
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * What malloc(3), posix_memalign(3) and malloc_usable_size(3) promise, no more: in particular a
 * chunk has exactly the bytes that were asked for, as a canary stands behind them.
 */
#include "inside.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

enum { ALIGN = 16 };

struct sm_asked sm_asked;

static size_t
page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static void *
from_heap(size_t size, size_t align)
{
	if (SM_LIKELY(align <= ALIGN))
		return secmalloc(size);
	return align <= page_bytes() ? secaligned_alloc(align, size) : sm_wide_alloc(size, align);
}

/* A handler of pthread_atfork may allocate while all chunks are on their way to the child. */
static void *
get(size_t size, size_t align)
{
	int kept = errno;
	void *p;

	if (size > PTRDIFF_MAX) {
		errno = ENOMEM;
		return NULL;
	}
	if (!sm_run_ready())
		p = sm_early_alloc(size, align);
	else {
		p = from_heap(size, align);
		if (SM_LIKELY(p != NULL))
			sm_count_add(&sm_asked.heap, size);
		else if (errno == EDEADLK)
			p = sm_early_alloc(size, align);
	}
	errno = p ? kept : ENOMEM;
	return p;
}

SM_SHOWN void *
malloc(size_t size)
{
	return get(size, ALIGN);
}

SM_SHOWN void *
calloc(size_t nmemb, size_t size)
{
	size_t bytes;

	if (!__builtin_mul_overflow(nmemb, size, &bytes))
		return get(bytes, ALIGN); /* zeros as they are */
	errno = ENOMEM;
	return NULL;
}

SM_SHOWN void
free(void *p)
{
	if (!p || sm_early_owns(p) || sm_wide_free(p))
		return;
	secfree(p);
}

/* From a place that the heap does not know to one that it does. */
static void *
carry(void *p, size_t had, size_t size)
{
	void *to = get(size, ALIGN);

	if (!to)
		return NULL;
	memcpy(to, p, sm_min_size(had, size));
	free(p);
	return to;
}

SM_SHOWN void *
realloc(void *p, size_t size)
{
	size_t had;
	void *to;

	if (!p)
		return get(size, ALIGN);
	if (size == 0) {
		free(p);
		return NULL;
	}
	if (size > PTRDIFF_MAX) {
		errno = ENOMEM;
		return NULL;
	}
	if (sm_early_owns(p))
		return carry(p, sm_early_size(p), size);
	if (sm_wide_size(p, &had))
		return carry(p, had, size);
	to = secrealloc(p, size);
	if (to)
		sm_count_add(&sm_asked.heap, size);
	else
		errno = ENOMEM;
	return to;
}

SM_SHOWN void *
reallocarray(void *p, size_t nmemb, size_t size)
{
	size_t bytes;

	if (!__builtin_mul_overflow(nmemb, size, &bytes))
		return realloc(p, bytes);
	errno = ENOMEM;
	return NULL;
}

/* ---------------------------------------------------------------- alignment */

static bool
is_power(size_t n)
{
	return n && !(n & (n - 1));
}

static void *
aligned(size_t align, size_t size)
{
	if (is_power(align))
		return get(size, align);
	errno = EINVAL;
	return NULL;
}

SM_SHOWN void *
aligned_alloc(size_t align, size_t size)
{
	return aligned(align, size);
}

/* As the C library does: the next power of two. */
SM_SHOWN void *
memalign(size_t align, size_t size)
{
	size_t power = ALIGN;

	while (power < align && power)
		power <<= 1;
	return aligned(power, size);
}

SM_SHOWN int
posix_memalign(void **out, size_t align, size_t size)
{
	int kept = errno, e = 0;
	void *p;

	if (!is_power(align) || align % sizeof(void *))
		return EINVAL;
	p = get(size, align);
	if (p)
		*out = p;
	else
		e = ENOMEM;
	errno = kept;
	return e;
}

SM_SHOWN void *
valloc(size_t size)
{
	return get(size, page_bytes());
}

SM_SHOWN void *
pvalloc(size_t size)
{
	size_t page = page_bytes();

	if (size <= PTRDIFF_MAX)
		return get(sm_round_up(size, page), page);
	errno = ENOMEM;
	return NULL;
}

SM_SHOWN size_t
malloc_usable_size(void *p)
{
	int kept = errno;
	size_t size;

	if (!p)
		return 0;
	if (sm_early_owns(p))
		return sm_early_size(p);
	if (!sm_wide_size(p, &size))
		size = secmalloc_usable_size(p);
	errno = kept;
	return size;
}
