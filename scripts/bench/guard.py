# SPDX-License-Identifier: MIT
"""Puts back what a run has left that was killed: swap, zram, cgroups, files, sockets.

A process in a session of its own holds one end of a pipe whose other end is the
run's alone, and goes to work when that closes. Racks have guards of their own
(bbrack --owner). Where the guard is killed too, the next run does it, or
scripts/bench/run --clean.
"""
import os
import re
import shutil
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common  # noqa: E402
import swap  # noqa: E402


class Guard:
    """Of this process. A context manager."""

    def __enter__(self):
        # By the interpreter that runs this; a wrapper of that name might take the pipe with it.
        self.proc = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), str(os.getpid())], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        return self

    def __exit__(self, *_):
        self.proc.stdin.close()
        try:
            self.proc.wait(60)
        except subprocess.TimeoutExpired:
            pass


def sockets(pid=None):
    """Removes the directories of sockets: one's, or those of all that have ended."""
    for top, pattern in (("/run", r"bluebridge-bench-(\d+)$"), (common.BUILD, r"bench-run-(\d+)$")):
        for name in os.listdir(top):
            m = re.match(pattern, name)
            if m and (int(m[1]) == pid if pid else not os.path.exists(f"/proc/{m[1]}")):
                shutil.rmtree(os.path.join(top, name), ignore_errors=True)


def clean():
    """After a run that was killed together with its guard. Return: why not, or None."""
    sockets()
    if os.geteuid():
        return None
    try:
        with swap.Machine():
            pass
    except (common.Skipped, common.Failed) as e:
        return str(e)
    subprocess.run([os.path.join(common.TOP, "scripts/bbrack"), "gc"], stdin=subprocess.DEVNULL, check=False, timeout=60)
    return None


def main():
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)
    pid = int(sys.argv[1])
    sys.stdin.read()
    sockets(pid)
    if os.geteuid() == 0:
        try:
            swap.restore(pid)
        except common.Failed:
            pass  # it stays in the journal, for the next run


if __name__ == "__main__":
    main()
