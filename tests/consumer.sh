#!/bin/sh
# consumer.sh - build examples/hello.c as a user would, by pkg-config, and run it
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Once with the shared library, once without any.  What cannot be tried here is named; when
# that is both, it is a failure.  Called by `make installcheck` and by other tests.
#
# Environment: top_srcdir, CC, CFLAGS, NM, PKG_CONFIG, SM_SANITIZE, and what pkg-config reads:
# PKG_CONFIG_PATH and PKG_CONFIG_SYSROOT_DIR say where secmalloc.pc is.
set -eu
LC_ALL=C
export LC_ALL

src=${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}
pkg_config=${PKG_CONFIG:-pkg-config}
nm=${NM:-nm}
[ -n "${PKG_CONFIG_SYSROOT_DIR:-}" ] || unset PKG_CONFIG_SYSROOT_DIR
# CC and CFLAGS may be several words.
cc="${CC:-cc} ${CFLAGS:-} ${SM_SANITIZE:-}"

die() {
	echo "consumer.sh: $*" >&2
	exit 1
}

dir=$(mktemp -d ./t_consumer.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# links WORD FILE: secmalloc_init is defined in FILE (T) or wanted by it (U)
links() {
	$nm "$2" | grep -q " $1 secmalloc_init"
}

"$pkg_config" --exists --print-errors secmalloc || die "no secmalloc.pc in PKG_CONFIG_PATH"
flags=$("$pkg_config" --cflags --libs secmalloc)
libdir=
for word in $flags; do
	case $word in
	-L*)
		[ -n "$libdir" ] || libdir=${word#-L}
		;;
	esac
done
# pkg-config is silent about the directories where the linker looks anyway.
[ -n "$libdir" ] || libdir=$("$pkg_config" --variable=libdir secmalloc)
tried=0

if [ -e "$libdir/libsecmalloc.so" ]; then
	# shellcheck disable=SC2086 # words, all of them
	$cc -o "$dir/shared" "$src/examples/hello.c" $flags || die "hello.c does not link shared"
	links U "$dir/shared" || die "hello was to use the shared library, and does not"
	LD_LIBRARY_PATH=$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$dir/shared" ||
		die "hello, linked shared, fails"
	echo "shared: fine"
	tried=1
else
	echo "shared: not tried: no libsecmalloc.so in $libdir"
fi

# can_be_static: there is all that a program without shared libraries needs
can_be_static() {
	if [ ! -e "$libdir/libsecmalloc.a" ]; then
		echo "static: not tried: no libsecmalloc.a in $libdir"
		return 1
	fi
	if [ -n "${SM_SANITIZE:-}" ]; then
		echo "static: not tried: sanitizers want a shared C library"
		return 1
	fi
	echo 'int main(void) { return 0; }' >"$dir/empty.c"
	# shellcheck disable=SC2046 # words
	$cc -static -o "$dir/empty" "$dir/empty.c" \
		$("$pkg_config" --static --cflags --libs libsodium) 2>"$dir/why" || {
		echo "static: not tried: no static libsodium or C library:" \
			"$(head -n 1 "$dir/why")"
		return 1
	}
}

if can_be_static; then
	# shellcheck disable=SC2046 # words
	$cc -static -o "$dir/static" "$src/examples/hello.c" \
		$("$pkg_config" --static --cflags --libs secmalloc) ||
		die "hello.c does not link statically"
	links T "$dir/static" || die "hello was to contain the library, and does not"
	"$dir/static" || die "hello, linked statically, fails"
	echo "static: fine"
	tried=1
fi
[ "$tried" = 1 ] || die "neither the shared nor the static library could be tried"
