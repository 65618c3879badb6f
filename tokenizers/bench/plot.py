"""The anytime plot from the rows of the benchmark.

    endplate bench tokenizer --json rows.jsonl
    python tokenizers/bench/plot.py rows.jsonl tokenizers/docs/anytime.svg
"""

import json
import math
import sys

rows = [json.loads(line) for line in open(sys.argv[1])]
rows = [row for row in rows if row["what"] == "anytime"]
W, H, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 150, 20, 48
LOW, HIGH = -2.5, 1.5  # powers of ten


def x(percent):
    return LEFT + (W - LEFT - RIGHT) * percent / 100


def y(value):
    return TOP + (H - TOP - BOTTOM) * (HIGH - math.log10(value)) / (HIGH - LOW)


out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
    f'<rect width="{W}" height="{H}" fill="white"/>',
]
for power in range(-2, 2):
    at = y(10**power)
    out.append(f'<path d="M{LEFT} {at:.1f}H{W - RIGHT}" stroke="#ddd"/>')
    out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
for percent in range(0, 101, 20):
    out.append(f'<text x="{x(percent):.1f}" y="{H - BOTTOM + 18}" text-anchor="middle">{percent} %</text>')
out.append(f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 8}" text-anchor="middle">share of the tokens</text>')
out.append(
    f'<text transform="translate(14 {H / 2}) rotate(-90)" text-anchor="middle">error, normalised units (range is 2)</text>'
)
series = [
    ("rmse_normalised", "RMSE", "#0b6e99"),
    ("rmse_p99_normalised", "RMSE, p99 chunk", "#d9730d"),
    ("error_max_normalised", "largest error", "#ad1a72"),
    ("bound_max_normalised", "stated bound", "#666"),
]
for index, (key, name, colour) in enumerate(series):
    points = " ".join(f"{x(row['tokens_percent']):.1f},{y(row[key]):.1f}" for row in rows if row[key] > 0)
    dash = ' stroke-dasharray="5 4"' if "bound" in key else ""
    out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    at = TOP + 20 + 20 * index
    out.append(f'<path d="M{W - RIGHT + 8} {at}h20" stroke="{colour}" stroke-width="2"{dash}/>')
    out.append(f'<text x="{W - RIGHT + 34}" y="{at + 4}">{name}</text>')
out.append("</svg>")
open(sys.argv[2], "w").write("\n".join(out) + "\n")
