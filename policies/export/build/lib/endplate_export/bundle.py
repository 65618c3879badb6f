"""``endplate-bundle``: a checkpoint and its dataset become a policy bundle, replayed before it is handed over.

The reference is torch with weights already rounded to fp16. Every graph runs in ONNX Runtime on golden samples; a
greedy token that differs, or an error above the declared tolerance, refuses the bundle and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import save_file

from . import data as datasets
from .data import CAMERAS, COLOURS, DIMS, HELD_OUT_EVERY, JOINTS, RELATIVE, ROWS, Dataset, DatasetError, file_digest
from .fast import Fast, FastError, absolute_actions, normalise
from .graphs import WEIGHTS, Shape, Weights, decoder, vision, weights_of
from .model import Config, Policy, keypoint_order, parameter_count
from .text import Layout, build_layout, build_tokenizer, prompt_ids, sentence, state_bins
from .train import load_checkpoint

MASKED = -1e4
TOLERANCE = {"visual": 1e-3, "logits": 1e-2, "action_rad": 1e-3}
SAMPLES = 2
QUANTISED = "weights.bin"


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
    logits: np.ndarray | None = None  # f32 [V]
    tokens: np.ndarray | None = None  # i64, FAST ids
    actions: np.ndarray | None = None  # f64 [16, 6] rad

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
    return Sample(sample.instruction, sample.images, sample.state, sample.text_ids, visual, first, np.array(ids, np.int64))


def torch_runners(policy: Policy):
    """The reference's three graphs as functions on numpy arrays; ``policy`` is plain, f32, on the CPU."""
    def tensors(*arrays):
        return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]

    @torch.no_grad()
    def run_vision(image):
        return policy.vision(torch.from_numpy(image)[None])[0].numpy()

    def run_prefill(x, positions, mask):
        logits, cache = policy.prefill(*tensors(x, positions, mask))
        return logits[0].numpy(), [(k.numpy(), v.numpy()) for k, v in cache]

    def run_decode(x, positions, mask, slab):
        logits, new = policy.decode(*tensors(x, positions, mask), [tuple(tensors(k, v)) for k, v in slab])
        return logits[0].numpy(), [(k.numpy(), v.numpy()) for k, v in new]

    return run_vision, run_prefill, run_decode


def ort_runners(folder: Path, layers: int):
    """The bundle's graphs in ONNX Runtime on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"]) for name in ("vision", "prefill", "decode_k1")}
    names = ["logits"] + [f"new_{kind}_{layer}" for layer in range(layers) for kind in "kv"]

    def split(values):
        return values[0].reshape(-1), [(values[1 + 2 * i], values[2 + 2 * i]) for i in range(layers)]

    def run_vision(image):
        return sessions["vision"].run(["visual"], {"image": image})[0]

    def run_prefill(x, positions, mask):
        return split(sessions["prefill"].run(names, {"x": x, "positions": positions, "mask": mask}))

    def run_decode(x, positions, mask, slab):
        past = {f"past_{kind}_{layer}": slab[layer][i] for layer in range(layers) for i, kind in enumerate("kv")}
        return split(sessions["decode_k1"].run(names, {"x": x, "positions": positions, "mask": mask, **past}))

    return run_vision, run_prefill, run_decode


def shape_of(config: Config, max_text_tokens: int, max_tokens: int) -> Shape:
    prefix = config.visual_tokens + max_text_tokens
    return Shape(config.width, config.layers, config.heads, config.kv_heads, config.head_dim, config.visual_tokens, prefix, prefix + max_tokens, config.vocabulary)


def write_graphs(folder: Path, policy: Policy, shape: Shape, extra: dict[str, np.ndarray] | None = None) -> None:
    """``weights.safetensors`` and the three f32 graphs, checked by ``onnx.checker``."""
    save_file({**weights_of(policy), **{k: v.astype(np.float16) for k, v in (extra or {}).items()}}, folder / WEIGHTS)
    weights = Weights(folder / WEIGHTS)
    models = {"vision": vision(weights, shape, keypoint_order()), "prefill": decoder(weights, shape, shape.prefix, 0), "decode_k1": decoder(weights, shape, 1, shape.slab)}
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(folder / f"{name}.onnx"), full_check=True)


def quantise_graphs(folder: Path, shape: Shape) -> None:
    """Replaces prefill and decode by int8 dynamic graphs (per-channel weights) that share ``weights.bin``; vision stays f32."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # its advice to pre-process does not apply: the graphs are static already
    weights = Weights(folder / WEIGHTS)
    blob, places = bytearray(), {}
    for name, model in {"prefill": decoder(weights, shape, shape.prefix, 0, inline=True), "decode_k1": decoder(weights, shape, 1, shape.slab, inline=True)}.items():
        with tempfile.TemporaryDirectory() as scratch:
            source, result = Path(scratch) / "f32.onnx", Path(scratch) / "int8.onnx"
            source.write_bytes(model.SerializeToString())
            quantize_dynamic(source, result, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
            model = onnx.load(result)
        for tensor in model.graph.initializer:
            raw = onnx.numpy_helper.to_array(tensor)
            if raw.nbytes < 64 or raw.dtype == np.int64:
                continue
            raw = raw.tobytes()
            if raw not in places:
                blob.extend(b"\0" * (-len(blob) % 64))
                places[raw] = len(blob)
                blob.extend(raw)
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", QUANTISED), ("offset", str(places[raw])), ("length", str(len(raw)))):
                tensor.external_data.add(key=key, value=value)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    (folder / QUANTISED).write_bytes(blob)
    kept = {k: v for k, v in weights.values.items() if k == "embedding" or k.startswith("vision.")}
    save_file(kept, folder / WEIGHTS)
    model = vision(Weights(folder / WEIGHTS), shape, keypoint_order())
    (folder / "vision.onnx").write_bytes(model.SerializeToString())
    for name in ("vision", "prefill", "decode_k1"):
        onnx.checker.check_model(str(folder / f"{name}.onnx"))


def observe(data: Dataset, tokenizer, frame: int, phrase: str) -> Sample:
    """The observation of one dataset frame (state f32 -> f64 as stored) under one phrasing of its colour."""
    state = np.asarray(data.state[frame]).astype(np.float64)
    bins = state_bins(normalise(state, data.stats["state"]["q01"], data.stats["state"]["q99"]))
    instruction = sentence(phrase, COLOURS[int(data.target[frame])])
    return Sample(instruction, np.asarray(data.images[frame]), state, prompt_ids(tokenizer, instruction, bins))


def with_actions(sample: Sample, fast: Fast, data: Dataset) -> Sample:
    """Decodes the sample's tokens; FastError unless they are exactly one chunk."""
    q = data.stats["action"]
    sample.actions = absolute_actions(fast.decode(sample.tokens, ROWS, DIMS), sample.state, q["q01"], q["q99"], RELATIVE)
    return sample


def stopper(fast: Fast):
    """Stop rule of the runtime: the coefficients are complete. A text id ends the chunk too; decoding then refuses it."""
    def stop(ids: list[int]) -> bool:
        if ids[-1] < 0:
            return True
        length = fast.length(ids)
        return length is not None and length >= ROWS * DIMS

    return stop


def golden_samples(runners, embedding, data: Dataset, tokenizer, fast: Fast, shape: Shape, layout: Layout, max_tokens: int) -> list[Sample]:
    """Observations of held-out scenes, one colour each, whose greedy chunk is complete. Raises BundleError if there are too few."""
    held_out = np.flatnonzero(data.scene % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
    phrases = data.meta["phrases"]
    found: list[Sample] = []
    for tried, frame in enumerate(held_out[np.random.default_rng(11).permutation(len(held_out))][:200]):
        if len(found) == SAMPLES:
            return found
        if int(data.target[frame]) != len(found) % len(COLOURS):
            continue
        sample = generate(*runners, embedding, observe(data, tokenizer, frame, phrases[tried % len(phrases)]), shape, layout.action_offset, stopper(fast), max_tokens)
        try:
            found.append(with_actions(sample, fast, data))
        except FastError:
            continue
    if len(found) < SAMPLES:
        raise BundleError(f"only {len(found)} of {SAMPLES} golden samples: the policy's greedy chunks do not decode; train longer")
    return found


def compare(goldens: list[Sample], runners, embedding, data: Dataset, fast: Fast, shape: Shape, layout: Layout, max_tokens: int) -> dict[str, float]:
    """Largest |difference| of visual, logits and actions against the goldens; ``tokens`` counts chunks whose ids differ."""
    worst = {"visual": 0.0, "logits": 0.0, "action_rad": 0.0, "tokens": 0}
    for golden in goldens:
        got = generate(*runners, embedding, golden, shape, layout.action_offset, stopper(fast), max_tokens)
        worst["visual"] = max(worst["visual"], float(np.abs(got.visual - golden.visual).max()))
        worst["logits"] = max(worst["logits"], float(np.abs(got.logits - golden.logits).max()))
        worst["tokens"] += int(not np.array_equal(got.tokens, golden.tokens))
        try:
            worst["action_rad"] = max(worst["action_rad"], float(np.abs(with_actions(got, fast, data).actions - golden.actions).max()))
        except FastError:
            worst["action_rad"] = math.inf
    return worst


def measure(runners, embedding, sample: Sample, shape: Shape) -> dict[str, float]:
    """Median ms of each stage in ONNX Runtime, one thread, this machine."""
    run_vision, run_prefill, run_decode = runners
    visual = run_vision(sample.pixels)
    inputs = prefill_inputs(visual, embedding, sample.text_ids, shape)
    slab = [(np.zeros((1, shape.kv_heads, shape.slab, shape.head_dim), np.float32),) * 2 for _ in range(shape.layers)]
    mask = np.zeros((1, 1, 1, shape.slab + 1), np.float32)
    token = (embedding[:1][None], np.array([[shape.prefix]]), mask, slab)

    def median(call, *arguments) -> float:
        times = []
        for _ in range(31):
            start = time.perf_counter()
            call(*arguments)
            times.append(1000 * (time.perf_counter() - start))
        return sorted(times)[15]

    return {"vision_ms": median(run_vision, sample.pixels), "prefill_ms": median(run_prefill, *inputs), "token_ms": median(run_decode, *token)}


def write_golden(path: Path, samples: list[Sample]) -> None:
    """``golden.npz`` of the bundle format."""
    arrays: dict[str, np.ndarray] = {}
    for i, s in enumerate(samples):
        arrays |= {
            f"instruction_{i}": np.frombuffer(s.instruction.encode("utf-8"), np.uint8), f"images_{i}": s.images, f"state_{i}": s.state,
            f"text_ids_{i}": s.text_ids, f"visual_{i}": s.visual.astype(np.float32), f"prefill_logits_{i}": s.logits.astype(np.float32),
            f"tokens_{i}": s.tokens, f"actions_{i}": s.actions,
        }
    np.savez(path, **arrays)


def _toml(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, float):
        text = repr(value)
        return text if any(c in text for c in ".en") else text + ".0"
    return str(int(value))


def policy_toml(values: dict) -> str:
    """TOML of nested dicts: scalars first, a dict is a table, a list of dicts an array of tables."""
    lines = [f"{k} = {_toml(v)}" for k, v in values.items() if not isinstance(v, (dict, list))]
    for name, table in values.items():
        for one in table if isinstance(table, list) else [table] if isinstance(table, dict) else []:
            lines += ["", f"[[{name}]]" if isinstance(table, list) else f"[{name}]"]
            quoted = name == "files"
            lines += [f"{_toml(k) if quoted else k} = {_toml(v)}" for k, v in one.items()]
    return "\n".join(lines) + "\n"


def write_bundle(args: argparse.Namespace, folder: Path) -> str:
    """Writes and verifies the whole bundle into ``folder``; returns the report. Raises BundleError, DatasetError, FastError."""
    content = load_checkpoint(args.checkpoint)
    data = datasets.load(args.data)
    for name, digest in content["digests"].items():
        if file_digest(data.folder / name) != digest:
            raise BundleError(f"{data.folder / name}: differs from the one {args.checkpoint} was trained with")
    if content["phrases"] != data.meta["phrases"]:
        raise BundleError(f"{data.folder / 'meta.json'}: phrases differ from those of {args.checkpoint}")
    fast = Fast.load(data.tokenizer_folder)
    tokenizer = build_tokenizer(data.meta["phrases"], COLOURS)
    layout = build_layout(tokenizer, len(fast))
    config = Config(**content["config"])
    if config != Config.of(layout):
        raise BundleError(f"{args.checkpoint}: config does not match the id layout of {data.folder}")
    trained = policy_from(content)
    plain = trained.plain()
    longest = max(len(prompt_ids(tokenizer, sentence(p, c), [0] * DIMS)) for p in data.meta["phrases"] for c in COLOURS)
    if longest > args.max_text_tokens:
        raise BundleError(f"--max-text-tokens {args.max_text_tokens}: the longest prompt has {longest}")
    max_tokens = args.max_tokens or ROWS * DIMS  # a coefficient a token at worst: constrained generation always completes
    shape = shape_of(config, args.max_text_tokens, max_tokens)
    extra = {"aux.position_mean": content["position_mean"], "aux.position_scale": content["position_scale"]}
    write_graphs(folder, plain, shape, extra)
    embedding = Weights(folder / WEIGHTS).values["embedding"].astype(np.float32)
    rest = (data, tokenizer, fast, shape, layout, max_tokens)
    goldens = golden_samples(torch_runners(plain), embedding, *rest)
    f32_runners = ort_runners(folder, shape.layers)
    worst = compare(goldens, f32_runners, embedding, data, fast, shape, layout, max_tokens)
    report = [f"f32 graphs in ONNX Runtime {onnxruntime.__version__} against torch {torch.__version__} (weights rounded to fp16): "
              f"visual {worst['visual']:.1e}, logits {worst['logits']:.1e}, actions {worst['action_rad']:.1e} rad, differing chunks {worst['tokens']} of {len(goldens)}"]
    if worst["tokens"] or any(not worst[k] <= TOLERANCE[k] for k in TOLERANCE):
        raise BundleError(f"graphs and torch disagree: {report[0]}")
    engines: dict[str, dict] = {"tract": dict(TOLERANCE), "ort": dict(TOLERANCE)}
    runners = f32_runners
    if args.precision == "int8":
        quantise_graphs(folder, shape)
        runners = ort_runners(folder, shape.layers)
        f32_goldens = goldens
        goldens = golden_samples(runners, embedding, *rest)
        # What quantisation moved, measured on the f32 goldens, bounds what another kernel may move.
        moved = compare(f32_goldens, runners, embedding, data, fast, shape, layout, max_tokens)
        if not math.isfinite(moved["action_rad"]):
            raise BundleError("int8: a golden chunk that decodes in f32 no longer decodes")
        report.append(f"int8 against f32: logits {moved['logits']:.2e}, actions {moved['action_rad']:.2e} rad, differing chunks {moved['tokens']} of {len(goldens)}")
        wide = {"visual": TOLERANCE["visual"], "logits": float(f"{max(1.0 * moved['logits'], 0.05):.2g}"), "action_rad": float(f"{max(moved['action_rad'], 0.01):.2g}")}
        engines = {"ort": wide}
    times = measure(runners, embedding, goldens[0], shape)
    report.append("one thread, ms: " + ", ".join(f"{k[:-3]} {v:.2f}" for k, v in times.items()))
    budget = {k: float(getattr(args, k) or round(v + 0.005, 2)) for k, v in times.items()}
    (folder / "tokenizer").mkdir()
    for name in ("tokenizer.json", "processor_config.json"):
        shutil.copyfile(data.tokenizer_folder / name, folder / "tokenizer" / name)
    (folder / "text").mkdir()
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    write_golden(folder / "golden.npz", goldens)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes files for their owner alone
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    state, action = data.stats["state"], data.stats["action"]
    (folder / "policy.toml").write_text(policy_toml({
        "format": 1, "name": args.name, "family": "pi0_fast", "robot": data.meta["robot"], "precision": args.precision, "description": args.description,
        "engines": engines,
        "files": files,
        "cameras": [{"name": n, "width": w, "height": h, "resize": "bilinear_antialiased", "pad": "none"} for n, w, h in CAMERAS],
        "state": [{"name": n, "unit": "rad", "q01": float(state["q01"][i]), "q99": float(state["q99"][i])} for i, n in enumerate(JOINTS)],
        "action": [{"name": n, "kind": "joint_rel" if RELATIVE[i] else "gripper", "unit": "rad", "interpolation": "smooth",
                    "blending": "average" if RELATIVE[i] else "latch", "q01": float(action["q01"][i]), "q99": float(action["q99"][i])} for i, n in enumerate(JOINTS)],
        "chunk": {"horizon": ROWS, "row_period_s": 0.1, "execute_rows": 8, "observation_lag_s": 0.0, "max_skew_s": 0.05},
        "prompt": {"max_text_tokens": args.max_text_tokens, "state_bins": 256},
        "model": {"width": shape.width, "layers": shape.layers, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim, "visual_tokens": shape.visual_tokens,
                  "prefix": shape.prefix, "max_tokens": max_tokens, "slab": shape.slab, "vocabulary": shape.vocabulary,
                  "action_offset": layout.action_offset, "exit_layer": config.exit_layer},
        "decoding": {"strategy": "greedy_constrained"},
        "budget": budget,
        "training": {"script": "policies/export/endplate_export/train.py", "seed": content["seed"], "dataset_digest": " ".join(content["datasets"]), "steps": content["step"]},
    }), encoding="utf-8")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    report.append(f"{describe(content)}; prefix {shape.prefix}, slab {shape.slab}, {size:,} bytes")
    return "\n".join(report)


def policy_from(content: dict) -> Policy:
    """The network of a checkpoint, with its averaged weights, on the CPU, in eval mode."""
    policy = Policy(Config(**content["config"]), content["model"]["action_code"])
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
    parser.add_argument("--precision", choices=["f32", "int8"], default="f32")
    parser.add_argument("--name", default="pick-cube-fast")
    parser.add_argument("--description", default="Picks up the named cube: two 96 x 96 cameras, six joints, FAST action tokens.")
    parser.add_argument("--max-text-tokens", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=0, help="default: horizon times dimensions, so that constrained generation always completes")
    for stage in ("vision", "prefill", "token"):
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
    except (BundleError, DatasetError, FastError) as error:
        print(f"endplate-bundle: {error}", file=sys.stderr)
        return 2
    print(f"{report}\nwrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
