"""Replays a policy the way the runtime does: fixed prefix and slab, then tokens one by one or Euler steps.

The same replay runs on torch (the reference, weights rounded to fp16) and on the bundle's graphs in ONNX Runtime; what
they give is compared before a bundle is handed over, and kept in it as ``golden.npz``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from . import bins
from .bins import BinError
from .data import COLOURS, DIMS, HELD_OUT_EVERY, RELATIVE, ROWS, Dataset
from .fast import Fast, FastError, absolute_actions, normalise
from .flow import STEPS
from .graphs import Shape
from .text import prompt_ids, sentence, state_bins

MASKED = -1e4
SAMPLES = 2


class BundleError(ValueError):
    """The bundle would be wrong; nothing is written."""


@dataclass
class Sample:
    """One observation and, once run, its golden outputs."""

    instruction: str
    images: np.ndarray  # u8 [2, 96, 96, 3]
    state: np.ndarray  # f64 [6] rad
    text_ids: np.ndarray  # i64 [T]
    visual: np.ndarray | None = None  # f32 [1, Nv, d]
    logits: np.ndarray | None = None  # f32 [V], after the prefix (token families)
    tokens: np.ndarray | None = None  # i64, action ids (token families)
    noise: np.ndarray | None = None  # f32 [H, D] (flow)
    velocity: np.ndarray | None = None  # f32 [H, D], first Euler step (flow)
    actions: np.ndarray | None = None  # f64 [H, D] rad; None when the tokens are not one chunk

    @property
    def pixels(self) -> np.ndarray:
        """The vision graph's input, f32 [2, 3, 96, 96] in 0..1."""
        return np.ascontiguousarray(self.images.transpose(0, 3, 1, 2)).astype(np.float32) / 255


def prefill_inputs(visual: np.ndarray, text: np.ndarray, text_ids: np.ndarray, shape: Shape):
    """x [1, S, d], positions [1, S], mask [1, 1, S, S]: visual rows left, text right-aligned, padding masked as keys."""
    n, t, s = shape.visual_tokens, len(text_ids), shape.prefix
    if n + t > s:
        raise BundleError(f"{t} text tokens do not fit: the prefix holds {s - n}")
    x = np.zeros((1, s, shape.width), np.float32)
    x[0, :n], x[0, s - t :] = visual[0], text[text_ids]
    positions = np.zeros((1, s), np.int64)
    positions[0, :n], positions[0, s - t :] = np.arange(n), n + np.arange(t)
    mask = np.zeros((1, 1, s, s), np.float32)
    mask[..., n : s - t] = MASKED
    return x, positions, mask


def generate(run_vision, run_prefill, run_decode, embedding: np.ndarray, sample: Sample, shape: Shape, offset: int, stop, limit: int) -> Sample:
    """Greedy generation with the runtime's slab layout. ``stop(ids)`` says when to end; returns a sample with outputs.

    ``run_prefill(x, positions, mask) -> (logits [V], [(k, v)])``, ``run_decode(x, positions, mask, slab) -> same``.
    """
    n, s, t = shape.visual_tokens, shape.prefix, len(sample.text_ids)
    visual = run_vision(sample.pixels)
    first, cache = run_prefill(*prefill_inputs(visual, embedding, sample.text_ids, shape))
    slab = [(np.zeros((1, shape.kv_heads, shape.slab, shape.head_dim), np.float32), np.zeros((1, shape.kv_heads, shape.slab, shape.head_dim), np.float32)) for _ in range(shape.layers)]
    for (k, v), (new_k, new_v) in zip(slab, cache):
        k[:, :, :s], v[:, :, :s] = new_k, new_v
    mask = np.full((1, 1, 1, shape.slab + 1), MASKED, np.float32)
    mask[..., :n], mask[..., s - t : s], mask[..., -1] = 0, 0, 0
    logits, ids = first, []
    for step in range(limit):
        ids.append(int(logits.argmax()) - offset)
        if stop(ids) or step + 1 == limit:
            break
        logits, new = run_decode(embedding[ids[-1] + offset][None, None], np.array([[n + t + step]]), mask, slab)
        for (k, v), (new_k, new_v) in zip(slab, new):
            k[:, :, s + step], v[:, :, s + step] = new_k[:, :, 0], new_v[:, :, 0]
        mask[..., s + step] = 0
    return replace(sample, visual=visual, logits=first, tokens=np.array(ids, np.int64), actions=None)


def integrate(run_vision, run_prefill, run_denoise, embedding: np.ndarray, sample: Sample, shape: Shape,
              committed: np.ndarray | None = None) -> tuple[Sample, np.ndarray]:
    """Ten Euler steps from the sample's noise; returns the sample with outputs and the normalised chunk.

    The first rows are held to ``committed`` [d, D] (normalised) with a time of 1, as the runtime does with rows it will play.

    ``run_prefill(x, positions, mask) -> [(k, v)]``, ``run_denoise(noisy, time, positions, mask, past) -> velocity [1, H, D]``.
    """
    n, s, t = shape.visual_tokens, shape.prefix, len(sample.text_ids)
    x = sample.noise[None].copy()
    rows = x.shape[1]
    visual = run_vision(sample.pixels)
    past = run_prefill(*prefill_inputs(visual, embedding, sample.text_ids, shape))
    positions = n + t + np.arange(rows)[None]
    mask = np.zeros((1, 1, rows, s + rows), np.float32)
    mask[..., n : s - t] = MASKED
    first, held = None, 0 if committed is None else len(committed)
    for step in range(STEPS):
        time = np.full((1, rows), step / STEPS, np.float32)
        if held:
            x[:, :held], time[:, :held] = committed, 1.0
        velocity = run_denoise(x, time, positions, mask, past)
        first = velocity if first is None else first
        x = x + velocity / np.float32(STEPS)
    if held:
        x[:, :held] = committed
    return replace(sample, visual=visual, velocity=first[0]), x[0]


def torch_runners(policy):
    """The reference's three graphs as functions on numpy arrays; ``policy`` is plain, f32, on the CPU."""
    def tensors(*arrays):
        return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]

    def arrays(cache):
        return [(k.numpy(), v.numpy()) for k, v in cache]

    @torch.no_grad()
    def run_vision(image):
        return policy.vision(torch.from_numpy(image)[None])[0].numpy()

    def run_prefill(x, positions, mask):
        logits, cache = policy.prefill(*tensors(x, positions, mask))
        return logits[0].numpy(), arrays(cache)

    def run_decode(x, positions, mask, slab):
        logits, new = policy.decode(*tensors(x, positions, mask), [tuple(tensors(k, v)) for k, v in slab])
        return logits[0].numpy(), arrays(new)

    def run_flow_prefill(x, positions, mask):
        return arrays(policy.prefill(*tensors(x, positions, mask)))

    def run_denoise(noisy, time, positions, mask, past):
        return policy.denoise(*tensors(noisy, time, positions, mask), [tuple(tensors(k, v)) for k, v in past]).numpy()

    return (run_vision, run_flow_prefill, run_denoise) if policy.config.family == "flow" else (run_vision, run_prefill, run_decode)


def ort_runners(folder: Path, layers: int):
    """The bundle's graphs in ONNX Runtime on one CPU thread; a folder with ``denoise.onnx`` is a flow bundle."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def session(name):
        return onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])

    vision, prefill = session("vision"), session("prefill")
    caches = [f"new_{kind}_{layer}" for layer in range(layers) for kind in "kv"]

    def pairs(values):
        return list(zip(values[::2], values[1::2]))

    def past_of(cache):
        return {f"past_{kind}_{layer}": cache[layer][i] for layer in range(layers) for i, kind in enumerate("kv")}

    def run_vision(image):
        return vision.run(["visual"], {"image": image})[0]

    if (folder / "denoise.onnx").exists():
        denoise = session("denoise")

        def run_flow_prefill(x, positions, mask):
            return pairs(prefill.run(caches, {"x": x, "positions": positions, "mask": mask}))

        def run_denoise(noisy, time, positions, mask, past):
            return denoise.run(["velocity"], {"noisy": noisy, "time": time, "positions": positions, "mask": mask, **past_of(past)})[0]

        return run_vision, run_flow_prefill, run_denoise
    decode = session("decode_k1")

    def split(values):
        return values[0].reshape(-1), pairs(values[1:])

    def run_prefill(x, positions, mask):
        return split(prefill.run(["logits", *caches], {"x": x, "positions": positions, "mask": mask}))

    def run_decode(x, positions, mask, slab):
        return split(decode.run(["logits", *caches], {"x": x, "positions": positions, "mask": mask, **past_of(slab)}))

    return run_vision, run_prefill, run_decode


def observe(data: Dataset, tokenizer, frame: int, phrase: str) -> Sample:
    """The observation of one dataset frame (state f32 -> f64 as stored) under one phrasing of its colour."""
    state = np.asarray(data.state[frame]).astype(np.float64)
    binned = state_bins(normalise(state, data.stats["state"]["q01"], data.stats["state"]["q99"]))
    instruction = sentence(phrase, COLOURS[int(data.target[frame])])
    return Sample(instruction, np.asarray(data.images[frame]), state, prompt_ids(tokenizer, instruction, binned))


class FastCodec:
    """Stop rule and decoding of FAST tokens: the coefficients are complete."""

    def __init__(self, fast: Fast):
        self.fast, self.limit = fast, ROWS * DIMS  # a coefficient a token at worst

    def stop(self, ids: list[int]) -> bool:
        """A text id ends the chunk too; decoding then refuses it."""
        if ids[-1] < 0:
            return True
        length = self.fast.length(ids)
        return length is not None and length >= ROWS * DIMS

    def decode(self, ids: np.ndarray) -> np.ndarray:
        return self.fast.decode(ids, ROWS, DIMS)


class BinCodec:
    """Stop rule and decoding of bin tokens: a fixed count."""

    def __init__(self, rows: int):
        self.rows, self.limit = rows, rows * DIMS

    def stop(self, ids: list[int]) -> bool:
        return ids[-1] < 0

    def decode(self, ids: np.ndarray) -> np.ndarray:
        return bins.decode_chunk(ids, self.rows, DIMS)


class Replay:
    """One policy's replay: everything but the runners, which are torch's or the bundle's."""

    def __init__(self, shape: Shape, embedding: np.ndarray, action: dict[str, np.ndarray], rows: int):
        self.shape, self.embedding, self.action, self.rows = shape, embedding, action, rows

    def rad(self, y: np.ndarray, state: np.ndarray) -> np.ndarray:
        return absolute_actions(y, state, self.action["q01"], self.action["q99"], RELATIVE)

    def start(self, sample: Sample, number: int) -> Sample:
        """Adds what an inference draws at random."""
        return sample

    def _median(self, call, *arguments) -> float:
        times = []
        for _ in range(31):
            start = time.perf_counter()
            call(*arguments)
            times.append(1000 * (time.perf_counter() - start))
        return sorted(times)[15]

    def measure(self, runners, sample: Sample) -> dict[str, float]:
        """Median ms of each stage on one thread, this machine."""
        visual = runners[0](sample.pixels)
        inputs = prefill_inputs(visual, self.embedding, sample.text_ids, self.shape)
        return {"vision_ms": self._median(runners[0], sample.pixels), "prefill_ms": self._median(runners[1], *inputs)}


class TokenReplay(Replay):
    """FAST and bins."""

    output = "logits"

    def __init__(self, shape, embedding, action, rows, codec, offset: int):
        super().__init__(shape, embedding, action, rows)
        self.codec, self.offset = codec, offset

    def run(self, runners, sample: Sample) -> Sample:
        done = generate(*runners, self.embedding, sample, self.shape, self.offset, self.codec.stop, self.codec.limit)
        try:
            done.actions = self.rad(self.codec.decode(done.tokens), done.state)
        except (FastError, BinError):
            done.actions = None
        return done

    def measure(self, runners, sample: Sample) -> dict[str, float]:
        shape = self.shape
        slab = [(np.zeros((1, shape.kv_heads, shape.slab, shape.head_dim), np.float32),) * 2 for _ in range(shape.layers)]
        mask = np.zeros((1, 1, 1, shape.slab + 1), np.float32)
        token = self._median(runners[2], self.embedding[:1][None], np.array([[shape.prefix]]), mask, slab)
        return super().measure(runners, sample) | {"token_ms": token}

    def arrays(self, sample: Sample, i: int) -> dict[str, np.ndarray]:
        return {f"prefill_logits_{i}": sample.logits.astype(np.float32), f"tokens_{i}": sample.tokens}


class FlowReplay(Replay):
    """Flow matching; the noise of golden sample i is drawn from seed i."""

    output = "velocity"

    def start(self, sample: Sample, number: int) -> Sample:
        return replace(sample, noise=np.random.default_rng(number).standard_normal((self.rows, DIMS)).astype(np.float32))

    def run(self, runners, sample: Sample, committed: np.ndarray | None = None) -> Sample:
        done, y = integrate(*runners, self.embedding, sample, self.shape, committed)
        done.actions = self.rad(y.astype(np.float64), done.state)
        return done

    def measure(self, runners, sample: Sample) -> dict[str, float]:
        shape, rows = self.shape, self.rows
        past = [(np.zeros((1, shape.kv_heads, shape.prefix, shape.head_dim), np.float32),) * 2 for _ in range(shape.layers)]
        inputs = (sample.noise[None], np.zeros((1, rows), np.float32), shape.prefix + np.arange(rows)[None], np.zeros((1, 1, rows, shape.prefix + rows), np.float32))
        return super().measure(runners, sample) | {"step_ms": self._median(runners[2], *inputs, past)}

    def arrays(self, sample: Sample, i: int) -> dict[str, np.ndarray]:
        return {f"noise_{i}": sample.noise, f"velocity_{i}": sample.velocity.astype(np.float32)}


def golden_samples(replay: Replay, runners, data: Dataset, tokenizer) -> list[Sample]:
    """Observations of held-out scenes, one colour each, whose chunk is complete. Raises BundleError if there are too few."""
    held_out = np.flatnonzero(data.scene % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
    phrases = data.meta["phrases"]
    found: list[Sample] = []
    for tried, frame in enumerate(held_out[np.random.default_rng(11).permutation(len(held_out))][:200]):
        if len(found) == SAMPLES:
            return found
        if int(data.target[frame]) != len(found) % len(COLOURS):
            continue
        sample = replay.run(runners, replay.start(observe(data, tokenizer, frame, phrases[tried % len(phrases)]), len(found)))
        if sample.actions is not None:
            found.append(sample)
    if len(found) < SAMPLES:
        raise BundleError(f"only {len(found)} of {SAMPLES} golden samples: the policy's greedy chunks do not decode; train longer")
    return found


def compare(replay: Replay, goldens: list[Sample], runners) -> dict[str, float]:
    """Largest |difference| of visual, logits or velocity, and actions against the goldens; ``tokens`` counts chunks whose ids differ."""
    worst = {"visual": 0.0, replay.output: 0.0, "action_rad": 0.0, "tokens": 0}
    for golden in goldens:
        got = replay.run(runners, golden)
        for key in ("visual", replay.output):
            worst[key] = max(worst[key], float(np.abs(getattr(got, key) - getattr(golden, key)).max()))
        if golden.tokens is not None:
            worst["tokens"] += int(not np.array_equal(got.tokens, golden.tokens))
        worst["action_rad"] = max(worst["action_rad"], math.inf if got.actions is None else float(np.abs(got.actions - golden.actions).max()))
    return worst


def write_golden(path: Path, replay: Replay, samples: list[Sample]) -> None:
    """``golden.npz`` of the bundle format."""
    arrays: dict[str, np.ndarray] = {}
    for i, s in enumerate(samples):
        arrays |= {
            f"instruction_{i}": np.frombuffer(s.instruction.encode("utf-8"), np.uint8), f"images_{i}": s.images, f"state_{i}": s.state,
            f"text_ids_{i}": s.text_ids, f"visual_{i}": s.visual.astype(np.float32), **replay.arrays(s, i), f"actions_{i}": s.actions,
        }
    np.savez(path, **arrays)
