# SPDX-License-Identifier: MIT
"""Two hosts for the rows that need them: scripts/bbrack, owned by this process.

bbrack's guard takes the rack down when its owner has ended, however it ended.
"""
import json
import os
import socket
import subprocess

from common import BUILD, TOP, Failed, Skipped, built, call, call_json, environment, pin_all, progress, start

# Both ends of everything measured, floors included, poll that long before they sleep.
SPIN_US = 50


class Rack:
    def __init__(self, mtu, hosts=2, name="", env=None, switch="bridge", programs=False, spin=SPIN_US,
                 lend="1G", bbd=""):
        """name tells racks of one MTU apart; env is for its bbds, on top of ours.

        A plain bridge unless said otherwise: the switch program forwards pages
        more quickly than the packets of the bare loops that they are held against.
        """
        if os.geteuid():
            raise Skipped("network namespaces need root")
        self.mtu = mtu
        self.base = [
            os.path.join(TOP, "scripts/bbrack"), "--name", f"bench-{os.getpid()}-{mtu}{name and f'-{name}'}", "--bin", BUILD,
        ]
        built("bbd")
        built("bbctl")
        progress(f"rack of {hosts} hosts, MTU {mtu}")
        call(
            [*self.base, "--mtu", str(mtu), "--lend", lend, "--owner", str(os.getpid()),
             "--switch", switch, "--host-programs", "on" if programs else "off",
             "--bbd-args", f"--spin {spin} {bbd}".strip(), "up", str(hosts)],
            "bbrack up", env=environment(**(env or {})),
        )
        try:
            self.host = {h["host"]: h for h in call_json([*self.base, "-j", "status"], "bbrack status")["hosts"]}
        except BaseException:
            self.down()
            raise

    def down(self):
        subprocess.run([*self.base, "down"], stdin=subprocess.DEVNULL, check=False, timeout=60)

    @property
    def key(self):
        return os.path.join(os.path.dirname(os.path.dirname(self.host["h1"]["socket"])), "key")

    def command(self, host, cmd):
        return [*self.base, "run", host, "--", *cmd]

    def program(self, host, cmd, local, cpus=None, **kw):
        """An unmodified program under libbb.so. Its process id is the one returned."""
        pre = ["env", f"LD_PRELOAD={built('libbb.so')}", f"BB_LOCAL={local}", "BB_LOG=warn", "BB_PLACE=2"]
        return start(self.command(host, [*pre, *cmd]), env=environment(), cpus=cpus, **kw)

    def ask(self, host, cmd):
        """What bbctl -j shows, from the daemon itself: no process is started for it."""
        with socket.socket(socket.AF_UNIX) as k:
            k.settimeout(10)
            k.connect(self.host[host]["socket"])
            k.sendall(json.dumps({"cmd": cmd}).encode() + b"\n")
            with k.makefile("rb") as f:
                answer = json.loads(f.readline() or "{}")
        if not answer.get("ok"):
            raise Failed(f"bbd on {host}, {cmd}: {answer.get('error', 'no answer')}")
        return answer["result"]

    def pin(self, host, cpus):
        pin_all(self.host[host]["pid"], cpus)


_racks = {}


def get(mtu):
    """One rack a MTU, kept until close()."""
    if mtu not in _racks:
        _racks[mtu] = Rack(mtu)
    return _racks[mtu]


def close():
    while _racks:
        _racks.popitem()[1].down()


def drop(mtu):
    if mtu in _racks:
        _racks.pop(mtu).down()


