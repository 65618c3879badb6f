"""Torch modules to ONNX graphs: static shapes, f32, opset 17, large initialisers together in ``weights.bin``."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch

from ..external import Shared
from . import ExportError
from . import statistics
from .checkpoint import EPSILON, Checkpoint

OPSET = 17


class Images(torch.nn.Module):
    """What LeRobot's normaliser does to each camera's image in 0..1, with its statistics as constants."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.kinds = []
        for i, camera in enumerate(checkpoint.cameras):
            kind, first, second = statistics.image(checkpoint, camera)
            self.kinds.append(kind)
            for name, values in (("first", first), ("second", second)):
                self.register_buffer(f"{name}_{i}", torch.zeros(0) if values is None else torch.from_numpy(values.copy()))

    def forward(self, i: int, image: torch.Tensor) -> torch.Tensor:
        """Image ``i`` in slot order, [..., 3, h, w]."""
        first, second = getattr(self, f"first_{i}"), getattr(self, f"second_{i}")
        if self.kinds[i] == "mean_std":
            return (image - first) / (second + EPSILON)
        if self.kinds[i] == "range":
            return 2 * (image - first) / (second - first) - 1
        return image


def export(module: torch.nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str], path: Path, shared: Shared) -> None:
    """Writes ``path``: the module at exactly these shapes, f32 and i64 only.

    Raises ExportError when the graph does not have these inputs and outputs.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), whole_sums():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), tuple(inputs.values()), buffer, input_names=list(inputs), output_names=outputs, opset_version=OPSET, dynamo=False, do_constant_folding=True
        )
    model = onnx.load_from_string(buffer.getvalue())
    for name, values, declared in (("inputs", list(inputs), model.graph.input), ("outputs", outputs, model.graph.output)):
        found = [tensor.name for tensor in declared]
        if found != values:
            raise ExportError(path.name, name, found, f"the export must keep {values}: an input that the network does not use cannot be part of a bundle")
    for tensor in (*model.graph.input, *model.graph.output):
        if tensor.type.tensor_type.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64):
            raise ExportError(path.name, tensor.name, "neither f32 nor i64", "the export went wrong")
    del model.graph.value_info[:]
    for node in model.graph.node:
        # Outputs keep the names that say where a value comes from; nodes would repeat them.
        node.doc_string = node.name = ""
    model.producer_name, model.producer_version = "endplate-export", ""
    if (bad := shared.take(model)) is not None:
        raise ExportError("model.safetensors", bad, "not finite", "use another checkpoint")
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def whole_sums():
    """Running sums of booleans, which torch knows and ONNX does not: over floats, which are exact for counts (tract takes
    integers that do not depend on inputs for symbolic sizes and has no sum of those)."""
    original = torch.cumsum

    def cumsum(values, *args, **kwargs):
        return original(values.float(), *args, **kwargs).long() if values.dtype in (torch.bool, torch.int64) else original(values, *args, **kwargs)

    torch.cumsum = cumsum
    try:
        yield
    finally:
        torch.cumsum = original


def session(path: Path) -> onnxruntime.InferenceSession:
    """The graph on one CPU thread."""
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
