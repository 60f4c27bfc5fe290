#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static SM_TLS char text[240] = "no error";

int
sm_fail(int e, const char *fmt, ...)
{
	int kept = errno;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	errno = kept;
	return e;
}

const char *
sm_error_text(void)
{
	return text;
}
