# SPDX-License-Identifier: MIT
"""Against what users would take instead: swap on zram, swap on a file, a mapped file.

The same programs with the same local memory: the kernel's by a cgroup's limit, ours
by BB_LOCAL, on a host whose other memory is another host's (a rack of two, as
bbrack makes it). bench/fault compares every page that it touches; redis, sort and
numpy are held against what they give with all memory.
"""
import contextlib
import hashlib
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time

import rack
import swap
from common import (
    BUILD, TOP, Failed, Mismatch, Skipped, built, call, cpu_ns, environment, median, memfd, progress, row, start, stop,
)
from fits import digest_of, lines
from kernel import wait_serves

NAMES = [
    "peers-random-zram", "peers-random-disk", "peers-random-file", "peers-write50", "peers-two-threads", "peers-sequential",
    "peers-cpu", "peers-tail", "peers-hot-set",
]
APPS = ["peers-redis-50", "peers-redis-25", "peers-numpy", "peers-sort"]
ROUNDS = int(os.environ.get("BB_BENCH_ROUNDS", "3"))
MIB = 1 << 20
SIZE, LOCAL = 512 * MIB, 128 * MIB
SLACK = 8 * MIB	 # of a process beside its data, which BB_LOCAL does not count
OPS = 60000
HOT_SIZE, HOT_LOCAL = 544 * MIB, 64 * MIB  # the hot set is half of it, the scan 8 times as much
HOT_OPS = 120000
REDIS_MIB = int(os.environ.get("BB_BENCH_REDIS_MIB", "512"))
NUMPY_MIB = 512
SORT_LINES = 4000000
KINDS = ("ours", "zram", "disk", "file")


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
    # Each host lends a gigabyte.
    r = rack.Rack(9000, 2 + max(size - local, 0) // (1 << 30), name="peers", switch="auto", programs=True)
    try:
        wait_serves(r, "h2")
        # The daemons' CPU time is a fault's as well.
        bbds = [h["pid"] for h in r.host.values()]

        def command(cmd):
            pre = ["env", f"LD_PRELOAD={built('libbb.so')}", f"BB_LOCAL={local}", "BB_LOG=warn"]
            return r.command("h1", [*pre, *cmd])

        yield command, bbds
    finally:
        r.down()


@contextlib.contextmanager
def theirs(kind, local, size):
    """Swap, or none (a file that is mapped)."""
    with swap.Machine() as m:
        if kind == "zram":
            m.zram(2 * size)
        elif kind == "disk":
            m.file(2 * size)
        pre = m.cgroup(local + SLACK)
        yield lambda cmd: [*pre, *cmd], ()


def memory(kind, local, size):
    return ours(local, size) if kind == "ours" else theirs(kind, local, size)


def touch(kind):
    """One round. Return: figures of each pattern."""
    out = {}
    # A file without a name: nothing stays of it, however this ends.
    with tempfile.TemporaryFile(dir=os.path.join(BUILD, "bench")) as data, memory(kind, LOCAL, SIZE) as (command, pids):
        mapped = ["--file", f"/dev/fd/{data.fileno()}"] if kind == "file" else []
        f = Fault(command([built("bench/fault"), str(SIZE), *mapped]), pids, pass_fds=(data.fileno(),))
        try:
            f.tell(f"rand {OPS // 4} 0")
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
    with memory(kind, HOT_LOCAL, HOT_SIZE) as (command, pids):
        f = Fault(command([built("bench/fault"), str(HOT_SIZE)]), pids)
        try:
            f.tell(f"hot {HOT_LOCAL // 2 // 4096} {HOT_OPS}")
            got = f.tell(f"hot {HOT_LOCAL // 2 // 4096} {HOT_OPS}")
            f.tell("check")
            return got["fast"]["n"] / (got["fast"]["n"] + got["slow"]["n"])
        finally:
            f.close()


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
        "peers-sequential": sequential, "peers-cpu": cpu, "peers-tail": tail, "peers-hot-set": hot,
    }
    out = []
    for n in names:
        try:
            out.append(make[n]())
        except Skipped as e:
            out.append(row(n, None, "", skipped=f"skipped: {e}"))
    return out


# --- programs ---------------------------------------------------------------------


def numpy_job(command):
    t = time.monotonic()
    out = call(command(["/usr/bin/python3", os.path.join(TOP, "tests/apps/np_job.py"), str(NUMPY_MIB)]), "np_job", 300)
    return time.monotonic() - t, out


def sort_job(src, command):
    dst = memfd("bench-peers-sort")
    try:
        os.lseek(src, 0, os.SEEK_SET)
        t = time.monotonic()
        p = start(command(["sort", "--parallel=1", "-S", "2G"]), stdin=src, stdout=dst, stderr=subprocess.PIPE)
        _, err = p.communicate(timeout=300)
        if p.returncode:
            raise Failed(f"sort: exit {p.returncode}: {err.decode(errors='replace').strip()[-200:]}")
        return time.monotonic() - t, digest_of(dst)
    finally:
        os.close(dst)


class RedisServer:
    """Of KEYS values of 1 KiB, which are a function of their key."""

    FILL = ('for i = ARGV[1], ARGV[2] do local k = string.format("key:%012d", i) '
            'redis.call("SET", k, string.rep(redis.sha1hex(k), 26):sub(1, 1024)) end return 1')

    def __init__(self, command, keys):
        self.keys = keys
        self.path = f"/run/bb-peers-{os.getpid()}.sock"
        self.proc = start(command(["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no",
                                   "--activerehashing", "no"]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while self.ask("PING") != b"PONG":
            if time.monotonic() > end or self.proc.poll() is not None:
                self.close()
                raise Failed("redis-server does not start")
            time.sleep(0.05)
        try:
            for at in range(0, keys, 10000):
                if self.ask("EVAL", self.FILL, "0", str(at), str(min(at + 10000, keys) - 1)) != b"1":
                    raise Failed("redis-server was not filled: killed for want of memory?")
        except BaseException:
            self.close()
            raise

    def ask(self, *words):
        p = subprocess.run(["redis-cli", "-s", self.path, *words], stdin=subprocess.DEVNULL, capture_output=True, check=False,
                           timeout=120)
        return p.stdout.strip()

    def gets(self, n):
        out = call(["redis-benchmark", "-s", self.path, "-n", str(n), "-r", str(self.keys), "-c", "8", "-q", "--csv",
                    "GET", "key:__rand_int__"], "redis-benchmark", 300)
        last = out.decode().strip().splitlines()[-1]
        return float(last.split('","')[1].strip('"'))

    def check(self):
        """Compares every value."""
        with socket.socket(socket.AF_UNIX) as k:
            k.settimeout(120)
            k.connect(self.path)
            with k.makefile("rb", 1 << 20) as f:
                for at in range(0, self.keys, 256):
                    names = [f"key:{i:012d}".encode() for i in range(at, min(at + 256, self.keys))]
                    k.sendall(b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(n), n) for n in names))
                    for n in names:
                        want = (hashlib.sha1(n).hexdigest() * 26)[:1024].encode()
                        if f.readline() != b"$1024\r\n" or f.read(1026) != want + b"\r\n":
                            raise Mismatch(f"redis: {n.decode()} has other bytes than were written")

    def close(self):
        stop(self.proc)
        if os.path.exists(self.path):
            os.unlink(self.path)


def redis_job(command):
    keys = REDIS_MIB * MIB // 1180	# what redis takes of memory for one of them
    r = RedisServer(command, keys)
    try:
        r.gets(20000)
        rate = r.gets(60000)
        r.check()
        return rate
    finally:
        r.close()


def with_memory(kind, local, size, fn):
    with memory(kind, local, size) as (command, _):
        return fn(command)


def times(name, goal, local, size, want, job, kinds=("ours", "zram", "disk")):
    """Wall time over that with swap on zram."""
    def once(kind):
        progress(f"{name}: {kind}")
        took, out = with_memory(kind, local, size, job)
        if out != want:
            raise Mismatch(f"{name}: {kind}: another result")
        return took

    got, why = rounds(list(kinds), once)
    said = ", ".join(f"{k} {median(got[k]):.1f} s" if k in got else f"{k}: {why[k]}" for k in kinds)
    if "zram" not in got:
        return row(name, None, "ratio", goal, note=said)
    return row(name, median(got["ours"]) / median(got["zram"]), "ratio", goal, note=said, seconds=got)


def redis_row(name, share):
    if not shutil.which("redis-server"):
        raise Skipped("redis is not installed")
    kinds = ["ours", "zram", "disk"]
    local = REDIS_MIB * MIB * share // 100

    def once(kind):
        progress(f"{name}: {kind}")
        return with_memory(kind, local, REDIS_MIB * MIB, redis_job)

    got, why = rounds(kinds, once)
    said = ", ".join(f"{k} {median(got[k]):.0f} GET/s" if k in got else f"{k}: {why[k]}" for k in kinds)
    ratio = median(got["ours"]) / median(got["zram"]) if "zram" in got else None
    disk = f"; / disk {median(got['ours']) / median(got['disk']):.2f}, goal 3" if "disk" in got else ""
    return row(name, ratio, "ratio", 0.8, more=True, note=f"{REDIS_MIB} MiB: {said}{disk}", rates=got)


def app_rows(names):
    out = []
    for n in names:
        if n.startswith("peers-redis-"):
            out.append(redis_row(n, int(n.rsplit("-", 1)[1])))
        elif n == "peers-numpy":
            try:
                _, want = numpy_job(list)
            except Failed as e:
                out.append(row(n, None, "", skipped=f"skipped: {e}"))
                continue
            # The interpreter's own memory is counted by a cgroup, and is none of BB_LOCAL.
            out.append(times(n, 1.0, NUMPY_MIB * MIB // 4 + 24 * MIB, NUMPY_MIB * MIB, want, numpy_job))
        else:
            data, want = lines(SORT_LINES)
            src = memfd("bench-peers-lines", data)
            size = 3 * len(data)  # lines and sort's table of them
            del data
            try:
                out.append(times(n, 1.0, size // 4, size, want, lambda c, s=src: sort_job(s, c)))
            finally:
                os.close(src)
    return out
