#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Fills a Redis server, reads everything back, and prints a checksum.

	redis_job.py SOCKET [KEYS [BYTES]]	(100000 keys, values of 1024 bytes)

Values are a function of the key. They are read in another order than they were
written, all of them, and each is compared. The checksum covers what the server
returned.
"""
import socket
import sys
import zlib

PIPELINE = 256


class Server:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(120)
        self.s.connect(path)
        self.f = self.s.makefile("rb", 1 << 20)

    def send(self, commands):
        out = []
        for c in commands:
            out.append(b"*%d\r\n" % len(c))
            for a in c:
                out.append(b"$%d\r\n%s\r\n" % (len(a), a))
        self.s.sendall(b"".join(out))

    def reply(self):
        line = self.f.readline()
        if line[:1] in b"+:" and line:
            return line[1:-2]
        if line[:1] == b"$":
            n = int(line[1:])
            return None if n < 0 else self.f.read(n + 2)[:-2]
        raise SystemExit("redis_job: the server said %r" % line)


def value(i, size):
    seed = (i * 0x9E3779B97F4A7C15 + 1) % 2**64
    return (b"%016x%012d" % (seed, i) * (size // 28 + 1))[:size]


def main():
    path = sys.argv[1]
    keys = int(sys.argv[2]) if len(sys.argv) > 2 else 100000
    size = int(sys.argv[3]) if len(sys.argv) > 3 else 1024
    server = Server(path)
    for at in range(0, keys, PIPELINE):
        part = range(at, min(at + PIPELINE, keys))
        server.send([(b"SET", b"key:%d" % i, value(i, size)) for i in part])
        for _ in part:
            if server.reply() != b"OK":
                raise SystemExit("redis_job: a SET failed")
    # A step that shares no factor with the number of keys meets each once.
    step = 7919 if keys % 7919 else 7927
    crc = 0
    for at in range(0, keys, PIPELINE):
        part = [j * step % keys for j in range(at, min(at + PIPELINE, keys))]
        server.send([(b"GET", b"key:%d" % i) for i in part])
        for i in part:
            got = server.reply()
            if got != value(i, size):
                raise SystemExit("redis_job: key:%d has a wrong value" % i)
            crc = zlib.crc32(got, crc)
    server.send([(b"DBSIZE",)])
    print("%08x %d" % (crc, int(server.reply())))


main()
