#!/bin/sh
# test_signer.sh - examples/signer signs what openssl verifies, and refuses every bad key
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
#
# A refusal is exit status 1, exactly one line on stderr, and no signature left behind.
set -u

signer=$(cd "${top_builddir:-.}" && pwd)/examples/signer
if ! command -v openssl >/dev/null; then
	echo "skipped: openssl is missing, nothing can make a key or verify"
	exit 77
fi
if ! openssl genpkey -algorithm ed25519 >/dev/null 2>&1; then
	echo "skipped: this openssl knows no Ed25519"
	exit 77
fi
if [ ! -x "$signer" ]; then
	echo "FAIL: $signer was not built"
	exit 1
fi
# The leak check has to trace the process, which signer forbids.
ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
export ASAN_OPTIONS

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir" || exit 1
umask 077
failed=0
sanitizer=0

fail() {
	echo "FAIL: $*"
	failed=1
}

# refuses WHAT WORDS COMMAND...: it fails with one line that contains WORDS
refuses() {
	what=$1 words=$2
	shift 2
	"$@" >out 2>err </dev/null
	status=$?
	[ $status -eq 1 ] || fail "$what: exit status $status, not 1"
	[ "$(wc -l <err)" -eq 1 ] || fail "$what: not one line on stderr: $(cat err)"
	grep -qF -- "$words" err || fail "$what: '$words' is not in: $(cat err)"
	[ ! -e msg.sig ] || fail "$what: a signature was left behind"
	rm -f msg.sig
}

refuses_key() {
	refuses "$3" "$2" "$signer" "$1" msg
}

# is_signed FILE: there is a signature of the right size
is_signed() {
	if [ ! -e "$1.sig" ]; then
		fail "$1.sig is missing"
		return 1
	fi
	[ "$(wc -c <"$1.sig")" -eq 64 ] || fail "$1.sig: not 64 bytes"
}

verifies() {
	is_signed "$1" || return
	openssl pkeyutl -verify -rawin -pubin -inkey pub.pem -in "$1" -sigfile "$1.sig" \
		>out 2>&1 || fail "$1.sig: openssl refuses it: $(cat out)"
}

# signs KEY WHAT: KEY, in whatever form, signs msg
signs() {
	"$signer" "$1" msg >out 2>err </dev/null || fail "$2: $(cat err)"
	[ ! -s err ] || fail "$2: stderr says $(cat err)"
	verifies msg
	rm -f msg.sig
}

openssl genpkey -algorithm ed25519 -out key.pem 2>/dev/null
openssl pkey -in key.pem -pubout -out pub.pem
openssl pkey -in key.pem -outform DER -out key.der
tail -c 32 key.der >seed
openssl pkey -in key.pem -pubout -outform DER | tail -c 32 >pub
echo "what is to be signed" >msg

# ------------------------------------------------------------ good keys, good files

signs key.pem "PEM"
signs key.der "DER"
{ echo "a word before"; sed 's/$/\r/' key.pem; echo "a word after"; } >crlf.pem
signs crlf.pem "PEM with text around it and DOS line ends"
head -c "$(($(wc -c <key.pem) - 1))" key.pem >noeol.pem
signs noeol.pem "PEM without the last newline"
v2() {
	printf '\060\121\002\001\001\060\005\006\003\053\145\160\004\042\004\040'
	cat seed
	printf '\201\041\000'
	cat "$1"
}
v2 pub >v2.der
signs v2.der "PKCS#8 version 2 with its public key"

mkfifo fifo
cat key.pem >fifo &
signs fifo "a pipe"
kill $! 2>/dev/null
wait

: >none
head -c 1000000 /dev/urandom >large
head -c 4095 /dev/urandom >odd
head -c 4096 /dev/urandom >even
head -c 100 /dev/zero >odd.sig
"$signer" key.pem none large odd even "$dir/msg" >out 2>err || fail "five files: $(cat err)"
is_signed none # openssl 3.0 cannot read an empty file here
for file in large odd even msg; do
	verifies $file
done
cp msg.sig first.sig
"$signer" key.pem msg >out 2>err || fail "a second time: $(cat err)"
cmp -s msg.sig first.sig || fail "a second signature differs"
echo changed >>msg
openssl pkeyutl -verify -rawin -pubin -inkey pub.pem -in msg -sigfile msg.sig >out 2>&1 &&
	fail "openssl takes the signature of another message"
rm msg.sig

"$signer" --demo-scan key.pem msg >out 2>err
status=$?
if grep -q "too large to scan" err; then
	echo "not scanned: $(cat err)" # a sanitizer's shadow memory
	sanitizer=1
elif [ $status -ne 0 ]; then
	fail "--demo-scan: $(cat err)"
else
	for word in LOCKED GUARDED NODUMP FORKSAFE UNTRACEABLE; do
		grep -q "^granted:.* $word" out || fail "--demo-scan: not granted: $word"
	done
	grep -q "^copies of the key in this process: clear 1, sealed 0, freed 0\$" out ||
		fail "--demo-scan: $(grep copies out)"
fi
rm -f msg.sig

# ------------------------------------------------------------------------ bad keys

refuses_key missing "No such file" "a missing key"
: >empty
refuses_key empty "is empty" "an empty key"
mkdir folder
refuses_key folder "Is a directory" "a folder for a key"
if [ "$(id -u)" -ne 0 ]; then
	cp key.pem closed.pem
	chmod 000 closed.pem
	refuses_key closed.pem "Permission denied" "a key one may not read"
fi

i=1
while [ $i -lt 48 ]; do
	head -c $i key.der >part
	refuses_key part "part: is truncated or damaged" "the first $i bytes of the DER"
	i=$((i + 1))
done
i=5
while [ $i -lt 118 ]; do
	head -c $i key.pem >part
	refuses_key part "part: is " "the first $i bytes of the PEM"
	i=$((i + 8))
done

{ cat key.der; printf '\0'; } >long.der
refuses_key long.der "something follows the key" "DER with a byte too many"
{ cat key.pem; head -c 5000 /dev/zero; } >large.pem
refuses_key large.pem "too large" "a key file of 5 kB"
head -c 4096 /dev/urandom >noise
refuses_key noise "too large" "4096 bytes of noise"
head -c 4095 /dev/zero >zeros
refuses_key zeros "is no private key" "4095 zeros"
refuses_key msg "is no private key" "a text"
sed '2s/^..../MC4!/' key.pem >base64.pem
refuses_key base64.pem "not base64" "PEM with a wrong letter"
sed 2d key.pem >hollow.pem
refuses_key hollow.pem "not base64" "PEM with nothing in it"
sed '2s/^MC4/MC8/' key.pem >length.pem
refuses_key length.pem "truncated or damaged" "PEM of DER with a wrong length"
{
	printf '\060\055\002\001\000\060\005\006\003\053\145\160\004\041\004\037'
	head -c 31 seed
} >short
refuses_key short "no Ed25519 seed" "a seed of 31 bytes"
{
	printf '\060\056\002\001\002\060\005\006\003\053\145\160\004\042\004\040'
	cat seed
} >v3
refuses_key v3 "unknown version" "PKCS#8 of version 3"
head -c 32 /dev/urandom >other
v2 other >v2.der
refuses_key v2.der "belongs to another key" "a public key that does not match"

openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem 2>/dev/null
refuses_key rsa.pem "is an RSA key" "an RSA key"
openssl pkey -in rsa.pem -outform DER -out rsa.der
refuses_key rsa.der "is an RSA key" "an RSA key in DER"
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.pem 2>/dev/null
refuses_key ec.pem "is an elliptic curve key" "an EC key"
sed 's/ PRIVATE/ EC PRIVATE/' ec.pem >sec1.pem
refuses_key sec1.pem "is an elliptic curve key" "an EC key in SEC 1"
openssl pkey -in ec.pem -outform DER -out ec.der
refuses_key ec.der "is an elliptic curve key" "an EC key in DER"
for kind in x25519 x448 ed448; do
	openssl genpkey -algorithm $kind -out $kind.pem 2>/dev/null || continue
	refuses_key $kind.pem "not Ed25519" "a key of $kind"
done
openssl pkey -in key.pem -aes256 -passout pass:secret -out locked.pem
refuses_key locked.pem "is encrypted" "an encrypted key"
openssl pkcs8 -topk8 -in key.pem -outform DER -passout pass:secret -out locked.der
refuses_key locked.der "is encrypted" "an encrypted key in DER"
refuses_key pub.pem "is a public key" "a public key"
openssl pkey -in key.pem -pubout -outform DER -out pub.der
refuses_key pub.der "is a public key" "a public key in DER"
sed 's/PRIVATE KEY/X509 CRL/' key.pem >crl.pem
refuses_key crl.pem "not of a private key" "PEM of something else"

# ----------------------------------------------------------------------- bad files

refuses "a missing file" "nowhere: No such file" "$signer" key.pem msg nowhere
refuses "a folder" "folder: Is a directory" "$signer" key.pem msg folder
ln msg twin
cp twin kept
ln -s twin even.link && mv even.link even.sig
refuses "a link for a signature" "even.sig: " "$signer" key.pem msg even
rm even.sig && ln twin even.sig
refuses "a file with two names for a signature" "even.sig: exists" "$signer" key.pem msg even
rm even.sig && mkfifo even.sig
refuses "a pipe for a signature" "even.sig: " "$signer" key.pem msg even
cmp -s twin kept || fail "a link was followed"

if [ -c /dev/full ]; then
	"$signer" key.pem msg >/dev/full 2>err
	status=$?
	[ $status -eq 1 ] || fail "a full disk under stdout: exit status $status, not 1"
	rm -f msg.sig
fi

# ------------------------------------------------------------------------ bad usage

for args in "" "key.pem" "--demo-scan key.pem" "--unknown key.pem msg"; do
	# shellcheck disable=SC2086
	"$signer" $args >out 2>err
	status=$?
	[ $status -eq 2 ] || fail "usage '$args': exit status $status, not 2"
	[ "$(wc -l <err)" -eq 1 ] || fail "usage '$args': not one line on stderr"
done

# ------------------------------------------------- little or no memory may be locked

limited() {
	limit=$1
	shift
	if [ "$(id -u)" -eq 0 ]; then
		set -- setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all "$@"
	fi
	prlimit --memlock="$limit:$limit" "$@"
}
chmod 755 . && chmod 644 key.pem msg
mkdir open && chmod 777 open && cp msg open && chmod 644 open/msg
if limited 65536 test -x "$signer" 2>/dev/null; then
	limited 65536 "$signer" key.pem open/msg >out 2>err || fail "64 KiB: $(cat err)"
	verifies open/msg
	rm -f open/msg.sig
	if [ $sanitizer -eq 0 ]; then # a sanitizer's mlock does nothing, and says it did
		refuses "no lockable memory" "RLIMIT_MEMLOCK" \
			limited 0 "$signer" key.pem open/msg
		[ ! -e open/msg.sig ] || fail "no lockable memory: a signature was left behind"
	fi
else
	echo "not tried with little lockable memory: no setpriv, no prlimit or no way to $signer"
fi

[ $failed -eq 0 ] && echo "test_signer: all well"
exit $failed
