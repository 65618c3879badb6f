"""Plays a finished bundle in ONNX Runtime from nothing but its files, as the runtime does, to measure one with.

Reads ``policy.toml``, the graphs, ``golden.npz`` (or a file of its form). Families: act, openvla_oft, pi0_fast, bins, openvla,
flow, smolvla, pi0, pi05. Shapes as in the package's other modules.
"""

from __future__ import annotations

import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

from . import bins
from .bins import BinError
from .fast import Fast, FastError

MASKED = -1e4
TOKENS, STEPPED = ("pi0_fast", "bins", "openvla"), ("flow", "smolvla", "pi0", "pi05")
FAMILIES = (*TOKENS, *STEPPED, "act", "openvla_oft")


class PlayError(ValueError):
    """The bundle or the samples cannot be played. Says file, field and remedy."""


@dataclass
class Played:
    """What came of one sample."""

    rows: np.ndarray | None  # f64 [H, D], normalised; None where the tokens are no chunk
    head: np.ndarray  # what the head gave first
    visual: np.ndarray | None = None  # f32 [Nv, d], where there are visual tokens
    tokens: list[int] = field(default_factory=list)  # in the bundle's own counting
    best: list[int] = field(default_factory=list)  # the most likely token at each place behind given tokens
    times: dict[str, list[float]] = field(default_factory=dict)  # graph -> ms of each run
    feeds: dict[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)  # graph -> inputs of each run, where kept


def samples(path: Path) -> list[dict[str, np.ndarray]]:
    """The numbered samples of an ``.npz`` in the form of ``golden.npz``."""
    with np.load(path) as file:
        arrays = dict(file)
    found = []
    while any(name.startswith("state_") and name == f"state_{len(found)}" for name in arrays):
        suffix = f"_{len(found)}"
        found.append({name.removesuffix(suffix): values for name, values in arrays.items() if name.endswith(suffix)})
    if not found:
        raise PlayError(f"{path}: has no state_0: number the samples from 0, as golden.npz does")
    return found


class Player:
    """A bundle's graphs on one CPU thread."""

    def __init__(self, folder: Path, keep_feeds: bool = False, spec: dict | None = None):
        """``spec``: what ``policy.toml`` will say, while it is not there yet."""
        self.folder, self.keep_feeds = folder, keep_feeds
        self.spec = spec or tomllib.loads((folder / "policy.toml").read_text(encoding="utf-8"))
        self.family = self.spec["family"]
        if self.family not in FAMILIES:
            raise PlayError(f"policy.toml: family = {self.family}: {', '.join(FAMILIES)} can be played here")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.graphs = {
            path.stem: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in sorted(folder.glob("*.onnx"))
        }
        self.rows, self.dims = self.spec["chunk"]["horizon"], len(self.spec["action"])
        self.embedding = load_file(folder / "weights.safetensors")["embedding"].astype(np.float32) if "model" in self.spec else None
        self.fast = Fast.load(folder / "tokenizer") if self.family == "pi0_fast" else None

    def play(self, sample: dict[str, np.ndarray], forced: list[int] | None = None) -> Played:
        """One inference; ``forced`` tokens go on in the place of the most likely ones."""
        played = Played(None, np.zeros(0))
        if self.family in ("act", "openvla_oft"):
            played.head = self._run(played, "regress", self._observation(sample, right=True), ["actions"])[0][0]
            played.rows = played.head.astype(np.float64)
        elif self.family in TOKENS:
            self._generate(played, sample, forced)
        else:
            self._integrate(played, sample)
        return played

    def units(self) -> np.ndarray:
        """The robot's units (rad, m) in one normalised unit of each action dimension, [D]."""
        return np.array([unit(entry) for entry in self.spec["action"]])

    def _run(self, played: Played, graph: str, feed: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
        outputs = outputs or self._outputs(graph)
        if self.keep_feeds:
            played.feeds.setdefault(graph, []).append({name: values.copy() for name, values in feed.items()})
        start = time.perf_counter()
        result = self.graphs[graph].run(outputs, feed)
        played.times.setdefault(graph, []).append(1000 * (time.perf_counter() - start))
        return result

    def _outputs(self, graph: str) -> list[str]:
        """Names of a graph's outputs, logits first."""
        return sorted((output.name for output in self.graphs[graph].get_outputs()), key=lambda name: name != "logits")

    def _images(self, sample) -> list[np.ndarray]:
        """f32 [3, h, w] in 0..1 in slot order."""
        names = [camera["name"] for camera in self.spec["cameras"]]
        if "images" in sample:
            pixels = list(sample["images"])
        else:
            missing = [name for name in names if name not in sample]
            if missing:
                raise PlayError(f"the samples have no camera {missing[0]}: give one array <camera>_<number>, u8 [h, w, 3]")
            pixels = [sample[name] for name in names]
        for camera, image in zip(self.spec["cameras"], pixels):
            if image.shape != (camera["height"], camera["width"], 3):
                raise PlayError(f"a sample of {camera['name']} is {image.shape}: give u8 [{camera['height']}, {camera['width']}, 3], the model's own size")
        return [image.transpose(2, 0, 1).astype(np.float32) / 255 for image in pixels]

    def _state(self, sample) -> np.ndarray:
        """f32 [1, S], normalised."""
        return np.array([[normalised(entry, float(value)) for entry, value in zip(self.spec["state"], sample["state"])]], np.float32)

    def _observation(self, sample, right: bool) -> dict[str, np.ndarray]:
        """The inputs of a graph that reads images, perhaps tokens and a state; tokens at the right or the left end."""
        graph = "regress" if "regress" in self.graphs else "flow_prefix"
        wanted = {tensor.name: tensor.shape for tensor in self.graphs[graph].get_inputs()}
        feed = {f"image_{i}": image[None] for i, image in enumerate(self._images(sample))} | {"state": self._state(sample)}
        if "tokens" in wanted:
            ids, room = self._text(sample), wanted["tokens"][1]
            tokens, mask = np.zeros((1, room), np.int64), np.zeros((1, room), np.int64)
            place = slice(room - len(ids), room) if right else slice(0, len(ids))
            tokens[0, place], mask[0, place] = ids, 1
            feed |= {"tokens": tokens, "token_mask": mask}
        return {name: values for name, values in feed.items() if name in wanted}

    def _text(self, sample) -> np.ndarray:
        if "text_ids" not in sample:
            raise PlayError("the samples have no text_ids: give the prompt's ids, i64 [T], as golden.npz does")
        return sample["text_ids"].astype(np.int64)

    def _prefix(self, played: Played, sample) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Outputs of the prefill, which rows of the prefix are real, and the position behind it."""
        model, prompt = self.spec["model"], self.spec["prompt"]
        visual = self._run(played, "vision", {"image": np.stack(self._images(sample))})[0]
        played.visual = visual[0]
        text, n, s = self._text(sample), model["visual_tokens"], model["prefix"]
        before = int(self.family == "openvla")
        if n + len(text) > s:
            raise PlayError(f"a prompt of {len(text)} ids does not fit: [prompt] has room for {prompt['max_text_tokens']}")
        rest = s - (len(text) - before)
        x, positions, real = np.zeros((1, s, model["width"]), np.float32), np.zeros((1, s), np.int64), np.ones(s, bool)
        real[n + before : rest] = False
        x[0, :before], x[0, before : before + n], x[0, rest:] = self.embedding[text[:before]], visual[0], self.embedding[text[before:]]
        positions[0, real] = np.arange(n + len(text))
        mask = np.where(real, 0, MASKED).astype(np.float32)[None].repeat(s, 0)
        if before:
            mask = np.minimum(mask, np.triu(np.full((s, s), MASKED, np.float32), 1))
        outputs = self._run(played, "prefill", {"x": x, "positions": positions, "mask": mask[None, None]})
        answer = self.spec.get("answer", {})
        return outputs, real, n + len(text) + answer.get("position_gap", 0)

    def _generate(self, played: Played, sample, forced: list[int] | None) -> None:
        model = self.spec["model"]
        offset, s, slab = model.get("action_offset", 0), model["prefix"], model["slab"]
        (logits, *kv), real, at = self._prefix(played, sample)
        played.head = logits.reshape(-1)
        names = [name.replace("new_", "past_") for name in self._outputs("prefill")[1:]]
        past = {name: np.zeros((1, values.shape[1], slab, values.shape[3]), np.float32) for name, values in zip(names, kv)}
        for name, values in zip(names, kv):
            past[name][:, :, :s] = values
        mask = np.full((1, 1, 1, slab + 1), MASKED, np.float32)
        mask[..., :s][..., real], mask[..., -1] = 0, 0
        for step in range(model["max_tokens"]):
            best = int(logits.reshape(-1)[offset:].argmax())
            played.best.append(best)
            played.tokens.append(best if forced is None else forced[step])
            if self._ended(played.tokens) if forced is None else step + 1 == len(forced):
                break
            feed = {"x": self.embedding[offset + played.tokens[-1]][None, None], "positions": np.array([[at + step]], np.int64), "mask": mask, **past}
            logits, *kv = self._run(played, "decode_k1", feed)
            for name, values in zip(names, kv):
                past[name][:, :, s + step : s + step + 1] = values
            mask[..., s + step] = 0
        try:
            played.rows = self._decoded(played.tokens)
        except (FastError, BinError):
            played.rows = None

    def _ended(self, tokens: list[int]) -> bool:
        if "answer" in self.spec:
            end = self.spec["answer"]["end"]
            return tokens[-1] in end if end else len(tokens) == self.rows * self.dims
        if self.fast is None:
            return len(tokens) == self.rows * self.dims
        length = self.fast.length(tokens)
        return length is not None and length >= self.rows * self.dims

    def _decoded(self, tokens: list[int]) -> np.ndarray:
        if "answer" not in self.spec:
            return self.fast.decode(tokens, self.rows, self.dims) if self.fast else bins.decode_chunk(np.array(tokens), self.rows, self.dims)
        answer = self.spec["answer"]
        if self.family == "openvla":
            return bins.decode_chunk(np.array(tokens) - (answer["action_zero"] - 255), self.rows, self.dims)
        said = len(answer["prefix"])
        if tokens[:said] != answer["prefix"] or tokens[-1] not in answer["end"]:
            raise FastError("it does not begin and end as [answer] says")
        return self.fast.decode([answer["action_zero"] - token for token in tokens[said:-1]], self.rows, self.dims)

    def _integrate(self, played: Played, sample) -> None:
        if "noise" not in sample:
            raise PlayError("the samples have no noise: give f32 [H, W] for each, as golden.npz does")
        x = sample["noise"][None].astype(np.float32)
        is_own = self.family == "flow"
        steps = self.spec["flow" if is_own else "vla"]["steps"]
        if is_own:
            kv, real, at = self._prefix(played, sample)
            names = self._outputs("prefill")
            mask = np.concatenate([np.where(real, 0, MASKED), np.zeros(self.rows)]).astype(np.float32)
            fixed = {"positions": at + np.arange(self.rows)[None], "mask": np.tile(mask, (1, 1, self.rows, 1))}
            graph = "denoise"
        else:
            feed = self._observation(sample, right=False)
            kv = self._run(played, "flow_prefix", feed)
            names, graph = self._outputs("flow_prefix"), "flow_denoise"
            fixed = {"token_mask": feed["token_mask"], "state": self._state(sample)}
        fixed |= {name.replace("new_", "past_"): values for name, values in zip(names, kv)}
        wanted = {tensor.name for tensor in self.graphs[graph].get_inputs()}
        for index in range(steps):
            moment = np.full((1, self.rows), index / steps, np.float32) if is_own else np.array([1.0 - index / steps], np.float32)
            feed = {"noisy": x, "time": moment, **fixed}
            velocity = self._run(played, graph, {name: values for name, values in feed.items() if name in wanted})[0]
            if index == 0:
                played.head = velocity[0]
            x = x + np.float32((1 if is_own else -1) / steps) * velocity
        played.rows = x[0, :, : self.dims].astype(np.float64)


def unit(entry: dict) -> float:
    """The robot's units in one normalised unit of a dimension."""
    if "q01" in entry:
        return (entry["q99"] - entry["q01"] + 1e-6) / 2
    if "low" in entry:
        return (entry["high"] - entry["low"]) / 2
    return entry.get("std", 1.0)


def normalised(entry: dict, value: float) -> float:
    """As the runtime does it."""
    if "q01" in entry:
        return 2 * (value - entry["q01"]) / (entry["q99"] - entry["q01"] + 1e-6) - 1
    if "low" in entry:
        return 2 * (value - entry["low"]) / (entry["high"] - entry["low"]) - 1
    return (value - entry["mean"]) / (entry["std"] + 1e-8) if "mean" in entry else value
