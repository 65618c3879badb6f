"""Success against latency: reads `endplate evaluate … --json FILE`, prints a table, writes an SVG. Standard library only.

Usage: python runtime/bench/plot_latency.py REPORT.json[,REPORT.json…] TASK OUT.svg
"""

import json
import sys

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#7a5c2e"]
W, H, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 400, 40, 310

reports, task, out = sys.argv[1:4]
rows = []
for report in reports.split(","):
    with open(report, encoding="utf-8") as file:
        rows += [row for row in json.load(file)["rows"] if row["setting"]["task"] == task and row["episodes"]]
if not rows:
    sys.exit(f"{reports}: no rows of the task {task}")
series, cells = {}, {}
for row in rows:
    setting = row["setting"]
    if not setting["latency"].endswith("ms"):
        sys.exit(f"latency {setting['latency']}: only fixed latencies in ms can be drawn")
    name = f"{setting['bundle'].removeprefix('pick-cube-')}, {setting.get('handover') or 'own'}"
    point = (float(setting["latency"][:-2]), row["successes"] / row["episodes"], row["success_interval"], row["episodes"])
    series.setdefault(name, []).append(point)
    low, high = row["success_interval"]
    done = f", {row['completion_s']['p50']:.1f} s" if row["completion_s"] else ""
    cells[name, point[0]] = f"{row['successes']} of {row['episodes']} ({low:.0%}–{high:.0%}){done}".replace("%–", "–").replace("%)", " %)")
columns = sorted({latency for _, latency in cells})
print("| |", " | ".join(f"{latency:g} ms" for latency in columns), "|")
print("|---" * (len(columns) + 1) + "|")
for name in series:
    print(f"| {name} |", " | ".join(cells.get((name, latency), "–") for latency in columns), "|")
longest = max(point[0] for points in series.values() for point in points) or 1.0


def x(latency):
    return LEFT + (RIGHT - LEFT) * latency / longest


def y(share):
    return BOTTOM + (TOP - BOTTOM) * share


svg = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
    f'<rect width="{W}" height="{H}" fill="white"/>',
    f'<text x="{LEFT}" y="22">Success against latency, task {task}, {min(p[3] for s in series.values() for p in s)} or more episodes a point, 95 % Wilson</text>',
]
for share in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
    svg.append(f'<path d="M{LEFT} {y(share):.1f}H{RIGHT}" stroke="#ddd"/>')
    svg.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
for latency in sorted({point[0] for points in series.values() for point in points}):
    svg.append(f'<text x="{x(latency):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{latency:g}</text>')
svg.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 38}" text-anchor="middle">latency, ms</text>')
for index, (name, points) in enumerate(series.items()):
    colour = COLOURS[index % len(COLOURS)]
    points.sort()
    shift = (index - len(series) / 2) * 1.5
    line = " ".join(f"{x(p[0]) + shift:.1f},{y(p[1]):.1f}" for p in points)
    svg.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for latency, _, (low, high), _ in points:
        svg.append(f'<path d="M{x(latency) + shift:.1f} {y(low):.1f}V{y(high):.1f}" stroke="{colour}"/>')
    at = TOP + 16 * index + 8
    svg.append(f'<path d="M{RIGHT + 12} {at}h18" stroke="{colour}" stroke-width="2"/>')
    svg.append(f'<text x="{RIGHT + 36}" y="{at + 4}">{name}</text>')
svg.append("</svg>")
with open(out, "w", encoding="utf-8") as file:
    file.write("\n".join(svg) + "\n")
