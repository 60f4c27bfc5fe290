/*
 * leak_scan.c - look for markers in another process or in a core file
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 *
 *	leak_scan [--uid N] --pid PID mem|vmreadv  SEED LEN [SEED LEN ...]
 *	leak_scan [--uid N] --file CORE            SEED LEN [SEED LEN ...]
 *
 * HEX key in place of SEED LEN stands for three markers: these 32 bytes; the rounds of AES-256
 * that are expanded from them (none, where the CPU has no AES); and the key that XChaCha20 makes
 * of them, for a nonce that begins with zeros.  HEX raw stands for one marker, the bytes.  See leak_key.c.
 *
 * Prints one line: for each marker the number of places where 16 or more consecutive bytes of
 * it lie, whatever part of the marker, at whatever alignment.  Each place is described on
 * stderr.  Exit status: 0 scanned, 77 reading was refused, 1 anything else.
 *
 * Any 16 consecutive bytes of a marker contain one of its 8-byte words whole.  So each offset
 * of the memory is looked up in a table of words, and a word that is found is followed to both
 * sides.  The table holds no two words side by side, and the scanner never reads itself.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "leak.h"

enum {
	MARKERS = 24,
	SLOTS = 1 << 16,  /* of the table of words: at least twice as many as words */
	FILTER = 1 << 18, /* bits, so that the common miss stays in the first cache */
	BLOCK_BYTES = 1 << 18,
	CARRY_BYTES = LEAK_HIT_BYTES - 1, /* kept from one block for the next */
	PAGEMAP_BYTES = 1 << 20,
	KEY_BYTES = 32,
	NONCE_BYTES = 16 /* of it, those that make a subkey */
};

struct marker {
	const unsigned char *bytes; /* NULL: those of the seed */
	uint64_t seed;
	uint64_t len;
	uint64_t hits;
	uint64_t end;   /* address behind the last hit */
	uint64_t delta; /* that hit's address less its offset in the marker */
};

struct slot {
	uint64_t word;
	uint32_t marker;
	uint32_t offset; /* in the marker, and 1: 0 is an empty slot */
};

static struct marker marker[MARKERS];
static size_t markers;
static struct slot slot[SLOTS];
static unsigned char filter[FILTER / 8];

/* What is being read, and how. */
static ssize_t (*read_at)(void *buf, size_t n, uint64_t addr);
static int source = -1;
static pid_t target;
static const char *where = "the file";
static uint64_t page_bytes;
static uint64_t bytes_read;
static int read_error; /* of the last read that failed */
static unsigned char block[CARRY_BYTES + BLOCK_BYTES];
static uint64_t block_end; /* address behind the bytes fed last */
static size_t carried;
static uint64_t pagemap[PAGEMAP_BYTES / sizeof(uint64_t)];

static void
refuse(const char *what)
{
	int e = errno;

	fprintf(stderr, "leak_scan: %s: %s\n", what, strerror(e));
	exit(e == EPERM || e == EACCES || e == ENOSYS ? LEAK_REFUSED : 1);
}

static uint64_t
hash(uint64_t word)
{
	return (word * 0x9e3779b97f4a7c15u) >> 32;
}

static unsigned char
byte_of(const struct marker *m, uint64_t i)
{
	return m->bytes != NULL ? m->bytes[i] : leak_byte(m->seed, i);
}

static uint64_t
word_at(const struct marker *m, uint64_t offset)
{
	uint64_t w = 0;

	for (size_t k = 0; k < 8; k++)
		w |= (uint64_t)byte_of(m, offset + k) << (k * 8);
	return w;
}

static void
learn(struct marker new)
{
	static uint64_t words;
	struct marker *m = &marker[markers];

	words += new.len / 8;
	if (markers == MARKERS || new.len % 8 != 0 || words > SLOTS / 2 ||
		(new.len < LEAK_HIT_BYTES && new.bytes == NULL)) {
		fprintf(stderr, "leak_scan: a marker is a multiple of 8 bytes, and small\n");
		exit(1);
	}
	*m = new;
	for (size_t i = 0; i < m->len; i += 8) {
		uint64_t w = word_at(m, i), h = hash(w), k = h % SLOTS;

		if (w == 0)
			continue;
		while (slot[k].offset != 0)
			k = (k + 1) % SLOTS;
		slot[k] = (struct slot){w, (uint32_t)markers, (uint32_t)(i + 1)};
		filter[h % FILTER / 8] |= (unsigned char)(1u << (h % 8));
	}
	markers++;
}

/* What stands behind the key itself in libsodium's expanded state. */
static struct marker
rounds_of(const unsigned char *key)
{
	crypto_aead_aes256gcm_state *state = sodium_malloc(sizeof *state);
	const unsigned char *p;
	size_t n;

	if (state == NULL || !crypto_aead_aes256gcm_is_available())
		return (struct marker){.bytes = key};
	memset(state, 0, sizeof *state);
	crypto_aead_aes256gcm_beforenm(state, key);
	p = memmem(state, sizeof *state, key, KEY_BYTES);
	if (p == NULL)
		return (struct marker){.bytes = key};
	p += KEY_BYTES;
	n = (size_t)((const unsigned char *)state + sizeof *state - p);
	while (n > 0 && p[n - 1] == 0)
		n--;
	return (struct marker){.bytes = p, .len = n / 8 * 8};
}

static void
learn_hex(const char *hex, const char *what)
{
	unsigned char *key = malloc(KEY_BYTES), *sub = malloc(KEY_BYTES);
	unsigned char nonce[NONCE_BYTES] = {0};
	size_t n;

	if (key == NULL || sub == NULL || strlen(hex) != 2 * KEY_BYTES ||
		sodium_hex2bin(key, KEY_BYTES, hex, 2 * KEY_BYTES, NULL, &n, NULL) != 0) {
		fprintf(stderr, "leak_scan: a key has %d bytes\n", KEY_BYTES);
		exit(1);
	}
	learn((struct marker){.bytes = key, .len = KEY_BYTES});
	if (strcmp(what, "raw") == 0)
		return;
	crypto_core_hchacha20(sub, nonce, key, NULL);
	learn(rounds_of(key));
	learn((struct marker){.bytes = sub, .len = KEY_BYTES});
}

static void
learn_pair(const char *what, const char *how)
{
	if (strcmp(how, "key") == 0 || strcmp(how, "raw") == 0)
		learn_hex(what, how);
	else
		learn((struct marker){.seed = strtoull(what, NULL, 0),
			.len = strtoull(how, NULL, 0)});
}

static void
found(size_t which, uint64_t offset, uint64_t addr, uint64_t len)
{
	struct marker *m = &marker[which];

	if (m->hits == 0 || m->delta != addr - offset || addr > m->end) {
		m->hits++;
		fprintf(stderr,
			"marker %zu: %" PRIu64 " bytes or more, from its byte %" PRIu64
			", at %#" PRIx64 " in %s\n",
			which + 1, len, offset, addr, where);
	}
	m->delta = addr - offset;
	m->end = addr + len;
}

/* A word of s's marker lies at p[i]: how far does the marker reach?  Returns where it ends. */
static size_t
follow(const struct slot *s, const unsigned char *p, size_t i, size_t n, uint64_t addr)
{
	const struct marker *m = &marker[s->marker];
	size_t offset = s->offset - 1, before = 0, len = 8;

	while (before < i && before < offset &&
		p[i - before - 1] == byte_of(m, offset - before - 1))
		before++;
	while (i + len < n && offset + len < m->len &&
		p[i + len] == byte_of(m, offset + len))
		len++;
	if (before + len < LEAK_HIT_BYTES)
		return i + 1;
	found(s->marker, offset - before, addr + i - before, before + len);
	return i + len;
}

static void
search(const unsigned char *p, size_t n, uint64_t addr)
{
	size_t i = 0;

	while (i + 8 <= n) {
		uint64_t w = 0, h;
		size_t next = i + 1;

		for (size_t k = 0; k < 8; k++)
			w |= (uint64_t)p[i + k] << (k * 8);
		h = hash(w);
		if (filter[h % FILTER / 8] & (1u << (h % 8)))
			for (size_t k = h % SLOTS; slot[k].offset != 0; k = (k + 1) % SLOTS)
				if (slot[k].word == w) {
					next = follow(&slot[k], p, i, n, addr);
					break;
				}
		i = next;
	}
}

/* n new bytes of address addr are at block + CARRY_BYTES. */
static void
feed(uint64_t addr, size_t n)
{
	size_t all;

	if (addr != block_end)
		carried = 0;
	all = carried + n;
	search(block + CARRY_BYTES - carried, all, addr - carried);
	bytes_read += n;
	block_end = addr + n;
	carried = all < CARRY_BYTES ? all : CARRY_BYTES;
	memmove(block + CARRY_BYTES - carried, block + CARRY_BYTES + n - carried, carried);
}

/* Whatever can be read between start and end, which are page-aligned or within a file. */
static void
scan_range(uint64_t start, uint64_t end)
{
	while (start < end) {
		size_t n = end - start < BLOCK_BYTES ? (size_t)(end - start) : BLOCK_BYTES;
		ssize_t got = read_at(block + CARRY_BYTES, n, start);

		if (got <= 0 && n > page_bytes)
			got = read_at(block + CARRY_BYTES, page_bytes, start);
		if (got <= 0) {
			read_error = got < 0 ? errno : 0;
			start += page_bytes;
			continue;
		}
		feed(start, (size_t)got);
		start += (uint64_t)got;
	}
}

static ssize_t
read_source(void *buf, size_t n, uint64_t addr)
{
	return pread(source, buf, n, (off_t)addr);
}

static ssize_t
read_vm(void *buf, size_t n, uint64_t addr)
{
	struct iovec local = {buf, n}, remote = {(void *)(uintptr_t)addr, n};

	return process_vm_readv(target, &local, 1, &remote, 1, 0);
}

/* Only those pages of an anonymous mapping that exist: a reservation may span gigabytes.
 * A page that is neither present nor swapped holds nothing. */
static void
scan_anonymous(int map, uint64_t start, uint64_t end)
{
	while (start < end) {
		uint64_t want = (end - start) / page_bytes;
		ssize_t got;

		if (want > PAGEMAP_BYTES / sizeof(uint64_t))
			want = PAGEMAP_BYTES / sizeof(uint64_t);
		got = pread(map, pagemap, want * sizeof(uint64_t),
			(off_t)(start / page_bytes * sizeof(uint64_t)));
		if (got < (ssize_t)sizeof(uint64_t)) {
			scan_range(start, end);
			return;
		}
		for (size_t i = 0; i < (size_t)got / sizeof(uint64_t); i++, start += page_bytes)
			if (pagemap[i] >> 62 != 0)
				scan_range(start, start + page_bytes);
	}
}

/* Shared and file mappings are read whole: their pages exist outside this process's tables. */
static void
scan_pid(const char *how)
{
	char path[64], line[512];
	int map;
	FILE *maps;

	if (target == getpid()) {
		fprintf(stderr, "leak_scan: not in myself\n");
		exit(1);
	}
	snprintf(path, sizeof path, "/proc/%d/pagemap", (int)target);
	map = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof path, "/proc/%d/mem", (int)target);
	read_at = read_vm;
	if (strcmp(how, "mem") == 0) {
		read_at = read_source;
		source = open(path, O_RDONLY | O_CLOEXEC);
		if (source < 0)
			refuse(path);
	}
	snprintf(path, sizeof path, "/proc/%d/maps", (int)target);
	maps = fopen(path, "re");
	if (maps == NULL)
		refuse(path);
	while (fgets(line, sizeof line, maps) != NULL) {
		uint64_t start, end, inode;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %" SCNu64, &start, &end,
			    &inode) != 3 ||
			end > INT64_MAX)
			continue;
		line[strcspn(line, "\n")] = '\0';
		where = line; /* its line in maps: which mapping, and what it is */
		if (inode == 0 && map >= 0)
			scan_anonymous(map, start, end);
		else
			scan_range(start, end);
	}
	fclose(maps);
	close(map);
	errno = read_error;
	if (bytes_read == 0)
		refuse("nothing could be read");
}

/* A core may be sparse: only its data, not its holes. */
static void
scan_file(const char *path)
{
	off_t start = 0, end;

	source = open(path, O_RDONLY | O_CLOEXEC);
	if (source < 0)
		refuse(path);
	read_at = read_source;
	while ((start = lseek(source, start, SEEK_DATA)) >= 0) {
		end = lseek(source, start, SEEK_HOLE);
		if (end < 0)
			refuse(path);
		scan_range((uint64_t)start, (uint64_t)end);
		start = end;
	}
}

static void
become(const char *id)
{
	uid_t uid = (uid_t)strtoul(id, NULL, 10);

	if (setgroups(0, NULL) != 0 || setresgid(uid, uid, uid) != 0 ||
		setresuid(uid, uid, uid) != 0)
		refuse("--uid");
}

static int
usage(void)
{
	fprintf(stderr, "usage: leak_scan [--uid N] --pid PID mem|vmreadv | --file CORE "
			"SEED LEN [SEED LEN ...]\n");
	return 1;
}

int
main(int argc, char **argv)
{
	const char *uid = NULL, *how = NULL, *file = NULL;
	int a = 1;

	page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	if (a + 1 < argc && strcmp(argv[a], "--uid") == 0) {
		uid = argv[a + 1];
		a += 2;
	}
	if (a + 2 < argc && strcmp(argv[a], "--pid") == 0) {
		target = (pid_t)strtol(argv[a + 1], NULL, 10);
		how = argv[a + 2];
		a += 3;
	} else if (a + 1 < argc && strcmp(argv[a], "--file") == 0) {
		file = argv[a + 1];
		a += 2;
	} else {
		return usage();
	}
	if (a == argc || (argc - a) % 2 != 0 ||
		(how != NULL && strcmp(how, "mem") != 0 && strcmp(how, "vmreadv") != 0))
		return usage();
	if (sodium_init() < 0)
		return 1;
	for (; a < argc; a += 2)
		learn_pair(argv[a], argv[a + 1]);
	if (uid != NULL)
		become(uid);
	if (file != NULL)
		scan_file(file);
	else
		scan_pid(how);
	for (size_t i = 0; i < markers; i++)
		printf(i == 0 ? "%" PRIu64 : " %" PRIu64, marker[i].hits);
	printf("\n");
	return 0;
}
