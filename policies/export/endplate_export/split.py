"""Adds the two halves of the decoder to a bundle of a token family, from the weights that the bundle holds already.

``endplate-split --bundle FOLDER --rows K --split-ms A,B1,BK`` writes

- ``decode_a.onnx``: the layers up to ``model.exit_layer``. ``x`` [1, 1, d] -> ``hidden`` [1, 1, d] behind them, ``logits``
  [1, 1, V] of the auxiliary head there, and their keys and values;
- ``decode_b_k1.onnx`` and ``decode_b_kK.onnx``: the layers behind it. ``hidden`` [1, K, d] -> ``logits`` [1, K, V] and their
  keys and values;

lists them in ``policy.toml`` and declares them under ``[decoding]``. The auxiliary head is the exit norm before the output
table, as in training; both lie in the weights file, which does not change. Thresholds of the bundle stay: none of
them is of these graphs. The same bundle and K give the same bytes. Only for f32 bundles: the graphs name ranges of an f16 weights file.
"""

import argparse
import math
import sys
import tomllib
from pathlib import Path

from onnx import ModelProto, TensorProto

from .block import write_graph
from .graphs import WEIGHTS, Graph, Shape, Weights, _attention, _Rotary, _swiglu

SHALLOW = "decode_a.onnx"


class SplitError(Exception):
    """What cannot be done, and the remedy."""


def half(weights: Weights, shape: Shape, layers: range, rows: int) -> ModelProto:
    """The decoder's ``layers`` over ``rows`` new rows and a slab: from the first layer with a head for what comes out, which is
    handed on as ``hidden``, or to the last with the final head."""
    hd = shape.head_dim
    is_first = layers.start == 0
    g = Graph("decode_a" if is_first else f"decode_b_k{rows}", weights)
    x = g.input("x" if is_first else "hidden", [1, rows, shape.width])
    g.input("positions", [1, rows], TensorProto.INT64)
    g.input("mask", [1, 1, rows, shape.slab + rows])
    for layer in layers:
        for kind in "kv":
            g.input(f"past_{kind}_{layer}", [1, shape.kv_heads, shape.slab, hd])
    rotary = _Rotary(g, shape, rows)
    mask = g.op("Unsqueeze", "mask", g.ints(2))
    for layer in layers:
        name = f"layers.{layer}."
        h = g.norm(x, name + "attention_norm")
        k = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "k")), shape.kv_heads), out=f"new_k_{layer}")
        v = rotary.heads(g.op("MatMul", h, g.weight(name + "v")), shape.kv_heads, out=f"new_v_{layer}")
        g.output(k, [1, shape.kv_heads, rows, hd])
        g.output(v, [1, shape.kv_heads, rows, hd])
        q = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "q")), shape.heads))
        keys, values = g.op("Concat", f"past_k_{layer}", k, axis=2), g.op("Concat", f"past_v_{layer}", v, axis=2)
        x = _swiglu(g, _attention(g, shape, x, name, q, keys, values, mask, rows), name)
    if is_first:
        x = g.op("Identity", x, out="hidden")
        g.output(x, [1, rows, shape.width])
    g.op("MatMul", g.norm(x, "exit_norm" if is_first else "final_norm"), g.weight("head"), out="logits")
    g.output("logits", [1, rows, shape.vocabulary])
    return g.model()


def add_split(bundle: Path, rows: int, split_ms: tuple[float, float, float]) -> list[str]:
    """Writes the graphs and the new ``policy.toml``; returns the graphs' names."""
    text = (bundle / "policy.toml").read_text(encoding="utf-8")
    policy = tomllib.loads(text)
    if "decoding" not in policy:
        raise SplitError(f"{bundle}: family {policy['family']} has no tokens")
    if "split" in policy["decoding"]:
        raise SplitError(f"{bundle}: [decoding] declares a split already")
    if policy["precision"] != "f32":
        raise SplitError(f"{bundle}: is of precision {policy['precision']}: split the f32 bundle and quantise that")
    if rows < 2:
        raise SplitError(f"--rows {rows}: write 2 or more")
    if not all(math.isfinite(ms) and ms >= 0 for ms in split_ms):
        raise SplitError(f"--split-ms {split_ms}: write milliseconds of 0 or more")
    m = policy["model"]
    if not 0 < m["exit_layer"] < m["layers"]:
        raise SplitError(f"{bundle}: model.exit_layer {m['exit_layer']} of {m['layers']} layers leaves nothing to split")
    weights = Weights(bundle / WEIGHTS)
    missing = {"exit_norm", "head"} - weights.values.keys()
    if missing:
        raise SplitError(f"{bundle}: {WEIGHTS} has no {', '.join(sorted(missing))}: the auxiliary head was not trained or not kept")
    shape = Shape.of(policy, weights)
    shallow, deep = range(m["exit_layer"]), range(m["exit_layer"], m["layers"])
    models = {SHALLOW: half(weights, shape, shallow, 1)} | {f"decode_b_k{k}.onnx": half(weights, shape, deep, k) for k in (1, rows)}
    listed = [write_graph(bundle, name, model) for name, model in models.items()]
    lines = []
    for line in text.splitlines():
        if line.startswith(('"decode_k1.onnx" = ', '"decode.onnx" = ')):
            lines += listed
        lines.append(line)
        if line.startswith("strategy = "):
            lines += [f"split = {rows}", f"split_ms = [{', '.join(repr(float(ms)) for ms in split_ms)}]"]
    (bundle / "policy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(models)


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when something is refused."""
    parser = argparse.ArgumentParser(prog="endplate-split", description="Adds the two halves of the decoder to a bundle.")
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=8, help="rows of the deep half's pass (default 8)")
    parser.add_argument("--split-ms", required=True, metavar="A,B1,BK", help="what the cost model charges for a pass of the shallow half, and of the deep half over one row and over all")
    args = parser.parse_args(argv)
    try:
        split_ms = tuple(float(ms) for ms in args.split_ms.split(","))
        if len(split_ms) != 3:
            raise ValueError("three numbers")
    except ValueError:
        print(f"endplate-split: --split-ms {args.split_ms}: write three numbers of milliseconds, separated by commas", file=sys.stderr)
        return 2
    try:
        for name in add_split(args.bundle, args.rows, split_ms):
            print(f"wrote {args.bundle / name}")
    except (SplitError, OSError) as error:
        print(f"endplate-split: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
