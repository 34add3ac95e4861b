# SPDX-License-Identifier: MIT
"""Which pages to take out: traces of real programs, replayed under several policies.

A trace comes of running the program under libbb.so with bench/tracer in bbd's
place (scripts/bench/tracer.c): half a megabyte is here, and each fault is a record.
bench/policy replays it. That every program found what it finds with all memory is
checked. BB_BENCH_TRACES=DIR keeps the traces there, for bench/policy by hand.
"""
import contextlib
import ctypes.util
import json
import math
import os
import random
import shutil
import socket
import subprocess
import time

from common import (
    TOP, Failed, Mismatch, Skipped, built, call, call_json, environment, finish, memfd, progress, quick, row, rundir, same, start,
    stop,
)
from fits import digest_of, lines
from peers_apps import MIB, Server, key_of
from policy_jobs import zipf

TOUCHES = 12 << 20  # at most; a record is 8 bytes, and what is not written takes no memory
PYTHON = "/usr/bin/python3"
REDIS_KEYS, REDIS_GETS = quick(36000, 9000), quick(60000, 9000)
NUMPY_MIB, SORT_LINES = quick(48, 16), quick(250000, 60000)
HOT_PAGES, HOT_OPS = 2048, quick(120000, 20000)


@contextlib.contextmanager
def tracer(trace):
    """bbd's stand-in for one program. trace: a descriptor. Yields what makes a command one that is recorded."""
    where = os.path.join(rundir(), "tracer.sock")
    os.ftruncate(trace, 24 + 8 * TOUCHES)
    said = memfd("bench-tracer")
    p = start([built("bench/tracer"), "--embedded", "--config", "/dev/null", "--socket", where, "--lend", "512M"],
              env=environment(BB_BENCH_TRACE=f"/proc/{os.getpid()}/fd/{trace}"), stdout=said, stderr=said)
    try:
        end = time.monotonic() + 30
        while True:
            with socket.socket(socket.AF_UNIX) as k, contextlib.suppress(OSError):
                k.connect(where)
                break
            if p.poll() is not None or time.monotonic() > end:
                os.lseek(said, 0, os.SEEK_SET)
                raise Failed(f"tracer does not come up: {os.read(said, 400).decode(errors='replace').strip()[-200:]}")
            time.sleep(0.05)
        yield lambda cmd, heap="": [
            "env", f"LD_PRELOAD={built('libbb.so')}{heap and ':' + heap}", f"BB_SOCKET={where}", "BB_LOCAL=4M", "BB_PREFETCH=off",
            "BB_LOG=error", *cmd,
        ]
    finally:
        stop(p)
        os.close(said)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(where)


# --- programs -------------------------------------------------------------------


def redis(command, pick):
    """Fills redis, GETs and compares values, eight at a time, and all of them in the end."""
    if not shutil.which("redis-server"):
        raise Skipped("redis is not installed")
    r = Server(command, REDIS_KEYS)
    try:
        for at in range(0, len(pick), 8):
            r.compare([key_of(i) for i in pick[at:at + 8]])
        r.check()
    finally:
        r.close()


def redis_random(command):
    rng = random.Random(1)
    redis(command, [rng.randrange(REDIS_KEYS) for _ in range(REDIS_GETS)])


def redis_zipf(command):
    redis(command, zipf(REDIS_KEYS, REDIS_GETS, 1))


def alike(name, cmd, command, heap=""):
    want = call(cmd, name)
    if not same(call(command(cmd, heap), name, 300), want):
        raise Mismatch(f"{name}: another result, other bytes than were written")


def job(name, n):
    return [PYTHON, os.path.join(TOP, "scripts/bench/policy_jobs.py"), name, str(n)]


def sqlite(command):
    # Its pages are small allocations: with the C library's heap they are not in the region.
    heap = ctypes.util.find_library("jemalloc")
    if not heap:
        raise Skipped("jemalloc is not installed")
    alike("sqlite", job("sqlite", quick(50000, 12000)), command, heap)


def pydict(command):
    alike("dict", job("dict", quick(100000, 25000)), command)


def numpy(command):
    try:
        call([PYTHON, "-c", "import numpy"], seconds=60)
    except (Failed, OSError):
        raise Skipped("numpy is not installed") from None
    alike("numpy", [PYTHON, os.path.join(TOP, "tests/apps/np_job.py"), str(NUMPY_MIB)], command)


def sort(command):
    data, want = lines(SORT_LINES)
    src, dst = memfd("bench-policy-lines", data), memfd("bench-policy-sorted")
    try:
        p = start(command(["sort", "--parallel=1", "-S", "256M"]), stdin=src, stdout=dst, stderr=subprocess.PIPE)
        finish(p, "sort", 300)
        if not same(digest_of(dst), want):
            raise Mismatch("sort: its output is not the input in order, other bytes than were written")
    finally:
        os.close(src)
        os.close(dst)


def hot(command):
    f = start(command([built("bench/fault"), str(40 * MIB)]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    f.stdin.write(f"hot {HOT_PAGES} {HOT_OPS}\ncheck\n".encode())
    finish(f, "fault", 300)


TRACES = {
    "redis": redis_random, "redis-zipf": redis_zipf, "sqlite": sqlite, "numpy": numpy, "sort": sort, "dict": pydict, "hot": hot,
}
NAMES = [f"policy-{t}" for t in TRACES] + ["policy-all"]


def replay(name):
    """Return: what bench/policy says of a new trace."""
    progress(f"policy-{name}: recording")
    keep = os.environ.get("BB_BENCH_TRACES")
    if keep:
        trace = os.open(os.path.join(keep, name + ".trace"), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    else:
        trace = memfd("bench-trace")
    try:
        with tracer(trace) as command:
            TRACES[name](command)
        progress(f"policy-{name}: replaying")
        return call_json([built("bench/policy"), "-j", f"/proc/{os.getpid()}/fd/{trace}"], "policy", 300)
    finally:
        os.close(trace)


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def over_opt(got):
    """Of each policy the faults of pages that had been here, over OPT's: the mean over the sizes of local memory."""
    p = got["policies"]
    opt = [a["again"] for a in p["opt"]["at"]]
    if not all(opt):
        raise Failed("a trace that fits: nothing to choose among")
    return {n: geomean([a["again"] / o for a, o in zip(v["at"], opt)]) for n, v in p.items() if n != "opt"}


def compare(name, ratios, blind, goal=None, **detail):
    best = min(blind, key=ratios.get)
    said = " ".join(f"{n} {r:.2f}" for n, r in ratios.items())
    return row(name, ratios["ours"] / ratios[best], "ours/best", goal, note=f"best {best}; faults/OPT: {said}", over_opt=ratios, **detail)


def rows(names):
    """Ours over the best of those that know no more than it: blind ones."""
    out, all_of, blind = [], [], []
    for t in TRACES:
        name = f"policy-{t}"
        if name not in names and "policy-all" not in names:
            continue
        try:
            got = replay(t)
        except Skipped as e:
            out.append(row(name, None, "", skipped=f"skipped: {e}"))
            continue
        ratios = over_opt(got)
        blind = [n for n, v in got["policies"].items() if not v["sees"]]
        all_of.append(ratios)
        if name in names:
            out.append(compare(name, ratios, blind, touches=got["touches"], pages=got["pages"], policies=got["policies"]))
    if "policy-all" in names and all_of:
        out.append(compare("policy-all", {n: geomean([r[n] for r in all_of]) for n in all_of[0]}, blind, 1.05))
    return out
