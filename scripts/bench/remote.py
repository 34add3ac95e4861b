# SPDX-License-Identifier: MIT
"""Faults served by the bbd of another host, against the floors of this machine.

One program (bench/fault) on host h1 keeps 256 MiB with a budget of 64 MiB; the
rest lies on h2. A round measures, for each placement of the processes on the
CPUs, one right after the other:

  uffd floor   a missing fault filled from a local buffer by a bare loop
  UDP floor    64 bytes there, a page back, between the same two namespaces
  fault        the program's touches of random pages that were not here

and the round's ratio is fault / (uffd floor + UDP floor), of medians. The value
is the median over the rounds. Placements are changed by moving the running
processes, so that all see the same program in the same state:

  split   program and its bbd on one CPU, h2's bbd on the other: as two hosts
  one     all three on one CPU
  free    wherever the scheduler puts them
"""
import json
import os
import select
import subprocess
import time

import rack
from common import Failed, Mismatch, built, call_json, cpu_ns, median, pin_all, progress, quick, row, start, stop

NAMES = [
    "remote-fault-pinned", "remote-fault-unpinned", "rate-random-read", "rate-random-write50", "rate-sequential",
    "cpu-per-fault",
]
SIZE, LOCAL = "256M", "64M"
GOAL = 1.25
ROUNDS = quick(9, 1)
OPS = quick(4000, 600)
FLOOR_OPS = quick(3000, 200)
MTUS = quick((9000, 1500), (9000, 9000))
close = rack.close


def placements():
    cpus = sorted(os.sched_getaffinity(0))
    every = set(cpus)
    return {
        "split": ({cpus[0]}, {cpus[-1]}),
        "one": ({cpus[0]}, {cpus[0]}),
        "free": (every, every),
    }


class Floors:
    """The bare echo servers of one rack; the CPU they run on is set per measurement."""

    def __init__(self, r):
        self.rack = r
        self.to = r.host["h2"]["address"]
        spin = ["--spin", str(rack.SPIN_US)]
        if r.mtu >= 9000:
            kinds = {"one datagram": ["--segments", "1"]}
        else:
            kinds = {"four datagrams": ["--segments", "4"], "four by GSO": ["--segments", "4", "--gso"]}
        self.kinds, self.servers = {}, []
        for i, (kind, args) in enumerate(kinds.items()):
            args = [*args, *spin, "--port", str(48100 + i)]
            self.kinds[kind] = args
            self.servers.append(start(r.command("h2", [built("bench/udp_floor"), "--server", *args])))

    def close(self):
        for s in self.servers:
            stop(s)

    def udp(self, client, server):
        for s in self.servers:
            pin_all(s.pid, server)
        out = {}
        for kind, args in self.kinds.items():
            cmd = [built("bench/udp_floor"), "--to", self.to, "--ops", str(FLOOR_OPS), *args]
            out[kind] = call_json(self.rack.command("h1", cmd), "udp_floor", 60, cpus=client)["round_trip"]
        return out

    @staticmethod
    def uffd(cpus):
        """A filler that sleeps at once, and one that polls as bbd does."""
        out = {}
        for kind, spin in (("sleeping", "0"), ("polling", str(rack.SPIN_US))):
            cmd = [built("bench/uffd_floor"), "--ops", str(FLOOR_OPS), "--spin", spin]
            out[kind] = call_json(cmd, "uffd_floor", 60, cpus=cpus)["fault"]
        return out


class Program:
    """bench/fault under libbb.so on h1: one line there, one line back."""

    def __init__(self, r, size=SIZE, local=LOCAL, more=(), wait=60):
        self.rack = r
        self.proc = r.program(
            "h1", [built("bench/fault"), size, *more], local, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self.proc.pid
        self.answer(wait)

    def answer(self, seconds):
        fd = self.proc.stdout.fileno()
        ready, _, _ = select.select([fd], [], [], seconds)
        line = self.proc.stdout.readline() if ready else b""
        if not line:
            self.proc.kill()
            text = self.proc.stderr.read().decode(errors="replace").strip()[-300:]
            raise (Mismatch if "other bytes" in text else Failed)(f"fault: no answer within {seconds} s: {text}")
        return json.loads(line)

    def say(self, what):
        self.proc.stdin.write(what.encode() + b"\n")
        self.proc.stdin.flush()

    def tell(self, what, seconds=60):
        self.say(what)
        return self.answer(seconds)

    def place(self, here, there):
        pin_all(self.pid, here)
        self.rack.pin("h1", here)
        self.rack.pin("h2", there)

    def counters(self):
        for p in self.rack.ask("h1", "program.show")["programs"]:
            if p["pid"] == self.pid:
                return p
        raise Failed("h1 does not know the program")

    def close(self):
        stop(self.proc)


def ns(kinds):
    return min(k["p50"] for k in kinds.values())


def latency(r, prog, floors, rounds):
    """Return: placement -> figures of all rounds."""
    out = {}
    for name in placements():
        out[name] = {"ratio": [], "fault_ns": [], "p99_ns": [], "uffd_ns": [], "udp_ns": [], "slow": 0, "remote": 0,
                     "hit_ns": [], "mean_ns": [], "parts_ns": {}}
    for i in range(rounds):
        order = list(placements().items())
        order = order[i % 3:] + order[:i % 3]
        for name, (here, there) in order:
            progress(f"remote-fault: MTU {r.mtu}, round {i + 1} of {rounds}, {name}")
            o = out[name]
            udp = floors.udp(here, there)
            uffd = floors.uffd(here)
            prog.place(here, there)
            prog.tell("rand 500 0")  # warm again after the floors
            before = prog.counters()
            r.ask("h1", "fault.reset")
            got = prog.tell(f"rand {OPS} 0")
            parts = r.ask("h1", "fault.show")["remote"]
            after = prog.counters()
            for part, h in parts.items():
                o["parts_ns"].setdefault(part, []).append(h["p50_ns"])
            if got["slow"]["n"] < OPS // 10:
                raise Failed(f"only {got['slow']['n']} of {OPS} touches faulted")
            floor = ns(uffd) + ns(udp)
            o["ratio"].append(round(got["slow"]["p50"] / floor, 4))
            o["fault_ns"].append(got["slow"]["p50"])
            o["mean_ns"].append(got["slow"]["mean"])
            o["p99_ns"].append(got["slow"]["p99"])
            o["hit_ns"].append(got["fast"]["p50"])
            o["uffd_ns"].append({k: v["p50"] for k, v in uffd.items()})
            o["udp_ns"].append({k: v["p50"] for k, v in udp.items()})
            o["slow"] += got["slow"]["n"]
            o["remote"] += after["fill_remote"] - before["fill_remote"]
    for o in out.values():
        # Touches of more than 2 us and faults that the daemon sent to a home must be the same.
        o["remote_share"] = round(o.pop("remote") / o.pop("slow"), 3)
        if not 0.9 < o["remote_share"] < 1.15:
            raise Failed(f"{o['remote_share']} of the slow touches went to the other host: this is not its latency")
        o["uffd_floor_ns"] = median([min(x.values()) for x in o["uffd_ns"]])
        o["udp_floor_ns"] = median([min(x.values()) for x in o["udp_ns"]])
        # The paper's five parts, as bbd sees them: medians of the rounds' medians.
        o["breakdown_ns"] = {part: median(v) for part, v in o.pop("parts_ns").items()}
        o["median_fault_ns"] = median(o["fault_ns"])
        o["median_ratio"] = median(o["ratio"])
    return out


def rates(r, prog):
    """Operations a second of the program, unpinned, every touch with its check of the whole page."""
    prog.place(*placements()["free"])
    out = {}
    bbds = [r.host[h]["pid"] for h in ("h1", "h2")]
    for name, what in (
        ("rate-random-read", "rand 12000 0"), ("rate-random-write50", "rand 12000 50"), ("rate-sequential", "seq 40000"),
    ):
        o = out[name] = {"faults_per_s": [], "touches_per_s": [], "mb_per_s": [], "cpu_us_per_fault": []}
        for i in range(quick(3, 1)):
            progress(f"{name}: MTU {r.mtu}, {i + 1} of {quick(3, 1)}")
            before = prog.counters()
            cpu = [cpu_ns(p) for p in (prog.pid, *bbds)]
            got = prog.tell(what)
            cpu = [cpu_ns(p) - c for p, c in zip((prog.pid, *bbds), cpu)]
            after = prog.counters()
            s = got["ns"] / 1e9
            brought = after["fill_remote"] + after["prefetched"] - before["fill_remote"] - before["prefetched"]
            o["touches_per_s"].append(round(got["ops"] / s))
            o["faults_per_s"].append(round(got["slow"]["n"] / s))
            o["mb_per_s"].append(round(got["ops"] * 4096 / 1e6 / s, 1))
            if brought:
                o["cpu_us_per_fault"].append(round(sum(cpu) / 1000 / brought, 2))
            o["cpu_share"] = {"program": cpu[0], "h1_bbd": cpu[1], "h2_bbd": cpu[2]}
    return out


def at_mtu(mtu, names):
    r = rack.get(mtu)
    floors = prog = None
    try:
        floors = Floors(r)
        prog = Program(r)
        prog.tell("rand 8000 0")
        want_latency = any(n.startswith("remote-fault") for n in names)
        lat = latency(r, prog, floors, ROUNDS if want_latency else quick(3, 1))
        rate = rates(r, prog) if any(not n.startswith("remote-fault") for n in names) else {}
        prog.tell("check", 120)
        return lat, rate
    finally:
        if prog:
            prog.close()
        if floors:
            floors.close()


def us(x):
    return round(x / 1000, 2)


def fault_row(name, placement, goal, lat):
    o = lat[MTUS[0]][placement]
    detail = {f"mtu{m}": lat[m] if placement == "split" else lat[m][placement] for m in MTUS}
    return row(
        name, o["median_ratio"], "ratio", goal, placement=placement,
        note=f"fault {us(o['median_fault_ns'])} us, floors {us(o['uffd_floor_ns'])} + {us(o['udp_floor_ns'])} us"
             f"; MTU 1500: {lat[MTUS[1]][placement]['median_ratio']:.2f}",
        **detail,
    )


def rows(names):
    t = time.monotonic()
    lat, rate = {}, {}
    for m in dict.fromkeys(MTUS):
        lat[m], rate[m] = at_mtu(m, names)
        if m != MTUS[0]:
            rack.drop(m)
    out = []
    if NAMES[0] in names:
        out.append(fault_row(NAMES[0], "split", GOAL, lat))
    if NAMES[1] in names:
        out.append(fault_row(NAMES[1], "free", None, lat))
    jumbo = rate[MTUS[0]]
    serial = {m: 1e9 / (lat[m]["free"]["uffd_floor_ns"] + lat[m]["free"]["udp_floor_ns"]) for m in MTUS}
    for name, key, unit in (
        (NAMES[2], "faults_per_s", "faults/s"), (NAMES[3], "faults_per_s", "faults/s"),
        (NAMES[4], "mb_per_s", "MB/s"),
    ):
        if name in names:
            value = median(jumbo[name][key])
            per_s = median(jumbo[name]["touches_per_s" if key == "mb_per_s" else key])
            small = median(rate[MTUS[1]][name][key])
            out.append(row(
                name, value, unit, None,
                note=f"{per_s / serial[MTUS[0]]:.2f} of the floors' serial rate; MTU 1500: {small:g}",
                ratio_to_floor=round(per_s / serial[MTUS[0]], 3), mtu9000=jumbo[name], mtu1500=rate[MTUS[1]][name],
            ))
    if NAMES[5] in names:
        each = {m: rate[m]["rate-random-read"]["cpu_us_per_fault"] for m in MTUS}
        out.append(row(
            NAMES[5], median(each[MTUS[0]]), "us", None,
            note=f"program and both daemons; MTU 1500: {median(each[MTUS[1]]):g}", mtu9000=each[MTUS[0]],
            mtu1500=each[MTUS[1]], share=jumbo["rate-random-read"]["cpu_share"],
        ))
    for r in out:
        r["detail"]["seconds"] = round(time.monotonic() - t, 1)
    return out
