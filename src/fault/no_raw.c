#include "fault/inside.h"

#include <errno.h>

bool
sm_raw_here(void)
{
	return false;
}

int
sm_raw_start(struct sm_raw *r, int (*run)(void *))
{
	(void)r, (void)run;
	return ENOTSUP;
}

void
sm_raw_join(struct sm_raw *r)
{
	(void)r;
}

void
sm_raw_forget(struct sm_raw *r)
{
	(void)r;
}

int
sm_fault_call(long number, const long args[6])
{
	(void)number, (void)args;
	return 0;
}

void
sm_call_answer(void)
{
}

void
sm_call_open(bool open)
{
	(void)open;
}

void
sm_call_forget(void)
{
}
