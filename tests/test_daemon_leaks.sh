#!/bin/sh
# test_daemon_leaks.sh - no key of a client and no passphrase is left in the daemon or its watcher
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Memory by /proc, and registers and memory by a debugger's core: once locked, while it waits with a
# wrong passphrase behind it, and after the unlock. A client that is told its keys is the control.
#
# Environment: top_srcdir, top_builddir.
set -eu
LC_ALL=C
export LC_ALL
# shellcheck source=tests/daemon.sh
. "${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}/tests/daemon.sh"

if [ "$(id -u)" != 0 ]; then
	echo "SKIP: only root may look into the daemon"
	exit 77
fi
phrase=correct-horse-battery-staple-Tr0ub4dor

# hex: of the first 32 bytes
hex() {
	od -An -v -tx1 -N 32 | tr -d ' \n'
}

# scan HOW...: sets $hits, the sum over all markers
scan() {
	status=0
	# shellcheck disable=SC2086 # markers are words
	"$build/tests/leak_scan" "$@" $markers >"$dir/hits" 2>"$dir/where" || status=$?
	[ $status = 0 ] || fail "leak_scan $*: status $status: $(cat "$dir/where")"
	hits=$(tr -s ' ' '\n' <"$dir/hits" | awk '{ n += $1 } END { print n + 0 }')
}

# clean WHEN PID...
clean() {
	when=$1
	shift
	for pid; do
		scan --pid "$pid" mem
		[ "$hits" = 0 ] || fail "$when: $hits places in $pid: $(cat "$dir/where")"
		command -v gdb >/dev/null || continue
		gdb -q -nx -batch -p "$pid" -ex "gcore $dir/core" >"$dir/gdb" 2>&1 ||
			fail "no core of $pid: $(cat "$dir/gdb")"
		scan --file "$dir/core"
		[ "$hits" = 0 ] || fail "$when: $hits places in a core of $pid: $(cat "$dir/where")"
		rm -f "$dir/core"
	done
}

: >"$log"
"$build/tests/quick_daemon" --foreground --socket "$socket" --passphrase-fd 9 2>>"$log" \
	9<<END &
$phrase
END
daemon=$!
await 10 grep -q ready "$log"
watcher=$(children "$daemon")
good 5
markers="$(printf %s "$phrase" | hex) raw"
for pid in $clients; do
	keys=$(sed -n 's/^keys //p' "$dir/good.$pid")
	markers="$markers $(echo "$keys" | cut -c 1-64) raw $(echo "$keys" | cut -c 65-128) raw"
done
scan --pid "$client" mem
[ "$hits" -gt 0 ] || fail "the scanner finds nothing where there is something"

clean idle "$daemon" "$watcher"
for round in 1 2 3; do
	ctl lock >/dev/null
	clean locked "$daemon" "$watcher"
	! unlock "$phrase-not" 2>/dev/null || fail "unlocked by a wrong passphrase"
	clean "after a wrong passphrase" "$daemon" "$watcher"
	unlock "$phrase" || fail "no unlock"
	# shellcheck disable=SC2086 # pids
	await 5 all_say unlocked $round $clients
	clean unlocked "$daemon" "$watcher"
done
echo "$phrase" | ctl lock --passphrase-fd 0 >/dev/null
clean "locked by a passphrase of its own" "$daemon" "$watcher"
unlock "$phrase"
printf '%s\n%s-more\n' "$phrase" "$phrase" | ctl passwd --passphrase-fd 0 >/dev/null
clean "another passphrase" "$daemon" "$watcher"
end
echo "idle, locked, refused, unlocked: no key and no passphrase in the daemon or its watcher"
