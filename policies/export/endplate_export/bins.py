"""Bin action tokens, exactly as OpenVLA (Kim et al., arXiv 2406.09246; ``prismatic/vla/action_tokenizer.py``).

256 edges on -1..1, 255 centres. A value is clipped to -1..1 and its bin ``k = digitize(value, edges)`` (1..256) becomes
id ``256 - k``: id 0 is the largest value. Decoding reads centre ``clamp(256 - id - 1, 0, 254)``, so ids 0 and 1 are the
same action. Tokens are time-major: token ``t`` is row ``t // D``, dimension ``t % D``.
"""

from __future__ import annotations

import numpy as np

COUNT = 256
EDGES = np.linspace(-1.0, 1.0, COUNT)
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2


class BinError(ValueError):
    """The ids are not one chunk of bins."""


def encode(y: np.ndarray) -> np.ndarray:
    """Normalised values of any shape to ids 0..255, i64. What lies outside -1..1 is clipped, as upstream."""
    return COUNT - np.digitize(np.clip(y, -1.0, 1.0), EDGES)


def decode(ids: np.ndarray) -> np.ndarray:
    """Ids of any shape to bin centres, f64. Raises BinError for an id outside 0..255."""
    ids = np.asarray(ids)
    if ids.size and not (0 <= ids.min() and ids.max() < COUNT):
        raise BinError(f"ids {ids.min()}..{ids.max()} are outside 0..{COUNT}")
    return CENTRES[np.clip(COUNT - ids - 1, 0, COUNT - 2)]


def decode_chunk(ids: np.ndarray, rows: int, dims: int) -> np.ndarray:
    """Time-major ids [rows * dims] to a normalised chunk, f64 [rows, dims]. Raises BinError on any other count."""
    ids = np.asarray(ids)
    if ids.shape != (rows * dims,):
        raise BinError(f"{ids.size} tokens, {rows} x {dims} = {rows * dims} needed")
    return decode(ids).reshape(rows, dims)


def value_of(ids: np.ndarray) -> np.ndarray:
    """A smooth stand-in for each id's value, f64: what the tables' features are made of (id 0 keeps its own value)."""
    return (COUNT - 1 - 2.0 * np.asarray(ids)) / (COUNT - 1)


def statistics(relative: np.ndarray, low: float, high: float) -> dict[str, np.ndarray]:
    """Range that the bins span, per dimension: quantiles ``low`` and ``high`` of ``relative`` [N, H, D], f64 [D] each."""
    flat = relative.reshape(-1, relative.shape[-1])
    q01, q99 = np.quantile(flat, [low, high], axis=0)
    return {"q01": q01.astype(np.float64), "q99": np.maximum(q99, q01 + 1e-3).astype(np.float64)}
