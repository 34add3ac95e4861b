# SPDX-License-Identifier: MIT
"""Against what users would take instead: swap on zram, swap on a file, a mapped file.

The same programs with the same local memory: the kernel's by a cgroup's limit, ours
by BB_LOCAL, on a host whose other memory is another host's (two hosts and a cable:
what a switch does takes no CPU time of a host, but would here). bench/fault compares every page that it touches; redis, sort and
numpy (peers_apps.py) are held against what they give with all memory.
"""
import collections
import contextlib
import json
import os
import select
import subprocess
import tempfile

import kernel
import rack
import swap
from common import BUILD, Failed, Mismatch, Skipped, built, cpu_ns, median, progress, quick, row, start, stop

NAMES = [
    "peers-random-zram", "peers-random-disk", "peers-random-file", "peers-write50", "peers-two-threads",
    "peers-sequential", "peers-sequential-wire", "peers-cpu", "peers-tail", "peers-hot-set",
]
ROUNDS = int(os.environ.get("BB_BENCH_ROUNDS", quick("3", "1")))
MIB = 1 << 20
SIZE, LOCAL = quick(512, 32) * MIB, quick(128, 8) * MIB
# Of a process beside its data, which BB_LOCAL does not count: what a cgroup counts of it without data.
BESIDE = 3 * MIB
OPS = quick(60000, 3000)
WARM = {"disk": OPS, "file": OPS // 4}  # nothing is dirty of a file that was written back
HOT_SIZE, HOT_LOCAL = quick(544, 68) * MIB, quick(64, 8) * MIB  # the hot set is half of it, the scan 8 times as much
HOT_OPS = quick(120000, 6000)
KINDS = ("ours", "zram", "disk", "file")

# command(cmd): cmd as it has to be run there; pids: whose CPU time is a fault's as well;
# paged(): pages brought in so far; nudged(): how often the killer was put off (swap.py)
Memory = collections.namedtuple("Memory", "command pids paged nudged")


class Fault:
    """bench/fault, as some kind of memory lets it run."""

    def __init__(self, cmd, pid_too=(), **kw):
        self.proc = start(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)
        self.pid = self.answer(120)["pid"]
        self.pids = (self.pid, *pid_too)

    def answer(self, seconds):
        ready, _, _ = select.select([self.proc.stdout], [], [], seconds)
        line = self.proc.stdout.readline() if ready else b""
        if not line:
            self.proc.kill()
            text = self.proc.stderr.read().decode(errors="replace").strip()[-200:]
            raise (Mismatch if "other bytes" in text else Failed)(f"fault: {text or 'no answer: killed for want of memory?'}")
        return json.loads(line)

    def tell(self, what, seconds=300):
        before = sum(cpu_ns(p) for p in self.pids)
        self.proc.stdin.write(what.encode() + b"\n")
        self.proc.stdin.flush()
        got = self.answer(seconds)
        got["cpu"] = sum(cpu_ns(p) for p in self.pids) - before
        return got

    def close(self):
        stop(self.proc)


@contextlib.contextmanager
def ours(local, size):
    lend = f"{1 + max(size - local, 0) // (1 << 30)}G"
    r = rack.Rack(9000, name="peers", switch="cable", programs=True, lend=lend)
    try:
        kernel.wait_serves(r, "h2")
        # The daemons' CPU time is a fault's as well.
        bbds = [h["pid"] for h in r.host.values()]

        def command(cmd):
            pre = ["env", f"LD_PRELOAD={built('libbb.so')}", f"BB_LOCAL={local}", "BB_LOG=warn"]
            return r.command("h1", [*pre, *cmd])

        def paged():
            return sum(p["rx_packets"] for p in r.ask("h1", "net.show")["pagers"])

        yield Memory(command, bbds, paged, lambda: 0)
    finally:
        r.down()


@contextlib.contextmanager
def theirs(kind, local, size, beside):
    """Swap, or none (a file that is mapped)."""
    def swapped_in():
        return int(next(line.split()[1] for line in swap.read("/proc/vmstat").splitlines() if line.startswith("pswpin ")))

    with swap.Machine() as m:
        if kind == "zram":
            m.zram(2 * size)
        elif kind == "disk":
            m.file(2 * size)
        pre = m.cgroup(local + beside)
        before = swapped_in()
        yield Memory(lambda cmd: [*pre, *cmd], (), lambda: swapped_in() - before, lambda: m.nudger.times if m.nudger else 0)


def memory(kind, local, size, beside=BESIDE):
    return ours(local, size) if kind == "ours" else theirs(kind, local, size, beside)


def touch(kind):
    """One round. Return: figures of each pattern."""
    out = {}
    # A file without a name: nothing stays of it, however this ends.
    with tempfile.TemporaryFile(dir=os.path.join(BUILD, "bench")) as data, memory(kind, LOCAL, SIZE) as mem:
        mapped = ["--file", f"/dev/fd/{data.fileno()}"] if kind == "file" else []
        f = Fault(mem.command([built("bench/fault"), str(SIZE), *mapped]), mem.pids, pass_fds=(data.fileno(),))
        try:
            # To steady state: pages that the filling has left dirty are written once.
            f.tell(f"rand {WARM.get(kind, 2 * OPS)} 0")
            for name, what in (("read", f"rand {OPS} 0"), ("write50", f"rand {OPS} 50"), ("two", f"rand {OPS} 0 2"),
                               ("seq", f"seq {OPS}")):
                progress(f"peers: {kind}, {name}")
                ops = OPS if kind not in ("disk", "file") or name == "seq" else OPS // 6
                got = f.tell(what.replace(str(OPS), str(ops), 1))
                n = got["slow"]["n"]
                out[name] = {
                    "faults_per_s": n * 1e9 / got["ns"], "mb_per_s": ops * 4096e3 / got["ns"], "p50_ns": got["slow"]["p50"],
                    "p99_ns": got["slow"]["p99"], "mean_ns": got["slow"]["mean"], "cpu_us_per_fault": got["cpu"] / 1000 / max(n, 1),
                    "cpu_us_per_page": got["cpu"] / 1000 / ops,
                }
            f.tell("check")
        finally:
            f.close()
    return out


def hot_set(kind):
    """Return: which share of the hot set's touches a scan has left here."""
    with memory(kind, HOT_LOCAL, HOT_SIZE) as mem:
        f = Fault(mem.command([built("bench/fault"), str(HOT_SIZE)]), mem.pids)
        try:
            f.tell(f"hot {HOT_LOCAL // 2 // 4096} {HOT_OPS}")
            got = f.tell(f"hot {HOT_LOCAL // 2 // 4096} {HOT_OPS}")
            f.tell("check")
            return got["fast"]["n"] / (got["fast"]["n"] + got["slow"]["n"])
        finally:
            f.close()


def streaming():
    """Return: MB/s of pages that the bare client reads, 16 at a time, over such a cable."""
    hosts = kernel.Hosts("cable", 9000)
    try:
        return median([hosts.read("free", "--spin", "50", "--depth", "16", "--pages", str(kernel.COLD_PAGES), *hosts.xdp(),
                                  ops=kernel.DEPTH_OPS)["pages_per_s"] * 4096e-6 for _ in range(ROUNDS)])
    finally:
        hosts.rack.down()


def rounds(kinds, fn):
    """Return: of each kind its figures' medians, or why there are none."""
    got, why = {k: [] for k in kinds}, {}
    for i in range(ROUNDS):
        for kind in kinds[i % len(kinds):] + kinds[:i % len(kinds)]:
            if kind not in why:
                try:
                    got[kind].append(fn(kind))
                except (Skipped, Failed) as e:
                    if kind == "ours":
                        raise
                    why[kind] = str(e)
    return {k: v for k, v in got.items() if v and k not in why}, why


def rows(names):
    kinds = list(KINDS)
    if not {"peers-random-file"} & set(names):
        kinds.remove("file")
    if not {"peers-random-disk"} & set(names):
        kinds.remove("disk")
    touches = [n for n in names if n != "peers-hot-set"]
    got, why = rounds(kinds, touch) if touches else ({}, {})

    def of(kind, pattern, key):
        if kind not in got:
            raise Skipped(f"{kind}: {why.get(kind, 'not measured')}")
        return median([r[pattern][key] for r in got[kind]])

    def rate(name, other, goal):
        a, b = of("ours", "read", "faults_per_s"), of(other, "read", "faults_per_s")
        return row(name, a / b, "ratio", goal, more=True,
                   note=f"faults/s: ours {a:.0f}, {other} {b:.0f}; median {of('ours', 'read', 'p50_ns') / 1000:.1f} and "
                        f"{of(other, 'read', 'p50_ns') / 1000:.1f} us", rounds=got)

    def inner(name, pattern, key, goal):
        a, b = of("ours", pattern, key), of("ours", "read", key)
        z = {k: f"{of(k, pattern, key) / of(k, 'read', key):.2f}" for k in got if k != "ours"}
        return row(name, a / b, "ratio", goal, more=True, note=f"{key} {a:.0f} and {b:.0f}; the others: {z}")

    def sequential():
        a, b = of("ours", "seq", "mb_per_s"), of("zram", "seq", "mb_per_s")
        return row("peers-sequential", a / b, "ratio", 1.5, more=True, note=f"MB/s: ours {a:.0f}, zram {b:.0f}")

    def sequential_wire():
        a, b = of("ours", "seq", "mb_per_s"), streaming()
        return row("peers-sequential-wire", a / b, "ratio", 0.7, more=True,
                   note=f"MB/s: a scan {a:.0f}, the bare client, 16 READs of a page at a time, {b:.0f}")

    def cpu():
        a, b = of("ours", "read", "cpu_us_per_fault"), of("zram", "read", "cpu_us_per_fault")
        return row("peers-cpu", a / b, "ratio", 1.3, note=f"us of CPU a fault, program and daemons: ours {a:.1f}, zram {b:.1f}")

    def tail():
        def t(k):
            return of(k, "read", "p99_ns") / of(k, "read", "p50_ns")

        return row("peers-tail", t("ours"), "ratio", 5,
                   note=f"p99 {of('ours', 'read', 'p99_ns') / 1000:.0f} us; the others: "
                        f"{ {k: round(t(k), 1) for k in got if k != 'ours'} }")

    def hot():
        h, w = rounds(["ours", "zram"], hot_set)
        return row("peers-hot-set", median(h["ours"]), "share", 0.9, more=True,
                   note=f"zram: {median(h['zram']):.2f}" if "zram" in h else f"zram: {w['zram']}")

    make = {
        "peers-random-zram": lambda: rate("peers-random-zram", "zram", 0.8),
        "peers-random-disk": lambda: rate("peers-random-disk", "disk", 4),
        "peers-random-file": lambda: rate("peers-random-file", "file", None),
        "peers-write50": lambda: inner("peers-write50", "write50", "faults_per_s", 0.8),
        "peers-two-threads": lambda: inner("peers-two-threads", "two", "faults_per_s", 1.5),
        "peers-sequential": sequential, "peers-sequential-wire": sequential_wire, "peers-cpu": cpu, "peers-tail": tail, "peers-hot-set": hot,
    }
    out = []
    for n in names:
        try:
            out.append(make[n]())
        except Skipped as e:
            out.append(row(n, None, "", skipped=f"skipped: {e}"))
    return out
