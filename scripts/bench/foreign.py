# SPDX-License-Identifier: MIT
"""What the attached programs cost packets that are not ours.

Three looks at it. The kernel runs each attached program some 100,000 times on a
made-up packet (BPF_PROG_TEST_RUN). In a rack it measures each run of them on the
packets of a bare UDP loop (BPF_ENABLE_STATS: two readings of the clock are in
that). And the loop's own round trip, with the programs and without: that has
what the hooks cost as well, which is not the programs'.
"""
import ctypes
import json
import os
import struct
from contextlib import contextmanager

import rack
from common import Failed, built, call, call_json, median, pin_all, quick, start, stop

SYS_BPF = {"x86_64": 321, "aarch64": 280}
PROG_TEST_RUN, PROG_GET_FD_BY_ID, ENABLE_STATS = 10, 13, 32
REPEAT = quick(100000, 1000)
PORT = 48150
_libc = ctypes.CDLL(None, use_errno=True)


def bpf(cmd, attr):
    buf = ctypes.create_string_buffer(attr.ljust(128, b"\0"))
    r = _libc.syscall(SYS_BPF[os.uname().machine], cmd, buf, len(buf))
    if r < 0:
        raise Failed(f"bpf(2), command {cmd}: {os.strerror(ctypes.get_errno())}")
    return r, buf.raw


@contextmanager
def program(number):
    fd, _ = bpf(PROG_GET_FD_BY_ID, struct.pack("=I", number))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def stats():
    """The kernel measures programs as long as this lasts."""
    fd, _ = bpf(ENABLE_STATS, struct.pack("=I", 0))
    try:
        yield
    finally:
        os.close(fd)


# --- packets that are not ours ----------------------------------------------------


def ethernet(kind, rest):
    return bytes.fromhex("02bb00000002" "02bb00000001") + struct.pack(">H", kind) + rest


def ipv6(nxt, rest):
    host = bytes.fromhex("fd0000bb0000000000000000000000")
    return ethernet(0x86DD, struct.pack(">IHBB", 0x60000000, len(rest), nxt, 64) + host + b"\1" + host + b"\2" + rest)


def ipv4(nxt, rest):
    return ethernet(0x0800, struct.pack(">BBHIBBHII", 0x45, 0, 20 + len(rest), 0, 64, nxt, 0, 0x0A000001, 0x0A000002) + rest)


def udp(rest):
    return struct.pack(">HHHH", 40000, 53, 8 + len(rest), 0) + rest


PACKETS = {
    "IPv4 TCP": ipv4(6, struct.pack(">HHIIHHHH", 40000, 80, 1, 1, 0x5010, 64, 0, 0) + bytes(1400)),
    "IPv6 TCP": ipv6(6, struct.pack(">HHIIHHHH", 40000, 80, 1, 1, 0x5010, 64, 0, 0) + bytes(1400)),
    "IPv6 UDP": ipv6(17, udp(bytes(40))),
    "ARP": ethernet(0x0806, bytes(46)),
}


def run(number, packet):
    """Nanoseconds of one of REPEAT runs, the best of five: what else ran meanwhile is not the program's."""
    data = ctypes.create_string_buffer(packet, len(packet))
    best = None
    with program(number) as fd:
        for _ in range(5):
            attr = struct.pack("=IIIIQQII", fd, 0, len(packet), 0, ctypes.addressof(data), 0, REPEAT, 0)
            _, back = bpf(PROG_TEST_RUN, attr)
            ns = struct.unpack_from("=I", back, 36)[0]
            best = ns if best is None else min(best, ns)
    return best


# --- in a rack --------------------------------------------------------------------


def attached(r, where):
    """Programs there: as bbload shows them."""
    out = call_json([built("bbload"), "--netns", f"bb-{r.base[2]}-{where}", "show", "-j"], "bbload show")
    return [p for a in out["attached"] for p in a["programs"]]


class Loop:
    """The bare UDP loop of remote.Floors, without its switch of placements."""

    def __init__(self, r):
        self.rack = r
        self.server = start(r.command("h2", [built("bench/udp_floor"), "--server", "--port", str(PORT), "--segments",
                                             "1" if r.mtu >= 9000 else "4"]))

    def trip(self, ops=quick(4000, 100)):
        cpus = sorted(os.sched_getaffinity(0))
        pin_all(self.server.pid, {cpus[-1]})
        cmd = [built("bench/udp_floor"), "--to", self.rack.host["h2"]["address"], "--port", str(PORT), "--ops", str(ops),
               "--segments", "1" if self.rack.mtu >= 9000 else "4"]
        return call_json(self.rack.command("h1", cmd), "udp_floor", 60, cpus={cpus[0]})["round_trip"]["p50"]

    def close(self):
        stop(self.server)


def in_rack(r):
    """Nanoseconds a run of each program, on the packets of the loop."""
    loop = Loop(r)
    try:
        loop.trip(100)
        with stats():
            before = {p["id"]: p for p in attached(r, "h2")}
            loop.trip(quick(20000, 300))
            out = {}
            for p in attached(r, "h2"):
                runs, ns = (p.get(k, 0) - before[p["id"]].get(k, 0) for k in ("run_count", "run_ns"))
                if runs:
                    out[p["name"]] = round(ns / runs)
        return out
    finally:
        loop.close()


def a_packet(on, off, rounds=quick(7, 1)):
    """What a packet takes longer where the programs are attached, by a cable: round trips, halved."""
    loops = []
    try:
        for r in (on, off):
            loops.append(Loop(r))
        diff = []
        for i in range(rounds):
            got = {}
            for loop in loops if i % 2 else loops[::-1]:
                got[loop] = loop.trip()
            diff.append((got[loops[0]] - got[loops[1]]) / 2)
        return round(median(diff))
    finally:
        for loop in loops:
            loop.close()


def measure(hosts, mtu):
    """hosts: "cable" with programs and "plain" without, both joined by a cable; "kernel" by the switch program."""
    sums, switch = {}, {}
    for kind, packet in PACKETS.items():
        sums[kind] = sum(run(p["id"], packet) for p in attached(hosts["cable"].rack, "h2"))
        ports = attached(hosts["kernel"].rack, "sw")
        if ports:
            switch[kind] = run(ports[0]["id"], packet)
    return {
        "host_ns": sums, "switch_ns": switch, "in_rack_ns": in_rack(hosts["cable"].rack),
        "a_packet_ns": a_packet(hosts["cable"].rack, hosts["plain"].rack),
    }
