/*
 * phrases.c - passphrases, from the terminal or a descriptor
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>

enum { FD_BYTES = 2 * SM_WIRE_PHRASE_BYTES + 2 };

static bool
put(const char *text, size_t n, unsigned char *to, uint32_t *bytes)
{
	if (n == 0 || n > SM_WIRE_PHRASE_BYTES) {
		sc_say("a passphrase has 1 to %d bytes: try again", SM_WIRE_PHRASE_BYTES);
		return false;
	}
	memcpy(to, text, n);
	*bytes = (uint32_t)n;
	return true;
}

/* ------------------------------------------------------------------------- descriptor */

static size_t
line_bytes(const char *text, size_t n)
{
	const char *end = memchr(text, '\n', n);

	return end ? (size_t)(end - text) : n;
}

/* Its first line; the second is the new one. */
static bool
from_fd(const struct sc_wish *w, struct sm_wire_ask *ask)
{
	size_t n = 0, first;
	char *text = secmalloc_read_fd(w->phrase_fd, FD_BYTES, &n);
	bool good;

	if (!text) {
		sc_say("--passphrase-fd %d: %s", w->phrase_fd, secmalloc_error());
		return false;
	}
	first = line_bytes(text, n);
	if (w->command != SM_WIRE_PASSWD) {
		good = put(text, first, ask->phrase, &ask->phrase_bytes);
	} else if (first + 1 >= n) {
		sc_say("--passphrase-fd %d: two lines are wanted, the old passphrase (empty: none)"
		       " and the new one",
			w->phrase_fd);
		good = false;
	} else {
		good = first == 0 || put(text, first, ask->phrase, &ask->phrase_bytes);
		good = good && put(text + first + 1, line_bytes(text + first + 1, n - first - 1),
				       ask->fresh, &ask->fresh_bytes);
	}
	secfree(text);
	return good;
}

/* --------------------------------------------------------------------------- terminal */

static char *
prompt(const char *text)
{
	char *line = secmalloc_read_passphrase(text, SM_WIRE_PHRASE_BYTES);

	if (!line)
		sc_say("no passphrase was read: %s; --passphrase-fd takes it from elsewhere",
			errno == ENODATA ? "the input ended" : secmalloc_error());
	return line;
}

static bool
ask_once(const char *text, bool may_be_empty, unsigned char *to, uint32_t *bytes)
{
	char *line = prompt(text);
	bool good = line && ((may_be_empty && !*line) || put(line, strlen(line), to, bytes));

	secfree(line);
	return good;
}

static bool
ask_twice(const char *text, unsigned char *to, uint32_t *bytes)
{
	bool good = ask_once(text, false, to, bytes);
	char *again = good ? prompt("Once more: ") : NULL;

	good = again != NULL;
	if (again && (strlen(again) != *bytes || secmemcmp(again, to, *bytes))) {
		sc_say("the two differ: try again");
		good = false;
	}
	secfree(again);
	return good;
}

bool
sc_phrases_read(const struct sc_wish *w, struct sm_wire_ask *ask)
{
	if (w->command != SM_WIRE_DO_UNLOCK && w->command != SM_WIRE_PASSWD && !w->own)
		return true;
	if (w->phrase_fd >= 0)
		return from_fd(w, ask);
	if (w->command == SM_WIRE_DO_UNLOCK)
		return ask_once("Passphrase: ", false, ask->phrase, &ask->phrase_bytes);
	if (w->command == SM_WIRE_DO_LOCK)
		return ask_twice("Passphrase of this lock: ", ask->phrase, &ask->phrase_bytes);
	return ask_once("Old passphrase (none: empty): ", true, ask->phrase, &ask->phrase_bytes) &&
	       ask_twice("New passphrase: ", ask->fresh, &ask->fresh_bytes);
}
