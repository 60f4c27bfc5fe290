/*
 * options.c - the command line
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { O_SOCKET = 256, O_PHRASE_FD, O_PHRASE, O_JSON, O_VERSION, FD_MOST = 1 << 20 };

/* Bits of what a command takes. */
enum { T_PHRASE_FD = 1, T_PHRASE = 2, T_JSON = 4, T_PID = 8 };

static const struct {
	const char *name;
	enum sm_wire_command command;
	unsigned takes;
} commands[] = {
	{ "status", SM_WIRE_STATUS, T_JSON },
	{ "lock", SM_WIRE_DO_LOCK, T_PHRASE | T_PHRASE_FD },
	{ "unlock", SM_WIRE_DO_UNLOCK, T_PHRASE_FD },
	{ "purge", SM_WIRE_DO_PURGE, 0 },
	{ "passwd", SM_WIRE_PASSWD, T_PHRASE_FD },
	{ "drop", SM_WIRE_DO_DROP, T_PID },
};

static const struct option words[] = {
	{ "socket", required_argument, NULL, O_SOCKET },
	{ "passphrase-fd", required_argument, NULL, O_PHRASE_FD },
	{ "phrase", no_argument, NULL, O_PHRASE },
	{ "json", no_argument, NULL, O_JSON },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, O_VERSION },
	{ 0 },
};

static const char usage[] =
	"usage: secmallocctl [--socket PATH] COMMAND\n"
	"Tell secmallocd what to do with the keys of this user's programs.\n"
	"\n"
	"  status [--json]                    who is there, and what of it is clear\n"
	"  lock [--phrase] [--passphrase-fd N]\n"
	"                                     close everything and take the keys away;\n"
	"                                     --phrase: under a passphrase of its own\n"
	"  unlock [--passphrase-fd N]         give them back\n"
	"  purge                              destroy them for good\n"
	"  passwd [--passphrase-fd N]         another passphrase (two lines: old, new)\n"
	"  drop PID                           leave a program to itself\n"
	"  --help, --version\n"
	"\n"
	"Exit status: 0; 1 it failed; 2 wrong usage.\n";

static _Noreturn void
refuse(const char *what, const char *value, const char *cure)
{
	sc_say("%s%s%s: %s", what, *value ? " " : "", value, cure);
	exit(SC_USAGE);
}

static int
number(const char *what, const char *text, int least, int most)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || n < least || n > most)
		refuse(what, text, "use a plain number");
	return (int)n;
}

static unsigned
take(int c, struct sc_wish *w)
{
	switch (c) {
	case O_SOCKET:
		w->socket = optarg;
		return 0;
	case O_PHRASE_FD:
		w->phrase_fd = number("--passphrase-fd", optarg, 0, FD_MOST);
		return T_PHRASE_FD;
	case O_PHRASE:
		w->own = true;
		return T_PHRASE;
	case O_JSON:
		w->json = true;
		return T_JSON;
	case 'h':
		fputs(usage, stdout);
		exit(SC_DONE);
	case O_VERSION:
		printf("secmallocctl %s\n", SECMALLOC_VERSION);
		exit(SC_DONE);
	default: /* getopt has told */
		sc_say("see --help");
		exit(SC_USAGE);
	}
}

static unsigned
command_of(const char *name, struct sc_wish *w)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (strcmp(name, commands[i].name) == 0) {
			w->command = commands[i].command;
			return commands[i].takes;
		}
	refuse("command", name, "there is no such one; see --help");
}

void
sc_wish_read(int argc, char **argv, struct sc_wish *w)
{
	unsigned given = 0, takes;
	int c;

	*w = (struct sc_wish){ .phrase_fd = -1 };
	while ((c = getopt_long(argc, argv, "h", words, NULL)) != -1)
		given |= take(c, w);
	if (optind == argc)
		refuse("no command", "", "see --help");
	takes = command_of(argv[optind], w);
	if (given & ~takes)
		refuse(argv[optind], "", "it does not take such an option; see --help");
	if (takes & T_PID && ++optind < argc)
		w->pid = number("drop", argv[optind], 1, INT_MAX);
	else if (takes & T_PID)
		refuse("drop", "", "of which pid? status lists them");
	if (++optind < argc)
		refuse("argument", argv[optind], "it is one too many; see --help");
	w->own |= w->command == SM_WIRE_DO_LOCK && w->phrase_fd >= 0;
}
