# SPDX-License-Identifier: MIT
"""redis, numpy and sort with less local memory than they need: ours, swap on zram, swap on a file.

Local is a share of what the program takes with all memory: of redis' used_memory, of
numpy's arrays, of sort's peak. Results must be those of a run with all memory. What a
program has beside its data is not in BB_LOCAL, so a cgroup gets that on top. A run
that brought no page in has measured something else, and is an error.
"""
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time

from common import (
    TOP, Failed, Mismatch, Skipped, call, environment, finish, median, memfd, progress, quick, row, rundir, same, start, stop,
)
from fits import lines
from peers import BESIDE, MIB, memory, rounds

NAMES = ["peers-redis-50", "peers-redis-25", "peers-numpy-50", "peers-numpy-25", "peers-sort-50", "peers-sort-25"]
KINDS = ("ours", "zram", "disk")
REDIS_MIB = int(os.environ.get("BB_BENCH_REDIS_MIB", quick("1024", "48")))
REDIS_GOAL_MIB = 2048
A_KEY = 1424  # bytes that redis takes for a key with 1 KiB
GETS = quick(60000, 3000)
NUMPY_MIB = quick(512, 64)
# As BESIDE: the interpreter and its libraries; redis without a key.
NUMPY_BESIDE = 10 * MIB
REDIS_BESIDE = 8 * MIB
SORT_LINES = int(os.environ.get("BB_BENCH_SORT_LINES", quick("1000000", "300000")))


def in_memory(kind, local, size, job, beside=BESIDE):
    """Return: what job(command) gives, and how often the killer was put off."""
    with memory(kind, local, size, beside) as mem:
        got = job(mem.command)
        if mem.paged() < quick(10000, 100):
            raise Failed(f"{kind}: only {mem.paged()} pages came in: local memory was not short")
        return got, mem.nudged()


def said(got, why, unit):
    """Of each kind its median, or why there is none."""
    out = []
    for k in KINDS:
        if k not in got:
            out.append(f"{k}: {why[k]}")
            continue
        nudged = sum(n for _, n in got[k])
        out.append(f"{k} {median([v for v, _ in got[k]]):.{1 if unit == 's' else 0}f} {unit}"
                   + (f" ({nudged} times kept from being killed)" if nudged else ""))
    return ", ".join(out)


def medians(got):
    return {k: median([v for v, _ in rounds_of]) for k, rounds_of in got.items()}


# --- wall times ---------------------------------------------------------------------


def times(name, local, size, want, job, beside=BESIDE):
    """Wall time over that with swap on zram."""
    def once(kind):
        progress(f"{name}: {kind}")
        (took, out), nudged = in_memory(kind, local, size, job, beside)
        if not same(out, want):
            raise Mismatch(f"{name}: {kind}: the result has other bytes than with all memory")
        return took, nudged

    got, why = rounds(list(KINDS), once)
    m = medians(got)
    disk = f"; / file {m['ours'] / m['disk']:.2f}" if "disk" in m else ""
    return row(name, m["ours"] / m["zram"] if "zram" in m else None, "ratio", 1.0 if name.endswith("-25") else None,
               note=f"{said(got, why, 's')}{disk}; local {local // MIB} MiB", seconds=got)


def numpy_job(command):
    t = time.monotonic()
    out = call(command(["/usr/bin/python3", os.path.join(TOP, "tests/apps/np_job.py"), str(NUMPY_MIB)]), "np_job", 300)
    return time.monotonic() - t, out


def share_of(name, size):
    return size * int(name.rsplit("-", 1)[1]) // 100


def numpy_row(name):
    try:
        _, want = numpy_job(list)
    except Failed as e:
        raise Skipped(str(e)) from None
    return times(name, share_of(name, NUMPY_MIB * MIB), NUMPY_MIB * MIB, want, numpy_job, NUMPY_BESIDE)


def sort_job(src, command):
    """The output is read here: a file of it would be in the cgroup, and in nothing of ours."""
    os.lseek(src, 0, os.SEEK_SET)
    h = hashlib.sha256()
    t = time.monotonic()
    p = start(command(["sort", "--parallel=1", "-S", "2G"]), stdin=src, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while part := p.stdout.read1(1 << 20):
            h.update(part)
        finish(p, "sort", 60)
    finally:
        stop(p)
    return time.monotonic() - t, h.hexdigest()


# Between us and the program: what a process had before it called exec counts in its own
# ru_maxrss, and we have had all of the lines.
PEAK = """import os, resource, sys
out = os.open(os.devnull, os.O_WRONLY)
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(status != 0)
"""


def peak(cmd, src):
    """Bytes that were resident at most, with all memory."""
    os.lseek(src, 0, os.SEEK_SET)
    return int(call([sys.executable, "-S", "-c", PEAK, *cmd], cmd[0], 300, stdin=src))


def sort_row(name):
    data, want = lines(SORT_LINES)
    src = memfd("bench-peers-lines", data)
    del data
    try:
        size = peak(["sort", "--parallel=1", "-S", "2G"], src)
        r = times(name, share_of(name, size), size, want, lambda c: sort_job(src, c))
    finally:
        os.close(src)
    r["detail"]["note"] += f" of {size // MIB}"
    return r


# --- redis ----------------------------------------------------------------------------


def key_of(i):
    return b"key:%012d" % i


def value_of(key):
    """1 KiB that is compressed to half, as zram's users count on."""
    return hashlib.shake_128(key).hexdigest(256).encode() * 2


class Server:
    """redis-server on a socket of its own, with keys and values that follow from their number."""

    def __init__(self, command, keys):
        self.keys = keys
        self.path = os.path.join(rundir(), "redis.sock")
        self.proc = start(command(["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no",
                                   "--activerehashing", "no"]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.sock = self.file = None
        try:
            self.connect()
            self.fill()
        except OSError as e:
            self.close()
            raise Failed(f"redis-server was not filled: {e}") from None
        except BaseException:
            self.close()
            raise

    def connect(self):
        end = time.monotonic() + 20
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(60)
            try:
                self.sock.connect(self.path)
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end or self.proc.poll() is not None:
                    raise
                time.sleep(0.02)
        self.file = self.sock.makefile("rb", 1 << 20)

    def batches(self):
        for at in range(0, self.keys, 256):
            yield [key_of(i) for i in range(at, min(at + 256, self.keys))]

    def fill(self):
        for keys in self.batches():
            self.sock.sendall(b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\n%s\r\n$1024\r\n%s\r\n" % (k, value_of(k)) for k in keys))
            for _ in keys:
                if self.file.readline() != b"+OK\r\n":
                    raise Failed("redis-server did not take a value")

    def compare(self, keys):
        self.sock.sendall(b"".join(b"*2\r\n$3\r\nGET\r\n$16\r\n%s\r\n" % k for k in keys))
        for k in keys:
            if self.file.readline() != b"$1024\r\n" or not same(self.file.read(1026), value_of(k) + b"\r\n"):
                raise Mismatch(f"redis: {k.decode()} has other bytes than were written")

    def check(self):
        """Compares every value."""
        for keys in self.batches():
            self.compare(keys)

    def used(self):
        """Bytes, as redis counts them."""
        self.sock.sendall(b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n")
        text = self.file.read(int(self.file.readline()[1:]) + 2)
        return int(next(line.split(b":")[1] for line in text.splitlines() if line.startswith(b"used_memory:")))

    def gets(self, n):
        """Return: GETs of random keys a second, by eight clients."""
        out = call(["redis-benchmark", "-s", self.path, "-n", str(n), "-r", str(self.keys), "-c", "8", "-q", "--csv",
                    "GET", "key:__rand_int__"], "redis-benchmark", 300, env=environment())
        return float(out.decode().strip().splitlines()[-1].split('","')[1].strip('"'))

    def close(self):
        for f in (self.file, self.sock):
            if f:
                f.close()
        stop(self.proc)
        if os.path.exists(self.path):
            os.unlink(self.path)


def redis_row(name):
    if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
        raise Skipped("redis is not installed")
    size, used = REDIS_MIB * MIB, []

    def job(command):
        server = Server(command, size // A_KEY)
        try:
            used.append(server.used())
            server.gets(GETS // 3)
            rate = server.gets(GETS)
            server.check()
            return rate
        except OSError as e:
            raise Failed(f"redis-server: {e}") from None
        finally:
            server.close()

    def once(kind):
        progress(f"{name}: {kind}")
        return in_memory(kind, share_of(name, size), size, job, REDIS_BESIDE)

    got, why = rounds(list(KINDS), once)
    m = medians(got)
    note = f"{said(got, why, 'GET/s')}; {max(used) // MIB} MiB"
    if REDIS_MIB < REDIS_GOAL_MIB:
        note += f", not {REDIS_GOAL_MIB}, so that a round takes two minutes (BB_BENCH_REDIS_MIB)"
    if "disk" in m:
        note = f"/ file {m['ours'] / m['disk']:.2f}, goal 3; {note}"
    return row(name, m["ours"] / m["zram"] if "zram" in m else None, "ratio", 0.8, more=True, note=note, rates=got)


def rows(names):
    out = []
    for n in names:
        try:
            out.append({"numpy": numpy_row, "sort": sort_row, "redis": redis_row}[n.split("-")[1]](n))
        except Skipped as e:
            out.append(row(n, None, "", skipped=f"skipped: {e}"))
    return out
