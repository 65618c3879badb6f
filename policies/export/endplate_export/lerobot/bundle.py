"""A checkpoint to a bundle: graphs, golden samples from LeRobot itself, ``policy.toml``, digests, and the comparison."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import torch

from ..description import dumps, seal
from . import ExportError, embodiment as embodiments, graphs, statistics
from .checkpoint import ACTION, STATE, WEIGHTS, Checkpoint
from .embodiment import Embodiment

#: Largest error of an action allowed, as a share of its range.
ALLOWED = 1e-5
SAMPLES = 2
SEED = 20


@dataclass
class Sample:
    """One observation, what LeRobot answers, and how the answer came about."""

    images: dict[str, np.ndarray]  # camera name -> u8 [h, w, 3]
    state: np.ndarray  # f64 [S], robot units
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # golden arrays of the family
    actions: np.ndarray | None = None  # f64 [H, D], robot units
    past: tuple["Sample", ...] = ()  # earlier observations a row apart, oldest first
    instruction: str = ""  # for a family that reads one


@dataclass
class Table:
    """What a family adds to ``policy.toml``."""

    horizon: int
    execute_rows: int
    resize: str = "none"
    pad: str = "none"
    observations: int = 1  # moments an inference reads, a row apart, oldest first
    instruction: str = ""  # that of the golden samples, for a family that reads one
    tables: dict[str, dict] = field(default_factory=dict)
    costs: tuple[str, ...] = ()  # keys of [budget]
    probes: tuple[str, ...] = ()  # keys of [engines] beside action_rad
    arrays: dict[str, str] = field(default_factory=dict)  # probe -> golden array, where that has another name
    candidates: int = 0  # observations to try where not every one has an answer; 0: as many as golden samples

    def array(self, probe: str) -> str:
        """The golden array of a probe."""
        return self.arrays.get(probe, probe)


class Incomplete(Exception):
    """The source model itself gives no whole action on this observation."""


class Family(Protocol):
    """One family: its graphs, LeRobot's answer, and the answer of its graphs."""

    table: Table

    def write(self, folder: Path, shared: graphs.Shared) -> None:
        """Writes the graphs."""

    def reference(self, sample: Sample) -> None:
        """Fills ``sample.arrays`` and ``sample.actions`` from LeRobot."""

    def replay(self, folder: Path, sample: Sample) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
        """Probes, normalised rows [H, D] and ms per cost key of the graphs in ONNX Runtime."""


@dataclass
class Source:
    """Everything a family works from."""

    checkpoint: Checkpoint
    embodiment: Embodiment
    policy: torch.nn.Module
    preprocessor: object
    postprocessor: object
    origin: str = ""  # what is compared against

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Camera name -> (h, w) of the feature."""
        return {name: self.checkpoint.shape(key)[1:] for key, name in self.checkpoint.cameras.items()}

    def dataset_state(self, state: np.ndarray) -> np.ndarray:
        """A state in the robot's units, [..., S] f64, as the dataset records it, f32."""
        scale, offset = (np.array([getattr(dim, key) for dim in self.embodiment.state]) for key in ("scale", "offset"))
        return ((state - offset) / scale).astype(np.float32)

    def robot_action(self, action: np.ndarray) -> np.ndarray:
        """Rows as LeRobot puts them out, [H, D], in the robot's units, f64."""
        scale, offset = (np.array([getattr(dim, key) for dim in self.embodiment.action]) for key in ("scale", "offset"))
        return action.astype(np.float64) * scale + offset

    def batch(self, sample: Sample) -> dict[str, torch.Tensor]:
        """The observation as LeRobot's own robot loop hands it to the preprocessor."""
        batch = {STATE: torch.from_numpy(self.dataset_state(sample.state))}
        for key, name in self.checkpoint.cameras.items():
            batch[key] = torch.from_numpy(sample.images[name]).permute(2, 0, 1).contiguous().float() / 255
        return batch

    def normalised_state(self, sample: Sample) -> np.ndarray:
        """What the runtime feeds, [S] f32: the bundle's own arithmetic in f64."""
        kind, entries = statistics.vector(self.checkpoint, STATE, self.embodiment.state)
        return np.array([normalise(kind, entry, value) for entry, value in zip(entries, sample.state)], np.float32)

    def absolute(self, normalised: np.ndarray) -> np.ndarray:
        """Normalised rows [H, D] in the robot's units, by the bundle's own arithmetic in f64."""
        kind, entries = statistics.vector(self.checkpoint, ACTION, self.embodiment.action)
        return np.stack([denormalise(kind, entry, normalised[:, i].astype(np.float64)) for i, entry in enumerate(entries)], 1)

    def anchor(self, sample: Sample) -> np.ndarray:
        """What relative actions are added to, [D]: the observed value of the joint of the same name."""
        state = {dim.name: value for dim, value in zip(self.embodiment.state, sample.state)}
        return np.array([state[dim.name] if dim.kind == "joint_rel" else 0.0 for dim in self.embodiment.action])

    def answer(self, rows: torch.Tensor) -> np.ndarray:
        """LeRobot's normalised rows [1, H, D] through LeRobot's postprocessor, in the robot's units [H, D]."""
        return self.robot_action(self.postprocessor(rows)[0].numpy())


def normalise(kind: str, entry: dict[str, float], value: float) -> float:
    """As the runtime does it."""
    if kind == "mean_std":
        return (value - entry["mean"]) / (entry["std"] + 1e-8)
    if kind == "range":
        return 2 * (value - entry["low"]) / (entry["high"] - entry["low"]) - 1
    return value


def denormalise(kind: str, entry: dict[str, float], value: np.ndarray) -> np.ndarray:
    """As the runtime does it."""
    if kind == "mean_std":
        return value * entry["std"] + entry["mean"]
    if kind == "range":
        return (value + 1) / 2 * (entry["high"] - entry["low"]) + entry["low"]
    return value


def load(checkpoint: Checkpoint, embodiment: Embodiment) -> Source:
    """The policy and its processors through LeRobot's own loaders, every tensor accounted for, on the CPU in f32."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    folder = str(checkpoint.folder)
    try:
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=["--device=cpu"])
    except Exception as error:  # draccus raises many types; each names the key
        raise ExportError("config.json", "", "", f"LeRobot cannot read it: {error}") from error
    try:
        policy = get_policy_class(checkpoint.family).from_pretrained(folder, config=config, strict=True)
    except RuntimeError as error:
        raise ExportError("model.safetensors", "", "", f"does not hold the tensors that config.json describes: {error}") from error
    loaded = policy.state_dict()
    for name, values in tensors(checkpoint.folder / WEIGHTS):
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise ExportError(WEIGHTS, name, "not finite", "the training diverged or the file is damaged; use another checkpoint")
        # Some policies load what they can and go on: every tensor of the file must have arrived.
        found = loaded.get(name)
        if found is None or not torch.equal(found.float(), values.float()):
            raise ExportError(WEIGHTS, name, "not loaded" if found is None else "another value", f"LeRobot {lerobot_version()} did not load it as it is; save the checkpoint again with that version")
    device = {"device_processor": {"device": "cpu"}}
    before = dict(device)
    if checkpoint.family == "pi0_fast":
        # LeRobot does not save this name and would ask for PaliGemma's; the step does nothing without an action.
        before["action_tokenizer_processor"] = {"paligemma_tokenizer_name": config.text_tokenizer_name}
    pre, post = make_pre_post_processors(config, pretrained_path=folder, preprocessor_overrides=before, postprocessor_overrides=device)
    return Source(checkpoint, embodiment, policy.float().eval(), pre, post, f"LeRobot {lerobot_version()}")


def tensors(path: Path):
    """Name and tensor of every entry of a safetensors file, of any element type."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for name in file.keys():
            yield name, file.get_tensor(name)


def lerobot_version() -> str:
    import lerobot

    return lerobot.__version__


def golden_samples(source: Source, sizes: dict[str, tuple[int, int]], observations: int = 1, count: int = SAMPLES) -> list[Sample]:
    """Smooth random images and states inside the training distribution, from a fixed seed; the last of ``observations``
    moments carries the earlier ones."""
    rng = np.random.default_rng(SEED)
    kind, entries = statistics.vector(source.checkpoint, STATE, source.embodiment.state)
    moments = []
    for _ in range(count * observations):
        images = {}
        for name, (h, w) in sizes.items():
            y, x = np.mgrid[0:h, 0:w] / max(h, w)
            waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(-3, 3, (3, 3))]
            images[name] = (127.5 + 100 * np.stack(waves, -1) + rng.normal(0, 8, (h, w, 3))).clip(0, 255).astype(np.uint8)
        state = np.array([denormalise(kind, entry, value) for entry, value in zip(entries, rng.uniform(-0.8, 0.8, len(entries)))])
        moments.append(Sample(images, state))
    samples = moments[observations - 1 :: observations]
    for i, sample in enumerate(samples):
        sample.past = tuple(moments[i * observations : (i + 1) * observations - 1])
    return samples


def observed(sample: Sample) -> dict[str, np.ndarray]:
    """The observation as ``endplate infer`` and golden replay read it: one array a camera and ``state``, with a leading
    axis of moments where there are several, and ``instruction`` as UTF-8 bytes."""
    moments = (*sample.past, sample)
    arrays = {name: np.stack([moment.images[name] for moment in moments]) for name in sample.images}
    arrays["state"] = np.stack([moment.state for moment in moments])
    arrays = arrays if sample.past else {name: values[0] for name, values in arrays.items()}
    return arrays | ({"instruction": np.frombuffer(sample.instruction.encode(), np.uint8)} if sample.instruction else {})


def write(source: Source, family: Family, out: Path, name: str, description: str) -> list[str]:
    """Writes the bundle to ``out``, which must not exist; returns the report, one line a fact.

    Raises ExportError, and leaves nothing behind, when the graphs do not give LeRobot's actions.
    """
    if out.exists():
        raise ExportError(out, "", "", "exists already; remove it or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        report = _fill(source, family, partial, name, description)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _fill(source: Source, family: Family, folder: Path, name: str, description: str) -> list[str]:
    checkpoint, embodiment, table = source.checkpoint, source.embodiment, family.table
    shared = graphs.Shared(folder)
    family.write(folder, shared)
    shared.close()
    sizes = getattr(family, "sizes", source.sizes)()
    samples = answered(family, golden_samples(source, sizes, table.observations, table.candidates or SAMPLES))
    width = statistics.action_range(checkpoint, embodiment.action)
    worst, probes, times = 0.0, dict.fromkeys(table.probes, 0.0), {key: [] for key in table.costs}
    for sample in samples:
        for _ in range(5):
            found, normalised, took = family.replay(folder, sample)
            for key in table.costs:
                times[key].append(took[key])
        worst = max(worst, float((np.abs(source.absolute(normalised) - sample.actions) / width).max()))
        for key in table.probes:
            probes[key] = max(probes[key], float(np.abs(found[key] - sample.arrays[table.array(key)]).max()))
    measured = ", ".join(f"{key} {value:.1e}" for key, value in probes.items())
    report = [
        f"{checkpoint.family} of {source.origin} (torch {torch.__version__}) in ONNX Runtime {onnxruntime.__version__}: "
        f"largest error {worst:.1e} of the action range at model resolution ({measured}); {len(samples)} samples"
    ]
    if not worst <= ALLOWED:
        raise ExportError(checkpoint.folder, "", "", f"the graphs do not give {source.origin.split()[0]}'s actions: {report[0]}; at most {ALLOWED:.0e} is allowed")
    arrays = {}
    for i, sample in enumerate(samples):
        arrays |= {f"{key}_{i}": values for key, values in observed(sample).items()}
        arrays[f"actions_{i}"] = sample.actions + source.anchor(sample)
        arrays |= {f"{key}_{i}": values for key, values in sample.arrays.items()}
    np.savez_compressed(folder / "golden.npz", **{key: np.ascontiguousarray(values) for key, values in arrays.items()})
    digests = seal(folder)
    state_kind, state = statistics.vector(checkpoint, STATE, embodiment.state)
    action_kind, action = statistics.vector(checkpoint, ACTION, embodiment.action)
    # In normalised units the narrowest action bounds what its outputs may move.
    normalised_width = width / np.array([_unit(action_kind, entry) for entry in action])
    tolerance = {key: _short(10 * ALLOWED * max(1.0, float(np.abs(np.concatenate([s.arrays[table.array(key)].ravel() for s in samples])).max()))) for key in table.probes}
    if "output" in tolerance:
        tolerance["output"] = _short(ALLOWED * float(normalised_width.min()))
    tolerance["action_rad"] = _short(ALLOWED * float(width.min()))
    budget = {key: float(f"{sorted(values)[len(values) // 2] + 0.005:.2f}") for key, values in times.items()}
    report.append("one thread, ms: " + ", ".join(f"{key[:-3]} {value}" for key, value in budget.items()))
    (folder / "policy.toml").write_text(dumps({
        "format": 1, "name": name, "family": checkpoint.family, "robot": embodiment.robot, "precision": "f32", "description": description,
        "engines": {"tract": tolerance, "ort": tolerance},
        "files": digests,
        "normalisation": {"state": state_kind, "action": action_kind},
        "cameras": [{"name": camera, "width": w, "height": h, "resize": table.resize, "pad": table.pad} for camera, (h, w) in sizes.items()],
        "state": [{**dim.entry(), **entry} for dim, entry in zip(embodiment.state, state)],
        "action": [{**dim.entry(), **entry} for dim, entry in zip(embodiment.action, action)],
        "chunk": {
            "horizon": table.horizon, "row_period_s": embodiment.row_period_s, "execute_rows": table.execute_rows,
            "observation_lag_s": embodiment.observation_lag_s, "max_skew_s": embodiment.max_skew_s,
        },
        **table.tables,
        "budget": budget,
    }), encoding="utf-8")
    return report


def answered(family: Family, candidates: list[Sample]) -> list[Sample]:
    """The first golden samples for which the source model has an answer, with it."""
    samples, why = [], ""
    for sample in candidates:
        sample.instruction = family.table.instruction
        try:
            family.reference(sample)
        except Incomplete as error:
            why = str(error)
            continue
        samples.append(sample)
        if len(samples) == SAMPLES:
            return samples
    raise ExportError("model.safetensors", "", "", f"of {len(candidates)} made-up observations {len(samples)} have an answer and {SAMPLES} are needed: {why}; train longer")


def _unit(kind: str, entry: dict[str, float]) -> float:
    """The robot's units in one normalised unit."""
    return entry["std"] if kind == "mean_std" else (entry["high"] - entry["low"]) / 2 if kind == "range" else 1.0


def _short(value: float) -> float:
    return float(f"{value:.2g}")


def timed(times: dict[str, float], key: str, call):
    """Runs ``call`` and adds its ms to ``times[key]``."""
    start = time.perf_counter()
    result = call()
    times[key] = times.get(key, 0.0) + 1000 * (time.perf_counter() - start)
    return result


def open_embodiment(checkpoint: Checkpoint, path: Path | None) -> Embodiment:
    """The embodiment named, or the one beside the checkpoint."""
    return embodiments.read(path or checkpoint.folder / embodiments.FILE, checkpoint.shape(STATE)[0], checkpoint.shape(ACTION)[0])
