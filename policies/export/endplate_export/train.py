"""``endplate-train``: behaviour cloning of action chunks with simulator-truth helpers (training only).

``--family`` says how a chunk is predicted: FAST tokens, bin tokens or flow matching (``families``).

Seeded and resumable. With ``--steps`` a run is a function of data, seed and thread count; with ``--minutes`` the
learning rate follows the clock, so two runs differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from . import data as datasets
from .bins import BinError
from .data import COLOURS, Dataset, DatasetError, file_digest
from .families import FAMILIES
from .fast import Fast, FastError
from .graphs import WEIGHTS as WEIGHTS_FILE
from .graphs import Weights, trunk_state
from .model import parameter_count
from .source import Source
from .text import build_tokenizer


class Trainer:
    """Model, moving average, optimiser and every random state."""

    def __init__(self, args: argparse.Namespace, sets: list[Dataset]):
        self.args = args
        self.device = torch.device("cuda" if args.device == "auto" and torch.cuda.is_available() else "cpu" if args.device == "auto" else args.device)
        torch.manual_seed(args.seed)
        self.rng = np.random.default_rng(args.seed)
        self.tokenizer = build_tokenizer(sets[0].meta["phrases"], COLOURS)
        self.source = Source(sets, self.tokenizer)
        self.family = FAMILIES[args.family](self.source, self.tokenizer, args)
        self.policy = self.family.policy()
        taken = self.start_from_trunk(args.trunk) if args.trunk else set()
        self.policy.to(self.device, memory_format=torch.channels_last)
        self.average = {k: p.detach().clone() for k, p in self.policy.named_parameters()}
        named = list(self.policy.named_parameters())
        groups = []
        for old in (False, True):
            for wide in (True, False):
                params = [p for k, p in named if (k in taken) == old and (p.ndim >= 2) == wide]
                if params:
                    groups.append({"params": params, "weight_decay": args.weight_decay if wide else 0.0, "share": args.trunk_rate if old else 1.0})
        self.optimiser = torch.optim.AdamW(groups, args.rate, betas=(0.9, 0.98), fused=True)
        self.step, self.elapsed = 0, 0.0
        self.trunk_digest: str | None = getattr(self, "trunk_digest", None)
        self.workers = ThreadPoolExecutor(args.threads) if args.threads > 1 else None
        self.train_of = [self.source.train[self.source.set_of[self.source.train] == i] for i in range(len(sets))]
        self.order: list[np.ndarray] = []
        self.place: list[int] = []
        self.digests = {name: file_digest(sets[0].folder / name) for name in ("stats.json", "tokenizer/tokenizer.json", "tokenizer/processor_config.json")}

    def start_from_trunk(self, folder: Path) -> set[str]:
        """Takes the trunk of a FAST bundle; returns the parameters that came from it. Raises DatasetError when it does not fit."""
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise DatasetError(f"{path}: missing; --trunk takes a bundle folder of the FAST family")
        if json.loads((folder / "text" / "tokenizer.json").read_text(encoding="utf-8")) != json.loads(self.tokenizer.to_str()):
            raise DatasetError(f"{folder / 'text' / 'tokenizer.json'}: the words differ from those of {self.source.sets[0].folder / 'meta.json'}")
        values = Weights(path).values
        config = self.policy.config
        if f"layers.{config.layers - 1}.q" not in values or f"layers.{config.layers}.q" in values or values["embedding"].shape[1] != config.width:
            raise DatasetError(f"{path}: another network than this one ({config.layers} layers of width {config.width})")
        self.source.position_mean, self.source.position_scale = (values[f"aux.{k}"].astype(np.float32) for k in ("position_mean", "position_scale"))
        state = {k: torch.from_numpy(v) for k, v in trunk_state(values, config.layers).items()}
        self.trunk_digest = file_digest(path)
        return self.family.start_from(self.policy, state, Fast.load(folder / "tokenizer"))

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

    def batch(self, index: np.ndarray, rng: np.random.Generator, augment: argparse.Namespace | None) -> dict[str, torch.Tensor]:
        """Everything the loss terms need of these frames."""
        batch = self.source.batch(index, rng, augment, self.device)
        extra = self.family.arrays(index, rng)
        return batch | {k: torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for k, a in extra.items()}

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
            **self.family.record(), "trunk": self.trunk_digest, "arguments": {k: v for k, v in vars(args).items()}, "init": self.init_digest,
        }
        partial = path.with_name(path.name + ".part")
        torch.save(content, partial)
        os.replace(partial, path)

    def restore(self, path: Path, resume: bool) -> None:
        """Takes a checkpoint's weights; with ``resume`` also optimiser, random states and position in the data."""
        content = load_checkpoint(path, self.device)
        if content.get("family", "fast") != self.family.name:
            raise DatasetError(f"{path}: is of family {content.get('family', 'fast')}, --family says {self.family.name}")
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
            terms = self.family.terms(self.policy, self.batch(part, rng, None), args.bf16)
            named = terms.pop("named").cpu().numpy() * source.position_scale + source.position_mean
            errors.append(np.linalg.norm(named - source.positions[part, 3], axis=1))
            for k, v in terms.items():
                sums[k] = sums.get(k, 0.0) + float(v) * len(part)
            seen += len(part)
        mean = {k: v / seen for k, v in sums.items()}
        error_mm = 1000 * np.concatenate(errors)
        line = (f"held out: {self.family.line(mean)} "
                f"maps {mean['maps']:.2f} chunk {mean['chunk']:.3f} named {np.median(error_mm):.1f}/{np.quantile(error_mm, 0.9):.1f} mm "
                f"(p50/p90) patch {mean['named_right']:.3f}")
        if chunks:
            line += "\n  " + self._chunks(index[:chunks], rng)
        self.policy.train()
        self._load_parameters(live)
        return line

    def _chunks(self, index: np.ndarray, rng: np.random.Generator) -> str:
        """Whole chunks of held-out frames: how many decode, and how far their first eight rows are from the expert's."""
        batch = self.batch(index, rng, None)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=False):
            chunks = self.family.chunks(self.policy, batch, index, rng)
        errors = [np.abs(one[:8] - self.source.actions[i, :8]).mean(0) for one, i in zip(chunks, index) if one is not None]
        if not errors:
            return f"chunks: 0 of {len(index)} complete"
        mean = np.mean(errors, 0)
        return (f"chunks: {len(errors)} of {len(index)} complete, first 8 rows off by {1000 * mean[:5].mean():.1f} mrad (arm), "
                f"{1000 * mean[5]:.1f} mrad (gripper)")

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
            terms = self.family.terms(self.policy, piece, self.args.bf16)
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
                group["lr"] = rate * group["share"]
            batch = self.batch(self.next_index(), self.rng, args)
            terms = self.gradients(batch, parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - min(args.average, (1 + self.step) / (10 + self.step)))
            self.step += 1
            for k in ("total", *self.family.weights):
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
                      f"train: {' '.join(f'{k} {v:.3f}' for k, v in running.items())} | "
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
    start.add_argument("--trunk", type=Path, help="bins, flow: start stems, prompt, layers and helper heads from this FAST bundle folder")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="fast", help="how a chunk is predicted")
    parser.add_argument("--trunk-rate", type=float, default=0.5, help="learning rate of what --trunk brought, as a share of --rate")
    parser.add_argument("--bin-blur", type=float, default=1.0, help="bins: sigma of the label's spread over its neighbours, in bins; 0: none")
    parser.add_argument("--flow-time", choices=["uniform", "beta"], default="uniform", help="flow: how tau is drawn; beta is pi0's, more noise")
    parser.add_argument("--flow-floor", type=float, default=1.0, help="flow: least 1 - tau in the loss weight; 1 weighs the predicted chunk alike at every tau")
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
    except (BinError, DatasetError, FastError) as error:
        print(f"endplate-train: {error}", file=sys.stderr)
        return 2
    count = parameter_count(trainer.policy)
    layout = trainer.family.layout
    print(f"{trainer.family.name}: {len(source.train)} frames to train on, {len(source.held_out)} held out by scene; vocabulary {layout.vocabulary} "
          f"({layout.text_vocabulary} text + {layout.action_vocabulary} action); {trainer.family.describe()}; "
          f"prompt {source.prompts.lengths.min()}-{source.prompts.lengths.max()} tokens; "
          f"{count['policy']:,} parameters (+ {count['aux']:,} training only); {trainer.device}, {args.threads} threads", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trainer.run(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
