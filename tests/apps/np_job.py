#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A numpy job: fill, two scans, gather, multiply. Prints a checksum.

	np_job.py [MIB]		data in all (512)

Half of the data is one vector, which is filled, scanned twice and gathered
from at random places; the rest are square matrices, multiplied in strips. The
same sizes give the same checksum: sums of integers only, and products of small
integers in doubles, which are exact.
"""
import sys
import zlib

import numpy as np


def main():
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    if mib < 8:
        sys.exit("np_job: MIB is at least 8")
    n = mib * 2**20 // 2 // 8
    v = np.arange(n, dtype=np.uint64)  # fill
    v *= np.uint64(0x9E3779B97F4A7C15)
    crc = zlib.crc32(b"")
    for shift in (0, 7):  # two scans
        total = 0
        for at in range(0, n, 1 << 17):
            total += int(np.bitwise_xor.reduce(v[at:at + (1 << 17)] >> np.uint64(shift)))
        crc = zlib.crc32(str(total).encode(), crc)
    # Gather: indices that a multiplicative generator gives, no table of them.
    picks = min(n // 64, 200000)
    idx = (np.arange(picks, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(12345)) % np.uint64(n)
    crc = zlib.crc32(v[idx].tobytes(), crc)
    del idx
    # Multiply: c = a b, with a quarter of the data in a and a quarter in c.
    k = 128
    rows = mib * 2**20 // 4 // 8 // k
    a = np.empty((rows, k))
    c = np.empty((rows, k))
    for r in range(0, rows, 4096):
        m = min(4096, rows - r)
        a[r:r + m] = ((v[r:r + m] >> np.uint64(40)) % np.uint64(97)).astype(np.float64)[:, None]
        a[r:r + m] += np.arange(k)
    b = (np.arange(k * k) % 31).reshape(k, k).astype(np.float64)
    for r in range(0, rows, 4096):
        np.matmul(a[r:r + 4096], b, out=c[r:r + 4096])
    for r in range(0, rows, 4096):
        crc = zlib.crc32(c[r:r + 4096].tobytes(), crc)
    print("%08x" % crc)


main()
