# SPDX-License-Identifier: MIT
"""What AF_XDP at the asker brings: a fault whose answer comes by it, over the same by UDP.

Two racks, both with all host programs attached, so that the memory host answers
READs in its kernel; one has bbds with --xdp off. The same program on h1 of each is
measured in turns, pinned (program and its bbd on one CPU, h2's on the other) and
unpinned. That answers came the way they should is checked by bbd's counters.

And READs without faults around them (bench/net_read), one and sixteen at a time, on
h1 of the second rack, whose device's queue no bbd uses.
"""
import os
import time

import rack
from common import Failed, Skipped, built, call, call_json, environment, median, progress, quick, row
from remote import Program, placements

NAMES = ["xdp-fault-pinned", "xdp-fault-unpinned", "xdp-rate", "xdp-read", "xdp-depth16"]
GOAL = 1.0
ROUNDS = quick(9, 1)
OPS = quick(4000, 600)
READS = quick(10000, 200)
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

    def read(self, xdp, depth):
        """Return: what net_read says, on one CPU; h2's bbd has the other."""
        here, there = placements()["split"]
        self.rack.pin("h2", there)
        key = os.path.join(os.path.dirname(os.path.dirname(self.rack.host["h1"]["socket"])), "key")
        cmd = [built("bench/net_read"), "--key", key, "--node", "1", "--to", "2", "--ops", str(READS), "--depth", str(depth)]
        if xdp:
            via = next(n["via"] for n in self.rack.ask("h1", "node.show")["nodes"] if n["node"] == 2)
            cmd += ["--xdp", "eth0", "--via", via]
        return call_json(self.rack.command("h1", cmd), "net_read", 60, cpus=here)

    def close(self):
        if self.prog:
            self.prog.close()
        self.rack.down()


def measure(mtu, rounds):
    out = {p: {"ratio": [], "rate_ratio": [], "xdp_ns": [], "udp_ns": []} for p in ("split", "free")}
    reads = {"ratio": [], "xdp_ns": [], "udp_ns": [], "depth16_ratio": [], "xdp_pages_per_s": [], "udp_pages_per_s": []}
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
            progress(f"xdp: MTU {mtu}, round {i + 1} of {rounds}, READs")
            one = {x: sides[1].read(x, 1)["round_trip"]["p50"] for x in (True, False)}
            many = {x: sides[1].read(x, 16)["pages_per_s"] for x in (True, False)}
            reads["ratio"].append(round(one[True] / one[False], 3))
            reads["depth16_ratio"].append(round(many[True] / many[False], 3))
            for x, name in ((True, "xdp"), (False, "udp")):
                reads[f"{name}_ns"].append(one[x])
                reads[f"{name}_pages_per_s"].append(many[x])
        for s in sides:
            s.prog.tell("check", 120)
    finally:
        for s in sides:
            s.close()
    out["reads"] = reads
    return out


def rows(names):
    t = time.monotonic()
    try:
        built("bbload")
    except Failed as e:
        raise Skipped(str(e)) from None
    got = {mtu: measure(mtu, ROUNDS if mtu == 9000 else 5) for mtu in quick((9000, 1500), (9000,))}
    got.setdefault(1500, got[9000])
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
    o, small = got[9000]["reads"], got[1500]["reads"]
    if NAMES[3] in names:
        out.append(row(
            NAMES[3], median(o["ratio"]), "ratio", GOAL, mtu9000=o, mtu1500=small,
            note=f"READ {median(o['xdp_ns']) / 1000:.2f} us by AF_XDP, {median(o['udp_ns']) / 1000:.2f} by UDP"
                 f"; MTU 1500: {median(small['ratio']):.2f}",
        ))
    if NAMES[4] in names:
        out.append(row(
            NAMES[4], median(o["depth16_ratio"]), "ratio", GOAL, more=True,
            note=f"{median(o['xdp_pages_per_s']):.0f} pages/s by AF_XDP, {median(o['udp_pages_per_s']):.0f} by UDP"
                 f"; MTU 1500: {median(small['depth16_ratio']):.2f}",
        ))
    return out
