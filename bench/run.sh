#!/bin/sh
# run.sh RUN LIBRARY [OPTION]... - the programs that bench/run measures, and what they work on
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# RUN is bench/run, LIBRARY libsecmalloc-preload.so; options are bench/run's. What is not installed
# is left out. Figures go to stdout.
set -eu
LC_ALL=C
export LC_ALL

if [ $# -lt 2 ] || [ ! -x "$1" ] || [ ! -r "$2" ]; then
	echo "usage: run.sh RUN LIBRARY [OPTION]..." >&2
	exit 2
fi
run=$1 library=$2
shift 2
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/secmalloc-run.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM

# real NAME: the program itself; a manager of versions shows a script of that name
real() {
	for folder in /usr/bin /bin /usr/local/bin; do
		[ -x "$folder/$1" ] && echo "$folder/$1" && return
	done
	command -v "$1" || :
}

# add NAME PROGRAM ARGUMENTS: unless the program is not here
add() {
	name=$1 program=$(real "$2")
	shift 2
	[ -z "$program" ] || printf '%s\t%s\n' "$name" "$program $*" >>"$work/programs"
}

cat >"$work/work.py" <<'END'
import json
d = {"k%d" % i: [i, str(i) * 3, {"a": i * 1.5, "b": [1, 2, 3]}] for i in range(10000)}
for _ in range(4):
    d = json.loads(json.dumps(d))
END
cat >"$work/table.sql" <<'END'
create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)
  insert into t select i, 'text' || i * 7, i * 1.5 from n;
create index x on t(b);
select count(*), sum(c) from t where b like 'text%3';
select count(*) from t a join t b on a.b = 'text' || b.a;
END
cat >"$work/words.pl" <<'END'
my %h;
$h{$_ % 5000} .= "word$_ " for 1 .. 60000;
print scalar(join("", map { $h{$_} } sort keys %h)) =~ tr/a-z//, "\n";
END
cat >"$work/forks.sh" <<'END'
i=0
while [ $i -lt 100 ]; do
	(:)
	i=$((i + 1))
done
END
awk 'BEGIN { for (i = 0; i < 60000; i++) print i * 7919 % 60013, "line", i }' >"$work/lines"
(
	git init -q "$work/git" && cd "$work/git" || exit 0
	n=0
	while [ $n -lt 40 ]; do
		n=$((n + 1))
		seq $n $((n * 20)) >file
		git add file
		git -c user.name=a -c user.email=a@example.org commit -q -m "change $n"
	done
) >/dev/null 2>&1 || :

add python_json python3 "$work/work.py"
add python_start python3 -c pass
add sqlite sqlite3 -batch -init "$work/table.sql" :memory: .quit
add gcc gcc -std=gnu11 -O2 -I"$source/include" -I"$source/src" -c "$source/src/heap/arena.c" \
	-o "$work/arena.o"
add perl perl "$work/words.pl"
add openssl openssl genrsa 1024
add bash_100_forks bash "$work/forks.sh"
add sort sort --parallel=1 "$work/lines"
add git_log git -C "$work/git" log --stat -p

"$run" --programs "$work/programs" --library "$library" "$@"
