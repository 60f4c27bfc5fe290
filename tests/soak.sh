#!/bin/sh
# soak.sh - what random work and real programs find when they have time: `make soak`, an hour or more
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Ten million operations compared with the model, ten minutes of a fuzzer on the same, a minute of
# threads under ThreadSanitizer, ten minutes of a fuzzer that speaks to the daemon, ten of storms on
# closed pages, and programs under secmalloc-run, each many times at each size (SECMALLOC_RUNS and more: see soak_programs.sh). What
# a machine lacks is named and left out; of what fails the log stays here, and from the fuzzer the
# tape, which fuzz_model.c replays.
#
# Environment: top_srcdir, CC; SECMALLOC_OPERATIONS, SECMALLOC_FUZZ_SECONDS, SECMALLOC_SECONDS
# (of each test of threads) and SECMALLOC_STORM_SECONDS (of each of four storms) instead of the above.
set -eu
LC_ALL=C
export LC_ALL

src=$(cd "${top_srcdir:-$(dirname "$0")/..}" && pwd)
here=$(pwd)
dir=$(mktemp -d "$here/t_soak.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cc=${CC:-cc} failed=0
operations=${SECMALLOC_OPERATIONS:-10000000}
fuzz_seconds=${SECMALLOC_FUZZ_SECONDS:-600}
seconds=${SECMALLOC_SECONDS:-8}
storm_seconds=${SECMALLOC_STORM_SECONDS:-150}

# verdict NAME STATUS WHAT: what became of it, in one line
verdict() {
	if [ "$2" = 0 ]; then
		echo "passed: $1: $3"
		return
	fi
	if [ "$2" = 77 ]; then
		echo "left out: $1: $(grep ^skipped "$dir/$1.out")"
		return
	fi
	cp "$dir/$1.out" "$here/soak-$1.log"
	echo "failed: $1: see soak-$1.log"
	failed=$((failed + 1))
}

# takes CC FLAG: whether the compiler links with the flag; libFuzzer has a main of its own
takes() {
	case $2 in
	*fuzzer*) entry=LLVMFuzzerTestOneInput ;;
	*) entry=main ;;
	esac
	echo "int $entry(void); int $entry(void) { return 0; }" >"$dir/try.c"
	command -v "${1%% *}" >/dev/null && $1 "$2" -o "$dir/try" "$dir/try.c" 2>/dev/null
}

# build NAME TEST CONFIGURE...: one test in a directory of its own
build() {
	name=$1 test=$2
	shift 2
	mkdir "$dir/$name"
	(cd "$dir/$name" && "$src/configure" CC="$cc" --enable-checking "$@" &&
		make -j"$(nproc)" "tests/$test") >"$dir/$name.out" 2>&1
}

model() {
	build model check_model CFLAGS="-O2 -g" || {
		verdict model 1
		return
	}
	status=0
	top_srcdir=$src SECMALLOC_OPERATIONS=$operations CK_TIMEOUT_MULTIPLIER=10 \
		"$dir/model/tests/check_model" >"$dir/model.out" 2>&1 || status=$?
	verdict model "$status" "$(sed -n 's/^check_model: SECM/SECM/p' "$dir/model.out")"
}

fuzz() {
	if ! takes clang -fsanitize=fuzzer,address,undefined; then
		echo "left out: fuzz: no clang with libFuzzer here"
		return
	fi
	pkg_config=${PKG_CONFIG:-pkg-config}
	# shellcheck disable=SC2046
	clang -std=gnu11 -D_GNU_SOURCE -DSM_CHECKING=1 -O1 -g -fno-omit-frame-pointer \
		-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
		-I"$src/include" -I"$src/src" -o "$dir/fuzz" \
		"$src/tests/fuzz_model.c" "$src/tests/model.c" \
		$(find "$src/src" -name '*.c' ! -path '*/os/posix.c') \
		$($pkg_config --cflags --libs libsodium) -pthread >"$dir/fuzz.out" 2>&1 || {
		verdict fuzz 1
		return
	}
	mkdir "$dir/found"
	status=0
	"$dir/fuzz" -max_total_time="$fuzz_seconds" -timeout=20 -rss_limit_mb=0 -max_len=600 \
		-artifact_prefix="$here/soak-fuzz-" "$dir/found" "$src/tests/corpus" \
		>"$dir/fuzz.out" 2>&1 || status=$?
	verdict fuzz "$status" "$(sed -n 's/^Done \(.*\) runs in .*/\1 tapes/p' "$dir/fuzz.out")"
}

threads() {
	if ! takes "$cc" -fsanitize=thread; then
		echo "left out: threads: $cc has no ThreadSanitizer here"
		return
	fi
	build threads check_contract_threads --enable-sanitizers=thread CFLAGS="-O1 -g" || {
		verdict threads 1
		return
	}
	status=0
	SECMALLOC_SECONDS=$seconds CK_TIMEOUT_MULTIPLIER=10 \
		TSAN_OPTIONS="exitcode=66 ${TSAN_OPTIONS:-}" \
		"$dir/threads/tests/check_contract_threads" >"$dir/threads.out" 2>&1 || status=$?
	verdict threads "$status" "$seconds seconds each test"
}

# The tests of transparent mode, as root: what they could not do they say themselves.
storm() {
	build storm check_transparent_storm CFLAGS="-O2 -g" || {
		verdict storm 1
		return
	}
	status=0
	(cd "$dir/storm" && make tests/run_storm tests/run_calls tests/run_sleeper libsecmalloc-preload.la \
		tests/check_transparent_calls tests/check_transparent_outside) >"$dir/storm.out" 2>&1 ||
		status=$?
	for test in storm calls outside; do
		(cd "$dir/storm" && top_builddir=. SECMALLOC_STORM_SECONDS="$storm_seconds" \
			SECMALLOC_HANDLER_SECONDS="$seconds" SECMALLOC_SAMPLES=200 \
			"tests/check_transparent_$test") >>"$dir/storm.out" 2>&1 || status=$?
	done
	verdict storm "$status" "$storm_seconds seconds each way; $(grep -c -e ^skipped -e '^NOT TESTED' \
		"$dir/storm.out") left out"
}

# Its lines are shown as they come.
programs() {
	mkdir "$dir/programs"
	(cd "$dir/programs" && "$src/configure" CC="$cc" && make -j"$(nproc)") >"$dir/programs.out" 2>&1 || {
		verdict programs 1
		return
	}
	top_srcdir=$src top_builddir=$dir/programs CC=$cc sh "$src/tests/soak_programs.sh" ||
		failed=$((failed + 1))
}

# Anything said to a daemon under AddressSanitizer; 1,000 wrong passphrases.
daemon() {
	status=0
	build daemon check_wire --enable-sanitizers=address,undefined CFLAGS="-O1 -g" &&
		(cd "$dir/daemon" && make secmallocd secmallocctl tests/quick_daemon \
			tests/fake_client tests/fuzz_daemon &&
			ASAN_OPTIONS=detect_leaks=0 tests/check_wire &&
			export top_srcdir="$src" top_builddir="$dir/daemon" SECMALLOC_WRONG=1000 \
				SECMALLOC_FUZZ_SECONDS="$fuzz_seconds" &&
			sh "$src/tests/test_daemon.sh" && sh "$src/tests/test_daemon_peers.sh") \
			>"$dir/daemon.out" 2>&1 || status=$?
	[ "$status" != 77 ] || echo skipped: no daemon >>"$dir/daemon.out"
	verdict daemon "$status" "$(grep ' conversations$' "$dir/daemon.out")"
}

model
fuzz
threads
daemon
storm
programs
[ "$failed" = 0 ]
