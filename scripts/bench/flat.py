# SPDX-License-Identifier: MIT
"""What grows with a program's memory, and should not: a fault's cost, our own memory.

One rack of two hosts; on h1 there are programs (bench/fault) that differ in one
thing only, the size of their region or the number of their allocations, with the
same budget. They are measured in turns, READs served by h2's bbd: memory that the
kernel serves is taken whole, and these regions are sparse (--every).
"""
import os
import subprocess
import time

import rack
from common import Failed, Skipped, built, cpu_ns, median, progress, row, start
from remote import Program, placements
from resident import Region, mappings

NAMES = ["flat-region", "memory-per-page", "flat-allocations", "first-touch"]
GOAL = 1.1
LOCAL = "64M"
EVERY = 8
OPS = 4000
ROUNDS = 9
SMALL, LARGE = 1, 16  # GiB
PIECES = (1, 10000)
PIECES_SIZE = "1280M"  # 32 pages and a bit each
PAGE, EXTENT_PAGES = 4096, 512
FRESH_LOCAL = "128M"  # from which on bbd opens new memory two megabytes at a time
FRESH = 131072  # pages: four times that
BYTES_GOAL = 24


def need(gib):
    with open("/proc/meminfo", encoding="ascii") as f:
        free = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) >> 20
    if free < gib:
        raise Skipped(f"{gib} GiB of memory are wanted, {free} are free")


def turns(name, progs, rounds=ROUNDS):
    """Faults of both in turns. Return: by placement, ratios of the second to the first and both medians."""
    out = {how: {"ratio": [], "first_ns": [], "second_ns": []} for how in ("split", "free")}
    for i in range(rounds):
        for how, o in out.items():
            progress(f"{name}: round {i + 1} of {rounds}, {how}")
            p50 = {}
            for p in progs if i % 2 else progs[::-1]:
                p.place(*placements()[how])
                p.tell("rand 500 0")
                got = p.tell(f"rand {OPS} 0")
                if got["slow"]["n"] < OPS // 10:
                    raise Failed(f"only {got['slow']['n']} of {OPS} touches faulted")
                p50[p] = got["slow"]["p50"]
            o["ratio"].append(round(p50[progs[1]] / p50[progs[0]], 3))
            o["first_ns"].append(p50[progs[0]])
            o["second_ns"].append(p50[progs[1]])
    return out


def flat_row(name, got, first, second):
    s, f = got["split"], got["free"]
    return row(name, median(s["ratio"]), "ratio", GOAL, **got,
               note=f"fault {median(s['second_ns']) / 1000:.1f} us with {second}, {median(s['first_ns']) / 1000:.1f} with {first}"
                    f"; unpinned {median(f['ratio']):.2f}")


# --- memory ---------------------------------------------------------------------


def books(pid):
    """Return: bytes of the region's shared books that exist, without the staged pages, which the budget counts."""
    for start_, end, name, _, _ in mappings(pid):
        if name.startswith("/memfd:bluebridge"):
            region = Region(pid, start_, end)
            for fd in os.listdir(f"/proc/{pid}/map_files"):
                if fd.startswith(f"{start_:x}-"):
                    return os.stat(f"/proc/{pid}/map_files/{fd}").st_blocks * 512 - region.staged(pid), region
    raise Failed(f"program {pid} has no books")


def own(pid):
    """What else the library has in the program: the heap of bench/fault is as good as none, its arrays are shared mappings."""
    shared, region = books(pid)
    rest = sum(rss for s, e, name, rss, f in mappings(pid)
               if not region.base <= s < region.end and "um" not in f and not name.startswith(("/", "[stack")))
    return shared + rest


def daemon(pid):
    """A bbd's memory without the programs' books (counted there)."""
    return sum(rss for _, _, name, rss, _ in mappings(pid) if not name.startswith("/memfd:bluebridge"))


def managed(r, pid):
    for p in r.ask("h1", "program.show")["programs"]:
        if p["pid"] == pid:
            return p["extents"]["managed"] * EXTENT_PAGES
    raise Failed("h1 does not know the program")


def measured(r, pid, before):
    """Return: pages, and bytes of program and bbd for them."""
    return managed(r, pid), own(pid) + daemon(r.host["h1"]["pid"]) - before


def region(names):
    need(6)
    r = rack.Rack(9000, name="flat", lend=f"{LARGE + SMALL + 2}G")
    progs, sizes = [], []
    try:
        for gib in (SMALL, LARGE):
            progress(f"flat-region: {gib} GiB")
            before = daemon(r.host["h1"]["pid"])
            p = Program(r, f"{gib}G", LOCAL, ["--every", str(EVERY)], 180)
            progs.append(p)
            p.tell("rand 40000 0")
            sizes.append(measured(r, p.pid, before))
        got = turns("flat-region", progs) if "flat-region" in names else None
        for p in progs:
            p.tell("check", 180)
    finally:
        for p in progs:
            p.close()
        r.down()
    out = []
    if got:
        out.append(flat_row("flat-region", got, f"{SMALL} GiB of region", f"{LARGE} GiB"))
    if "memory-per-page" in names:
        (n0, b0), (n1, b1) = sizes
        out.append(row(
            "memory-per-page", (b1 - b0) / (n1 - n0), "bytes", BYTES_GOAL, pages=[n0, n1], bytes=[b0, b1],
            note=f"{n1} managed pages {b1 >> 20} MiB, {n0} pages {b0 >> 20} MiB, of the library's books and heap and of bbd",
        ))
    return out


def allocations():
    need(4)
    r = rack.Rack(9000, name="flat", lend="4G")
    progs = []
    try:
        for n in PIECES:
            progress(f"flat-allocations: {n}")
            progs.append(Program(r, PIECES_SIZE, LOCAL, ["--every", str(EVERY // 2), "--allocations", str(n)], 120))
            progs[-1].tell("rand 40000 0")
        got = turns("flat-allocations", progs)
        for p in progs:
            p.tell("check", 120)
    finally:
        for p in progs:
            p.close()
        r.down()
    return [flat_row("flat-allocations", got, f"{PIECES[0]} allocation", f"{PIECES[1]}")]


# --- first touches --------------------------------------------------------------


class Plain(Program):
    """The same program without the library."""

    def __init__(self):  # pylint: disable=super-init-not-called
        self.proc = start([built("bench/fault"), "4M"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.pid = self.proc.pid
        self.answer(60)


def first_touch():
    r = rack.Rack(9000, name="flat", switch="auto", programs=True, lend="2G")
    ours = plain = None
    out = {k: {"ratio": [], "median_ratio": [], "ours_ns": [], "plain_ns": [], "ours_p50": [], "plain_p50": []}
           for k in ("read", "written")}
    parts = {"program": [], "h1_bbd": [], "h2_bbd": []}
    try:
        ours = Program(r, "192M", FRESH_LOCAL)
        plain = Plain()
        pids = (ours.pid, *(r.host[h]["pid"] for h in ("h1", "h2")))
        for i in range(5):
            for kind, o in out.items():
                progress(f"first-touch: round {i + 1} of 5, {kind}")
                got = {}
                for p in (ours, plain) if i % 2 else (plain, ours):
                    cpu = [cpu_ns(x) for x in pids]
                    got[p] = p.tell(f"fresh {FRESH} {int(kind == 'written')}")
                    if p is ours and kind == "written":
                        for name, x, c in zip(parts, pids, cpu):
                            parts[name].append(round((cpu_ns(x) - c) / FRESH))
                    p.tell("old")
                o["ratio"].append(round(got[ours]["ns"] / got[plain]["ns"], 3))
                o["median_ratio"].append(round(got[ours]["slow"]["p50"] / got[plain]["slow"]["p50"], 3))
                for k, p in (("ours", ours), ("plain", plain)):
                    o[f"{k}_ns"].append(round(got[p]["ns"] / FRESH))
                    o[f"{k}_p50"].append(got[p]["slow"]["p50"])
        ours.tell("check", 60)
    finally:
        for p in (ours, plain):
            if p:
                p.close()
        r.down()
    w, z = out["written"], out["read"]
    return [row(
        "first-touch", median(w["ratio"]), "ratio", 1.3, cpu_ns_a_page=parts, **out,
        note=f"a page written {median(w['ours_ns']) / 1000:.2f} us, plain {median(w['plain_ns']) / 1000:.2f}; medians of single touches "
             f"{median(w['ours_p50'])} and {median(w['plain_p50'])} ns; CPU us a page: "
             f"{', '.join(f'{k} {median(v) / 1000:.1f}' for k, v in parts.items())}; only read: {median(z['ratio']):.2f} "
             f"({median(z['ours_ns']) / 1000:.2f} us)",
    )]


def rows(names):
    t = time.monotonic()
    out = []
    if {"flat-region", "memory-per-page"} & set(names):
        out += region(names)
    if "flat-allocations" in names:
        out += allocations()
    if "first-touch" in names:
        out += first_touch()
    for r in out:
        r["detail"]["seconds"] = round(time.monotonic() - t, 1)
    return out
