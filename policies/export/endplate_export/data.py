"""Datasets written by ``endplate dataset``: checked at the door, memory-mapped, split by scene.

A wrong robot, a missing file or a wrong shape is a DatasetError that names the file and the field.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROBOT = "so101_sim"
JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
CAMERAS = [("front", 96, 96), ("wrist", 96, 96)]
COLOURS = ["red", "green", "blue"]
ROWS, DIMS = 16, 6
RELATIVE = np.array([True] * 5 + [False])  # dims 0..5 are row - measured state, the gripper is absolute
PAD_TOKEN = 65535
HELD_OUT_EVERY = 20  # scenes with scene % 20 == 19 are never trained on


class DatasetError(ValueError):
    """A dataset folder that cannot be used; the message names file, field and remedy."""


def file_digest(path: Path) -> str:
    """SHA-256 of one file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Dataset:
    """One folder. Arrays are memory maps over N frames; units and shapes as in the class body."""

    folder: Path
    meta: dict
    stats: dict  # {"state"|"action": {"q01"|"q99": f64 [6]}}
    images: np.ndarray  # u8 [N, 2, 96, 96, 3]
    state: np.ndarray  # f32 [N, 6] rad, measured
    actions: np.ndarray  # f32 [N, 16, 6] rad, absolute
    cubes: np.ndarray  # f32 [N, 3, 3] m, base frame
    pixels: np.ndarray  # f32 [N, 2, 3, 3]: u, v in pixels, visible 0/1
    target: np.ndarray  # u8 [N]
    scene: np.ndarray  # u32 [N]
    phase: np.ndarray  # u8 [N]
    tokens: np.ndarray  # u16 [N, Lmax], FAST ids, padded with 65535
    token_len: np.ndarray  # u16 [N]

    def __len__(self) -> int:
        return len(self.state)

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    def digest(self) -> str:
        """SHA-256 over name and SHA-256 of every file, in name order. Reads everything once."""
        total = hashlib.sha256()
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            total.update(f"{path.relative_to(self.folder).as_posix()} {file_digest(path)}\n".encode())
        return total.hexdigest()


def _json(path: Path) -> dict:
    if not path.is_file():
        raise DatasetError(f"{path}: missing; make it with `endplate dataset --out {path.parent}`")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: not JSON ({error})") from error


def _same(path: Path, field: str, got, expected) -> None:
    if got != expected:
        raise DatasetError(f"{path}: {field} is {got!r}, this policy needs {expected!r}")


def load(folder: str | Path) -> Dataset:
    """Opens one dataset folder and checks every file this package reads. Raises DatasetError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; make it with `endplate dataset --out {folder}`")
    path = folder / "meta.json"
    meta = _json(path)
    needed = ["format", "robot", "frames", "horizon", "row_period_s", "joints", "cameras", "colours", "phrases", "seed"]
    for key in needed:
        if key not in meta:
            raise DatasetError(f"{path}: {key} is missing")
    _same(path, "format", meta["format"], 1)
    _same(path, "robot", meta["robot"], ROBOT)
    _same(path, "horizon", meta["horizon"], ROWS)
    _same(path, "row_period_s", meta["row_period_s"], 0.1)
    _same(path, "joints", meta["joints"], JOINTS)
    _same(path, "cameras", [(c["name"], c["width"], c["height"]) for c in meta["cameras"]], CAMERAS)
    _same(path, "colours", meta["colours"], COLOURS)
    if not meta["phrases"] or any("{colour}" not in phrase for phrase in meta["phrases"]):
        raise DatasetError(f"{path}: phrases must be a non-empty list of templates with {{colour}}")
    frames = int(meta["frames"])
    if frames < 1:
        raise DatasetError(f"{path}: frames is {frames}")

    def array(name: str, dtype: str, *shape: int | None) -> np.ndarray:
        path = folder / f"{name}.npy"
        if not path.is_file():
            hint = "run the token step of `endplate dataset`" if name.startswith("token") else "the dataset is incomplete"
            raise DatasetError(f"{path}: missing; {hint}")
        try:
            value = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from error
        if value.dtype != np.dtype(dtype):
            raise DatasetError(f"{path}: dtype is {value.dtype}, expected {np.dtype(dtype)}")
        if value.ndim != len(shape) or any(want is not None and got != want for got, want in zip(value.shape, shape)):
            raise DatasetError(f"{path}: shape is {list(value.shape)}, expected {['*' if s is None else s for s in shape]}")
        return value

    path = folder / "stats.json"
    raw = _json(path)
    stats: dict = {}
    for kind in ("state", "action"):
        stats[kind] = {}
        for quantile in ("q01", "q99"):
            try:
                value = np.asarray(raw[kind][quantile], np.float64)
            except (KeyError, TypeError, ValueError) as error:
                raise DatasetError(f"{path}: {kind}.{quantile} is missing or not numbers") from error
            if value.shape != (DIMS,) or not np.isfinite(value).all():
                raise DatasetError(f"{path}: {kind}.{quantile} must hold {DIMS} finite numbers")
            stats[kind][quantile] = value
        if not (stats[kind]["q99"] > stats[kind]["q01"]).all():
            raise DatasetError(f"{path}: {kind}.q99 must exceed {kind}.q01 in every dimension")
    for name in ("tokenizer.json", "processor_config.json"):
        if not (folder / "tokenizer" / name).is_file():
            raise DatasetError(f"{folder / 'tokenizer' / name}: missing; the dataset is not completed with tokens")
    data = Dataset(
        folder, meta, stats,
        images=array("images", "u1", frames, len(CAMERAS), 96, 96, 3),
        state=array("state", "<f4", frames, DIMS),
        actions=array("actions", "<f4", frames, ROWS, DIMS),
        cubes=array("cubes", "<f4", frames, 3, 3),
        pixels=array("pixels", "<f4", frames, len(CAMERAS), 3, 3),
        target=array("target", "u1", frames),
        scene=array("scene", "<u4", frames),
        phase=array("phase", "u1", frames),
        tokens=array("tokens", "<u2", frames, None),
        token_len=array("token_len", "<u2", frames),
    )
    for name in ("state", "actions", "cubes"):
        if not np.isfinite(getattr(data, name)).all():
            raise DatasetError(f"{folder / (name + '.npy')}: holds non-finite values")
    _whole_frames(folder, data.images)
    _whole_episodes(folder, np.asarray(array("episode", "<u4", frames)), meta)
    if int(data.target.max()) >= len(COLOURS):
        raise DatasetError(f"{folder / 'target.npy'}: holds {int(data.target.max())}, colours are 0..{len(COLOURS)}")
    if int(data.token_len.min()) < 1 or int(data.token_len.max()) > data.tokens.shape[1]:
        raise DatasetError(f"{folder / 'token_len.npy'}: lengths must be 1..{data.tokens.shape[1]}")
    return data


def _whole_frames(folder: Path, images: np.ndarray) -> None:
    """Refuses frames that were never written: an image whose middle row is one value is looked at as a whole."""
    step = 4096
    for start in range(0, len(images), step):
        line = images[start : start + step, :, images.shape[2] // 2]
        flat = (line == line[:, :, :1, :1]).all((2, 3))
        for i, camera in np.argwhere(flat):
            whole = images[start + i, camera]
            if (whole == whole.flat[0]).all():
                name = CAMERAS[camera][0]
                raise DatasetError(f"{folder / 'images.npy'}: frame {start + i} of camera {name!r} is empty (every value is {whole.flat[0]}); record the dataset again")


def _whole_episodes(folder: Path, episode: np.ndarray, meta: dict) -> None:
    """Episodes are stored one after the other and as many as ``meta.json`` says; frames of an episode are consecutive ticks."""
    path = folder / "episode.npy"
    back = np.flatnonzero(np.diff(episode.astype(np.int64)) < 0)
    if len(back):
        raise DatasetError(f"{path}: frame {int(back[0]) + 1} goes back to episode {int(episode[back[0] + 1])}; frames are missing or out of order")
    count = len(np.unique(episode))
    if "episodes" in meta and count != meta["episodes"]:
        raise DatasetError(f"{path}: {count} episodes, meta.json says {meta['episodes']}; frames are missing")


def load_all(folders: list[str | Path]) -> list[Dataset]:
    """Several folders to train on together; tokenizer, statistics and phrasings must be the same in all."""
    sets = [load(folder) for folder in folders]
    first = sets[0]
    for other in sets[1:]:
        for name in ("tokenizer/tokenizer.json", "tokenizer/processor_config.json"):
            if file_digest(other.folder / name) != file_digest(first.folder / name):
                raise DatasetError(f"{other.folder / name}: differs from {first.folder / name}; encode it with the first dataset's tokenizer")
        if any(not np.array_equal(other.stats[k][q], first.stats[k][q]) for k in other.stats for q in other.stats[k]):
            raise DatasetError(f"{other.folder / 'stats.json'}: differs from {first.folder / 'stats.json'}; encode it with the first dataset's statistics")
        _same(other.folder / "meta.json", "phrases", other.meta["phrases"], first.meta["phrases"])
    return sets
