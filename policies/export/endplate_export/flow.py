"""Flow matching over whole chunks: an action expert that reads the trunk's keys and values (pi0, arXiv 2410.24164).

Convention: ``tau`` 0 is noise, 1 is data; ``x = tau * A + (1 - tau) * noise``; the velocity is ``A - noise``. ``tau`` is
given per row, so that rows already committed enter clean with ``tau = 1`` (training-time RTC, arXiv 2512.05964).

The network predicts the chunk, and the velocity follows as ``(chunk - x) / (1 - tau)``: the chunk lies near a smooth
mean, the velocity does not, and a small network predicts the mean better ("Back to Basics", arXiv 2511.13720). Its
output is scaled per row and dimension, since the first rows of a chunk move far less than the last.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .model import Config, Layer, RmsNorm, Trunk, rotate

TIME_OCTAVES = 6
TIME_FEATURES = 1 + 2 * TIME_OCTAVES
LAST_GAP = 0.02  # 1 - tau never divides below this; ten Euler steps end at 0.1
STEPS = 10
MAX_PREFIX_ROWS = 6


def time_frequencies() -> np.ndarray:
    """pi * 2^k, f32 [octaves], rounded to fp16 so that the exported constant is the trained one."""
    return (np.pi * 2.0 ** np.arange(TIME_OCTAVES)).astype(np.float16).astype(np.float32)


class ExpertBlock(Layer):
    """Layer of the action expert: its rows attend to the trunk's keys of the same layer and to each other."""

    def __init__(self, config: Config):
        super().__init__(config, config.expert_hidden)

    def forward(self, x, cos, sin, past, mask=None):
        """x [B, G, H, d]: G noise draws of one observation that do not see each other -> the same shape.

        past = (k, v), each [B, Hkv, P, hd], shared by the draws; cos, sin [H, 1, hd/2] or [B, 1, H, 1, hd/2];
        mask additive [B, 1, H, P + H] or None (everything is seen).
        """
        batch, draws, rows, _ = x.shape
        kv, hd = self.kv_heads, self.head_dim
        both, group = self.heads + kv, self.heads // kv
        qkv = self.projected(x)
        qk = rotate(qkv[..., :both, :], cos, sin)
        q = qk[..., : self.heads, :].reshape(batch, draws, rows, kv, group, hd).permute(0, 3, 1, 4, 2, 5)  # [B, kv, G, g, H, hd]
        k = qk[..., self.heads :, :].permute(0, 3, 1, 4, 2)  # [B, kv, G, hd, H]
        v = qkv[..., both:, :].permute(0, 3, 1, 2, 4)  # [B, kv, G, H, hd]
        far = (q.reshape(batch, kv, draws * group * rows, hd) @ past[0].transpose(2, 3)).view(batch, kv, draws, group, rows, -1)
        near = (q.reshape(batch, kv, draws, group * rows, hd) @ k).view(batch, kv, draws, group, rows, rows)
        scores = torch.cat([far, near], -1)
        if mask is not None:
            scores = scores + mask[:, :, None, None].to(scores.dtype)
        weights = scores.softmax(-1).to(v.dtype)
        far, near = weights[..., :-rows], weights[..., -rows:]
        a = (far.reshape(batch, kv, draws * group * rows, -1) @ past[1]).view(batch, kv, draws, group, rows, hd)
        a = a + (near.reshape(batch, kv, draws, group * rows, rows) @ v).view(batch, kv, draws, group, rows, hd)
        x = x + self.out(a.permute(0, 2, 4, 1, 3, 5).reshape(batch, draws, rows, self.heads * hd))
        return self.mixed(x)


class FlowPolicy(Trunk):
    """The trunk plus the action expert; there are no action tokens."""

    def __init__(self, config: Config, smooth: bool = False):
        super().__init__(config, smooth)
        c = config
        self.expert = nn.ModuleList(ExpertBlock(c) for _ in range(c.layers))
        self.enter = nn.Linear(c.dims, c.width, bias=False)
        self.time = nn.Linear(TIME_FEATURES, c.width)
        self.row = nn.Parameter(0.1 * torch.randn(c.horizon, c.width))
        self.mix = nn.Linear(c.width, c.width)
        self.expert_norm = RmsNorm(c.width)
        self.leave = nn.Linear(c.width, c.dims, bias=False)
        self.keep = nn.Linear(TIME_FEATURES, c.dims)  # share of x in the predicted chunk
        nn.init.normal_(self.leave.weight, std=0.02)
        nn.init.zeros_(self.keep.weight)
        nn.init.zeros_(self.keep.bias)
        self.register_buffer("row_mean", torch.zeros(c.horizon, c.dims))  # of the normalised chunk, set from the data
        self.register_buffer("row_scale", torch.ones(c.horizon, c.dims))
        self.register_buffer("time_frequencies", torch.from_numpy(time_frequencies()), persistent=False)

    def set_rows(self, chunks: np.ndarray) -> None:
        """Mean and scale of each row and dimension from normalised chunks [N, H, D], rounded as the bundle stores them."""
        mean, scale = chunks.mean(0), np.maximum(chunks.std(0), 0.02)
        self.row_mean.copy_(torch.from_numpy(mean.astype(np.float16).astype(np.float32)))
        self.row_scale.copy_(torch.from_numpy(scale.astype(np.float16).astype(np.float32)))

    def time_features(self, time: torch.Tensor) -> torch.Tensor:
        """tau [...] -> f32 [..., 13]: itself and six octaves of sine and cosine."""
        angle = time[..., None] * self.time_frequencies
        return torch.cat([time[..., None], angle.sin(), angle.cos()], -1)

    def chunk_of(self, noisy, time, cos, sin, cache, mask=None) -> torch.Tensor:
        """The predicted normalised chunk f32 [B, G, H, D] from noisy [B, G, H, D] and time [B, G, H]."""
        features = self.time_features(time)
        entered = self.enter(noisy) + self.time(features) + self.row
        x = entered + self.mix(F.silu(entered))
        for block, past in zip(self.expert, cache):
            x = block(x, cos, sin, past, mask)
        out = F.linear(self.expert_norm(x), self.leave.weight * self.expert_norm.gain).float()
        return self.row_mean + self.row_scale * out + self.keep(features).float() * noisy

    def forward(self, images, text, noisy, time) -> dict[str, torch.Tensor]:
        """images f32 [B, 2, 3, 96, 96], text ids [B, T] without padding, noisy [B, G, H, D], time [B, G, H].

        Returns ``chunk`` [B, G, H, D], ``front`` [B, 36, d], ``final`` [B, 1, d] and ``maps``.
        """
        out = self.prefix(images, text)
        start = self.config.visual_tokens + text.shape[1]
        cos, sin = self.rope(torch.arange(start, start + noisy.shape[2], device=noisy.device))
        out["chunk"] = self.chunk_of(noisy, time, cos, sin, out.pop("cache"))
        return out

    @torch.no_grad()
    def prefill(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor):
        """The ``prefill`` graph: x [B, S, d], positions [B, S], mask additive [B, 1, S, S] -> [(k, v)]."""
        cos, sin = self.rope(positions)
        cache = []
        for block in self.blocks:
            x, k, v = block(x, cos, sin, mask)
            cache.append((k, v))
        return cache

    @torch.no_grad()
    def denoise(self, noisy, time, positions, mask, past) -> torch.Tensor:
        """The ``denoise`` graph: noisy [B, H, D], time and positions [B, H], mask [B, 1, H, P + H] -> velocity [B, H, D]."""
        cos, sin = self.rope(positions[:, None])
        chunk = self.chunk_of(noisy[:, None], time[:, None], cos, sin, past, mask)[:, 0]
        return (chunk - noisy) / (1 - time[..., None]).clamp(min=LAST_GAP)

    @torch.no_grad()
    def sample(self, images, text, noise: torch.Tensor, steps: int = STEPS, committed: torch.Tensor | None = None) -> torch.Tensor:
        """Euler steps from noise [B, H, D]; the first rows are held to ``committed`` [B, d, D] with tau 1."""
        cache = self.prefix(images, text)["cache"]
        batch, rows, _ = noise.shape
        start = self.config.visual_tokens + text.shape[1]
        positions = torch.arange(start, start + rows, device=noise.device).expand(batch, -1)
        mask = torch.zeros(1, 1, 1, 1, device=noise.device).expand(batch, 1, rows, start + rows)
        fixed = 0 if committed is None else committed.shape[1]
        x = noise.clone()
        for step in range(steps):
            time = torch.full((batch, rows), step / steps, device=noise.device)
            if fixed:
                x[:, :fixed], time[:, :fixed] = committed, 1.0
            x = x + self.denoise(x, time, positions, mask, cache) / steps
        if fixed:
            x[:, :fixed] = committed
        return x
