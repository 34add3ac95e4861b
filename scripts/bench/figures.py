#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The pictures of the paper's rows and the peers': SVG, by gnuplot.

    scripts/bench/run --figures DIR NAME...		measures, and draws
    scripts/bench/figures.py DIR [build/bench.json...]	draws what was measured before

DIR/figures.json keeps what is drawn, so that rows may be measured in pieces; a
picture whose rows are not all there is not drawn. Each says machine and date.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys

PARTS = ("enter", "directory", "get data", "exit", "other")
WAYS = {
    "paper-without": "another host's bbd", "paper-directory": "the same, a directory\\nis asked first", "paper-kernel": "another host's kernel",
    "paper-disk": "a cold file on\\nthe local disk",
}
TABLE = {"paper-create": "CREATE", "paper-read": "READ", "paper-update": "UPDATE", "paper-delete": "DELETE"}
KINDS = {"ours": "BlueBridge (another host)", "zram": "swap on zram (local)", "disk": "swap on a file (local)"}
PEERS = {
    "read": "random\\nreads", "write50": "half\\nwrites", "two": "two\\nthreads", "seq": "scan", "peers-redis-50": "redis\\n50 % local",
    "peers-redis-25": "redis\\n25 %", "peers-numpy-50": "numpy\\n50 %", "peers-numpy-25": "numpy\\n25 %",
    "peers-sort-50": "sort\\n50 %", "peers-sort-25": "sort\\n25 %",
}
HEAD = """set terminal svg size {size} background 'white' font 'sans-serif,12'
set encoding utf8
set output '{path}'
set style fill solid 0.9 noborder
set style data histogram
set style histogram clustered gap 1
set boxwidth 0.9
set grid ytics lc rgb '#dddddd'
set border 3
set tics nomirror
set xtics scale 0
set bmargin 6
set key outside bottom center horizontal
set yrange [0:*]
set offsets 0,0,graph 0.06,0
set title "{title}\\n{{/*0.8 {said}}}"
"""
COLORS = ("#1f5fa8", "#d9822b", "#8a8a8a", "#4a9a5f", "#b5b5d8")


def took(detail, key, pattern):
    """Speeds of each kind: more is better."""
    if key == "rounds":
        per = "mb_per_s" if pattern == "seq" else "faults_per_s"
        return {k: statistics.median(r[pattern][per] for r in v) for k, v in detail[key].items()}
    got = {k: statistics.median(v for v, _ in rounds) for k, rounds in detail[key].items()}
    return got if key == "rates" else {k: 1 / v for k, v in got.items()}


def digest(row):
    """What of a row is drawn: name and figures."""
    d = row["detail"]
    if row["value"] is None:
        return
    if row["name"] in WAYS or row["name"] in TABLE:
        parts = d.get("parts")
        yield row["name"], {"p50_us": round(row["value"], 2), "p95_us": round(d["p95_us"], 2),
                            "parts_us": {p: round(parts[p]["p50_ns"], 2) for p in PARTS} if parts else None}
    elif row["name"] == "peers-random-zram":
        for pattern in ("read", "write50", "two", "seq"):
            yield pattern, {k: round(v, 1) for k, v in took(d, "rounds", pattern).items() if k in KINDS}
    elif row["name"] in PEERS:
        yield row["name"], {k: float(f"{v:.4g}") for k, v in took(d, "rates" if "rates" in d else "seconds", None).items()}


def load(directory):
    path = os.path.join(directory, "figures.json")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def add(directory, saved):
    """Of build/bench.json, to what is drawn. Return: all of it."""
    rows, m = load(directory), saved["machine"]
    machine = f"{m['cpus']} CPUs, {(m['model'] or m['arch']).replace('@', 'at')}, Linux {m['kernel'].split('-')[0]}"
    for row in saved["rows"]:
        for name, figures in digest(row):
            rows[name] = {"machine": machine, "date": saved["date"][:10], **figures}
    with open(os.path.join(directory, "figures.json"), "w", encoding="utf-8") as f:
        json.dump(rows, f, indent=1, sort_keys=True)
        f.write("\n")
    return rows


def columns(labels, rows):
    """A block of data: a label and a line's numbers each."""
    lines = (f'"{label}" ' + " ".join(f"{n:.4g}" if n is not None else "NaN" for n in row) for label, row in zip(labels, rows))
    return "$data << EOD\n" + "\n".join(lines) + "\nEOD\n"


def bars(titles, way="using"):
    return "plot " + ", ".join(f"$data {way} {i + 2}:xtic(1) title '{t}' lc rgb '{COLORS[i]}'" for i, t in enumerate(titles)) + "\n"


def numbers(n, gap=1):
    """The values over the bars of n columns."""
    step = 1 / (n + gap)
    return "".join(f", $data using ($0+{(i - (n - 1) / 2) * step:.3f}):{i + 2}:(sprintf('%.3g', ${i + 2})) with labels offset 0,0.6 font ',9' notitle"
                   for i in range(n))


def script(name, rows):
    """What gnuplot is told for that picture, or None."""
    def head(title, names, size="760,440"):
        dates = sorted({rows[n]["date"] for n in names})
        said = f"{rows[names[0]]['machine']}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
        return HEAD.format(size=size, path="{path}", title=title, said=said)

    if name in ("figure4", "figure5") and not set(WAYS) <= set(rows) or name == "table1" and not set(TABLE) <= set(rows):
        return None
    if name == "figure4":
        data = columns(WAYS.values(), [(rows[w]["p50_us"], rows[w]["p95_us"]) for w in WAYS])
        return (data + head("A page fault that is served by …: 1,500 pages each", list(WAYS))
                + "set ylabel 'µs'\n" + bars(["median", "95th percentile"]).rstrip() + numbers(2) + "\n")
    if name == "figure5":
        ways = [w for w in WAYS if rows[w]["parts_us"]]
        data = columns([WAYS[w] for w in ways], [[rows[w]["parts_us"][p] for p in PARTS] for w in ways])
        return (data + head("Where a fault's time goes: medians of its five parts", ways)
                + "set style histogram rowstacked\nset boxwidth 0.5\nset ylabel 'µs'\n" + bars(PARTS))
    if name == "table1":
        data = columns(TABLE.values(), [(rows[t]["p50_us"], rows[t]["p95_us"]) for t in TABLE])
        return (data + head("Operations on a page at another host, by UDP", list(TABLE))
                + "set ylabel 'µs'\n" + bars(["median", "95th percentile"]).rstrip() + numbers(2) + "\n")
    names = [p for p in PEERS if {"ours", "zram"} <= set(rows.get(p, ()))]
    if len(names) < 2:
        return None
    data = columns([PEERS[n] for n in names], [[rows[n][k] / rows[n]["zram"] if k in rows[n] else None for k in KINDS] for n in names])
    return (data + head("Speed with a quarter (redis: also half) of the memory local; swap on zram = 1, more is better", names, "920,460")
            + "set ylabel 'relative to swap on zram'\n" + bars(KINDS.values()).rstrip() + numbers(3) + "\n")


def draw(directory, rows):
    """Return: the pictures, or why there are none."""
    if not shutil.which("gnuplot"):
        return "gnuplot is not installed (scripts/deps bench)"
    made = []
    for name in ("figure4", "figure5", "table1", "peers"):
        text = script(name, rows)
        if text is None:
            continue
        path = os.path.join(directory, name + ".svg")
        p = subprocess.run(["gnuplot"], input=text.replace("{path}", path).encode(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           check=False, timeout=60)
        said = p.stderr.decode(errors="replace").strip()
        if p.returncode or not os.path.exists(path):
            return f"gnuplot: {said[-300:]}"
        made.append(path)
    return made


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip())
        return 2
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as f:
            saved = json.load(f)
        if saved.get("quick"):
            print(f"figures: {path} is of a quick run, whose figures mean nothing", file=sys.stderr)
            return 2
        add(sys.argv[1], saved)
    made = draw(sys.argv[1], load(sys.argv[1]))
    print(made if isinstance(made, str) else "\n".join(made))
    return 1 if isinstance(made, str) else 0


if __name__ == "__main__":
    sys.exit(main())
