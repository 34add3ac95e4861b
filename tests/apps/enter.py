#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A hostile host on the same link: sees packets of others, and sends them again.

  enter.py record DEV FILE		until FILE.stop is there: BlueBridge's packets, as they pass
  enter.py count FILE WHICH		how many of them there are
  enter.py send DEV FILE WHICH [HOW [N]]	sends the first N (1000) again, changed by HOW

WHICH: a command's name, with "-reply" for its replies, and "@N" for those to or
from node N. HOW: as-is, payload, tag, tenant, node, generation, boot or version;
each changes the one thing and leaves the tag as it was, as one without the key
has to. Prints how many were sent.
"""
import json
import os
import socket
import struct
import sys
import time

PORT = 48059
COMMANDS = {"HELLO": 1, "CREATE": 2, "ALLOC_WRITE": 3, "READ": 4, "WRITE": 5, "DELETE": 7, "READ_RUN": 11}
AT = {"src": 22, "dst": 38, "udp": 54, "hdr": 62, "payload": 102}


def packet_socket(dev):
    # All protocols: of one alone only what comes in is seen.
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    s.bind((dev, 3))
    return s


def is_ours(f):
    return len(f) >= AT["payload"] and f[12:14] == b"\x86\xdd" and f[20] == 17 and PORT in struct.unpack_from("!HH", f, AT["udp"])


def record(dev, path):
    frames = []
    s = packet_socket(dev)
    s.settimeout(0.2)
    print("recording", flush=True)
    while not os.path.exists(path + ".stop"):
        try:
            f = s.recv(65535)
        except socket.timeout:
            continue
        if is_ours(f) and len(f) <= 9014:
            frames.append(f.hex())
    with open(path + ".new", "w", encoding="ascii") as out:
        json.dump(frames, out)
    os.rename(path + ".new", path)


def select(path, which):
    which, _, node = which.partition("@")
    name, _, reply = which.partition("-")
    got = []
    for f in (bytes.fromhex(x) for x in json.load(open(path, encoding="ascii"))):
        src, dst = f[AT["src"]:AT["src"] + 16], f[AT["dst"]:AT["dst"] + 16]
        cmd = dst[6] if dst[:2] == b"\xfd\xbb" else COMMANDS["HELLO"]
        if cmd != COMMANDS[name] | (0x80 if reply else 0):
            continue
        if node and int(node) not in (struct.unpack_from("!H", src, 4)[0], struct.unpack_from("!H", dst, 4)[0]):
            continue
        got.append(f)
    return got


def checksummed(f):
    f = bytearray(f)
    f[AT["udp"] + 6:AT["udp"] + 8] = b"\0\0"
    udp = bytes(f[AT["udp"]:])
    data = bytes(f[AT["src"]:AT["udp"]]) + struct.pack("!II", len(udp), 17) + udp + b"\0" * (len(udp) % 2)
    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    struct.pack_into("!H", f, AT["udp"] + 6, ~s & 0xFFFF or 0xFFFF)
    return bytes(f)


def changed(f, how):
    f = bytearray(f)
    at = {"payload": AT["payload"], "tag": AT["hdr"] + 39, "tenant": AT["dst"] + 3, "node": AT["dst"] + 5,
          "generation": AT["dst"] + 9, "boot": AT["hdr"] + 15, "version": AT["hdr"]}
    if how != "as-is":
        f[at[how]] ^= 0x40
    return checksummed(f)


def send(dev, path, which, how="as-is", most="1000"):
    s = packet_socket(dev)
    # With another's link address the bridge would take that host to be here,
    # and bring it nothing until it speaks again.
    own = s.getsockname()[4]
    n = 0
    for f in select(path, which)[:int(most)]:
        if how == "payload" and len(f) == AT["payload"]:
            continue  # a PROBE has none
        f = changed(f, how)
        s.send(f[:6] + own + f[12:])
        n += 1
        if n % 32 == 0:
            time.sleep(0.002)  # a socket's buffer is not what is tested
    print(n)


if __name__ == "__main__":
    {"record": record, "send": send, "count": lambda p, w: print(len(select(p, w)))}[sys.argv[1]](*sys.argv[2:])
