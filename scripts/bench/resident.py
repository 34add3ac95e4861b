# SPDX-License-Identifier: MIT
"""The worst true resident size of the region over BB_LOCAL.

Read from the kernel while the program runs: Rss in /proc/PID/smaps of every
mapping that lies in the region, of the private mapping that victims pass
through, and the present pages of the staging ring in the shared memory. Where
the region lies is read from the program's own memory (the header of that shared
memory). Until it exists the program has not outgrown its budget.
"""
import os
import signal
import struct
import subprocess
import threading
import time

import rack
from common import Failed, Mismatch, Skipped, built, call, finish, memfd, progress, quick, row, same
from fits import digest_of, lines

NAME = "resident"
LOCAL = quick(128, 32) << 20
GOAL = 1.02
SLACK = 4 << 20
PAGE = 4096
EVERY = 0.02
EXTENT_PAGES = 512


def mappings(pid):
    """(start, end, name, rss, flags) of each mapping in smaps."""
    # All of it before any of it is looked at: pages come and go meanwhile.
    fd, got = os.open(f"/proc/{pid}/smaps", os.O_RDONLY), []
    try:
        while True:
            got.append(os.read(fd, 1 << 16))
            if not got[-1]:
                break
    finally:
        os.close(fd)
    start = end = rss = 0
    name = ""
    for line in b"".join(got).decode(errors="replace").splitlines():
        if line.startswith("Rss:"):
            rss = int(line.split()[1]) << 10
        elif line.startswith("VmFlags:"):
            yield start, end, name, rss, line.split()[1:]
        elif line[0] in "0123456789abcdef" and "-" in line.split(" ", 1)[0]:
            part = line.split(None, 5)
            start, end = (int(x, 16) for x in part[0].split("-"))
            name = part[5].strip() if len(part) > 5 else ""


def up(n):
    return (n + PAGE - 1) & ~(PAGE - 1)


class Region:
    """struct bb_region_ctl and bb_region_layout() of include/bluebridge/region.h."""

    def __init__(self, pid, at, end):
        with open(f"/proc/{pid}/mem", "rb") as f:
            f.seek(at)
            magic, _, self.base, self.npages, self.nslots = struct.unpack("<IIQQI", f.read(28))
        if magic != 0x62627267:
            raise Failed("the shared memory of the region has another header")
        self.end = self.base + self.npages * PAGE
        # The slots' data comes last, so the mapping's end says where it begins.
        self.stage = end - self.nslots * PAGE

    def staged(self, pid):
        """Present pages of the ring, as the program maps them."""
        with open(f"/proc/{pid}/pagemap", "rb") as f:
            f.seek(self.stage // PAGE * 8)
            words = struct.unpack(f"<{self.nslots}Q", f.read(self.nslots * 8))
        return sum(w >> 63 for w in words) * PAGE


class Sampler(threading.Thread):
    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid = pid
        self.region = None
        self.worst = self.samples = self.torn = self.worst_region = self.worst_staged = self.program = 0
        self.over = threading.Event()
        self.error = None

    def sample(self):
        # The kernel lists one mapping after another. Under 100,000 faults a second that list adds up pages
        # which were never here at one time, so the program stands still meanwhile.
        os.kill(self.pid, signal.SIGSTOP)
        try:
            time.sleep(0.001)
            maps = list(mappings(self.pid))
            staged = self.region.staged(self.pid) if self.region else 0
        finally:
            os.kill(self.pid, signal.SIGCONT)
        if any(b[0] < a[1] for a, b in zip(maps, maps[1:])):
            # Two mappings became one while the kernel was listing them: counted twice.
            self.torn += 1
            return
        if not self.region:
            for start, end, name, _, _ in maps:
                if name.startswith("/memfd:bluebridge"):
                    self.region = Region(self.pid, start, end)
            return
        r = self.region
        region = sum(rss for s, e, _, rss, _ in maps if r.base <= s and e <= r.end)
        passing = sum(rss for s, e, _, rss, f in maps if "um" in f and not r.base <= s < r.end)
        self.samples += 1
        self.program = max(self.program, sum(m[3] for m in maps))
        if region + passing + staged > self.worst:
            self.worst = region + passing + staged
            self.worst_region, self.worst_staged = region + passing, staged

    def run(self):
        while not self.over.is_set():
            try:
                self.sample()
            except (OSError, struct.error):
                pass  # the program is just starting or has ended
            except (Failed, ValueError) as e:
                self.error = e
                return
            time.sleep(EVERY)


def numpy_python():
    for python in ("/usr/bin/python3", "python3"):
        try:
            call([python, "-c", "import numpy"], seconds=20)
            return python
        except (Failed, OSError):
            continue
    raise Skipped("numpy is not installed")


NUMPY = """
import numpy as np
import sys
n = int(sys.argv[1]) << 20
a = np.arange(n, dtype=np.float64)
b = a * 2
i = np.random.RandomState(1).randint(0, n, 60000)
assert (b[i] == i * 2.0).all(), "other bytes than were written"
c = a + b
assert float(c.sum()) == 3.0 * n * (n - 1) / 2, "other bytes than were written"
"""


def loads():
    """name, command, keyword arguments, check of the output."""
    touch = [built("apps/bbtouch"), "--size", quick("320M", "80M"), "--seconds", quick("1.5", "0.5")]
    yield "touch-seq", [*touch, "--pattern", "seq"], {}, None
    yield "touch-random", [*touch, "--pattern", "rand"], {}, None
    yield "touch-writes", [*touch, "--pattern", "rand", "--writes", "50"], {}, None
    yield "touch-threads", [*touch, "--pattern", "hot", "--writes", "20", "--threads", "4"], {}, None
    data, want = lines(quick(1_500_000, 400_000))
    src, dst = memfd("bench-sort-in", data), memfd("bench-sort-out")

    def sorted_well():
        if not same(digest_of(dst), want):
            raise Mismatch("sort: its output has other bytes than the input in order")

    yield "sort", ["sort", "--parallel=2", "-S", "1G"], {"stdin": src, "stdout": dst}, sorted_well
    os.close(src)
    os.close(dst)
    try:
        yield "numpy", [numpy_python(), "-c", NUMPY, quick("20", "4")], {}, None
    except Skipped:
        pass


def one(r, name, cmd, kw, check):
    progress(f"{NAME}: {name}")
    kw = {"stdout": subprocess.DEVNULL, **kw}
    p = r.program("h1", cmd, str(LOCAL), stderr=subprocess.PIPE, **kw)
    s = Sampler(p.pid)
    t = time.monotonic()
    s.start()
    try:
        finish(p, name, 120)
    finally:
        s.over.set()
        s.join()
        if p.poll() is None:
            p.kill()
            p.wait()
    if check:
        check()
    if s.error:
        raise s.error
    if not s.samples:
        raise Failed(f"{name}: it never outgrew its budget (no region to sample)")
    return {
        "seconds": round(time.monotonic() - t, 2), "samples": s.samples, "torn": s.torn, "worst": s.worst,
        "ratio": round(s.worst / LOCAL, 4), "region": s.worst_region, "staged": s.worst_staged,
        "whole_program": s.program,
    }


def rows(_names=None):
    r = rack.get(9000)
    each = {name: one(r, name, cmd, kw, check) for name, cmd, kw, check in loads()}
    worst = max(each, key=lambda n: each[n]["worst"])
    value = each[worst]["worst"] / LOCAL
    return row(
        NAME, round(value, 4), "ratio", GOAL, each[worst]["worst"] <= LOCAL + max(SLACK, LOCAL * (GOAL - 1)),
        note=f"worst: {worst}", local=LOCAL, slack=SLACK, loads=each,
    )
