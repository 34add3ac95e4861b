# SPDX-License-Identifier: MIT
"""Many programs on one host: what a fault costs beside them, and who gets how much.

Two racks of two hosts are up at the same time, their READs answered by h2's
kernel: on h1 of the first one there is one program (bench/fault), on h1 of the
other as many as the row is about. Both are measured in turns.
"""
import statistics
import time

import rack
from common import Failed, median, progress, row
from kernel import wait_serves
from remote import Program, placements

NAMES = ["flat-programs", "flat-programs-busy", "share"]
SIZE, LOCAL = 32, 16  # MiB, of every program: 8 MiB are little beside the budget's low mark
COUNTS = (4, 16, 64)
GOAL = 1.1
ROUNDS = 7
OPS = 3000
BUSY_MS = 1000
STORM = 4  # threads


class Side:
    """A rack, and programs on its h1."""

    def __init__(self, name):
        self.progs = []
        self.rack = rack.Rack(9000, name=name, switch="auto", programs=True, lend="4G")
        try:
            wait_serves(self.rack, "h2")
        except BaseException:
            self.close()
            raise

    def add(self, n):
        while len(self.progs) < n:
            progress(f"many: program {len(self.progs) + 1} of {n}")
            p = Program(self.rack, f"{SIZE}M", f"{LOCAL}M")
            self.progs.append(p)
            p.tell("rand 12000 0")  # nothing of it is dirty any more

    def one(self, how):
        """The first one's faults while the others are attached and idle. Return: figures."""
        p = self.progs[0]
        p.place(*placements()[how])
        p.tell("rand 300 0")
        got = p.tell(f"rand {OPS} 0")
        if got["slow"]["n"] < OPS // 10:
            raise Failed(f"only {got['slow']['n']} of {OPS} touches faulted")
        return {"p50": got["slow"]["p50"], "p99": got["slow"]["p99"], "rate": got["slow"]["n"] * 1e9 / got["ns"]}

    def busy(self, commands):
        """All at once, each with its own. Return: faults a second of each, in order."""
        for p in self.progs:
            p.place(*placements()["free"])
        for p, c in zip(self.progs, commands):
            p.say(c)
        got = [p.answer(60) for p, _ in zip(self.progs, commands)]
        return [{"rate": g["slow"]["n"] * 1e9 / g["ns"], "p50": g["slow"]["p50"], "p99": g["slow"]["p99"]} for g in got]

    def check(self):
        for p in self.progs:
            p.tell("check", 120)

    def close(self):
        for p in self.progs:
            p.close()
        self.rack.down()


def flat(one, many, out):
    """Idle ones, pinned and not: medians of the rounds' ratios, of the faults' medians and rates."""
    for n in COUNTS:
        many.add(n)
        o = out[n] = {how: {"ratio": [], "rate_ratio": [], "one_ns": [], "many_ns": []} for how in ("split", "free")}
        for i in range(ROUNDS):
            for how, h in o.items():
                progress(f"flat-programs: {n} programs, round {i + 1} of {ROUNDS}, {how}")
                got = {s: s.one(how) for s in ((one, many) if i % 2 else (many, one))}
                h["ratio"].append(round(got[many]["p50"] / got[one]["p50"], 3))
                h["rate_ratio"].append(round(got[many]["rate"] / got[one]["rate"], 3))
                h["one_ns"].append(got[one]["p50"])
                h["many_ns"].append(got[many]["p50"])


def busy(one, many, out):
    """All of them at once: faults a second of all, over those of one."""
    command = f"time {BUSY_MS} 0"
    for n in COUNTS:
        o = out[n] = {"ratio": [], "one": [], "all": [], "least_share": []}
        for i in range(3):
            progress(f"flat-programs-busy: {n} programs, round {i + 1} of 3")
            alone = one.busy([command])[0]["rate"]
            got = [g["rate"] for g in many.busy([command] * n)]
            o["ratio"].append(round(sum(got) / alone, 3))
            o["one"].append(round(alone))
            o["all"].append(round(sum(got)))
            o["least_share"].append(round(min(got) / statistics.mean(got), 3))


def share(many):
    """A program with one thread beside a storm of several. Return: figures."""
    modest = f"time {BUSY_MS} 0"
    out = {"share": [], "of_a_thread": [], "alone": [], "beside": [], "storm": [], "alone_p99_ns": [], "beside_p99_ns": []}
    for i in range(5):
        progress(f"share: round {i + 1} of 5")
        alone = many.busy([modest])[0]
        beside, storm = many.busy([modest, f"{modest} {STORM}"])[:2]
        out["share"].append(round(beside["rate"] / alone["rate"], 3))
        out["of_a_thread"].append(round(beside["rate"] / (storm["rate"] / STORM), 3))
        for k, v in (("alone", alone["rate"]), ("beside", beside["rate"]), ("storm", storm["rate"]),
                     ("alone_p99_ns", alone["p99"]), ("beside_p99_ns", beside["p99"])):
            out[k].append(round(v))
    return out


def rows(names):
    t = time.monotonic()
    sides, idle, loud, got = [], {}, {}, {}
    try:
        sides += [Side("one")]
        sides += [Side("many")]
        one, many = sides
        one.add(1)
        many.add(2)
        if "share" in names:
            got = share(many)
        if "flat-programs" in names:
            flat(one, many, idle)
        if "flat-programs-busy" in names:
            many.add(COUNTS[-1])
            busy(one, many, loud)
        for s in sides:
            s.check()
    finally:
        for s in sides:
            s.close()
    out = []
    if idle:
        o = idle[COUNTS[-1]]
        each = ", ".join(f"{n}: {median(v['split']['ratio']):.2f} ({median(v['free']['ratio']):.2f})" for n, v in idle.items())
        out.append(row(
            "flat-programs", median(o["split"]["ratio"]), "ratio", GOAL, programs=idle,
            note=f"fault {median(o['split']['many_ns']) / 1000:.1f} us beside {COUNTS[-1] - 1} idle programs, "
                 f"{median(o['split']['one_ns']) / 1000:.1f} alone; pinned (unpinned), {each}",
        ))
    if loud:
        o = loud[COUNTS[-1]]
        each = ", ".join(f"{n}: {median(v['ratio']):.2f}, least {median(v['least_share']):.2f} of a fair share"
                         for n, v in loud.items())
        out.append(row(
            "flat-programs-busy", median(o["ratio"]), "ratio", 0.9, more=True, programs=loud,
            note=f"{median(o['all']):.0f} faults/s of {COUNTS[-1]} programs at once, {median(o['one']):.0f} of one; {each}",
        ))
    if got:
        out.append(row(
            "share", median(got["share"]), "share", None, **got,
            note=f"{median(got['beside']):.0f} faults/s beside {STORM} threads of another program, {median(got['alone']):.0f} alone: "
                 f"{median(got['of_a_thread']):.2f} of one of theirs; p99 {median(got['beside_p99_ns']) / 1000:.0f} us, "
                 f"alone {median(got['alone_p99_ns']) / 1000:.0f}",
        ))
    for r in out:
        r["detail"]["seconds"] = round(time.monotonic() - t, 1)
    return out
