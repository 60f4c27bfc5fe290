# daemon_client.py SEED - as daemon_client.c, for a program that knows nothing of secmalloc
#
# Copyright (c) 2026 the secmalloc authors
# SPDX-License-Identifier: ISC
import os, struct, sys, threading, zlib

MASK = (1 << 64) - 1


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


seed = mix(int(sys.argv[1]))
marker = bytearray(65536)  # from malloc(3), and written word by word: no other copy of it
for i in range(len(marker) // 8):
    struct.pack_into("<Q", marker, 8 * i, mix((seed + i) & MASK))
whole, ends, turns = zlib.crc32(marker), threading.Event(), [0, 0]


def look(n):
    while not ends.is_set():
        if zlib.crc32(marker) != whole:
            os._exit(1)
        turns[n] += len([bytearray(1000 + i) for i in range(100)]) // 100


threads = [threading.Thread(target=look, args=(n,)) for n in range(2)]
for t in threads:
    t.start()
print("ready", os.getpid(), flush=True)
sys.stdin.read()
ends.set()
for t in threads:
    t.join()
if zlib.crc32(marker) != whole:
    sys.exit(1)
print("ok", sum(turns))
