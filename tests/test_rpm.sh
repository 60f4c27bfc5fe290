#!/bin/sh
# test_rpm.sh - the release tarball becomes RPM packages that a program can be built against
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# rpmbuild -ta of a fresh tarball (which runs this whole suite once more, but not this test),
# the packages unpacked into a scratch root, hello.c linked by the pkg-config file in there.
# --nodeps: what is installed need not be known to the rpm database.
#
# Environment: top_srcdir, top_builddir, MAKE, and what consumer.sh reads.
set -eu
LC_ALL=C
export LC_ALL

if [ -n "${RPM_BUILD_ROOT:-}" ]; then
	echo "SKIP: inside rpmbuild already"
	exit 77
fi
for tool in rpmbuild rpm rpm2archive; do
	if ! command -v "$tool" >/dev/null; then
		echo "SKIP: $tool is not installed (Debian: rpm; Fedora: rpm-build)"
		exit 77
	fi
done
# What an outer make said to its children is not meant for the makes below, and the package is
# built with its own flags.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DESTDIR CONFIG_SITE CFLAGS SM_SANITIZE

top_srcdir=${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}
top_builddir=${top_builddir:-$(pwd)}
export top_srcdir
make=${MAKE:-make}
version=$(sed -n 's/^Version:[[:space:]]*//p' "$top_srcdir/secmalloc.spec")
name=secmalloc-$version

die() {
	echo "test_rpm.sh: $*" >&2
	exit 1
}

# rpmbuild finds out where it really is, symbolic links or not, and quotes none of that.
where=$(pwd -P)
case $where in
*[!A-Za-z0-9/._+-]*) where=/tmp ;;
esac
dir=$(mktemp -d "$where/t_rpm.XXXXXX")
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# As `make dist` does it, but with nothing left in the build directory.
"$make" -C "$top_builddir" distdir distdir="$dir/$name" >"$dir/out" 2>&1 || {
	cat "$dir/out" >&2
	die "make distdir failed"
}
(cd "$dir" && tar -chf - "$name" | gzip -9c >"$name.tar.gz")
# All tests are built there; those that say whether the tarball is whole are run, as all of them run
# beside this one.
SECMALLOC_CHECK="tests/test_floors.sh tests/test_exports.sh tests/test_version.sh \
tests/check_base tests/check_heap tests/check_seal tests/check_contract_life \
tests/check_contract_memory tests/check_contract_seal tests/check_contract_key tests/check_model"
export SECMALLOC_CHECK
# Debug packages need tools of Fedora's own; what they hold is not under test.
if ! (cd "$dir" && rpmbuild -ta --nodeps --define "_topdir $dir/rpm" --define "_tmppath $dir/tmp" \
	--define 'debug_package %{nil}' "$name.tar.gz" >out 2>&1); then
	cat "$dir/out" >&2
	die "rpmbuild -ta $name.tar.gz failed"
fi

root=$dir/root
mkdir "$root"
for package in "$dir"/rpm/RPMS/*/*.rpm; do
	echo "built: ${package##*/}"
	# rpm --root would need root, and rpm2cpio a cpio.
	rpm2archive "$package"
	tar -xzf "$package.tgz" -C "$root"
done

for file in include/secmalloc.h aclocal/secmalloc.m4 'secmalloc*/COPYING' \
	'man3/secmalloc.3*' 'man7/secmalloc.7*' libsecmalloc.so libsecmalloc.so.0; do
	find "$root" -path "*/$file" | grep -q . || die "no package contains $file"
done
if find "$root" -name '*.la' | grep .; then
	die "a package contains a libtool archive"
fi
main=$(rpm -qlp "$dir"/rpm/RPMS/*/secmalloc-"$version"-*.rpm)
case $main in
*secmalloc.h*) die "the header is in the main package, not in -devel" ;;
esac
if rpm -qp --scripts "$dir"/rpm/RPMS/*/*.rpm | grep .; then
	die "a package brings a scriptlet"
fi

pc=$(find "$root" -name secmalloc.pc)
PKG_CONFIG_PATH=$(dirname "$pc")${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
PKG_CONFIG_SYSROOT_DIR=$root
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
sh "$top_srcdir/tests/consumer.sh"
