/*
 * inside.h - what the files of the remote control share
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 * One question to the daemon, its answer, and the end. Passphrases lie in chunks of the library.
 */
#ifndef SC_INSIDE_H
#define SC_INSIDE_H

#include "base/base.h"
#include "wire/wire.h"

enum { SC_DONE = 0, SC_FAILED = 1, SC_USAGE = 2 };

/** What the command line asks for. */
struct sc_wish {
	const char *socket; /* NULL: the default */
	enum sm_wire_command command;
	bool json;     /* status */
	bool own;      /* lock: with a passphrase of its own */
	int phrase_fd; /* -1: the terminal */
	pid_t pid;     /* drop */
};

/** sc_wish_read - of the command line. Ends the process: 0 after --help, 2 on a mistake. */
void sc_wish_read(int argc, char **argv, struct sc_wish *w);

/** sc_say - one line on standard error: the cause, and its cure */
void sc_say(const char *fmt, ...) SM_PRINTF(1, 2);

/** sc_phrases_read - what the command needs, into the question. false: said why */
bool sc_phrases_read(const struct sc_wish *w, struct sm_wire_ask *ask);

/** sc_show_begin, sc_show_row, sc_show_end - status; false: it cannot be written */
void sc_show_begin(bool json);
void sc_show_row(bool json, const struct sm_wire_row *r);
bool sc_show_end(bool json, const struct sm_wire_answer *a);

#endif
