# SPDX-License-Identifier: MIT
"""What the kernel has for memory that is too small: swap on zram or on a file, in a cgroup.

All of it is of the whole machine, so everything done is noted before it is done
(JOURNAL) and undone in reverse order: at the end, and where this was killed, by the
next run.
"""
import json
import os
import shutil
import signal
import subprocess
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
    _patiently(lambda: not os.path.isdir(path), lambda: os.rmdir(path))


def _swapped_off(path):
    if path in [line.split()[0] for line in read("/proc/swaps").splitlines()[1:]]:
        run("swapoff", path)


def _zram_gone(number):
    _patiently(lambda: not os.path.isdir(f"/sys/block/zram{number}"), lambda: write(f"{CONTROL}/hot_remove", number))


def _file_gone(path):
    if os.path.exists(path):
        os.unlink(path)


UNDO = {"cgroup": _cgroup_gone, "swap": _swapped_off, "zram": _zram_gone, "file": _file_gone}


class Machine:
    """What this run has changed of the machine; a context manager."""

    def __init__(self):
        if os.geteuid():
            raise Skipped("swap and cgroups need root")
        self.steps = []
        if os.path.exists(JOURNAL):
            with open(JOURNAL, encoding="utf-8") as f:
                left = json.load(f)
            if os.path.exists(f"/proc/{left['pid']}") and left["pid"] != os.getpid():
                raise Skipped(f"another run (process {left['pid']}) has changed the machine's swap")
            self.steps = left["steps"]
            self.undo()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.undo()

    def note(self, kind, what):
        self.steps.append([kind, what])
        with open(JOURNAL + ".new", "w", encoding="utf-8") as f:
            json.dump({"pid": os.getpid(), "steps": self.steps}, f)
        os.replace(JOURNAL + ".new", JOURNAL)

    def undo(self):
        """Everything that can be; what cannot stays noted. A signal waits: it would end swapoff too."""
        was = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        try:
            left, why = [], []
            for kind, what in reversed(self.steps):
                try:
                    UNDO[kind](what)
                except (Failed, OSError) as e:
                    left.insert(0, [kind, what])
                    why.append(str(e))
            self.steps = left
            if left:
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
            write(f"{path}/memory.limit_in_bytes" if top == v1 else f"{path}/memory.max", str(limit))
        except OSError as e:
            raise Skipped(f"no memory cgroup: {e}") from None
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', path]
