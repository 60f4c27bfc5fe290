#!/bin/sh
# matrix.sh - the compiled tests under both compilers, the sanitizers and valgrind: `make matrix`
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# Each row builds in a directory of its own, with every warning an error. What a machine lacks is
# named and left out; a row that fails ends the run with the names of its failed tests.
#
# Environment: top_srcdir.
set -eu
LC_ALL=C
export LC_ALL

src=$(cd "${top_srcdir:-$(dirname "$0")/..}" && pwd)
dir=$(mktemp -d "$(pwd)/t_matrix.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
failed=0 passed=0 only=''

die() {
	echo "matrix.sh: $*" >&2
	exit 1
}

# row NAME CC WRAPPER CONFIGURE...: build and run; the wrapper goes before each compiled test
row() {
	name=$1 cc=$2 wrapper=$3
	shift 3
	if ! command -v "${cc%% *}" >/dev/null; then
		echo "left out: $name: no $cc here"
		return
	fi
	mkdir "$dir/$name"
	(cd "$dir/$name" && "$src/configure" CC="$cc" --enable-werror "$@" && make -j"$(nproc)" &&
		make check TESTS=) >"$dir/$name/out" 2>&1 || {
		tail -n 30 "$dir/$name/out"
		die "$name does not build"
	}
	tests=${only:-$(cd "$dir/$name" && make -s print-compiled-tests)}
	if (cd "$dir/$name" && make -k check TESTS="$tests" LOG_COMPILER="$wrapper") \
		>"$dir/$name/out" 2>&1; then
		echo "passed: $name"
		passed=$((passed + 1))
	else
		echo "failed: $name: $(sed -n 's/^FAIL: //p' "$dir/$name/out" | sort -u | tr '\n' ' ')"
		cat "$dir/$name"/tests/*.log >"$name.log"
		failed=$((failed + 1))
	fi
}

row gcc gcc "" --enable-checking CFLAGS="-O2 -g"
row clang clang "" --enable-checking CFLAGS="-O2 -g"
row gcc-O0 gcc "" CFLAGS="-O0 -g"
row gcc-sanitized gcc "" --enable-checking --enable-sanitizers=address,undefined CFLAGS="-O1 -g"
row clang-sanitized clang "" --enable-checking --enable-sanitizers=address,undefined \
	CFLAGS="-O1 -g"
# The others look on purpose at dead stack, behind guards and through refused system calls.
only='tests/check_heap tests/check_heap_misuse tests/check_seal tests/check_seal_realloc
	tests/check_front tests/check_contract_life tests/check_contract_memory
	tests/check_contract_seal tests/check_contract_fault tests/check_contract_free
	tests/check_contract_stats'
if command -v valgrind >/dev/null; then
	row valgrind gcc "valgrind -q --error-exitcode=99 --trace-children=no" CFLAGS="-O1 -g"
else
	echo "left out: valgrind is not here"
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
