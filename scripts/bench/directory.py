# SPDX-License-Identifier: MIT
"""What a directory would cost: a fault with a directory query first, over the same without.

A directory server (bench/directory) runs on host h3. The bbd of h1 in one rack
asks it for every page before it reads that page from h2 (BB_TEST_DIRECTORY);
the bbd of another rack does not: BlueBridge's pointers are addresses. Both
programs are up at the same time and measured in turns, pinned (program and its
bbd on one CPU, the others on the other) and unpinned. Every page is compared.
Once more the same with READs that the kernel of h2 answers, in both racks: there
the query is the greater part.
"""
import json
import signal
import time

import kernel
import rack
from common import Failed, built, median, pin_all, progress, quick, row, start, stop
from remote import Program, placements

NAMES = ["directory-pinned", "directory-unpinned", "directory-kernel-pinned", "directory-kernel-unpinned"]
GOAL = 1.7
ROUNDS = quick(7, 1)
OPS = quick(3000, 600)
PORT = 48200


class Side:
    """A rack of three with a program on h1; asks says whether its bbd asks the directory."""

    def __init__(self, asks, in_kernel):
        self.server = self.prog = None
        env = {"BB_TEST_DIRECTORY": f"fd00:bb::3 {PORT}"} if asks else {}
        self.rack = rack.Rack(9000, 3, name="directory" if asks else "none", env=env, programs=in_kernel)
        try:
            if in_kernel:
                kernel.wait_serves(self.rack, "h2")
            if asks:
                cmd = self.rack.command("h3", [built("bench/directory"), "--spin", str(rack.SPIN_US), str(PORT)])
                self.server = start(cmd, stdout=-1)
            self.prog = Program(self.rack)
            self.prog.tell("rand 8000 0")
        except BaseException:
            self.close()
            raise

    def place(self, here, there):
        self.prog.place(here, there)
        self.rack.pin("h3", there)
        if self.server:
            pin_all(self.server.pid, there)

    def touch(self):
        """Return: median of a fault, and of each of its parts."""
        self.prog.tell("rand 500 0")
        self.rack.ask("h1", "fault.reset")
        got = self.prog.tell(f"rand {OPS} 0")
        if got["slow"]["n"] < OPS // 10:
            raise Failed(f"only {got['slow']['n']} of {OPS} touches faulted")
        parts = self.rack.ask("h1", "fault.show")["remote"]
        return got["slow"]["p50"], {p: h["p50_ns"] for p, h in parts.items()}

    def counts(self):
        """Ends the server. Return: what it has counted."""
        self.server.send_signal(signal.SIGTERM)
        out, _ = self.server.communicate(timeout=10)
        self.server = None
        return json.loads(out)

    def close(self):
        if self.prog:
            self.prog.close()
        if self.server:
            stop(self.server)
        self.rack.down()


def measure(in_kernel):
    """Return: placement -> figures of all rounds, and what the directory has counted."""
    sides = []
    got = {p: {"ratio": [], "with_ns": [], "without_ns": [], "parts_with": [], "parts_without": []} for p in ("split", "free")}
    try:
        for asks in (True, False):
            sides.append(Side(asks, in_kernel))
        for i in range(ROUNDS):
            for name, o in got.items():
                progress(f"directory: round {i + 1} of {ROUNDS}, {name}")
                figures = {}
                for s in sides if i % 2 else sides[::-1]:
                    s.place(*placements()[name])
                    figures["with" if s.server else "without"] = s.touch()
                o["ratio"].append(round(figures["with"][0] / figures["without"][0], 3))
                for k, (ns, parts) in figures.items():
                    o[f"{k}_ns"].append(ns)
                    o[f"parts_{k}"].append(parts)
        for s in sides:
            s.prog.tell("check", 120)
        asked = sides[0].counts()
        if asked["questions"] < sum(len(o["ratio"]) for o in got.values()) * OPS // 2:
            raise Failed(f"the directory was asked only {asked['questions']} times")
        return got, asked
    finally:
        for s in sides:
            s.close()


def rows(names):
    out = []
    for in_kernel, rows_of in ((False, NAMES[:2]), (True, NAMES[2:])):
        if not set(rows_of) & set(names):
            continue
        t = time.monotonic()
        got, asked = measure(in_kernel)
        for name, placement in zip(rows_of, got):
            if name in names:
                o = got[placement]
                out.append(row(
                    name, median(o["ratio"]), "ratio", GOAL, more=True, placement=placement, directory=asked,
                    note=f"{median(o['with_ns']) / 1000:.1f} us with a query first, {median(o['without_ns']) / 1000:.1f} without",
                    seconds=round(time.monotonic() - t, 1), **o,
                ))
    return out
