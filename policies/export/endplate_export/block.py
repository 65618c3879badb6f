"""Adds a decoder graph of several rows to a bundle of a token family, from the weights that the bundle holds already.

``endplate-block --bundle FOLDER [--rows K] [--source FOLDER]`` writes ``decode_kK.onnx``, lists it in ``policy.toml`` and
declares it under ``[decoding]``. Nothing else changes; the same bundle and K give the same bytes. An int8 bundle holds no
f32 decoder weights: ``--source`` is the f32 bundle that it was quantised from, and every tensor the quantised graph needs
must be found in the bundle's ``weights.bin``.
"""

import argparse
import sys
import tempfile
import tomllib
from pathlib import Path

import onnx

from .graphs import WEIGHTS, Shape, Weights, decoder
from .data import file_digest

QUANTISED = "weights.bin"


class BlockError(Exception):
    """What cannot be done, and the remedy."""


def quantised(model: onnx.ModelProto, blob: bytes) -> onnx.ModelProto:
    """Dynamic int8, as the other graphs of the bundle; large tensors point into ``weights.bin``, which must hold them."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        source, result = Path(scratch) / "f32.onnx", Path(scratch) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        quantize_dynamic(source, result, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
        model = onnx.load(result)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.nbytes < 64 or array.dtype.kind == "i" and array.dtype.itemsize == 8:
            continue
        raw = array.tobytes()
        place = blob.find(raw)
        while place >= 0 and place % 64:
            place = blob.find(raw, place + 1)
        if place < 0:
            raise BlockError(f"{QUANTISED} does not hold {tensor.name}: give the --source the bundle was quantised from")
        for field in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", QUANTISED), ("offset", str(place)), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=value)
    return model


def add_block(bundle: Path, rows: int, block_ms: float, source: Path | None) -> str:
    """Writes the graph and the new ``policy.toml``; returns the graph's name."""
    text = (bundle / "policy.toml").read_text(encoding="utf-8")
    policy = tomllib.loads(text)
    if "decoding" not in policy:
        raise BlockError(f"{bundle}: family {policy['family']} has no tokens")
    if "block" in policy["decoding"]:
        raise BlockError(f"{bundle}: [decoding] declares a block already")
    m = policy["model"]
    weights = Weights((source or bundle) / WEIGHTS)
    if "layers.0.q" not in weights.values:
        raise BlockError(f"{bundle}: holds no f32 decoder weights: give --source")
    heads = weights.values["layers.0.q"].shape[1] // m["head_dim"]
    shape = Shape(m["width"], m["layers"], heads, m["kv_heads"], m["head_dim"], m["visual_tokens"], m["prefix"], m["slab"], m["vocabulary"])
    is_int8 = policy["precision"] != "f32"
    model = decoder(weights, shape, rows, shape.slab, inline=is_int8)
    if is_int8:
        model = quantised(model, (bundle / QUANTISED).read_bytes())
    name = f"decode_k{rows}.onnx"
    (bundle / name).write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(bundle / name), full_check=not is_int8)
    lines = []
    for line in text.splitlines():
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
    parser.add_argument("--source", type=Path, help="f32 bundle that an int8 bundle was quantised from")
    args = parser.parse_args(argv)
    try:
        print(f"wrote {args.bundle / add_block(args.bundle, args.rows, args.block_ms, args.source)}")
    except (BlockError, OSError) as error:
        print(f"endplate-block: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
