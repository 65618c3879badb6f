"""``decode_gqa.onnx``: a decoder that writes keys and values in place, for ONNX Runtime on the CPU.

    python -m endplate_export.in_place BUNDLE

adds it to a bundle of a token family with f32 graphs; the bundle's digest changes. ``GroupQueryAttention`` is an operator
of ONNX Runtime alone, so the portable ``decode_k1.onnx`` stays beside it. Rotary positions are places in the slab: the
runtime puts the rows of the prefix one behind the other, without the padding between them.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from .data import file_digest
from .graphs import WEIGHTS, Graph, Shape, Weights, _swiglu

GRAPH = "decode_gqa"


def in_place_decoder(weights: Weights, shape: Shape) -> ModelProto:
    """``x`` [1, 1, d], ``rows`` i64 [1] (in use, the new one included), ``past_*`` [1, Hkv, Tmax, hd] -> ``logits``
    [1, 1, V] and ``present_*`` of the same shape, to be bound to the same memory as ``past_*``."""
    g = Graph(GRAPH, weights)
    slab = [1, shape.kv_heads, shape.slab, shape.head_dim]
    x = g.input("x", [1, 1, shape.width])
    g.input("rows", [1], TensorProto.INT64)
    place = g.op("Cast", g.small(np.arange(shape.slab, dtype=np.int64)[:, None]), to=TensorProto.FLOAT)
    angle = g.op("Mul", place, g.weight("rope"))
    cos, sin = g.op("Cos", angle), g.op("Sin", angle)  # [Tmax, hd/2], folded when the graph is loaded
    total = g.op("Cast", g.op("Squeeze", "rows", g.ints(0)), to=TensorProto.INT32)
    before = g.op("Cast", g.op("Sub", "rows", g.ints(1)), to=TensorProto.INT32)
    for layer in range(shape.layers):
        name = f"layers.{layer}."
        past, present = ([f"{side}_{kind}_{layer}" for kind in "kv"] for side in ("past", "present"))
        for tensor in past:
            g.input(tensor, slab)
        h = g.norm(x, name + "attention_norm")
        q, k, v = (g.op("MatMul", h, g.weight(name + part)) for part in "qkv")
        g.nodes.append(helper.make_node(
            "GroupQueryAttention", [q, k, v, *past, before, total, cos, sin], [f"attention_{layer}", *present],
            name=f"GroupQueryAttention_{layer}", domain="com.microsoft",
            num_heads=shape.heads, kv_num_heads=shape.kv_heads, do_rotary=1, rotary_interleaved=0))
        for tensor in present:
            g.output(tensor, slab)
        x = _swiglu(g, g.op("Add", x, g.op("MatMul", f"attention_{layer}", g.weight(name + "out"))), name)
    g.op("MatMul", g.norm(x, "final_norm"), g.weight("head"), out="logits")
    g.output("logits", [1, 1, shape.vocabulary])
    model = g.model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def shape_of(folder: Path, weights: Weights) -> Shape:
    """Sizes from ``policy.toml``; the number of heads from the weights. Raises ValueError for a bundle without them."""
    m = tomllib.loads((folder / "policy.toml").read_text(encoding="utf-8"))["model"]
    if "slab" not in m or "layers.0.q" not in weights.values:
        raise ValueError(f"{folder}: no bundle of a token family with its f32 weights in {WEIGHTS}")
    heads = weights.values["layers.0.q"].shape[1] // m["head_dim"]
    sizes = [m[key] for key in ("kv_heads", "head_dim", "visual_tokens", "prefix", "slab", "vocabulary")]
    return Shape(m["width"], m["layers"], heads, *sizes)


def add(folder: Path) -> None:
    """Adds the graph to a bundle, checked by ``onnx.checker``, and lists its digest."""
    weights = Weights(folder / WEIGHTS)
    model = in_place_decoder(weights, shape_of(folder, weights))
    path = folder / f"{GRAPH}.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))
    file = folder / "policy.toml"
    lines = file.read_text(encoding="utf-8").splitlines()
    # Thresholds are of the graphs they were fitted on.
    lines = [line for line in lines if not line.startswith((f'"{path.name}" = ', '"thresholds.toml" = '))]
    (folder / "thresholds.toml").unlink(missing_ok=True)
    lines.insert(lines.index("[files]") + 1, f'"{path.name}" = "{file_digest(path)}"')
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when the bundle is refused."""
    parser = argparse.ArgumentParser(prog="python -m endplate_export.in_place", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    args = parser.parse_args(argv)
    try:
        add(args.bundle)
    except (KeyError, OSError, ValueError) as error:
        print(f"endplate_export.in_place: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
