/*
 * show.c - status, for people and for programs
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const states[SM_WIRE_STATES] = {
	[SM_WIRE_OPEN] = "open",
	[SM_WIRE_IS_LOCKED] = "locked",
	[SM_WIRE_IS_PURGED] = "purged",
	[SM_WIRE_BUSY] = "busy",
};

static unsigned rows;

void
sc_show_begin(bool json)
{
	rows = 0;
	if (json)
		fputs("{\"clients\":[", stdout);
	else
		printf("%8s %-20s %12s %12s %8s %8s %s\n", "PID", "NAME", "BYTES", "CLEAR",
			"CLOSED", "OPEN", "STATE");
}

/* Whatever the daemon let through, a terminal or a parser gets plain characters. */
static void
put_text(const char *text)
{
	for (; *text; text++)
		putchar(*text < ' ' || *text > '~' || *text == '"' || *text == '\\' ? '?' : *text);
}

void
sc_show_row(bool json, const struct sm_wire_row *r)
{
	const struct sm_wire_tally *t = &r->tally;
	uint64_t open = t->chunks > t->chunks_closed ? t->chunks - t->chunks_closed : 0;

	if (json) {
		printf("%s{\"pid\":%d,\"name\":\"", rows++ ? "," : "", (int)r->pid);
		put_text(r->name);
		printf("\",\"bytes\":%" PRIu64 ",\"bytes_clear\":%" PRIu64
		       ",\"chunks_closed\":%" PRIu64 ",\"chunks_open\":%" PRIu64
		       ",\"state\":\"%s\"}",
			t->bytes, t->bytes_clear, t->chunks_closed, open, states[t->state]);
		return;
	}
	printf("%8d ", (int)r->pid);
	put_text(r->name);
	printf("%*s %12" PRIu64 " %12" PRIu64 " %8" PRIu64 " %8" PRIu64 " %s\n",
		strlen(r->name) < 20 ? 20 - (int)strlen(r->name) : 0, "", t->bytes, t->bytes_clear,
		t->chunks_closed, open, states[t->state]);
}

bool
sc_show_end(bool json, const struct sm_wire_answer *a)
{
	if (json) {
		printf("],\"locked\":%s,\"text\":\"", a->locked ? "true" : "false");
		put_text(a->text);
		puts("\"}");
	} else {
		put_text(a->text);
		putchar('\n');
	}
	return fflush(stdout) == 0 && !ferror(stdout);
}
