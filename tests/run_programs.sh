# shellcheck shell=sh
# run_programs.sh - programs as they are and under secmalloc-run; for test_run.sh and soak_programs.sh
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Sourced by a script that sets src (our sources), work (a folder of its own), sets (the clear sets),
# runs (how often at each), CC, and `run`, which is secmalloc-run with the library under test. What a
# program writes and its status must be the same as without it. One that is not installed is left
# out, and named.

: "${src:?} ${work:?} ${sets:?} ${runs:?} ${CC:?}"
failed=0 passed=0

fail() {
	echo "${0##*/}: $*" >&2
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

# here PROGRAM: it is installed; else say so
here() {
	command -v "$1" >/dev/null 2>&1 && return
	[ -x "/usr/sbin/$1" ] && return
	echo "NOT TESTED: $1 is not installed"
	return 1
}

# file NAME: what follows, in a file of that name
file() {
	cat >"$work/$1"
}

# launcher_for LIBRARY TEMPLATE: a launcher in $work that loads that one
launcher_for() {
	launcher=$work/secmalloc-run
	sed "s|^library=.*|library=$1|" "$2" >"$launcher"
	chmod +x "$launcher"
}

# told NAME SET FAILURES SECONDS: a name has had its runs at this size; for who wants to know
told() {
	:
}

# each NAME FUNCTION [ARGUMENT]...: so many runs at each clear set, which is in $set
each() {
	name=$1
	shift
	for set in $sets; do
		run_number=0 bad=0 began=$(date +%s)
		while [ "$run_number" -lt "$runs" ]; do
			run_number=$((run_number + 1)) before=$failed
			"$@"
			[ "$failed" = "$before" ] || bad=$((bad + 1))
		done
		told "$name" "$set" "$bad" $(($(date +%s) - began))
	done
}

# once PROGRAM ARGUMENT...: as it has answered in $work/want
once() {
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
}

# same NAME PROGRAM ARGUMENT...: as it is and at each clear set, standard input from $work/in
same() {
	here "$2" || return 0
	of=$1
	shift
	"$@" <"$work/in" >"$work/want" 2>"$work/want.err"
	status=$?
	each "$of" once "$@"
}

# await FILE WORD: until a server has written it, or some 60 seconds
await() {
	waited=0
	until grep -q "$2" "$1" 2>/dev/null; do
		waited=$((waited + 1))
		[ "$waited" -lt 1200 ] || return 1
		sleep 0.05
	done
}

# -------------------------------------------------------------------------- inputs

make_inputs() {
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
	awk 'BEGIN { for (i = 0; i < 25000; i++) print (i * 7919) % 100003, "line" }' >"$work/lines"
	here openssl >/dev/null || return 0
	openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
		-addext subjectAltName=DNS:localhost -keyout "$work/server.key" \
		-out "$work/server.crt" 2>/dev/null || fail "openssl makes no certificate"
}

# ------------------------------------------------------------------------ programs

program_ls() {
	same ls ls -l "$src/src/heap"
}

program_python() {
	same python3 python3 "$work/threads.py"
}

program_perl() {
	same perl perl "$work/words.pl"
}

program_sqlite() {
	cp "$work/rows.sql" "$work/in"
	same sqlite3 sqlite3 :memory:
	: >"$work/in"
}

program_bash() {
	same bash bash "$work/forks.sh"
}

# A key is made, found good under secmalloc-run, and without it.
genrsa() {
	rm -f "$work/key"
	run --clear-set "$set" openssl genrsa -out "$work/key" 2048 2>"$work/err" ||
		fail "openssl genrsa at $set: $(head -n 3 "$work/err")"
	run --clear-set "$set" openssl rsa -check -noout -in "$work/key" >"$work/got" 2>&1
	is "$?:$(cat "$work/got")" '0:RSA key ok' "openssl at $set"
	openssl rsa -check -noout -in "$work/key" >"$work/got" 2>&1
	is "$?:$(cat "$work/got")" '0:RSA key ok' "openssl, of a key made at $set"
}

program_genrsa() {
	! here openssl || each 'openssl genrsa' genrsa
}

# One file over loopback; the port is the kernel's choice.
exchange() {
	: >"$work/accept"
	(cd "$work" && run --clear-set "$set" openssl s_server -accept 127.0.0.1:0 -WWW -naccept 1 \
		-cert server.crt -key server.key >accept 2>err </dev/null) &
	server=$!
	if await "$work/accept" '^ACCEPT.*[0-9]'; then
		port=$(sed -n 's/^ACCEPT.*:\([0-9]*\)$/\1/p' "$work/accept")
		printf 'GET /lines HTTP/1.0\r\n\r\n' | run --clear-set "$set" openssl s_client \
			-quiet -verify_quiet -verify_return_error -servername localhost \
			-CAfile "$work/server.crt" -connect "127.0.0.1:$port" >"$work/got" 2>"$work/got.err"
		is "$?:$(cat "$work/got.err")" 0: "openssl s_client at $set"
	else
		fail "openssl s_server at $set does not listen: $(cat "$work/err")"
	fi
	wait "$server"
	is "$?:$(cat "$work/err")" 0:FILE:lines "openssl s_server at $set"
	if sed '1,/^.$/d' "$work/got" | cmp -s - "$work/lines"; then
		pass
	else
		fail "openssl s_server at $set: another file: $(head -n 5 "$work/got")"
	fi
}

program_exchange() {
	! here openssl || each 'openssl s_server' exchange
}

# A file of ours, as the makefile would.
compile() {
	rm -f "$work/got.o"
	run --clear-set "$set" "${CC%% *}" -O2 -D_GNU_SOURCE -I"$src/include" -I"$src/src" \
		-c -o "$work/got.o" "$src/src/base/lock.c" 2>"$work/err"
	is "$?:$(cat "$work/err")" 0: "gcc at $set"
	cmp -s "$work/want.o" "$work/got.o" || fail "gcc at $set: another object"
}

program_gcc() {
	here "${CC%% *}" || return 0
	"${CC%% *}" -O2 -D_GNU_SOURCE -I"$src/include" -I"$src/src" -c -o "$work/want.o" \
		"$src/src/base/lock.c" || fail "gcc does not compile src/base/lock.c"
	each gcc compile
}

# A repository, and what its log is: ours where there is one.
make_repository() {
	if [ -e "$src/.git" ] && [ "${1-}" = ours ]; then
		git clone -q --bare "file://$src" "$work/repository" || fail "git clones nothing"
	else
		(cd "$work" && git init -q repository && cd repository &&
			for i in 1 2 3 4 5 6 7 8; do
				echo "$i" >file
				git add file
				git -c user.name=a -c user.email=a@b commit -q -m "change $i"
			done)
	fi
}

program_git_log() {
	same 'git log' git --no-pager -C "$work/repository" log -n 40 --stat -p
}

clone() {
	rm -rf "$work/clone"
	run --clear-set "$set" git clone -q "file://$work/repository" "$work/clone" 2>"$work/err"
	is "$?:$(cat "$work/err")" 0: "git clone at $set"
	is "$(git -C "$work/clone" log --format=%H 2>&1 | cksum)" "$hashes" "git clone at $set, its log"
	is "$(git -C "$work/clone" fsck --full 2>/dev/null; git -C "$work/clone" status -s 2>&1)" '' \
		"git clone at $set, its objects"
}

program_git_clone() {
	hashes=$(git -C "$work/repository" log --format=%H | cksum)
	each 'git clone' clone
}
