#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Snapshots of a Redis server under load.

	redis_fork.py SOCKET [KEYS]	(6000)
	redis_fork.py SOCKET look	only prints the digest

Fills the server with values of every kind, lets it dump (BGSAVE) and rewrite
its append-only file (BGREWRITEAOF) while a load goes on, and prints the digest
of the whole data (DEBUG DIGEST).

The load changes values all over, and puts back what was there, in transactions:
at every moment at which the server can fork, the data is what the digest says.
So each snapshot must have the same digest, however much was written meanwhile.
Prints no times and no counts: two servers that are right print the same.
"""
import socket
import sys
import time


class Server:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(60)
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
        if line[:1] == b"*":
            return [self.reply() for _ in range(int(line[1:]))]
        if line[:1] == b"$":
            n = int(line[1:])
            return None if n < 0 else self.f.read(n + 2)[:-2]
        if line[:1] in b"+:" and line:
            return line[1:-2]
        raise SystemExit("redis_fork: the server said %r" % line)

    def all(self, commands):
        self.send(commands)
        return [self.reply() for _ in commands]

    def info(self):
        text = self.all([(b"INFO", b"persistence")])[0].decode()
        return dict(x.split(":", 1) for x in text.split("\r\n") if ":" in x)


def text(i, size):
    seed = b"%x:%d;" % (i * 0x9E3779B97F4A7C15 % 2**64, i)
    return (seed * (size // len(seed) + 1))[:size]


def fill(server, keys):
    """Strings small and large, hashes, lists, sets and sorted sets."""
    for at in range(0, keys, 100):
        c = []
        for i in range(at, min(at + 100, keys)):
            c.append((b"SET", b"s:%d" % i, text(i, 900 + i % 700)))
            if i % 40 == 0:
                c.append((b"SET", b"big:%d" % i, text(i, 40000 + i)))
            if i % 8 == 0:
                c.append((b"HSET", b"h:%d" % i) + tuple(text(i + k, 20 + 30 * k) for k in range(20)))
                c.append((b"RPUSH", b"l:%d" % i) + tuple(text(i + k, 100) for k in range(20)))
                c.append((b"SADD", b"t:%d" % i) + tuple(text(i + k, 60) for k in range(20)))
                c.append((b"ZADD", b"z:%d" % i) + sum(((b"%d" % k, text(i + k, 50)) for k in range(20)), ()))
        server.all(c)


def disturb(server, keys, step):
    """Changes, and takes back, in one transaction each."""
    c = []
    for k in range(20):
        i = (step * 20 + k) * 7919 % keys
        j, b = i // 8 * 8, i // 40 * 40
        c += [(b"MULTI",), (b"SET", b"s:%d" % i, b"wrong"), (b"SET", b"s:%d" % i, text(i, 900 + i % 700)), (b"EXEC",)]
        c += [(b"MULTI",), (b"HSET", b"h:%d" % j, b"wrong", text(i, 300)), (b"HDEL", b"h:%d" % j, b"wrong"), (b"EXEC",)]
        c += [(b"MULTI",), (b"RPUSH", b"l:%d" % j, b"wrong"), (b"RPOP", b"l:%d" % j), (b"EXEC",)]
        if k == 0:
            c += [(b"MULTI",), (b"DEL", b"big:%d" % b), (b"SET", b"big:%d" % b, text(b, 40000 + b)), (b"EXEC",)]
    server.all(c)


def snapshot(server, keys, command, going, status):
    """Under load from before the fork until the child is through."""
    step = 0
    end = time.monotonic() + 50
    for step in range(5):
        disturb(server, keys, step)
    server.all([(command,)])
    while True:
        step += 1
        disturb(server, keys, step)
        info = server.info()
        if info[going] == "0":
            break
        if time.monotonic() > end:
            raise SystemExit("redis_fork: %s does not end" % command.decode())
    if info[status] != "ok":
        raise SystemExit("redis_fork: %s: %s" % (command.decode(), info[status]))
    for step in range(5):
        disturb(server, keys, step)


def main():
    path = sys.argv[1]
    server = Server(path)
    digest = (b"DEBUG", b"DIGEST")
    if sys.argv[2:] == ["look"]:
        print(server.all([digest])[0].decode())
        return
    keys = int(sys.argv[2]) if len(sys.argv) > 2 else 6000
    fill(server, keys)
    before = server.all([digest])[0]
    snapshot(server, keys, b"BGSAVE", "rdb_bgsave_in_progress", "rdb_last_bgsave_status")
    snapshot(server, keys, b"BGREWRITEAOF", "aof_rewrite_in_progress", "aof_last_bgrewrite_status")
    if server.all([digest])[0] != before:
        raise SystemExit("redis_fork: the server's data has changed")
    print(before.decode())


main()
