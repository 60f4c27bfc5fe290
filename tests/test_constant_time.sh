#!/bin/sh
# test_constant_time.sh - no branch and no address depends on a key or on a chunk's content
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Runs check_constant_time, which says how, under valgrind: with each cipher, and with the key
# expanded for each operation or resident.  What valgrind reported is shown where a test failed;
# the reports of the controls, which leak on purpose, are among it, as is a verdict on a tag where
# libsodium is older than 1.0.19.
#
# Environment: top_builddir, SM_SANITIZE.  Exit: 0, 1, or 77 for skipped.
set -u

program=${top_builddir:-.}/tests/check_constant_time
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT PIPE TERM

skip() {
	echo "SKIP: $1"
	exit 77
}

[ -x "$program" ] || { echo "test_constant_time: $program is missing"; exit 99; }
[ -z "${SM_SANITIZE:-}" ] || skip "built with a sanitizer, which valgrind cannot run"
command -v valgrind >/dev/null || skip "valgrind is not installed"
valgrind --quiet true >/dev/null 2>&1 || skip "valgrind does not run here"

# valgrind reads the debug information of its time only, and gives up over newer; then without it
if valgrind --quiet "$program" 2>&1 | grep -q 'debug info\|dwarf'; then
	strip -g -o "$tmp/stripped" "$program" && program=$tmp/stripped
fi

failed=0
for with in xchacha 'xchacha resident' aes 'aes resident'; do
	echo "== $with"
	# shellcheck disable=SC2086 # two arguments
	timeout 120 valgrind --quiet --error-limit=no --track-origins=no --num-callers=20 \
		"$program" $with >"$tmp/out" 2>"$tmp/reports"
	status=$?
	cat "$tmp/out"
	case $status in
	0) ;;
	77)
		# This CPU, or valgrind's, may have no AES; the other cipher is everywhere.
		[ "${with%% *}" = aes ] || exit 77
		;;
	*)
		echo "FAIL $with: exit status $status; valgrind:"
		cat "$tmp/reports"
		failed=$((failed + 1))
		;;
	esac
done
[ $failed = 0 ]
