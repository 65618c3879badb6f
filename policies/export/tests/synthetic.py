"""A tiny dataset in the dataset format: coloured squares, a reach towards the named one. For tests only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from endplate_export.data import CAMERAS, COLOURS, JOINTS, RELATIVE
from endplate_export.fast import dct_matrix, normalise

PHRASES = ["pick up the {colour} cube", "grab the {colour} block", "lift the {colour} cube", "get the {colour} cube please"]


def write(folder: Path, frames: int = 600, scenes: int = 40, seed: int = 1) -> Path:
    """Writes a complete dataset; the FAST tokenizer is fitted here with the full byte alphabet."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images = np.full((frames, 2, 96, 96, 3), 90, np.uint8)
    pixels = np.ones((frames, 2, 3, 3), np.float32)
    pixels[..., :2] = rng.uniform(10, 86, (frames, 2, 3, 2))
    for i in range(frames):
        for c in range(2):
            for k in range(3):
                u, v = pixels[i, c, k, :2].astype(int)
                images[i, c, v - 5 : v + 5, u - 5 : u + 5] = 30
                images[i, c, v - 5 : v + 5, u - 5 : u + 5, k] = 220
    target = rng.integers(0, 3, frames).astype(np.uint8)
    xy = (pixels[:, 0, :, :2] - 48) / 48
    cubes = np.concatenate([0.18 + 0.05 * xy[..., 1:], 0.12 * xy[..., :1], np.full((frames, 3, 1), 0.015)], -1).astype(np.float32)
    named = cubes[np.arange(frames), target]
    state = rng.uniform(-0.5, 0.5, (frames, 6)).astype(np.float32)
    goal = np.stack([np.arctan2(named[:, 1], named[:, 0]), named[:, 0] * 3, -named[:, 0], named[:, 1], 0 * named[:, 0], 0.5 + 0 * named[:, 0]], 1)
    ramp = np.linspace(0, 1, 16)[None, :, None]
    actions = (state[:, None] * (1 - ramp) + goal[:, None] * ramp).astype(np.float32)
    actions[:, :, 5] = goal[:, 5, None] - 0.3 * (ramp[0, :, 0] > 0.7)
    arrays = {"images": images, "state": state, "command": state, "actions": actions, "cubes": cubes, "pixels": pixels, "target": target,
              "episode": np.arange(frames, dtype=np.uint32) // 5, "scene": (np.arange(frames) * scenes // frames).astype(np.uint32),
              "phase": np.zeros(frames, np.uint8)}
    relative = actions - np.where(RELATIVE, state, 0)[:, None]
    stats = {}
    for kind, values in (("state", state), ("action", relative.reshape(-1, 6))):
        low, high = np.quantile(values, [0.01, 0.99], axis=0)
        stats[kind] = {"q01": low.tolist(), "q99": np.maximum(high, low + 1e-2).tolist()}
    y = normalise(relative.astype(np.float64), np.array(stats["action"]["q01"]), np.array(stats["action"]["q99"]))
    coefficients = np.rint(10 * np.einsum("kh,nhd->nkd", dct_matrix(16), y)).astype(int).reshape(frames, -1)
    low = int(coefficients.min())
    strings = ["".join(chr(c - low) for c in row) for row in coefficients]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer.train_from_iterator(strings, BpeTrainer(vocab_size=512, min_frequency=2, initial_alphabet=ByteLevel.alphabet(), special_tokens=[], max_token_length=10000))
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    config = {"scale": 10.0, "min_token": low, "vocab_size": tokenizer.get_vocab_size(), "time_horizon": 16, "action_dim": 6}
    (folder / "tokenizer" / "processor_config.json").write_text(json.dumps(config))
    ids = [tokenizer.encode(s).ids for s in strings]
    length = np.array([len(row) for row in ids], np.uint16)
    tokens = np.full((frames, length.max()), 65535, np.uint16)
    for row, one in zip(tokens, ids):
        row[: len(one)] = one
    arrays |= {"tokens": tokens, "token_len": length}
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)
    (folder / "stats.json").write_text(json.dumps(stats))
    meta = {"format": 1, "robot": "so101_sim", "seed": seed, "scenes": scenes, "episodes": frames // 5, "frames": frames, "horizon": 16,
            "row_period_s": 0.1, "joints": JOINTS, "cameras": [{"name": n, "width": w, "height": h} for n, w, h in CAMERAS],
            "colours": COLOURS, "phrases": PHRASES, "expert_success": [frames // 5, frames // 5], "randomised": True}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
