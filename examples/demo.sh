#!/bin/sh
# demo.sh BUILDDIR SRCDIR - make a key, sign README with it, let openssl verify the signature
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Fails if the signature does not verify, or if copies of the key lie where none may be.
set -eu

if [ $# -ne 2 ]; then
	echo "usage: demo.sh BUILDDIR SRCDIR" >&2
	exit 2
fi
build=$(cd "$1" && pwd)
src=$(cd "$2" && pwd)

if ! command -v openssl >/dev/null; then
	echo "demo.sh: openssl is missing: install it to make a key and to verify" >&2
	exit 1
fi
PATH=$build/examples:$PATH

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir"
cp "$src/README" README

run() {
	echo "\$ $*"
	"$@"
}

umask 077
run openssl genpkey -algorithm ed25519 -out key.pem
run openssl pkey -in key.pem -pubout -out pub.pem
# Not through a pipe: that would hide the status.
run signer --demo-scan key.pem README >signed || {
	cat signed
	exit 1
}
cat signed
run openssl pkeyutl -verify -rawin -pubin -inkey pub.pem -in README -sigfile README.sig

want="clear 1, sealed 0, freed 0"
if ! grep -q "^copies of the key in this process: $want\$" signed; then
	echo "demo.sh: copies of the key where none may be; wanted: $want" >&2
	exit 1
fi
