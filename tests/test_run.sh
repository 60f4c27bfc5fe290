#!/bin/sh
# test_run.sh - programs do under secmalloc-run what they do without it, or are refused with a reason
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Each program runs as it is and with clear sets of 32, 256 and 4096 pages; what it writes and its
# status must be the same. A program that is not installed is left out, and named.
#
# Environment: top_srcdir, top_builddir, CC.
set -u
LC_ALL=C
export LC_ALL

src=${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}
build=${top_builddir:-$(pwd)}
library=$build/.libs/libsecmalloc-preload.so
victim=$build/tests/run_victim
sets='128K 1M 16M'
CC=${CC:-cc}
unset LD_PRELOAD SECMALLOC_RUN

if ! [ -e "$build/tools/secmalloc-run" ] || ! [ -e "$library" ]; then
	echo "SKIP: this build has no preloaded library"
	exit 77
fi
work=$(mktemp -d "$(pwd)/t_run.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
runs=1
# shellcheck source=tests/run_programs.sh
. "$src/tests/run_programs.sh"
launcher_for "$library" "$build/tools/secmalloc-run"

# run ARGUMENT...: secmalloc-run, not for long
run() {
	timeout 60 "$launcher" "$@"
}

run true 2>"$work/err"
case $?:$(cat "$work/err") in
0:*) ;;
2:*"only a thread"* | 2:*userfaultfd*)
	echo "SKIP: this machine cannot do it: $(cat "$work/err")"
	exit 77
	;;
*)
	fail "'secmalloc-run true' failed: $(cat "$work/err")"
	exit 1
	;;
esac

# ------------------------------------------------------------------ one and the other

make_inputs
program_ls
program_python
program_perl
program_sqlite
same sort sort -n "$work/lines"
same gcc "${CC%% *}" -c -o "$work/one.o" "$work/one.c"
program_genrsa
all=$sets sets=1M # it takes seconds with less
program_exchange
sets=$all
if here git; then
	make_repository small
	program_git_log
	program_git_clone
fi
program_bash

# ------------------------------------------------------- a program made for the purpose

for part in family threads kernel end spawn loaded ids keep forks fork_threads; do
	for set in $sets; do
		run --clear-set "$set" "$victim" "$part" >"$work/got" 2>"$work/err"
		is "$?:$(head -n 3 "$work/err")" 0: "run_victim $part at $set"
	done
done
for set in $sets; do
	run --clear-set "$set" "$build/tests/run_locks" >"$work/got" 2>"$work/err"
	is "$?:$(head -n 3 "$work/err")" 0: "run_locks at $set"
done
"$build/tests/run_direct" "$work/direct"
case $? in
0)
	for set in $sets; do
		run --clear-set "$set" "$build/tests/run_direct" "$work/direct" 2>"$work/err"
		is "$?:$(head -n 3 "$work/err")" 0: "run_direct at $set"
	done
	;;
3) echo "NOT TESTED: O_DIRECT, which this folder has not" ;;
*) fail "run_direct fails as it is" ;;
esac
same "run_victim end" "$victim" end
run "$victim" twice 2>"$work/err"
is "$?:$(grep -c 'double free' "$work/err")" 134:1 "a second free"

# ----------------------------------------------------------------- options and refusals

# answers STATUS TEXT ARGUMENT...: secmalloc-run ends so, and says that
answers() {
	want=$1 text=$2
	shift 2
	run "$@" >"$work/got" 2>&1
	status=$?
	if [ "$status" != "$want" ] || ! grep -q -e "$text" "$work/got"; then
		fail "secmalloc-run $*: status $status, not $want with '$text': $(head -n 3 "$work/got")"
	else
		pass
	fi
}

answers 0 'usage: secmalloc-run' --help
answers 0 'secmalloc-run [0-9]' --version
answers 2 'no program' --stats
answers 2 'unknown option --sets' --sets true
answers 2 'wants a value' --clear-set
for size in 0 -1 1k M 1.5M 1T 99999999999G '' 010; do
	answers 2 'use a number of bytes' --clear-set "$size" true
done
answers 2 'use a number of milliseconds' --reseal 0 true
answers 2 'no such folder' --store "$work/none" true
answers 2 'use thread, signal or slots' --mode none true
answers 2 'no daemon listens' --daemon="$work/none/daemon" true
answers 2 'there is a comma' --daemon=/a,b true
answers 2 'needs --mode thread' --daemon --mode signal true
answers 127 'not found' "$work/none"
answers 127 'not found' no-such-program
answers 126 'cannot be run' "$work"
answers 126 'cannot be run' "$work/lines"
answers 7 word -- sh -c 'echo word; exit 7'
answers 0 'mode thread, [1-9].* pages opened' --stats --clear-set=1G --reseal 5 ls
# More than the clear set holds: pages are closed, and no more are clear at once than may be.
run --stats --clear-set=128K awk 'BEGIN { for (i = 0; i < 9999; i++) a[i] = i "" i }' 2>"$work/err"
is "$(awk '{ print ($4 > 100), ($7 > 100), ($9 > 65536 && $9 <= 262144) }' "$work/err")" '1 1 1' \
	"opened, closed, clear at most: $(cat "$work/err")"
# The line at the end goes into no file of the program's, whatever that has closed before.
if command -v python3 >/dev/null 2>&1; then
	cat >"$work/closes.py" <<-'END'
	import os, sys
	os.closerange(3, 2048)
	mine = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
	for to in range(890, 920):
	    try:
	        os.dup2(mine, to)
	    except OSError:
	        pass
	END
	answers 0 'mode thread' --stats python3 "$work/closes.py" "$work/mine"
	is "$(cat "$work/mine")" '' 'a file of the program'
fi

# shellcheck disable=SC2016 # for the other shell
is "$(run sh -c 'echo "$0-$1"' a 'b  c')" 'a-b  c' arguments

# shellcheck disable=SC2016
is "$(LD_PRELOAD=libm.so.6 run sh -c 'echo "$LD_PRELOAD"' 2>&1)" "$library:libm.so.6" LD_PRELOAD

# refused NAME TEXT: a program of that name in $work is not started
refused() {
	chmod "$2" "$work/$1"
	answers 2 "$3" "$work/$1" true
}

cp "$victim" "$work/privileged"
refused privileged 4755 set-uid
refused privileged 2755 set-uid
if here setcap && cp "$victim" "$work/capable" && setcap cap_net_raw+ep "$work/capable"; then
	refused capable 755 'file capabilities'
fi
echo 'int main(void) { return 0; }' >"$work/static.c"
# shellcheck disable=SC2086 # CC may be several words
if ${CC:-cc} -static -o "$work/static" "$work/static.c" 2>/dev/null; then
	refused static 755 'statically linked'
else
	echo "NOT TESTED: a static program, which this compiler cannot make"
fi
# Program headers may lie anywhere: here behind all else.
if command -v python3 >/dev/null 2>&1; then
	cat >"$work/away.py" <<-'END'
	import struct, sys
	d = bytearray(open(sys.argv[1], "rb").read())
	big = d[4] == 2
	order = "<" if d[5] == 1 else ">"
	at = struct.unpack_from(order + ("Q" if big else "I"), d, 32 if big else 28)[0]
	size, count = struct.unpack_from(order + "HH", d, 54 if big else 42)
	struct.pack_into(order + ("Q" if big else "I"), d, 32 if big else 28, len(d))
	open(sys.argv[2], "wb").write(d + d[at:at + size * count])
	END
	for name in static run_victim; do
		from=$work/$name
		[ "$name" = static ] || from=$victim
		[ -e "$from" ] || continue
		python3 "$work/away.py" "$from" "$work/away"
		chmod 755 "$work/away"
		run "$work/away" >"$work/got" 2>&1
		status=$?
		is "$((status == 2)):$(grep -c 'statically linked' "$work/got")" \
			"$([ "$name" = static ] && echo 1:1 || echo 0:0)" "headers away: $name"
	done
fi
# The launcher starts few programs, as each costs a millisecond: numbers of processes come in turn,
# and others may have some in between.
least=99
for _ in 1 2 3 4 5 6 7 8; do
	# shellcheck disable=SC2016 # for the other shell
	run sh -c 'echo $$; sh -c "echo \$\$"; exit' >"$work/got"
	used=$(awk '{ n[NR] = $1 } END { print n[2] - n[1] }' "$work/got")
	[ "$used" -gt 0 ] && [ "$used" -lt "$least" ] && least=$used
done
is "$((least <= 30))" 1 "a start takes $least processes and threads"
echo "#!$work/privileged" >"$work/script"
refused script 755 set-uid
echo '#include <stddef.h>
static _Alignas(16) char bytes[1 << 20]; static size_t used;
void *malloc(size_t n) { used += (n + 31) & ~(size_t)15; return bytes + used - ((n + 15) & ~(size_t)15); }
void *calloc(size_t n, size_t m) { return malloc(n * m); }
void free(void *p) { (void)p; }
int main(void) { return 0; }' >"$work/own.c"
# shellcheck disable=SC2086 # CC may be several words
${CC:-cc} -fno-builtin -rdynamic -o "$work/own" "$work/own.c" || fail "own.c does not compile"
refused own 755 'malloc of its own'
echo 'echo no line with an interpreter' >"$work/script"
refused script 755 'neither a program nor a script'
# shellcheck disable=SC2016
printf '#!/bin/sh\necho "$1"\n' >"$work/script"
chmod 755 "$work/script"
answers 0 true "$work/script" true
dd if="$victim" bs=1 count=18 of="$work/foreign" 2>/dev/null
printf '\377\377' >>"$work/foreign"
refused foreign 755 'another machine'
nm -D --defined-only "$library" 2>/dev/null | awk '{ print $3 }' | sort >"$work/got"
sed -n 's/^\t\([a-z0-9_]*\);$/\1/p' "$src/preload/preload.map" | sort >"$work/want"
if cmp -s "$work/want" "$work/got"; then
	pass
else
	fail "the library shows other names than its map: $(diff "$work/want" "$work/got")"
fi

# Whoever may not have a thread for it is told what would help, unless that is what he wants.
open='' drop=''
if [ "$(id -u)" = 0 ] && here setpriv && [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ]; then
	open=$(mktemp -d)
	cp "$library" "$victim" "$open"
	sed "s|^library=.*|library=$open/libsecmalloc-preload.so|" "$launcher" >"$open/run"
	chmod -R a+rX "$open"
	drop='setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all --bounding-set -all'
	if $drop test -r /dev/userfaultfd; then
		drop=
		echo "NOT TESTED: who may not have a thread, as all may open /dev/userfaultfd"
	fi
fi
if [ -n "$drop" ]; then
	$drop sh "$open/run" "$open/run_victim" loaded 2>"$work/err"
	is "$?:$(grep -c 'CAP_SYS_PTRACE.*vm.unprivileged_userfaultfd=1.*udev' "$work/err")" 2:1 \
		"without privilege: $(cat "$work/err")"
	$drop sh "$open/run" --mode signal --stats "$open/run_victim" loaded 2>"$work/err"
	is "$?:$(grep -c 'mode signal' "$work/err")" 0:1 "--mode signal: $(cat "$work/err")"
fi
[ -z "$open" ] || rm -rf "$open"

[ "$failed" = 0 ] || fail "$((failed)) of $((failed + passed)) failed"
[ "$failed" = 0 ] || exit 1
echo "$passed comparisons, parts and refusals as they should be"
