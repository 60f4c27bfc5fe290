#include "front/inside.h"

#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

enum {
	ALL_PROTECTIONS = SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_NODUMP |
		SECMALLOC_FORKSAFE | SECMALLOC_HIDDEN | SECMALLOC_UNTRACEABLE,
	DEFAULT_PROTECTIONS = SECMALLOC_LOCKED | SECMALLOC_GUARDED | SECMALLOC_NODUMP |
		SECMALLOC_FORKSAFE,
	ALL_FLAGS = SECMALLOC_ISOLATE | SECMALLOC_TRANSPARENT | SECMALLOC_KEY_RESIDENT |
		SECMALLOC_NO_THREAD,
	LEAST_PREKEY_BYTES = 32,
	MOST_PREKEY_BYTES = 1 << 20,
	DEFAULT_RESPLIT_MS = 500,
	DEFAULT_CLEAR_BYTES = 1 << 20
};

/* The first release's struct; fields are only ever appended. */
#define FIRST_CONFIG_BYTES (offsetof(struct secmalloc_config, fault_arg) + sizeof(void *))

int
sm_front_copy_config(const struct secmalloc_config *c, struct secmalloc_config *out)
{
	*out = (struct secmalloc_config)SECMALLOC_CONFIG_INIT;
	if (!c)
		return 0;
	if (c->struct_size != FIRST_CONFIG_BYTES && c->struct_size < sizeof(*out))
		return sm_fail(EINVAL, "struct_size %zu fits no version: start from "
				       "SECMALLOC_CONFIG_INIT", c->struct_size);
	for (size_t i = sizeof(*out); i < c->struct_size; i++)
		if (((const unsigned char *)c)[i])
			return sm_fail(EINVAL, "the config has fields this version (%s) does not "
					       "know: update the library", SECMALLOC_VERSION);
	memcpy(out, c, sm_min_size(c->struct_size, sizeof(*out)));
	return 0;
}

static int
check_bits(const struct secmalloc_config *c)
{
	if (c->require & ~(unsigned)ALL_PROTECTIONS || c->without & ~(unsigned)ALL_PROTECTIONS)
		return sm_fail(EINVAL, "unknown protection bits in require or without: use the "
				       "SECMALLOC_ names");
	if (c->require & c->without)
		return sm_fail(EINVAL, "the same protection is in require and in without: choose "
				       "one");
	if (c->flags & ~(unsigned)ALL_FLAGS)
		return sm_fail(EINVAL, "unknown bits in flags: use the SECMALLOC_ names");
	if (c->fork > SECMALLOC_FORK_KEEP)
		return sm_fail(EINVAL, "fork is %u: use SECMALLOC_FORK_WIPE", c->fork);
	if (c->cipher > SECMALLOC_CIPHER_AEGIS128L)
		return sm_fail(EINVAL, "cipher is %u: use SECMALLOC_CIPHER_AUTO", c->cipher);
	return 0;
}

static int
check_sizes(const struct secmalloc_config *c)
{
	size_t page = sm_os_page_bytes();

	if (c->pool_size > PTRDIFF_MAX / 16 - page)
		return sm_fail(EINVAL, "pool_size %zu is out of range: ask for less", c->pool_size);
	if (c->max_pools && c->max_pools < (c->initial_pools ? c->initial_pools : 1))
		return sm_fail(EINVAL, "max_pools %u is less than initial_pools %u: raise it",
			c->max_pools, c->initial_pools);
	if (c->prekey_size && (c->prekey_size < LEAST_PREKEY_BYTES ||
				      c->prekey_size > MOST_PREKEY_BYTES))
		return sm_fail(EINVAL, "prekey_size %zu is out of range: use %d to %d bytes",
			c->prekey_size, LEAST_PREKEY_BYTES, MOST_PREKEY_BYTES);
	return 0;
}

/* Its pages move between mappings, which hidden ones cannot, and clear ones are always locked. */
static int
check_transparent(const struct secmalloc_config *c)
{
	if (!(c->flags & SECMALLOC_TRANSPARENT))
		return 0;
	if (c->require & SECMALLOC_HIDDEN)
		return sm_fail(ENOTSUP, "transparent mode cannot hide pages: leave SECMALLOC_HIDDEN "
					"out of require");
	if (c->without & SECMALLOC_LOCKED)
		return sm_fail(ENOTSUP, "transparent mode locks what is clear: leave "
					"SECMALLOC_LOCKED out of without");
	return 0;
}

int
sm_front_resolve(const struct secmalloc_config *asked, struct sm_config *out)
{
	int e = check_bits(asked);

	if (e == 0)
		e = check_sizes(asked);
	if (e == 0)
		e = check_transparent(asked);
	if (e)
		return e;
	out->page_bytes = sm_os_page_bytes();
	out->pool_bytes = sm_round_up(asked->pool_size, out->page_bytes);
	out->pool_auto = asked->pool_size == 0;
	out->isolate = asked->flags & SECMALLOC_ISOLATE;
	out->initial_pools = asked->initial_pools ? asked->initial_pools : 1;
	out->max_pools = asked->max_pools ? asked->max_pools : UINT_MAX;
	out->without = asked->without;
	out->require = asked->require ? asked->require : DEFAULT_PROTECTIONS & ~asked->without;
	out->cipher = asked->cipher;
	out->key_resident = asked->flags & SECMALLOC_KEY_RESIDENT;
	out->prekey_bytes = asked->prekey_size ? asked->prekey_size : LEAST_PREKEY_BYTES;
	out->key_provider = asked->key_provider;
	out->key_arg = asked->key_arg;
	out->resplit_ms = asked->resplit_ms ? asked->resplit_ms : DEFAULT_RESPLIT_MS;
	out->fork_keeps = asked->fork == SECMALLOC_FORK_KEEP;
	out->transparent = asked->flags & SECMALLOC_TRANSPARENT;
	out->clear_bytes = asked->clear_limit ? asked->clear_limit : DEFAULT_CLEAR_BYTES;
	out->store_dir = asked->store_dir;
	out->daemon = asked->daemon;
	out->reseal_ms = asked->reseal_ms;
	out->no_thread = asked->flags & SECMALLOC_NO_THREAD;
	out->on_fault = asked->on_fault;
	out->fault_arg = asked->fault_arg;
	return 0;
}
