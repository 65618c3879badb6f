"""A policy of any size with random weights, as a bundle of the ``bins`` family: to measure decoding, not to move a robot.

    python -m endplate_export.synthetic --out OUT            # about 440 million parameters, 0.9 GB of fp16
    endplate bench decode --engine ort --bundle OUT --peer PYTHON

It has both decoder graphs (``decode_k1.onnx``, portable, and ``decode_gqa.onnx``, see ``in_place.py``), the vision and
prefill graphs of the demonstration policies at that width, and golden samples from ONNX Runtime's Python interface.
The same seed gives the same weights. Needs ``pip install ./policies/export[train]``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from . import bins, in_place
from .description import dumps
from .data import CAMERAS, COLOURS, DIMS, JOINTS, RELATIVE, ROBOT, file_digest
from .fast import normalise
from .graphs import WEIGHTS, Shape, Weights, decoder, vision
from .model import keypoint_order
from .replay import BinCodec, Sample, TokenReplay, ort_runners, write_golden
from .text import build_layout, build_tokenizer, prompt_ids, sentence, state_bins

PHRASES = ["pick up the {colour} cube"]
ROWS, MAX_TEXT_TOKENS, SAMPLES = 8, 32, 2
Q01, Q99 = np.full(DIMS, -0.5), np.full(DIMS, 0.5)
VISUAL_TOKENS = 78


def random_weights(shape: Shape, hidden: int, offset: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every tensor the graphs read, fp16, scaled so that activations keep their size; text ids are never predicted."""
    out: dict[str, np.ndarray] = {}

    def draw(name: str, *dims: int, fan: int | None = None, gain: float = 1.0) -> None:
        values = rng.standard_normal(dims, dtype=np.float32)
        values *= gain * (fan or dims[0]) ** -0.5
        out[name] = values.astype(np.float16)

    d, hd, q, kv = shape.width, shape.head_dim, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    draw("embedding", shape.vocabulary, d, fan=1)
    draw("head", d, shape.vocabulary)
    out["head"][:, :offset] = 0
    out["final_norm"] = np.ones(d, np.float16)
    out["exit_norm"] = np.ones(d, np.float16)
    out["rope"] = (10000.0 ** (-np.arange(0, hd, 2) / hd)).astype(np.float16)
    for camera, _, _ in CAMERAS:
        stem = f"vision.{camera}."
        for name, into, of, kernel in [("conv1", 32, 3, 4), ("conv2", 64, 32, 3), ("conv3", d, 64, 3), ("maps1", 32, 32, 3), ("maps2", 12, 32, 1)]:
            draw(f"{stem}{name}.weight", into, of, kernel, kernel, fan=of * kernel * kernel)
            out[f"{stem}{name}.bias"] = np.zeros(into, np.float16)
        draw(stem + "position", 36, d, fan=1)
        draw(stem + "keypoint.weight", 60, d)
        draw(stem + "keypoint.bias", 3, d, fan=1)
    deep = (2 * shape.layers) ** -0.5
    for layer in range(shape.layers):
        name = f"layers.{layer}."
        draw(name + "q", d, q)
        draw(name + "k", d, kv)
        draw(name + "v", d, kv)
        draw(name + "out", q, d, gain=deep)
        draw(name + "gate", d, hidden)
        draw(name + "up", d, hidden)
        draw(name + "down", hidden, d, gain=deep)
        for norm in ("attention_norm", "mlp_norm"):
            out[name + norm] = np.ones(d, np.float16)
    return out


def samples(replay: TokenReplay, folder: Path, layers: int, tokenizer, rng: np.random.Generator) -> list[Sample]:
    """Golden samples on random images."""
    runners = ort_runners(folder, layers)
    found = []
    for index in range(SAMPLES):
        state = rng.uniform(-0.4, 0.4, DIMS)
        images = rng.integers(0, 256, (len(CAMERAS), 96, 96, 3), dtype=np.uint8)
        instruction = sentence(PHRASES[0], COLOURS[index % len(COLOURS)])
        ids = prompt_ids(tokenizer, instruction, state_bins(normalise(state, Q01, Q99)))
        sample = replay.run(runners, Sample(instruction, images, state, ids))
        if sample.actions is None:
            raise ValueError("a golden chunk does not decode; choose another --seed")
        found.append(sample)
    return found


def write(args: argparse.Namespace) -> str:
    """Writes the bundle; returns one line about it."""
    rng = np.random.default_rng(args.seed)
    tokenizer = build_tokenizer(PHRASES, COLOURS)
    layout = build_layout(tokenizer, bins.COUNT)
    prefix = VISUAL_TOKENS + MAX_TEXT_TOKENS
    shape = Shape(args.width, args.layers, args.heads, args.kv_heads, args.width // args.heads, VISUAL_TOKENS, prefix,
                  prefix + ROWS * DIMS, layout.vocabulary)
    folder = args.out
    folder.mkdir(parents=True)
    values = random_weights(shape, args.hidden, layout.action_offset, rng)
    decoder_weights = sum(v.size for k, v in values.items() if k.startswith("layers.") or k == "head")
    save_file(values, folder / WEIGHTS)
    del values
    weights = Weights(folder / WEIGHTS)
    models = {"vision": vision(weights, shape, keypoint_order()), "prefill": decoder(weights, shape, prefix, 0),
              "decode_k1": decoder(weights, shape, 1, shape.slab), in_place.GRAPH: in_place.in_place_decoder(weights, shape)}
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    embedding = weights.values["embedding"].astype(np.float32)
    del weights, models
    replay = TokenReplay(shape, embedding, {"q01": Q01, "q99": Q99}, ROWS, BinCodec(ROWS), layout.action_offset)
    write_golden(folder / "golden.npz", replay, samples(replay, folder, shape.layers, tokenizer, rng))
    (folder / "text").mkdir()
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    tolerance = {"visual": 1e-3, "logits": 1e-2, "action_rad": 1e-3}
    (folder / "policy.toml").write_text(dumps({
        "format": 1, "name": "synthetic", "family": "bins", "robot": ROBOT, "precision": "f32",
        "description": f"Random weights: {decoder_weights:,} of them are read for every token.",
        "engines": {"tract": dict(tolerance), "ort": dict(tolerance)},
        "files": files,
        "cameras": [{"name": n, "width": w, "height": h, "resize": "bilinear_antialiased", "pad": "none"} for n, w, h in CAMERAS],
        "state": [{"name": n, "unit": "rad", "q01": float(Q01[i]), "q99": float(Q99[i])} for i, n in enumerate(JOINTS)],
        "action": [{"name": n, "kind": "joint_rel" if RELATIVE[i] else "gripper", "unit": "rad", "interpolation": "smooth",
                    "blending": "average" if RELATIVE[i] else "latch", "q01": float(Q01[i]), "q99": float(Q99[i])} for i, n in enumerate(JOINTS)],
        "chunk": {"horizon": ROWS, "row_period_s": 0.1, "execute_rows": ROWS, "observation_lag_s": 0.0, "max_skew_s": 0.05},
        "prompt": {"max_text_tokens": MAX_TEXT_TOKENS, "state_bins": 256},
        "model": {"width": shape.width, "layers": shape.layers, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim,
                  "visual_tokens": shape.visual_tokens, "prefix": shape.prefix, "max_tokens": ROWS * DIMS, "slab": shape.slab,
                  "vocabulary": shape.vocabulary, "action_offset": layout.action_offset, "exit_layer": max(1, shape.layers // 2)},
        "bins": {"scheme": "openvla", "count": bins.COUNT},
        "decoding": {"strategy": "greedy"},
        "budget": {"vision_ms": 10.0, "prefill_ms": 2000.0, "token_ms": 80.0},
    }), encoding="utf-8")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return f"{args.out}: {decoder_weights:,} weights read for every token, slab of {shape.slab} rows, {size:,} bytes"


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when something is refused."""
    parser = argparse.ArgumentParser(prog="python -m endplate_export.synthetic", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="bundle folder to make; it must not exist")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=29)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.out.exists():
        print(f"endplate_export.synthetic: {args.out} exists already; remove it or choose another folder", file=sys.stderr)
        return 2
    try:
        print(write(args))
    except ValueError as error:
        shutil.rmtree(args.out, ignore_errors=True)
        print(f"endplate_export.synthetic: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
