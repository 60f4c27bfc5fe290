/*
 * options.c - the command line
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { DEADLINE_MS = 2000, DEADLINE_MOST_MS = 3600000, FD_MOST = 1 << 20 };

enum {
	O_SOCKET = 256,
	O_DEADLINE,
	O_POLICY,
	O_LATE,
	O_PHRASE_FD,
	O_NO_PHRASE,
	O_SYSLOG,
	O_VERSION
};

static const struct option words[] = {
	{ "foreground", no_argument, NULL, 'f' },
	{ "socket", required_argument, NULL, O_SOCKET },
	{ "deadline", required_argument, NULL, O_DEADLINE },
	{ "policy", required_argument, NULL, O_POLICY },
	{ "late", required_argument, NULL, O_LATE },
	{ "passphrase-fd", required_argument, NULL, O_PHRASE_FD },
	{ "no-passphrase", no_argument, NULL, O_NO_PHRASE },
	{ "syslog", no_argument, NULL, O_SYSLOG },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, O_VERSION },
	{ 0 },
};

static const char usage[] =
	"usage: secmallocd [OPTION]...\n"
	"Keep the keys of this user's programs: lock them all with one word.\n"
	"\n"
	"  -f, --foreground      stay, and log to standard error\n"
	"  --socket PATH         listen there ($XDG_RUNTIME_DIR/secmalloc/daemon)\n"
	"  --deadline MS         a client has so long to lock itself (2000)\n"
	"  --policy POLICY       if the daemon dies, its clients die, or carry-on (die)\n"
	"  --late WHAT           kill clients that miss the deadline, or report them (kill)\n"
	"  --passphrase-fd N     the passphrase comes from there, not from the terminal\n"
	"  --no-passphrase       there is none: lock takes one each time\n"
	"  --syslog              log to syslog in the foreground too\n"
	"  --help, --version\n"
	"\n"
	"Exit status: 0; 1 it failed; 2 wrong usage.\n";

static _Noreturn void
refuse(const char *option, const char *value, const char *cure)
{
	fprintf(stderr, "secmallocd: %s %s: %s\n", option, value, cure);
	exit(2);
}

static unsigned
number(const char *option, const char *text, unsigned least, unsigned most)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || n < least || n > most) {
		fprintf(stderr, "secmallocd: %s %s: use a number from %u to %u\n", option, text,
			least, most);
		exit(2);
	}
	return (unsigned)n;
}

/* Which of two words; the second: true. */
static bool
either(const char *option, const char *text, const char *first, const char *second)
{
	char cure[64];

	if (strcmp(text, second) == 0)
		return true;
	if (strcmp(text, first) == 0)
		return false;
	snprintf(cure, sizeof(cure), "use %s or %s", first, second);
	refuse(option, text, cure);
}

static void
take(int c, struct sd_options *o)
{
	switch (c) {
	case 'f':
		o->foreground = true;
		break;
	case O_SOCKET:
		o->socket = optarg;
		break;
	case O_DEADLINE:
		o->deadline_ms = number("--deadline", optarg, 1, DEADLINE_MOST_MS);
		break;
	case O_POLICY:
		o->policy = either("--policy", optarg, "die", "carry-on") ? SM_WIRE_CARRY_ON
									  : SM_WIRE_DIE;
		break;
	case O_LATE:
		o->kill_late = !either("--late", optarg, "kill", "report");
		break;
	case O_PHRASE_FD:
		o->phrase_fd = (int)number("--passphrase-fd", optarg, 0, FD_MOST);
		break;
	case O_NO_PHRASE:
		o->phrase_fd = SD_PHRASE_NONE;
		break;
	case O_SYSLOG:
		o->to_syslog = true;
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	case O_VERSION:
		printf("secmallocd %s (sandbox: %s)\n", SECMALLOC_VERSION, sd_sandbox_name);
		exit(0);
	default: /* getopt has told */
		fputs("secmallocd: see --help\n", stderr);
		exit(2);
	}
}

void
sd_options_read(int argc, char **argv, struct sd_options *o)
{
	int c;

	*o = (struct sd_options){
		.deadline_ms = DEADLINE_MS, .kill_late = true, .phrase_fd = SD_PHRASE_ASK
	};
	while ((c = getopt_long(argc, argv, "fh", words, NULL)) != -1)
		take(c, o);
	if (optind < argc)
		refuse("argument", argv[optind], "only options are taken; see --help");
}
