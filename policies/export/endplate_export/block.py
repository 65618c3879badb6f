"""Adds a decoder graph of several rows to a bundle of a token family, from the weights that the bundle holds already.

``endplate-block --bundle FOLDER --block-ms MS [--rows K]`` writes ``decode_kK.onnx``, lists it in ``policy.toml`` and
declares it under ``[decoding]``. Thresholds of the bundle are dropped, nothing else changes; the same bundle and K give the
same bytes. A quantised bundle has its block from the f32 bundle that it is made from: ``endplate-export quantise`` quantises every graph.
"""

import argparse
import sys
import tomllib
from pathlib import Path

import onnx

from .graphs import WEIGHTS, Shape, Weights, decoder
from .data import file_digest

THRESHOLDS = "thresholds.toml"


class BlockError(Exception):
    """What cannot be done, and the remedy."""


def add_block(bundle: Path, rows: int, block_ms: float) -> str:
    """Writes the graph and the new ``policy.toml``; returns the graph's name."""
    text = (bundle / "policy.toml").read_text(encoding="utf-8")
    policy = tomllib.loads(text)
    if "decoding" not in policy:
        raise BlockError(f"{bundle}: family {policy['family']} has no tokens")
    if "block" in policy["decoding"]:
        raise BlockError(f"{bundle}: [decoding] declares a block already")
    if policy["precision"] != "f32":
        raise BlockError(f"{bundle}: is of precision {policy['precision']}: add the block to the f32 bundle and quantise that")
    m = policy["model"]
    weights = Weights(bundle / WEIGHTS)
    heads = weights.values["layers.0.q"].shape[1] // m["head_dim"]
    shape = Shape(m["width"], m["layers"], heads, m["kv_heads"], m["head_dim"], m["visual_tokens"], m["prefix"], m["slab"], m["vocabulary"])
    model = decoder(weights, shape, rows, shape.slab)
    name = f"decode_k{rows}.onnx"
    (bundle / name).write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(bundle / name), full_check=True)
    lines = []
    # Thresholds are of the graphs they were fitted on.
    (bundle / THRESHOLDS).unlink(missing_ok=True)
    for line in text.splitlines():
        if line.startswith(f'"{THRESHOLDS}" = '):
            continue
        lines.append(line)
        if line.startswith('"decode_k1.onnx" = '):
            lines.append(f'"{name}" = "{file_digest(bundle / name)}"')
        if line.startswith("strategy = "):
            lines += [f"block = {rows}", f"block_ms = {block_ms!r}"]
    (bundle / "policy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when something is refused."""
    parser = argparse.ArgumentParser(prog="endplate-block", description="Adds a decoder graph of several rows to a bundle.")
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--block-ms", required=True, type=float, help="what the cost model charges for a pass")
    args = parser.parse_args(argv)
    try:
        print(f"wrote {args.bundle / add_block(args.bundle, args.rows, args.block_ms)}")
    except (BlockError, OSError) as error:
        print(f"endplate-block: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
