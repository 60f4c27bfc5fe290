#include "base/base.h"

#include <sodium.h>

#if defined(__x86_64__)
#define LOW_16(r) r "0", r "1", r "2", r "3", r "4", r "5", r "6", r "7", r "8", r "9", r "10", \
		r "11", r "12", r "13", r "14", r "15"

__attribute__((target("avx"))) static void
wipe_avx(void)
{
	__asm__ volatile("vzeroall" ::: LOW_16("xmm")); /* all of zmm0-15 */
}

/* libsodium uses none of these, memcpy of the C library does */
__attribute__((target("avx512f"))) static void
wipe_avx512(void)
{
	__asm__ volatile(".irp n,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n\t"
			 "vpxorq %%zmm\\n,%%zmm\\n,%%zmm\\n\n\t"
			 ".endr" ::: "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
		"xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}

static void
wipe_sse(void)
{
	__asm__ volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
			 "pxor %%xmm\\n,%%xmm\\n\n\t"
			 ".endr" ::: LOW_16("xmm"));
}

/* Those that a call need not keep: Poly1305 ends with its sum in some of them. */
static inline void
wipe_words(void)
{
	__asm__ volatile("xor %%r8d,%%r8d\n\txor %%r9d,%%r9d\n\txor %%r10d,%%r10d\n\t"
			 "xor %%r11d,%%r11d" ::: "r8", "r9", "r10", "r11", "cc");
}

void
sm_wipe_vectors(void)
{
	wipe_words();
	if (!__builtin_cpu_supports("avx")) {
		wipe_sse();
		return;
	}
	if (__builtin_cpu_supports("avx512f"))
		wipe_avx512();
	wipe_avx();
}
#elif defined(__aarch64__)
void
sm_wipe_vectors(void)
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
void
sm_wipe_vectors(void)
{
}
#endif

/* As sodium_stackzero, in a frame of its own right below its caller's: SM_GAP covers the few bytes
 * at its top. Never inline: the linker may do that too, and then what is dead would be a part of
 * the caller's frame, above all that it called. */
SM_NOINLINE void
sm_wipe_traces_of(size_t bytes)
{
	unsigned char dead[bytes];

	sodium_memzero(dead, bytes);
	sm_wipe_vectors();
}

SM_NOINLINE void
sm_wipe_traces(void)
{
	sm_wipe_traces_of(SM_TRACE_BYTES);
}
