#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A hostile local program: what it says on bbd's socket, what it hands over and
what it writes into the shared pages must hurt nobody but itself. Every case is
followed by a question that bbd has to answer. Usage: hostile.py SOCKET SEED ROUNDS
"""
import array
import ctypes
import fcntl
import json
import mmap
import os
import random
import socket
import struct
import sys
import time

PATH, SEED, ROUNDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
rnd = random.Random(SEED)
MAGIC = 0x31414242
REQUEST = struct.Struct("<IIIIQQIIHHIIIQQ32s")  # struct bb_attach_req
NPAGES, NSLOTS = 512 * 8, 256
FAILED = []


def dial():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    s.connect(PATH)
    return s


def ask():
    s = dial()
    s.sendall(b'{"cmd":"show"}\n')
    data = b""
    while not data.endswith(b"\n"):
        part = s.recv(65536)
        if not part:
            raise SystemExit("bbd closed a control session")
        data += part
    s.close()
    return json.loads(data)


def request(flags=0, magic=MAGIC, region=0, secret=(0, 0), budget=64 << 20):
    return REQUEST.pack(magic, REQUEST.size, flags, os.getpid(), budget, 0, 0, NSLOTS, 0, 0, 0, region, 0, *secret, b"hostile")


def uffd():
    fd = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    u = fcntl.ioctl(fd, 0xAA00, os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(fd)
    api = struct.pack("QQQ", 0xAA, 0, 0)
    fcntl.ioctl(u, 0xC018AA3F, api)
    return u


def eventfd():
    return libc.eventfd(0, 0)


def layout():
    def up(n):
        return (n + 4095) & ~4095

    x = 4096
    words = x + up(NPAGES // 512 * 8)
    hashes = words + up(NPAGES * 8)
    slots = hashes + up(NPAGES * 12)
    data = slots + up(NSLOTS * 32)
    return x, words, hashes, slots, data, data + NSLOTS * 4096


def memfd(size, seals=True):
    fd = os.memfd_create("hostile", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4)
    return fd


def send(s, data, fds):
    anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    s.sendmsg([data], anc)


def reply(s):
    try:
        return s.recv(4096)
    except (ConnectionError, socket.timeout):
        return b""


def garbage():
    s = dial()
    kind = rnd.randrange(6)
    if kind == 0:
        s.sendall(rnd.randbytes(rnd.randrange(1, 5000)))
    elif kind == 1:
        s.sendall(b"B" + rnd.randbytes(rnd.randrange(0, 300)))
    elif kind == 2:
        s.sendall(b'{"cmd":' + rnd.randbytes(rnd.randrange(1, 200)).replace(b"\n", b"") + b"\n")
    elif kind == 3:
        s.sendall(b"{" * 70000)
    elif kind == 4:
        s.sendall(json.dumps({"cmd": rnd.choice(["program.set", "fault.show", "", 7, None]), "region": rnd.randrange(-5, 99),
                              "budget": rnd.choice([-1, 0, 2**63 - 1, "x"])}).encode() + b"\n")
        reply(s)
    else:
        send(s, request()[: rnd.randrange(1, 60)], [os.open("/dev/null", os.O_RDONLY)])
    s.close()


def null():
    return os.open("/dev/null", os.O_RDWR)


def wrong_descriptors():
    size = layout()[5]
    for kinds in ([], [null], [null] * 3, [uffd, null, eventfd], [uffd, lambda: memfd(size, False), eventfd],
                  [uffd, lambda: memfd(4096), eventfd], [uffd, lambda: memfd(size), null], [null] * 16,
                  [uffd, lambda: memfd(size), eventfd]):  # the last: sealed, but books of zeros
        fds = [kind() for kind in kinds]
        s = dial()
        send(s, request(flags=rnd.choice([0, 2, 0x80])), fds)
        got = reply(s)
        if got and struct.unpack_from("<i", got, 8)[0] == 0:
            FAILED.append("%d descriptors of the wrong kind were taken" % len(fds))
        s.close()
        for f in fds:
            os.close(f)


TAKEN = []  # rounds of books that were good enough


class Books:
    """What an honest program hands over."""

    def __init__(self):
        size = layout()[5]
        self.fd = memfd(size)
        self.m = mmap.mmap(self.fd, size)
        area = libc.mmap
        area.restype = ctypes.c_void_p
        area.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        base = area(None, (NPAGES + 512) * 4096, 3, 0x4022, -1, 0)
        self.base = (base + (2 << 20) - 1) & ~((2 << 20) - 1)
        self.u, self.k = uffd(), eventfd()
        struct.pack_into("<IIQQI", self.m, 0, 0x62627267, 4, self.base, NPAGES, NSLOTS)

    def attach(self):
        s = dial()
        send(s, request(), [self.u, self.fd, self.k])
        got = reply(s)
        return s, bool(got) and struct.unpack_from("<i", got, 8)[0] == 0

    def close(self):
        self.m.close()
        for f in (self.u, self.fd, self.k):
            os.close(f)
        libc.munmap(ctypes.c_void_p(self.base), NPAGES * 4096)


def bad_books(fuzz):
    """Attaches well enough to be served, then writes what it likes."""
    x, words, _, slots, _, _ = layout()
    b = Books()
    m, u, k, base = b.m, b.u, b.k, b.base
    if fuzz == "header":
        struct.pack_into("<Q", m, rnd.choice([8, 16]), rnd.getrandbits(64))
    s, taken = b.attach()
    if taken:
        TAKEN.append(fuzz)
        fcntl.ioctl(u, 0xC020AA00, struct.pack("QQQQ", base, NPAGES * 4096, 1, 0))
        for e in range(NPAGES // 512):
            m[x + e * 8] = rnd.choice([0, 1, 2, 3, 4, 4, 4, 77])
        for _ in range(3000):
            struct.pack_into("<Q", m, words + 8 * rnd.randrange(NPAGES), rnd.getrandbits(64))
        for _ in range(200):
            struct.pack_into("<Q", m, slots + 32 * rnd.randrange(NSLOTS), rnd.choice([rnd.getrandbits(64), rnd.randrange(NPAGES)]))
        # Limits, ring positions, bells: all of the control page but the header.
        for _ in range(40):
            struct.pack_into("<Q", m, rnd.randrange(64 // 8, 512 // 8) * 8, rnd.choice([0, 1, 2**63, rnd.getrandbits(64), rnd.randrange(300)]))
        os.write(k, struct.pack("Q", 1))
        if rnd.random() < 0.5:
            try:
                s.sendall(struct.pack("<IIIIQQ", rnd.choice([0x674D4242, 5]), rnd.choice([1, 2, 3, 9]), 0, 0, 0, 0))
            except ConnectionError:
                pass  # it has had enough of us
        time.sleep(0.02)
    s.close()
    b.close()


def freeze(s, want_socket):
    """Return: the region of the child that may come, and the descriptors that came with it."""
    s.sendall(struct.pack("<IIIIQQ", 0x674D4242, 1, 0, want_socket, 0, 0))
    try:
        got, fds, _, _ = socket.recv_fds(s, 32, 4)
    except (ConnectionError, socket.timeout):
        got, fds = b"", []
    return struct.unpack_from("<I", got, 8)[0] if len(got) == 32 else -1, fds


def many_children():
    """Forks again and again, and no child comes; and has a connection that bbd made, to speak with bbd's own rights."""
    b = Books()
    s, taken = b.attach()
    if not taken:
        FAILED.append("an honest attach was refused")
    _, fds = freeze(s, 1)
    if not fds:
        FAILED.append("no connection for a child")
    for f in fds:
        own = socket.socket(fileno=f)
        own.setblocking(True)
        own.settimeout(5)
        try:
            own.sendall(b'{"cmd":"show"}\n')
            if own.recv(1):
                FAILED.append("a program was answered as if it were bbd")
        except ConnectionError:
            pass
        own.close()
    regions = [freeze(s, 0)[0] for _ in range(100)]
    if 0 not in regions or -1 in regions:
        FAILED.append("%d children on their way" % len(regions))
    s.close()
    b.close()


def forged_child():
    s = dial()
    size = layout()[5]
    fds = [uffd(), memfd(size), eventfd()]
    m = mmap.mmap(fds[1], size)
    struct.pack_into("<IIQQI", m, 0, 0x62627267, 4, 0x7E0000000000, NPAGES, NSLOTS)
    send(s, request(flags=2, region=rnd.randrange(1, 70), secret=(rnd.getrandbits(64), 0)), fds)
    got = reply(s)
    if got and struct.unpack_from("<i", got, 8)[0] == 0:
        FAILED.append("a child of somebody else's program was taken")
    s.close()
    m.close()
    for f in fds:
        os.close(f)


pid = ask()["result"]["pid"]
for n in range(ROUNDS):
    rnd.choice([garbage, garbage, wrong_descriptors, forged_child, lambda: bad_books("header"), lambda: bad_books("all"),
                lambda: bad_books("all")])()
    a = ask()
    if not a["ok"] or a["result"]["pid"] != pid:
        raise SystemExit("round %d of seed %d: bbd is not the same any more" % (n, SEED))
many_children()
if ask()["result"]["pid"] != pid:
    FAILED.append("bbd is not the same any more")
if ROUNDS >= 40 and "all" not in TAKEN:
    FAILED.append("none of the books was taken: their layout is not that of bbd any more")
if FAILED:
    raise SystemExit("seed %d: %s" % (SEED, FAILED[0]))
print("hostile: seed %d, %d rounds, bbd answers" % (SEED, ROUNDS))
