"""One weights file for all graphs of a bundle: equal initialisers lie there once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

WEIGHTS = "weights.bin"
#: Initialisers of fewer bytes stay inside the graph.
SMALL = 256


class Shared:
    """``weights.bin`` while it is being filled."""

    def __init__(self, folder: Path, name: str = WEIGHTS):
        self.name, self.path = name, folder / name
        self.blob, self.places = bytearray(), {}

    def take(self, model: onnx.ModelProto) -> str | None:
        """Moves the large initialisers of a graph out of it; the name of one that is not finite instead, if there is one."""
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.nbytes < SMALL or values.dtype == np.int64:
                continue
            if values.dtype in (np.float32, np.float16) and not np.isfinite(values).all():
                return tensor.name
            raw = values.tobytes()
            if raw not in self.places:
                self.blob.extend(b"\0" * (-len(self.blob) % 64))
                self.places[raw] = len(self.blob)
                self.blob.extend(raw)
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", self.name), ("offset", self.places[raw]), ("length", len(raw))):
                tensor.external_data.add(key=key, value=str(value))
        return None

    def close(self) -> None:
        self.path.write_bytes(self.blob)
