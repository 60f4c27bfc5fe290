#include "base/base.h"

#include <stdarg.h>
#include <string.h>

/* Two texts: what went wrong on the way is only shown when the call fails in the end. */
static SM_TLS char pending[240] = "no error";
static SM_TLS char shown[sizeof(pending)] = "no error";

/* ------------------------------------------------------------------- text */

/* Not by printf, which reads the locale: the heap that is to be served may hold it. */
struct text {
	char *to;
	size_t room;
};

static void
put(struct text *t, const char *s, size_t n)
{
	n = sm_min_size(n, t->room);
	memcpy(t->to, s, n);
	t->to += n;
	t->room -= n;
}

static void
put_number(struct text *t, uint64_t n)
{
	char digit[20];
	size_t at = sizeof(digit);

	do
		digit[--at] = (char)('0' + n % 10);
	while ((n /= 10) != 0);
	put(t, digit + at, sizeof(digit) - at);
}

static void
put_int(struct text *t, int n)
{
	if (n < 0)
		put(t, "-", 1);
	put_number(t, n < 0 ? -(uint64_t)n : (uint64_t)n);
}

/* Returns: what follows the letters of the conversion. */
static const char *
put_next(struct text *t, const char *f, va_list *ap)
{
	const char *s;

	switch (*f) {
	case 's':
		s = va_arg(*ap, const char *);
		put(t, s, strlen(s));
		return f + 1;
	case 'd':
		put_int(t, va_arg(*ap, int));
		return f + 1;
	case 'u':
		put_number(t, va_arg(*ap, unsigned));
		return f + 1;
	case 'z':
		put_number(t, va_arg(*ap, size_t));
		return f + 2;
	default:
		sm_die(SECMALLOC_FAULT_INTERNAL, NULL);
	}
}

int
sm_fail(int e, const char *fmt, ...)
{
	struct text t = { pending, sizeof(pending) - 1 };
	va_list ap;

	va_start(ap, fmt);
	while (*fmt) {
		size_t n = strcspn(fmt, "%");

		put(&t, fmt, n);
		fmt += n;
		if (*fmt)
			fmt = put_next(&t, fmt + 1, &ap);
	}
	va_end(ap);
	*t.to = '\0';
	return e;
}

/* ------------------------------------------------------------------- doors */

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
