#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""numpy asks for huge pages inside of its arrays, which splits the mapping one
page after their start. Two arrays of SIZE MiB, written once, summed twice, their
first elements looked at: prefetch and eviction cross the split both ways."""
import sys

import numpy as np

n = int(sys.argv[1]) * 1024 * 1024 // 8
a = np.zeros(n)
a[:] = np.arange(n)
b = np.arange(n) * 3.0
for _ in range(2):
    if float(a.sum()) != n * (n - 1) / 2 or float(b.sum()) != 3.0 * n * (n - 1) / 2:
        sys.exit("np_split: a sum is wrong")
    if (a[:600] != np.arange(600)).any() or (b[:600] != np.arange(600) * 3).any():
        sys.exit("np_split: the first elements are wrong")
print("np_split: right")
