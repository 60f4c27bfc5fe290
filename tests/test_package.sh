#!/bin/sh
# test_package.sh - an installed secmalloc can be used: by pkg-config and from a configure.ac
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Also out of the build tree, through secmalloc-uninstalled.pc.
#
# Environment: top_srcdir, top_builddir, MAKE, and what consumer.sh reads.
set -eu
LC_ALL=C
export LC_ALL
# What an outer make said to its children is not meant for the makes below.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DESTDIR PKG_CONFIG_SYSROOT_DIR CONFIG_SITE

top_srcdir=${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}
top_builddir=${top_builddir:-$(pwd)}
export top_srcdir
make=${MAKE:-make}
user_path=${PKG_CONFIG_PATH:-}
export PKG_CONFIG_PATH

die() {
	echo "test_package.sh: $*" >&2
	exit 1
}

# try TITLE COMMAND...: its output is shown only when it fails
try() {
	title=$1
	shift
	if "$@" >"$dir/out" 2>&1; then
		grep -e '^shared:' -e '^static:' "$dir/out" | sed "s|^|$title: |" || echo "$title: fine"
	else
		cat "$dir/out" >&2
		die "$title: failed"
	fi
}

dir=$(mktemp -d "$(pwd)/t_package.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir"

# ---------------------------------------------------- the build tree, then an install

PKG_CONFIG_PATH=$top_builddir:$user_path
try "build tree" sh "$top_srcdir/tests/consumer.sh"

root=$dir/root
try "make install" "$make" -C "$top_builddir" install DESTDIR="$root"
pc=$(find "$root" -name secmalloc.pc)
[ -n "$pc" ] || die "make install brought no secmalloc.pc"
PKG_CONFIG_PATH=$(dirname "$pc"):$user_path
PKG_CONFIG_SYSROOT_DIR=$root
export PKG_CONFIG_SYSROOT_DIR
try "install below DESTDIR" sh "$top_srcdir/tests/consumer.sh"
for f in include/secmalloc.h share/aclocal/secmalloc.m4 man/man3/secmalloc.3 \
	man/man7/secmalloc.7; do
	find "$root" -path "*/$f" | grep -q . || die "make install brought no $f"
done

# ------------------------------------------------------------- through the m4 macro

so=$(find "$root" -name libsecmalloc.so)
if [ -z "$so" ]; then
	echo "autoconf consumer: not tried: no shared library was built"
	exit 0
fi
if ! command -v autoreconf >/dev/null || ! command -v aclocal >/dev/null; then
	echo "autoconf consumer: not tried: autoconf or automake is not installed"
	exit 0
fi
aclocal_dir=$(dirname "$(find "$root" -name secmalloc.m4)")
# consumer NAME ARGUMENTS: a package whose configure.ac says AM_PATH_SECMALLOC(ARGUMENTS)
consumer() {
	mkdir "$dir/$1"
	cp "$top_srcdir/examples/hello.c" "$dir/$1/hello.c"
	cat >"$dir/$1/configure.ac" <<-END
		AC_INIT([consumer],[1])
		AM_INIT_AUTOMAKE([foreign no-dist])
		AC_PROG_CC
		AM_PATH_SECMALLOC($2)
		AC_CONFIG_FILES([Makefile])
		AC_OUTPUT
	END
	cat >"$dir/$1/Makefile.am" <<-'END'
		bin_PROGRAMS = hello
		AM_CPPFLAGS = $(SECMALLOC_CFLAGS)
		LDADD = $(SECMALLOC_LIBS)
	END
	(cd "$dir/$1" && ACLOCAL="aclocal -I $aclocal_dir" autoreconf -fi >out 2>&1) || {
		cat "$dir/$1/out" >&2
		die "autoreconf fails on AM_PATH_SECMALLOC($2)"
	}
}

# configured NAME WORDS...: its ./configure succeeds
configured() {
	name=$1
	shift
	(cd "$dir/$name" && sh ./configure CC="${CC:-cc}" \
		CFLAGS="${CFLAGS:-} ${SM_SANITIZE:-}" "$@" >out 2>&1)
}

# said NAME TEXT
said() {
	grep -q "$2" "$dir/$1/out" || {
		cat "$dir/$1/out" >&2
		die "$1: configure was to say '$2'"
	}
}

consumer plain '[0.1.0]'
configured plain || {
	cat "$dir/plain/out" >&2
	die "configure does not find secmalloc"
}
grep -q 'DHAVE_SECMALLOC=1' "$dir/plain/Makefile" || die "HAVE_SECMALLOC is not defined"
try "autoconf consumer: make" "$make" -C "$dir/plain"
LD_LIBRARY_PATH=$(dirname "$so")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
try "autoconf consumer: run" "$dir/plain/hello"

consumer newer '[99.0]'
! configured newer || die "a version that cannot be there was found"
said newer 'error: secmalloc 99.0 or later was not found: install it'

consumer none '[99.0],[echo WAS FOUND],[echo WAS NOT FOUND]'
configured none || die "with an ACTION-IF-NOT-FOUND configure must go on"
said none 'WAS NOT FOUND'

consumer any '[],[echo WAS FOUND],[echo WAS NOT FOUND]'
configured any || die "configure fails with both actions given"
said any 'WAS FOUND'
echo "AM_PATH_SECMALLOC: found, too old, and both actions: fine"
