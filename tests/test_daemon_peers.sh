#!/bin/sh
# test_daemon_peers.sh - clients that do what they should not disturb nobody else
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Environment: top_srcdir, top_builddir; SECMALLOC_CLIENTS (1000), SECMALLOC_FUZZ_SECONDS (5).
set -eu
LC_ALL=C
export LC_ALL
# shellcheck source=tests/daemon.sh
. "${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}/tests/daemon.sh"

begin
good 3
well=$clients

# cycle: those that do well are locked and unlocked
cycles=0
cycle() {
	cycles=$((cycles + 1))
	ctl lock >"$dir/answer" || :
	grep -q '^locked: ' "$dir/answer" || fail "$mode: no lock: $(cat "$dir/answer")"
	# shellcheck disable=SC2086 # pids
	all_say locked $cycles $well || fail "$mode: another was disturbed"
	unlock || fail "$mode: no unlock"
	# shellcheck disable=SC2086
	await 5 all_say unlocked $cycles $well
}

# From the start.
for mode in twice early garbage short long empty flood; do
	client $mode
	await 5 is_gone "$client"
	cycle
done
for text in 'said hello twice' 'not one of ours' 'too short for a head' 'counted unasked'; do
	grep -q "$text" "$log" || fail "the log does not say: $text"
done

# At a lock.  What was told to lock and is still there does not live on in clear.
for mode in leave hangup stop error forked wrong replay mute; do
	client $mode
	await 5 grep -q welcome "$dir/$mode.$client"
	cycle
	await 5 is_gone "$client"
done
mode='exec'
client exec
await 5 grep -q welcome "$dir/exec.$client"
cycle
await 5 grep -q sleep "/proc/$client/cmdline" # killed for what it was before, it would be missed
kill -9 "$client"
for text in 'left in the middle$' 'left in the middle and goes on running' 'missed the deadline: killed' 'could not lock itself' \
	'from another process' 'locked itself unasked'; do
	grep -q "$text" "$log" || fail "the log does not say: $text"
done

# One that is stopped before, and one that is traced.
mode=stopped
good 1
kill -STOP "$client"
ctl status | grep -q " $client fake good .* busy" || fail "a stopped client is not busy"
cycle
await 5 is_gone "$client"
if command -v gdb >/dev/null; then
	mode=traced
	good 1
	gdb -q -nx -batch -p "$client" -ex 'shell sleep 4' >/dev/null 2>&1 &
	tracer=$!
	await 5 grep -q 'TracerPid:[[:space:]]*[1-9]' "/proc/$client/status"
	cycle
	wait $tracer || :
	await 5 is_gone "$client"
fi

# A third party's stop and continuation while it is locked.
mode=third
ctl lock >/dev/null
cycles=$((cycles + 1))
for pid in $well; do
	kill -STOP "$pid"
	kill -CONT "$pid"
done
unlock
# shellcheck disable=SC2086
await 5 all_say unlocked $cycles $well

# Silent: sent away after its time.
mode=silent
client silent
await 10 is_gone "$client"
cycle
end

# Those that are late and are only reported are locked when they get to it.
begin --late report
mode=late
client late 1500
await 5 grep -q welcome "$dir/late.$client"
try '1 late' ctl lock
await 5 grep -q locked "$dir/late.$client"
unlock
await 5 grep -q unlocked "$dir/late.$client"
await 5 sh -c "'$build/secmallocctl' --socket '$socket' status | grep -q '$client .* open'"
try '1 late' ctl lock
unlock # its keys come when they are of no use any more, and go back at once
await 5 sh -c "[ \$(grep -c unlocked '$dir/late.$client') = 2 ]"
! grep -q CHANGED "$dir/late.$client" || fail "the keys of a late one changed"
await 5 sh -c "'$build/secmallocctl' --socket '$socket' status | grep -q '$client .* open'"
end

# Another user.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	begin
	mkdir -m 755 "$dir/others"
	cp "$build/tests/fake_client" "$dir/others/"
	chmod 711 "$dir" "$dir/run"
	chmod 666 "$socket"
	! setpriv --reuid 65534 --clear-groups "$dir/others/fake_client" "$socket" silent \
		>"$dir/other" 2>&1 || fail "another user was let in"
	chmod 700 "$dir" "$dir/run"
	ctl status | grep -q '^open: 0 clients' || fail "another user is a client"
	end

	# One that becomes another user, whom we cannot kill: here the daemon is the lesser one.
	mkdir "$dir/lesser"
	chown 65534 "$dir/lesser"
	chmod 700 "$dir/lesser"
	chmod 711 "$dir"
	chmod 666 "$log"
	own_socket=$socket socket=$dir/lesser/daemon
	setpriv --reuid 65534 --regid 65534 --clear-groups "$build/tests/quick_daemon" -f \
		--socket "$socket" --passphrase-fd 0 --deadline 500 <"$dir/phrase" 2>>"$log" &
	daemon=$!
	await 10 test -S "$socket"
	client escape 65534
	await 5 grep -q welcome "$dir/escape.$client"
	setpriv --reuid 65534 --regid 65534 --clear-groups "$build/secmallocctl" \
		--socket "$socket" lock >"$dir/answer" 2>&1 && fail "an escape went unnoticed"
	grep -q '0 killed, 1 late' "$dir/answer" || fail "escape: $(cat "$dir/answer")"
	grep -q 'is out of reach' "$log" || fail "the log does not know of the escape"
	kill -TERM "$daemon"
	wait "$daemon" || :
	daemon='' socket=$own_socket
	kill -9 "$client" 2>/dev/null || : # it has lost its daemon
fi

# Many.
begin
n=${SECMALLOC_CLIENTS:-1000}
client many "$n"
await 120 sh -c "[ \"\$(grep -c welcome '$dir/many.$client')\" = $n ]"
for round in 1 2; do
	ctl lock >"$dir/answer" || fail "many: $(cat "$dir/answer")"
	grep -q "^locked: $n of $n" "$dir/answer" || fail "many: $(cat "$dir/answer")"
	cat "$dir/answer"
	[ "$(ctl status | grep -c ' locked$')" = "$n" ] || fail "status of many"
	unlock
	await 20 sh -c "[ \"\$(grep -c unlocked '$dir/many.$client')\" = $((n * round)) ]"
done
end
await 20 is_gone "$client"

# Anything.
begin --deadline 200
"$build/tests/fuzz_daemon" "$socket" "${SECMALLOC_FUZZ_SECONDS:-5}" ||
	fail "the daemon did not stand it"
unlock x 2>/dev/null || unlock 2>/dev/null || :
kill -TERM "$daemon"
wait "$daemon" || :
daemon=''
! grep -qi -e sanitizer -e 'runtime error' "$log" || fail "a sanitizer complains"
echo "$cycles locks beside clients of each bad kind; many clients; anything"
