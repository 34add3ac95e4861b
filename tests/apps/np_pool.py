#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Worker processes by fork over a large array, as data loaders do.

	np_pool.py [MIB]	(48)

The parent holds an array; a pool of workers, forked, sums parts of it and
writes over its own copy meanwhile; the parent goes on changing its own between
the rounds. Nobody may see what another has written. Prints checksums, which
are the same wherever it runs.
"""
import multiprocessing as mp
import sys
import zlib

import numpy as np

PART = 1 << 16
array = None


def part_sum(k):
    """Of what the parent had at the fork; then the worker spoils its copy."""
    part = array[k * PART:(k + 1) * PART]
    crc = zlib.crc32(part.tobytes())
    again = zlib.crc32(array[k * PART:(k + 1) * PART].tobytes())
    array[(k * 7 % (len(array) // PART)) * PART::PART * 3] ^= np.uint64(1) << np.uint64(63)
    array[(k * 7 % (len(array) // PART)) * PART::PART * 3] ^= np.uint64(1) << np.uint64(63)
    return crc, crc == again


def own_work(k):
    """Large memory of a worker's own, and a part of the parent's changed for good."""
    own = np.full(1 << 20, k, dtype=np.uint32)
    array[k * 100:k * 100 + 50] = 0
    own *= 3
    return int(own.sum(dtype=np.uint64)) + int(array[k * 100:k * 100 + 100].sum(dtype=np.uint64) % 1000003)


def fails(k):
    if k == 3:
        raise ValueError("part %d" % k)
    return int(array[k])


def main():
    global array
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    mp.set_start_method("fork")
    array = np.arange(mib << 17, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    parts = len(array) // PART
    for rnd in range(2):
        want = [zlib.crc32(array[k * PART:(k + 1) * PART].tobytes()) for k in range(parts)]
        with mp.Pool(4) as pool:
            waiting = pool.map_async(part_sum, range(parts), chunksize=2)
            array[rnd::5] += np.uint64(rnd + 1)  # while they work
            got = waiting.get(60)
            if not all(same for _, same in got) or [crc for crc, _ in got] != want:
                sys.exit("np_pool: a worker saw something else than what was there at the fork")
            print("round", rnd, "%08x" % zlib.crc32(repr(got).encode()), sum(pool.map(own_work, range(40))) % 10**9)
            try:
                pool.map(fails, range(8))
                sys.exit("np_pool: an exception was lost")
            except ValueError as e:
                print("raised", e)
        print("parent %08x" % zlib.crc32(array.tobytes()))


main()
