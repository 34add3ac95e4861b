# SPDX-License-Identifier: MIT
"""Programs that fit their budget: wall time under libbb.so over plain.

Pairs of runs, the order within a pair alternating, so that whatever else the
machine does falls on both. The value is the median of the pairs' ratios. Pairs
go on until the confidence interval of that median is narrow or time is up.
No daemon runs, and none is needed: BB_LOCAL is larger than the data.
"""
import hashlib
import os
import random
import shutil
import socket
import subprocess
import time

from common import (
    Failed, Mismatch, Skipped, built, call, cpu_ns, environment, interval, median, memfd, progress, quartile,
    quick, row, rundir, same, start, stop, timed,
)

GOAL = 1.02
PAIRS_MIN = quick(9, 2)
NARROW = 0.012
SECONDS = quick(30, 0)  # a row
REDIS_TURNS = 8


def under():
    return environment(LD_PRELOAD=built("libbb.so"), BB_LOCAL="8G", BB_SOCKET="/nonexistent/bbd.sock")


def one_cpu():
    """The last CPU: interrupts tend to go to the first."""
    return {max(os.sched_getaffinity(0))}


def pairs(name, once, seconds=SECONDS, **detail):
    """once(env) -> dict with "wall" and maybe "cpu", in seconds."""
    plain, ours, end = [], [], time.monotonic() + seconds
    once(environment())  # page cache, CPU clock
    once(under())
    while True:
        n = len(plain)
        ratios = [b["wall"] / a["wall"] for a, b in zip(plain, ours)]
        progress(f"{name}: pair {n}" + (f", median {median(ratios):.3f}" if n else ""))
        if n >= PAIRS_MIN:
            lo, hi = interval(ratios, 400)
            if hi - lo < NARROW or time.monotonic() > end:
                break
        if n % 2:
            b = once(under())
            a = once(environment())
        else:
            a = once(environment())
            b = once(under())
        plain.append(a)
        ours.append(b)
    lo, hi = interval(ratios)
    for key in plain[0]:
        detail[f"{key}_plain_s"] = [round(x[key], 4) for x in plain]
        detail[f"{key}_ours_s"] = [round(x[key], 4) for x in ours]
        detail[f"{key}_ratio_of_medians"] = round(
            median([x[key] for x in ours]) / max(median([x[key] for x in plain]), 1e-9), 4
        )
        # What others do to the machine only adds: the lower quarter has least of it.
        detail[f"{key}_ratio_of_lower_quartiles"] = round(
            quartile([x[key] for x in ours]) / max(quartile([x[key] for x in plain]), 1e-9), 4
        )
    return row(
        name, round(median(ratios), 4), "ratio", GOAL, pairs=len(ratios), interval95=[round(lo, 4), round(hi, 4)],
        ratios=[round(r, 4) for r in ratios], note=f"[{lo:.3f}, {hi:.3f}] of {len(ratios)} pairs", **detail,
    )


def lines(n, seed=1):
    """n lines of 43 bytes in random order, and what they are in order."""
    rng = random.Random(seed)
    keys = [b"%032x %09d\n" % (rng.getrandbits(128), i) for i in range(n)]
    return b"".join(keys), hashlib.sha256(b"".join(sorted(keys))).hexdigest()


def digest_of(fd):
    h = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    while True:
        part = os.read(fd, 1 << 20)
        if not part:
            return h.hexdigest()
        h.update(part)


def sort():
    data, want = lines(quick(500_000, 20_000))
    src = memfd("bench-sort-in", data)

    def once(env):
        dst = memfd("bench-sort-out")
        try:
            os.lseek(src, 0, os.SEEK_SET)
            wall, cpu, _ = timed(
                ["sort", "--parallel=1", "-S", "512M"], env=env, cpus=one_cpu(), stdin=src, stdout=dst
            )
            if not same(digest_of(dst), want):
                raise Mismatch("sort: its output has other bytes than the input in order")
        finally:
            os.close(dst)
        return {"wall": wall, "cpu": cpu}

    try:
        return pairs("fits-sort", once, bytes=len(data))
    finally:
        os.close(src)


def bench_program(name, *args):
    def once(env):
        wall, cpu, _ = timed([built(f"bench/{name}"), *args], env=env, cpus=one_cpu())
        return {"wall": wall, "cpu": cpu}

    return pairs(f"fits-{name}", once, arguments=list(args))


def stream():
    return bench_program("stream", *quick(("64", "12"), ("4", "2")))


def malloc():
    r = bench_program("heap", quick("100000", "3000"))
    r["name"] = "fits-malloc"
    return r


# --- redis ----------------------------------------------------------------------


class Redis:
    """redis-server on a socket of its own; the socket's name leaves with stop()."""

    def __init__(self, env, cpus):
        self.path = path = os.path.join(rundir(), f"{id(self):x}.sock")
        self.proc = start(
            ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no",
             "--daemonize", "no", "--loglevel", "warning"],
            env=env, cpus=cpus, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 10
        while True:
            try:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end or self.proc.poll() is not None:
                    stop(self.proc)
                    raise Failed("redis-server does not start") from None
                time.sleep(0.01)
        self.sock.settimeout(20)
        self.file = self.sock.makefile("rb")

    def send(self, commands):
        out = []
        for c in commands:
            out.append(b"*%d\r\n" % len(c) + b"".join(b"$%d\r\n%s\r\n" % (len(x), x) for x in c))
        self.sock.sendall(b"".join(out))

    def bulk(self):
        head = self.file.readline()
        if head[:1] == b"+":
            return head[1:-2]
        if head[:1] != b"$":
            raise Failed(f"redis-server answers {head[:80]!r}")
        n = int(head[1:])
        return None if n < 0 else self.file.read(n + 2)[:n]

    def stop(self):
        self.file.close()
        self.sock.close()
        stop(self.proc)
        try:
            os.unlink(self.path)
        except OSError:
            pass


def known(i):
    return b"chk:%d" % i, hashlib.sha512(b"%d" % i).digest() * 8


def redis_check(server, n, write):
    for at in range(0, n, 100):
        batch = [known(i) for i in range(at, at + 100)]
        server.send([(b"SET", k, v) if write else (b"GET", k) for k, v in batch])
        for k, v in batch:
            got = server.bulk()
            if not (got == b"OK" if write else same(got, v)):
                raise Mismatch(f"redis: {k!r} has other bytes than were written")


def redis():
    if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
        raise Skipped("redis is not installed")
    cpus = sorted(os.sched_getaffinity(0))
    servers, turns = {}, {}

    def once(env):
        """
        Short turns with a plain and a preloaded server that are both up, so that a pair lies close together.
        A server begins empty and is filled and read some times before a new one takes its place.
        """
        key = "LD_PRELOAD" in env
        if turns.get(key, REDIS_TURNS) == REDIS_TURNS:
            if key in servers:
                redis_check(servers[key], 2000, False)
                servers.pop(key).stop()
            servers[key] = Redis(env, {cpus[-1]})
            redis_check(servers[key], 2000, True)
            turns[key] = 0
        turns[key] += 1
        server = servers[key]
        before = cpu_ns(server.proc.pid)
        t = time.monotonic()
        for what in ("set", "get"):
            call(
                ["redis-benchmark", "-s", server.path, "-t", what, "-n", quick("30000", "2000"), "-r", "50000", "-d", "512",
                 "-P", "16", "-c", "8", "-q"],
                cpus={cpus[0]},
            )
        return {"wall": time.monotonic() - t, "cpu": (cpu_ns(server.proc.pid) - before) / 1e9}

    try:
        r = pairs("fits-redis", once)
        for server in servers.values():
            redis_check(server, 2000, False)
        return r
    finally:
        for server in servers.values():
            server.stop()


ROWS = {"fits-sort": sort, "fits-redis": redis, "fits-stream": stream, "fits-malloc": malloc}
