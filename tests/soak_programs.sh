#!/bin/sh
# soak_programs.sh - real programs under secmalloc-run, again and again: a part of `make soak`
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Each at clear sets of 32, 256 and 4096 pages; what it answers must be what it answers without. One
# line for each program and size: runs, failures, seconds. As root, and then, where it finds
# /dev/userfaultfd open to all, as nobody: with 256 MiB of memory that may be locked (or
# CAP_IPC_LOCK, where root may not raise that), and with 8 MiB. Of what hangs the stacks are shown
# before it is killed. Status 1: something failed.
#
# Environment: top_srcdir, top_builddir, CC; SECMALLOC_RUNS (20), SECMALLOC_USERS (of "root nobody
# nobody8"), SECMALLOC_PROGRAMS (the names below), SECMALLOC_SETS, SECMALLOC_PATIENCE (300 seconds
# for one run).
set -u
LC_ALL=C
export LC_ALL

src=$(cd "${top_srcdir:-$(dirname "$0")/..}" && pwd)
build=${top_builddir:-$(pwd)}
CC=${CC:-cc}
runs=${SECMALLOC_RUNS:-20}
patience=${SECMALLOC_PATIENCE:-300}
programs=${SECMALLOC_PROGRAMS:-ls bash python perl sqlite genrsa exchange gcc git_log git_clone redis
	nginx figures make}
sets=${SECMALLOC_SETS:-128K 1M 16M}
unset LD_PRELOAD SECMALLOC_RUN
PATH=$PATH:/usr/sbin:/sbin

# ---------------------------------------------------------------- who, and where from

# share: what every user may read, of sources and build, in $shared
share() {
	shared=$(mktemp -d "${TMPDIR:-/tmp}/sm_soak.XXXXXX")
	mkdir "$shared/tests" "$shared/tools" "$shared/.libs"
	cp -R "$src/src" "$src/include" "$shared"
	cp "$src/tests/run_programs.sh" "$src/tests/soak_programs.sh" "$shared/tests"
	cp "$build/tools/secmalloc-run" "$shared/tools"
	cp "$build/.libs/libsecmalloc-preload.so" "$shared/.libs"
	# shellcheck disable=SC2086 # CC may be several words
	$CC -std=gnu11 -D_GNU_SOURCE -O1 -fno-builtin -fPIC -shared -o "$shared/count.so" \
		"$src/tests/count_malloc.c" -ldl || exit 1
	[ ! -e "$src/.git" ] || git clone -q --bare "file://$src" "$shared/.git" || exit 1
	chmod -R a+rX "$shared"
}

# as LABEL COMMAND...: this script once more, started by that command
as() {
	SECMALLOC_LABEL=$1 SECMALLOC_RUNS=$runs SECMALLOC_PATIENCE=$patience SECMALLOC_SETS=$sets
	SECMALLOC_PROGRAMS=$programs SECMALLOC_SOURCES=$src
	export SECMALLOC_LABEL SECMALLOC_RUNS SECMALLOC_PATIENCE SECMALLOC_SETS SECMALLOC_PROGRAMS \
		SECMALLOC_SOURCES CC
	shift
	"$@" env top_srcdir="$shared" top_builddir="$shared" sh "$shared/tests/soak_programs.sh" ||
		worst=1
}

drop='setpriv --reuid 65534 --regid 65534 --clear-groups'
nobody="$drop --inh-caps -all --bounding-set -all"
locker="$drop --inh-caps -all,+ipc_lock --ambient-caps -all,+ipc_lock --bounding-set -all,+ipc_lock"

# granted COMMAND...: where /dev/userfaultfd is open to all, as a udev rule would do; nowhere else
granted() {
	device=/dev/userfaultfd
	[ -e "$shared/device" ] || mknod -m 666 "$shared/device" c \
		"0x$(stat -c %t "$device")" "0x$(stat -c %T "$device")" || exit 1
	# shellcheck disable=SC2016 # for the other shell
	unshare -m sh -c 'mount --bind "$0" "$1" && shift && exec "$@"' "$shared/device" "$device" "$@"
}

if [ -z "${SECMALLOC_LABEL-}" ]; then
	if ! [ -e "$build/tools/secmalloc-run" ] || ! [ -e "$build/.libs/libsecmalloc-preload.so" ]; then
		echo "left out: programs: this build has no preloaded library"
		exit 0
	fi
	worst=0
	trap 'rm -rf "$shared"' EXIT
	trap 'exit 1' HUP INT TERM
	share
	if [ "$(id -u)" != 0 ]; then
		as "$(id -un)"
		exit "$worst"
	fi
	for user in ${SECMALLOC_USERS:-root nobody nobody8}; do
		case $user in
		root) as root ;;
		nobody)
			# shellcheck disable=SC2086
			if prlimit --memlock=268435456 true 2>/dev/null; then
				as nobody granted prlimit --memlock=268435456 $nobody
			else
				as 'nobody, IPC_LOCK' granted $locker
			fi
			;;
		nobody8)
			# shellcheck disable=SC2086
			as 'nobody, 8 MiB' granted prlimit --memlock=8388608 $nobody
			;;
		esac
	done
	exit "$worst"
fi

# ------------------------------------------------------------------- one user's share

label=$SECMALLOC_LABEL
work=$(mktemp -d "${TMPDIR:-/tmp}/sm_work.XXXXXX")
chmod 755 "$work"
HOME=$work
export HOME
trap 'kill $(ours) 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The programs look for it by this path, so those that have it are this script's.
cp "$build/.libs/libsecmalloc-preload.so" "$work"
# shellcheck source=tests/run_programs.sh
. "$src/tests/run_programs.sh"
launcher_for "$work/libsecmalloc-preload.so" "$build/tools/secmalloc-run"

# ours: all processes with that library
ours() {
	for folder in /proc/[0-9]*; do
		tr '\0' '\n' 2>/dev/null <"$folder/environ" |
			grep -q "^LD_PRELOAD=.*$work/libsecmalloc-preload.so" && echo "${folder#/proc/}"
	done 2>/dev/null
}

# stacks: where they all are
stacks() {
	for pid in $(ours); do
		echo "$label: $name: process $pid hangs: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
		for task in "/proc/$pid/task"/*; do
			echo "  ${task##*/} $(sed -n 's/^State:.//p' "$task/status")" \
				"$(cat "$task/wchan") $(cat "$task/syscall" 2>/dev/null)"
			cat "$task/stack" 2>/dev/null
		done
		! command -v gdb >/dev/null 2>&1 ||
			LD_PRELOAD='' timeout 30 gdb -p "$pid" -batch -ex 'thread apply all bt 30' 2>/dev/null
	done
}

# watched PROCESS: returns its status; what takes too long is shown and killed
watched() {
	(
		nap=''
		trap 'kill $nap 2>/dev/null; exit' TERM
		sleep "$patience" &
		nap=$!
		wait "$nap"
		stacks >&2
		# shellcheck disable=SC2046
		kill -9 $(ours) "$1"
	) >/dev/null &
	watch=$!
	wait "$1"
	ended=$?
	kill "$watch" 2>/dev/null
	wait "$watch" 2>/dev/null
	return "$ended"
}

# run ARGUMENT...: secmalloc-run
run() {
	{ "$launcher" "$@" <&3 3<&- & } 3<&0
	watched $!
}

told() {
	printf '%-16s %-16s %-5s %3s runs %3s failures %5s s\n' "$label" "$1" "$2" "$runs" "$3" "$4"
}

# ------------------------------------------------------------------- from outside

# clear_of PROCESS: KiB of open pages, while it stands still
clear_of() {
	kill -STOP "$1" 2>/dev/null || return 1
	until ! grep -qs '^State:.R' "/proc/$1/task"/*/status; do
		:
	done
	awk '/^Rss:/ { rss = $2 } /^VmFlags:/ && / um / && / dc / { sum += rss } END { print sum + 0 }' \
		"/proc/$1/smaps" 2>/dev/null
	kill -CONT "$1" 2>/dev/null
}

# limit_of SET: KiB that may be clear, with the reserve
limit_of() {
	case $1 in
	128K) echo 256 ;;
	1M) echo 1152 ;;
	16M) echo 16512 ;;
	esac
}

# check_clear PROCESS WHAT: no more is clear than may be, and something is
check_clear() {
	seen=$(clear_of "$1")
	if [ "${seen:-0}" -gt 0 ] && [ "$seen" -le "$(limit_of "$set")" ]; then
		pass
	else
		fail "$2 at $set: ${seen:-no} KiB are clear, of $(limit_of "$set")"
	fi
}

# ------------------------------------------------------------------------- servers

redis_ask() {
	timeout 60 redis-cli -s "$work/redis.sock" "$@"
}

redis() {
	rm -f "$work/redis.sock" "$work/redis.log" "$work/dump.rdb"
	run --clear-set "$set" redis-server --port 0 --unixsocket "$work/redis.sock" --save '' \
		--dir "$work" --pidfile "$work/redis.pid" >"$work/redis.log" 2>&1 </dev/null &
	server=$!
	await "$work/redis.log" 'eady to accept' || fail "redis at $set: $(tail -n 3 "$work/redis.log")"
	timeout 120 redis-benchmark -s "$work/redis.sock" -n 400 -c 10 -d 200 -q \
		-t set,get,lpush,hset >"$work/got" 2>&1 || fail "redis-benchmark at $set: $(cat "$work/got")"
	check_clear "$(redis_ask info server | tr -d '\r' | sed -n 's/^process_id://p')" redis
	is "$(redis_ask <"$work/redis.set" | sort | uniq -c | tr -s ' ')" ' 300 OK' "redis at $set, set"
	is "$(redis_ask <"$work/redis.get" | cksum)" "$(cksum <"$work/redis.want")" "redis at $set, get"
	redis_ask bgsave >/dev/null
	await_save
	is "$(redis_ask <"$work/redis.get" | cksum)" "$(cksum <"$work/redis.want")" \
		"redis at $set, get after a save"
	redis_ask shutdown nosave >"$work/got" 2>&1
	wait "$server"
	is $? 0 "redis at $set: $(tail -n 3 "$work/redis.log")"
	# What the child wrote is whole, for a server that runs as it is.
	is "$(redis-check-rdb "$work/dump.rdb" 2>&1 | grep -c 'RDB looks OK')" 1 "redis at $set, its file"
}

await_save() {
	for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		redis_ask info persistence | tr -d '\r' >"$work/got"
		grep -q '^rdb_bgsave_in_progress:0' "$work/got" && break
		sleep 0.5
	done
	is "$(grep '^rdb_last_bgsave_status' "$work/got")" rdb_last_bgsave_status:ok \
		"redis at $set, turn $turn of a save"
	[ -s "$work/dump.rdb" ] || fail "redis at $set: nothing was saved"
}

program_redis() {
	here redis-server && here redis-benchmark || return 0
	awk -v s="$work/redis.set" -v g="$work/redis.get" -v w="$work/redis.want" 'BEGIN {
		for (i = 0; i < 300; i++) {
			v = "v"
			for (j = 0; j < i % 50; j++)
				v = v i "-" j
			print "set", "key" i, v >s
			print "get", "key" i >g
			print v >w
		}
	}'
	each redis redis
}

nginx_conf() {
	[ "$(id -u)" = 0 ] && echo 'user nobody nogroup;'
	cat <<END
worker_processes 2;
daemon off;
pid $work/nginx.pid;
error_log $work/nginx.err;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path $work/t1; proxy_temp_path $work/t2; fastcgi_temp_path $work/t3;
	uwsgi_temp_path $work/t4; scgi_temp_path $work/t5;
	gzip on; gzip_types *;
	server {
		listen unix:$work/nginx.sock ssl;
		ssl_certificate $work/server.crt; ssl_certificate_key $work/server.key;
		root $work/www;
	}
}
END
}

ask_nginx() {
	for turn in 1 2 3 4 5; do
		timeout 60 curl -sS --compressed --cacert "$work/server.crt" \
			--unix-socket "$work/nginx.sock" https://localhost/lines >"$work/got" 2>"$work/got.err"
		is "$?:$(cat "$work/got.err")" 0: "nginx at $set, turn $turn"
		cmp -s "$work/got" "$work/lines" || fail "nginx at $set: another file"
	done
}

nginx_once() {
	rm -f "$work/nginx.sock" "$work/nginx.pid" "$work/nginx.err"
	run --clear-set "$set" nginx -e "$work/nginx.err" -c "$work/nginx.conf" \
		>"$work/nginx.out" 2>&1 </dev/null &
	server=$!
	await "$work/nginx.pid" '[0-9]' || fail "nginx at $set: $(cat "$work/nginx.err" "$work/nginx.out")"
	master=$(cat "$work/nginx.pid")
	ask_nginx
	workers=$(cat "/proc/$master/task/$master/children")
	for worker in $workers; do
		is "$(awk '/^Uid:/ { print $2, $3, $4, $5 }' "/proc/$worker/status")" \
			'65534 65534 65534 65534' "nginx at $set, a worker's user"
		is "$(cat "/proc/$worker/task"/*/status | awk '/^Uid:/ { print $2, $3 }' | sort -u)" \
			'65534 65534' "nginx at $set, the users of a worker's threads"
		check_clear "$worker" "nginx's worker"
	done
	is "$(echo "$workers" | wc -w)" 2 "nginx at $set, workers"
	kill -QUIT "$master"
	wait "$server"
	is "$?:$(grep -c 'alert\|emerg\|exited on' "$work/nginx.err")" 0:0 \
		"nginx at $set: $(cat "$work/nginx.err" "$work/nginx.out")"
}

program_nginx() {
	here nginx && here curl || return 0
	mkdir -p "$work/www"
	cp "$work/lines" "$work/www/lines"
	chmod -R a+rX "$work/www"
	nginx_conf >"$work/nginx.conf"
	each nginx nginx_once
}

# ------------------------------------------------------------------------- figures

# counted PROGRAM...: with --stats, its calls counted by another library, its clear pages seen from
# outside
counted() {
	rm -f "$work/count"
	# shellcheck disable=SC2016 # for the other shell
	{ sh -c 'n=$1 preload=$2
		shift 2
		COUNT_PID=$$ SECMALLOC_RUN=mode=thread,clear=$n,stats=$$ LD_PRELOAD=$preload exec "$@"' \
		sh "$(($(limit_of "$set") * 1024 - 131072))" "$src/count.so:$work/libsecmalloc-preload.so" \
		"$@" <&3 3<&- >"$work/got" 2>"$work/got.err" & } 3<"$work/in"
	pid=$! most=0 samples=0
	while kill -0 "$pid" 2>/dev/null && seen=$(clear_of "$pid"); do
		[ "${seen:-0}" -le "$most" ] || most=$seen
		samples=$((samples + 1))
		sleep 0.02
	done
	wait "$pid" || fail "$name at $set: $(head -n 3 "$work/got.err")"
	if awk -v count="$(cat "$work/count")" -v limit="$(limit_of "$set")" -v most="$most" -v n="$samples" \
		-v label="$label" -v name="$name" -v set="$set" '/^secmalloc-run: mode/ {
		share = count > 0 ? $(NF - 6) / count * 100 : 0
		printf "%s, %s at %s: mode %s %d opened, %d closed; %d bytes counted, %.2f %% of them ours;" \
			" clear at most %d KiB by itself, %d from outside (%d samples), of %d\n", \
			label, name, set, $3, $4, $7, count, share, $9 / 1024, most, n, limit
		ok = $3 == "thread," && $4 > 0 && (set == "16M" || $7 > 0) && share >= 95 && \
			share < 101 && most > 0 && most <= limit && $9 / 1024 <= limit
	} END { exit !ok }' "$work/got.err"; then
		pass
	else
		fail "$name at $set: $(tail -n 1 "$work/got.err") $(cat "$work/count") counted, $most KiB clear"
	fi
}

program_figures() {
	COUNT_MALLOC=$work/count
	export COUNT_MALLOC
	kept=$runs runs=1
	! here python3 || each 'figures python3' counted python3 "$work/threads.py"
	# shellcheck disable=SC2016 # for perl
	! here perl || each 'figures perl' counted perl -e 'for $n (1, 2) {
		$h{$n * $_} .= "x$_" for 1 .. 20000; } print scalar(keys %h), "\n";
		select(undef, undef, undef, 0.5)' # so long that it is seen from outside
	echo 'select sum(length(a.b || c.b)) from t a, t c where c.a < 99;' |
		cat "$work/rows.sql" - >"$work/in"
	! here sqlite3 || each 'figures sqlite3' counted sqlite3 :memory:
	: >"$work/in"
	runs=$kept
}

# ---------------------------------------------------------------------- all of it

# Once: our own build, the compiler and all that it starts under secmalloc-run; the same objects.
whole_make() {
	mkdir -p "$work/bin" "$work/plain" "$work/made"
	printf '#!/bin/sh\nexec "%s" --clear-set %s -- "%s" "$@"\n' "$launcher" "$set" \
		"$(command -v "${CC%% *}")" >"$work/bin/${CC%% *}"
	chmod +x "$work/bin/${CC%% *}"
	for part in plain made; do
		(cd "$work/$part" && "$SECMALLOC_SOURCES/configure" CC="$CC" CFLAGS=-O2) >"$work/$part.out" 2>&1
	done
	(cd "$work/plain" && make -j2) >>"$work/plain.out" 2>&1 ||
		fail "make fails: $(tail -n 3 "$work/plain.out")"
	(cd "$work/made" && PATH=$work/bin:$PATH && make -j2) >>"$work/made.out" 2>&1
	is $? 0 "make at $set: $(tail -n 3 "$work/made.out")"
	objects=0
	for object in "$work"/plain/src/*/*.o; do
		objects=$((objects + 1))
		cmp -s "$object" "$work/made/${object#"$work/plain/"}" || fail "make at $set: another $object"
	done
	[ "$objects" -gt 30 ] || fail "make at $set: $objects objects"
	rm -rf "${work:?}/bin" "$work/plain" "$work/made"
}

program_make() {
	[ "$label" = root ] || return 0
	kept=$runs runs=1 all=$sets sets=1M
	each make whole_make
	runs=$kept sets=$all
}

# ------------------------------------------------------------------------- and go

make_inputs
git config --global --add safe.directory '*'
! here git || make_repository ours
if ! run --clear-set 16M true 2>"$work/err" </dev/null; then
	echo "$label: not at 16M: $(cat "$work/err")"
	[ "$label" = 'nobody, 8 MiB' ] || fail "$label: that should do"
	grep -q 'RLIMIT_MEMLOCK is 8388608; raise' "$work/err" || fail "$label: no cure is named"
	sets=$(echo "$sets" | sed 's/16M//')
fi
for program in $programs; do
	"program_$program"
done
if [ "$failed" = 0 ]; then
	echo "$label: $passed comparisons as they should be"
else
	echo "$label: $failed of $((failed + passed)) failed"
	exit 1
fi
