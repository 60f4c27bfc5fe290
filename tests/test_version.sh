#!/bin/sh
# test_version.sh - everything that names secmalloc's version names the same one
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Environment: top_srcdir.
set -eu
LC_ALL=C
export LC_ALL

src=${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}
failed=0

want=$(sed -n 's/^AC_INIT(\[secmalloc\],\[\([0-9.]*\)\].*/\1/p' "$src/configure.ac")
if [ -z "$want" ]; then
	echo "test_version.sh: no AC_INIT([secmalloc],[VERSION] in configure.ac" >&2
	exit 1
fi

# same WHERE FOUND: complain unless it is the version
same() {
	[ "$2" = "$want" ] || {
		echo "test_version.sh: configure.ac says $want, but $1 says '$2'" >&2
		failed=1
	}
}

# macro NAME: its value in the header
macro() {
	sed -n "s/^#define $1 \"*\([0-9.]*\)\"*\$/\1/p" "$src/include/secmalloc.h"
}

same "SECMALLOC_VERSION" "$(macro SECMALLOC_VERSION)"
same "SECMALLOC_VERSION_MAJOR, _MINOR, _PATCH" \
	"$(macro SECMALLOC_VERSION_MAJOR).$(macro SECMALLOC_VERSION_MINOR).$(macro SECMALLOC_VERSION_PATCH)"
same "secmalloc.spec's Version" "$(sed -n 's/^Version:[[:space:]]*//p' "$src/secmalloc.spec")"
same "secmalloc.spec's newest %changelog entry" \
	"$(sed -n '/^%changelog/,$s/^\*.* \([0-9.]*\)-[0-9]*$/\1/p' "$src/secmalloc.spec" | head -n 1)"
# The first version that NEWS names is its top entry's.
same "the top entry of NEWS" \
	"$(grep -o '[0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*' "$src/NEWS" | head -n 1)"
for page in secmalloc.3 secmalloc.7; do
	same "the .Os line of man/$page" "$(sed -n 's/^\.Os secmalloc //p' "$src/man/$page")"
done
[ "$failed" = 0 ] && echo "all say $want"
exit "$failed"
