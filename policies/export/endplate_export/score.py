"""``endplate-score``: how far a bundle's chunks are from the expert's on held-out frames, in ONNX Runtime.

Open loop: it says how well the expert's plan is copied where the expert went, not how often the robot succeeds. All
families are measured on the same frames with the same phrasings.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from . import data as datasets
from .data import HELD_OUT_EVERY, RELATIVE, DatasetError
from .fast import Fast, normalise
from .graphs import WEIGHTS, Shape, Weights
from .replay import BinCodec, FastCodec, FlowReplay, Replay, TokenReplay, observe, ort_runners


def open_bundle(folder: Path) -> tuple[dict, Replay, tuple]:
    """``policy.toml``, the replay and the ONNX Runtime sessions of a bundle folder."""
    toml = tomllib.loads((folder / "policy.toml").read_text(encoding="utf-8"))
    m, rows = toml["model"], toml["chunk"]["horizon"]
    shape = Shape(m["width"], m["layers"], 0, m["kv_heads"], m["head_dim"], m["visual_tokens"], m["prefix"], m.get("slab", m["prefix"]), m["vocabulary"])
    embedding = Weights(folder / WEIGHTS).values["embedding"].astype(np.float32)
    action = {q: np.array([a[q] for a in toml["action"]]) for q in ("q01", "q99")}
    if toml["family"] == "flow":
        replay: Replay = FlowReplay(shape, embedding, action, rows)
    else:
        codec = BinCodec(rows) if toml["family"] == "bins" else FastCodec(Fast.load(folder / "tokenizer"))
        replay = TokenReplay(shape, embedding, action, rows, codec, m["action_offset"])
    return toml, replay, ort_runners(folder, shape.layers)


def score(folder: Path, data: datasets.Dataset, frames: int, committed: int) -> str:
    """One line: mean absolute errors of joints and gripper, and the share of rows whose gripper is on the wrong side."""
    toml, replay, runners = open_bundle(folder)
    tokenizer = Tokenizer.from_file(str(folder / "text" / "tokenizer.json"))
    held_out = np.flatnonzero(data.scene % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
    chosen = held_out[np.random.default_rng(5).permutation(len(held_out))][:frames]
    errors, wrong, refused, gaps = [], [], 0, []
    for number, frame in enumerate(chosen):
        sample = replay.start(observe(data, tokenizer, frame, data.meta["phrases"][number % len(data.meta["phrases"])]), number)
        truth = np.asarray(data.actions[frame], np.float64)
        if committed:
            y = normalise(truth - np.where(RELATIVE, sample.state, 0), replay.action["q01"], replay.action["q99"])[:committed]
            done = replay.run(runners, sample, y.astype(np.float32))
        else:
            done = replay.run(runners, sample)
        if done.actions is None:
            refused += 1
            continue
        error = np.abs(done.actions - truth[: replay.rows])
        errors.append(error[committed:8].mean(0))
        wrong.append((np.sign(done.actions[committed:8, 5]) != np.sign(truth[committed:8, 5])).mean())
        if committed:
            gaps.append(np.abs((done.actions[committed] - truth[committed - 1]) - (truth[committed] - truth[committed - 1]))[:5].mean())
    if not errors:
        return f"{toml['name']}: 0 of {len(chosen)} chunks complete"
    mean = np.mean(errors, 0)
    line = (f"{toml['name']} ({toml['family']}, {toml['precision']}): {len(chosen) - refused} of {len(chosen)} chunks complete; rows {committed}..7 off by "
            f"{1000 * mean[:5].mean():.1f} mrad (arm, p50 {1000 * np.median([e[:5].mean() for e in errors]):.1f}, "
            f"p90 {1000 * np.quantile([e[:5].mean() for e in errors], 0.9):.1f}), {1000 * mean[5]:.1f} mrad (gripper, wrong side in {100 * np.mean(wrong):.1f} % of rows)")
    return line + (f"; first free row off by {1000 * np.mean(gaps):.1f} mrad" if committed else "")


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when the dataset is refused."""
    parser = argparse.ArgumentParser(prog="endplate-score", description="Open-loop error of bundles on held-out frames.")
    parser.add_argument("--bundle", nargs="+", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--committed", type=int, default=0, help="flow: hold this many first rows to the expert's")
    args = parser.parse_args(argv)
    try:
        data = datasets.load(args.data)
    except DatasetError as error:
        print(f"endplate-score: {error}", file=sys.stderr)
        return 2
    for folder in args.bundle:
        print(score(folder, data, args.frames, args.committed), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
