/*
 * log.c - one line each, and the clock
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#include "inside.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 512 };

static bool by_syslog;
static unsigned lost; /* lines that nobody made room for */

int64_t
sd_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Now, as a sandbox may not let it be opened later. */
void
sd_log_open(bool to_syslog)
{
	by_syslog = to_syslog;
	if (by_syslog) {
		tzset();
		openlog("secmallocd", LOG_PID | LOG_NDELAY, LOG_AUTH);
	}
}

/* Nobody is waited for: a pipe whose reader has stopped would stop the daemon, and all locks. */
static void
write_line(const char *line)
{
	struct pollfd p = { STDERR_FILENO, POLLOUT, 0 };

	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT)) {
		lost++;
		return;
	}
	if (lost)
		dprintf(STDERR_FILENO, "secmallocd: %u lines were lost; %s\n", lost, line);
	else
		dprintf(STDERR_FILENO, "secmallocd: %s\n", line);
	lost = 0;
}

void
sd_log(int priority, const char *fmt, ...)
{
	char line[LINE_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (by_syslog)
		syslog(priority, "%s", line);
	else
		write_line(line);
}
