"""How much the auxiliary head knows: what it says after each layer against what the whole decoder says.

``python -m endplate_export.exits --bundle FOLDER`` plays the bundle's golden samples, shifted, dimmed and with noise (seed 0),
and asks the auxiliary head at every token after each layer below the last: it was trained after ``model.exit_layer`` alone.
Agreement by layer, by confidence (the gap between the two likeliest tokens), and where the heads after two layers agree
with each other (the criterion of DeeR, Yue et al., arXiv 2411.02359, which compares consecutive exits). Then the processor
time of a pass of each decoder graph, one thread, median of 300: what guesses of the shallow half can be worth at most.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from .graphs import WEIGHTS, Shape, Weights
from .player import Player
from .split import half


def said(logits: np.ndarray) -> tuple[int, float]:
    """The likeliest id, and its probability less that of the next."""
    p = np.exp(logits - logits.max())
    order = np.argsort(p)[::-1]
    return int(order[0]), float((p[order[0]] - p[order[1]]) / p.sum())


def compared(bundle: Path, variants: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of the whole decoder [n], and of the head after layers 1..L-1 [n, L-1] with their confidences."""
    player = Player(bundle, keep_feeds=True)
    m, weights = player.spec["model"], Weights(bundle / WEIGHTS)
    shape = Shape.of(player.spec, weights)
    sessions = []
    for layers in range(1, m["layers"]):
        path = bundle / f"exits-{layers}.onnx.tmp"
        try:
            path.write_bytes(half(weights, shape, range(layers), 1).SerializeToString())
            sessions.append(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))
        finally:
            path.unlink(missing_ok=True)
    golden, rng = np.load(bundle / "golden.npz"), np.random.default_rng(0)
    whole, tokens, confidences = [], [], []
    for variant in range(variants):
        number = variant % 2
        images = np.roll(golden[f"images_{number}"].astype(np.float32), rng.integers(-4, 5, 2), (1, 2)) * rng.uniform(0.85, 1.15)
        images = np.clip(images + rng.normal(0, 3, images.shape), 0, 255).astype(np.uint8)
        played = player.play({"images": images, "state": golden[f"state_{number}"], "text_ids": golden[f"text_ids_{number}"]})
        for feed, best in zip(played.feeds.get("decode_k1", []), played.best[1:]):
            each = []
            for session in sessions:
                logits = session.run(["logits"], {i.name: feed[i.name] for i in session.get_inputs()})[0]
                each.append(said(logits.reshape(-1)[m["action_offset"] :]))
            whole.append(best)
            tokens.append([token for token, _ in each])
            confidences.append([confidence for _, confidence in each])
    return np.array(whole), np.array(tokens), np.array(confidences)


def pass_ms(path: Path, runs: int = 300) -> float:
    """Processor time of a pass over zeros, median, ms: what other work on the machine takes is not in it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {i.name: np.zeros(i.shape, np.int64 if "int64" in i.type else np.float32) for i in session.get_inputs()}
    spans = []
    for _ in range(runs):
        start = time.process_time()
        session.run(None, feed)
        spans.append(1000 * (time.process_time() - start))
    return float(np.median(spans))


def main(argv=None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="endplate_export.exits", description="Agreement of the auxiliary head by layer.")
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--variants", type=int, default=40, help="observations (default 40)")
    args = parser.parse_args(argv)
    whole, tokens, confidences = compared(args.bundle, args.variants)
    right = tokens == whole[:, None]
    for layer in range(tokens.shape[1]):
        print(f"after layer {layer + 1}: {right[:, layer].mean():.3f} of {len(whole)} tokens are the decoder's")
    for layer in range(1, tokens.shape[1]):
        same = tokens[:, layer] == tokens[:, layer - 1]
        print(f"layers {layer} and {layer + 1} say the same of {same.mean():.3f}, and of those layer {layer + 1} is right about {right[same, layer].mean():.3f}")
    for layer in range(tokens.shape[1]):
        for share in (0.1, 0.25, 0.5):
            sure = confidences[:, layer] >= np.quantile(confidences[:, layer], 1 - share)
            print(f"after layer {layer + 1}, the surest {share:.2f} (above {confidences[sure, layer].min():.3f}): right about {right[sure, layer].mean():.3f}")
    for path in sorted(args.bundle.glob("decode_*.onnx")):
        print(f"a pass of {path.name}: {pass_ms(path):.3f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
