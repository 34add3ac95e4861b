# SPDX-License-Identifier: MIT
"""Each of the five parts of a fault beside its floor, measured in the same round.

The fault is that of remote.py on a rack whose hosts have programs attached (READs
are answered by h2's kernel); bbd's histograms have its parts. A bare loop has the
same parts, but none of bbd's work in them:

  enter      the read(2) that brings a message of userfaultfd (uffd_floor --parts)
  directory  nothing is asked: two looks at the clock
  get        a bare READ of a page that no cache holds (net_read --bare)
  exit       a bare UFFDIO_COPY; of a page that nobody waits for, or the waiter's time would be in it
  other      nothing: two looks at the clock
  wake       what bbd does not see, from the touch to the message and from the
             wake-up to the program: the touch's time less the parts, on both sides

Medians of parts do not add up to the median of the whole. While the bare loop runs
CPUs are kept awake as bbd does it (daemon/latency.c), or the floor of an unpinned
wake-up would be above bbd's.
"""
import contextlib
import os
import struct
import time

import kernel
import rack
import remote
from common import built, call_json, median, progress, row

PARTS = ["enter", "directory", "get", "exit", "other", "wake"]
PLACEMENTS = {"pinned": "split", "unpinned": "free"}
NAMES = [f"parts-{p}-{how}" for how in PLACEMENTS for p in PARTS]
KEY = {"get": "get data"}  # bbd's name for it
FLOOR = {
    "enter": "read(2) of a message", "directory": "two looks at the clock", "get": "bare READ, cold page",
    "exit": "bare UFFDIO_COPY", "other": "two looks at the clock", "wake": "the same of the bare loop",
}
ROUNDS = int(os.environ.get("BB_BENCH_ROUNDS", "7"))
OPS = 4000
MTU = 9000


@contextlib.contextmanager
def awake():
    """A request of PM QoS, which ends with its descriptor."""
    try:
        fd = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError:
        yield
        return
    try:
        os.write(fd, struct.pack("i", 0))
        yield
    finally:
        os.close(fd)


def bare(cpus):
    """The bare loop's parts, of a filler that sleeps or one that polls: whose faults are quicker."""
    cmd = [built("bench/uffd_floor"), "--parts", "--ops", str(remote.FLOOR_OPS), "--spin"]
    with awake():
        got = [call_json([*cmd, s], "uffd_floor", 60, cpus=cpus) for s in ("0", str(rack.SPIN_US))]
    return min(got, key=lambda g: g["fault"]["p50"])


def floors_of(got, get):
    p50 = {k: v["p50"] for k, v in got.items() if isinstance(v, dict)}
    return {
        "enter": p50["read"], "directory": p50["clock"], "get": get, "exit": p50["alone"], "other": p50["clock"],
        "wake": max(0, p50["fault"] - p50["read"] - p50["alone"]),
    }


def a_round(r, prog, floors, where, o):
    here, there = where
    get = remote.ns(floors.udp(here, there))
    got = bare(here)
    prog.place(here, there)
    prog.tell("rand 500 0")  # warm again after the floors
    r.ask("h1", "fault.reset")
    touched = prog.tell(f"rand {OPS} 0")
    seen = r.ask("h1", "fault.show")["remote"]
    if touched["slow"]["n"] < OPS // 10 or seen["total"]["count"] < touched["slow"]["n"] * 0.9:
        raise remote.Failed(f"of {OPS} touches {touched['slow']['n']} faulted, {seen['total']['count']} were sent to h2")
    ours = {p: seen[KEY.get(p, p)]["p50_ns"] for p in PARTS if p != "wake"}
    ours["wake"] = max(0, touched["slow"]["p50"] - seen["total"]["p50_ns"])
    for p, floor in floors_of(got, get).items():
        kernel.add(o["ours_ns"], p, ours[p])
        kernel.add(o["floor_ns"], p, floor)
    kernel.add(o, "fault_ns", touched["slow"]["p50"])
    kernel.add(o, "bare_fault_ns", got["fault"]["p50"])
    kernel.add(o, "bare_go_ns", got["go"]["p50"])


def measure(names):
    r = rack.Rack(MTU, name="parts", switch="auto", programs=True)
    prog = None
    places = remote.placements()
    wanted = [how for how in PLACEMENTS if any(n.endswith(f"-{how}") for n in names)]
    out = {how: {"ours_ns": {}, "floor_ns": {}} for how in wanted}
    try:
        kernel.wait_serves(r, "h2")
        prog = remote.Program(r)
        prog.tell("rand 8000 0")
        floors = kernel.Floors(r)
        for i in range(ROUNDS):
            for how in wanted:
                progress(f"parts: round {i + 1} of {ROUNDS}, {how}")
                a_round(r, prog, floors, places[PLACEMENTS[how]], out[how])
        prog.tell("check", 120)
        return out
    finally:
        if prog:
            prog.close()
        r.down()


def rows(names):
    t = time.monotonic()
    got = measure(names)
    out = []
    for name in names:
        _, part, how = name.split("-")
        o = got[how]
        ours, floor = median(o["ours_ns"][part]), median(o["floor_ns"][part])
        note = f"floor {floor / 1000:.2f} us ({FLOOR[part]}), above it {(ours - floor) / 1000:.2f}"
        if part == "wake":
            note += f"; the fault takes {median(o['fault_ns']) / 1000:.1f} us, the bare loop's {median(o['bare_fault_ns']) / 1000:.1f}"
        out.append(row(
            name, ours / 1000, "us", placement=PLACEMENTS[how], note=note, ours_ns=o["ours_ns"][part],
            floor_ns=o["floor_ns"][part], fault_ns=o["fault_ns"], bare_fault_ns=o["bare_fault_ns"],
            bare_go_ns=o["bare_go_ns"], seconds=round(time.monotonic() - t, 1),
        ))
    return out
