#include "base/base.h"

#include <sodium.h>

void
sm_wipe(void *p, size_t n)
{
	sodium_memzero(p, n);
}

#if defined(__x86_64__)
__attribute__((target("avx"))) static void
wipe_avx(void)
{
	__asm__ volatile("vzeroall" ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
		"xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

/* vzeroall clears all of zmm0-15; libsodium uses no registers above those */
static void
wipe_vectors(void)
{
	if (__builtin_cpu_supports("avx"))
		wipe_avx();
	else
		__asm__ volatile("pxor %%xmm0,%%xmm0\n\tpxor %%xmm1,%%xmm1\n\t"
				 "pxor %%xmm2,%%xmm2\n\tpxor %%xmm3,%%xmm3\n\t"
				 "pxor %%xmm4,%%xmm4\n\tpxor %%xmm5,%%xmm5\n\t"
				 "pxor %%xmm6,%%xmm6\n\tpxor %%xmm7,%%xmm7\n\t"
				 "pxor %%xmm8,%%xmm8\n\tpxor %%xmm9,%%xmm9\n\t"
				 "pxor %%xmm10,%%xmm10\n\tpxor %%xmm11,%%xmm11\n\t"
				 "pxor %%xmm12,%%xmm12\n\tpxor %%xmm13,%%xmm13\n\t"
				 "pxor %%xmm14,%%xmm14\n\tpxor %%xmm15,%%xmm15" ::: "xmm0",
			"xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
			"xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}
#elif defined(__aarch64__)
static void
wipe_vectors(void)
{
	__asm__ volatile("movi v0.2d, #0\n\tmovi v1.2d, #0\n\tmovi v2.2d, #0\n\t"
			 "movi v3.2d, #0\n\tmovi v4.2d, #0\n\tmovi v5.2d, #0\n\t"
			 "movi v6.2d, #0\n\tmovi v7.2d, #0\n\tmovi v16.2d, #0\n\t"
			 "movi v17.2d, #0\n\tmovi v18.2d, #0\n\tmovi v19.2d, #0\n\t"
			 "movi v20.2d, #0\n\tmovi v21.2d, #0\n\tmovi v22.2d, #0\n\t"
			 "movi v23.2d, #0\n\tmovi v24.2d, #0\n\tmovi v25.2d, #0\n\t"
			 "movi v26.2d, #0\n\tmovi v27.2d, #0\n\tmovi v28.2d, #0\n\t"
			 "movi v29.2d, #0\n\tmovi v30.2d, #0\n\tmovi v31.2d, #0" ::: "v0", "v1",
		"v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21",
		"v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}
#else
static void
wipe_vectors(void)
{
}
#endif

void
sm_wipe_traces(void)
{
	sodium_stackzero(SM_TRACE_BYTES);
	wipe_vectors();
}
