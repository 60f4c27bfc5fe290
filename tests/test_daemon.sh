#!/bin/sh
# test_daemon.sh - the daemon's commands, its start and its end
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Environment: top_srcdir, top_builddir; SECMALLOC_WRONG, passphrases that are tried (200).
set -eu
LC_ALL=C
export LC_ALL
# shellcheck source=tests/daemon.sh
. "${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}/tests/daemon.sh"

# ------------------------------------------------------------------------ usage

# wrong PROGRAM ARGUMENT...: status 2 and a line
wrong() {
	status=0
	"$@" </dev/null >"$dir/said" 2>&1 || status=$?
	if [ "$status" != 2 ] || [ ! -s "$dir/said" ]; then
		fail "$*: status $status: $(cat "$dir/said")"
	fi
}

for word in '' fly 'lock --json' 'status --phrase' drop 'drop x' 'drop 0' 'lock now' \
	'unlock --passphrase-fd x' --no-such; do
	# shellcheck disable=SC2086 # words
	wrong "$build/secmallocctl" $word
done
for word in --no-such '--deadline x' '--deadline 0' '--policy never' '--late never' word \
	'--passphrase-fd -1'; do
	# shellcheck disable=SC2086
	wrong "$build/secmallocd" $word
done
"$build/secmallocd" --version | grep -q 'sandbox: ' || fail "--version names no sandbox"
"$build/secmallocctl" --help | grep -q passwd || fail "--help helps little"

# ------------------------------------------------------------------------ start

try 'no secmallocd runs there' ctl status
mkdir -m 700 "$dir/run"
mkdir -m 755 "$dir/open"
try 'chmod 700' "$build/tests/quick_daemon" -f --no-passphrase --socket "$dir/open/daemon"
try 'no such folder' "$build/tests/quick_daemon" -f --no-passphrase --socket "$dir/a/b/daemon"
echo file >"$dir/run/file"
try 'another --socket' "$build/tests/quick_daemon" -f --no-passphrase --socket "$dir/run/file"
try 'one line of 1 to 512 bytes' "$build/tests/quick_daemon" -f --passphrase-fd 0 \
	--socket "$socket" </dev/null
if mkdir -m 700 "$dir/full" && mount -t tmpfs -o size=4k,nr_inodes=2,mode=700 none "$dir/full" \
	2>/dev/null; then
	touch "$dir/full/file"
	try 'disk is full' "$build/tests/quick_daemon" -f --no-passphrase \
		--socket "$dir/full/daemon"
	umount "$dir/full"
fi

begin
try 'another secmallocd runs there' "$build/tests/quick_daemon" -f --no-passphrase \
	--socket "$socket"
ctl status | grep -q 'open: 0 clients; passphrase set' || fail "status: $(ctl status)"

# A killed daemon leaves its socket behind, which the next takes over.
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || :
[ -S "$socket" ] || fail "there is no stale socket"
await 5 is_gone "$watcher"
begin
[ "$(stat -c %a "$socket" "$dir/run" | tr '\n' ' ')" = '600 700 ' ] || fail "modes"
end
[ ! -e "$socket" ] || fail "the socket was left behind"

# In the background: ready when the command returns, which holds nothing of who called it.
mkfifo "$dir/said.by"
cat "$dir/said.by" >/dev/null &
reader=$!
"$build/tests/quick_daemon" --socket "$socket" --no-passphrase </dev/null >"$dir/said.by" \
	2>>"$log" || fail "not to the background"
ctl status | grep -q 'passphrase none' || fail "status in the background"
in_background quick_daemon
await 5 is_gone $reader
[ "$(sed 's/.*) //' "/proc/$daemon/stat" | cut -d ' ' -f 4)" = "$daemon" ] ||
	fail "in the background it is in its caller's session"
kill -TERM "$daemon"
await 5 is_gone "$daemon"
daemon=''
try 'another secmallocd\|use another\|one line' "$build/tests/quick_daemon" --socket "$socket" \
	--passphrase-fd 0 </dev/null

# Closed, 0 to 2 are nobody's: a log that went to the watcher would tell it to hold no longer.
"$build/tests/quick_daemon" -f --socket "$socket" --no-passphrase 0<&- 1>&- 2>&- &
daemon=$!
await 10 ctl status
watcher=$(children "$daemon")
client mute
await 5 grep -q welcome "$dir/mute.$client"
[ -n "$(ctl status 0<&- 2>&-)" ] || fail "status without standard input"
ctl status 1>&- 2>"$dir/said" && fail "status without standard output"
grep -q 'standard output cannot be written' "$dir/said" || fail "not said: $(cat "$dir/said")"
if [ -r "/proc/$daemon/fd/0" ]; then
	for fd in 0 1 2; do
		[ "$(readlink "/proc/$daemon/fd/$fd")" = /dev/null ] || fail "descriptor $fd"
	done
fi
kill -9 "$client"
end

# Who locks and unlocks by a passphrase of his own has not found the other: the count goes on.
begin
for text in a b; do
	printf '%s\nnew\n' $text | ctl passwd --passphrase-fd 0 2>/dev/null && fail "passwd by $text"
	echo mine | ctl lock --passphrase-fd 0 >/dev/null
	unlock mine || fail "no unlock"
done
grep -q 'wrong passphrase, number 2' "$log" || fail "the count began anew"
end

# A log that nobody reads, and that is full, is in nobody's way; the next line that fits tells.
mkfifo "$dir/full.log"
exec 8<>"$dir/full.log"
dd if=/dev/zero of="$dir/full.log" bs=4096 count=1024 oflag=nonblock conv=notrunc 2>/dev/null || :
begin_unheard() {
	"$build/tests/quick_daemon" -f --socket "$socket" --passphrase-fd 0 "$@" <"$dir/phrase" \
		2>&8 &
	daemon=$!
	await 10 ctl status
	watcher=$(children "$daemon")
}
begin_unheard
good 2
ctl lock >/dev/null || fail "no lock while the log is full"
unlock || fail "no unlock while the log is full"
dd if="$dir/full.log" bs=4096 count=64 iflag=nonblock >/dev/null 2>&1 || :
ctl lock >/dev/null
dd if="$dir/full.log" bs=4096 count=64 iflag=nonblock 2>/dev/null | tr -d '\0' >"$dir/said" || :
grep -q 'locked: 2 of 2' "$dir/said" || fail "the log is still lost"
grep -q '[1-9][0-9]* lines were lost' "$dir/said" || fail "what was lost is not told"
dd if=/dev/zero of="$dir/full.log" bs=4096 count=1024 oflag=nonblock conv=notrunc 2>/dev/null || :
kill -9 "$watcher"
await 5 is_gone "$daemon"
exec 8>&-
wait "$daemon" 2>/dev/null || :
daemon=''

# ---------------------------------------------------------------------- commands

begin
good 3
# shellcheck disable=SC2086 # pids
set -- $clients
ctl status | grep -q " $1 fake good  *4096  *1024  *3  *1 open\$" || fail "a row: $(ctl status)"
ctl status --json >"$dir/json"
if command -v python3 >/dev/null; then
	python3 - "$dir/json" "$1" <<-'END' || fail "json: $(cat "$dir/json")"
		import json, sys
		o = json.load(open(sys.argv[1]))
		row = [c for c in o["clients"] if c["pid"] == int(sys.argv[2])][0]
		assert row == {"pid": int(sys.argv[2]), "name": "fake good", "bytes": 4096,
		    "bytes_clear": 1024, "chunks_closed": 3, "chunks_open": 1, "state": "open"}
		assert o["locked"] is False
	END
fi
for round in 1 2 3; do
	ctl lock | grep -q '^locked: 3 of 3' || fail "lock $round"
	all_say locked $round "$@" || fail "not all were told to lock"
	ctl lock | grep -q 'locked already' || fail "lock twice"
	try 'unlock first' ctl drop "$1"
	printf 'secret\nother\n' >"$dir/two"
	try 'unlock first' ctl passwd --passphrase-fd 0 <"$dir/two"
	[ "$(ctl status | grep -c ' locked$')" = 3 ] || fail "status while locked"
	try 'not the passphrase' unlock wrong
	unlock || fail "unlock $round"
	await 5 all_say unlocked $round "$@"
done
try 'nothing is locked' unlock

# One that comes while all is locked waits, and is let in.
ctl lock >/dev/null
client good
sleep 0.2
! grep -q welcome "$dir/good.$client" || fail "let in while locked"
unlock
await 5 grep -q welcome "$dir/good.$client"

# A lock with a passphrase of its own, and another passphrase.
echo special | ctl lock --passphrase-fd 0 >/dev/null
try 'not the passphrase' unlock secret
unlock special || fail "unlock of a lock with its own passphrase"
try 'not the passphrase' sh -c "printf 'no\nother\n' | '$build/secmallocctl' --socket '$socket' \
	passwd --passphrase-fd 0"
printf 'secret\nother\n' | ctl passwd --passphrase-fd 0 | grep -q another || fail passwd
ctl lock >/dev/null
try 'not the passphrase' unlock secret
unlock other || fail "unlock by the new passphrase"
try 'two lines' sh -c "echo one | '$build/secmallocctl' --socket '$socket' passwd --passphrase-fd 0"

try 'no client has pid' ctl drop 1
ctl drop "$1" >/dev/null
await 5 grep -q dropped "$dir/good.$1"
shift
await 5 sh -c "! '$build/secmallocctl' --socket '$socket' status | grep -q ' busy'"
ctl purge | grep -q '^purged: 3 of 3' || fail purge
all_say purged 1 "$@" || fail "not all were told to purge"
[ "$(ctl status | grep -c ' purged$')" = 3 ] || fail "status of purged clients"
good 1
ctl lock | grep -q '^locked: 1 of 1' || fail "purged clients have nothing to lock"
ctl purge | grep -q '^purged: 1 of 1' || fail "purge while locked"
# shellcheck disable=SC2086
all_say CHANGED 0 $clients "$@" || fail "keys came back changed"
end

# No passphrase at all.
begin --no-passphrase
try 'lock --phrase' ctl lock
echo some | ctl lock --passphrase-fd 0 >/dev/null
unlock some
printf '\nsecret\n' | ctl passwd --passphrase-fd 0 >/dev/null
ctl lock >/dev/null && unlock
end

# --------------------------------------------------------------- wrong passphrases

wrong=${SECMALLOC_WRONG:-200}
begin
good 1
ctl lock >/dev/null
for i in $(seq "$wrong"); do
	! unlock "wrong $i" 2>/dev/null || fail "unlocked by a wrong passphrase"
done
ctl status | grep -q '^locked: 1 clients' || fail "it is no longer locked"
[ "$(grep -c 'a wrong passphrase' "$log")" = "$wrong" ] || fail "not all logged"
unlock || fail "the right one after many wrong ones"
end

# ----------------------------------------------------------------- service manager

if command -v python3 >/dev/null; then
	cat >"$dir/manager.py" <<-'END'
		import os, socket, sys
		program, where = sys.argv[1:3]
		s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		s.bind(where)
		s.listen(8)
		ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
		ear.bind("\0" + where + ".ear")
		pid = os.fork()
		if pid == 0:
		    os.dup2(s.fileno(), 3)
		    os.set_inheritable(3, True)
		    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1",
		        NOTIFY_SOCKET="@" + where + ".ear")
		    os.execv(program, [program, "-f", "--no-passphrase"])
		ear.settimeout(20)
		try:
		    assert ear.recv(99) == b"READY=1"
		    os.kill(pid, 15)
		    assert ear.recv(99) == b"STOPPING=1"
		    assert os.waitpid(pid, 0)[1] == 0
		    assert os.path.exists(where)
		except BaseException:
		    os.kill(pid, 9)
		    raise
	END
	python3 "$dir/manager.py" "$build/tests/quick_daemon" "$dir/run/given" 2>>"$log" ||
		fail "a service manager is not understood"
	LISTEN_FDS=1 LISTEN_PID=1 "$build/tests/quick_daemon" --help >/dev/null
fi

# Once as it is installed, with Argon2id in earnest.
echo secret | "$build/secmallocd" --socket "$socket" --passphrase-fd 0 || fail "the real one"
good 2
in_background secmallocd
ctl lock >/dev/null
try 'not the passphrase' unlock wrong
unlock
# shellcheck disable=SC2086
await 5 all_say unlocked 1 $clients
kill -TERM "$daemon"
await 5 is_gone "$daemon"
daemon=''
echo "start, commands, passphrases and end: as told"
