"""ACT: ``regress.onnx``, images and state to all rows in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from . import ExportError, graphs
from .bundle import Sample, Source, Table, timed
from .checkpoint import CONFIG, STATE


class Regress(torch.nn.Module):
    """LeRobot's network behind its image normalisation; the latent of inference is zero."""

    def __init__(self, source: Source):
        super().__init__()
        self.images, self.model = graphs.Images(source.checkpoint), source.policy.model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        *images, state = inputs
        return self.model({"observation.images": [self.images(i, image) for i, image in enumerate(images)], STATE: state})[0]


class Act:
    """See ``bundle.Family``."""

    def __init__(self, source: Source):
        config = source.checkpoint.config
        if config.get("temporal_ensemble_coeff") is not None:
            raise ExportError(
                CONFIG, "temporal_ensemble_coeff", config["temporal_ensemble_coeff"],
                "a bundle plays chunks and averages no predictions; set null and n_action_steps to the rows to play, and save again",
            )
        self.source = source
        self.table = Table(config["chunk_size"], config["n_action_steps"], costs=("forward_ms",), probes=("output",))
        self.session = None

    def write(self, folder: Path, shared: graphs.Shared) -> None:
        inputs = {f"image_{i}": torch.zeros(1, 3, h, w) for i, (h, w) in enumerate(self.source.sizes().values())}
        inputs["state"] = torch.zeros(1, len(self.source.embodiment.state))
        graphs.export(Regress(self.source), inputs, ["actions"], folder / "regress.onnx", shared)

    def reference(self, sample: Sample) -> None:
        rows = self.source.policy.predict_action_chunk(self.source.preprocessor(self.source.batch(sample)))
        sample.arrays["output"] = rows[0].numpy()
        sample.actions = self.source.answer(rows)

    def replay(self, folder: Path, sample: Sample) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
        self.session = self.session or graphs.session(folder / "regress.onnx")
        inputs = {f"image_{i}": pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255 for i, pixels in enumerate(sample.images.values())}
        inputs["state"] = self.source.normalised_state(sample)[None]
        times: dict[str, float] = {}
        rows = timed(times, "forward_ms", lambda: self.session.run(["actions"], inputs))[0][0]
        return {"output": rows}, rows, times
