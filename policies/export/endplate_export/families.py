"""The three ways from prefix to chunk: FAST tokens, bin tokens, flow matching. One trunk, one set of helper losses.

A family makes the training form of the network, the labels of a batch, the loss terms, and whole chunks of held-out
frames. ``arrays`` and ``terms`` belong together; everything else about training is the same for all.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from . import bins, data as datasets
from .data import DIMS, RELATIVE, ROWS, DatasetError, file_digest
from .fast import Fast, FastError, absolute_actions, normalise
from .flow import MAX_PREFIX_ROWS, FlowPolicy
from .model import Config, Policy, Trunk, action_features, bin_features, code_features, coefficient_starts
from .source import Source, map_targets
from .text import END, Layout, build_layout

COUNT = ROWS * DIMS
TRUTH = {"maps": 0.3, "patch": 0.5, "position": 0.5, "chunk": 0.5}  # weights of the helper losses
BIN_ROWS = 8
BIN_QUANTILES = (0.0005, 0.9995)
DRAWS = 4  # noise draws an observation: the trunk runs once for all of them


def truth_terms(policy: Trunk, out: dict, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Helper losses on simulator truth, from ``front``, the row before the first action (``final``) and ``maps``."""
    first = out["final"][:, 0]
    patch = policy.aux_patch(out["front"]).float().transpose(1, 2)  # [B, 4, 36]
    position = policy.aux_position(first).float().view(-1, 4, 3)
    chunk = policy.aux_chunk(first).float()
    with torch.autocast(batch["images"].device.type, enabled=False):
        terms = {}
        log_map = out["maps"][:, :, :3].float().log_softmax(-1)
        surprise = -(map_targets(batch["uv"]) * log_map).sum(-1) * batch["visible"]
        terms["maps"] = surprise.sum() / batch["visible"].sum().clamp(min=1)
        per_patch = F.cross_entropy(patch.reshape(-1, 36), batch["patch"].reshape(-1), ignore_index=-100, reduction="none").view(-1, 4)
        seen = (batch["patch"] != -100).float()
        terms["patch"] = per_patch[:, :3].sum() / seen[:, :3].sum().clamp(min=1) + per_patch[:, 3].sum() / seen[:, 3].sum().clamp(min=1)
        distance = (position - batch["positions"]).abs().mean(-1)
        terms["position"] = 2 * distance[:, :3].mean() + distance[:, 3].mean()
        terms["chunk"] = (chunk - batch["chunk"]).abs().mean()
    with torch.no_grad():
        named = batch["patch"][:, 3]
        terms["named_right"] = ((patch[:, 3].argmax(-1) == named) & (named >= 0)).sum() / (named >= 0).sum().clamp(min=1)
        terms["named"] = position[:, 3]
    return terms


class Family:
    """What a family offers the trainer; see the module."""

    name = ""
    horizon = ROWS
    weights: dict[str, float] = {}

    def __init__(self, source: Source, layout: Layout, args):
        self.source, self.layout, self.args = source, layout, args
        self.action_stats = source.stats["action"]

    def config(self) -> Config:
        return Config.of(self.layout, self.name, self.horizon)

    def record(self) -> dict:
        """What the checkpoint keeps about the family."""
        return {"family": self.name, "horizon": self.horizon, "action_stats": self.action_stats}

    def total(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(w * terms[k] for k, w in {**self.weights, **TRUTH}.items())

    def actions(self, y: np.ndarray, i: int) -> np.ndarray:
        """Normalised chunk [H, D] of frame ``i`` to rad."""
        return absolute_actions(y, self.source.state[i], self.action_stats["q01"], self.action_stats["q99"], RELATIVE)


class _Tokens(Family):
    """Next-token prediction over ``labels``, with the early head and the count of values so far."""

    weights = {"token": 1.0, "exit": 0.3, "offset": 0.1}

    def terms(self, policy: Policy, batch: dict[str, torch.Tensor], autocast: bool) -> dict[str, torch.Tensor]:
        device = batch["images"].device
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast, cache_enabled=device.type != "cpu"):
            out = policy(batch["images"], batch["text"], batch["tokens"])
            real = batch["labels"] != -100
            labels = batch["labels"][real]
            final = F.linear(out["final"][real], out["head"]).float()
            early = F.linear(out["exit"][real], out["head"]).float()
            offset = policy.aux_offset(out["exit"][real]).float()
            terms = truth_terms(policy, out, batch)
        terms["token"], terms["exit"] = self.surprise(final, labels), self.surprise(early, labels)
        terms["offset"] = F.cross_entropy(offset, batch["offsets"][real])
        terms["total"] = self.total(terms)
        with torch.no_grad():
            right = final.argmax(-1) == labels
            terms["right"] = right.float().mean()
            terms["first_right"] = right[torch.nonzero(real)[:, 1] == 0].float().mean()
        return terms

    def surprise(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels)

    def line(self, mean: dict[str, float]) -> str:
        return f"token {mean['token']:.3f} acc {mean['right']:.3f} first {mean['first_right']:.3f} exit {mean['exit']:.3f}"


class FastTokens(_Tokens):
    """FAST tokens and an end token."""

    name = "fast"

    def __init__(self, source: Source, tokenizer, args):
        self.fast = Fast.load(source.sets[0].tokenizer_folder)
        super().__init__(source, build_layout(tokenizer, len(self.fast)), args)
        self.starts = coefficient_starts(self.fast)
        sets = source.sets
        self.token_len = np.concatenate([np.asarray(s.token_len) for s in sets]).astype(np.int64)
        width = max(s.tokens.shape[1] for s in sets)
        self.tokens = np.concatenate([np.pad(np.asarray(s.tokens), ((0, 0), (0, width - s.tokens.shape[1])), constant_values=datasets.PAD_TOKEN) for s in sets])
        self._check_tokens()

    def _check_tokens(self) -> None:
        """Every chunk must carry exactly H*D coefficients, and a sample must decode to the stored actions."""
        source, known = self.source, self.tokens != datasets.PAD_TOKEN
        if (known.sum(1) != self.token_len).any():
            raise DatasetError("tokens.npy and token_len.npy disagree")
        if int(self.tokens[known].max()) >= len(self.fast):
            raise DatasetError(f"tokens.npy: id {int(self.tokens[known].max())} is outside the tokenizer's 0..{len(self.fast)}")
        counts = np.where(known, self.starts[np.where(known, self.tokens, 0)], 0).sum(1)
        if (counts != COUNT).any():
            bad = int(np.flatnonzero(counts != COUNT)[0])
            raise DatasetError(f"tokens.npy: frame {bad} carries {int(counts[bad])} coefficients, expected {COUNT}")
        sample = np.linspace(0, len(source.state) - 1, 32).astype(int)
        errors = [np.abs(self.actions(self.fast.decode(self.tokens[i, : self.token_len[i]], ROWS, DIMS), i) - source.actions[i]).max() for i in sample]
        q = self.action_stats
        if np.median(errors) > 0.1 * float((q["q99"] - q["q01"]).max()):  # single clamped outliers are allowed
            raise DatasetError(f"tokens.npy: chunks decode {np.median(errors):.3f} rad away from actions.npy; tokenizer or stats.json are from another dataset")

    def policy(self) -> Policy:
        return Policy(self.config(), action_features(self.fast))

    def record(self) -> dict:
        return {**super().record(), "max_token_len": int(self.token_len.max())}

    def arrays(self, index: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        size, length = len(index), self.token_len[index]
        most = int(length.max())
        tokens = self.tokens[index, :most].astype(np.int64)
        known = np.arange(most) < length[:, None]
        tokens = np.where(known, tokens, 0)
        labels = np.full((size, most + 1), -100)
        labels[:, :most] = np.where(known, tokens + self.layout.action_offset, -100)
        labels[np.arange(size), length] = END
        offsets = np.concatenate([np.zeros((size, 1), np.int64), np.cumsum(np.where(known, self.starts[tokens], 0), 1)], 1)
        return {"tokens": tokens + self.layout.action_offset, "labels": labels, "offsets": np.where(labels == -100, -100, offsets)}

    @torch.no_grad()
    def chunks(self, policy: Policy, batch: dict[str, torch.Tensor], index: np.ndarray, rng: np.random.Generator) -> list[np.ndarray | None]:
        """Greedy chunks in rad, None where the tokens are not one chunk."""
        ids = policy.greedy(batch["images"], batch["text"], int(self.token_len.max()) + 4).cpu().numpy()
        out: list[np.ndarray | None] = []
        for row, i in zip(ids, index):
            carried = np.cumsum([self.starts[a] if a >= 0 else 10**6 for a in row])
            end = np.flatnonzero(carried == COUNT)
            try:
                out.append(self.actions(self.fast.decode(row[: end[0] + 1], ROWS, DIMS), i) if len(end) else None)
            except FastError:
                out.append(None)
        return out

    def start_from(self, policy: Policy, state: dict[str, torch.Tensor], fast: Fast) -> set[str]:
        raise DatasetError("--trunk starts the families bins and flow; --init goes on with a FAST checkpoint")

    def describe(self) -> str:
        return f"tokens a chunk {self.token_len.mean():.1f} mean, {self.token_len.max()} most"


class BinTokens(_Tokens):
    """OpenVLA bins, time-major; the first ``BIN_ROWS`` rows of the expert's plan, always the same number of tokens.

    The range that the bins span is fitted to those rows alone, wider than FAST's q01/q99: what lies outside is clipped.
    The loss spreads each label over its neighbours (sigma ``--bin-blur`` bins): bins are ordered, cross-entropy is not.
    """

    name, horizon = "bins", BIN_ROWS

    def __init__(self, source: Source, tokenizer, args):
        super().__init__(source, build_layout(tokenizer, bins.COUNT), args)
        relative = source.relative(BIN_ROWS)
        self.action_stats = bins.statistics(relative[source.train], *BIN_QUANTILES)
        y = normalise(relative, self.action_stats["q01"], self.action_stats["q99"])
        self.ids = bins.encode(y).astype(np.uint8).reshape(len(y), -1)
        span = self.action_stats["q99"] - self.action_stats["q01"]
        self.clipped = float((np.abs(y) > 1).mean())
        self.clip_cost = float((np.maximum(np.abs(y) - 1, 0) / 2 * span).mean())
        self.rounding = float((np.abs(bins.decode(self.ids.astype(np.int64)).reshape(y.shape) - y) / 2 * span).mean())
        blur, reach = getattr(args, "bin_blur", 0.0), 3
        steps = np.arange(-reach, reach + 1)
        share = np.exp(-0.5 * (steps / blur) ** 2) if blur > 0 else (steps == 0).astype(float)
        self.steps, self.share = torch.from_numpy(steps), torch.from_numpy(share.astype(np.float32))

    def policy(self) -> Policy:
        return Policy(self.config(), bin_features())

    def record(self) -> dict:
        return {**super().record(), "max_token_len": BIN_ROWS * DIMS}

    def arrays(self, index: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        labels = self.ids[index].astype(np.int64) + self.layout.action_offset
        offsets = np.broadcast_to(np.arange(labels.shape[1]), labels.shape)
        return {"tokens": labels[:, :-1], "labels": labels, "offsets": offsets}

    def surprise(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy against the label and its neighbours, cut off at the ends of the range."""
        place = labels[:, None] + self.steps.to(labels.device)
        first, last = self.layout.action_offset, self.layout.vocabulary - 1
        weight = self.share.to(logits.device) * ((place >= first) & (place <= last))
        weight = weight / weight.sum(1, keepdim=True)
        return (torch.logsumexp(logits, -1) - (logits.gather(1, place.clamp(first, last)) * weight).sum(1)).mean()

    @torch.no_grad()
    def chunks(self, policy: Policy, batch: dict[str, torch.Tensor], index: np.ndarray, rng: np.random.Generator) -> list[np.ndarray | None]:
        """Greedy chunks in rad, None where a text id was the most likely."""
        ids = policy.greedy(batch["images"], batch["text"], BIN_ROWS * DIMS).cpu().numpy()
        return [self.actions(bins.decode_chunk(row, BIN_ROWS, DIMS), i) if row.min() >= 0 else None for row, i in zip(ids, index)]

    def start_from(self, policy: Policy, state: dict[str, torch.Tensor], fast: Fast) -> set[str]:
        """Trunk weights; a bin starts out embedded like the FAST token of one coefficient of that size."""
        taken = policy.start_from(state)
        learned = torch.linalg.lstsq(action_features(fast), state["table"][policy.config.action_offset :]).solution
        value = bins.value_of(np.arange(bins.COUNT)) * fast.scale * ROWS**0.5  # a constant chunk's first coefficient
        policy.embed_like(code_features(value) @ learned)
        return taken

    def describe(self) -> str:
        return (f"{BIN_ROWS * DIMS} tokens a chunk of {BIN_ROWS} rows; {100 * self.clipped:.2f} % of values clipped, which costs "
                f"{1000 * self.clip_cost:.3f} mrad on average; rounding and clipping together {1000 * self.rounding:.2f} mrad")


class FlowChunks(Family):
    """Conditional flow matching on the normalised chunk, ``DRAWS`` noise draws an observation.

    Half of the draws condition on 0..6 clean first rows (training-time RTC) and have their loss on the rest. The loss is
    the squared velocity error, standardised per row and dimension, with ``1 - tau`` taken as at least ``--flow-floor``
    (1: the squared error of the predicted chunk at every tau; 0.02: the plain velocity error).
    """

    name = "flow"
    weights = {"flow": 4.0}

    def __init__(self, source: Source, tokenizer, args):
        super().__init__(source, build_layout(tokenizer, 0), args)
        self.floor, self.schedule = getattr(args, "flow_floor", 1.0), getattr(args, "flow_time", "uniform")

    def policy(self) -> FlowPolicy:
        policy = FlowPolicy(self.config(), smooth=True)
        policy.set_rows(self.source.y_chunk[self.source.train])
        return policy

    def record(self) -> dict:
        return {**super().record(), "max_prefix_rows": MAX_PREFIX_ROWS}

    def arrays(self, index: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        size = len(index)
        noise = rng.standard_normal((size, DRAWS, ROWS, DIMS)).astype(np.float32)
        even = (rng.permuted(np.tile(np.arange(DRAWS), (size, 1)), axis=1) + rng.random((size, DRAWS))) / DRAWS
        time = even if self.schedule == "uniform" else 0.999 * (1 - even ** (1 / 1.5))  # pi0: Beta(1.5, 1), more noise
        rows = np.where(np.arange(DRAWS) % 2 == 1, rng.integers(0, MAX_PREFIX_ROWS + 1, (size, DRAWS)), 0)
        return {"noise": noise, "time": time.astype(np.float32), "committed": rows}

    def terms(self, policy: FlowPolicy, batch: dict[str, torch.Tensor], autocast: bool) -> dict[str, torch.Tensor]:
        device = batch["images"].device
        target = batch["chunk"].view(-1, 1, ROWS, DIMS)
        held = torch.arange(ROWS, device=device) < batch["committed"][..., None]  # [B, G, H]
        time = torch.where(held, 1.0, batch["time"][..., None])
        noisy = time[..., None] * target + (1 - time[..., None]) * batch["noise"]
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast, cache_enabled=device.type != "cpu"):
            out = policy(batch["images"], batch["text"], noisy, time)
            terms = truth_terms(policy, out, batch)
        error = ((out["chunk"] - target) / policy.row_scale).square().mean(-1)
        free = (~held).float()
        weight = (1 - time).clamp(min=self.floor) ** -2 / (2 / self.floor - 1) * free
        terms["flow"] = (weight * error).sum() / free.sum()
        terms["total"] = self.total(terms)
        with torch.no_grad():
            plain = free * (batch["committed"] == 0)[..., None]
            terms["chunk_error"] = (error * plain).sum() / plain.sum().clamp(min=1)
        return terms

    def line(self, mean: dict[str, float]) -> str:
        return f"flow {mean['flow']:.4f} chunk error {mean['chunk_error']:.4f} (squared, standardised)"

    @torch.no_grad()
    def chunks(self, policy: FlowPolicy, batch: dict[str, torch.Tensor], index: np.ndarray, rng: np.random.Generator) -> list[np.ndarray | None]:
        """Chunks in rad after ten Euler steps."""
        noise = torch.from_numpy(rng.standard_normal((len(index), ROWS, DIMS)).astype(np.float32)).to(batch["images"].device)
        y = policy.sample(batch["images"], batch["text"], noise).float().cpu().numpy().astype(np.float64)
        return [self.actions(one, i) for one, i in zip(y, index)]

    def start_from(self, policy: FlowPolicy, state: dict[str, torch.Tensor], fast: Fast) -> set[str]:
        return policy.start_from(state)

    def describe(self) -> str:
        return f"chunks of {ROWS} rows, {DRAWS} noise draws an observation, tau {self.schedule}, floor {self.floor}"


FAMILIES = {"fast": FastTokens, "bins": BinTokens, "flow": FlowChunks}
