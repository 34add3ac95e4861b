# SPDX-License-Identifier: MIT
"""Pages that travel compressed (bbd --compress on) over the same plainly, on links of several speeds.

Two hosts on a cable that the kernel's token bucket (tc tbf, at both ends) holds to
so many megabits a second; READs that are not compressed are answered in the memory
host's kernel. For each speed and kind of page a program with eight threads touches
random pages, by reads and with half of them writes, first in a rack with --compress
off, then in one with on; both are up at the same time. Every page is compared, and
bbd's counters say that pages were compressed, or not.

A token bucket takes no time for a packet while it has tokens: what a real link's
slowness costs one request after the other is not in here, so the gain is understated.
"""
import rack
from common import Failed, call, environment, median, row
from remote import Program

SPEEDS = {"100": (100, 500), "300": (300, 3000), "1000": (1000, 6000), "2500": (2500, 8000)}
NAMES = [f"compress-{s}" for s in SPEEDS]
GOAL = {"100": 1.3, "300": 1.2}
SIZE, LOCAL, THREADS, ROUNDS = "32M", "8M", 8, 3
MTU = 9000


def shape(r, mbit):
    for h in ("h1", "h2"):
        call(r.command(h, ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", f"{mbit}mbit", "burst", "64kb",
                           "limit", "3mb"]), "tc", env=environment())


def counted(r):
    p = r.ask("h1", "net.show")["pagers"][0]
    return p["lz4_rx"] + p["lz4_tx"]


def faults_per_s(prog, ops, writes):
    got = prog.tell(f"rand {ops} {writes} {THREADS}", 110)
    if not got["slow"]["n"]:
        raise Failed("nothing was fetched")
    return got["slow"]["n"] / got["ns"] * 1e9


def measure(racks, content, ops):
    """Return: reads and half writes, ratio on / off each, and faults a second of both."""
    progs, rates = {}, {(h, w): [] for h in racks for w in (0, 50)}
    try:
        for how, r in racks.items():
            before = counted(r)
            progs[how] = Program(r, SIZE, LOCAL, ["--content", content])
            progs[how].tell(f"rand {ops // 2} 0 {THREADS}", 110)
            if (counted(r) > before) != (how == "on" and content != "random"):
                raise Failed(f"--compress {how}, {content}: pages travelled the other way")
        for _ in range(ROUNDS):
            for writes in (0, 50):
                for how in racks:
                    rates[how, writes].append(faults_per_s(progs[how], ops, writes))
        for p in progs.values():
            p.tell("check", 110)
    finally:
        for p in progs.values():
            p.close()
    m = {k: median(v) for k, v in rates.items()}
    return m["on", 0] / m["off", 0], m["on", 50] / m["off", 50], {f"{h}_{w}": m[h, w] for h, w in m}


def one(speed):
    mbit, ops = SPEEDS[speed]
    racks, got = {}, {}
    try:
        for how in ("off", "on"):
            racks[how] = rack.Rack(MTU, name=f"lz4-{speed}-{how}", switch="cable", programs=True, bbd=f"--compress {how}")
            shape(racks[how], mbit)
        for content in ("text", "half", "random"):
            got[content] = measure(racks, content, ops)
    finally:
        for r in racks.values():
            r.down()
    note = f"text {got['text'][2]['off_0']:.0f} -> {got['text'][2]['on_0']:.0f} faults/s; " + ", ".join(
        f"{c} {g[0]:.2f} (half writes {g[1]:.2f})" for c, g in got.items())
    return row(f"compress-{speed}", got["text"][0], "x", GOAL.get(speed), more=True, note=note,
               by_content={c: {"reads": g[0], "writes50": g[1], "faults_per_s": g[2]} for c, g in got.items()})


def rows(names):
    return [one(n.split("-", 1)[1]) for n in names]
