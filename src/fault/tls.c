#include "fault/inside.h"

#include <errno.h>
#include <link.h>
#include <string.h>

enum {
	DESCRIPTOR_BYTES = 4096, /* more than a C library keeps of a thread beside its pointer */
	PARTS_MOST = 2		 /* ours and the C library's: nobody else's code runs there */
};

/** What a module's variables start as, and where they are seen from the thread pointer. */
struct part {
	ptrdiff_t at;
	const void *image;
	size_t image_bytes;
};

static struct {
	struct part part[PARTS_MOST];
	size_t parts, below, above; /* bytes on both sides of the thread pointer */
	bool ours;
} layout;

static SM_TLS char landmark;

#if defined(__x86_64__)
static unsigned char *
thread_pointer(void)
{
	unsigned char *tp;

	__asm__ volatile("mov %%fs:0, %0" : "=r"(tp));
	return tp;
}

/* As compilers and C libraries know it: itself, twice; that there are threads; the canary of
 * stacks, and what return addresses are hidden with. */
static void
fill_header(unsigned char *tp)
{
	enum { SELF = 0, SELF_AGAIN = 16, THREADED = 24, SECRETS = 40 };

	memcpy(tp + SELF, &tp, sizeof(tp));
	memcpy(tp + SELF_AGAIN, &tp, sizeof(tp));
	memcpy(tp + THREADED, &(int){ 1 }, sizeof(int));
	memcpy(tp + SECRETS, thread_pointer() + SECRETS, 2 * sizeof(uint64_t));
}
#else
static unsigned char *
thread_pointer(void)
{
	unsigned char *tp;

	__asm__ volatile("mrs %0, tpidr_el0" : "=r"(tp));
	return tp;
}

static void
fill_header(unsigned char *tp)
{
	(void)tp; /* the canary and its like are the program's here, not the thread's */
}
#endif

static bool
holds(const void *block, size_t n, const void *at)
{
	return (uintptr_t)at - (uintptr_t)block < n;
}

static void
note_block(const struct dl_phdr_info *info, const ElfW(Phdr) *h)
{
	ptrdiff_t at = (unsigned char *)info->dlpi_tls_data - thread_pointer();
	ptrdiff_t end = at + (ptrdiff_t)h->p_memsz;

	layout.part[layout.parts++] = (struct part){ at,
		(const void *)(uintptr_t)(info->dlpi_addr + h->p_vaddr), h->p_filesz };
	if (at < 0 && (size_t)-at > layout.below)
		layout.below = (size_t)-at;
	if (end > 0 && (size_t)end > layout.above)
		layout.above = (size_t)end;
}

static int
note_module(struct dl_phdr_info *info, size_t n, void *unused)
{
	const void *block = n > offsetof(struct dl_phdr_info, dlpi_tls_data) ?
		info->dlpi_tls_data : NULL;

	(void)unused;
	for (size_t i = 0; block && i < info->dlpi_phnum && layout.parts < PARTS_MOST; i++) {
		const ElfW(Phdr) *h = &info->dlpi_phdr[i];
		bool ours = holds(block, h->p_memsz, &landmark);

		if (h->p_type != PT_TLS || !(ours || holds(block, h->p_memsz, &errno)))
			continue;
		layout.ours |= ours;
		note_block(info, h);
	}
	return 0;
}

/* Looked at once: what the loader has to say it says under a lock, which a child may inherit. */
size_t
sm_tls_bytes(void)
{
	if (layout.parts == 0) {
		dl_iterate_phdr(note_module, NULL);
		layout.below = sm_round_up(layout.below + DESCRIPTOR_BYTES, sm_os_page_bytes());
		layout.above += DESCRIPTOR_BYTES;
	}
	return layout.ours ? sm_round_up(layout.below + layout.above, sm_os_page_bytes()) : 0;
}

void *
sm_tls_make(unsigned char *at)
{
	unsigned char *tp = at + layout.below;

	for (size_t i = 0; i < layout.parts; i++)
		memcpy(tp + layout.part[i].at, layout.part[i].image, layout.part[i].image_bytes);
	fill_header(tp);
	return tp;
}
