#!/bin/sh
# test_emergency.sh - the example ends by its signal with the key gone, or goes on without it
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
set -eu

program=$top_builddir/examples/emergency
work=$(mktemp -d)
trap 'rm -rf "$work"; [ -z "${pid:-}" ] || kill -9 "$pid" 2>/dev/null || :' EXIT

fail() {
	echo "test_emergency: $*" >&2
	exit 1
}

# start: the program reads from descriptor 8 and answers into the file
start() {
	rm -f "$work/in"
	mkfifo "$work/in"
	: >"$work/out"
	"$program" <"$work/in" >"$work/out" 2>&1 &
	pid=$!
	exec 8>"$work/in"
	await ready
}

# await TEXT: until the last line is this
await() {
	for _ in $(seq 200); do
		tail -n 1 "$work/out" | grep -qE "^$1\$" && return
		sleep 0.05
	done
	fail "no '$1' came: $(cat "$work/out")"
}

# ends_by SIGNAL NUMBER: so told, the program ends by it
ends_by() {
	start
	kill "-$1" "$pid"
	status=0
	wait "$pid" || status=$?
	[ "$status" = $((128 + $2)) ] || fail "after SIG$1 the status is $status"
	exec 8>&-
}

ulimit -c 0
start
echo one >&8
await '[0-9a-f]{8}'
kill -USR1 "$pid"
sleep 0.2
echo two >&8
await 'the key is gone'
exec 8>&-
wait "$pid" || fail "without its key the program ended with $?"

ends_by TERM 15
ends_by SEGV 11
pid=
echo "a signal destroys the key, and what is to go on goes on"
