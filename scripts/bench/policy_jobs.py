# SPDX-License-Identifier: MIT
"""Jobs whose touches are recorded: python3 policy_jobs.py NAME N. See policy.py.

Each says on one line what it found, the same whatever memory it runs in.
"""
import itertools
import random
import sqlite3
import sys



def zipf(n, k, seed, skew=0.99):
    """k numbers below n, of which the first are frequent; which those are is shuffled."""
    rng = random.Random(seed)
    names = list(range(n))
    rng.shuffle(names)
    weights = list(itertools.accumulate(1 / (i + 1) ** skew for i in range(n)))
    return rng.choices(names, cum_weights=weights, k=k)


def sqlite(n):
    """A table in memory with an index: lookups of frequent keys, a full scan, updates; three times."""
    db = sqlite3.connect(":memory:")
    db.execute("create table t (id integer primary key, name text, body text)")
    db.executemany("insert into t values (?, ?, ?)", ((i, f"n{i * 7919 % n:08d}", f"{i:08d}" * 60) for i in range(n)))
    db.execute("create index t_name on t (name)")
    wanted, changed = zipf(n, n // 2, 1), zipf(n, n // 16, 2)
    found = 0
    for turn in range(3):
        for i in wanted[turn::3]:
            found += int(db.execute("select body from t where name = ?", (f"n{i:08d}",)).fetchone()[0][:8])
        found += db.execute("select sum(length(body)) from t").fetchone()[0]
        for i in changed[turn::3]:
            db.execute("update t set body = ? where id = ?", (f"{i + turn:08d}" * 60, i))
    return found


def key_of(i):
    return i * 2654435761 % (1 << 32)


def pydict(n):
    """A dict of tuples and strings: built, looked up with frequent keys, walked, shrunk and grown; twice."""
    d = {key_of(i): (i, f"value of {i}") for i in range(n)}
    wanted = zipf(n, n * 2 // 5, 3)
    found = 0
    for turn in range(2):
        for i in wanted[turn::2]:
            found += len(d[key_of(i)][1])
        found += sum(v[0] for v in d.values())
        for i in range(turn, n, 16):
            del d[key_of(i)]
        for i in range(turn, n, 16):
            d[key_of(i)] = (i, f"new {i} {turn}")
    return found


if __name__ == "__main__":
    print({"sqlite": sqlite, "dict": pydict}[sys.argv[1]](int(sys.argv[2])))
