#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Two texts: what went wrong on the way is only shown when the call fails in the end. */
static SM_TLS char pending[240] = "no error";
static SM_TLS char shown[sizeof(pending)] = "no error";

int
sm_fail(int e, const char *fmt, ...)
{
	int kept = errno;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(pending, sizeof(pending), fmt, ap);
	va_end(ap);
	errno = kept;
	return e;
}

void
sm_error_show(void)
{
	memcpy(shown, pending, sizeof(shown));
}

void
sm_error_restore(void)
{
	memcpy(pending, shown, sizeof(pending));
}

const char *
sm_error_text(void)
{
	return pending;
}

const char *
sm_error_shown(void)
{
	return shown;
}
