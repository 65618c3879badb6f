"""Splits the prefill of a bundle so that later layers see fewer visual tokens, from the weights that the bundle holds.

``endplate-prune --bundle FOLDER --keep 48,36,24 [--layer L] [--prefill-ms MS,…]`` writes

- ``prefill_a.onnx``: the prefix rows → keys and values of the first L layers, the rows behind them, and what the attention
  of layer L gave the visual rows, which the Information Contribution Score (FlashVLA, arXiv 2505.21200) is taken of;
- ``prefill_bN.onnx`` for every N and for all visual tokens: N visual rows and the rows of the prompt, at their original
  positions → keys and values of the other layers and the first logits;
- ``prefill_cN.onnx`` for every N: N visual rows and those of the prompt through all layers, over the keys and values of the
  prefix before (VLA-Cache, arXiv 2502.02175);

lists them in ``policy.toml`` and declares them under ``[pruning]``. Thresholds of the bundle are dropped, nothing else changes;
the same bundle and numbers give the same bytes. A quantised bundle is refused: prune the f32 bundle and quantise that.
"""

import argparse
import math
import sys
import tomllib
from pathlib import Path

from onnx import ModelProto, TensorProto

from .block import THRESHOLDS, write_graph
from .graphs import WEIGHTS, Graph, Shape, Weights, _attended, _past, _Rotary, _swiglu

FAMILIES = ("pi0_fast", "bins", "flow")


class PruneError(Exception):
    """What cannot be done, and the remedy."""


def _layers(g: Graph, shape: Shape, x: str, rows: int, past: int, first: int, end: int, logits: bool) -> tuple[str, str]:
    """Layers ``first`` to ``end`` of the trunk over ``rows`` rows, as ``graphs.decoder`` has them: their keys and values are
    outputs. Behind the last layer only the last row goes on. Returns the rows and what the last attention gave."""
    positions, bias = g.input("positions", [1, rows], TensorProto.INT64), g.input("mask", [1, 1, rows, past + rows])
    if past:
        _past(g, shape, past)
    rotary = _Rotary(g, shape, rows)
    mask = g.op("Unsqueeze", bias, g.ints(2))
    given = positions
    for layer in range(first, end):
        name = f"layers.{layer}."
        h = g.norm(x, name + "attention_norm")
        k = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "k")), shape.kv_heads), out=f"new_k_{layer}")
        v = rotary.heads(g.op("MatMul", h, g.weight(name + "v")), shape.kv_heads, out=f"new_v_{layer}")
        g.output(k, [1, shape.kv_heads, rows, shape.head_dim])
        g.output(v, [1, shape.kv_heads, rows, shape.head_dim])
        last = layer == shape.layers - 1
        if last and not logits:
            break
        q = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "q")), shape.heads))
        kept, seen = rows, mask
        if last:
            kept = 1
            q = g.op("Slice", q, g.ints(rows - 1), g.ints(rows), g.ints(2))
            x = g.op("Slice", x, g.ints(rows - 1), g.ints(rows), g.ints(1))
            seen = g.op("Slice", mask, g.ints(rows - 1), g.ints(rows), g.ints(3))
        keys = g.op("Concat", f"past_k_{layer}", k, axis=2) if past else k
        values = g.op("Concat", f"past_v_{layer}", v, axis=2) if past else v
        given = _attended(g, shape, name, q, keys, values, seen, kept)
        x = _swiglu(g, g.op("Add", x, given), name)
    return x, given


def _head(g: Graph, shape: Shape, x: str) -> None:
    g.op("MatMul", g.norm(x, "final_norm"), g.weight("head"), out="logits")
    g.output("logits", [1, 1, shape.vocabulary])


def first_part(weights: Weights, shape: Shape, layer: int, visual: int) -> ModelProto:
    """``prefill_a``: as ``prefill`` up to layer ``layer`` → ``hidden`` [1, S, d], ``attention`` [1, Nv, d]; visual rows begin at
    ``visual``."""
    g = Graph("prefill_a", weights)
    x = g.input("x", [1, shape.prefix, shape.width])
    x, given = _layers(g, shape, x, shape.prefix, 0, 0, layer, True)
    g.op("Identity", x, out="hidden")
    g.output("hidden", [1, shape.prefix, shape.width])
    g.op("Slice", given, g.ints(visual), g.ints(visual + shape.visual_tokens), g.ints(1), out="attention")
    g.output("attention", [1, shape.visual_tokens, shape.width])
    return g.model()


def second_part(weights: Weights, shape: Shape, layer: int, kept: int, logits: bool) -> ModelProto:
    """``prefill_bN``: ``hidden`` [1, R, d] of N visual and all other rows → the layers behind ``layer``."""
    rows = kept + shape.prefix - shape.visual_tokens
    g = Graph(f"prefill_b{kept}", weights)
    x, _ = _layers(g, shape, g.input("hidden", [1, rows, shape.width]), rows, 0, layer, shape.layers, logits)
    if logits:
        _head(g, shape, x)
    return g.model()


def over_cache(weights: Weights, shape: Shape, kept: int, logits: bool) -> ModelProto:
    """``prefill_cN``: R rows through all layers over S rows of keys and values of the prefix before; mask [1, 1, R, S + R]."""
    rows = kept + shape.prefix - shape.visual_tokens
    g = Graph(f"prefill_c{kept}", weights)
    x, _ = _layers(g, shape, g.input("x", [1, rows, shape.width]), rows, shape.prefix, 0, shape.layers, logits)
    if logits:
        _head(g, shape, x)
    return g.model()


def split(bundle: Path, layer: int, keep: list[int], prefill_ms: list[float] | None) -> list[str]:
    """Writes the graphs and the new ``policy.toml``; returns the graphs' names."""
    text = (bundle / "policy.toml").read_text(encoding="utf-8")
    policy = tomllib.loads(text)
    if policy["family"] not in FAMILIES or "answer" in policy:
        raise PruneError(f"{bundle}: family {policy['family']} of this checkpoint has no trunk that this script knows: {', '.join(FAMILIES)} of endplate-train have")
    if "pruning" in policy:
        raise PruneError(f"{bundle}: [pruning] is declared already")
    if policy["precision"] != "f32":
        raise PruneError(f"{bundle}: is of precision {policy['precision']}: prune the f32 bundle and quantise that")
    if "prefill.onnx" not in policy["files"]:
        raise PruneError(f"{bundle}: has one graph for prefix and tokens: prune the bundle of which it was made")
    m = policy["model"]
    visual = m["visual_tokens"]
    if not 1 <= layer < m["layers"]:
        raise PruneError(f"--layer {layer}: write 1 to {m['layers'] - 1}: a layer must be left that sees fewer")
    weights = Weights(bundle / WEIGHTS)
    patches = weights.values[f"vision.{policy['cameras'][0]['name']}.position"].shape[0]
    free = visual - patches * len(policy["cameras"])
    if len(set(keep)) != len(keep) or not all(free < n < visual for n in keep):
        raise PruneError(f"--keep {','.join(map(str, keep))}: write different numbers of visual tokens from {free + 1} to {visual - 1}: {free} are of no patch and always kept")
    keep = [visual, *sorted(keep, reverse=True)]
    whole_ms = policy["budget"]["prefill_ms"]
    if prefill_ms is None:
        # Later layers by their rows; the last one computes keys and values alone.
        share = (m["layers"] - layer - 0.6) / (m["layers"] - 0.6)
        prefill_ms = [round(whole_ms * (1 - share + share * (n + m["prefix"] - visual) / m["prefix"]), 3) for n in keep[1:]]
    if len(prefill_ms) != len(keep) - 1:
        raise PruneError(f"--prefill-ms: {len(prefill_ms)} costs for {len(keep) - 1} numbers of tokens")
    shape = Shape.of(policy, weights)
    logits = policy["family"] != "flow"
    models = {"prefill_a.onnx": first_part(weights, shape, layer, 0)}
    models |= {f"prefill_b{n}.onnx": second_part(weights, shape, layer, n, logits) for n in keep}
    models |= {f"prefill_c{n}.onnx": over_cache(weights, shape, n, logits) for n in keep[1:]}
    listed = [write_graph(bundle, name, model) for name, model in models.items()]
    lines = []
    # Thresholds are of the graphs they were fitted on.
    (bundle / THRESHOLDS).unlink(missing_ok=True)
    for line in text.splitlines():
        if line.startswith(f'"{THRESHOLDS}" = '):
            continue
        lines.append(line)
        if line.startswith('"prefill.onnx" = '):
            lines += listed
    lines += ["", "[pruning]", f"layer = {layer}", f"grid = {math.isqrt(patches)}", f"keep = {keep}",
              f"prefill_ms = {[whole_ms, *prefill_ms]}", f'prefill = "{policy["files"]["prefill.onnx"]}"']
    (bundle / "policy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(models)


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when something is refused."""
    parser = argparse.ArgumentParser(prog="endplate-prune", description="Splits the prefill of a bundle so that later layers see fewer visual tokens.")
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--layer", type=int, default=2, help="layers that see everything")
    parser.add_argument("--keep", required=True, help="visual tokens that the others see, several with commas between")
    parser.add_argument("--prefill-ms", help="what the cost model charges for the prefix with so many; without it, by rows")
    args = parser.parse_args(argv)
    try:
        costs = None if args.prefill_ms is None else [float(ms) for ms in args.prefill_ms.split(",")]
        for name in split(args.bundle, args.layer, [int(n) for n in args.keep.split(",")], costs):
            print(f"wrote {args.bundle / name}")
    except (PruneError, OSError, ValueError) as error:
        print(f"endplate-prune: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
