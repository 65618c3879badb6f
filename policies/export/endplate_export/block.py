"""Adds a decoder graph of several rows to a bundle of a token family, from the weights that the bundle holds already.

``endplate-block --bundle FOLDER --block-ms MS [--rows K]`` writes ``decode_kK.onnx``, lists it in ``policy.toml`` and
declares it under ``[decoding]``. ``endplate-block --bundle FOLDER --dynamic`` puts one graph, ``decode.onnx``, of any number
of rows in the place of ``decode_k1.onnx``, ``decode_kK.onnx`` and ``prefill.onnx`` (kept with ``--keep-prefill``), so that a
GPU holds the decoder's weights once; it must give what they give. Thresholds of the bundle are dropped, nothing else changes;
the same bundle and K give the same bytes. A quantised bundle has these graphs from the f32 bundle that it is made from:
``endplate-export quantise`` quantises every graph.
"""

import argparse
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from .graphs import WEIGHTS, Shape, Weights, decoder
from .data import file_digest

THRESHOLDS = "thresholds.toml"
DYNAMIC, IN_PLACE, PREFILL = "decode.onnx", "decode_gqa.onnx", "prefill.onnx"
#: Largest difference between the graph of any number of rows and one of a fixed number, beside which rounding differs.
TOLERANCE = 1e-3
MASKED = -1e4


class BlockError(Exception):
    """What cannot be done, and the remedy."""


def open_bundle(bundle: Path) -> tuple[str, dict, Weights, Shape]:
    """Text and contents of ``policy.toml``, the weights and the sizes of the graphs."""
    text = (bundle / "policy.toml").read_text(encoding="utf-8")
    policy = tomllib.loads(text)
    if "decoding" not in policy:
        raise BlockError(f"{bundle}: family {policy['family']} has no tokens")
    if "rows" in policy["decoding"]:
        raise BlockError(f"{bundle}: [decoding] declares {DYNAMIC} already, of rows {policy['decoding']['rows']}")
    if policy["precision"] != "f32":
        raise BlockError(f"{bundle}: is of precision {policy['precision']}: add the graph to the f32 bundle and quantise that")
    weights = Weights(bundle / WEIGHTS)
    if "layers.0.q" not in weights.values:
        raise BlockError(f"{bundle / WEIGHTS}: holds no layers.0.q: the decoder was not written by endplate-bundle, and its graphs cannot be written anew")
    return text, policy, weights, Shape.of(policy, weights)


def write_graph(bundle: Path, name: str, model: onnx.ModelProto) -> str:
    """Writes a graph, checked; returns its line in ``[files]``."""
    (bundle / name).write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(bundle / name), full_check=True)
    return f'"{name}" = "{file_digest(bundle / name)}"'


def add_block(bundle: Path, rows: int, block_ms: float) -> str:
    """Writes the graph and the new ``policy.toml``; returns the graph's name."""
    text, policy, weights, shape = open_bundle(bundle)
    if "block" in policy["decoding"]:
        raise BlockError(f"{bundle}: [decoding] declares a block already")
    name = f"decode_k{rows}.onnx"
    listed = write_graph(bundle, name, decoder(weights, shape, rows, shape.slab))
    lines = []
    # Thresholds are of the graphs they were fitted on.
    (bundle / THRESHOLDS).unlink(missing_ok=True)
    for line in text.splitlines():
        if line.startswith(f'"{THRESHOLDS}" = '):
            continue
        lines.append(line)
        if line.startswith('"decode_k1.onnx" = '):
            lines.append(listed)
        if line.startswith("strategy = "):
            lines += [f"block = {rows}", f"block_ms = {block_ms!r}"]
    (bundle / "policy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def make_dynamic(bundle: Path, keep_prefill: bool = False) -> list[str]:
    """Puts ``decode.onnx`` in the place of the graphs it can do; returns what was compared, a line each. Refuses, and leaves
    the bundle as it was, where the answers differ."""
    text, policy, weights, shape = open_bundle(bundle)
    if IN_PLACE in policy["files"]:
        raise BlockError(f"{bundle}: {IN_PLACE} is a decoder of one row beside it, with the weights once more: start from a bundle without")
    fixed = {1: "decode_k1.onnx"}
    if "block" in policy["decoding"]:
        fixed[policy["decoding"]["block"]] = f"decode_k{policy['decoding']['block']}.onnx"
    if not keep_prefill:
        if shape.prefix in fixed:
            raise BlockError(f"{bundle}: the block has as many rows as the prefix ({shape.prefix}), and one cannot be told from the other: add --keep-prefill")
        fixed[shape.prefix] = PREFILL
    if len(fixed) == 1:
        raise BlockError(f"{bundle}: without a block and with --keep-prefill only one row is ever run, which {fixed[1]} does")
    listed = write_graph(bundle, DYNAMIC, decoder(weights, shape, None, shape.slab))
    report = []
    try:
        for rows, name in sorted(fixed.items()):
            largest = difference(bundle, shape, rows, name)
            report.append(f"{rows} rows against {name} in ONNX Runtime {onnxruntime.__version__}: logits apart by {largest['logits']:.1e}, keys and values by {largest['kv']:.1e}")
            if not max(largest.values()) <= TOLERANCE:
                raise BlockError(f"{bundle}: {DYNAMIC} differs from {name}, and at most {TOLERANCE} is allowed: {report[-1]}")
    except BlockError:
        (bundle / DYNAMIC).unlink()
        raise
    gone = (*fixed.values(), THRESHOLDS)
    lines = []
    for line in text.splitlines():
        if line.startswith('"decode_k1.onnx" = '):
            lines.append(listed)
        if not line.startswith(tuple(f'"{name}" = ' for name in gone)):
            lines.append(line)
        if line.startswith("strategy = "):
            lines.append(f"rows = {sorted(fixed)}")
    for name in gone:
        (bundle / name).unlink(missing_ok=True)
    (bundle / "policy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return report


def difference(bundle: Path, shape: Shape, rows: int, fixed: str) -> dict[str, float]:
    """Largest difference of logits and of keys and values between ``decode.onnx`` and a graph of fixed rows, on noise: behind a
    part of the slab and causal, or for ``prefill.onnx`` with nothing before and everything seeing everything but padding."""
    one, other = (onnxruntime.InferenceSession(bundle / name, providers=["CPUExecutionProvider"]) for name in (DYNAMIC, fixed))
    rng = np.random.default_rng(rows)
    kv = [f"{kind}_{layer}" for layer in range(shape.layers) for kind in "kv"]
    used = 0 if fixed == PREFILL else shape.prefix
    past = {f"past_{name}": np.zeros((1, shape.kv_heads, shape.slab, shape.head_dim), np.float32) for name in kv}
    for tensor in past.values():
        tensor[:, :, :used] = rng.standard_normal((1, shape.kv_heads, used, shape.head_dim))
    mask = np.full((1, 1, rows, shape.slab + rows), MASKED, np.float32)
    mask[..., : used] = 0
    own = mask[..., shape.slab :]
    if fixed == PREFILL:
        own[...] = 0
        own[..., shape.visual_tokens : shape.visual_tokens + (rows - shape.visual_tokens) // 2] = MASKED
    else:
        own[...] = np.triu(np.full((rows, rows), MASKED, np.float32), 1)
    feed = {"x": rng.standard_normal((1, rows, shape.width)).astype(np.float32), "positions": used + np.arange(rows)[None]}
    names = ["logits", *(f"new_{name}" for name in kv)]
    got = one.run(names, {**feed, "mask": mask, **past})
    expected = other.run(names, {**feed, "mask": np.ascontiguousarray(own)} if fixed == PREFILL else {**feed, "mask": mask, **past})
    apart = [float(np.abs(a[:, -b.shape[1] :] - b).max()) for a, b in zip(got, expected)]
    return {"logits": apart[0], "kv": max(apart[1:])}


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when something is refused."""
    parser = argparse.ArgumentParser(prog="endplate-block", description="Adds a decoder graph of several rows, or of any number, to a bundle.")
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--block-ms", type=float, help="what the cost model charges for a pass of a block")
    parser.add_argument("--dynamic", action="store_true", help=f"one graph of any number of rows, {DYNAMIC}, in the place of those of fixed rows; with --block-ms after adding the block")
    parser.add_argument("--keep-prefill", action="store_true", help=f"with --dynamic: leave the prefix to {PREFILL}")
    args = parser.parse_args(argv)
    if args.block_ms is None and not args.dynamic:
        parser.error("--block-ms is required (or --dynamic)")
    if args.keep_prefill and not args.dynamic:
        parser.error("--keep-prefill is about --dynamic")
    try:
        if args.block_ms is not None:
            print(f"wrote {args.bundle / add_block(args.bundle, args.rows, args.block_ms)}")
        if args.dynamic:
            print("\n".join([*make_dynamic(args.bundle, args.keep_prefill), f"wrote {args.bundle / DYNAMIC}"]))
    except (BlockError, OSError) as error:
        print(f"endplate-block: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
