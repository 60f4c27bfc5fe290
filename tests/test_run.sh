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
unset LD_PRELOAD SECMALLOC_RUN

if ! [ -e "$build/tools/secmalloc-run" ] || ! [ -e "$library" ]; then
	echo "SKIP: this build has no preloaded library"
	exit 77
fi
work=$(mktemp -d "$(pwd)/t_run.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
failed=0 passed=0

fail() {
	echo "test_run: $*" >&2
	failed=$((failed + 1))
}

pass() {
	passed=$((passed + 1))
}

# is GOT WANT WHAT
is() {
	if [ "$1" = "$2" ]; then
		pass
	else
		fail "$3: '$1', not '$2'"
	fi
}

# The launcher, with the library of this build.
launcher=$work/secmalloc-run
sed "s|^library=.*|library=$library|" "$build/tools/secmalloc-run" >"$launcher"
chmod +x "$launcher"

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

# here PROGRAM: it is installed; else say so
here() {
	command -v "$1" >/dev/null 2>&1 && return
	echo "NOT TESTED: $1 is not installed"
	return 1
}

# same NAME PROGRAM ARGUMENT...: as it is and at each clear set, standard input from $work/in
same() {
	name=$1
	shift
	here "$1" || return 0
	"$@" <"$work/in" >"$work/want" 2>"$work/want.err"
	status=$?
	for set in $sets; do
		run --clear-set "$set" "$@" <"$work/in" >"$work/got" 2>"$work/got.err"
		got=$?
		if [ "$got" != "$status" ]; then
			fail "$name at $set: status $got, not $status: $(head -n 3 "$work/got.err")"
		elif ! cmp -s "$work/want" "$work/got" || ! cmp -s "$work/want.err" "$work/got.err"; then
			fail "$name at $set: other output: $(diff "$work/want" "$work/got" | head -n 3)" \
				"$(diff "$work/want.err" "$work/got.err" | head -n 3)"
		else
			pass
		fi
	done
}

# file NAME: what follows, in a file of that name
file() {
	cat >"$work/$1"
}

: >"$work/in"
file threads.py <<'END'
import threading, json, subprocess, sys
def work(i, out):
    d = {str(k): [k, str(k) * 5] for k in range(300)}
    for n in range(3):
        d = json.loads(json.dumps(d))
    out[i] = len(json.dumps(d)) + i
out = {}
ts = [threading.Thread(target=work, args=(i, out)) for i in range(4)]
for t in ts: t.start()
for t in ts: t.join()
print(sorted(out.items()))
print(subprocess.run(["tr", "a-z", "A-Z"], input="words", capture_output=True, text=True).stdout)
print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout)
END
file words.pl <<'END'
my %h; $h{($_ * 7919) % 509} .= "x$_" for 1 .. 5000;
print length(join ",", map { "$_=$h{$_}" } sort keys %h), "\n";
END
file rows.sql <<'END'
create table t(a integer primary key, b text);
with recursive c(i) as (select 1 union all select i + 1 from c where i < 5000)
	insert into t select i, hex(i * 31) from c;
create index tb on t(b);
select count(*), sum(length(b)), max(b) from t;
select b from t order by b desc limit 3;
END
file forks.sh <<'END'
n=0 text=
for i in 1 2 3 4 5 6 7 8 9 10; do for j in 1 2 3 4 5 6 7 8 9 10; do
	n=$((n + $(echo $((i * j))))); text="$text$i"; done; done
echo "$n ${#text}" $(printf '%s\n' c a b | sort) <(:) | tr -d '/' | sed 's/dev.*//'
END
file one.c <<'END'
#include <stdio.h>
#include <stdlib.h>
int main(void) { for (int i = 0; i < 3; i++) printf("%d %s\n", i, "line"); return 0; }
END
file genrsa.sh <<'END'
openssl genrsa -out "$1" 2048 2>/dev/null && openssl rsa -check -noout -in "$1" 2>&1
END
awk 'BEGIN { for (i = 0; i < 25000; i++) print (i * 7919) % 100003, "line" }' >"$work/lines"

same ls ls -l "$src/src/heap"
same python3 python3 "$work/threads.py"
same perl perl "$work/words.pl"
cp "$work/rows.sql" "$work/in"
same sqlite3 sqlite3 :memory:
: >"$work/in"
same sort sort -n "$work/lines"
same gcc "${CC%% *}" -c -o "$work/one.o" "$work/one.c"
if here openssl; then
	for set in $sets; do
		key=$work/key.$set
		run --clear-set "$set" openssl genrsa -out "$key" 2048 2>"$work/err"
		run --clear-set "$set" openssl rsa -check -noout -in "$key" >"$work/got" 2>&1
		is "$?:$(cat "$work/got")" '0:RSA key ok' "openssl at $set"
		openssl rsa -check -noout -in "$key" >"$work/got" 2>&1
		is "$?:$(cat "$work/got")" '0:RSA key ok' "openssl, of a key made at $set"
	done
fi
if here git; then
	(cd "$work" && git init -q repository && cd repository && for i in 1 2 3 4 5 6 7 8; do
		echo "$i" >file
		git add file
		git -c user.name=a -c user.email=a@b commit -q -m "change $i"
	done)
	same git git --no-pager -C "$work/repository" log --stat -p
fi
same bash bash "$work/forks.sh"

# ------------------------------------------------------- a program made for the purpose

for part in family threads kernel end spawn loaded ids keep forks fork_threads; do
	for set in $sets; do
		run --clear-set "$set" "$victim" "$part" >"$work/got" 2>"$work/err"
		is "$?:$(head -n 3 "$work/err")" 0: "run_victim $part at $set"
	done
done
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
if [ "$(id -u)" = 0 ] && here setpriv && [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ]; then
	open=$(mktemp -d)
	cp "$library" "$victim" "$open"
	sed "s|^library=.*|library=$open/libsecmalloc-preload.so|" "$launcher" >"$open/run"
	chmod -R a+rX "$open"
	drop='setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all --bounding-set -all'
	$drop sh "$open/run" "$open/run_victim" loaded 2>"$work/err"
	is "$?:$(grep -c 'CAP_SYS_PTRACE.*vm.unprivileged_userfaultfd=1.*udev' "$work/err")" 2:1 \
		"without privilege: $(cat "$work/err")"
	$drop sh "$open/run" --mode signal --stats "$open/run_victim" loaded 2>"$work/err"
	is "$?:$(grep -c 'mode signal' "$work/err")" 0:1 "--mode signal: $(cat "$work/err")"
	rm -rf "$open"
fi

[ "$failed" = 0 ] || fail "$((failed)) of $((failed + passed)) failed"
[ "$failed" = 0 ] || exit 1
echo "$passed comparisons, parts and refusals as they should be"
