#!/bin/sh
# test_daemon_death.sh - the daemon, the watcher or both are killed, in each phase
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Afterwards no client runs that was locked or about to be, none is left stopped, and the other half
# has ended too.
#
# Environment: top_srcdir, top_builddir.
set -eu
LC_ALL=C
export LC_ALL
# shellcheck source=tests/daemon.sh
. "${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}/tests/daemon.sh"

# strike WHO: kill -9 to the daemon, the watcher, or both at once
strike() {
	case $1 in
	daemon) kill -9 "$daemon" ;;
	watcher) kill -9 "$watcher" ;;
	both) kill -9 "$daemon" "$watcher" ;;
	esac
	wait "$daemon" 2>/dev/null || :
	await 5 is_gone "$daemon"
	await 5 is_gone "$watcher"
	daemon=''
}

# none_left PID...
none_left() {
	for pid; do
		await 5 is_gone "$pid"
	done
}

rounds=0
for policy in die carry-on; do
	for who in daemon watcher both; do
		rounds=$((rounds + 1))
		# Idle: by policy.
		begin --policy $policy
		good 3
		strike $who
		for pid in $clients; do
			if [ $policy = die ]; then
				await 5 is_gone "$pid"
			else
				await 5 grep -q hungup "$dir/good.$pid"
				[ "$(state "$pid")" = S ] || fail "idle, $who: a client is $(state "$pid")"
				kill -9 "$pid"
			fi
		done

		# Locked; one is stopped.
		begin --policy $policy
		good 4
		ctl lock >/dev/null
		kill -STOP "$client"
		strike $who
		# shellcheck disable=SC2086 # pids
		none_left $clients

		# In the middle of a lock: one does not answer.
		begin --policy $policy --deadline 20000
		client mute
		mute=$client
		await 5 grep -q welcome "$dir/mute.$mute"
		good 3
		ctl lock >/dev/null 2>&1 &
		pids="$pids $!"
		# shellcheck disable=SC2086
		await 5 all_say locked 1 $clients
		kill -STOP "$client" "$mute"
		strike $who
		# shellcheck disable=SC2086
		none_left $clients
		if [ $who = both ]; then # it never armed its lifelines: not one of ours
			kill -9 "$mute" 2>/dev/null || : # unless the watcher was the later
		fi
		none_left "$mute"

		# In the middle of an unlock: one is stopped, and still locked.
		begin --policy $policy --deadline 20000
		good 3
		ctl lock >/dev/null
		kill -STOP "$client"
		unlock secret &
		pids="$pids $!"
		for pid in $clients; do
			[ "$pid" = "$client" ] || await 5 grep -q unlocked "$dir/good.$pid"
		done
		strike $who
		none_left "$client"
		for pid in $clients; do
			[ "$(state "$pid")" != T ] || fail "during unlock, $who: left stopped"
			kill -9 "$pid" 2>/dev/null || :
		done
	done
done

# Told to end while all is locked: a locked client does not stay.
begin
good 2
ctl lock >/dev/null
kill -TERM "$daemon"
status=0
wait "$daemon" || status=$?
[ $status = 1 ] || fail "the end while locked has status $status"
daemon=''
# shellcheck disable=SC2086
none_left $clients
echo "$rounds times 4 phases: nobody was left"
