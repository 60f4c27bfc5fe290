#include "cipher/inside.h"

/* Full of marks, a stack shows what a call has written there. The frame of each function below
 * covers all of it, so that what it calls lies lower down; but for the few bytes at its top, which
 * SM_GAP keeps the calls that are looked at away from. */
enum { LINE_BYTES = 64, LINES = 64, OWN_LINES = 2, COVER_BYTES = (LINES + 8) * LINE_BYTES };

#if defined(__x86_64__)
#define COVERS SM_NOINLINE __attribute__((no_sanitize("address")))

static inline void
check_cover(const unsigned char *cover, uintptr_t top)
{
	__asm__ volatile("" ::"r"(cover) : "memory");
	sm_assert((uintptr_t)cover <= top - LINES * LINE_BYTES &&
		(uintptr_t)cover + COVER_BYTES >= top - OWN_LINES * LINE_BYTES);
}

static inline volatile uint64_t *
line_at(uintptr_t top, unsigned i)
{
	return (volatile uint64_t *)(top - (i + 1) * LINE_BYTES);
}

bool
sm_lines_known(void)
{
	return __builtin_cpu_supports("avx512f");
}

COVERS void
sm_lines_mark(uintptr_t top, uint64_t mark)
{
	unsigned char cover[COVER_BYTES];

	check_cover(cover, top);
	for (unsigned i = OWN_LINES; i < LINES; i++)
		for (unsigned k = 0; k < LINE_BYTES / sizeof(mark); k++)
			line_at(top, i)[k] = mark;
}

COVERS uint64_t
sm_lines_written(uintptr_t top, uint64_t mark)
{
	unsigned char cover[COVER_BYTES];
	uint64_t written = 0;

	check_cover(cover, top);
	for (unsigned i = OWN_LINES; i < LINES; i++)
		for (unsigned k = 0; k < LINE_BYTES / sizeof(mark); k++)
			if (line_at(top, i)[k] != mark)
				written |= UINT64_C(1) << i;
	return written;
}

__attribute__((target("avx512f"))) COVERS void
sm_lines_wipe(uintptr_t top, uint64_t lines)
{
	unsigned char cover[COVER_BYTES];

	check_cover(cover, top);
	for (; lines; lines &= lines - 1)
		__asm__ volatile("vpxorq %%zmm0,%%zmm0,%%zmm0\n\tvmovdqa64 %%zmm0,(%0)" ::"r"(
					 line_at(top, (unsigned)__builtin_ctzll(lines)))
				 : "xmm0", "memory");
	sm_wipe_vectors();
}
#else
bool
sm_lines_known(void)
{
	return false;
}

void
sm_lines_mark(uintptr_t top, uint64_t mark)
{
	(void)top;
	(void)mark;
}

uint64_t
sm_lines_written(uintptr_t top, uint64_t mark)
{
	(void)top;
	(void)mark;
	return 0;
}

void
sm_lines_wipe(uintptr_t top, uint64_t lines)
{
	(void)top;
	(void)lines;
}
#endif
