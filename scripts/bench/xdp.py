# SPDX-License-Identifier: MIT
"""What AF_XDP at the asker brings: a fault whose answer comes by it, over the same by UDP.

Two racks, both with all host programs attached, so that the memory host answers
READs in its kernel; one has bbds with --xdp off. The same program on h1 of each is
measured in turns, pinned (program and its bbd on one CPU, h2's on the other) and
unpinned. That answers came the way they should is checked by bbd's counters.
"""
import os
import time

import rack
from common import Failed, Skipped, built, call, call_json, environment, median, progress, row
from remote import Program, placements

NAMES = ["xdp-fault-pinned", "xdp-fault-unpinned", "xdp-rate"]
GOAL = 1.0
ROUNDS = 9
OPS = 4000
SECONDS = 20


class Rack(rack.Rack):
    """With options of its own for the bbds."""

    def __init__(self, mtu, xdp):  # pylint: disable=super-init-not-called
        if os.geteuid():
            raise Skipped("network namespaces need root")
        self.mtu = mtu
        self.base = [built("bbrack"), "--name", f"bench-{os.getpid()}-{mtu}-{'xdp' if xdp else 'udp'}", "--bin",
                     os.path.dirname(built("bbd"))]
        progress(f"rack of 2 hosts, MTU {mtu}")
        call(
            [*self.base, "--mtu", str(mtu), "--lend", "1G", "--owner", str(os.getpid()), "--host-programs", "on",
             "--bbd-args", f"--spin {rack.SPIN_US} --xdp {'auto' if xdp else 'off'}", "up", "2"],
            "bbrack up", env=environment(),
        )
        try:
            self.host = {h["host"]: h for h in call_json([*self.base, "-j", "status"], "bbrack status")["hosts"]}
        except BaseException:
            self.down()
            raise


class Side:
    def __init__(self, mtu, xdp):
        self.xdp, self.prog = xdp, None
        self.rack = Rack(mtu, xdp)
        try:
            self.wait(lambda: self.rack.ask("h2", "net.show")["kernel"]["state"] == "serves", "h2's kernel serves nothing")
            self.prog = Program(self.rack)
            self.prog.tell("rand 8000 0")
            if xdp:
                self.wait(lambda: self.touch(500)["share"] > 0.9, "answers do not come by AF_XDP")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def wait(so, why):
        end = time.monotonic() + SECONDS
        while not so():
            if time.monotonic() > end:
                raise Failed(why)
            time.sleep(0.1)

    def counters(self):
        return self.rack.ask("h1", "net.show")["pagers"][0]

    def touch(self, ops):
        """Return: median fault in ns, faults a second, the share of the answers that came by AF_XDP."""
        before = self.counters()
        got = self.prog.tell(f"rand {ops} 0")
        after = self.counters()
        came = after["rx_packets"] - before["rx_packets"]
        if got["slow"]["n"] < ops // 10 or not came:
            raise Failed(f"only {got['slow']['n']} of {ops} touches faulted")
        return {"ns": got["slow"]["p50"], "rate": got["slow"]["n"] * 1e9 / got["ns"],
                "share": (after["rx_xdp"] - before["rx_xdp"]) / came}

    def measure(self, name):
        self.prog.place(*placements()[name])
        self.prog.tell("rand 500 0")
        got = self.touch(OPS)
        if (got["share"] < 0.9) if self.xdp else got["share"]:
            raise Failed(f"{got['share']:.2f} of the answers came by AF_XDP")
        return got

    def close(self):
        if self.prog:
            self.prog.close()
        self.rack.down()


def measure(mtu, rounds):
    out = {p: {"ratio": [], "rate_ratio": [], "xdp_ns": [], "udp_ns": []} for p in ("split", "free")}
    sides = []
    try:
        for xdp in (True, False):
            sides.append(Side(mtu, xdp))
        for i in range(rounds):
            for name, o in out.items():
                progress(f"xdp: MTU {mtu}, round {i + 1} of {rounds}, {name}")
                got = {s.xdp: s.measure(name) for s in (sides if i % 2 else sides[::-1])}
                o["ratio"].append(round(got[True]["ns"] / got[False]["ns"], 3))
                o["rate_ratio"].append(round(got[True]["rate"] / got[False]["rate"], 3))
                o["xdp_ns"].append(got[True]["ns"])
                o["udp_ns"].append(got[False]["ns"])
        for s in sides:
            s.prog.tell("check", 120)
    finally:
        for s in sides:
            s.close()
    return out


def rows(names):
    t = time.monotonic()
    try:
        built("bbload")
    except Failed as e:
        raise Skipped(str(e)) from None
    got = {mtu: measure(mtu, ROUNDS if mtu == 9000 else 5) for mtu in (9000, 1500)}
    out = []
    for name, placement in zip(NAMES, ("split", "free")):
        if name in names:
            o, small = got[9000][placement], got[1500][placement]
            out.append(row(
                name, median(o["ratio"]), "ratio", GOAL, placement=placement, mtu9000=o, mtu1500=small,
                note=f"{median(o['xdp_ns']) / 1000:.1f} us by AF_XDP, {median(o['udp_ns']) / 1000:.1f} by UDP"
                     f"; MTU 1500: {median(small['ratio']):.2f}",
                seconds=round(time.monotonic() - t, 1),
            ))
    if NAMES[2] in names:
        o = got[9000]["free"]
        out.append(row(NAMES[2], median(o["rate_ratio"]), "ratio", GOAL, more=True,
                       note="faults a second by AF_XDP over those by UDP, unpinned", ratios=o["rate_ratio"]))
    return out
