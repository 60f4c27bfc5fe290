#!/bin/sh
# test_floors.sh [ROOT] - the rooms under ROOT/src keep to their floors
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# A room is a folder under src/.  Its files include the doors (room/room.h) of rooms on lower
# floors, files of their own room, and nothing else of ours; <secmalloc.h> is for base and front
# only.  Besides: no file over 500 lines, no function over 50, no __linux__ in a .c file.
#
# Without ROOT the source tree is checked, and then this script itself: in copies of the tree
# each rule is broken once, and it must notice. What only other machines compile is compiled as well.
#
# Environment: top_srcdir, CC, PKG_CONFIG.
set -eu
LC_ALL=C
export LC_ALL

# floor ROOM: its number, from the ground up; nothing for what is not a room
floor() {
	case $1 in
	base) echo 0 ;;
	os | wire) echo 1 ;;
	cipher) echo 2 ;;
	key | heap) echo 3 ;;
	seal) echo 4 ;;
	fault) echo 5 ;;
	front) echo 6 ;;
	esac
}

# bad FILE:LINE WHAT
bad() {
	echo "$1: $2"
	echo x >>"$found"
}

# check_include FILE LINE ROOM NAME: NAME as it stands, with its quotes or brackets
check_include() {
	name=${4#?}
	name=${name%?}
	case $4 in
	\"*\") ;;
	"<secmalloc.h>" | "<"*/*">") ;;
	"<"*">") return ;;
	*)
		bad "$1:$2" "an include must name its file"
		return
		;;
	esac
	case $name in
	secmalloc.h)
		case $3 in
		base | front) return ;;
		esac
		bad "$1:$2" "$3 must not include secmalloc.h, only base and front may"
		return
		;;
	*/*)
		into=${name%/*}
		into=${into##*/}
		;;
	*) into=$3 ;;
	esac
	file=${name##*/}
	# <sys/mman.h> and <linux/capability.h> are not ours.
	case $4 in
	"<"*) [ -n "$(floor "$into")" ] || return 0 ;;
	esac
	if [ "$into" = "$3" ]; then
		[ -f "src/$3/$file" ] || bad "$1:$2" "$3 has no $file"
	elif [ -z "$(floor "$into")" ]; then
		bad "$1:$2" "$name is in no known room"
	elif [ "$(floor "$into")" -ge "$(floor "$3")" ]; then
		bad "$1:$2" "$3 (floor $(floor "$3")) must not include $into (floor $(floor "$into"))"
	elif [ "$file" != "$into.h" ]; then
		bad "$1:$2" "$name is private to $into, its door is $into/$into.h"
	fi
}

check_includes() {
	find src -type f -name '*.[ch]' | sort >"$list"
	[ -s "$list" ] || bad src "no sources found"
	while read -r path; do
		room=${path#src/}
		room=${room%%/*}
		if [ -z "$(floor "$room")" ]; then
			bad "$path" "is in no known room"
			continue
		fi
		# LINE NAME for each include
		sed -n '/^[[:space:]]*#[[:space:]]*include/{
			s/^[[:space:]]*#[[:space:]]*include[[:space:]]*\("[^"]*"\|<[^>]*>\|[^[:space:]]*\).*/\1/
			=
			p
		}' "$path" | paste - - >"$list.includes"
		while read -r line name; do
			check_include "$path" "$line" "$room" "$name"
		done <"$list.includes"
	done <"$list"
}

# A function starts at a brace in the first column and ends at the next one there.
check_sizes() {
	find src include tests examples bench preload daemon ctl -type f -name '*.[ch]' 2>/dev/null | sort >"$list"
	while read -r path; do
		awk -v path="$path" '
		/^{/ { start = NR }
		/^}/ && start {
			if (NR - start - 1 > 50)
				printf "%s:%d: a function of %d lines, over 50\n",
					path, start, NR - start - 1
			start = 0
		}
		path ~ /\.c$/ && /__linux__/ {
			printf "%s:%d: __linux__: configure picks one file per OS\n", path, NR
		}
		END { if (NR > 500) printf "%s: %d lines, over 500\n", path, NR }' "$path"
	done <"$list" >"$list.sizes"
	cat "$list.sizes"
	cat "$list.sizes" >>"$found"
}

# check_tree ROOT: complaints on stdout; false if there are any
check_tree() {
	(
		cd "$1"
		found=$tmp/found list=$tmp/list
		: >"$found"
		check_includes
		check_sizes
		[ ! -s "$found" ]
	)
}

# ------------------------------------------------------------------- the self test

# plant TEXT FILE LINE...: a copy of the tree with lines added to FILE must be refused with TEXT
plant() {
	text=$1 file=$2
	shift 2
	rm -rf "$tmp/copy"
	mkdir "$tmp/copy" "$tmp/copy/src"
	for room in "$root"/src/*/; do
		cp -R "$room" "$tmp/copy/src/"
	done
	chmod -R u+w "$tmp/copy"
	mkdir -p "$tmp/copy/$(dirname "$file")"
	printf '%s\n' "$@" >>"$tmp/copy/$file"
	if check_tree "$tmp/copy" >"$tmp/out"; then
		echo "self test: '$1' in $file went unnoticed"
		exit 1
	fi
	if ! grep -qF "$file" "$tmp/out" || ! grep -qF "$text" "$tmp/out"; then
		echo "self test: '$1' in $file was to give '$text', not:"
		cat "$tmp/out"
		exit 1
	fi
}

self_test() {
	plant "must not include front" src/base/wipe.c '#include "front/front.h"'
	plant "must not include key" src/heap/heap.c '# include "../key/key.h"'
	plant "must not include seal" src/key/key.h '#include <seal/seal.h>'
	plant "private to heap" src/seal/seal.c '#include "heap/inside.h"'
	plant "only base and front" src/heap/heap.c '#include <secmalloc.h>'
	plant "has no gone.h" src/base/wipe.c '#include "gone.h"'
	plant "must name its file" src/base/wipe.c '#include DOOR'
	plant "no known room" src/attic/attic.c 'int attic;'
	plant "__linux__" src/os/area.c '#ifdef __linux__' '#endif'
	# shellcheck disable=SC2046 # one word, one line
	plant "over 500" src/base/wipe.c $(seq 501)
	# shellcheck disable=SC2046
	plant "over 50" src/base/wipe.c '{' $(seq 51) '}'
	mkdir "$tmp/empty" "$tmp/empty/src"
	if check_tree "$tmp/empty" >"$tmp/out"; then
		echo "self test: an empty tree passed"
		exit 1
	fi
}

# What this build leaves out, as it is for other machines, still fits its headers.
check_others() {
	for file in os/posix fault/no_uffd fault/no_raw cipher/no_aegis; do
		# shellcheck disable=SC2086 # CC and flags are words
		${CC:-cc} -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -I"$root/include" -I"$root/src" \
			$(${PKG_CONFIG:-pkg-config} --cflags libsodium) -fsyntax-only \
			"$root/src/$file.c" && continue
		echo "src/$file.c does not compile"
		exit 1
	done
}

tmp=$(mktemp -d "$(pwd)/t_floors.XXXXXX")
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

if [ $# -gt 0 ]; then
	check_tree "$1"
	exit
fi
root=${top_srcdir:-$(cd "$(dirname "$0")/.." && pwd)}
check_tree "$root" || exit 1
self_test
check_others
echo "every include goes down, and each rule broken in a copy was noticed"
