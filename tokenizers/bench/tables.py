"""The tables of the crate's README from the rows of the benchmark.

    endplate bench tokenizer --peer PYTHON --fast-plus DIR --json rows.jsonl
    python tokenizers/bench/tables.py rows.jsonl
"""

import json
import sys

rows = [json.loads(line) for line in open(sys.argv[1])]
us = lambda ns: f"{ns / 1000:.2f}" if ns < 1e4 else f"{ns / 1000:.0f}"
print("| chunks | tokens | non-zero | call | ours p50 / p99, µs | third-party p50 / p99, µs | ratio of medians (95 %) | of p99 |")
print("|---|---|---|---|---|---|---|---|")
for row in (row for row in rows if row["what"] != "anytime"):
    ours = f"{us(row['ours_p50_ns'])} / {us(row['ours_p99_ns'])}"
    theirs, ratio, p99 = "not measured", "not measured", "not measured"
    if "ratio" in row:
        theirs = f"{us(row['peer_p50_ns'])} / {us(row['peer_p99_ns'])}"
        ratio = f"**{row['ratio']:.0f}×** ({row['ratio_ci95'][0]:.0f}–{row['ratio_ci95'][1]:.0f})"
        p99 = f"{row['ratio_of_p99']:.0f}×"
    share = f"{100 * row['non_zero_share']:.0f} %"
    what = row["what"].replace("push_all_then_finish", "push each id, finish")
    print(f"| {row['chunks']} | {row['tokens_mean']:.1f} | {share} | {what} | {ours} | {theirs} | {ratio} | {p99} |")
first = rows[0]
print(f"\n{first['machine']}; {first['build']}; clock {first['clock']}; {first['windows']} windows of "
      f"{first['calls_per_window']} calls a side; peer: {first.get('peer', 'not measured')}.")
print("\n| tokens | frequencies | RMSE | RMSE of the p99 chunk | largest error | largest stated bound |\n|---|---|---|---|---|---|")
for row in (row for row in rows if row["what"] == "anytime"):
    numbers = " | ".join(f"{row[key]:.3g}" for key in (
        "rmse_normalised", "rmse_p99_normalised", "error_max_normalised", "bound_max_normalised"))
    print(f"| {row['tokens_percent']} % | {100 * row['frequencies_share']:.0f} % | {numbers} |")
