"""A bundle in other numbers: ``endplate-export quantise BUNDLE --precision P --recording REC --out OTHER``.

| precision | what changes | engines |
|---|---|---|
| fp16 | weights and arithmetic in 16-bit floats; refused where a weight or an output overflows | ort |
| int8 | 8-bit weights per channel, activations scaled as they come (``MatMulInteger``) | ort, tract |
| qdq | 8-bit weights per channel, activations scaled by calibration data (quantise and dequantise nodes) | ort, tract |
| int8_weights | 8-bit weights per channel, 32-bit arithmetic (``DequantizeLinear``) | ort, tract |
| int4_weights | 4-bit weights in blocks of 32, 32-bit arithmetic (``MatMulNBits``) | ort, tract |

Any family: the graphs are changed and nothing else. ``endplate compare`` then runs both bundles on the observations of a
recording; what it measures stands in ``[[quantisation]]`` of ``policy.toml``, and twice what it finds on the golden samples
becomes their tolerance. An engine that cannot run the graphs is left out of ``[engines]``, with the reason in the report.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from .description import digest, dumps

PRECISIONS = ("fp16", "int8", "qdq", "int8_weights", "int4_weights")
#: Weights of the changed graphs; those of graphs left in f32 stay where they are.
WEIGHTS, TENSORS = "quantised.bin", "weights.safetensors"
#: Initialisers of fewer bytes stay inside the graph.
SMALL = 256
#: Largest 16-bit float.
FP16_MAX = 65504.0
BLOCK = 32
#: Deviations may be this many times what was measured, and are never asked to be smaller than f32's.
SLACK, LEAST = 2.0, {"visual": 1e-3, "head": 1e-2, "action_rad": 1e-3}
#: Keys of [engines] that stand for the head.
HEADS = ("logits", "velocity", "output", "epsilon")


class QuantiseError(ValueError):
    """Refused; says file, place, value and remedy."""

THRESHOLDS = "thresholds.toml"


def load(folder: Path, name: str) -> onnx.ModelProto:
    """The graph with its weights inside, widened to f32."""
    try:
        model = onnx.load(str(folder / name), load_external_data=False)
    except Exception as error:
        raise QuantiseError(f"{folder / name}: is no ONNX graph ({error}); export the bundle again") from error
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            with open(folder / place["location"], "rb") as file:
                file.seek(int(place.get("offset", 0)))
                tensor.raw_data = file.read(int(place["length"]))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        # Weights stored in 16 bits are widened in the graph; here that is done once.
        if node.op_type == "Cast" and node.input[0] in values and values[node.input[0]].data_type == onnx.TensorProto.FLOAT16:
            model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(values[node.input[0]]).astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    used = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return model


class Reader:
    """The sets of a captured ``.npz``, one after the other, as onnxruntime's calibration reads them."""

    def __init__(self, sets: list[dict[str, np.ndarray]]):
        self.sets, self.next = sets, 0

    def get_next(self):
        if self.next == len(self.sets):
            return None
        self.next += 1
        return self.sets[self.next - 1]

    def rewind(self):
        self.next = 0


def weights_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Per channel, symmetric: constant right sides of ``MatMul`` and ``Gemm`` become int8 with ``DequantizeLinear``."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, gone = [], set()
    for node in model.graph.node:
        weight = values.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 else None
        if weight is not None and weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2:
            axis = 0 if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute) else 1
            name = f"{weight.name}.wide{axis}"
            if name not in gone:
                array = numpy_helper.to_array(weight)
                scale = np.maximum(np.abs(array).max(1 - axis), 1e-12) / 127
                whole = np.round(array / np.expand_dims(scale, 1 - axis)).clip(-127, 127).astype(np.int8)
                extra = {"int8": whole, "scale": scale.astype(np.float32), "zero": np.zeros(scale.shape, np.int8)}
                names = [f"{weight.name}.{kind}{axis}" for kind in extra]
                model.graph.initializer.extend(numpy_helper.from_array(values_, name_) for name_, values_ in zip(names, extra.values()))
                nodes.append(onnx.helper.make_node("DequantizeLinear", names, [name], axis=axis))
                gone.add(name)
            node.input[1] = name
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return pruned(model)


def four_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Symmetric in blocks of ``BLOCK`` rows: constant right sides of ``MatMul`` become ``MatMulNBits`` (onnxruntime's
    ``docs/ContribOperators.md``): ``B`` [N, blocks, BLOCK / 2], two values a byte, the lower first, 8 for zero."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        weight = values.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) != 2:
            continue
        rows, columns = weight.dims
        name = f"{weight.name}.4bit"
        if name not in values:
            blocks = -(-rows // BLOCK)
            array = np.pad(numpy_helper.to_array(weight), ((0, blocks * BLOCK - rows), (0, 0))).T.reshape(columns, blocks, BLOCK)
            scale = np.maximum(np.abs(array).max(2), 1e-12) / 7
            whole = (np.round(array / scale[..., None]) + 8).clip(0, 15).astype(np.uint8)
            packed = whole[..., 0::2] | whole[..., 1::2] << 4
            extra = (numpy_helper.from_array(packed, name), numpy_helper.from_array(scale.astype(np.float32).ravel(), f"{name}.scale"))
            model.graph.initializer.extend(extra)
            values[name] = extra[0]
        node.op_type, node.domain, node.input[1] = "MatMulNBits", "com.microsoft", name
        node.input.append(f"{name}.scale")
        for key, value in (("K", rows), ("N", columns), ("bits", 4), ("block_size", BLOCK)):
            node.attribute.append(onnx.helper.make_attribute(key, value))
    if not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return pruned(model)


def check_range(model: onnx.ModelProto, name: str, captured: list[dict[str, np.ndarray]], sets: int = 8) -> None:
    """Refuses a graph of which any intermediate value leaves the range of fp16 on captured inputs: on a CPU that would not
    show, since 16-bit kernels compute in 32 bits there."""
    wide = onnx.shape_inference.infer_shapes(model)
    kinds = {value.name: value.type.tensor_type.elem_type for value in wide.graph.value_info}
    present = {output.name for output in wide.graph.output}
    inside = [output for node in wide.graph.node for output in node.output if kinds.get(output) == onnx.TensorProto.FLOAT and output not in present]
    wide.graph.output.extend(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None) for output in inside)
    session = onnxruntime.InferenceSession(wide.SerializeToString(), providers=["CPUExecutionProvider"])
    for inputs in captured[:sets]:
        for output, values in zip(session.get_outputs(), session.run(None, inputs)):
            largest = np.abs(values).max(initial=0.0) if values.dtype == np.float32 else 0.0
            if not largest <= FP16_MAX:
                raise QuantiseError(f"{name}: {output.name} reaches {largest:.3g} on captured inputs, and fp16 ends at {FP16_MAX:.0f}: use int8_weights")


def pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without initialisers that nothing reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def half(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            if array.size and np.abs(array).max() > FP16_MAX:
                raise QuantiseError(f"{name}: weight {tensor.name} reaches {np.abs(array).max():.3g}, and fp16 ends at {FP16_MAX:.0f}: use int8_weights")
    return convert_float_to_float16(model, keep_io_types=True)


def quantised(model: onnx.ModelProto, name: str, precision: str, captured: list[dict[str, np.ndarray]]) -> onnx.ModelProto:
    """The graph in other numbers."""
    from onnxruntime import quantization as q

    logging.getLogger().setLevel(logging.ERROR)  # its advice to pre-process does not apply: the graphs are static already
    if precision == "fp16":
        check_range(model, name, captured)
        return half(model, name)
    if precision == "int8_weights":
        return weights_only(model)
    if precision == "int4_weights":
        return four_bits(model)
    with tempfile.TemporaryDirectory() as scratch:
        source, result = Path(scratch) / "f32.onnx", Path(scratch) / "quantised.onnx"
        source.write_bytes(model.SerializeToString())
        if precision == "int8":
            q.quantize_dynamic(source, result, per_channel=True, weight_type=q.QuantType.QInt8, op_types_to_quantize=["MatMul"])
        else:
            q.quantize_static(
                source, result, Reader(captured), quant_format=q.QuantFormat.QDQ, op_types_to_quantize=["MatMul"], per_channel=True,
                activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8, calibrate_method=q.CalibrationMethod.MinMax,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False, "MatMulConstBOnly": True},
            )
        return onnx.load(str(result))


def check_outputs(model: onnx.ModelProto, name: str, captured: list[dict[str, np.ndarray]], sets: int = 8) -> None:
    """Refuses a graph whose outputs are not finite on captured inputs."""
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises types of its own, one a status
        raise QuantiseError(f"{name}: onnxruntime {onnxruntime.__version__} cannot run the graph in these numbers ({error}); leave it in f32 with --keep {name.removesuffix('.onnx')}") from error
    for index, inputs in enumerate(captured[:sets]):
        for output, values in zip(session.get_outputs(), session.run(None, inputs)):
            if not np.isfinite(values).all():
                raise QuantiseError(f"{name}: output {output.name} is not finite on captured inputs (set {index}): these numbers overflow; use int8_weights")


class Shared:
    """``quantised.bin``: equal initialisers of several graphs lie there once."""

    def __init__(self):
        self.blob, self.places = bytearray(), {}

    def take(self, model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.nbytes < SMALL or tensor.data_type == onnx.TensorProto.INT64:
                continue
            raw = array.tobytes()
            if raw not in self.places:
                self.blob.extend(b"\0" * (-len(self.blob) % 64))
                self.places[raw] = len(self.blob)
                self.blob.extend(raw)
            kind, dims, name = tensor.data_type, list(tensor.dims), tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type, tensor.data_location = name, kind, onnx.TensorProto.EXTERNAL
            tensor.dims.extend(dims)
            for key, value in (("location", WEIGHTS), ("offset", self.places[raw]), ("length", len(raw))):
                tensor.external_data.add(key=key, value=str(value))


def run(binary: str, *arguments) -> str:
    command = [binary, *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise QuantiseError(f"{binary}: {error}; build it with `cargo build --release` and name it with --endplate") from error
    if done.returncode != 0:
        raise QuantiseError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def quantise(args: argparse.Namespace, folder: Path) -> list[str]:
    """Fills ``folder``; returns the report."""
    bundle: Path = args.bundle
    text = (bundle / "policy.toml").read_text(encoding="utf-8")
    policy = tomllib.loads(text)
    if policy["precision"] != "f32":
        raise QuantiseError(f"{bundle / 'policy.toml'}: precision = {policy['precision']!r}: start from the f32 bundle")
    graphs = [name for name in policy["files"] if name.endswith(".onnx")]
    unknown = set(args.keep) - {name.removesuffix(".onnx") for name in graphs}
    if unknown:
        raise QuantiseError(f"--keep {' '.join(sorted(unknown))}: no such graph; the bundle has {', '.join(name.removesuffix('.onnx') for name in graphs)}")
    captured: dict[str, list[dict[str, np.ndarray]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        run(args.endplate, "capture", args.recording, "--bundle", bundle, "--out", scratch, "--sets", args.sets)
        for name in graphs:
            captured[name] = captured_sets(Path(scratch), name.removesuffix(".onnx"))
    shared, tensors = Shared(), set()
    kept = [name for name in graphs if name.removesuffix(".onnx") in args.keep]
    needed = {place for name in kept for place in locations(bundle / name)}
    for name in graphs:
        if name in kept:
            shutil.copyfile(bundle / name, folder / name)
            continue
        if not captured[name] and args.precision in ("fp16", "qdq"):
            remedy = f"{args.precision} needs its inputs: leave it in f32 with --keep {name.removesuffix('.onnx')}"
            raise QuantiseError(f"{name}: the policy does not run this graph as the bundle decodes; {remedy}")
        model = quantised(load(bundle, name), name, args.precision, captured[name])
        if captured[name]:
            check_outputs(model, name, captured[name])
        shared.take(model)
        (folder / name).write_bytes(model.SerializeToString())
    (folder / WEIGHTS).write_bytes(shared.blob)
    for name in policy["files"]:
        # Thresholds are of the graphs they were fitted on: fit them again with `endplate calibrate thresholds`.
        if name in graphs or name == THRESHOLDS or (name.endswith(".bin") and name not in needed):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == TENSORS:
            tensors = keep_tensors(bundle, kept, target)
        else:
            shutil.copyfile(bundle / name, target)
    report = [f"{args.precision}: {size(bundle):,} bytes become {size(folder):,}" + (f"; {len(tensors)} tensors stay in {TENSORS}" if tensors else "")]
    measured, engines = {}, {}
    for engine in args.engine or policy["engines"]:
        # Measured before there are tolerances to meet; the bundle as it is now gets none that would stop it.
        loose = {engine: {key: 1e30 for key in policy["engines"][engine] if key != "share"}}
        write_toml(folder, text, args, loose, {})
        out = folder / "compare.json"
        try:
            said = run(args.endplate, "compare", args.recording, "--bundle", folder, "--engine", engine, "--against", bundle, "--limit", args.observations, "--json", out, *args.library)
        except QuantiseError as error:
            report.append(f"{engine}: left out: {str(error).splitlines()[-1]}")
            continue
        result = json.loads(out.read_text())
        out.unlink()
        if result["refused"] > result["refused_against"] + 0.02 * result["observations"]:
            report.append(f"{engine}: left out: {result['refused']} of {result['observations']} answers are refused, against {result['refused_against']} in f32")
            continue
        found = {**{key: result["golden"]["head"] for key in HEADS}, **{key: result["golden"]["visual"] for key in ("visual", "condition")}, "action_rad": result["golden"]["action_rad"]}
        least = {**{key: LEAST["head"] for key in HEADS}, **{key: LEAST["visual"] for key in ("visual", "condition")}, "action_rad": LEAST["action_rad"]}
        engines[engine] = {key: float(f"{max(SLACK * found[key], least[key]):.2g}") for key in loose[engine]}
        measured[engine] = result
        report.append(f"{engine}: {said.strip()}")
    if not engines:
        raise QuantiseError("no engine runs these graphs and gives actions:\n  " + "\n  ".join(report))
    write_toml(folder, text, args, engines, measured)
    for engine in engines:
        run(args.endplate, "check", "--golden", "--bundle", folder, "--engine", engine, *args.library, *args.robot)
    return report


def captured_sets(folder: Path, graph: str) -> list[dict[str, np.ndarray]]:
    """The sets of inputs of a graph that ``endplate capture`` wrote; of a graph of any number of rows (``decode.k1.npz``,
    ``decode.k8.npz``) in turn, so that the first few are of every number."""
    groups = []
    for path in sorted([*folder.glob(f"{graph}.npz"), *folder.glob(f"{graph}.k*.npz")]):
        arrays = dict(np.load(path))
        groups.append([{key: np.ascontiguousarray(values[index]) for key, values in arrays.items()} for index in range(len(next(iter(arrays.values()))))])
    return [inputs for turn in zip_longest(*groups) for inputs in turn if inputs is not None]


def locations(graph: Path) -> set[str]:
    """Files that a graph's initialisers lie in."""
    tensors = onnx.load(str(graph), load_external_data=False).graph.initializer
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def keep_tensors(bundle: Path, kept: list[str], target: Path) -> set[str]:
    """Copies of ``weights.safetensors`` what is still read: the embedding table by the runtime, the rest by graphs left in
    f32, which are pointed to its new place."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(bundle / TENSORS, "numpy") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}
    models = {name: onnx.load(str(bundle / name), load_external_data=False) for name in kept}
    used = {"embedding"} | {tensor.name for model in models.values() for tensor in model.graph.initializer}
    values = {name: value for name, value in values.items() if name in used}
    save_file(values, target)
    target.chmod(0o644)
    places = offsets(target)
    for name, model in models.items():
        for tensor in model.graph.initializer:
            entries = {entry.key: entry for entry in tensor.external_data}
            if entries and entries["location"].value == TENSORS:
                entries["offset"].value, entries["length"].value = map(str, places[tensor.name])
        (target.parent / name).write_bytes(model.SerializeToString())
    return set(values)


def offsets(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and length of every tensor of a safetensors file."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    return {name: (8 + size + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0]) for name, entry in header.items() if name != "__metadata__"}


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_toml(folder: Path, text: str, args: argparse.Namespace, engines: dict, measured: dict) -> None:
    """``policy.toml`` with other precision, engines, digests and measurements; everything else as it was."""
    policy = tomllib.loads(text)
    policy["precision"], policy["name"] = args.precision, args.name or f"{policy['name']}-{args.precision.replace('_', '-')}"
    policy["engines"] = engines
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("policy.toml", "compare.json")]
    policy["files"] = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    if "pruning" in policy:
        # Its graphs were quantised together with the one that they were split from.
        policy["pruning"]["prefill"] = policy["files"]["prefill.onnx"]
    policy.pop("quantisation", None)
    policy["quantisation"] = [
        {
            "engine": f"{engine} {result['engine_version']}", "from": result["against_digest"], "observations": result["observations"], "recording_digest": digest(args.recording),
            "action_error_p99_rad": result["action_error_rad"]["p99"], "action_error_max_rad": result["action_error_rad"]["max"],
            **({} if result["argmax_agreement"] is None else {"argmax_agreement": float(result["argmax_agreement"])}), "speed": float(result["speed"]["median"]),
        }
        for engine, result in measured.items()
    ]
    (folder / "policy.toml").write_text(dumps(policy), encoding="utf-8")


def main(args: argparse.Namespace) -> int:
    """``endplate-export quantise``; 0 on success, 2 when something is refused."""
    args.library = ["--ort-library", args.ort_library] if args.ort_library else []
    args.robot = ["--robot", args.robot] if args.robot else []
    partial = args.out.with_name(args.out.name + ".part")
    try:
        for path, what in ((args.bundle / "policy.toml", "a bundle has one"), (args.recording, "record one with `endplate run --record`")):
            if not path.is_file():
                raise QuantiseError(f"{path}: missing; {what}")
        if args.out.exists():
            raise QuantiseError(f"{args.out}: exists already; remove it or choose another folder")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        report = quantise(args, partial)
        os.replace(partial, args.out)
    except QuantiseError as error:
        print(f"endplate-export: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print("\n".join([*report, f"wrote {args.out}"]))
    return 0


def arguments(commands) -> None:
    """Adds the command to a parser."""
    one = commands.add_parser("quantise", help="the same bundle in other numbers, with what that changes measured")
    one.add_argument("bundle", type=Path, metavar="BUNDLE", help="an f32 bundle")
    one.add_argument("--precision", required=True, choices=PRECISIONS)
    one.add_argument("--recording", required=True, type=Path, help="observations to calibrate with and to compare on: `endplate run --record`")
    one.add_argument("--out", required=True, type=Path, help="bundle folder to make; it must not exist")
    one.add_argument("--keep", action="append", default=[], metavar="GRAPH", help="leave this graph in f32; may be given again")
    one.add_argument("--engine", action="append", choices=("tract", "ort"), help="engines of the new bundle; default: all of the f32 one")
    one.add_argument("--sets", type=int, default=64, help="sets of inputs of each graph to calibrate with")
    one.add_argument("--observations", type=int, default=200, help="observations to compare on")
    one.add_argument("--endplate", default="endplate", help="the binary")
    one.add_argument("--ort-library", help="ONNX Runtime library for the binary")
    one.add_argument("--robot", help="robot description that the bundle fits; default: the built-in one")
    one.add_argument("--name", help="name of the policy")
    one.set_defaults(run=main)
