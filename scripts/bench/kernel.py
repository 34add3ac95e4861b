# SPDX-License-Identifier: MIT
"""READs that the memory host's kernel answers, against the same answered by its bbd.

Racks of two hosts are up at the same time and measured in turns by bench/net_read,
which writes pages at h2, reads them at random and compares every byte. They
differ in one thing: the host programs are attached or not, or what joins the
hosts. A waiter that is "asleep" sleeps at once (as does the bbd that serves it),
one that is "polling" looks for 50 us before it does; the ratio compares two
that wait in the same way.

  one   client and h2's bbd on one CPU
  two   a CPU each
  free  wherever the scheduler puts them

That READs were answered where they should be is checked by h2's own counts.
"""
import os
import time

import foreign
import rack
import remote
from common import Failed, built, call_json, cpu_ns, median, pin_all, progress, quick, row

NAMES = [
    "kernel-read-one-cpu", "kernel-read-two-cpus", "kernel-read-unpinned", "kernel-depth16-one-cpu",
    "kernel-depth16-two-cpus", "kernel-cpu",
    "switch-round-trip", "kernel-others",
]
FAULT_NAMES = ["kernel-fault-pinned", "kernel-fault-unpinned"]
ROUNDS = int(os.environ.get("BB_BENCH_ROUNDS", quick("9", "1")))
OPS = quick(3000, 200)
DEPTH_OPS = quick(20000, 400)
CPU_READS = quick(100000, 1000)
COLD_PAGES = quick(16384, 256)
MTUS = quick((9000, 1500), (9000, 9000))

# name: how they are joined, programs at the hosts, microseconds that bbd polls
RACKS = {
    "user-asleep": ("auto", False, 0),
    "user-polling": ("auto", False, rack.SPIN_US),
    "kernel": ("auto", True, rack.SPIN_US),
    "cable": ("cable", True, rack.SPIN_US),
    "bridge": ("bridge", True, rack.SPIN_US),
    "plain": ("cable", False, rack.SPIN_US),
}


def placements():
    cpus = sorted(os.sched_getaffinity(0))
    return {"one": ({cpus[0]}, {cpus[0]}), "two": ({cpus[0]}, {cpus[-1]}), "free": (set(cpus), set(cpus))}


class Hosts:
    """A rack, and how many READs of its were answered where."""

    def __init__(self, name, mtu):
        switch, self.in_kernel, spin = RACKS[name]
        # net_read makes AF_XDP sockets of its own, where bbd's is not in the way.
        self.rack = rack.Rack(mtu, name=name, switch=switch, programs=self.in_kernel, spin=f"{spin} --xdp off")
        if self.in_kernel:
            try:
                wait_serves(self.rack, "h2")
            except BaseException:
                self.rack.down()
                raise

    def read(self, placement, *args, ops=OPS):
        here, there = placements()[placement]
        self.rack.pin("h2", there)
        cmd = [built("bench/net_read"), "--key", self.rack.key, "--node", "1", "--to", "2", "--ops", str(ops), *args]
        before = self.counts()
        got = call_json(self.rack.command("h1", cmd), "net_read", 60, cpus=here)
        kernel, bbd = (a - b for a, b in zip(self.counts(), before))
        # While a slab is added some go to bbd.
        if (kernel if self.in_kernel else bbd) < ops * 0.95:
            state = self.rack.ask("h2", "net.show")["kernel"]
            raise Failed(f"of {ops} READs the kernel answered {kernel}, bbd {bbd}: {state['state']} {state['why']}")
        return got

    def xdp(self):
        """Arguments: answers come by AF_XDP, as to a bbd where programs are attached."""
        via = next(n["via"] for n in self.rack.ask("h1", "node.show")["nodes"] if n["node"] == 2)
        return ["--xdp", "eth0", "--via", via]

    def counts(self):
        """READs answered by h2's kernel, and by its bbd."""
        net = self.rack.ask("h2", "net.show")
        return net["kernel"].get("served", 0), net["server"]["commands"].get("read", 0)

    def cpu(self, placement, *args):
        """Nanoseconds of CPU time of h2's bbd over CPU_READS."""
        pid = self.rack.host["h2"]["pid"]
        before = cpu_ns(pid)
        self.read(placement, *args, ops=CPU_READS)
        return cpu_ns(pid) - before


def wait_serves(r, host):
    end = time.monotonic() + 10
    while r.ask(host, "net.show")["kernel"]["state"] != "serves":
        if time.monotonic() > end:
            raise Failed(f"{host}: no READ is answered in the kernel: {r.ask(host, 'net.show')['kernel']['why']}")
        time.sleep(0.05)


def p50(got):
    return got["round_trip"]["p50"]


def bare_args(mtu):
    """The bare loop's ways to receive an answer; the quickest counts."""
    return [[]] if mtu >= 9000 else [["--small"], ["--small", "--gro"]]


def bare(hosts, placement, mtu):
    return min(p50(hosts.read(placement, "--bare", *a)) for a in bare_args(mtu))


def add(o, key, value):
    o.setdefault(key, []).append(value)


def a_round(hosts, placement, mtu, o, turn):
    """Round trips of each rack, one right after the other. o: lists of nanoseconds, of pages/s."""
    order = [("user-asleep", "0"), ("kernel", "0"), ("user-polling", "50"), ("kernel", "50")]
    for name, spin in order[turn % 4:] + order[:turn % 4]:
        where = "kernel" if name == "kernel" else "user"
        how = "asleep" if spin == "0" else "polling"
        add(o, f"{where}_{how}_ns", p50(hosts[name].read(placement, "--spin", spin)))
        got = hosts[name].read(placement, "--spin", spin, "--depth", "16", ops=DEPTH_OPS)
        add(o, f"{where}_{how}_pages_per_s", got["pages_per_s"])
        if where == "kernel":
            got = hosts[name].read(placement, "--spin", spin, "--depth", "16", *hosts[name].xdp(), ops=DEPTH_OPS)
            add(o, f"xdp_{how}_pages_per_s", got["pages_per_s"])
    names = ["kernel", "cable", "bridge"]
    for name in names[turn % 3:] + names[:turn % 3]:
        add(o, f"bare_{name}_ns", bare(hosts[name], placement, mtu))
    for how in ("asleep", "polling"):
        add(o, f"ratio_{how}", round(o[f"user_{how}_ns"][-1] / o[f"kernel_{how}_ns"][-1], 3))
        for way in ("kernel", "xdp"):
            add(o, f"depth16_{way}_{how}", round(o[f"{way}_{how}_pages_per_s"][-1] / o[f"user_{how}_pages_per_s"][-1], 3))
    for name in ("kernel", "bridge"):
        add(o, "switch" if name == "kernel" else name, round(o[f"bare_{name}_ns"][-1] / o["bare_cable_ns"][-1], 3))


def at_mtu(mtu, rounds, names):
    hosts, out, cpu, others = {}, {}, {}, {}
    try:
        for name in RACKS if rounds or "kernel-others" in names else ("user-asleep", "user-polling", "kernel"):
            hosts[name] = Hosts(name, mtu)
        for i in range(rounds):
            for placement in placements():
                progress(f"kernel: MTU {mtu}, round {i + 1} of {rounds}, {placement}")
                a_round(hosts, placement, mtu, out.setdefault(placement, {}), i)
        if "kernel-cpu" in names and mtu == MTUS[0]:
            for name, spin, times in (("user-asleep", "0", 1), ("user-polling", "50", 1), ("kernel", "50", 3)):
                progress(f"kernel-cpu: {name}")
                cpu[name] = [hosts[name].cpu("two", "--spin", spin) for _ in range(times)]
        if "kernel-others" in names:
            progress(f"kernel-others: MTU {mtu}")
            others = foreign.measure(hosts, mtu)
        return out, cpu, others
    finally:
        for h in hosts.values():
            h.rack.down()


def us(values):
    return f"{median(values) / 1000:.1f}"


def medians(o):
    return {k: median(v) for k, v in o.items()}


def read_row(name, placement, goal, got):
    o, small = got[MTUS[0]][0][placement], got[MTUS[1]][0][placement]
    return row(
        name, median(o["ratio_asleep"]), "ratio", goal, more=True, placement=placement, waiter="asleep",
        note=f"asleep: bbd {us(o['user_asleep_ns'])} us, kernel {us(o['kernel_asleep_ns'])}; polling: "
             f"{us(o['user_polling_ns'])}, {us(o['kernel_polling_ns'])}: {median(o['ratio_polling']):.2f}; "
             f"MTU 1500: {median(small['ratio_asleep']):.2f}, {median(small['ratio_polling']):.2f}",
        medians={m: medians(got[m][0][placement]) for m in MTUS}, mtu9000=o, mtu1500=small,
    )


def depth_row(name, placement, got):
    """What bbd does by itself with programs attached, AF_XDP, over what it does without them."""
    o, small = got[MTUS[0]][0][placement], got[MTUS[1]][0][placement]
    rate = {w: median(o[f"{w}_asleep_pages_per_s"]) for w in ("xdp", "kernel", "user")}
    return row(
        name, median(o["depth16_xdp_asleep"]), "ratio", 1.8, more=True, placement=placement, waiter="asleep",
        note=f"asleep: kernel {rate['xdp']:.0f} pages/s ({rate['kernel']:.0f} by UDP: "
             f"{median(o['depth16_kernel_asleep']):.2f}), bbd {rate['user']:.0f}; polling: {median(o['depth16_xdp_polling']):.2f}; "
             f"MTU 1500: {median(small['depth16_xdp_asleep']):.2f}, {median(small['depth16_xdp_polling']):.2f}",
    )


def cpu_row(got):
    cpu = got[MTUS[0]][1]
    kernel, asleep, polling = (median(cpu[n]) for n in ("kernel", "user-asleep", "user-polling"))
    return row(
        "kernel-cpu", kernel / min(asleep, polling), "ratio", 0.01, reads=CPU_READS, cpu_ns=cpu,
        note=f"bbd's CPU time over {CPU_READS} READs: {kernel / 1e6:.1f} ms in the kernel, {asleep / 1e6:.0f} ms served by a "
             f"bbd that sleeps, {polling / 1e6:.0f} that polls",
    )


def switch_row(got):
    o, small = got[MTUS[0]][0], got[MTUS[1]][0]
    return row(
        "switch-round-trip", median(o["two"]["switch"]), "ratio", 1.25, placement="two",
        note=f"{us(o['two']['bare_kernel_ns'])} us, by a cable {us(o['two']['bare_cable_ns'])}; by a plain bridge "
             f"{median(o['two']['bridge']):.2f}; unpinned: {median(o['free']['switch']):.2f}; MTU 1500: "
             f"{median(small['two']['switch']):.2f}, bridge {median(small['two']['bridge']):.2f}",
    )


def others_row(got):
    o, small = got[MTUS[0]][2], got[MTUS[1]][2]
    return row(
        "kernel-others", max(o["host_ns"].values()), "ns", 100, mtu9000=o, mtu1500=small,
        note="run by the kernel on " + ", ".join(f"{k} {v}" for k, v in o["host_ns"].items())
             + f"; in a rack, with the clock's {o['in_rack_ns']}; round trip of a bare loop, a packet: {o['a_packet_ns']:+d} ns",
    )


def rows(names):
    t = time.monotonic()
    alone = all(n in ("kernel-cpu", "kernel-others") for n in names)
    got = {m: at_mtu(m, 0 if alone else ROUNDS, names) for m in dict.fromkeys(MTUS)}
    make = {
        NAMES[0]: lambda: read_row(NAMES[0], "one", 2, got),
        NAMES[1]: lambda: read_row(NAMES[1], "two", 5, got),
        NAMES[2]: lambda: read_row(NAMES[2], "free", None, got),
        NAMES[3]: lambda: depth_row(NAMES[3], "one", got),
        NAMES[4]: lambda: depth_row(NAMES[4], "two", got),
        NAMES[5]: lambda: cpu_row(got),
        NAMES[6]: lambda: switch_row(got),
        NAMES[7]: lambda: others_row(got),
    }
    out = [make[n]() for n in NAMES if n in names]
    for r in out:
        r["detail"]["seconds"] = round(time.monotonic() - t, 1)
    return out


# --- faults ---------------------------------------------------------------------


class Floors:
    """As remote.Floors, the round trip being that of a bare READ answered by the kernel.

    It reads as many pages at random as no cache holds: the program's are as cold.
    What it takes where they are warm is in warm_ns.
    """

    uffd = staticmethod(remote.Floors.uffd)

    def __init__(self, r):
        self.rack = r
        self.warm_ns = {}

    def udp(self, client, server):
        self.rack.pin("h2", server)
        out = {}
        base = [built("bench/net_read"), "--key", self.rack.key, "--node", "1", "--to", "2", "--bare", "--ops", str(remote.FLOOR_OPS)]
        warm = []
        for args in bare_args(self.rack.mtu):
            cmd = self.rack.command("h1", [*base, *args])
            warm.append(call_json(cmd, "net_read", 60, cpus=client)["round_trip"]["p50"])
            out[" ".join(["bare", *args])] = call_json([*cmd, "--pages", str(COLD_PAGES)], "net_read", 60, cpus=client)["round_trip"]
        add(self.warm_ns, "free" if len(client) > 1 else "one" if client == server else "split", min(warm))
        return out


def fault_at(mtu):
    r = rack.Rack(mtu, name="fault", switch="auto", programs=True)
    prog = None
    try:
        wait_serves(r, "h2")
        prog = remote.Program(r)
        prog.tell("rand 8000 0")
        before = r.ask("h2", "net.show")
        floors = Floors(r)
        out = remote.latency(r, prog, floors, ROUNDS)
        after = r.ask("h2", "net.show")
        prog.tell("check", 120)
        bbd = after["server"]["commands"].get("read", 0) - before["server"]["commands"].get("read", 0)
        kernel = after["kernel"]["served"] - before["kernel"]["served"]
        if bbd * 50 > kernel:
            raise Failed(f"bbd has answered {bbd} READs, the kernel {kernel}: this is not its latency")
        for placement, o in out.items():
            o["warm_floor_ns"] = median(floors.warm_ns[placement])
            o["ratio_warm"] = round(o["median_fault_ns"] / (o["uffd_floor_ns"] + o["warm_floor_ns"]), 3)
        return out
    finally:
        if prog:
            prog.close()
        r.down()


def fault_rows(names):
    t = time.monotonic()
    lat = {m: fault_at(m) for m in dict.fromkeys(MTUS)}
    out = []
    for name, placement, goal in ((FAULT_NAMES[0], "split", 1.15), (FAULT_NAMES[1], "free", None)):
        if name in names:
            out.append(remote.fault_row(name, placement, goal, lat))
            warm = lat[MTUS[0]][placement]
            out[-1]["detail"]["note"] += f"; floor of warm pages {us([warm['warm_floor_ns']])}: {warm['ratio_warm']:.2f}"
            out[-1]["detail"]["seconds"] = round(time.monotonic() - t, 1)
    return out
