/* smaps.h - what the kernel says of the mapping at an address: evidence from outside the library */
#ifndef SMAPS_H
#define SMAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct smaps {
	uintptr_t start, end;
	char access[8];	  /* as "rw-p" */
	char name[128];	  /* empty: anonymous */
	char flags[160];  /* " rd wr ... " with blanks on both sides */
	unsigned long locked_kb;
	bool next; /* a mapping follows at once; its access: */
	char next_access[8];
};

static inline bool
smaps_flag(const struct smaps *m, const char *two_letters)
{
	char word[8];

	snprintf(word, sizeof(word), " %s ", two_letters);
	return strstr(m->flags, word) != NULL;
}

static inline bool
smaps_hidden(const struct smaps *m)
{
	return strstr(m->name, "secretmem") != NULL;
}

/* Calls fn for each mapping until it returns true; false if it never did. */
static inline bool
smaps_each(bool (*fn)(const struct smaps *, void *), void *arg)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	struct smaps m = { 0 };
	bool found = false;
	char line[512];

	while (f && !found && fgets(line, sizeof(line), f)) {
		unsigned long start, end;

		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "%lx-%lx %7s", &start, &end, m.access) == 3) {
			m.start = start;
			m.end = end;
			m.name[0] = '\0';
			sscanf(line, "%*s %*s %*s %*s %*s %127[^\n]", m.name);
		} else if (sscanf(line, "Locked: %lu", &m.locked_kb) == 1) {
			continue;
		} else if (strncmp(line, "VmFlags:", 8) == 0) {
			snprintf(m.flags, sizeof(m.flags), "%.150s ", line + 8);
			found = fn(&m, arg);
		}
	}
	if (f)
		fclose(f);
	return found;
}

struct smaps_query {
	uintptr_t at;
	struct smaps *out;
};

static inline bool
smaps_holds(const struct smaps *m, void *arg)
{
	struct smaps_query *q = arg;

	if (q->at >= m->start && q->at < m->end) {
		*q->out = *m;
		return false;
	}
	if (m->start != q->out->end || q->out->end == 0)
		return q->out->end != 0;
	q->out->next = true;
	memcpy(q->out->next_access, m->access, sizeof(m->access));
	return true;
}

/* The mapping that holds p; false: none. */
static inline bool
smaps_at(const void *p, struct smaps *out)
{
	struct smaps_query q = { (uintptr_t)p, out };

	memset(out, 0, sizeof(*out));
	(void)smaps_each(smaps_holds, &q);
	return out->end != 0;
}

static inline bool
smaps_add_ours(const struct smaps *m, void *arg)
{
	if (m->name[0] == '\0' || smaps_hidden(m))
		*(size_t *)arg += (size_t)(m->end - m->start);
	return false;
}

/* Bytes of address space in anonymous and hidden mappings: grows when something leaks. */
static inline size_t
smaps_unnamed_bytes(void)
{
	size_t n = 0;

	(void)smaps_each(smaps_add_ours, &n);
	return n;
}

#endif
