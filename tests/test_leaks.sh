#!/bin/sh
# test_leaks.sh - nobody finds the plaintext of a chunk that is hidden, sealed, freed or gone, nor
# a key that is not at work
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# For each mode and state a fresh leak_victim is brought into that state, and every reader looks
# for its two chunks (256 bytes and 64 KiB) and for an ordinary buffer, the control.  A scan that
# misses the control is void.  An open chunk that a reader must find is found exactly once: a
# second place is a stray copy.  The material of lock and
# what a provider gave are markers as well, found nowhere.
#
#   modes    hidden    HIDDEN required
#            plain     HIDDEN not tried
#            xchacha   as plain, with that cipher, which AUTO may leave aside
#            bare      as plain, and neither NODUMP nor FORKSAFE tried: so that a child and the
#                      kernel's core find it too
#            timed     as plain, and chunks close by themselves
#            provided  as plain, and the key is from a provider
#   states   control   before any chunk
#            clear     both chunks written; then
#            sealed    closed; resealed, opened, moved (secrealloc): opened and closed again,
#                      opened, opened and reallocated after that
#            freed     secfree, term  secmalloc_term, purged  secmalloc_purge, locked
#                      secmalloc_lock: while both were open
#            unlocked  that undone; reopened: and both opened
#            rekeyed   closed, under a new key; carried: opened after that
#            timed     closed by the timer
#            refused   closed, after calls that failed
#            threads   closed and opened by threads, of which some rest and some are gone
#   readers  self      the victim writes down all that it can read: finds every open chunk
#            mem, vmreadv (as root, and as the same user)   /proc/PID/mem, process_vm_readv
#            gcore     gdb, told to ignore coredump_filter and MADV_DONTDUMP
#            core      the kernel's, on SIGABRT, with every bit of coredump_filter set
#            fork-*    a child made by fork(3): by its own dump, by mem, by vmreadv.  Its
#                      pthread_atfork handler leaves it nothing, whatever FORKSAFE says
#            raw-*     a child made by the bare system call, past that handler
#            exit      gcore when the process has called exit_group(2), its destructors done
#
# Then the keys, in every state: leak_keys is a leak_victim that tells where the halves are, always
# in plain memory, so that hiding cannot hide a mistake.  leak_key makes the key whole outside, and
# readers look for each key that there was: its bytes, the rounds of AES, the subkey of XChaCha20,
# the mask between the halves, and what Argon2id made of the material.  None is found; the controls
# are a key spilt on purpose, and modes resident and xresident (KEY_RESIDENT), where the expanded
# key is found exactly once and on its page.
#
# What "exited" cannot show: once a process is gone no reader can name it, and the frames that it
# gave back are the kernel's.  So "exit" looks at the last moment at which one could.
#
# Environment: top_builddir; LEAK_MODES, LEAK_STATES: only these.  Exit: 0, 1, or 77 for skipped.
set -u
LC_ALL=C
export LC_ALL
umask 022

build=$(cd "${top_builddir:-.}" && pwd) || exit 99
program=$build/tests/leak_victim
scan=$build/tests/leak_scan
modes=${LEAK_MODES:-hidden plain xchacha bare timed provided resident xresident}
later='locked unlocked reopened rekeyed carried purged timed threads refused'
states=${LEAK_STATES:-clear sealed resealed opened moved freed term $later}
control_bytes=4096 material_bytes=64

for p in "$program" "$scan" "$build/tests/leak_keys" "$build/tests/leak_key"; do
	[ -x "$p" ] || { echo "test_leaks: $p is missing"; exit 99; }
done
[ -r /proc/self/maps ] || { echo "SKIP: no /proc"; exit 77; }

pid='' child='' tracer='' pattern='' refused='' rows=0 failed=0 lost=0
keys='' hoped='0 0' # what else to look for; how often the material, what was provided, and it
tmp=$(mktemp -d) || exit 99

clean_up() {
	for p in $tracer $child $pid; do
		kill -KILL "$p" 2>/dev/null
	done
	[ -z "$pattern" ] || printf '%s\n' "$pattern" >/proc/sys/kernel/core_pattern
	rm -rf "$tmp"
}
trap clean_up EXIT
trap 'exit 1' HUP INT PIPE TERM

# As root the victim is another user, so that root and the same user are different readers.
uid='' me=$(id -u)
[ "$me" != 0 ] || uid=65534
dir=$tmp/victim
mkdir "$dir" && chmod 711 "$tmp" && chmod 700 "$dir" || exit 99
[ -z "$uid" ] || chown "$uid:$uid" "$dir" || exit 99
mkfifo "$tmp/ask" "$tmp/answer" || exit 99

# ------------------------------------------------------------------ the victim

# start MODE: answers with its pid
start() {
	rm -f "$dir"/*
	seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
	(cd "$dir" && exec "$program" "$1" "$seed" ${uid:+"$uid"}) \
		<"$tmp/ask" >"$tmp/answer" 2>"$tmp/stderr" &
	pid=$!
	exec 3>"$tmp/ask" 4<"$tmp/answer"
	read -r word rest <&4 || word=failed rest="the victim did not start"
	[ "$word" = ok ] && [ "$rest" = "$pid" ]
}

# say COMMAND: to a victim that may be dead
say() {
	(printf '%s\n' "$1" >&3) 2>/dev/null
}

# ask COMMAND: its answer is in $word and $rest; true for ok
ask() {
	say "$1"
	read -r word rest <&4 || word=failed rest="the victim died at $1: $(tail -n 1 "$tmp/stderr")"
	[ "$word" = ok ]
}

# stop SIGNAL: and wait until it is gone
stop() {
	kill -s "$1" "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	exec 3>&- 4<&-
	pid=''
}

# way STATE: the commands that lead there
way() {
	case $1 in
	control) ;;
	clear) echo clear ;;
	sealed) echo clear seal ;;
	resealed) echo clear seal open seal ;;
	opened) echo clear seal open ;;
	moved) echo clear seal open move ;;
	freed) echo clear seal open free ;;
	term) echo clear seal open term ;;
	locked) echo clear seal open lock ;;
	unlocked) echo clear seal open lock unlock ;;
	reopened) echo clear seal open lock unlock open ;;
	rekeyed) echo clear seal rekey ;;
	carried) echo clear seal rekey open ;;
	purged) echo clear seal open purge ;;
	timed) echo clear wait ;;
	threads) echo clear seal threads ;;
	refused) echo clear seal refuse ;;
	spilt) echo clear seal keep spill ;;
	*) echo "no state $1" ;;
	esac
}

# note: where the halves are, and the key that they make now
note() {
	ask where || return
	# shellcheck disable=SC2086 # words
	set -- $rest
	cipher=$2 slots=$6 salt=$7
	made=$("$build/tests/leak_key" "$pid" "$3" "$4" "$5" 2>&1)
	case $? in
	0) ;;
	77) word=unsupported rest=$made; return 1 ;;
	*) word=failed rest=$made; return 1 ;;
	esac
	key=${made% *} mask=${made#* }
	[ -n "$first" ] || first=$key
}

# steps STATE: the way there, and for leak_keys what is to be noted on it
steps() {
	for command in $(way "$1"); do
		echo "$command"
		case $program,$command in
		*_keys,clear) echo note ;;
		*_keys,lock) echo kek ;;
		esac
	done
	case $program,$1 in
	*_keys,locked | *_keys,purged | *_keys,term) echo gone ;;
	*_keys,*) echo note ;;
	esac
}

# step COMMAND: true if it worked
step() {
	case $1 in
	note) note ;;
	gone) key='' ;; # the last one that there was is no more
	kek) kek=$("$build/tests/leak_key" "$pid" "$salt" $((seed + 3)) 2>&1) ||
		{ word=failed rest=$kek; return 1; } ;;
	*) ask "$1" ;;
	esac
}

# reach MODE STATE: a new victim; 0 it is there, 1 a failure, 77 this machine cannot
reach() {
	mode=$1 state=$2
	there=no first='' key='' mask='' kek=''
	start "$mode" && there=yes
	for command in $(steps "$state"); do
		[ $there = no ] || step "$command" || there=no
	done
	[ $there = no ] || return 0
	stop KILL
	[ "$word" != unsupported ] || return 77
	printf '%-9s %-9s FAIL: %s %s\n' "$mode" "$state" "$word" "$rest"
	failed=$((failed + 1)) lost=$((lost + 1))
	[ $lost -lt 3 ] || { echo "test_leaks: three victims lost, giving up"; exit 1; }
	return 1
}

# --------------------------------------------------------------------- the rows

# row READER WANTED COMMAND...: run the scanner, or what calls it, on the victim, and judge.
# WANTED is how often each chunk has to be found; -: a trial, which only asks who may read.
row() {
	reader=$1 wanted=$2
	shift 2
	case " $refused " in *" $reader "*) return ;; esac
	"$@" >"$tmp/hits" 2>"$tmp/places"
	status=$?
	small=- large=- control=- others=-
	[ $status != 0 ] || read -r small large control others <"$tmp/hits"
	if [ "$wanted" = - ] && [ $status = 77 ]; then
		refused="$refused $reader"
		echo "SKIP $reader: $(tail -n 1 "$tmp/places")"
		return
	fi
	verdict=ok
	[ "$wanted" = - ] && want=0 || want=$wanted
	[ "$small $large" = "$want $want" ] || verdict=FAIL
	as_hoped || verdict="FAIL (keys)"
	[ "$control" != - ] && [ "$control" -gt 0 ] || verdict="FAIL (void)"
	rows=$((rows + 1))
	printf '%-9s %-9s %-20s %5s %5s %7s %6s  %-6s %s\n' "$mode" "$state" "$reader" \
		"$small" "$large" "$control" "$want" "$verdict" "$others"
	[ "$verdict" != ok ] || return
	failed=$((failed + 1))
	sed 's/^/        /' "$tmp/places"
}

# as_hoped: the other markers are found as often as $hoped says, or each of them, where it says so;
# and a key, if a process shows where, on the page of the slots
as_hoped() {
	if [ "$hoped" = each ]; then
		# shellcheck disable=SC2086 # words: material, provided, key, rounds, subkey, mask
		set -- $others
		[ $# = 6 ] || return
		[ "$cipher" = aes ] || set -- "$1" "$2" "$3" 1 "$5" "$6"
		for n in "$@"; do
			[ "$n" -gt 0 ] || return
		done
		return 0
	fi
	[ "$others" = "$hoped" ] || return
	case $reader in mem* | vmreadv*) ;; *) return 0 ;; esac
	places='s/^marker \([6-9]\|[1-9][0-9]\):.* at \(0x[0-9a-f]*\) in .*/\2/p'
	for at in $(sed -n "$places" "$tmp/places"); do
		[ "${at%???}" = "${slots%???}" ] || return
	done
}

# scan ARGUMENT...: for all markers, and the keys
scan() {
	# shellcheck disable=SC2086 # words
	"$scan" "$@" "$seed" 256 $((seed + 1)) 65536 $((seed + 2)) "$control_bytes" \
		$((seed + 3)) "$material_bytes" $((seed + 4)) 32 $keys
}

# sorry REASON: in place of a scan that cannot be
sorry() {
	echo "$1" >&2
	return 1
}

scan_self() {
	ask dump || { sorry "$rest"; return; }
	scan --file "$dir/self.dump"
}

gdb_quiet() {
	command -v gdb >/dev/null || { echo "gdb is not installed" >&2; return 77; }
	timeout 30 gdb -nx -q -batch -iex 'set auto-solib-add off' -iex 'set debuginfod enabled off' \
		-ex 'set use-coredump-filter off' -ex 'set dump-excluded-mappings on' "$@" \
		>"$tmp/gdb" 2>&1 </dev/null
}

# gcore_file STATUS: what gdb left with that exit status; 124: it took too long
gcore_file() {
	[ "$1" != 124 ] || rm -f "$tmp/gcore"
	if [ -s "$tmp/gcore" ]; then
		scan --file "$tmp/gcore"
		status=$?
		rm -f "$tmp/gcore"
		return $status
	fi
	[ "$1" != 77 ] || return 77
	echo "gdb left no core, exit status $1:" >&2
	tail -n 3 "$tmp/gdb" >&2
	grep -q -i 'not permitted' "$tmp/gdb" && return 77
	return 1
}

scan_gcore() {
	gdb_quiet -p "$pid" -ex "gcore $tmp/gcore" -ex detach
	gcore_file $?
}

# The victim is stopped as soon as gdb traces it, so it sees the command only afterwards.
scan_exit() {
	gdb_quiet -p "$pid" -ex 'catch syscall exit_group' -ex continue -ex "gcore $tmp/gcore" -ex kill &
	tracer=$!
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		grep -q '^TracerPid:[^0-9]*[1-9]' "/proc/$pid/status" 2>/dev/null && break
		sleep 0.3
	done
	say exit
	wait $tracer
	status=$?
	tracer=''
	gcore_file $status
}

# Ends the victim.
scan_core() {
	stop ABRT
	for f in "$dir"/core*; do
		[ -s "$f" ] || continue
		scan --file "$f"
		return
	done
	echo "the kernel wrote no core: core_pattern $(cat /proc/sys/kernel/core_pattern)," \
		"limit $(sed -n 's/^Max core file size *//p' /proc/self/limits)" >&2
	return 77
}

# by_both PREFIX WANTED PID: the readers of a pid, each as root and as the same user
by_both() {
	for how in mem vmreadv; do
		[ "$me" != 0 ] || row "$1$how/root" "$2" scan --pid "$3" $how
		row "$1$how/same" "$2" scan ${uid:+--uid "$uid"} --pid "$3" $how
	done
}

# child_of fork|raw WANTED
child_of() {
	ask "$1" || { row "$1" "$2" sorry "$rest"; return; }
	child=$rest
	row "$1-self" "$2" scan --file "$dir/child.dump"
	by_both "$1-" "$2" "$child"
	ask reap
	child=''
}

# visit MODE STATE: all readers.  What is open the victim itself finds; others do unless it is
# hidden; a child and the kernel's core do in a bare victim only.
visit() {
	reach "$1" "$2" || return
	self=0 live=0 heir=0 kin=0
	case $state in
	control) self=- live=- heir=- kin=- ;;
	clear | opened | moved | reopened | carried)
		self=1
		[ "$mode" = hidden ] || live=1
		[ "$mode" != bare ] || kin=1
		;;
	esac
	row self $self scan_self
	by_both '' $live "$pid"
	row gcore $live scan_gcore
	child_of fork $heir
	child_of raw $kin
	row core $kin scan_core
	[ -z "$pid" ] || stop KILL
}

# leave MODE STATE: the exit, without secmalloc_term but in the state term
leave() {
	case " $refused " in *" gcore "*) return ;; esac
	reach "$1" "$2" || return
	row exit 0 scan_exit
	stop KILL
}

# look_for alive|exited: the keys that this victim had, $first and $key (if one is in force still),
# the mask between the halves, and what locked them
look_for() {
	keys="$first key $mask raw" none='0 0 0' hoped='0 0 0 0 0 0'
	case $mode in
	xresident) found='0 0 1' ;; # the subkey alone
	resident) [ "$cipher" = aes ] && found='1 1 0' || found='1 0 0' ;;
	*) found=$none ;;
	esac
	[ "$1" != exited ] || found=$none
	if [ "$key" = "$first" ]; then
		hoped="0 0 $found 0"
	elif [ -n "$key" ]; then
		keys="$keys $key key" hoped="$hoped $found"
	fi
	[ -z "$kek" ] || keys="$keys $kek key" hoped="$hoped $none"
	[ "$state" != spilt ] || hoped=each
}

# key_is_sane: a rekey makes another key, and nothing else does
key_is_sane() {
	case $state in
	rekeyed | carried) [ -n "$key" ] && [ "$key" != "$first" ] ;;
	locked | purged | term) [ -z "$key" ] ;;
	*) [ "$key" = "$first" ] ;;
	esac && return
	printf '%-9s %-9s FAIL (void): the keys are %s and %s\n' "$mode" "$state" "$first" "$key"
	failed=$((failed + 1))
}

# visit_keys MODE STATE: a reader of memory, one of registers too, and what is left at the exit
visit_keys() {
	reach "$1" "$2" || { [ $? != 77 ] || echo "SKIP the keys of $1 $2: $rest"; return; }
	key_is_sane
	look_for alive
	live=0
	case $state in clear | opened | moved | reopened | carried) live=1 ;; esac
	row mem/same $live scan ${uid:+--uid "$uid"} --pid "$pid" mem
	row gcore $live scan_gcore
	case $state in
	clear | rekeyed | locked)
		look_for exited
		case " $refused " in *" gcore "*) ;; *) row exit 0 scan_exit ;; esac
		;;
	esac
	stop KILL
	keys='' hoped='0 0'
}

# A pattern that hides the core from us is changed for the time of this test.
own_core_pattern() {
	case $(cat /proc/sys/kernel/core_pattern) in
	*/* | '|'*) ;;
	core*) return ;;
	esac
	[ -w /proc/sys/kernel/core_pattern ] || return
	was=$(cat /proc/sys/kernel/core_pattern)
	echo core 2>/dev/null >/proc/sys/kernel/core_pattern && pattern=$was
}

# ---------------------------------------------------------------------- the test

own_core_pattern
printf '%-9s %-9s %-20s %5s %5s %7s %6s  %-6s %s\n' mode state reader 256B 64KiB control wanted \
	'' 'material, provided, keys'
visit plain control
[ "$word" != unsupported ] || { echo "SKIP: $rest"; exit 77; }
for m in $modes; do
	reach "$m" clear
	case $? in
	0) stop KILL ;;
	77) echo "SKIP mode $m: $rest"; continue ;;
	*) continue ;;
	esac
	for s in $states; do
		case $m,$s in
		*resident,* | provided,* | *,timed) [ "$m" = "$s" ] && visit "$m" "$s" ;;
		*,unlocked | *,refused | hidden,reopened | hidden,carried | hidden,threads) ;;
		hidden,* | plain,* | xchacha,sealed | xchacha,resealed | xchacha,opened | bare,clear)
			visit "$m" "$s"
			;;
		esac
	done
	for s in $states; do
		case $m,$s in
		[hp]*,clear | [hp]*,sealed | [hp]*,freed | [hp]*,term | plain,locked)
			leave "$m" "$s"
			;;
		esac
	done
done

program=$build/tests/leak_keys
for m in $modes; do
	for s in $states spilt; do
		case $m,$s in
		*,timed) [ "$m" = timed ] && visit_keys "$m" "$s" ;;
		plain,reopened | plain,resealed) ;;
		plain,* | xchacha,sealed | xchacha,opened | xchacha,rekeyed | xchacha,unlocked | \
			provided,sealed | provided,rekeyed | \
			*resident,sealed | *resident,rekeyed | *resident,locked | \
			resident,clear | resident,unlocked | resident,purged | resident,term)
			visit_keys "$m" "$s"
			;;
		esac
	done
done

echo "test_leaks: $rows rows, $failed failed${refused:+, readers skipped:$refused}"
[ "$rows" -gt 0 ] || exit 77
[ "$failed" = 0 ]
