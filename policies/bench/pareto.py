"""Success against latency, from the rows of the benchmark.

    endplate bench acceleration --recording run.mcap --episodes 200 --resume episodes.jsonl --json rows.jsonl
    python policies/bench/pareto.py rows.jsonl policies/docs/pareto.svg

A way of answering that no other beats in both is filled; bars are 95 % Wilson intervals. Rows without episodes are left out.
"""

import json
import sys

rows = [json.loads(line) for path in sys.argv[1:-1] for line in open(path)]
rows = [row for row in rows if row.get("episodes")]
if not rows:
    sys.exit("no row has episodes: run the benchmark with --episodes")
W, H, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 230, 20, 52
COLOURS = ["#0b6e99", "#d9730d", "#ad1a72", "#0f7b6c", "#666", "#6940a5", "#e03e3e", "#64473a"]


def latency(row):
    """Mean over whole answers, ms, skipped ones included."""
    return row["played_compute_ms_per_answer"]


most = 1.1 * max(latency(row) for row in rows)


def x(ms):
    return LEFT + (W - LEFT - RIGHT) * ms / most


def y(share):
    return TOP + (H - TOP - BOTTOM) * (1 - share)


def is_beaten(row):
    share = row["successes"] / row["episodes"]
    return any(
        other["task"] == row["task"] and other["successes"] / other["episodes"] >= share and latency(other) <= latency(row)
        and (other["successes"] / other["episodes"], -latency(other)) != (share, -latency(row))
        for other in rows
    )


out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
    f'<rect width="{W}" height="{H}" fill="white"/>',
]
for percent in range(0, 101, 20):
    at = y(percent / 100)
    out.append(f'<path d="M{LEFT} {at:.1f}H{W - RIGHT}" stroke="#ddd"/>')
    out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{percent} %</text>')
for tick in range(5):
    ms = most * tick / 4
    out.append(f'<text x="{x(ms):.1f}" y="{H - BOTTOM + 18}" text-anchor="middle">{ms:.0f}</text>')
out.append(f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 12}" text-anchor="middle">computation an answer, ms</text>')
out.append(f'<text transform="translate(14 {H / 2}) rotate(-90)" text-anchor="middle">success</text>')
for index, row in enumerate(rows):
    colour, at = COLOURS[index % len(COLOURS)], x(latency(row))
    share = row["successes"] / row["episodes"]
    fill = "white" if is_beaten(row) else colour
    low, high = y(row["success_low"]), y(row["success_high"])
    out.append(f'<path d="M{at:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-opacity="0.5"/>')
    out.append(f'<circle cx="{at:.1f}" cy="{y(share):.1f}" r="5" stroke="{colour}" stroke-width="2" fill="{fill}"/>')
    line = TOP + 14 + 18 * index
    name = f"{row['bundle'].removeprefix('pick-cube-')}, {row['task']}: {row['what']} (n = {row['episodes']})"
    out.append(f'<circle cx="{W - RIGHT + 12}" cy="{line}" r="5" stroke="{colour}" stroke-width="2" fill="{fill}"/>')
    out.append(f'<text x="{W - RIGHT + 22}" y="{line + 4}" font-size="9">{name}</text>')
out.append("</svg>")
open(sys.argv[-1], "w").write("\n".join(out) + "\n")
