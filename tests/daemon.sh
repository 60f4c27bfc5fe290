# daemon.sh - what the tests of the daemon share; read by them
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Environment: top_builddir.
# shellcheck shell=sh

name=${0##*/}
build=${top_builddir:-$(pwd)}
if [ ! -x "$build/tests/quick_daemon" ]; then
	echo "SKIP: no daemon was built: it is for Linux"
	exit 77
fi
# A process without dump cannot be looked into, by the leak finder of a sanitizer either.
ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
export ASAN_OPTIONS
# In /tmp: the path of a socket is short.
dir=$(mktemp -d /tmp/t_daemon.XXXXXX)
chmod 700 "$dir"
socket=$dir/run/daemon
log=$dir/log
daemon='' pids=''
trap 'end_all; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# All that we started and that is still there.
end_all() {
	for pid in $pids $daemon; do
		kill -9 "$pid" 2>/dev/null || :
	done
}

fail() {
	echo "$name: $*" >&2
	[ ! -f "$log" ] || tail -n 30 "$log" | sed 's/^/log: /' >&2
	exit 1
}

# await SECONDS COMMAND...: until it succeeds
await() {
	turns=$(($1 * 50))
	shift
	while ! "$@" >/dev/null 2>&1; do
		turns=$((turns - 1))
		[ $turns -gt 0 ] || fail "in vain: $*"
		sleep 0.02
	done
}

ctl() {
	"$build/secmallocctl" --socket "$socket" "$@"
}

# try TEXT COMMAND...: it must fail with status 1 and say so
try() {
	text=$1
	shift
	status=0
	"$@" >"$dir/said" 2>&1 || status=$?
	[ "$status" = 1 ] || fail "$*: status $status, not 1: $(cat "$dir/said")"
	grep -qe "$text" "$dir/said" || fail "$*: not '$text' but $(cat "$dir/said")"
}

unlock() {
	echo "${1-secret}" | ctl unlock --passphrase-fd 0 >/dev/null
}

# begin OPTION...: a daemon; sets $daemon and $watcher
begin() {
	: >"$log"
	echo secret >"$dir/phrase"
	"$build/tests/quick_daemon" --foreground --socket "$socket" --deadline 1000 \
		--passphrase-fd 0 "$@" <"$dir/phrase" 2>>"$log" &
	daemon=$!
	await 10 grep -q ready "$log"
	watcher=$(children "$daemon")
	[ -n "$watcher" ] || fail "there is no watcher"
}

# children PID
children() {
	sed -n "/^Pid:/h; /^PPid:[[:space:]]*$1\$/{g; s/.*[[:space:]]//p; }" /proc/[0-9]*/status \
		2>/dev/null || :
}

# in_background PROGRAM: the daemon that has no parent any more; sets $daemon and $watcher
in_background() {
	daemon=''
	for file in /proc/[0-9]*/cmdline; do
		{ tr '\0' ' ' <"$file"; } 2>/dev/null | grep -q "$1 --socket $socket " || continue
		pid=${file#/proc/}
		watcher=$(children "${pid%/*}")
		[ -z "$watcher" ] || daemon=${pid%/*}
	done
	[ -n "$daemon" ] || fail "$1 is not in the background"
	watcher=$(children "$daemon")
}

# end: the daemon, in order
end() {
	kill -TERM "$daemon"
	wait "$daemon" || fail "at its end the daemon says $?"
	! grep -qi -e sanitizer -e 'runtime error' "$log" || fail "a sanitizer complains"
	daemon=''
}

# client MODE [NUMBER]: its words go to $dir/MODE.PID; sets $client
client() {
	# shellcheck disable=SC2016 # for the inner shell
	sh -c 'to=$1; shift; exec "$@" >"$to.$$" 2>&1' client "$dir/$1" \
		"$build/tests/fake_client" "$socket" "$@" &
	client=$!
	pids="$pids $client"
}

# good N: clients that have been let in; sets $clients
good() {
	clients=''
	for _ in $(seq "$1"); do
		client good
		clients="$clients $client"
	done
	for pid in $clients; do
		await 10 grep -q welcome "$dir/good.$pid"
	done
}

# state PID: R, S, T, Z; nothing if it is gone
state() {
	sed -n 's/^State:[[:space:]]*\([A-Z]\).*/\1/p' "/proc/$1/status" 2>/dev/null || :
}

is_gone() {
	case $(state "$1") in
	'' | Z | X) return 0 ;;
	esac
	return 1
}

# all_say WORD COUNT PID...: each has said it so often
all_say() {
	word=$1 count=$2
	shift 2
	for pid; do
		[ "$(grep -cx "$word" "$dir/good.$pid")" = "$count" ] || return 1
	done
}
