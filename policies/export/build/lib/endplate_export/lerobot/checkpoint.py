"""What ``save_pretrained`` of a policy and of its two processors leaves in a folder, read and checked.

``config.json`` (type, features, normalisation modes, sizes), ``model.safetensors``, ``policy_preprocessor.json`` and
``policy_postprocessor.json`` with the statistics in safetensors files of their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from . import LEROBOT, ExportError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
STATE, ACTION, ENVIRONMENT = "observation.state", "action", "observation.environment_state"
EPSILON = 1e-8
#: Steps that change no number on the way from a robot's observation to the network, or that are handled by name.
PLAIN_STEPS = {"rename_observations_processor", "to_batch_processor", "device_processor", "normalizer_processor", "unnormalizer_processor"}


@dataclass
class Checkpoint:
    """A checkpoint folder that passed every check that needs no torch."""

    folder: Path
    config: dict
    cameras: dict[str, str]  # feature key -> camera name on the robot, in the network's order
    preprocessor: list[dict]
    postprocessor: list[dict]
    statistics: dict[str, dict[str, np.ndarray]]  # feature -> statistic -> f64 array
    action_statistics: dict[str, np.ndarray]
    modes: dict[str, str]  # feature type -> normalisation mode
    unnormalised: set[str] = field(default_factory=set)  # features the preprocessor leaves alone

    @property
    def family(self) -> str:
        return self.config["type"]

    def shape(self, feature: str) -> tuple[int, ...]:
        """Shape of an input or output feature: ``(3, h, w)`` of a camera, ``(S,)``, ``(D,)``."""
        features = {**self.config["input_features"], **self.config["output_features"]}
        return tuple(features[feature]["shape"])

    def mode(self, feature: str) -> str:
        """Normalisation mode of a feature."""
        if feature in self.unnormalised:
            return "IDENTITY"
        kind = "ACTION" if feature == ACTION else "STATE" if feature == STATE else "VISUAL"
        return self.modes.get(kind, "IDENTITY")


def read(folder: Path, families: dict[str, set[str]]) -> Checkpoint:
    """Reads a checkpoint folder of one of ``families``: policy type -> processor steps that its family knows beside the plain ones.

    Raises ExportError naming the file and the field.
    """
    if not folder.is_dir():
        raise ExportError(folder, "", "", "no such folder; give the folder that save_pretrained wrote (with config.json in it)")
    config = _json(folder, CONFIG)
    kind = config.get("type")
    if kind not in families:
        raise ExportError(CONFIG, "type", repr(kind), f"this exporter knows {', '.join(families)}")
    if config.get("use_peft"):
        raise ExportError(CONFIG, "use_peft", True, "merge the adapter into the policy and save that")
    _check_weights(folder)
    pre, post = (_json(folder, name).get("steps", []) for name in (PREPROCESSOR, POSTPROCESSOR))
    _refuse_unknown_steps(kind, families[kind], pre, post)
    cameras = _cameras(config, _rename(pre))
    normalizer, unnormalizer = _only(pre, PREPROCESSOR, "normalizer_processor"), _only(post, POSTPROCESSOR, "unnormalizer_processor")
    for name, step in ((PREPROCESSOR, normalizer), (POSTPROCESSOR, unnormalizer)):
        if step["config"].get("eps", EPSILON) != EPSILON:
            raise ExportError(name, "eps", step["config"]["eps"], f"bundles normalise with {EPSILON}; set that and save the processor again")
    modes, back = normalizer["config"].get("norm_map", {}), unnormalizer["config"].get("norm_map", {})
    if modes.get("ACTION") != back.get("ACTION"):
        raise ExportError(POSTPROCESSOR, "norm_map.ACTION", back.get("ACTION"), f"the preprocessor says {modes.get('ACTION')}: save both from one training run")
    for kind, mode in modes.items():
        known = ("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY")
        if mode not in known:
            raise ExportError(PREPROCESSOR, f"norm_map.{kind}", mode, f"use one of {', '.join(known)}")
    kept = normalizer["config"].get("normalize_observation_keys")
    inputs = [STATE, *cameras]
    return Checkpoint(
        folder, config, cameras, pre, post, _statistics(folder, normalizer), _statistics(folder, unnormalizer).get(ACTION, {}), modes,
        set() if kept is None else {key for key in inputs if key not in kept},
    )


def _json(folder: Path, name: str) -> dict:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "missing; save the policy and both processors (save_pretrained) into one folder"
        raise ExportError(folder / name, "", "", f"{remedy}; before LeRobot 0.4 statistics were kept elsewhere: load and save the policy with {LEROBOT}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportError(folder / name, "", "", f"is no JSON ({error}); copy the checkpoint again") from None


def _tensors(path: Path, values: bool = True):
    """Name and values of every tensor of a safetensors file, of types that numpy knows."""
    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():
                yield name, file.get_tensor(name) if values else None
    except FileNotFoundError:
        raise ExportError(path, "", "", "missing; copy the whole checkpoint folder") from None
    except SafetensorError as error:
        raise ExportError(path, "", "", f"is truncated or damaged ({error}); copy the checkpoint again") from None


def _check_weights(folder: Path) -> None:
    """The header, and that the file is as long as it says; the values are looked at where torch can read them all."""
    for _ in _tensors(folder / WEIGHTS, values=False):
        break


def _statistics(folder: Path, step: dict) -> dict[str, dict[str, np.ndarray]]:
    result: dict[str, dict[str, np.ndarray]] = {}
    if step.get("state_file"):
        for name, values in _tensors(folder / step["state_file"]):
            feature, statistic = name.rsplit(".", 1)
            result.setdefault(feature, {})[statistic] = values.astype(np.float64)
    return result


def _only(steps: list[dict], file: str, name: str) -> dict:
    found = [step for step in steps if step.get("registry_name") == name]
    if len(found) != 1:
        raise ExportError(file, f"steps.{name}", f"{len(found)} of them", "a policy has exactly one; save the processors with LeRobot " + LEROBOT)
    return found[0]


def _refuse_unknown_steps(family: str, known: set[str], pre: list[dict], post: list[dict]) -> None:
    """Refuses a processor step that is neither plain nor in ``known``: it changes numbers that a bundle would not."""
    for file, steps in ((PREPROCESSOR, pre), (POSTPROCESSOR, post)):
        for step in steps:
            name = step.get("registry_name") or step.get("class")
            if name not in PLAIN_STEPS | known:
                raise ExportError(file, "steps", name, f"a bundle of the family {family} has no such step; train or save the policy without it")
            if name == "device_processor" and step["config"].get("float_dtype") not in (None, "float32"):
                raise ExportError(file, "device_processor.float_dtype", step["config"]["float_dtype"], "bundles compute in float32; set null and save again")


def _rename(steps: list[dict]) -> dict[str, str]:
    """The policy's feature -> what the robot calls it."""
    renamed = {}
    for step in steps:
        if step.get("registry_name") == "rename_observations_processor":
            renamed |= {policy: robot for robot, policy in step["config"].get("rename_map", {}).items()}
    return renamed


def _cameras(config: dict, renamed: dict[str, str]) -> dict[str, str]:
    inputs, outputs = config.get("input_features") or {}, config.get("output_features") or {}
    cameras = {}
    for key, feature in inputs.items():
        kind, shape = feature.get("type"), feature.get("shape")
        if kind == "VISUAL":
            if len(shape) != 3 or shape[0] != 3:
                raise ExportError(CONFIG, f"input_features.{key}.shape", shape, "a camera has the shape [3, h, w]")
            name = renamed.get(key, key)
            cameras[key] = name.removeprefix("observation.").removeprefix("images.")
        elif key != STATE:
            raise ExportError(CONFIG, f"input_features.{key}", kind, f"a bundle's policy reads cameras and {STATE}; train without it")
    if STATE not in inputs:
        raise ExportError(CONFIG, "input_features", list(inputs), f"a bundle's policy reads {STATE}; train with it")
    if not cameras:
        raise ExportError(CONFIG, "input_features", list(inputs), "a bundle's policy has at least one camera")
    if list(outputs) != [ACTION]:
        raise ExportError(CONFIG, "output_features", list(outputs), "a bundle's policy puts out `action` alone")
    for key in (STATE, ACTION):
        shape = {**inputs, **outputs}[key].get("shape")
        if not isinstance(shape, list) or len(shape) != 1 or shape[0] < 1:
            raise ExportError(CONFIG, f"{key}.shape", shape, "one number: the dimensions of the vector")
    return cameras
