# SPDX-License-Identifier: MIT
"""What the kernel has for memory that is too small: swap on zram or on a file, in a cgroup.

All of it is of the whole machine, so everything done is noted before it is done
(JOURNAL) and undone in reverse order: at the end, and where this was killed, by its
guard (guard.py), or by the next run.
"""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time

from common import BUILD, Failed, Skipped

JOURNAL = "/run/bluebridge-bench.json"
CONTROL = "/sys/class/zram-control"


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def read(path):
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def run(*cmd):
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, timeout=120)
    if p.returncode:
        raise Failed(f"{' '.join(cmd)}: {p.stderr.decode(errors='replace').strip()[-200:]}")


# --- what was done, and how it is undone ------------------------------------------


def _patiently(gone, fn):
    """What has just been let go may be busy for a moment."""
    end = time.monotonic() + 10
    while not gone():
        try:
            fn()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _cgroup_gone(path):
    """With what a signal left running there: only programs of ours are."""
    def end():
        for pid in read(f"{path}/cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        os.rmdir(path)

    _patiently(lambda: not os.path.isdir(path), end)


def _swapped_off(path):
    if path in [line.split()[0] for line in read("/proc/swaps").splitlines()[1:]]:
        run("swapoff", path)


def _zram_gone(number):
    _patiently(lambda: not os.path.isdir(f"/sys/block/zram{number}"), lambda: write(f"{CONTROL}/hot_remove", number))


def _file_gone(path):
    if os.path.exists(path):
        os.unlink(path)


UNDO = {"cgroup": _cgroup_gone, "swap": _swapped_off, "zram": _zram_gone, "file": _file_gone}


def _began(pid):
    """When a process began, which tells it from a later one of that number; None where it has ended."""
    try:
        f = read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if f[0] in "ZX" else f[19]


def _undo(steps):
    """Return: the steps that cannot be undone, and why."""
    left, why = [], []
    for kind, what in reversed(steps):
        try:
            UNDO[kind](what)
        except (Failed, OSError) as e:
            left.insert(0, [kind, what])
            why.append(str(e))
    return left, why


def restore(owner=None):
    """Undoes what a run has left that has ended, or is owner."""
    try:
        with open(JOURNAL, encoding="utf-8") as f:
            left = json.load(f)
    except FileNotFoundError:
        return
    if owner is not None:
        if left["pid"] != owner:
            return
    elif left["pid"] != os.getpid() and _began(left["pid"]) == left.get("began"):
        raise Skipped(f"another run (process {left['pid']}) has changed the machine's swap")
    steps, why = _undo(left["steps"])
    if steps:
        raise Failed(f"not put back: {'; '.join(why)}")
    _file_gone(JOURNAL)


class Nudger(threading.Thread):
    """Keeps the kernel from killing a program whose memory could be swapped out.

    In small groups reclaim gives up while the program touches all that is there, and
    the killer comes, with swap all but empty. So the group waits instead of killing
    (v1), and is given four megabytes that are taken back at once, which reclaims.
    In v2 memory.high does it.
    """

    MORE = 4 << 20

    def __init__(self, path, limit):
        super().__init__(daemon=True)
        self.path, self.limit = path, limit
        self.over = threading.Event()
        self.times = 0

    def run(self):
        raised = False
        while not self.over.wait(0.002):
            try:
                if raised:
                    write(f"{self.path}/memory.limit_in_bytes", str(self.limit))
                    raised = False
                elif "under_oom 1" in read(f"{self.path}/memory.oom_control"):
                    self.times += 1
                    write(f"{self.path}/memory.limit_in_bytes", str(self.limit + self.MORE))
                    raised = True
            except OSError:
                pass  # busy: once more


class Machine:
    """What this run has changed of the machine; a context manager."""

    def __init__(self):
        if os.geteuid():
            raise Skipped("swap and cgroups need root")
        self.steps = []
        self.nudger = None
        restore()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.undo()

    def note(self, kind, what):
        self.steps.append([kind, what])
        with open(JOURNAL + ".new", "w", encoding="utf-8") as f:
            json.dump({"pid": os.getpid(), "began": _began(os.getpid()), "steps": self.steps}, f)
        os.replace(JOURNAL + ".new", JOURNAL)

    def undo(self):
        """Everything that can be; what cannot stays noted. A signal waits: it would end swapoff too."""
        if self.nudger:
            self.nudger.over.set()
            self.nudger.join()
            self.nudger = None
        was = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        try:
            self.steps, why = _undo(self.steps)
            if self.steps:
                raise Failed(f"not put back: {'; '.join(why)}")
            _file_gone(JOURNAL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, was)

    # --- swap -------------------------------------------------------------------

    def zram(self, size):
        """A device of our own: one that is there may be somebody's."""
        if not os.path.exists(f"{CONTROL}/hot_add"):
            raise Skipped("this kernel has no zram")
        number = read(f"{CONTROL}/hot_add")
        self.note("zram", number)
        write(f"/sys/block/zram{number}/disksize", str(size))
        self._on(f"/dev/zram{number}")

    def file(self, size):
        path = os.path.join(BUILD, "bench", f"swap.{os.getpid()}")
        if shutil.disk_usage(os.path.dirname(path)).free < 2 * size:
            raise Skipped("no room on the disk for a swap file")
        self.note("file", path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._on(path)

    def _on(self, path):
        if len(read("/proc/swaps").splitlines()) > 1:
            raise Skipped("this machine has swap of its own: whose is measured could not be told")
        run("mkswap", path)
        self.note("swap", path)
        run("swapon", path)

    # --- cgroups ----------------------------------------------------------------

    def cgroup(self, limit):
        """Return: a command's prefix that runs it with that much memory."""
        v1 = "/sys/fs/cgroup/memory"
        top = v1 if os.path.isdir(v1) else "/sys/fs/cgroup"
        path = f"{top}/bluebridge-bench-{os.getpid()}-{len(self.steps)}"
        self.note("cgroup", path)
        try:
            if top != v1 and "memory" not in read(f"{top}/cgroup.subtree_control").split():
                raise Skipped("the memory controller is not on for cgroups below the root")
            os.mkdir(path)
            if top == v1:
                write(f"{path}/memory.limit_in_bytes", str(limit))
                write(f"{path}/memory.oom_control", "1")
                self.nudger = Nudger(path, limit)
                self.nudger.start()
            else:
                write(f"{path}/memory.high", str(limit))
                write(f"{path}/memory.max", str(limit + limit // 4))
        except OSError as e:
            raise Skipped(f"no memory cgroup: {e}") from None
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', path]
