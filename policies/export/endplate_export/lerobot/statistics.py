"""LeRobot's normalisation modes as a bundle writes them, in the robot's units.

With ``x = scale·r + offset`` (``embodiment``) MEAN_STD, MIN_MAX and the two QUANTILE modes keep their form: means and
marks go through the same map, deviations through the scale alone. Only the 1e-8 beside a deviation does not scale; it
moves a normalised value by less than 1e-8 of itself for a deviation of one unit.
"""

from __future__ import annotations

import numpy as np

from . import ExportError
from .checkpoint import ACTION, EPSILON, POSTPROCESSOR, PREPROCESSOR, STATE, Checkpoint
from .embodiment import Dim

#: Mode -> kind in policy.toml, the two keys there, the two statistics they come from.
MODES = {
    "MEAN_STD": ("mean_std", ("mean", "std"), ("mean", "std")),
    "MIN_MAX": ("range", ("low", "high"), ("min", "max")),
    "QUANTILES": ("range", ("low", "high"), ("q01", "q99")),
    "QUANTILE10": ("range", ("low", "high"), ("q10", "q90")),
    "IDENTITY": ("identity", (), ()),
}


def _pair(checkpoint: Checkpoint, feature: str) -> tuple[str, tuple[str, ...], list[np.ndarray]]:
    """Kind, keys and the two checked f64 arrays of a feature, flat."""
    mode = checkpoint.mode(feature)
    kind, keys, names = MODES[mode]
    file = POSTPROCESSOR if feature == ACTION else PREPROCESSOR
    given = checkpoint.action_statistics if feature == ACTION else checkpoint.statistics.get(feature, {})
    arrays = []
    for name in names:
        if name not in given:
            raise ExportError(file, f"{feature}.{name}", "missing", f"{feature} is normalised by {mode}, which needs it; LeRobot would pass the numbers through as they are")
        values = given[name].reshape(-1)
        for i in np.flatnonzero(~np.isfinite(values)):
            raise ExportError(file, f"{feature}.{name}[{i}]", values[i], "statistics must be finite; compute them again and save the processor")
        arrays.append(values)
    if arrays:
        width = arrays[1] if mode == "MEAN_STD" else arrays[1] - arrays[0]
        for i in np.flatnonzero(width <= 0):
            raise ExportError(
                file, f"{feature}[{i}]", f"{names[0]} {arrays[0][i]}, {names[1]} {arrays[1][i]}",
                "a dimension that never moved in training has no normalised value; compute the statistics on data in which it moves, or train without it",
            )
    return kind, keys, arrays


def vector(checkpoint: Checkpoint, feature: str, dims: tuple[Dim, ...]) -> tuple[str, list[dict[str, float]]]:
    """Kind and per-dimension entries of the state or the action for ``policy.toml``."""
    kind, keys, arrays = _pair(checkpoint, feature)
    if any(len(values) != len(dims) for values in arrays):
        raise ExportError(PREPROCESSOR, feature, [len(values) for values in arrays], f"the policy has {len(dims)} dimensions")
    for i, dim in enumerate(dims):
        if kind == "identity" and (dim.scale, dim.offset) != (1.0, 0.0):
            list_ = "state" if feature == STATE else "action"
            raise ExportError("embodiment", f"{list_}[{i}].scale", dim.scale, f"{feature} is not normalised (IDENTITY), so the network works in the dataset's unit; train with a normalisation, or with data in rad")
    entries = []
    for i, dim in enumerate(dims):
        values = [values[i] * dim.scale + (0.0 if key == "std" else dim.offset) for key, values in zip(keys, arrays)]
        entries.append(dict(zip(keys, map(float, values))))
    return kind, entries


def action_range(checkpoint: Checkpoint, dims: tuple[Dim, ...]) -> np.ndarray:
    """Width of each action dimension in the robot's units, [D]: max - min where that is known, else the normalisation's
    own width (two deviations for MEAN_STD, 2 for IDENTITY): what errors are measured against."""
    scale = np.array([dim.scale for dim in dims])
    given = checkpoint.action_statistics
    if "min" in given and "max" in given:
        return (given["max"] - given["min"]).reshape(-1) * scale
    kind, _, arrays = _pair(checkpoint, ACTION)
    return scale * (2.0 if kind == "identity" else 2 * arrays[1] if kind == "mean_std" else arrays[1] - arrays[0])


def image(checkpoint: Checkpoint, camera: str) -> tuple[str, np.ndarray | None, np.ndarray | None]:
    """Kind and its two f32 arrays, [3, 1, 1] each, of a camera; (``identity``, None, None) where images stay as they are."""
    kind, _, arrays = _pair(checkpoint, camera)
    if any(len(values) not in (1, 3) for values in arrays):
        raise ExportError(PREPROCESSOR, camera, [len(values) for values in arrays], "an image has statistics of 3 channels")
    if kind == "identity":
        return kind, None, None
    first, second = (np.broadcast_to(values, 3).astype(np.float32).reshape(3, 1, 1) for values in arrays)
    return kind, first, second
