/*
 * daemon_scan.h - what a locked program shows to who looks into it from outside
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#ifndef TESTS_DAEMON_SCAN_H
#define TESTS_DAEMON_SCAN_H

#include "daemon.h"
#include "leak.h"

enum { SMALL = 256, LARGE = 65536, SEED = 7700, HOARD = 6, CONTROL = 9 };

/** plant, planted - a marker, number `seed`; the first four are SMALL, two are LARGE */
static inline void
plant(unsigned char *p, size_t n, unsigned seed)
{
	MUST(p != NULL);
	for (size_t i = 0; i < n; i++)
		p[i] = leak_byte(SEED + seed, i);
}

static inline bool
planted(const unsigned char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != leak_byte(SEED + seed, i))
			return false;
	return true;
}

/** plant_control - one in ordinary memory */
static inline void
plant_control(void)
{
	static unsigned char control[LEAK_CONTROL_BYTES];

	plant(control, sizeof(control), CONTROL);
}

/** How often the control, the hoard, and the key lie in another process. */
struct sight {
	unsigned control, hoard, key;
};

static inline struct sight
look_into(pid_t pid, const struct sm_wire_parcel *keys)
{
	char line[1024], hex[65], *at = line;
	unsigned n[10] = { 0 };
	struct sight s = { 0 };
	FILE *f;

	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", keys->parcel[i]);
	at += sprintf(at, "%s/tests/leak_scan --pid %d mem %d 4096", getenv("top_builddir") ?
		getenv("top_builddir") : ".", (int)pid, SEED + CONTROL);
	for (int i = 0; i < HOARD; i++)
		at += sprintf(at, " %d %d", SEED + i, i < 4 ? SMALL : LARGE);
	sprintf(at, " %s key%s", hex, getenv("FAKE_SHOW") == NULL ? " 2>/dev/null" : "");
	f = popen(line, "r");
	ck_assert_ptr_nonnull(f);
	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(fscanf(f, "%u", &n[i]), 1);
	pclose(f);
	s.control = n[0];
	for (int i = 1; i < 7; i++)
		s.hoard += n[i];
	s.key = n[7] + n[8] + n[9];
	return s;
}

#endif /* TESTS_DAEMON_SCAN_H */
