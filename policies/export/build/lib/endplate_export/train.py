"""``endplate-train``: behaviour cloning of FAST tokens with simulator-truth helpers (training only).

Seeded and resumable. With ``--steps`` a run is a function of data, seed and thread count; with ``--minutes`` the
learning rate follows the clock, so two runs differ.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import data as datasets
from .data import COLOURS, DIMS, HELD_OUT_EVERY, RELATIVE, ROWS, Dataset, DatasetError, file_digest
from .fast import Fast, FastError, absolute_actions, normalise
from .model import CELLS, PATCHES, Config, Policy, action_features, coefficient_starts, parameter_count
from .text import END, build_layout, build_tokenizer, prompt_ids, sentence, state_bins

IMAGE = 96
WEIGHTS = {"token": 1.0, "exit": 0.3, "maps": 0.3, "patch": 0.5, "position": 0.5, "chunk": 0.5, "offset": 0.1}
COUNT = ROWS * DIMS


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

    def __init__(self, sets: list[Dataset], tokenizer, layout, fast: Fast):
        self.sets, self.layout = sets, layout
        self.set_of = np.concatenate([np.full(len(s), i) for i, s in enumerate(sets)])
        self.row_of = np.concatenate([np.arange(len(s)) for s in sets])

        def join(name):
            return np.concatenate([np.asarray(getattr(s, name)) for s in sets])

        self.state = join("state").astype(np.float64)
        self.target = join("target").astype(np.int64)
        self.cubes, self.pixels = join("cubes"), join("pixels")
        self.scene, self.phase = join("scene"), join("phase")
        self.token_len = join("token_len").astype(np.int64)
        width = max(s.tokens.shape[1] for s in sets)
        self.tokens = np.concatenate([np.pad(np.asarray(s.tokens), ((0, 0), (0, width - s.tokens.shape[1])), constant_values=datasets.PAD_TOKEN) for s in sets])
        stats = self.stats = sets[0].stats
        self.y_state = normalise(self.state, stats["state"]["q01"], stats["state"]["q99"])
        self.actions = join("actions")
        relative = self.actions - np.where(RELATIVE, self.state, 0.0)[:, None]
        self.y_chunk = normalise(relative, stats["action"]["q01"], stats["action"]["q99"]).astype(np.float32).reshape(len(self.state), -1)
        held_out = self.scene % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        self.train, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if len(self.train) == 0 or len(self.held_out) == 0:
            raise DatasetError(f"{sets[0].folder}: at least {HELD_OUT_EVERY} scenes are needed to hold one out")
        self.fast, self.starts = fast, coefficient_starts(fast)
        self._check_tokens()
        self.prompts = Prompts(tokenizer, sets[0].meta["phrases"])
        named = self.cubes[np.arange(len(self.target)), self.target]
        where = np.concatenate([self.cubes, named[:, None]], 1)[self.train]
        self.position_mean = where.mean((0, 1)).astype(np.float32)
        self.position_scale = np.maximum(where.std((0, 1)), 0.01).astype(np.float32)
        self.positions = np.concatenate([self.cubes, named[:, None]], 1)

    def _check_tokens(self) -> None:
        """Every chunk must carry exactly H*D coefficients, and a sample must decode to the stored actions."""
        known = self.tokens != datasets.PAD_TOKEN
        if (known.sum(1) != self.token_len).any():
            raise DatasetError("tokens.npy and token_len.npy disagree")
        if int(self.tokens[known].max()) >= len(self.fast):
            raise DatasetError(f"tokens.npy: id {int(self.tokens[known].max())} is outside the tokenizer's 0..{len(self.fast)}")
        counts = np.where(known, self.starts[np.where(known, self.tokens, 0)], 0).sum(1)
        if (counts != COUNT).any():
            bad = int(np.flatnonzero(counts != COUNT)[0])
            raise DatasetError(f"tokens.npy: frame {bad} carries {int(counts[bad])} coefficients, expected {COUNT}")
        q, sample = self.stats["action"], np.linspace(0, len(self.state) - 1, 32).astype(int)
        errors = [
            np.abs(absolute_actions(self.fast.decode(self.tokens[i, : self.token_len[i]], ROWS, DIMS), self.state[i], q["q01"], q["q99"], RELATIVE) - self.actions[i]).max()
            for i in sample
        ]
        if np.median(errors) > 0.1 * float((q["q99"] - q["q01"]).max()):  # single clamped outliers are allowed
            raise DatasetError(f"tokens.npy: chunks decode {np.median(errors):.3f} rad away from actions.npy; tokenizer or stats.json are from another dataset")

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
        """One batch; with ``augment`` None nothing random but the phrasing."""
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
        length = self.token_len[index]
        most = int(length.max())
        tokens = self.tokens[index, :most].astype(np.int64)
        known = np.arange(most) < length[:, None]
        tokens = np.where(known, tokens, 0)
        labels = np.full((size, most + 1), -100)
        labels[:, :most] = np.where(known, tokens + self.layout.action_offset, -100)
        labels[np.arange(size), length] = END
        offsets = np.concatenate([np.zeros((size, 1), np.int64), np.cumsum(np.where(known, self.starts[tokens], 0), 1)], 1)
        u, v = pixels[..., 0], pixels[..., 1]
        visible = (pixels[..., 2] > 0.5) & (u >= 0) & (u < IMAGE) & (v >= 0) & (v < IMAGE)
        step = IMAGE // PATCHES
        patch = (np.clip(v[:, 0] // step, 0, PATCHES - 1) * PATCHES + np.clip(u[:, 0] // step, 0, PATCHES - 1)).astype(np.int64)
        patch = np.where(visible[:, 0], patch, -100)
        patch = np.concatenate([patch, patch[np.arange(size), self.target[index]][:, None]], 1)
        arrays = {
            "text": text, "tokens": tokens + self.layout.action_offset, "labels": labels, "offsets": np.where(labels == -100, -100, offsets),
            "patch": patch, "visible": visible.astype(np.float32), "uv": pixels[..., :2].astype(np.float32),
            "positions": ((self.positions[index] - self.position_mean) / self.position_scale).astype(np.float32),
            "chunk": self.y_chunk[index],
        }
        return {"images": images, **{k: torch.from_numpy(np.ascontiguousarray(a)).to(device) for k, a in arrays.items()}}


def map_targets(uv: torch.Tensor) -> torch.Tensor:
    """Pixel positions [..., 2] to cell weights [..., 576], bilinear over four cells: the expected cell is the exact position."""
    cell = IMAGE / CELLS
    place = (uv / cell - 0.5).clamp(0, CELLS - 1)
    line = torch.arange(CELLS, device=uv.device)
    weight = (1 - (place[..., None] - line).abs()).clamp_(min=0)  # [..., 2, 24]
    return (weight[..., 1, :, None] * weight[..., 0, None, :]).flatten(-2)


def losses(policy: Policy, batch: dict[str, torch.Tensor], autocast: bool) -> dict[str, torch.Tensor]:
    """Every loss term, plus the figures that the progress line shows (``*_right``, ``named_error``)."""
    device = batch["images"].device
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast, cache_enabled=device.type != "cpu"):
        out = policy(batch["images"], batch["text"], batch["tokens"])
        real = batch["labels"] != -100
        labels = batch["labels"][real]
        final = F.linear(out["final"][real], out["head"]).float()
        early = F.linear(out["exit"][real], out["head"]).float()
        first = out["final"][:, 0]
        patch = policy.aux_patch(out["front"]).float().transpose(1, 2)  # [B, 4, 36]
        position = policy.aux_position(first).float().view(-1, 4, 3)
        chunk = policy.aux_chunk(first).float()
        offset = policy.aux_offset(out["exit"][real]).float()
    terms = {"token": F.cross_entropy(final, labels), "exit": F.cross_entropy(early, labels)}
    log_map = out["maps"][:, :, :3].log_softmax(-1)
    surprise = -(map_targets(batch["uv"]) * log_map).sum(-1) * batch["visible"]
    terms["maps"] = surprise.sum() / batch["visible"].sum().clamp(min=1)
    per_patch = F.cross_entropy(patch.reshape(-1, 36), batch["patch"].reshape(-1), ignore_index=-100, reduction="none").view(-1, 4)
    seen = (batch["patch"] != -100).float()
    terms["patch"] = per_patch[:, :3].sum() / seen[:, :3].sum().clamp(min=1) + per_patch[:, 3].sum() / seen[:, 3].sum().clamp(min=1)
    distance = (position - batch["positions"]).abs().mean(-1)
    terms["position"] = 2 * distance[:, :3].mean() + distance[:, 3].mean()
    terms["chunk"] = (chunk - batch["chunk"]).abs().mean()
    terms["offset"] = F.cross_entropy(offset, batch["offsets"][real])
    terms["total"] = sum(WEIGHTS[k] * v for k, v in terms.items())
    with torch.no_grad():
        right = final.argmax(-1) == labels
        terms["right"] = right.float().mean()
        rows = torch.nonzero(real)[:, 1] == 0
        terms["first_right"] = right[rows].float().mean()
        named = batch["patch"][:, 3]
        terms["named_right"] = ((patch[:, 3].argmax(-1) == named) & (named >= 0)).sum() / (named >= 0).sum().clamp(min=1)
        terms["named"] = position[:, 3]
    return terms


class Trainer:
    """Model, moving average, optimiser and every random state."""

    def __init__(self, args: argparse.Namespace, sets: list[Dataset]):
        self.args = args
        self.device = torch.device("cuda" if args.device == "auto" and torch.cuda.is_available() else "cpu" if args.device == "auto" else args.device)
        torch.manual_seed(args.seed)
        self.rng = np.random.default_rng(args.seed)
        fast = Fast.load(sets[0].tokenizer_folder)
        self.tokenizer = build_tokenizer(sets[0].meta["phrases"], COLOURS)
        self.layout = build_layout(self.tokenizer, len(fast))
        self.source = Source(sets, self.tokenizer, self.layout, fast)
        self.policy = Policy(Config.of(self.layout), action_features(fast)).to(self.device)
        self.policy.to(memory_format=torch.channels_last)
        self.average = {k: p.detach().clone() for k, p in self.policy.named_parameters()}
        self.optimiser = torch.optim.AdamW(
            [{"params": [p for p in self.policy.parameters() if p.ndim >= 2], "weight_decay": args.weight_decay},
             {"params": [p for p in self.policy.parameters() if p.ndim < 2], "weight_decay": 0.0}],
            args.rate, betas=(0.9, 0.98), fused=True)
        self.step, self.elapsed = 0, 0.0
        self.workers = ThreadPoolExecutor(args.threads) if args.threads > 1 else None
        self.train_of = [self.source.train[self.source.set_of[self.source.train] == i] for i in range(len(sets))]
        self.order: list[np.ndarray] = []
        self.place: list[int] = []
        self.digests = {name: file_digest(sets[0].folder / name) for name in ("stats.json", "tokenizer/tokenizer.json", "tokenizer/processor_config.json")}

    # -- sampling ---------------------------------------------------------------------------------------------------
    def next_index(self) -> np.ndarray:
        """Frame numbers of the next batch: each dataset gets its share, each is walked in random order without repeats."""
        size, train = self.args.batch, self.train_of
        if not self.order:
            self.order, self.place = [self.rng.permutation(t) for t in train], [0] * len(train)
        share = np.array(self.args.share if self.args.share else [len(t) for t in train], float)
        counts = self.rng.multinomial(size, share / share.sum()) if len(train) > 1 else [size]
        chosen = []
        for i, n in enumerate(counts):
            while n > 0:
                if self.place[i] >= len(self.order[i]):
                    self.order[i], self.place[i] = self.rng.permutation(train[i]), 0
                part = self.order[i][self.place[i] : self.place[i] + n]
                chosen.append(part)
                self.place[i] += len(part)
                n -= len(part)
        return np.concatenate(chosen)

    # -- state ------------------------------------------------------------------------------------------------------
    def save(self, path: Path) -> None:
        """Writes the checkpoint beside the old one, then replaces it in one step."""
        args, source = self.args, self.source
        content = {
            "format": 1, "config": self.policy.config.dict(), "model": self.policy.state_dict(), "average": self.average,
            "optimiser": self.optimiser.state_dict(), "step": self.step, "elapsed_s": self.elapsed, "seed": args.seed,
            "rng": self.rng.bit_generator.state, "torch_rng": torch.get_rng_state(), "order": self.order, "place": self.place,
            "phrases": source.sets[0].meta["phrases"], "digests": self.digests, "datasets": self.dataset_digests,
            "position_mean": source.position_mean, "position_scale": source.position_scale,
            "max_token_len": int(source.token_len.max()), "arguments": {k: v for k, v in vars(args).items()}, "init": self.init_digest,
        }
        partial = path.with_name(path.name + ".part")
        torch.save(content, partial)
        os.replace(partial, path)

    def restore(self, path: Path, resume: bool) -> None:
        """Takes a checkpoint's weights; with ``resume`` also optimiser, random states and position in the data."""
        content = load_checkpoint(path, self.device)
        for name, digest in self.digests.items():
            if content["digests"].get(name) != digest:
                raise DatasetError(f"{path}: was trained with another {name} than {self.source.sets[0].folder / name}")
        if content["phrases"] != self.source.sets[0].meta["phrases"]:
            raise DatasetError(f"{path}: was trained with other phrases than {self.source.sets[0].folder / 'meta.json'}")
        if resume and content["datasets"] != self.dataset_digests:
            raise DatasetError(f"{path}: was trained on other data; --resume needs the same folders, --init starts a new run from its weights")
        self.source.position_mean, self.source.position_scale = content["position_mean"], content["position_scale"]
        if not resume:
            self.policy.load_state_dict({**content["model"], **content["average"]})
            self.average = {k: p.detach().clone() for k, p in self.policy.named_parameters()}
            return
        self.policy.load_state_dict(content["model"])
        self.average = content["average"]
        self.optimiser.load_state_dict(content["optimiser"])
        self.step, self.elapsed = content["step"], content["elapsed_s"]
        self.rng.bit_generator.state = content["rng"]
        torch.set_rng_state(content["torch_rng"].cpu())
        self.order, self.place = content["order"], content["place"]

    # -- measuring --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def evaluate(self, chunks: int) -> str:
        """One line on held-out scenes with the averaged weights; ``chunks`` > 0 also decodes that many greedily."""
        source, args = self.source, self.args
        rng = np.random.default_rng(7)
        index = rng.permutation(source.held_out)[:256]
        live = {k: p.detach().clone() for k, p in self.policy.named_parameters()}
        self._load_parameters(self.average)
        self.policy.eval()
        sums: dict[str, float] = {}
        errors, seen = [], 0
        for start in range(0, len(index), 64):
            part = index[start : start + 64]
            terms = losses(self.policy, source.batch(part, rng, None, self.device), args.bf16)
            named = terms.pop("named").cpu().numpy() * source.position_scale + source.position_mean
            errors.append(np.linalg.norm(named - source.positions[part, 3], axis=1))
            for k, v in terms.items():
                sums[k] = sums.get(k, 0.0) + float(v) * len(part)
            seen += len(part)
        mean = {k: v / seen for k, v in sums.items()}
        error_mm = 1000 * np.concatenate(errors)
        line = (f"held out: token {mean['token']:.3f} acc {mean['right']:.3f} first {mean['first_right']:.3f} exit {mean['exit']:.3f} "
                f"maps {mean['maps']:.2f} chunk {mean['chunk']:.3f} named {np.median(error_mm):.1f}/{np.quantile(error_mm, 0.9):.1f} mm "
                f"(p50/p90) patch {mean['named_right']:.3f}")
        if chunks:
            line += "\n  " + self._chunks(index[:chunks], rng)
        self.policy.train()
        self._load_parameters(live)
        return line

    def _chunks(self, index: np.ndarray, rng: np.random.Generator) -> str:
        """Greedy chunks of held-out frames: how many decode, and how far the executed rows are from the expert's."""
        source = self.source
        batch = source.batch(index, rng, None, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=False):
            ids = self.policy.greedy(batch["images"], batch["text"], int(source.token_len.max()) + 4).cpu().numpy()
        q, arm, grip, complete = source.stats["action"], [], [], 0
        for row, i in zip(ids, index):
            carried = np.cumsum([source.starts[a] if a >= 0 else 10**6 for a in row])
            end = np.flatnonzero(carried == COUNT)
            if not len(end):
                continue
            try:
                y = source.fast.decode(row[: end[0] + 1], ROWS, DIMS)
            except FastError:
                continue
            complete += 1
            error = np.abs(absolute_actions(y, source.state[i], q["q01"], q["q99"], RELATIVE) - source.actions[i])[:8]
            arm.append(error[:, :5].mean())
            grip.append(error[:, 5].mean())
        if not complete:
            return f"greedy chunks: 0 of {len(index)} complete"
        return (f"greedy chunks: {complete} of {len(index)} complete, first 8 rows off by {1000 * np.mean(arm):.1f} mrad (arm), "
                f"{1000 * np.mean(grip):.1f} mrad (gripper)")

    @torch.no_grad()
    def _load_parameters(self, values: dict[str, torch.Tensor]) -> None:
        for k, p in self.policy.named_parameters():
            p.copy_(values[k])

    # -- running ----------------------------------------------------------------------------------------------------
    def progress(self) -> float:
        """Share of the declared budget that is used, 0..1."""
        return self.step / self.args.steps if self.args.steps else self.elapsed / (60 * self.args.minutes)

    def gradients(self, batch: dict[str, torch.Tensor], parameters: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sets ``grad`` of every parameter; returns the loss terms (mean over parts).

        On a CPU each thread takes its own part of the batch: no barrier inside an operator, so a busy neighbour slows
        one part, not every operator. Parts are summed in order, so the result does not depend on timing.
        """
        def part(piece: dict[str, torch.Tensor]):
            terms = losses(self.policy, piece, self.args.bf16)
            return {k: v.detach() for k, v in terms.items() if k != "named"}, torch.autograd.grad(terms["total"], parameters)

        count = self.args.threads if self.device.type == "cpu" else 1
        pieces = [dict(zip(batch, values)) for values in zip(*(v.tensor_split(count) for v in batch.values()))]
        results = list(self.workers.map(part, pieces)) if count > 1 else [part(batch)]
        for i, p in enumerate(parameters):
            p.grad = sum(grads[i] for _, grads in results) / len(results) if len(results) > 1 else results[0][1][i]
        return {k: torch.stack([terms[k] for terms, _ in results]).mean() for k in results[0][0]}

    def run(self, out: Path) -> None:
        """Trains until the budget is used; saves every two minutes and at the end."""
        args, policy = self.args, self.policy
        parameters, averages = list(policy.parameters()), [self.average[k] for k, _ in policy.named_parameters()]
        mark = line_at = saved_at = chunks_at = time.monotonic()
        line_step, running = self.step, {}
        policy.train()
        while self.progress() < 1:
            fraction = self.progress()
            warm = min(1.0, (self.step + 1) / args.warmup)
            rate = args.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            batch = self.source.batch(self.next_index(), self.rng, args, self.device)
            terms = self.gradients(batch, parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - min(args.average, (1 + self.step) / (10 + self.step)))
            self.step += 1
            for k in ("total", "token", "right"):
                value = float(terms[k].detach())
                if not math.isfinite(value):
                    raise FloatingPointError(f"{k} loss is {value} at step {self.step}")
                running[k] = value if k not in running else 0.98 * running[k] + 0.02 * value
            now = time.monotonic()
            self.elapsed += now - mark
            mark = now
            if now - line_at >= args.every:
                speed = (self.step - line_step) * args.batch / (now - line_at)
                with_chunks = now - chunks_at >= 6 * args.every
                print(f"{100 * self.progress():5.1f} % {self.elapsed / 60:.1f} min step {self.step} {speed:.0f} samples/s rate {rate:.1e} | "
                      f"train: total {running['total']:.3f} token {running['token']:.3f} acc {running['right']:.3f} | "
                      f"{self.evaluate(64 if with_chunks else 0)}", flush=True)
                if with_chunks:
                    chunks_at = time.monotonic()
                line_at, line_step = time.monotonic(), self.step
                if line_at - saved_at >= 120:
                    self.save(out)
                    saved_at = line_at
        self.save(out)
        print(f"done: step {self.step}, {self.elapsed / 60:.1f} min | {self.evaluate(64)}\nsaved {out}", flush=True)


def load_checkpoint(path: str | Path, device="cpu") -> dict:
    """A checkpoint of ``endplate-train``. Only load files you made: this unpickles."""
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such checkpoint")
    content = torch.load(path, map_location=device, weights_only=False)
    if not isinstance(content, dict) or content.get("format") != 1:
        raise DatasetError(f"{path}: not a checkpoint of endplate-train, format 1")
    return content


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="endplate-train", description="Trains the demonstration policy on one or more datasets.")
    parser.add_argument("--data", nargs="+", required=True, help="dataset folders")
    parser.add_argument("--share", nargs="+", type=float, help="share of each batch from each dataset (default: by size)")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, default=0.0, help="budget by the clock")
    budget.add_argument("--steps", type=int, default=0, help="budget in optimiser steps (repeatable)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on from --out")
    start.add_argument("--init", type=Path, help="start from another checkpoint's averaged weights")
    parser.add_argument("--threads", type=int, default=max(1, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--average", type=float, default=0.999, help="decay of the moving average of weights")
    parser.add_argument("--state-noise", type=float, default=0.01, help="sigma on the normalised state before binning")
    parser.add_argument("--shift", type=int, default=1, help="largest image shift, px; the label does not move, so keep it near 1 px (about 4 mm)")
    parser.add_argument("--unknown", type=float, default=0.03, help="probability of <unk> in place of a phrase word that is no colour")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between progress lines")
    parser.add_argument("--no-bf16", dest="bf16", action="store_false", help="plain f32 instead of bf16 autocast")
    args = parser.parse_args(argv)
    if args.share and len(args.share) != len(args.data):
        parser.error(f"--share has {len(args.share)} values, --data {len(args.data)}")
    return args


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when data or checkpoint are refused."""
    args = parse(argv)
    torch.set_num_threads(1)  # parallel over parts of the batch, see Trainer.gradients
    try:
        sets = datasets.load_all(args.data)
        trainer = Trainer(args, sets)
        source = trainer.source
        trainer.dataset_digests = [s.digest() for s in sets]
        trainer.init_digest = file_digest(args.init) if args.init else None
        if args.resume or args.init:
            trainer.restore(args.out if args.resume else args.init, args.resume)
    except (DatasetError, FastError) as error:
        print(f"endplate-train: {error}", file=sys.stderr)
        return 2
    count = parameter_count(trainer.policy)
    print(f"{len(source.train)} frames to train on, {len(source.held_out)} held out by scene; vocabulary {trainer.layout.vocabulary} "
          f"({trainer.layout.text_vocabulary} text + {trainer.layout.action_vocabulary} FAST); tokens a chunk "
          f"{source.token_len.mean():.1f} mean, {source.token_len.max()} most; prompt {source.prompts.lengths.min()}-{source.prompts.lengths.max()} tokens; "
          f"{count['policy']:,} parameters (+ {count['aux']:,} training only); {trainer.device}, {args.threads} threads", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trainer.run(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
