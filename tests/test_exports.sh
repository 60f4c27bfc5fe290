#!/bin/sh
# test_exports.sh - the shared library shows what the header declares, and nothing else
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Environment: top_srcdir, top_builddir, CC, NM.
set -eu
LC_ALL=C
export LC_ALL

src=${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}
build=${top_builddir:-$(pwd)}
so=$build/.libs/libsecmalloc.so

die() {
	echo "test_exports.sh: $*" >&2
	exit 1
}

dir=$(mktemp -d "$(pwd)/t_exports.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# Pragmas and the bodies of structs and enums go first (a field may be a pointer to a function);
# of each declaration that is left the function's name is the word before the first parenthesis.
# shellcheck disable=SC2086 # CC may be several words
${CC:-cc} -E -P "$src/include/secmalloc.h" >"$dir/plain" || die "the header does not preprocess"
grep -v '^#' "$dir/plain" | tr '\n' ' ' | sed 's/{[^}]*}//g' | tr ';' '\n' |
	sed -n 's/^[^(]*[^A-Za-z0-9_(]\([A-Za-z0-9_]*\) *(.*/\1/p' | grep -v '^__' |
	sort >"$dir/header"
[ -s "$dir/header" ] || die "no function found in the header: the test is broken"

sed -n '/^global:/,/^local:/s/^[[:space:]]*\([A-Za-z0-9_]*\);.*/\1/p' "$src/src/secmalloc.map" |
	sort >"$dir/map"
diff -u "$dir/header" "$dir/map" || die "secmalloc.h (-) and src/secmalloc.map (+) differ"

if [ ! -e "$so" ]; then
	echo "SKIP: no shared library was built (--disable-shared); header and map agree"
	exit 77
fi
# Type A is the name of the version itself.
${NM:-nm} -D --defined-only "$so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' |
	sort >"$dir/library"
diff -u "$dir/header" "$dir/library" || die "secmalloc.h (-) and libsecmalloc.so (+) differ"
echo "$(wc -l <"$dir/header") functions: header, map and library agree"
