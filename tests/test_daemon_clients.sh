#!/bin/sh
# test_daemon_clients.sh - programs at work under secmallocd, through locks and unlocks
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# daemon_client, one of them as daemon_keys, which tells where its key is, and python3 under
# secmalloc-run work on their secrets all the time. While all is locked every client, the daemon and
# its watcher are searched for markers, key and passphrase: nothing; control patterns are found. In
# the end no byte is lost. Then daemon, watcher or both are killed in each phase: no client is left.
#
# Environment: top_srcdir, top_builddir; SECMALLOC_CLIENTS (6), SECMALLOC_CYCLES (4), SECMALLOC_SCANS
# (2: a search every so many cycles; more than there are: none), SECMALLOC_BYTES (0: what each holds
# open besides), SECMALLOC_PYTHON (1; 0: no python3).
set -u
LC_ALL=C
export LC_ALL

src=${top_srcdir:-$(dirname "$0")/..}
build=${top_builddir:-$(pwd)}
clients=${SECMALLOC_CLIENTS:-6} cycles=${SECMALLOC_CYCLES:-4} scans=${SECMALLOC_SCANS:-2}
bytes=${SECMALLOC_BYTES:-0}
patience=60
snake=/usr/bin/python3 # the program itself, not a manager's script
dir=$(mktemp -d "${TMPDIR:-/tmp}/sm_daemon.XXXXXX")
socket=$dir/run/daemon phrase='marker-in-a-passphrase-32-bytes!'
daemon='' pids='' hex='' times=''

say() {
	echo "test_daemon_clients: $*"
}

finish() {
	exec 9>&-
	# shellcheck disable=SC2086 # a list
	kill -KILL $pids $daemon 2>/dev/null
	wait
	rm -rf "$dir"
}

die() {
	say "$*"
	tail -n 5 "$dir"/*.err "$dir/log" 2>/dev/null
	exit 1
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# await WHAT COMMAND...: until it succeeds
await() {
	what=$1 tries=0
	shift
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt $((patience * 20)) ] || die "$what: not in $patience s"
		sleep 0.05
	done
}

control() {
	"$build/secmallocctl" --socket "$socket" "$@"
}

gone() {
	for one in "$@"; do
		case $(cat "/proc/$one/stat" 2>/dev/null) in
		'' | *') Z '*) ;;
		*) return 1 ;;
		esac
	done
}

start_daemon() {
	printf %s "$phrase" >"$dir/phrase"
	"$build/${SECMALLOC_DAEMON:-tests/quick_daemon}" --foreground --socket "$socket" --deadline 20000 --passphrase-fd 3 \
		3<"$dir/phrase" 2>"$dir/log" 9>&- &
	daemon=$!
	await "the daemon" test -S "$socket"
	await "its status" control status >/dev/null 2>&1
}

# launch ARGUMENT...: secmalloc-run with the library of this build
launch() {
	exec sh "$dir/secmalloc-run" "$@"
}

# can_python: there is one, and its pages can be closed here
can_python() {
	[ "${SECMALLOC_PYTHON:-1}" = 1 ] && [ -e "$build/.libs/libsecmalloc-preload.so" ] || return 1
	sed "s|^library=.*|library=$build/.libs/libsecmalloc-preload.so|" \
		"$build/tools/secmalloc-run" >"$dir/secmalloc-run"
	(launch "$snake" -c 0) >/dev/null 2>&1
}

# is_python N: client number N is python3, all of whose memory from malloc(3) is protected
is_python() {
	[ "$python" ] && [ $(($1 % 5)) = 3 ]
}

# start N: as client number N; its seed is 1000 N
start() {
	if [ "$1" = 1 ]; then
		"$build/tests/daemon_keys" "$socket" 1000 "$bytes" <"$dir/in" >"$dir/1.out" \
			2>"$dir/1.err" 9>&- &
	elif is_python "$1"; then
		launch --daemon="$socket" "$snake" "$src/tests/daemon_client.py" "$(($1 * 1000))" \
			<"$dir/in" >"$dir/$1.out" 2>"$dir/$1.err" 9>&- &
	else
		"$build/tests/daemon_client" "$socket" "$(($1 * 1000))" "$bytes" <"$dir/in" \
			>"$dir/$1.out" 2>"$dir/$1.err" 9>&- &
	fi
	pids="$pids $!"
}

start_all() {
	pids='' i=0
	[ -p "$dir/in" ] || mkfifo "$dir/in"
	exec 9<>"$dir/in"
	while [ $i -lt "$1" ]; do
		i=$((i + 1))
		start $i
	done
	i=0
	while [ $i -lt "$1" ]; do
		i=$((i + 1))
		await "client $i" grep -q ready "$dir/$i.out"
	done
}

# hits PID MARKER...: what the scanner counts
hits() {
	who=$1
	shift
	"$build/tests/leak_scan" --pid "$who" mem "$@" 2>"$dir/places"
}

# is_clean HITS: of the marker and the three of the key none, and of the control some
is_clean() {
	case $1 in
	'0 0 '*) return 1 ;;
	'0 '*' 0 0 0') ;;
	*) return 1 ;;
	esac
}

# search: nothing of anybody's anywhere; the controls are found
search() {
	i=0
	for who in $pids; do
		i=$((i + 1))
		real=$(sed -n 's/^ready \([0-9]*\).*/\1/p' "$dir/$i.out")
		found=$(hits "$real" $((i * 1000)) 65536 $((i * 1000 + 2)) 4096 "$hex" key) ||
			die "client $i ($real) could not be searched"
		is_clean "$found" || { [ "$found" = '0 0 0 0 0' ] && is_python $i; } ||
			die "client $i, locked: $found: $(head -n 3 "$dir/places")"
	done
	for who in $daemon $(ps -o pid= --ppid "$daemon"); do
		found=$(hits "$who" "$hex" key "$spelt" raw) || die "the daemon could not be searched: $(cat "$dir/places")"
		[ "$found" = '0 0 0 0' ] || die "the daemon $who, locked: $found: $(cat "$dir/places")"
	done
}

# cores: of two clients, with the registers of all threads, as a debugger makes them
cores() {
	command -v gdb >/dev/null || return 0
	for i in 1 2; do
		real=$(sed -n 's/^ready \([0-9]*\).*/\1/p' "$dir/$i.out")
		gdb -batch -nx -p "$real" -ex "gcore $dir/core" >"$dir/places" 2>&1
		found=$("$build/tests/leak_scan" --file "$dir/core" $((i * 1000)) 65536 \
			$((i * 1000 + 2)) 4096 "$hex" key 2>"$dir/places") ||
			die "no core of client $i: $(cat "$dir/places")"
		rm -f "$dir/core"
		is_clean "$found" ||
			die "the core of client $i, locked: $found: $(head -n 3 "$dir/places")"
	done
}

cycle() {
	answer=$(control lock) || die "lock: $answer"
	times="$times $(echo "$answer" | sed -n 's/.* \([0-9.]*\) ms.*/\1/p')"
	if [ $(($1 % scans)) = 0 ]; then
		search
		[ "$1" != "$scans" ] || cores
	fi
	control unlock --passphrase-fd 3 3<"$dir/phrase" >"$dir/unlock" 2>&1 ||
		die "unlock: $(cat "$dir/unlock")"
}

# key_of: of client 1, as long as it is open
key_of() {
	# shellcheck disable=SC2046 # words: pid, cipher, left, right, bytes
	set -- $(sed -n 's/^ready //p' "$dir/1.out")
	hex=$("$build/tests/leak_key" "$1" "$3" "$4" "$5") || die "the key could not be read"
	hex=${hex%% *}
}

# end_all: each says that nothing was lost
end_all() {
	exec 9>&-
	for who in $pids; do
		wait "$who" || lost="$lost $who"
	done
	[ -z "$lost" ] || die "clients failed:$lost"
	[ "$(cat "$dir"/*.out | grep -c '^ok')" = "$1" ] || die "not every client said ok"
	pids=''
}

for tool in "${SECMALLOC_DAEMON:-tests/quick_daemon}" secmallocctl tests/daemon_client tests/daemon_keys tests/leak_scan; do
	[ -x "$build/$tool" ] || die "$build/$tool is not built"
done
spelt=$(printf %s "$phrase" | od -An -v -tx1 | tr -d ' \n')
mkdir -m 700 "$dir/run"
python='' lost=''
can_python && python=1
start_daemon
start_all "$clients"
key_of
n=0
while [ $n -lt "$cycles" ]; do
	n=$((n + 1))
	cycle $n
done
control status >"$dir/status" || die "status"
[ "$(grep -c . "$dir/status")" -ge "$clients" ] || die "status: $(cat "$dir/status")"
[ "$(echo "$times" | wc -w)" = "$cycles" ] || die "there were not $cycles locks:$times"
end_all "$clients"
say "$clients clients${python:+, python3 among them}: $cycles locks and unlocks, no byte lost;" \
	"a lock took (ms):$(echo "$times" | tr ' ' '\n' | grep . | sort -n | awk '
		{ v[NR] = $1 } END { print " least " v[1] ", median " v[int((NR + 1) / 2)] ", most " v[NR] }')"

# strike WHO: kill -9 the daemon, its watcher, or both
strike() {
	watcher=$(ps -o pid= --ppid "$daemon")
	# shellcheck disable=SC2086 # pids
	case $1 in
	daemon) kill -KILL "$daemon" ;;
	watcher) kill -KILL $watcher ;;
	both) kill -KILL "$daemon" $watcher ;;
	esac
}

# death WHO PHASE: nobody outlives it, be he stopped, in the middle of a lock, or python3
death() {
	start_all 4
	case $2 in
	idle) ;;
	locking) control lock >/dev/null 2>&1 & ;;
	*)
		control lock >/dev/null || die "lock"
		;;
	esac
	case $2 in
	locked)
		# shellcheck disable=SC2086 # pids
		set -- $1 $2 $pids
		kill -STOP "$4"
		;;
	unlocking) control unlock --passphrase-fd 3 3<"$dir/phrase" >/dev/null 2>&1 & ;;
	esac
	case $2 in
	*ing) sleep "0.0$(($$ % 3 + rounds % 3 * 2))" ;;
	esac
	strike "$1"
	# shellcheck disable=SC2086 # pids
	await "$2, $1 killed: the end of the clients" gone $pids "$daemon" $watcher
	exec 9>&-
	wait
}

rounds=0
for who in daemon watcher both; do
	for phase in idle locking locked unlocking; do
		rounds=$((rounds + 1))
		[ $rounds = 1 ] || start_daemon
		death $who $phase 2>"$dir/killed"
		[ $phase != idle ] || grep -q '^secmalloc: ' "$dir/2.err" ||
			die "$who killed: a client died without a word"
	done
done
say "kill -9 of daemon, watcher, both, in 4 phases: no client is left, stopped ones neither"
