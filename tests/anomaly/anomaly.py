#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Fails the Nth call, N = 1, 2, 3 ..., until the run ends without a failure.

usage: anomaly.py shim|daemon|memory [--step N] [--seed N] [--all] [--only N[:V]] -- CMD...

Run on host h1 of a rack (bbrack run). N counts the places in the code that
calls come from (see failnth.c), so every call of libbb.so or bbd that can fail
has its turn; which of its errors, and whether the first or a later call of the
place, is drawn from the seed (--all: each error, first and later). --step takes
every so manieth place only.

  shim    libbb.so in CMD
  daemon  the bbd of h1, from its start on, while CMD runs under libbb.so
  memory  the bbd of h2, the memory host

Each N must end well: CMD succeeds (it checks its bytes), or says why not. Never
other bytes, never a hang, never a crash without a word. Exit 0 where all did.
"""
import argparse
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time

BUILD = os.environ["BUILD"]
WRONG = re.compile(r"\bhave [0-9a-f]+, want|should be version|not zero|is not as|changed between|gave memory")
LIMIT = 40


class Bad(Exception):
    pass


def state_of(path, n):
    """(places, injected, what, calls at place n)"""
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return 0, 0, "", 0
    places, injected = struct.unpack("II", data[:8])
    calls = struct.unpack("QII", data[128 + 16 * (n - 1):128 + 16 * n])[1]
    return places, injected, data[8:128].split(b"\0")[0].decode(), calls


def fail_env(path, n, count, variant, obj):
    env = {"FAILNTH_STATE": path, "FAILNTH_SITE": str(n), "FAILNTH_COUNT": str(count), "FAILNTH_VARIANT": str(variant)}
    if obj:
        env["FAILNTH_IN"] = obj
    return env


def run_program(cmd, env, out):
    """Runs CMD under libbb.so. Returns its exit status and what it said; a hang is an error."""
    full = dict(os.environ, **env)
    p = subprocess.Popen(cmd, env=full, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                         start_new_session=True)
    try:
        rc = p.wait(LIMIT)
    except subprocess.TimeoutExpired as exc:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        raise Bad("hangs") from exc
    out.seek(0)
    return rc, out.read().decode(errors="replace")


def judge(rc, said, log):
    """Bad where that was no good end."""
    if WRONG.search(said):
        raise Bad("wrong bytes: " + said)
    if rc == 0:
        return
    if rc < 0 and rc != -signal.SIGBUS:
        raise Bad("killed by signal %d: %s" % (-rc, said))
    if rc == -signal.SIGBUS and "lost" not in log and "bbd has ended" not in said:
        raise Bad("SIGBUS without a word: " + said)
    if not said.strip():
        raise Bad("exit status %d without a word" % rc)


# --- libbb.so ------------------------------------------------------------------

class Shim:
    def __init__(self, args, tmp):
        self.cmd, self.tmp = args.cmd, tmp

    def once(self, n, count, variant):
        path = self.tmp + "/state"
        env = fail_env(path, n, count, variant, "libbb.so")
        env["LD_PRELOAD"] = BUILD + "/libbb.so:" + BUILD + "/tests/failnth.so"
        with open(self.tmp + "/out", "w+b") as out:
            rc, said = run_program(self.cmd, env, out)
        judge(rc, said, log_of("h1"))
        return rc, said

    def end(self):
        pass


# --- bbd --------------------------------------------------------------------------

def rack_dir(host):
    return "/run/bluebridge/%s/%s" % (os.environ["BB_RACK_NAME"], host)


def log_of(host):
    with open(rack_dir(host) + "/bbd.log", "rb") as f:
        f.seek(0, 2)
        f.seek(max(0, f.tell() - 20000))
        return f.read().decode(errors="replace")


def ctl(host, *words):
    try:
        return subprocess.run([BUILD + "/bbctl", "--socket", rack_dir(host) + "/bbd.sock", *words], timeout=5,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except subprocess.TimeoutExpired as exc:
        raise Bad("bbctl %s hangs" % " ".join(words)) from exc


def rack_bbd(host, verb):
    subprocess.run([BUILD + "/bbrack", "bbd", host, verb], timeout=30, check=False,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Daemon:
    """The rack's own bbd of that host is stopped; ours has its command line."""

    def __init__(self, args, tmp):
        self.cmd, self.tmp = args.cmd, tmp
        self.host = "h1" if args.what == "daemon" else "h2"
        with open(rack_dir(self.host) + "/pid", encoding="ascii") as f:
            pid = f.read().split()[0]
        with open("/proc/%s/cmdline" % pid, "rb") as f:
            words = [w.decode() for w in f.read().split(b"\0")[:-1]]
        self.line = words
        rack_bbd(self.host, "stop")

    def start(self, env):
        with open(rack_dir(self.host) + "/bbd.log", "wb") as log:
            ns = "/run/netns/bb-%s-%s" % (os.environ["BB_RACK_NAME"], self.host)
            return subprocess.Popen(["nsenter", "--net=" + ns] + self.line, env=dict(os.environ, **env),
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def up(self, p):
        """Until it answers and sees the other host. False: it has ended, or does not see it."""
        answered = False
        for _ in range(150):
            if p.poll() is not None:
                return False
            r = ctl(self.host, "-j", "node", "show")
            answered = answered or r.returncode == 0
            if answered and r.stdout.count(b'"alive"') + r.stdout.count(b"'alive'") > 0:
                return True
            time.sleep(0.02)
        if not answered:
            raise Bad("bbd neither answers nor ends")
        return False

    def once(self, n, count, variant):
        path = self.tmp + "/state"
        env = fail_env(path, n, count, variant, None)
        env["LD_PRELOAD"] = BUILD + "/tests/failnth.so"
        p = self.start(env)
        try:
            self.up(p)
            if p.poll() is None or self.host != "h1":
                with open(self.tmp + "/out", "w+b") as out:
                    rc, said = run_program(self.cmd, {"LD_PRELOAD": BUILD + "/libbb.so"}, out)
                judge(rc, said, log_of("h1"))
                for words in (["-j"], ["metrics"], ["-j", "program", "show"]):
                    if p.poll() is None:
                        ctl(self.host, *words)
            else:
                rc, said = 0, ""
            ended = p.poll()
            if ended is not None and ended < 0:
                raise Bad("bbd was killed by signal %d:\n%s" % (-ended, log_of(self.host)))
            if ended and not re.search("error|cannot|fail", log_of(self.host)):
                raise Bad("bbd ended with status %d without a word:\n%s" % (ended, log_of(self.host)))
            if ended is None:
                p.terminate()
                try:
                    rc2 = p.wait(15)
                except subprocess.TimeoutExpired as exc:
                    raise Bad("bbd does not end") from exc
                if rc2:
                    raise Bad("bbd ends with status %d:\n%s" % (rc2, log_of(self.host)))
            return rc, said + log_of(self.host)
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()

    def end(self):
        rack_bbd(self.host, "start")


def more(args, rng, calls, variants):
    """After the first failure at a place: which others, as (count, variant)."""
    if args.all:
        counts = list(range(1, calls + 1)) if calls < 25 else [1, 2, 3] + [rng.randrange(4, calls) for _ in range(9)]
        return [(c, v) for c in counts for v in range(variants)]
    if calls < 2:
        return []
    return [(rng.randrange(2, min(calls, 300) + 1), rng.randrange(60))]


def one_failure(args, one, n, count, variant, tally):
    """Returns (injected, calls that the place made, how many errors it knows, places)."""
    path = args.tmp + "/state"
    verdict, rc, said = "ok", 0, ""
    if os.path.exists(path):
        os.unlink(path)
    try:
        rc, said = one.once(n, count, variant)
    except Bad as e:
        verdict = str(e)
    places, injected, what, calls = state_of(path, n)
    if verdict != "ok":
        tally["bad"] += 1
    elif rc:
        tally["said"] += 1
    tally["done"] += bool(injected)
    if verdict != "ok" or args.verbose:
        print("place %d:%d:%d (%s): %s" % (n, count, variant, what, verdict), flush=True)
        if verdict == "ok" and (rc or args.only):
            print("exit %d\n%s" % (rc, said), flush=True)
    m = re.search(r"variants (\d+)", what)
    return injected, calls, int(m.group(1)) if m else 1, places


def main():
    a = argparse.ArgumentParser(usage=__doc__)
    a.add_argument("what", choices=["shim", "daemon", "memory"])
    a.add_argument("--step", type=int, default=1)
    a.add_argument("--seed", type=int, default=int(time.time()))
    a.add_argument("--all", action="store_true")
    a.add_argument("--only", default="")
    a.add_argument("--verbose", action="store_true")
    a.add_argument("--tmp", required=True)
    a.add_argument("cmd", nargs="+")
    args = a.parse_args()
    rng = random.Random(args.seed)
    one = (Shim if args.what == "shim" else Daemon)(args, args.tmp)
    n = 1 + args.seed % args.step
    only = [int(x) for x in args.only.split(":")] if args.only else []
    if only:
        n = only[0]
    tally = {"done": 0, "bad": 0, "said": 0}
    try:
        while True:
            injected, calls, variants, places = one_failure(args, one, n, only[1] if only[1:] else 1,
                                                            only[2] if only[2:] else rng.randrange(60), tally)
            if not only and injected:
                for count, variant in more(args, rng, calls, variants):
                    one_failure(args, one, n, count, variant, tally)
            if only or n > places:
                break
            n += args.step
    finally:
        one.end()
    print("%s: %d failures injected, %d places (step %d, seed %d): %d ended in a message, %d bad" %
          (args.what, tally["done"], places, args.step, args.seed, tally["said"], tally["bad"]))
    return 1 if tally["bad"] or not tally["done"] else 0


sys.exit(main())
