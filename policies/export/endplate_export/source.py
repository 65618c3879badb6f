"""What the trainer draws batches from: prompts, frames, augmentation and the labels that every family shares."""

from __future__ import annotations

import argparse

import numpy as np
import torch

from .data import COLOURS, DIMS, HELD_OUT_EVERY, RELATIVE, Dataset, DatasetError
from .fast import normalise
from .model import CELLS, PATCHES
from .text import prompt_ids, sentence, state_bins

IMAGE = 96


class Prompts:
    """Prompt ids of every phrasing and colour, grouped by length so that a batch needs no text padding."""

    def __init__(self, tokenizer, phrases: list[str]):
        self.templates: dict[int, np.ndarray] = {}
        groups: dict[int, list] = {}
        zero = tokenizer.token_to_id("0")
        for phrase in phrases:
            rows = [prompt_ids(tokenizer, sentence(phrase, colour), [0] * DIMS) for colour in COLOURS]
            if len({len(r) for r in rows}) != 1 or any((r[-9:-3] != zero).any() for r in rows):
                raise DatasetError(f"meta.json: phrase {phrase!r} does not fit the prompt layout")
            groups.setdefault(len(rows[0]), []).append(rows)
        for length, rows in sorted(groups.items()):
            self.templates[length] = np.asarray(rows)  # [phrases, colours, T]
        self.zero = zero
        self.colour_ids = [tokenizer.token_to_id(c) for c in COLOURS]
        self.lengths = np.array(list(self.templates))
        self.share = np.array([len(v) for v in self.templates.values()], float)
        self.share /= self.share.sum()

    def draw(self, rng: np.random.Generator, target: np.ndarray, bins: np.ndarray, unknown: float) -> np.ndarray:
        """Text ids i64 [B, T] for targets [B] and state bins [B, 6]; each phrase word but the colour becomes <unk> with probability ``unknown``."""
        group = self.templates[int(rng.choice(self.lengths, p=self.share))]
        ids = group[rng.integers(len(group), size=len(target)), target].copy()
        ids[:, -9:-3] = self.zero + bins
        if unknown > 0:
            words = ids[:, 3:-12]  # between "Task :" and ", State :"
            words[(rng.random(words.shape) < unknown) & ~np.isin(words, self.colour_ids)] = 1
        return ids


class Source:
    """Frames of several datasets as one: small arrays in memory, images memory-mapped."""

    def __init__(self, sets: list[Dataset], tokenizer):
        self.sets = sets
        self.set_of = np.concatenate([np.full(len(s), i) for i, s in enumerate(sets)])
        self.row_of = np.concatenate([np.arange(len(s)) for s in sets])

        def join(name):
            return np.concatenate([np.asarray(getattr(s, name)) for s in sets])

        self.state = join("state").astype(np.float64)
        self.target = join("target").astype(np.int64)
        self.cubes, self.pixels = join("cubes"), join("pixels")
        self.scene, self.phase = join("scene"), join("phase")
        stats = self.stats = sets[0].stats
        self.y_state = normalise(self.state, stats["state"]["q01"], stats["state"]["q99"])
        self.actions = join("actions")
        self.y_chunk = normalise(self.relative(), stats["action"]["q01"], stats["action"]["q99"]).astype(np.float32)  # [N, H, D]
        held_out = self.scene % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        self.train, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if len(self.train) == 0 or len(self.held_out) == 0:
            raise DatasetError(f"{sets[0].folder}: at least {HELD_OUT_EVERY} scenes are needed to hold one out")
        self.prompts = Prompts(tokenizer, sets[0].meta["phrases"])
        named = self.cubes[np.arange(len(self.target)), self.target]
        where = np.concatenate([self.cubes, named[:, None]], 1)[self.train]
        self.position_mean = where.mean((0, 1)).astype(np.float32)
        self.position_scale = np.maximum(where.std((0, 1)), 0.01).astype(np.float32)
        self.positions = np.concatenate([self.cubes, named[:, None]], 1)

    def relative(self, rows: int | None = None) -> np.ndarray:
        """The first ``rows`` rows of every chunk as the policy sees them, f64 [N, rows, D]: minus the measured state, the gripper absolute."""
        return self.actions[:, :rows] - np.where(RELATIVE, self.state, 0.0)[:, None]

    def images(self, index: np.ndarray, shifts: np.ndarray | None) -> np.ndarray:
        """u8 [B, 2, 96, 96, 3]; ``shifts`` i64 [B, 2, 2] (x, y) moves content right/down, edges repeat."""
        out = np.empty((len(index), 2, IMAGE, IMAGE, 3), np.uint8)
        line = np.arange(IMAGE)
        for j, i in enumerate(index):
            frame = self.sets[self.set_of[i]].images[self.row_of[i]]
            out[j] = frame
            if shifts is not None and shifts[j].any():
                for c in range(2):
                    columns, rows = np.clip(line - shifts[j, c, 0], 0, IMAGE - 1), np.clip(line - shifts[j, c, 1], 0, IMAGE - 1)
                    out[j, c] = out[j, c][rows][:, columns]
        return out

    def batch(self, index: np.ndarray, rng: np.random.Generator, augment: argparse.Namespace | None, device) -> dict[str, torch.Tensor]:
        """What every family needs of one batch; with ``augment`` None nothing random but the phrasing."""
        size = len(index)
        pixels = self.pixels[index].copy()
        shifts, y = None, self.y_state[index]
        if augment:
            y = y + rng.normal(0.0, augment.state_noise, y.shape)
            if augment.shift > 0:
                shifts = rng.integers(-augment.shift, augment.shift + 1, (size, 2, 2)) * (rng.random((size, 1, 1)) < 0.5)
                pixels[..., :2] += shifts[:, :, None]
        text = self.prompts.draw(rng, self.target[index], state_bins(y), augment.unknown if augment else 0.0)
        raw = torch.from_numpy(self.images(index, shifts)).to(device).permute(0, 1, 4, 2, 3)
        if augment:  # one factor for all channels: hue stays
            gain, lift = (torch.from_numpy(rng.uniform(*r, (size, 2, 1, 1, 1)).astype(np.float32)).to(device) for r in ((0.8, 1.25), (-20.0, 20.0)))
            mean = raw[..., ::4, ::4].float().mean((2, 3, 4), keepdim=True)
            images = torch.addcmul((mean * (1 - gain) + lift) / 255, raw, gain / 255).clamp_(0, 1)
        else:
            images = raw.float() / 255
        u, v = pixels[..., 0], pixels[..., 1]
        visible = (pixels[..., 2] > 0.5) & (u >= 0) & (u < IMAGE) & (v >= 0) & (v < IMAGE)
        step = IMAGE // PATCHES
        patch = (np.clip(v[:, 0] // step, 0, PATCHES - 1) * PATCHES + np.clip(u[:, 0] // step, 0, PATCHES - 1)).astype(np.int64)
        patch = np.where(visible[:, 0], patch, -100)
        patch = np.concatenate([patch, patch[np.arange(size), self.target[index]][:, None]], 1)
        arrays = {
            "text": text, "patch": patch, "visible": visible.astype(np.float32), "uv": pixels[..., :2].astype(np.float32),
            "positions": ((self.positions[index] - self.position_mean) / self.position_scale).astype(np.float32),
            "chunk": self.y_chunk[index].reshape(size, -1),
        }
        return {"images": images, **{k: torch.from_numpy(np.ascontiguousarray(a)).to(device) for k, a in arrays.items()}}


def map_targets(uv: torch.Tensor) -> torch.Tensor:
    """Pixel positions [..., 2] to cell weights [..., 576], bilinear over four cells: the expected cell is the exact position."""
    cell = IMAGE / CELLS
    place = (uv / cell - 0.5).clamp(0, CELLS - 1)
    line = torch.arange(CELLS, device=uv.device)
    weight = (1 - (place[..., None] - line).abs()).clamp_(min=0)  # [..., 2, 24]
    return (weight[..., 1, :, None] * weight[..., 0, None, :]).flatten(-2)
