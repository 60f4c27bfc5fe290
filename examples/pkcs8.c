/*
 * pkcs8.c - from a private key file to libsodium's secret key, in secure memory all the way
 *
 * Copyright (c) 2026 the secmalloc authors
 * SPDX-License-Identifier: ISC
 */
#define _GNU_SOURCE
#include "pkcs8.h"

#include <errno.h>
#include <fcntl.h>
#include <secmalloc.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

enum { FILE_BYTES = 4096 }; /* a key file is smaller; Ed25519 takes 119 as PEM, 48 as DER */

enum {
	TAG_INTEGER = 0x02,
	TAG_BIT_STRING = 0x03,
	TAG_OCTET_STRING = 0x04,
	TAG_OID = 0x06,
	TAG_SEQUENCE = 0x30,
	TAG_PUBLIC_KEY = 0x81,
	TAG_ATTRIBUTES = 0xa0
};

struct bytes {
	const unsigned char *p;
	size_t n;
};

/** struct parsed - what a key file holds; the pointers lead into the file's chunk. */
struct parsed {
	const unsigned char *seed; /* 32 bytes */
	const unsigned char *pub;  /* 32 bytes, or NULL: the file names no public key */
};

/* ------------------------------------------------------------------- PEM */

static const struct {
	const char *label, *why;
} labels[] = {
	{"ENCRYPTED PRIVATE KEY", "is encrypted with a passphrase; `openssl pkey` removes it"},
	{"RSA PRIVATE KEY", "is an RSA key, not Ed25519"},
	{"EC PRIVATE KEY", "is an elliptic curve key, not Ed25519"},
	{"DSA PRIVATE KEY", "is a DSA key, not Ed25519"},
	{"OPENSSH PRIVATE KEY", "is in OpenSSH's own format, not PKCS#8"},
	{"PUBLIC KEY", "is a public key, not a private one"},
	{"CERTIFICATE", "is a certificate, not a private key"},
};

static int
starts_with(struct bytes text, const char *word)
{
	return text.n >= strlen(word) && memcmp(text.p, word, strlen(word)) == 0;
}

/** find_line - cut text so that it starts at the first line that begins with word: 1, or 0. */
static int
find_line(struct bytes *text, const char *word)
{
	const unsigned char *eol;
	struct bytes t = *text;

	while (!starts_with(t, word)) {
		eol = memchr(t.p, '\n', t.n);
		if (eol == NULL)
			return 0;
		t.n -= (size_t)(eol + 1 - t.p);
		t.p = eol + 1;
	}
	*text = t;
	return 1;
}

static const char *
refuse_label(struct bytes text)
{
	size_t i;

	for (i = 0; i < sizeof labels / sizeof *labels; i++)
		if (starts_with(text, labels[i].label))
			return labels[i].why;
	return "is PEM, but not of a private key";
}

/**
 * unwrap - if the chunk holds PEM, put a chunk with its DER in its place
 *
 * Returns: NULL, or what is wrong and nothing has changed.  The PEM's chunk is wiped.
 */
static const char *
unwrap(unsigned char **file, size_t *len)
{
	static const char begin[] = "-----BEGIN ", label[] = "PRIVATE KEY-----";
	struct bytes body = {*file, *len}, rest;
	unsigned char *der;
	size_t n;

	if (!find_line(&body, begin))
		return NULL;
	body.p += strlen(begin);
	body.n -= strlen(begin);
	if (!starts_with(body, label))
		return refuse_label(body);
	body.p += strlen(label);
	body.n -= strlen(label);
	rest = body;
	if (!find_line(&rest, "-----END PRIVATE KEY-----"))
		return "is truncated: it has no line END PRIVATE KEY";
	body.n = (size_t)(rest.p - body.p);

	der = secmalloc(body.n);
	if (der == NULL)
		return secmalloc_error();
	if (sodium_base642bin(der, body.n, (const char *)body.p, body.n, "\r\n\t ", &n, NULL,
		    sodium_base64_VARIANT_ORIGINAL) != 0 ||
		n == 0) {
		secfree(der);
		return "is damaged: what it holds is not base64";
	}
	secfree(*file);
	*file = der;
	*len = n;
	return NULL;
}

/* ------------------------------------------------------------------- DER */

/**
 * take - cut the next element off `in` if it has this tag
 *
 * Returns: 0 and its content in `out`, or -1 and nothing has changed: it has another tag,
 *          runs past the end, or its length is not written in the shortest way.
 */
static int
take(struct bytes *in, unsigned tag, struct bytes *out)
{
	size_t n, head = 2;

	if (in->n < head || in->p[0] != tag)
		return -1;
	n = in->p[1];
	if (n > 0x7f) {
		if (n != 0x81 && n != 0x82)
			return -1;
		head += n - 0x80;
		if (in->n < head)
			return -1;
		n = head == 3 ? in->p[2] : (size_t)in->p[2] << 8 | in->p[3];
		if (n < (head == 3 ? 0x80u : 0x100u))
			return -1;
	}
	if (n > in->n - head)
		return -1;
	out->p = in->p + head;
	out->n = n;
	in->p += head + n;
	in->n -= head + n;
	return 0;
}

static int
same(struct bytes a, const char *b, size_t n)
{
	return a.n == n && memcmp(a.p, b, n) == 0;
}

static const struct {
	const char *oid;
	size_t n;
	const char *why;
} kinds[] = {
	{"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", 9, "is an RSA key, not Ed25519"},
	{"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a", 9, "is an RSA-PSS key, not Ed25519"},
	{"\x2a\x86\x48\xce\x3d\x02\x01", 7, "is an elliptic curve key, not Ed25519"},
	{"\x2b\x65\x6e", 3, "is an X25519 key, not Ed25519: it cannot sign"},
	{"\x2b\x65\x6f", 3, "is an X448 key, not Ed25519: it cannot sign"},
	{"\x2b\x65\x71", 3, "is an Ed448 key, not Ed25519"},
};

/** refuse_kind - NULL if the AlgorithmIdentifier says Ed25519, else what it says. */
static const char *
refuse_kind(struct bytes algorithm)
{
	struct bytes oid;
	size_t i;

	if (take(&algorithm, TAG_OID, &oid) != 0)
		return "is damaged: it names no kind of key";
	if (same(oid, "\x2b\x65\x70", 3))
		return algorithm.n == 0 ? NULL : "is damaged: Ed25519 takes no parameters";
	for (i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (same(oid, kinds[i].oid, kinds[i].n))
			return kinds[i].why;
	return "is not an Ed25519 key";
}

/** refuse_shape - what a sequence is that does not start as PKCS#8 does. */
static const char *
refuse_shape(struct bytes seq)
{
	struct bytes skip;

	if (take(&seq, TAG_INTEGER, &skip) == 0 && seq.n > 0) {
		if (seq.p[0] == TAG_INTEGER)
			return "is an RSA key, not Ed25519";
		if (seq.p[0] == TAG_OCTET_STRING)
			return "is an elliptic curve key, not Ed25519";
	} else if (take(&seq, TAG_SEQUENCE, &skip) == 0 && seq.n > 0) {
		if (seq.p[0] == TAG_OCTET_STRING)
			return "is encrypted with a passphrase; `openssl pkey` removes it";
		if (seq.p[0] == TAG_BIT_STRING)
			return "is a public key, not a private one";
	}
	return "is not a PKCS#8 private key";
}

/** parse_tail - the optional attributes and public key of version 2 */
static const char *
parse_tail(struct bytes seq, struct parsed *key)
{
	struct bytes skip, pub;

	(void)take(&seq, TAG_ATTRIBUTES, &skip);
	if (take(&seq, TAG_PUBLIC_KEY, &pub) == 0) {
		if (pub.n != 1 + crypto_sign_PUBLICKEYBYTES || pub.p[0] != 0)
			return "is damaged: its public key is not one of Ed25519";
		key->pub = pub.p + 1;
	}
	return seq.n == 0 ? NULL : "is damaged: it has more in it than a key";
}

/** parse - find the seed in the DER of RFC 5958 and RFC 8410. */
static const char *
parse(const unsigned char *der, size_t len, struct parsed *key)
{
	struct bytes file = {der, len}, start, seq, version, algorithm, wrapped, seed;
	const char *why;

	key->seed = NULL;
	key->pub = NULL;
	if (len == 0 || der[0] != TAG_SEQUENCE)
		return "is no private key, neither PEM nor DER";
	if (take(&file, TAG_SEQUENCE, &start) != 0)
		return "is truncated or damaged";
	if (file.n != 0)
		return "is damaged: something follows the key";
	seq = start;
	if (take(&seq, TAG_INTEGER, &version) != 0 || take(&seq, TAG_SEQUENCE, &algorithm) != 0)
		return refuse_shape(start);
	why = refuse_kind(algorithm);
	if (why != NULL)
		return why;
	if (!same(version, "\0", 1) && !same(version, "\1", 1))
		return "is PKCS#8 of an unknown version";
	if (take(&seq, TAG_OCTET_STRING, &wrapped) != 0 ||
		take(&wrapped, TAG_OCTET_STRING, &seed) != 0 || wrapped.n != 0 ||
		seed.n != crypto_sign_SEEDBYTES)
		return "is damaged: it holds no Ed25519 seed of 32 bytes";
	key->seed = seed.p;
	return parse_tail(seq, key);
}

/* ------------------------------------------------------------------ file */

/** fill - read on until the buffer is full or the file ends: 0, or -1 with errno. */
static int
fill(int fd, unsigned char *buf, size_t size, size_t *len)
{
	ssize_t n;

	while (*len < size) {
		n = read(fd, buf + *len, size - *len);
		if (n == 0)
			break;
		if (n > 0)
			*len += (size_t)n;
		else if (errno != EINTR)
			return -1;
	}
	return 0;
}

/** read_file - fill the chunk straight from the kernel: stdio would keep a copy. */
static const char *
read_file(const char *path, unsigned char *file, size_t *len)
{
	const char *why = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	*len = 0;
	if (fd < 0)
		return strerror(errno);
	if (fill(fd, file, FILE_BYTES, len) != 0)
		why = strerror(errno);
	else if (*len == 0)
		why = "is empty";
	else if (*len == FILE_BYTES)
		why = "is too large for an Ed25519 key";
	close(fd);
	return why;
}

PKCS8_CLEAN static int
expand_seed(unsigned char *pub, unsigned char *key, const unsigned char *seed)
{
	int rc = crypto_sign_seed_keypair(pub, key, seed);

	sodium_stackzero(PKCS8_STACK_BYTES);
	return rc;
}

static const char *
make_key(const struct parsed *parsed, unsigned char **key)
{
	unsigned char pub[crypto_sign_PUBLICKEYBYTES];

	*key = secmalloc(crypto_sign_SECRETKEYBYTES);
	if (*key == NULL)
		return secmalloc_error();
	if (expand_seed(pub, *key, parsed->seed) == 0 &&
		(parsed->pub == NULL || memcmp(parsed->pub, pub, sizeof pub) == 0))
		return NULL;
	secfree(*key);
	*key = NULL;
	return "is damaged: its public key belongs to another key";
}

unsigned char *
pkcs8_load(const char *path, const char **why)
{
	unsigned char *key = NULL, *file = secmalloc(FILE_BYTES);
	struct parsed parsed;
	size_t len;

	if (file == NULL) {
		*why = secmalloc_error();
		return NULL;
	}
	*why = read_file(path, file, &len);
	if (*why == NULL)
		*why = unwrap(&file, &len);
	if (*why == NULL)
		*why = parse(file, len, &parsed);
	if (*why == NULL)
		*why = make_key(&parsed, &key);
	secfree(file);
	return *why == NULL ? key : NULL;
}
