/* hello.c - a key in secure memory.  SPDX-License-Identifier: ISC */
#include <secmalloc.h>
#include <stdio.h>
#include <sys/random.h>

int
main(void)
{
	unsigned char *key = secmalloc_init(NULL) == 0 ? secmalloc(32) : NULL;
	int ok = key != NULL && getrandom(key, 32, 0) == 32 && /* straight into the chunk */
		 secmalloc_encrypt(key) == 0 &&                /* at rest: ciphertext */
		 secmalloc_decrypt(key) == 0;                  /* in use: clear */

	fprintf(ok ? stdout : stderr, "hello: %s\n", ok ? "sealed and opened" : secmalloc_error());
	secfree(key); /* wiped */
	return ok ? 0 : 1;
}
