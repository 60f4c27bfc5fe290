/*
 * options.c - what the launcher asks for:
 *	clear=BYTES,reseal=MS,mode=NAME,stats=PID,daemon=PATH,store=DIR
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * store comes last, as a path may have a comma in it; a daemon's has none. No other text is copied:
 * the variable stays.
 */
#include "inside.h"

static const char *const modes[] = { "none", "thread", "signal", "slots" };

/* After the word, or NULL. */
static const char *
skip(const char *text, const char *word)
{
	while (*word)
		if (*text++ != *word++)
			return NULL;
	return text;
}

/* After the number, or NULL. */
static const char *
number(const char *text, uint64_t most, uint64_t *out)
{
	uint64_t n = 0;

	if (*text < '0' || *text > '9')
		return NULL;
	for (; *text >= '0' && *text <= '9'; text++) {
		unsigned digit = (unsigned)(*text - '0');

		if (n > (most - digit) / 10)
			return NULL;
		n = n * 10 + digit;
	}
	*out = n;
	return text;
}

static const char *
mode_name(const char *text, unsigned *out)
{
	const char *end;

	for (unsigned i = 1; i < sizeof(modes) / sizeof(*modes); i++) {
		end = skip(text, modes[i]);
		if (end) {
			*out = i;
			return end;
		}
	}
	return NULL;
}

/* After the path, or NULL: it is too long. */
static const char *
daemon_path(const char *text, struct sm_options *o)
{
	size_t n = 0;

	for (; *text && *text != ','; text++) {
		if (n == sizeof(o->daemon) - 1)
			return NULL;
		o->daemon[n++] = *text;
	}
	o->has_daemon = true;
	return text;
}

/* After one option, or NULL. */
static const char *
option(const char *text, struct sm_options *o)
{
	const char *value;
	uint64_t n = 0;

	if ((value = skip(text, "mode=")))
		return mode_name(value, &o->mode);
	if ((value = skip(text, "daemon=")))
		return daemon_path(value, o);
	if ((value = skip(text, "clear="))) {
		value = number(value, PTRDIFF_MAX, &n);
		o->clear_bytes = (size_t)n;
	} else if ((value = skip(text, "reseal="))) {
		value = number(value, UINT32_MAX, &n);
		o->reseal_ms = (unsigned)n;
	} else if ((value = skip(text, "stats="))) {
		value = number(value, INT32_MAX, &n);
		o->stats_pid = (long)n;
	} else if ((value = skip(text, "store="))) {
		o->store = *value ? value : NULL;
		value += strlen(value);
	}
	return value;
}

bool
sm_options_read(const char *text, struct sm_options *o)
{
	*o = (struct sm_options){ .mode = 1 };
	while (text && *text) {
		text = option(text, o);
		if (!text || (*text && *text++ != ','))
			return false;
	}
	return true;
}
