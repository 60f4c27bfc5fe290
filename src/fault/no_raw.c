#include "fault/inside.h"

#include <errno.h>

bool
sm_raw_here(void)
{
	return false;
}

int
sm_raw_start(int (*run)(void *))
{
	(void)run;
	return ENOTSUP;
}

void
sm_raw_join(void)
{
}

void
sm_raw_forget(void)
{
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
