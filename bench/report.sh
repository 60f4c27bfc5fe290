#!/bin/sh
# report.sh tables|markdown|svg|seal|run|run-svg RESULTS - what bench/bench printed, for people
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# tables: the tables alone; markdown: with how they were made; svg: a chart of the rows that
# matter most, on a background of its own; seal: the tables of closing and opening alone, of a run
# with another libsodium; run: the table of whole programs, of what bench/run printed; run-svg: a
# chart of it.  All go to stdout.
set -eu
LC_ALL=C
export LC_ALL

if [ $# -ne 2 ] || [ ! -r "$2" ]; then
	echo "usage: report.sh tables|markdown|svg|seal|run|run-svg RESULTS" >&2
	exit 2
fi

# What every report needs: median[row, peer], best[row, peer], peers in their order.
read_results='
BEGIN { FS = "\t" }
/^#/ { metas++; meta[metas] = substr($1, 3); said[metas] = $2; next }
NF == 5 {
	if (!(($1) in seen)) { rows++; row[rows] = $1; seen[$1] = 1 }
	if ($1 == "pair_32") { peers++; peer[peers] = $2 }
	if ($1 == "live") { lives++; live[lives] = $2 }
	if ($3 != "-") { median[$1, $2] = $3 + 0; best[$1, $2] = $4 + 0 }
}
function grouped(n,    text, out) {
	text = sprintf("%.0f", n)
	while (length(text) > 3) {
		out = "," substr(text, length(text) - 2) out
		text = substr(text, 1, length(text) - 3)
	}
	return text out
}
function number(n) { return n < 100 ? sprintf("%.1f", n) : grouped(n) }
function times(n) { return n < 100 ? sprintf("%.2f", n) : grouped(n) }
'

tables='
function cell(r, p) {
	return ((r, p) in median) ? number(median[r, p]) " (" number(best[r, p]) ")" : "-"
}
function ratio(r, p, to,    base) {
	return (((r, p) in median) && ((r, to) in median) && median[r, to] > 0) ? \
		times(median[r, p] / median[r, to]) : "-"
}
function count(r, p) { return ((r, p) in median) ? grouped(median[r, p]) : "-" }
function rule(n,    i, text) {
	text = "|---|"
	for (i = 0; i < n; i++)
		text = text "---:|"
	print text
}
function head(first,    i, text) {
	text = "| " first " |"
	for (i = 1; i <= peers; i++)
		text = text " " peer[i] " |"
	print text
	rule(peers)
}
# One row of the table of figures or, with what, of ratios.
function line(name, r, what,    i, text) {
	text = "| " name " |"
	for (i = 1; i <= peers; i++)
		text = text " " (what ? ratio(r, peer[i], "secmalloc") : cell(r, peer[i])) " |"
	print text
}
function heap_rows(what,    i) {
	for (i = 1; i <= rows; i++)
		if (index(row[i], "pair_") == 1)
			line("pair, " grouped(substr(row[i], 6)) " bytes", row[i], what)
	line("churn, 32 bytes", "churn_32", what)
	line("churn, 16 to 512 bytes", "churn_mixed", what)
}
function heap_tables() {
	print "## Allocate and free\n"
	print "ns for one allocation and one free, wiping included: median (minimum) of the"
	print "rounds. pair: one live chunk, one byte of it touched. churn: among 10,000 live"
	print "chunks, a random one is freed and another allocated.\n"
	head("")
	heap_rows(0)
	print "\nThe same medians as multiples of secmalloc (less than 1: faster than secmalloc).\n"
	head("")
	heap_rows(1)
}
function thread_table(    i, p, g) {
	print "\n## Threads\n"
	print "ns per pair of 32 bytes, of all threads together (less is more throughput),"
	print "beside 128 live chunks with holes between them; a round takes the best of three"
	print "runs: median (minimum) of the rounds. Gain: throughput of two threads over one,"
	print "median (maximum); 2 is ideal, and what lies above it was other work on the"
	print "machine while one thread ran.\n"
	print "| | one thread | two threads | gain |"
	rule(3)
	for (i = 1; i <= peers; i++) {
		p = peer[i]
		g = ((("threads_ratio", p) in median) ? sprintf("%.2f (%.2f)", \
			median["threads_ratio", p], best["threads_ratio", p]) : "-")
		print "| " p " | " cell("threads_1", p) " | " cell("threads_2", p) " | " g " |"
	}
}
function live_table(    i, p) {
	print "\n## Live secrets without privileges\n"
	print "32-byte secrets in a process that may lock 8 MiB at most, until the allocator"
	print "fails or 1,000,000 are live. secmalloc runs with its default configuration;"
	print "arenas of the others have 8 MiB. Which pages are locked is read from the kernel"
	print "(VmFlags in /proc/self/smaps), and so are the bytes: charged as locked (VmLck)"
	print "and resident (Rss), the growth since before the allocator started, for each"
	print "secret. The run has one round of this table.\n"
	print "| | live | on locked pages | clear on unlocked pages " \
		"| locked bytes each | resident bytes each |"
	rule(5)
	for (i = 1; i <= lives; i++) {
		p = live[i]
		print "| " p " | " count("live", p) " | " count("live_on_locked_pages", p) " | " \
			count("live_clear_unlocked", p) " | " \
			number(median["live_locked_bytes", p]) " | " \
			number(median["live_resident_bytes", p]) " |"
	}
}
function elastic_table() {
	print "\n## When the locked pools are full\n"
	print "secmalloc then locks further pages one by one, while at least one chunk on them is"
	print "clear. ns for a pair of 32 bytes with pools of 16 KiB, the first full: median"
	print "(minimum).\n"
	print "| on the page there is | secmalloc |"
	rule(1)
	print "| nothing else: it is fetched, locked, unlocked, given back | " \
		cell("elastic_nothing", "secmalloc") " |"
	print "| only a closed chunk: it is locked and unlocked | " \
		cell("elastic_sealed", "secmalloc") " |"
	print "| other open chunks too: it is locked anyway | " \
		cell("elastic_clear", "secmalloc") " |"
}
function present(r,    p) { return ((r, "libsodium alone") in median) }
function seal_table(    i, n, part, r) {
	print "\n## Close and open\n"
	print "ns for secmalloc_encrypt and secmalloc_decrypt of one chunk: with the default split"
	print "key, made whole for each call; with SECMALLOC_KEY_RESIDENT; with 16 KiB hashed into"
	print "the key each time; and encrypting and decrypting in place with libsodium alone, its"
	print "key in ordinary memory and for AES expanded beforehand: median (minimum). The last"
	print "columns are multiples of libsodium alone, and ns above it, by the medians.\n"
	print "| | split key | resident key | 16 KiB prekey | libsodium alone | split | resident " \
		"| resident above |"
	rule(7)
	for (i = 1; i <= rows; i++) {
		r = row[i]
		n = split(r, part, "_")
		if (part[1] != "seal" || !present(r))
			continue
		print "| " part[2] ", " grouped(part[3]) " bytes | " cell(r, "split key") " | " \
			cell(r, "resident key") " | " cell(r, "16 KiB prekey") " | " \
			cell(r, "libsodium alone") " | " \
			ratio(r, "split key", "libsodium alone") " | " \
			ratio(r, "resident key", "libsodium alone") " | " \
			number(median[r, "resident key"] - median[r, "libsodium alone"]) " |"
	}
}
function batch_table(    i, n, part, r) {
	print "\n## All at once\n"
	print "ns a chunk for secmalloc_encrypt_all of 100,000 open chunks, the best of three, and"
	print "for encrypting as many texts with libsodium alone: median (minimum) of three rounds.\n"
	print "| | secmalloc | libsodium alone | share of its speed |"
	rule(3)
	for (i = 1; i <= rows; i++) {
		r = row[i]
		n = split(r, part, "_")
		if (part[1] == "all" && present(r))
			print "| " part[2] ", " grouped(part[3]) " bytes | " \
				cell(r, "secmalloc") " | " cell(r, "libsodium alone") " | " \
				ratio(r, "libsodium alone", "secmalloc") " |"
	}
	print "\nsecmalloc_purge with 10,000 closed chunks of 32 bytes and 100 open ones of 4 KiB:"
	print cell("purge", "secmalloc") " ns."
}
function page_table(    i, n, name, what) {
	print "\n## Pages of transparent mode\n"
	print "ns by the clock for one page of 4 KiB, the best of 20 laps over 400: median (minimum) of the"
	print "rounds. A first touch of plain memory: " cell("page_touch", "zero fill") ".\n"
	print "| | who touches a closed page | closing one | secmalloc_decrypt of one |"
	rule(3)
	n = split("thread, one CPU;thread;signal", name, ";")
	for (i = 1; i <= n; i++)
		print "| " name[i] " | " cell("page_touch", name[i]) " | " cell("page_close", name[i]) \
			" | " cell("page_open", name[i]) " |"
}
function all_tables() {
	heap_tables()
	thread_table()
	live_table()
	elastic_table()
	seal_table()
	batch_table()
	page_table()
}
'

markdown='
function list(name, title,    i, any) {
	for (i = 1; i <= metas; i++)
		if (meta[i] == name) {
			if (!any++)
				print title "\n"
			print "- " said[i]
		}
	if (any)
		print ""
}
END {
	print "# secmalloc beside other allocators\n"
	print "Made by `make bench-report`; do not edit. ![32-byte rows](results.svg)\n"
	print "One run, interleaved: a round measures every row once for each peer, every other"
	print "round in the opposite order. Each measurement is a process of its own, warmed up,"
	print "and times as many operations as take about 20 ms: processor time, in the kernel"
	print "too, but for the rows of threads, which go by the clock. Figures of different"
	print "machines, or of different runs, do not compare.\n"
	for (i = 1; i <= metas; i++)
		if (meta[i] != "peer" && meta[i] != "absent")
			print "- " meta[i] ": " said[i]
	print ""
	list("peer", "Peers, with what is called, and their versions:")
	list("absent", "Not there, and so left out:")
	all_tables()
}
'

seal='
END {
	for (i = 1; i <= metas; i++)
		if (meta[i] == "peer" && index(said[i], "sodium:") == 1) {
			split(said[i], word, "; ")
			print "\n# The same with libsodium " word[2] "\n"
			print "Another run, on the same machine."
		}
	seal_table()
	batch_table()
	page_table()
}
'

svg='
function log10(x) { return log(x) / log(10) }
function at(ns) { return left + (log10(ns) - low) * decade }
function text(x, y, size, anchor, colour, what) {
	printf "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%d\" text-anchor=\"%s\"", x, y, size, anchor
	print " fill=\"" colour "\">" what "</text>"
}
function axis(    d, x) {
	for (d = low; d <= high; d++) {
		x = left + (d - low) * decade
		printf "<line x1=\"%.1f\" y1=\"50\" x2=\"%.1f\" y2=\"%d\"", x, x, bottom
		print " stroke=\"#d8d8d8\"/>"
		text(x, bottom + 16, 11, "middle", "#555555", \
			d < 3 ? 10 ^ d " ns" : 10 ^ (d - 3) " µs")
	}
}
function bar(y, r, p,    ns) {
	ns = median[r, p]
	text(left - 8, y + 12, 12, "end", "#1a1a1a", p)
	printf "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"14\"", left, y, at(ns) - left
	print " fill=\"" (p == "secmalloc" ? "#0b57a4" : "#9aa5b1") "\"/>"
	text(at(ns) + 6, y + 12, 12, "start", "#1a1a1a", number(ns) " ns")
}
function group(y, r, title,    i) {
	text(20, y + 12, 13, "start", "#1a1a1a", title)
	y += 22
	for (i = 1; i <= peers; i++)
		if ((r, peer[i]) in median) {
			bar(y, r, peer[i])
			y += 19
		}
	return y + 12
}
# The height of a group; makes the axis long enough for it.
function shown(r,    i, n) {
	for (i = 1; i <= peers; i++)
		if ((r, peer[i]) in median) {
			n++
			while (median[r, peer[i]] > 10 ^ high)
				high++
		}
	return 34 + 19 * n
}
END {
	left = 130; low = 0; high = 5
	bottom = 56 + shown("pair_32") + shown("churn_32") + shown("churn_mixed")
	decade = 525 / (high - low)
	print "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"" bottom + 30 "\""
	print " viewBox=\"0 0 760 " bottom + 30 "\" font-family=\"sans-serif\" role=\"img\">"
	print "<title>ns to allocate and free, wiping included, per allocator</title>"
	printf "<rect width=\"760\" height=\"%d\" fill=\"#ffffff\"/>\n", bottom + 30
	text(20, 28, 16, "start", "#1a1a1a", \
		"Allocate and free, wiping included: median, logarithmic, less is better")
	axis()
	y = group(56, "pair_32", "32 bytes, one live chunk")
	y = group(y, "churn_32", "32 bytes, among 10,000 live chunks")
	group(y, "churn_mixed", "16 to 512 bytes, among 10,000 live chunks")
	print "</svg>"
}
'

run='
function figure(r, p) {
	return ((r, p) in median) ? number(median[r, p]) " (" number(best[r, p]) ")" : "-"
}
function share(r, p) {
	return ((r, p) in median) && best[r, "native"] > 0 ? times(median[r, p] / \
		median[r, "native"]) " (" times(best[r, p] / best[r, "native"]) ")" : "-"
}
function run_table(what, title,    i, k, text, rule) {
	print "\n" title "\n"
	text = "|  | native |"
	rule = "|---|---:|"
	for (k = 1; k <= sets; k++) {
		text = text " " set[k] " | times native |"
		rule = rule "---:|---:|"
	}
	print text "\n" rule
	for (i = 1; i <= rows; i++) {
		if (index(row[i], what) != 1)
			continue
		text = "| " substr(row[i], length(what) + 1) " | " figure(row[i], "native") " |"
		for (k = 1; k <= sets; k++)
			text = text " " figure(row[i], set[k]) " | " share(row[i], set[k]) " |"
		print text
	}
}
NF == 5 && $2 != "native" && !(($2) in known) { known[$2] = 1; set[++sets] = $2 }
END {
	print "# Programs under secmalloc-run\n"
	print "Made by `make bench-run-report`; do not edit. ![processor time](programs.svg)\n"
	print "One run, interleaved: each round runs every program alone and at each clear set, every"
	print "other round backwards. ms: median (minimum) of the rounds; times native: of the medians"
	print "(of the minima).\n"
	for (i = 1; i <= metas; i++)
		print "- " meta[i] ": " said[i]
	run_table("run_", "By the clock")
	run_table("cpu_", "Processor time, of all that was started")
}
'

run_svg='
function text(x, y, size, anchor, colour, what) {
	printf "<text x=\"%.1f\" y=\"%d\" font-size=\"%d\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", \
		x, y, size, anchor, colour, what
}
function at(x) {
	return 150 + (x < 1 ? 0 : log(x) / log(2)) * 110
}
function bar(y, r, k,    x) {
	x = best[r, set[k]] / best[r, "native"]
	printf "<rect x=\"150\" y=\"%d\" width=\"%.1f\" height=\"11\" fill=\"%s\"/>\n", y, \
		at(x) - 149, shade[k]
	text(at(x) + 6, y + 10, 11, "start", "#1a1a1a", sprintf("%.2f", x) "  " set[k])
}
NF == 5 && $2 != "native" && !(($2) in known) { known[$2] = 1; set[++sets] = $2 }
END {
	split("#9aa5b1 #4f86c6 #0b57a4", shade, " ")
	for (i = 1; i <= rows; i++)
		if (index(row[i], "cpu_") == 1 && ((row[i], "native") in best))
			shown[++n] = row[i]
	bottom = 56 + n * (14 * sets + 10)
	print "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"" bottom + 30 "\""
	print " viewBox=\"0 0 760 " bottom + 30 "\" font-family=\"sans-serif\" role=\"img\">"
	print "<title>processor time under secmalloc-run, times native</title>"
	printf "<rect width=\"760\" height=\"%d\" fill=\"#ffffff\"/>\n", bottom + 30
	text(20, 28, 16, "start", "#1a1a1a", \
		"Processor time under secmalloc-run, times native: minima, logarithmic, less is better")
	for (x = 1; x <= 32; x *= 2) {
		printf "<path d=\"M%.1f 44V%d\" stroke=\"#d8d8d8\"/>\n", at(x), bottom
		text(at(x), bottom + 16, 11, "middle", "#555555", x)
	}
	for (i = 1; i <= n; i++) {
		y = 56 + (i - 1) * (14 * sets + 10)
		text(142, y + 7 * sets + 4, 12, "end", "#1a1a1a", substr(shown[i], 5))
		for (k = 1; k <= sets; k++)
			if ((shown[i], set[k]) in best)
				bar(y + 14 * (k - 1), shown[i], k)
	}
	print "</svg>"
}
'

case $1 in
run) awk "$read_results$run" "$2" ;;
run-svg) awk "$read_results$run_svg" "$2" ;;
seal)
	awk "$read_results$tables$seal" "$2"
	;;
tables) awk "$read_results$tables END { all_tables() }" "$2" ;;
markdown) awk "$read_results$tables$markdown" "$2" ;;
svg) awk "$read_results$svg" "$2" ;;
*)
	echo "report.sh: $1: tables, markdown, svg, seal or run" >&2
	exit 2
	;;
esac
