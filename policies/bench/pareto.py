"""Success against computation, a panel a task, from the rows of the benchmark.

    endplate bench acceleration --recording run.mcap --episodes 200 --resume episodes.jsonl --json rows.jsonl
    python policies/bench/pareto.py rows.jsonl [MORE.jsonl ...] policies/bench/pareto.svg

A way that no other way of the same task beats in both is filled and named, and so is plain decoding; bars are 95 % Wilson
intervals. Rows without episodes are left out.
"""

import json
import sys
from html import escape

rows = [json.loads(line) for path in sys.argv[1:-1] for line in open(path)]
# Of a way that stands in several files, the row of most episodes.
most_played = {}
for row in rows:
    key = (row["bundle"], row["what"], row.get("task"))
    if row.get("episodes", 0) > most_played.get(key, {}).get("episodes", 0):
        most_played[key] = row
rows = list(most_played.values())
if not rows:
    sys.exit("no row has episodes: run the benchmark with --episodes")
W, PANEL, LEFT, RIGHT, TOP, BOTTOM = 900, 330, 64, 30, 46, 40
COLOURS = ["#0b6e99", "#d9730d", "#ad1a72", "#0f7b6c", "#6940a5", "#64473a"]


def latency(row):
    """Mean over whole answers, ms, skipped ones included."""
    return row["played_compute_ms_per_answer"]


def share(row):
    return row["successes"] / row["episodes"]


def policy(row):
    return row["bundle"].removeprefix("pick-cube-")


def is_beaten(row):
    mine = (share(row), -latency(row))
    others = [(share(other), -latency(other)) for other in rows if other["task"] == row["task"]]
    return any(other[0] >= mine[0] and other[1] >= mine[1] and other != mine for other in others)


most, least = 1.08 * max(map(latency, rows)), min(row["success_low"] for row in rows)
least = max(0.0, int(least * 10) / 10)
tasks, policies = sorted({row["task"] for row in rows}, reverse=True), sorted({policy(row) for row in rows})
out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {len(tasks) * (PANEL + 20)}" font-family="sans-serif" font-size="12">',
    f'<rect width="{W}" height="{len(tasks) * (PANEL + 20)}" fill="white"/>',
]
for panel, task in enumerate(tasks):
    top, bottom = panel * (PANEL + 20) + TOP, panel * (PANEL + 20) + PANEL - BOTTOM

    def x(ms):
        return LEFT + (W - LEFT - RIGHT) * ms / most

    def y(part):
        return bottom - (bottom - top) * (part - least) / (1 - least)

    out.append(f'<text x="{LEFT}" y="{top - 26}" font-weight="bold">{task} task</text>')
    for index, name in enumerate(policies):
        at = LEFT + 150 + 150 * index
        out.append(f'<circle cx="{at}" cy="{top - 30}" r="5" fill="{COLOURS[index % len(COLOURS)]}"/><text x="{at + 10}" y="{top - 26}">{escape(name)}</text>')
    for tenth in range(round(least * 10), 11):
        out.append(f'<path d="M{LEFT} {y(tenth / 10):.1f}H{W - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(tenth / 10) + 4:.1f}" text-anchor="end">{tenth * 10} %</text>')
    for tick in range(5):
        out.append(f'<text x="{x(most * tick / 4):.1f}" y="{bottom + 18}" text-anchor="middle">{most * tick / 4:.0f}</text>')
    out.append(f'<text x="{W / 2}" y="{bottom + 34}" text-anchor="middle">computation an answer, ms</text>')
    for row in sorted((row for row in rows if row["task"] == task), key=latency):
        colour, at = COLOURS[policies.index(policy(row)) % len(COLOURS)], x(latency(row))
        beaten = is_beaten(row)
        out.append(f'<path d="M{at:.1f} {y(row["success_low"]):.1f}V{y(row["success_high"]):.1f}" stroke="{colour}" stroke-opacity="0.35"/>')
        out.append(f'<circle cx="{at:.1f}" cy="{y(share(row)):.1f}" r="4.5" stroke="{colour}" stroke-width="2" fill="{"white" if beaten else colour}">'
                   f'<title>{escape(policy(row))}: {escape(row["what"])}, {row["successes"]} of {row["episodes"]}</title></circle>')
        if not beaten or row["what"] == "plain":
            out.append(f'<text x="{at + 8:.1f}" y="{y(share(row)) + (22 if row["what"] == "plain" else -10):.1f}" font-size="10" fill="{colour}">{escape(row["what"])}</text>')
out.append("</svg>")
open(sys.argv[-1], "w").write("\n".join(out) + "\n")
