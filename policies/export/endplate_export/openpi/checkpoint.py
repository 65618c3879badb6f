"""openpi's files: ``model.safetensors``, ``config.json`` and ``assets/*/norm_stats.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ..lerobot import ExportError

WEIGHTS, CONFIG, STATISTICS = "model.safetensors", "config.json", "norm_stats.json"
#: What openpi adds to a deviation and to the width between quantiles.
EPSILON = 1e-6
CONVERT = "python examples/convert_jax_model_to_pytorch.py --config_name NAME --checkpoint_dir PATH --output_path OUT"


@dataclass
class OpenPi:
    """A folder that passed every check that needs no torch."""

    folder: Path
    family: str  # pi0, pi05 or pi0_fast
    config: dict
    statistics: dict[str, dict[str, np.ndarray]]  # state, actions -> mean, std, q01, q99, as LeRobot reads them


def read(folder: Path, states: int, actions: int) -> OpenPi:
    """Reads the folder for a robot of so many values. Raises ExportError naming file and field."""
    if (folder / "params").is_dir() or list(folder.glob("**/_METADATA")) or list(folder.glob("**/manifest.ocdbt")):
        raise ExportError(folder, "params", "Orbax", f"JAX's form cannot be read here: in openpi's repository run `{CONVERT}` and export OUT")
    names = _names(folder / WEIGHTS)
    config = _json(folder / CONFIG)
    return OpenPi(folder, _family(names), config, _statistics(folder, states, actions))


def _names(path: Path) -> set[str]:
    try:
        with safe_open(path, "numpy") as file:
            return {name.removeprefix("model.") for name in file.keys()}
    except FileNotFoundError:
        raise ExportError(path, "", "", f"missing; the PyTorch form has it: in openpi's repository run `{CONVERT}`") from None
    except SafetensorError as error:
        raise ExportError(path, "", "", f"is truncated or damaged ({error}); copy the checkpoint again") from None


def _family(names: set[str]) -> str:
    has_expert = any(name.startswith("paligemma_with_expert.gemma_expert.") for name in names)
    if "time_mlp_in.weight" in names and has_expert:
        return "pi05"
    if "action_time_mlp_in.weight" in names and has_expert:
        return "pi0"
    if not has_expert and any(name.startswith("paligemma_with_expert.paligemma.") for name in names):
        return "pi0_fast"
    raise ExportError(WEIGHTS, "names", f"{len(names)} tensors", "neither π0 (action_time_mlp_in), π0.5 (time_mlp_in) nor π0-FAST (paligemma_with_expert.paligemma alone)")


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(path, "", "", "missing; copy the whole folder of the converted checkpoint") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportError(path, "", "", f"is no JSON ({error}); copy the checkpoint again") from None


def _statistics(folder: Path, states: int, actions: int) -> dict[str, dict[str, np.ndarray]]:
    """openpi's widths with its 1e-6 inside them, so that the plain formulas give its numbers."""
    found = sorted(folder.glob(f"assets/**/{STATISTICS}")) or sorted(folder.glob(STATISTICS))
    if len(found) != 1:
        raise ExportError(folder / "assets", STATISTICS, f"{len(found)} files", "keep the one of this robot")
    given = _json(found[0]).get("norm_stats", {})
    result = {}
    for key, count in (("state", states), ("actions", actions)):
        if key not in given:
            raise ExportError(found[0], f"norm_stats.{key}", "missing", "copy the statistics of the training")
        result[key] = {}
        for name in ("mean", "std", "q01", "q99"):
            values = given[key].get(name)
            if values is None:
                continue
            if len(values) < count:
                raise ExportError(found[0], f"norm_stats.{key}.{name}", f"{len(values)} values", f"the embodiment has {count} dimensions")
            result[key][name] = np.array(values[:count], np.float64) + (EPSILON if name in ("std", "q99") else 0.0)
    return result
