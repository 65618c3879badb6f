"""``endplate-bundle``: a checkpoint and its dataset become a policy bundle, replayed before it is handed over.

The reference is torch with weights already rounded to fp16. Every graph runs in ONNX Runtime on golden samples
(``replay``); a greedy token that differs, or an error above the declared tolerance, refuses the bundle and leaves
nothing behind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import save_file

from . import bins, data as datasets
from .bins import BinError
from .data import CAMERAS, COLOURS, DIMS, JOINTS, RELATIVE, DatasetError, file_digest
from .description import dumps
from .fast import Fast, FastError
from .flow import LAST_GAP, STEPS, FlowPolicy
from .graphs import WEIGHTS, Shape, Weights, decoder, denoise, vision, weights_of
from .model import Config, Policy, Trunk, keypoint_order, parameter_count
from .replay import BinCodec, BundleError, FastCodec, FlowReplay, Replay, TokenReplay, compare, golden_samples, ort_runners, torch_runners, write_golden
from .text import build_layout, build_tokenizer, prompt_ids, sentence
from .train import load_checkpoint

FAMILY = {"fast": "pi0_fast", "bins": "bins", "flow": "flow"}
TOKENS = {"fast": "FAST action tokens", "bins": "bin action tokens", "flow": "flow matching"}
EXECUTE = {"fast": 8, "bins": 4, "flow": 8}
TOLERANCE = {"visual": 1e-3, "logits": 1e-2, "velocity": 1e-2, "action_rad": 1e-3}


def shape_of(config: Config, max_text_tokens: int, max_tokens: int) -> Shape:
    prefix = config.visual_tokens + max_text_tokens
    return Shape(config.width, config.layers, config.heads, config.kv_heads, config.head_dim, config.visual_tokens, prefix, prefix + max_tokens, config.vocabulary)


def write_graphs(folder: Path, policy: Trunk, shape: Shape, extra: dict[str, np.ndarray] | None = None) -> None:
    """``weights.safetensors`` and the family's three f32 graphs, checked by ``onnx.checker``."""
    save_file({**weights_of(policy), **{k: v.astype(np.float16) for k, v in (extra or {}).items()}}, folder / WEIGHTS)
    weights = Weights(folder / WEIGHTS)
    config = policy.config
    models = {"vision": vision(weights, shape, keypoint_order())}
    if config.family == "flow":
        models |= {"prefill": decoder(weights, shape, shape.prefix, 0, logits=False), "denoise": denoise(weights, shape, config.horizon, DIMS, LAST_GAP)}
    else:
        models |= {"prefill": decoder(weights, shape, shape.prefix, 0), "decode_k1": decoder(weights, shape, 1, shape.slab)}
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(folder / f"{name}.onnx"), full_check=True)


def write_bundle(args: argparse.Namespace, folder: Path) -> str:
    """Writes and verifies the whole bundle into ``folder``; returns the report. Raises BundleError, DatasetError, FastError."""
    content = load_checkpoint(args.checkpoint)
    data = datasets.load(args.data)
    for name, digest in content["digests"].items():
        if file_digest(data.folder / name) != digest:
            raise BundleError(f"{data.folder / name}: differs from the one {args.checkpoint} was trained with")
    if content["phrases"] != data.meta["phrases"]:
        raise BundleError(f"{data.folder / 'meta.json'}: phrases differ from those of {args.checkpoint}")
    family = content.get("family", "fast")
    fast = Fast.load(data.tokenizer_folder)
    tokenizer = build_tokenizer(data.meta["phrases"], COLOURS)
    layout = build_layout(tokenizer, {"fast": len(fast), "bins": bins.COUNT, "flow": 0}[family])
    config = Config(**content["config"])
    if config != Config.of(layout, family, config.horizon):
        raise BundleError(f"{args.checkpoint}: config does not match the id layout of {data.folder}")
    plain = policy_from(content).plain()
    longest = max(len(prompt_ids(tokenizer, sentence(p, c), [0] * DIMS)) for p in data.meta["phrases"] for c in COLOURS)
    if longest > args.max_text_tokens:
        raise BundleError(f"--max-text-tokens {args.max_text_tokens}: the longest prompt has {longest}")
    codec = {"fast": FastCodec(fast), "bins": BinCodec(config.horizon), "flow": None}[family]
    max_tokens = (args.max_tokens or codec.limit) if codec else 0
    if codec:
        codec.limit = max_tokens
    shape = shape_of(config, args.max_text_tokens, max_tokens)
    write_graphs(folder, plain, shape, {"aux.position_mean": content["position_mean"], "aux.position_scale": content["position_scale"]})
    embedding = Weights(folder / WEIGHTS).values["embedding"].astype(np.float32)
    action = content.get("action_stats", data.stats["action"])
    replay: Replay = (TokenReplay(shape, embedding, action, config.horizon, codec, layout.action_offset) if codec
                      else FlowReplay(shape, embedding, action, config.horizon))
    goldens = golden_samples(replay, torch_runners(plain), data, tokenizer)
    runners = ort_runners(folder, shape.layers)
    worst = compare(replay, goldens, runners)
    report = [f"f32 graphs in ONNX Runtime {onnxruntime.__version__} against torch {torch.__version__} (weights rounded to fp16): "
              f"visual {worst['visual']:.1e}, {replay.output} {worst[replay.output]:.1e}, actions {worst['action_rad']:.1e} rad"
              + (f", differing chunks {worst['tokens']} of {len(goldens)}" if codec else "")]
    tolerance = {k: TOLERANCE[k] for k in ("visual", replay.output, "action_rad")}
    if worst["tokens"] or any(not worst[k] <= tolerance[k] for k in tolerance):
        raise BundleError(f"graphs and torch disagree: {report[0]}")
    engines: dict[str, dict] = {"tract": dict(tolerance), "ort": dict(tolerance)}
    times = replay.measure(runners, goldens[0])
    report.append("one thread, ms: " + ", ".join(f"{k[:-3]} {v:.2f}" for k, v in times.items()))
    budget = {k: float(getattr(args, k) or round(v + 0.005, 2)) for k, v in times.items()}
    if family == "fast":
        (folder / "tokenizer").mkdir()
        for name in ("tokenizer.json", "processor_config.json"):
            shutil.copyfile(data.tokenizer_folder / name, folder / "tokenizer" / name)
    (folder / "text").mkdir()
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    write_golden(folder / "golden.npz", replay, goldens)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes files for their owner alone
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    state = data.stats["state"]
    model = {"width": shape.width, "layers": shape.layers, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim,
             "visual_tokens": shape.visual_tokens, "prefix": shape.prefix}
    if codec:
        model |= {"max_tokens": max_tokens, "slab": shape.slab, "vocabulary": shape.vocabulary, "action_offset": layout.action_offset, "exit_layer": config.exit_layer}
    else:
        model |= {"vocabulary": shape.vocabulary}
    special = {
        "fast": {"decoding": {"strategy": "greedy_constrained"}},
        "bins": {"bins": {"scheme": "openvla", "count": bins.COUNT}, "decoding": {"strategy": "greedy"}},
        "flow": {"flow": {"steps": STEPS, "time": "per_row", "max_prefix_rows": content.get("max_prefix_rows", 0)}},
    }[family]
    description = args.description or f"Picks up the named cube: two 96 x 96 cameras, six joints, {TOKENS[family]}."
    (folder / "policy.toml").write_text(dumps({
        "format": 1, "name": args.name or f"pick-cube-{family}", "family": FAMILY[family], "robot": data.meta["robot"], "precision": "f32",
        "description": description,
        "engines": engines,
        "files": files,
        "cameras": [{"name": n, "width": w, "height": h, "resize": "bilinear_antialiased", "pad": "none"} for n, w, h in CAMERAS],
        "state": [{"name": n, "unit": "rad", "q01": float(state["q01"][i]), "q99": float(state["q99"][i])} for i, n in enumerate(JOINTS)],
        "action": [{"name": n, "kind": "joint_rel" if RELATIVE[i] else "gripper", "unit": "rad", "interpolation": "smooth",
                    "blending": "average" if RELATIVE[i] else "latch", "q01": float(action["q01"][i]), "q99": float(action["q99"][i])} for i, n in enumerate(JOINTS)],
        "chunk": {"horizon": config.horizon, "row_period_s": 0.1, "execute_rows": EXECUTE[family], "observation_lag_s": 0.0, "max_skew_s": 0.05},
        "prompt": {"max_text_tokens": args.max_text_tokens, "state_bins": 256},
        "model": model,
        **special,
        "budget": budget,
        "training": {"script": "policies/export/endplate_export/train.py", "seed": content["seed"], "dataset_digest": " ".join(content["datasets"]), "steps": content["step"]},
    }), encoding="utf-8")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    report.append(f"{describe(content)}; prefix {shape.prefix}, " + (f"slab {shape.slab}, " if codec else "") + f"{size:,} bytes")
    return "\n".join(report)


def policy_from(content: dict) -> Trunk:
    """The network of a checkpoint, with its averaged weights, on the CPU, in eval mode."""
    config = Config(**content["config"])
    policy = FlowPolicy(config, smooth=True) if config.family == "flow" else Policy(config, content["model"]["action_code"])
    policy.load_state_dict({**content["model"], **content["average"]})
    return policy.eval()


def describe(content: dict) -> str:
    """One line: parameters, vocabulary, steps."""
    count, config = parameter_count(policy_from(content)), content["config"]
    return (f"{count['policy']:,} parameters (+ {count['aux']:,} training only), vocabulary {config['vocabulary']}, "
            f"step {content['step']}, {content['elapsed_s'] / 60:.1f} min, seed {content['seed']}")


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="endplate-bundle", description="Writes and verifies a policy bundle.")
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--info", action="store_true", help="only say what the checkpoint holds")
    parser.add_argument("--data", type=Path, help="dataset folder: tokenizer, statistics, golden frames")
    parser.add_argument("--out", type=Path, help="bundle folder to make; it must not exist")
    parser.add_argument("--name", help="default: pick-cube- and the family")
    parser.add_argument("--description", help="default: one sentence about task, inputs and family")
    parser.add_argument("--max-text-tokens", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=0, help="default: horizon times dimensions, so that generation always completes")
    for stage in ("vision", "prefill", "token", "step"):
        parser.add_argument(f"--{stage}-ms", type=float, help="cost model; default: measured here, one thread")
    args = parser.parse_args(argv)
    if not args.info and (args.data is None or args.out is None):
        parser.error("--data and --out are required (or --info)")
    return args


def main(argv=None) -> int:
    """Command line entry; 0 on success, 2 when something is refused."""
    args = parse(argv)
    torch.set_num_threads(1)
    try:
        if args.info:
            print(describe(load_checkpoint(args.checkpoint)))
            return 0
        if args.out.exists():
            raise BundleError(f"{args.out}: exists already; remove it or choose another folder")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        partial = args.out.with_name(args.out.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            report = write_bundle(args, partial)
            os.replace(partial, args.out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (BinError, BundleError, DatasetError, FastError) as error:
        print(f"endplate-bundle: {error}", file=sys.stderr)
        return 2
    print(f"{report}\nwrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
