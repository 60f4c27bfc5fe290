/*
 * leak_where.c - where the halves of this program's key are, for leak_key
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * It only says where.  leak_key reads the halves from there and joins them itself.
 */
#include <inttypes.h>
#include <stdio.h>

#include "key/inside.h"
#include "leak.h"

int
leak_where(void)
{
	struct sm_left *left = sm_keys.left;
	struct secmalloc_stats st = SECMALLOC_STATS_INIT;

	if (left == NULL || secmalloc_stats(&st) != 0)
		return -1;
	snprintf(leak_note, sizeof leak_note,
		"%s %#" PRIxPTR " %#" PRIxPTR " %zu %#" PRIxPTR " %#" PRIxPTR,
		st.cipher == SECMALLOC_CIPHER_AES256GCM ? "aes" : "xchacha",
		(uintptr_t)left->half[atomic_load(&sm_keys.now)], (uintptr_t)sm_keys.right.half,
		sm_keys.prekey_bytes, (uintptr_t)sm_keys.slots, (uintptr_t)left->wrapped.salt);
	return 0;
}
