"""What a Hugging Face folder of OpenVLA holds, as far as a bundle needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ..lerobot import ExportError
from ..lerobot.checkpoint import ACTION, CONFIG, STATE, Checkpoint

TOKENIZER, STATISTICS = "tokenizer.json", "dataset_statistics.json"


@dataclass
class OpenVlaCheckpoint(Checkpoint):
    """As LeRobot's, so that the rest of the exporter knows what to do with it."""

    states: int | None = None  # values of the state the network reads


def read(folder: Path, cameras: list[str], dataset: str | None) -> OpenVlaCheckpoint:
    """Reads everything but the tensors. Raises ExportError naming file and field."""
    config = _json(folder, CONFIG)
    if config.get("model_type") != "openvla":
        raise ExportError(CONFIG, "model_type", repr(config.get("model_type")), "this command knows openvla (OFT included)")
    if config.get("n_action_bins", 256) != 256:
        raise ExportError(CONFIG, "n_action_bins", config["n_action_bins"], "bundles have 256 bins")
    if config.get("image_resize_strategy", "resize-naive") != "resize-naive":
        raise ExportError(CONFIG, "image_resize_strategy", config["image_resize_strategy"], "bundles stretch the image, as the published checkpoints do (resize-naive)")
    head = sorted(folder.glob("action_head--*_checkpoint.pt"))
    config["type"] = "openvla_oft" if head else "openvla"
    if not head and len(cameras) != 1:
        raise ExportError("--cameras", "", ",".join(cameras), "OpenVLA reads one image: name one camera")
    _check_weights(folder)
    statistics = _json(folder, STATISTICS) if (folder / STATISTICS).exists() else config.get("norm_stats") or {}
    if dataset is None and len(statistics) == 1:
        dataset = next(iter(statistics))
    if dataset not in statistics:
        raise ExportError(CONFIG, "norm_stats", dataset, f"name the dataset with --dataset, one of {', '.join(sorted(statistics)) or 'none: the checkpoint has no statistics'}")
    action, state = (_vector(statistics[dataset].get(key), f"{dataset}.{key}") for key in ("action", "proprio"))
    if action is None:
        raise ExportError(CONFIG, f"norm_stats.{dataset}.action", "missing", "copy the statistics of the training")
    size = config["image_sizes"][0]
    features = {name: {"type": "VISUAL", "shape": [3, size, size]} for name in cameras}
    config["input_features"] = features
    config["output_features"] = {ACTION: {"type": "ACTION", "shape": [len(action["q01"])]}}
    proprio = bool(list(folder.glob("proprio_projector--*_checkpoint.pt")))
    if proprio and state is None:
        raise ExportError(STATISTICS, f"{dataset}.proprio", "missing", "the checkpoint reads the state: copy its statistics")
    modes = {"STATE": "QUANTILES" if proprio else "IDENTITY", "ACTION": "QUANTILES"}
    states = len(state["q01"]) if proprio else None
    return OpenVlaCheckpoint(folder, config, {name: name for name in cameras}, [], [], {STATE: state} if proprio else {}, action, modes, states=states)


def _json(folder: Path, name: str) -> dict:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(folder / name, "", "", "missing; give the folder of a merged checkpoint, with config.json, safetensors and tokenizer.json") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportError(folder / name, "", "", f"is no JSON ({error}); copy the checkpoint again") from None


def _check_weights(folder: Path) -> None:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ExportError(folder, "model*.safetensors", "missing", "save the checkpoint as safetensors, adapters merged")
    for path in files:
        try:
            with safe_open(path, "numpy"):
                pass
        except SafetensorError as error:
            raise ExportError(path, "", "", f"is truncated or damaged ({error}); copy the checkpoint again") from None


def _vector(given: dict | None, field: str) -> dict[str, np.ndarray] | None:
    """Quantiles, f64; a dimension that ``mask`` leaves as it is gets -1..1, which changes nothing."""
    if given is None:
        return None
    result = {}
    mask = np.array(given.get("mask", [True] * len(given["q01"])), bool)
    for name, plain in (("q01", -1.0), ("q99", 1.0)):
        if name not in given:
            raise ExportError(CONFIG, f"norm_stats.{field}.{name}", "missing", "copy the statistics of the training")
        result[name] = np.where(mask, np.array(given[name], np.float64), plain)
    return result
