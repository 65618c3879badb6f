"""The demonstration policy: a small pi0-FAST-shaped network (Pertsch et al., arXiv 2501.09747, section V).

``Trunk``: two convolutional stems make visual tokens, a text prompt follows, and decoder layers read this prefix in
both directions. ``Policy`` predicts action tokens (FAST or bins) one by one after it, with a second, auxiliary head
after layer ``exit_layer``; ``flow.FlowPolicy`` lets an action expert read the trunk's keys and values. Tables that are
smooth by construction during training (numbers, action tokens) are materialised into plain tables for export.

Training-only heads (``aux_*``) read simulator truth: where each cube is, which patch holds it, the clean chunk, and
how many coefficients the tokens so far carry. They bind colour to place; no graph contains them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .bins import COUNT, value_of
from .fast import Fast
from .text import FIRST_NUMBER, LAST_NUMBER, Layout

CAMERAS = ("front", "wrist")
MAPS = 12  # spatial-softmax maps a camera; maps 0, 1, 2 follow the red, green and blue cube
CELLS = 24  # feature map side of the keypoint branch
PATCHES = 6  # side of the patch grid
FRONT_PATCHES = PATCHES * PATCHES
KEYPOINT_OCTAVES = 3
OFFSETS = 97  # 0..96 coefficients


@dataclass(frozen=True)
class Config:
    """Shape of the network. ``numbers`` is the id of "-1"; action ids start at ``action_offset``."""

    vocabulary: int
    action_offset: int
    numbers: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    hidden: int = 384
    exit_layer: int = 2
    rope_base: float = 1000.0
    family: str = "fast"
    dims: int = 6
    horizon: int = 16
    expert_hidden: int = 256

    @classmethod
    def of(cls, layout: Layout, family: str = "fast", horizon: int = 16) -> "Config":
        return cls(layout.vocabulary, layout.action_offset, layout.numbers, family=family, horizon=horizon)

    @property
    def visual_tokens(self) -> int:
        return len(CAMERAS) * (FRONT_PATCHES + 3)

    def dict(self) -> dict:
        return asdict(self)


def rope_frequencies(config: Config) -> np.ndarray:
    """Inverse frequencies f32 [hd/2], rounded to fp16 so that the exported constant is the trained one."""
    half = config.head_dim // 2
    return (config.rope_base ** (-np.arange(half) / half)).astype(np.float16).astype(np.float32)


def keypoint_order() -> list[int]:
    """Map order of the three keypoint tokens: token j holds map j (its colour) and three free maps."""
    return [m for j in range(3) for m in (j, 3 + 3 * j, 4 + 3 * j, 5 + 3 * j)]


def number_features() -> torch.Tensor:
    """Smooth features of the values -1..255, f32 [257, 2 + 2*7]: value, square and seven octaves of sine and cosine."""
    x = (torch.arange(FIRST_NUMBER, LAST_NUMBER + 1, dtype=torch.float32) - 127.5) / 127.5
    parts = [x, x * x]
    for k in range(7):
        parts += [torch.sin(np.pi * 2.0**k / 2 * x), torch.cos(np.pi * 2.0**k / 2 * x)]
    return torch.stack(parts, 1)


def action_features(fast: Fast, first: int = 6) -> torch.Tensor:
    """Features of FAST ids, f32 [ids, first*8 + 10]: the leading coefficients (smoothly coded) and how many there are."""
    rows = []
    for piece in fast.pieces:
        codes = [ord(c) + fast.min_token for c in piece.decode("utf-8", errors="ignore")]
        row: list[float] = []
        for i in range(first):
            if i < len(codes):
                c = float(codes[i])
                row += [1.0, float(c == 0), np.sin(np.pi * c / 96), np.cos(np.pi * c / 96), np.sin(np.pi * c / 32),
                        np.cos(np.pi * c / 32), np.sin(np.pi * c / 8), np.cos(np.pi * c / 8)]
            else:
                row += [0.0] * 8
        row += [float(len(codes) == n) for n in range(8)] + [min(len(codes), 32) / 8.0, float(len(codes) >= 8)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float32)


def code_features(coefficient: np.ndarray) -> torch.Tensor:
    """What ``action_features`` says of ids that carry one coefficient of the given value, f32 [ids, columns]."""
    pieces = tuple(chr(1000 + i).encode() for i in range(len(coefficient)))
    rows = action_features(Fast(pieces, 10.0, -1000))
    c = torch.from_numpy(np.asarray(coefficient, np.float32))
    rows[:, 1] = (c.abs() < 0.5).float()
    for place, period in ((2, 96), (4, 32), (6, 8)):
        rows[:, place], rows[:, place + 1] = torch.sin(np.pi * c / period), torch.cos(np.pi * c / period)
    return rows


def bin_features() -> torch.Tensor:
    """Features of bin ids 0..255, f32 [256, 17]: one, value, square and seven octaves of sine and cosine."""
    x = torch.from_numpy(value_of(np.arange(COUNT)).astype(np.float32))
    parts = [torch.ones_like(x), x, x * x]
    for k in range(7):
        parts += [torch.sin(np.pi * 2.0**k / 2 * x), torch.cos(np.pi * 2.0**k / 2 * x)]
    return torch.stack(parts, 1)


def coefficient_starts(fast: Fast) -> np.ndarray:
    """How many coefficients begin in each FAST id (UTF-8 lead bytes), i64 [ids]."""
    return np.array([sum((b & 0xC0) != 0x80 for b in piece) for piece in fast.pieces], np.int64)


class _Normalise(torch.autograd.Function):
    """x / rms(x) in f32, returned in ``dtype``; the backward pass touches each element as few times as it can."""

    @staticmethod
    def forward(ctx, x, dtype):
        scale = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square() / x.shape[-1] + 1e-6)
        y = (x * scale).to(dtype)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, scale = ctx.saved_tensors
        inner = torch.linalg.vecdot(grad, y).unsqueeze(-1) / y.shape[-1]
        return torch.addcmul(grad, y, inner.to(grad.dtype), value=-1) * scale, None


class RmsNorm(nn.Module):
    """x / rms(x) over the last axis. The gain is folded into the weight that follows: ``weight * gain``."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        return _Normalise.apply(x, dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position, left half against right half. x [B, T, heads, hd], cos and sin [T, 1, hd/2] or [B, T, 1, hd/2]."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class Layer(nn.Module):
    """Projections of a pre-norm layer: grouped-query attention and SwiGLU of ``hidden``, no biases."""

    def __init__(self, config: Config, hidden: int):
        super().__init__()
        c = config
        self.heads, self.kv_heads, self.head_dim = c.heads, c.kv_heads, c.head_dim
        self.attention_norm, self.mlp_norm = RmsNorm(c.width), RmsNorm(c.width)
        self.qkv = nn.Linear(c.width, (c.heads + 2 * c.kv_heads) * c.head_dim, bias=False)
        self.out = nn.Linear(c.heads * c.head_dim, c.width, bias=False)
        self.gate = nn.Linear(c.width, hidden, bias=False)
        self.up = nn.Linear(c.width, hidden, bias=False)
        self.down = nn.Linear(hidden, c.width, bias=False)
        for layer in (self.qkv, self.gate, self.up):
            nn.init.normal_(layer.weight, std=c.width**-0.5)
        nn.init.normal_(self.out.weight, std=(c.heads * c.head_dim) ** -0.5 / (2 * c.layers) ** 0.5)
        nn.init.normal_(self.down.weight, std=hidden**-0.5 / (2 * c.layers) ** 0.5)
        scale = torch.ones((c.heads + 2 * c.kv_heads) * c.head_dim, 1)
        scale[: c.heads * c.head_dim] = c.head_dim**-0.5
        self.register_buffer("query_scale", scale, persistent=False)

    def projected(self, x: torch.Tensor) -> torch.Tensor:
        """Queries (scaled), keys and values side by side: [..., d] -> [..., H + 2 Hkv, hd]."""
        qkv = F.linear(self.attention_norm(x), self.qkv.weight * self.attention_norm.gain * self.query_scale)
        return qkv.view(*x.shape[:-1], self.heads + 2 * self.kv_heads, self.head_dim)

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        """x plus its SwiGLU."""
        hidden = self.mlp_norm(x)
        gate = F.linear(hidden, self.gate.weight * self.mlp_norm.gain)
        up = F.linear(hidden, self.up.weight * self.mlp_norm.gain)
        return x + self.down(F.silu(gate) * up)


class Block(Layer):
    """Decoder layer of the trunk."""

    def __init__(self, config: Config):
        super().__init__(config, config.hidden)

    def forward(self, x, cos, sin, mask, past=None, rows=None):
        """x [B, T, d] -> (x of ``rows`` (default all), k, v of the T new tokens [B, Hkv, T, hd]).

        cos, sin [T, 1, hd/2] or [B, T, 1, hd/2]; mask additive, [rows, past + T] or [B, 1, rows, past + T];
        past = (k, v), each [B, Hkv, P, hd].
        """
        batch = x.shape[0]
        both, group = self.heads + self.kv_heads, self.heads // self.kv_heads
        qkv = self.projected(x)
        qk = rotate(qkv[:, :, :both], cos, sin)
        q, k, v = qk[:, :, : self.heads], qk[:, :, self.heads :].transpose(1, 2), qkv[:, :, both:].transpose(1, 2)
        if rows is not None:
            x, q = x[:, rows], q[:, rows]
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        # Grouped by hand: on a CPU the fused kernel's backward pass costs more than everything else in the layer.
        kept = q.shape[1]
        q = q.transpose(1, 2).reshape(batch, self.kv_heads, group * kept, self.head_dim)
        scores = (q @ keys.transpose(2, 3)).view(batch, self.kv_heads, group, kept, -1)
        if mask.ndim == 4:
            mask = mask[:, :, None]
        weights = (scores + mask.to(scores.dtype)).softmax(-1).to(values.dtype)
        a = (weights.view(batch, self.kv_heads, group * kept, -1) @ values).view(batch, self.heads, kept, self.head_dim)
        x = x + self.out(a.transpose(1, 2).reshape(batch, kept, -1))
        return self.mixed(x), k, v


class Stem(nn.Module):
    """One camera: [B, 3, 96, 96] in -0.5..0.5 -> patches [B, 36, d], keypoint tokens [B, 3, d], map logits [B, 12, 576]."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 4, 4)
        self.conv2 = nn.Conv2d(32, 64, 3, 2, 1)
        self.conv3 = nn.Conv2d(64, width, 3, 2, 1)
        self.position = nn.Parameter(0.1 * torch.randn(FRONT_PATCHES, width))
        self.maps1 = nn.Conv2d(32, 32, 3, 1, 1)
        self.maps2 = nn.Conv2d(32, MAPS, 1)
        self.keypoint = nn.Linear(4 * (3 + 4 * KEYPOINT_OCTAVES), width)
        self.keypoint_position = nn.Parameter(0.1 * torch.randn(3, width))
        line = torch.arange(CELLS) * (2 / (CELLS - 1)) - 1
        grid = torch.stack([line.repeat(CELLS), line.repeat_interleave(CELLS)], 1)  # [576, 2]: x, y
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("order", torch.tensor(keypoint_order()), persistent=False)

    def forward(self, image: torch.Tensor):
        f = F.gelu(self.conv1(image))
        patches = self.conv3(F.gelu(self.conv2(f))).flatten(2).transpose(1, 2).float() + self.position
        logits = self.maps2(F.gelu(self.maps1(f))).flatten(2).float()
        with torch.autocast(image.device.type, enabled=False):
            weight = torch.softmax(logits, -1)
            xy = weight @ self.grid  # [B, 12, 2]
            waves = [xy, weight.amax(-1, keepdim=True)]
            for k in range(KEYPOINT_OCTAVES):
                waves += [torch.sin(np.pi * 2.0**k * xy), torch.cos(np.pi * 2.0**k * xy)]
            features = torch.cat(waves, -1)[:, self.order].reshape(len(image), 3, -1)
            keypoints = self.keypoint(features) + self.keypoint_position
        return patches, keypoints, logits


class Trunk(nn.Module):
    """Stems, prompt table, decoder layers and the training-only heads: what every family shares.

    With ``smooth`` (training) number rows are smooth sums; without (export) every table is plain.
    """

    def __init__(self, config: Config, smooth: bool):
        super().__init__()
        c = self.config = config
        self.stems = nn.ModuleDict({name: Stem(c.width) for name in CAMERAS})
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.final_norm = RmsNorm(c.width)
        self.smooth = smooth
        self.table = nn.Parameter((0.1 if smooth else 0.3) * torch.randn(c.vocabulary, c.width))
        if smooth:
            self.register_buffer("number_code", number_features())
            self.number_embed = nn.Parameter(0.1 * torch.randn(self.number_code.shape[1], c.width))
            with torch.no_grad():
                self.table[: c.numbers] *= 3
                self.table[c.numbers : c.action_offset] *= 0.2
        self.register_buffer("frequencies", torch.from_numpy(rope_frequencies(c)), persistent=False)
        self.aux_position = nn.Linear(c.width, 12)  # xyz of red, green, blue, named; standardised
        self.aux_patch = nn.Linear(c.width, 4)  # which front patch holds red, green, blue, named
        self.aux_chunk = nn.Linear(c.width, 96)  # the clean normalised chunk [16, 6]

    def prompt_table(self) -> torch.Tensor:
        """Embedding rows of the text ids, [action_offset, d]."""
        c = self.config
        if not self.smooth:
            return self.table[: c.action_offset]
        with torch.autocast(self.table.device.type, enabled=False):
            numbers = self.table[c.numbers : c.action_offset] + self.number_code @ self.number_embed
        return torch.cat([self.table[: c.numbers], numbers])

    def tables(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embedding table [V, d] and, in families with action tokens, the output table [V, d]."""
        return self.prompt_table(), None

    def rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin f32 [..., T, 1, hd/2] of integer positions [..., T]."""
        angle = positions[..., None, None].float() * self.frequencies
        return angle.cos(), angle.sin()

    def vision(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images f32 [B, 2, 3, 96, 96] in 0..1 -> visual tokens [B, Nv, d], map logits [B, 2, 12, 576]."""
        patches, keypoints, logits = zip(*(self.stems[name](images[:, i] - 0.5) for i, name in enumerate(CAMERAS)))
        return torch.cat([*patches, *keypoints], 1), torch.stack(logits, 1)

    def prefix(self, images: torch.Tensor, text: torch.Tensor) -> dict:
        """The prefix alone. images f32 [B, 2, 3, 96, 96]; text ids [B, T] without padding.

        Returns ``cache`` [(k, v)], ``front`` [B, 36, d], ``final`` [B, 1, d] (normed row of the last prompt token) and ``maps``.
        """
        visual, maps = self.vision(images)
        x = torch.cat([visual, F.embedding(text, self.prompt_table())], 1)
        total = x.shape[1]
        cos, sin = self.rope(torch.arange(total, device=x.device))
        rows = torch.cat([torch.arange(FRONT_PATCHES, device=x.device), torch.tensor([total - 1], device=x.device)])
        mask = torch.zeros(1, device=x.device)
        cache = []
        for number, block in enumerate(self.blocks, 1):
            x, k, v = block(x, cos, sin, mask, rows=rows if number == len(self.blocks) else None)
            cache.append((k, v))
        x = self.final_norm(x) * self.final_norm.gain
        return {"cache": cache, "front": x[:, :FRONT_PATCHES], "final": x[:, FRONT_PATCHES:], "maps": maps}

    def plain(self) -> "Trunk":
        """A copy with materialised tables and every weight rounded to fp16 (held in f32): what a bundle stores."""
        copy = type(self)(self.config)
        state = {k: v for k, v in self.state_dict().items() if k in copy.state_dict()}
        with torch.no_grad():
            table, head = self.tables()
            state["table"] = table.detach()
            if head is not None:
                state["head"] = head.detach()
            for name in CAMERAS:  # the bundle holds the sum of the two, so the sum is what must be rounded
                bias, place = f"stems.{name}.keypoint.bias", f"stems.{name}.keypoint_position"
                state[place], state[bias] = state[place] + state[bias], torch.zeros_like(state[bias])
        copy.load_state_dict({k: v.float().cpu().half().float() for k, v in state.items()})
        return copy.eval()

    @torch.no_grad()
    def start_from(self, state: dict[str, torch.Tensor]) -> set[str]:
        """Takes a trunk's plain weights (``graphs.trunk_state``); returns the names of the parameters that came from it."""
        own, taken = dict(self.named_parameters()), set()
        for name, p in own.items():
            if name in state and name not in ("table", "head") and state[name].shape == p.shape:
                p.copy_(state[name])
                taken.add(name)
        c, table = self.config, state["table"]
        self.table[: c.numbers] = table[: c.numbers]
        numbers = table[c.numbers : c.action_offset]
        self.number_embed.copy_(torch.linalg.lstsq(self.number_code, numbers).solution)
        self.table[c.numbers : c.action_offset] = numbers - self.number_code @ self.number_embed
        return taken | {"table", "number_embed"}


class Policy(Trunk):
    """The trunk with action tokens. With ``features`` (training) action tables are smooth sums too."""

    def __init__(self, config: Config, features: torch.Tensor | None = None):
        super().__init__(config, features is not None)
        c = config
        self.exit_norm = RmsNorm(c.width)
        self.head = nn.Parameter(0.02 * torch.randn(c.vocabulary, c.width))
        if self.smooth:
            self.register_buffer("action_code", features)
            self.action_embed = nn.Parameter(0.06 * torch.randn(features.shape[1], c.width))
            self.action_head = nn.Parameter(torch.zeros(features.shape[1], c.width))
        self.aux_offset = nn.Linear(c.width, OFFSETS)  # coefficients (FAST) or values (bins) carried by the tokens so far

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding and output tables, both [V, d]."""
        if not self.smooth:
            return self.table, self.head
        c = self.config
        with torch.autocast(self.table.device.type, enabled=False):
            actions = self.table[c.action_offset :] + self.action_code @ self.action_embed
            head = torch.cat([self.head[: c.action_offset], self.head[c.action_offset :] + self.action_code @ self.action_head])
        return torch.cat([self.prompt_table(), actions]), head

    @torch.no_grad()
    def start_from(self, state: dict[str, torch.Tensor]) -> set[str]:
        """As the trunk; text rows of the output table come along too."""
        taken = super().start_from(state)
        self.head[: self.config.action_offset] = state["head"][: self.config.action_offset]
        return taken

    @torch.no_grad()
    def embed_like(self, target: torch.Tensor) -> None:
        """Lets the smooth part of the action embeddings start at ``target`` [ids, d] (least squares)."""
        self.action_embed.copy_(torch.linalg.lstsq(self.action_code, target).solution)

    def forward(self, images: torch.Tensor, text: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Teacher-forced pass. images f32 [B, 2, 3, 96, 96]; text ids [B, Tt] without padding; tokens action ids
        (already offset) [B, Ta], padded on the right with any id.

        Returns ``final`` and ``exit`` [B, 1 + Ta, d] (normed rows that predict token 0..Ta), ``front`` [B, 36, d],
        ``maps`` [B, 2, 12, 576] and ``head`` [V, d].
        """
        visual, maps = self.vision(images)
        table, head = self.tables()
        x = torch.cat([visual, F.embedding(text, table), F.embedding(tokens, table)], 1)
        prefix = visual.shape[1] + text.shape[1]
        total = x.shape[1]
        index = torch.arange(total, device=x.device)
        seen = (index[None] < prefix) | (index[None] <= index[:, None])
        mask = torch.zeros(total, total, device=x.device).masked_fill(~seen, float("-inf"))
        cos, sin = self.rope(index)
        rows = torch.cat([index[:FRONT_PATCHES], index[prefix - 1 :]])  # all that a loss looks at
        exit_hidden = x
        for number, block in enumerate(self.blocks, 1):
            last = number == len(self.blocks)
            x, _, _ = block(x, cos, sin, mask[rows] if last else mask, rows=rows if last else None)
            if number == self.config.exit_layer:
                exit_hidden = x[:, prefix - 1 :]
        x = self.final_norm(x) * self.final_norm.gain
        exit_hidden = self.exit_norm(exit_hidden) * self.exit_norm.gain
        return {"front": x[:, :FRONT_PATCHES], "final": x[:, FRONT_PATCHES:], "exit": exit_hidden, "maps": maps, "head": head}

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Final norm and output table: hidden rows [..., d] -> [..., V]."""
        return F.linear(self.final_norm(x), self.tables()[1] * self.final_norm.gain)

    @torch.no_grad()
    def prefill(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor):
        """The ``prefill`` graph: x [B, S, d], positions [B, S], mask additive [B, 1, S, S] -> last row's logits, [(k, v)]."""
        cos, sin = self.rope(positions)
        cache = []
        for block in self.blocks:
            x, k, v = block(x, cos, sin, mask)
            cache.append((k, v))
        return self.logits(x[:, -1]), cache

    @torch.no_grad()
    def decode(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, past):
        """The ``decode_k1`` graph: x [B, 1, d], positions [B, 1], mask [B, 1, 1, P + 1], past [(k, v)] of P rows."""
        cos, sin = self.rope(positions)
        new = []
        for block, layer in zip(self.blocks, past):
            x, k, v = block(x, cos, sin, mask, past=layer)
            new.append((k, v))
        return self.logits(x[:, -1]), new

    @torch.no_grad()
    def greedy(self, images: torch.Tensor, text: torch.Tensor, max_tokens: int) -> torch.Tensor:
        """Greedy action ids (offset removed, may be negative for text ids) [B, max_tokens]; no stopping rule."""
        visual, _ = self.vision(images)
        table, _ = self.tables()
        x = torch.cat([visual, F.embedding(text, table)], 1)
        batch, prefix = x.shape[:2]
        positions = torch.arange(prefix, device=x.device).expand(batch, -1)
        logits, cache = self.prefill(x, positions, torch.zeros(1, 1, 1, 1, device=x.device).expand(batch, 1, prefix, prefix))
        out = []
        for t in range(max_tokens):
            token = logits.argmax(-1)
            out.append(token - self.config.action_offset)
            if t + 1 == max_tokens:
                break
            here = torch.full((batch, 1), prefix + t, device=x.device)
            mask = torch.zeros(1, 1, 1, 1, device=x.device).expand(batch, 1, 1, prefix + t + 1)
            logits, new = self.decode(F.embedding(token, table)[:, None], here, mask, cache)
            cache = [(torch.cat([a, c], 2), torch.cat([b, d], 2)) for (a, b), (c, d) in zip(cache, new)]
        return torch.stack(out, 1)


def parameter_count(policy: Trunk) -> dict[str, int]:
    """Parameters of the exported policy (materialised tables) and of the training-only heads."""
    sizes = {k: v.numel() for k, v in (type(policy)(policy.config) if policy.smooth else policy).named_parameters()}
    aux = sum(n for k, n in sizes.items() if k.startswith("aux_"))
    return {"policy": sum(sizes.values()) - aux, "aux": aux}
