# SPDX-License-Identifier: MIT
"""The paper's evaluation: Figures 4 and 5 (a fault and its five parts) and Table 1 (the operations).

1,500 pages each, median and 95th percentile, every byte checked:
  without    a fault served by another host's bbd
  directory  the same with a query to a directory server on a third host first
  kernel     served by the other host's kernel (host programs attached)
  disk       a page of a large file that is in nobody's cache, mapped
and CREATE, UPDATE (a page is written), READ, DELETE as single requests by UDP; by RDMA
scripts/bench/rdma says.

figures.py makes pictures of them.
"""
import mmap
import os
import random
import resource
import shutil
import struct
import tempfile
import time

import rack
from common import BUILD, Failed, Mismatch, Skipped, built, call_json, progress, quick, row, same, start, stop
from directory import PORT
from kernel import wait_serves
from remote import Program, placements

WAYS = ["paper-without", "paper-directory", "paper-kernel", "paper-disk"]
TABLE = ["paper-create", "paper-update", "paper-read", "paper-delete"]
NAMES = WAYS + TABLE
PAGES = quick(1500, 300)
FILE = quick(4 << 30, 64 << 20)
PARTS = ("enter", "directory", "get data", "exit", "other")


def faults(way):
    """Return: median and 95th percentile of a fault, as the program sees it, and of its parts, as bbd does."""
    env = {"BB_TEST_DIRECTORY": f"fd00:bb::3 {PORT}"} if way == "directory" else {}
    in_kernel = way == "kernel"
    server = prog = None
    r = rack.Rack(9000, 3, name=f"paper-{way}", switch="auto" if in_kernel else "bridge", env=env, programs=in_kernel)
    try:
        if in_kernel:
            wait_serves(r, "h2")
        if env:
            server = start(r.command("h3", [built("bench/directory"), "--spin", str(rack.SPIN_US), str(PORT)]), stdout=-1)
        prog = Program(r)
        prog.tell("rand 8000 0")
        prog.place(*placements()["free"])
        prog.tell("rand 500 0")
        r.ask("h1", "fault.reset")
        # Three of four touches are faults.
        got = prog.tell(f"rand {PAGES * 4 // 3} 0")
        parts = r.ask("h1", "fault.show")["remote"]
        prog.tell("check", 120)
    finally:
        if prog:
            prog.close()
        if server:
            stop(server)
        r.down()
    if got["slow"]["n"] < PAGES * 0.9:
        raise Failed(f"only {got['slow']['n']} of {PAGES} pages came from the other host")
    return got["slow"], parts


def page_of(number):
    return struct.pack("<Q", number) * 512


def cold_file():
    """Touches of a mapped file that is on the disk alone, and has no name: nothing stays of it."""
    if shutil.disk_usage(BUILD).free < 2 * FILE:
        raise Skipped("no room on the disk for a large file")
    took, rng = [], random.Random(1)
    with tempfile.TemporaryFile(dir=os.path.join(BUILD, "bench")) as f:
        for at in range(0, FILE // 4096, 256):
            progress(f"paper-disk: {at * 4096 >> 20} MiB of {FILE >> 20}")
            f.write(b"".join(page_of(at + i) for i in range(256)))
        f.flush()
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(f.fileno(), FILE, prot=mmap.PROT_READ) as m:
            m.madvise(mmap.MADV_RANDOM)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            for _ in range(PAGES):
                page = rng.randrange(FILE // 4096)
                t = time.perf_counter_ns()
                _ = m[page * 4096]
                took.append(time.perf_counter_ns() - t)
                if not same(m[page * 4096:page * 4096 + 4096], page_of(page)):
                    raise Mismatch(f"page {page} of the file holds other bytes than were written")
            came = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    if came < PAGES * 0.9:
        raise Failed(f"only {came} of {PAGES} pages came from the disk")
    took.sort()
    return {"p50": took[len(took) // 2], "p95": took[len(took) * 95 // 100], "n": len(took)}


def operations():
    r = rack.Rack(9000, 2, name="paper-table")
    try:
        cmd = [built("bench/net_read"), "--key", r.key, "--node", "1", "--to", "2", "--ops", str(PAGES), "--table"]
        return call_json(r.command("h1", cmd), "net_read", 120)
    finally:
        r.down()


def us(ns):
    return f"{ns / 1000:.1f}"


def way_row(name):
    way = name.split("-")[1]
    if way == "disk":
        got, parts = cold_file(), None
    else:
        got, parts = faults(way)
    note = f"95th percentile {us(got['p95'])} us"
    if parts:
        note += "; " + ", ".join(f"{p} {us(parts[p]['p50_ns'])} ({us(parts[p]['p95_ns'])})" for p in PARTS)
    return row(name, got["p50"] / 1000, "us", pages=got["n"], p95_us=got["p95"] / 1000, note=note,
               parts={p: {k: parts[p][k] / 1000 for k in ("p50_ns", "p95_ns")} for p in PARTS} if parts else None)


def rows(names):
    out, table = [], None
    for n in names:
        progress(n)
        try:
            if n in WAYS:
                out.append(way_row(n))
                continue
            table = table or operations()
            got = table[n.split("-")[1]]
            out.append(row(n, got["p50"] / 1000, "us", p95_us=got["p95"] / 1000,
                           note=f"by UDP; 95th percentile {us(got['p95'])} us; by RDMA: scripts/bench/rdma"))
        except Skipped as e:
            out.append(row(n, None, "", skipped=f"skipped: {e}"))
    return out
