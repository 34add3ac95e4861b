# SPDX-License-Identifier: MIT
"""What the rows share: running programs, medians, the table and the JSON.

Every process started here dies with this one, by SIGKILL too
(PR_SET_PDEATHSIG); files are memfds, or lie in rundir(), so that no run leaves
any behind (guard.py).

BB_BENCH_QUICK (run --quick): everything once, and small. Its figures mean nothing;
it shows that the rows come and that bytes are checked. BENCH_SPOIL: comparisons
expect something else than was written (bench.h), so that they must fail.
"""
import ctypes
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(TOP, os.environ.get("B") or "build")

QUICK = bool(os.environ.get("BB_BENCH_QUICK"))
SPOIL = bool(os.environ.get("BENCH_SPOIL"))

_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


class Mismatch(Exception):
    """Other bytes than were written: the bench fails."""


class Failed(Exception):
    """A row could not be measured."""


class Skipped(Exception):
    """A row needs what this machine does not have."""


def built(name):
    path = os.path.join(BUILD, name)
    if not os.path.exists(path):
        raise Failed(f"{path} is not built: run make")
    return path


def quick(whole, small):
    return small if QUICK else whole


def same(got, want):
    """Whether bytes are those that were written."""
    return got == want and not SPOIL


def rundir():
    """For sockets. It leaves with this process."""
    path = f"/run/bluebridge-bench-{os.getpid()}" if os.geteuid() == 0 else os.path.join(BUILD, f"bench-run-{os.getpid()}")
    os.makedirs(path, 0o700, exist_ok=True)
    return path


def median(values):
    return statistics.median(values)


def quartile(values):
    return statistics.quantiles(values, n=4, method="inclusive")[0]


def interval(values, tries=2000):
    """95 % confidence interval of the median, by bootstrap."""
    rng = random.Random(1)
    n = len(values)
    meds = sorted(statistics.median(rng.choices(values, k=n)) for _ in range(tries))
    return meds[int(tries * 0.025)], meds[int(tries * 0.975) - 1]


def sizes(n):
    return f"{n >> 20} MiB"


# --- progress -----------------------------------------------------------------


def progress(text):
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}" if text else "\r\x1b[K")
        sys.stderr.flush()


# --- processes ----------------------------------------------------------------


def _prepare(cpus):
    parent = os.getpid()

    def run():
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if cpus is not None:
            os.sched_setaffinity(0, cpus)

    return run


def environment(**more):
    """Ours without BB_ variables, so that the user's do not change the figures."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("BB_") and k != "LD_PRELOAD"}
    env["LC_ALL"] = "C"
    env.update(more)
    return env


def start(cmd, env=None, cpus=None, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        cmd, env=env or environment(), preexec_fn=_prepare(cpus), start_new_session=False, **kw
    )


def stop(proc, seconds=5):
    if proc.poll() is None:
        proc.terminate()
        try:
            proc.wait(seconds)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()
    for f in (proc.stdin, proc.stdout, proc.stderr):
        if f:
            f.close()


def finish(proc, what, seconds=120):
    """Its output, once it has ended well. Exit 1 of a measuring program is a mismatch."""
    try:
        out, err = proc.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        proc.kill()
        proc.wait()
        raise Failed(f"{what}: not done after {seconds} s") from None
    if proc.returncode:
        text = (err or b"").decode(errors="replace").strip()[-300:]
        kind = Mismatch if proc.returncode == 1 and ("other bytes" in text or ", want " in text) else Failed
        raise kind(f"{what}: exit {proc.returncode}: {text}")
    return out


def call(cmd, what=None, seconds=120, **kw):
    p = start(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)
    return finish(p, what or os.path.basename(cmd[0]), seconds)


def call_json(cmd, what=None, seconds=120, **kw):
    out = call(cmd, what, seconds, **kw)
    try:
        return json.loads(out)
    except ValueError:
        raise Failed(f"{what or cmd[0]}: no JSON: {out[:200]!r}") from None


def timed(cmd, seconds=120, **kw):
    """Return: wall seconds, CPU seconds, output."""
    kw.setdefault("stdout", subprocess.PIPE)
    p = start(cmd, stderr=subprocess.PIPE, **kw)
    t = time.monotonic()
    before = os.times()
    out = finish(p, os.path.basename(cmd[0]), seconds)
    wall = time.monotonic() - t
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, cpu, out


def threads(pid):
    try:
        return [int(t) for t in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def pin_all(pid, cpus):
    for t in threads(pid):
        try:
            os.sched_setaffinity(t, cpus)
        except OSError:
            pass


def cpu_ns(pid):
    """CPU time of a process, its threads summed."""
    total = 0
    for t in threads(pid):
        try:
            with open(f"/proc/{pid}/task/{t}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        except (OSError, IndexError):
            pass
    return total


def memfd(name, data=b""):
    fd = os.memfd_create(name)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


# --- rows ---------------------------------------------------------------------


def row(name, value, unit, goal=None, met=None, more=False, **detail):
    """goal: at most, or at least where more says so."""
    if QUICK:
        met = goal = None
    if met is None and goal is not None and value is not None:
        met = value >= goal if more else value <= goal
    return {"name": name, "value": value, "unit": unit, "goal": goal, "met": met, "detail": detail}


def show(r):
    value = "-" if r["value"] is None else f"{r['value']:.3f}" if r["value"] < 100 else f"{r['value']:.0f}"
    goal = "" if r["goal"] is None else f"goal {r['goal']:g}"
    met = {True: "met", False: "MISSED", None: ""}[r["met"]]
    note = r["detail"].get("note") or r["detail"].get("skipped") or r["detail"].get("error") or ""
    note = " ".join(note.split())
    progress("")
    print(f"{r['name']:<24} {value:>9} {r['unit']:<10} {goal:<10} {met:<7} {note}".rstrip(), flush=True)


def machine():
    def first(path, key=None):
        try:
            with open(path, encoding="utf-8") as f:
                for line in f:
                    if key is None or line.startswith(key):
                        return line.split(":", 1)[-1].strip()
        except OSError:
            pass
        return None

    u = os.uname()
    return {
        "kernel": u.release,
        "arch": u.machine,
        "cpus": len(os.sched_getaffinity(0)),
        "model": first("/proc/cpuinfo", "model name"),
        "memory": first("/proc/meminfo", "MemTotal"),
        "huge_pages": first("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load": os.getloadavg()[0],
    }
