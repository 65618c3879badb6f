"""Bundles against LeRobot itself (third-party), and what a checkpoint is refused for.

The comparison runs ``endplate infer`` on both engines; the binary is ``$ENDPLATE`` or ``target/release/endplate``. Where
it is missing the comparison is skipped, unless ``ENDPLATE_REQUIRE=1`` makes that a failure. ``-s`` prints the table.
"""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot", reason="needs LeRobot: pip install './policies/export[lerobot,test]' (Python 3.12)")

import lerobot  # noqa: E402
import lerobot_policies as policies  # noqa: E402
import torch  # noqa: E402

from endplate_export import cli  # noqa: E402
from endplate_export.lerobot import bundle as bundles, checkpoint as checkpoints, statistics  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = 1e-5

#: Name -> checkpoint.
CASES = {
    "act": lambda folder: policies.act(folder, seed=3),
    "act, tiny, ranges": lambda folder: policies.act(folder, tiny=True, seed=4, normalization_mapping=policies.modes("MIN_MAX", "QUANTILES", "MIN_MAX")),
    "diffusion, DDIM": lambda folder: policies.diffusion(folder, seed=6),
    "diffusion, DDPM, one encoder, group norm": lambda folder: policies.diffusion(folder, seed=7, noise_scheduler_type="DDPM", use_separate_rgb_encoder_per_camera=False, use_group_norm=True),
    "diffusion, tiny, DDPM of all steps": lambda folder: policies.diffusion(folder, tiny=True, seed=8, noise_scheduler_type="DDPM", num_inference_steps=None, n_obs_steps=3, beta_schedule="linear"),
    "diffusion, tiny, DDIM predicting data": lambda folder: policies.diffusion(folder, tiny=True, seed=9, n_obs_steps=1, prediction_type="sample", beta_schedule="scaled_linear", clip_sample=False),
    "diffusion, tiny, resized": lambda folder: policies.diffusion(folder, tiny=True, seed=10, resize_shape=(48, 64), crop_ratio=0.9),
    "smolvla": lambda folder: policies.smolvla(folder, seed=11),
    "smolvla, image tokens, ranges": lambda folder: policies.smolvla(folder, seed=12, add_image_special_tokens=True, normalization_mapping=policies.modes("MIN_MAX", "QUANTILES", "IDENTITY")),
    "pi0": lambda folder: policies.pi0(folder, seed=13),
    "pi05": lambda folder: policies.pi05(folder, seed=14),
    "pi0_fast": lambda folder: policies.pi0_fast(folder, tiny=True, seed=15),
    "act, tiny, quantile10, plain images": lambda folder: policies.act(folder, tiny=True, seed=5, normalization_mapping=policies.modes("QUANTILES", "QUANTILE10", "IDENTITY")),
}


def binary() -> Path:
    path = Path(os.environ.get("ENDPLATE", ROOT / "target" / "release" / "endplate"))
    if not path.exists():
        if os.environ.get("ENDPLATE_REQUIRE") == "1":
            pytest.fail(f"{path} is missing: cargo build --release")
        pytest.skip(f"{path} is missing: cargo build --release")
    return path


def library() -> Path:
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def export(checkpoint: Path, out: Path) -> str | None:
    """The refusal, or None."""
    import contextlib
    import io

    message = io.StringIO()
    with contextlib.redirect_stderr(message), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["lerobot", str(checkpoint), "--out", str(out)])
    return None if code == 0 else message.getvalue()


def infer(bundle: Path, engine: str, arrays: dict, scratch: Path) -> np.ndarray:
    """``actions`` of ``endplate infer``; all outputs stay in ``out.npz``."""
    np.savez(scratch / "in.npz", **{key: np.ascontiguousarray(values) for key, values in arrays.items()})
    command = [binary(), "infer", "--bundle", bundle, "--inputs", scratch / "in.npz", "--outputs", scratch / "out.npz", "--engine", engine, "--ort-library", library()]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return np.load(scratch / "out.npz")["actions"]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot")
    checkpoint = CASES[request.param](folder / "checkpoint")
    refusal = export(checkpoint, folder / "bundle")
    assert refusal is None, refusal
    read = checkpoints.read(checkpoint, cli.FAMILIES)
    source = bundles.load(read, bundles.open_embodiment(read, None))
    return request.param, source, folder


def slots(folder: Path) -> dict[str, tuple[int, int]]:
    """Camera name -> (h, w) of the bundle's slots."""
    cameras = tomllib.loads((folder / "bundle" / "policy.toml").read_text())["cameras"]
    return {camera["name"]: (camera["height"], camera["width"]) for camera in cameras}


def observation(source, sizes, seed: int) -> bundles.Sample:
    """Noise images and states of as many moments as the policy reads."""
    rng = np.random.default_rng(seed)
    kind, entries = statistics.vector(source.checkpoint, "observation.state", source.embodiment.state)
    moments = []
    for _ in range(source.checkpoint.config.get("n_obs_steps", 1)):
        images = {name: rng.integers(0, 256, (h, w, 3), np.uint8) for name, (h, w) in sizes.items()}
        moments.append(bundles.Sample(images, np.array([bundles.denormalise(kind, entry, value) for entry, value in zip(entries, rng.uniform(-1, 1, len(entries)))])))
    moments[-1].past = tuple(moments[:-1])
    return moments[-1]


@torch.no_grad()
def act(source, sample, seed):
    """The whole chunk, whose first rows must be what ``select_action`` plays."""
    batch = source.preprocessor(source.batch(sample))
    source.policy.reset()
    chunk = source.answer(source.policy.predict_action_chunk(dict(batch)))
    played = [source.robot_action(source.postprocessor(source.policy.select_action(dict(batch)))[0].numpy()) for _ in range(3)]
    assert np.array_equal(chunk[:3], played)
    return chunk, {}


@torch.no_grad()
def diffusion(source, sample, seed):
    """``predict_action_chunk`` behind the queue that ``select_action`` fills; all noise from torch's own generator."""
    from lerobot.policies.utils import populate_queues

    policy, config = source.policy, source.checkpoint.config
    policy.reset()
    for moment in (*sample.past, sample):
        batch = source.preprocessor(source.batch(moment))
        batch.pop("action", None)
        batch["observation.images"] = torch.stack([batch[key] for key in policy.config.image_features], -4)
        policy._queues = populate_queues(policy._queues, batch)
    shape = (1, config["horizon"], len(policies.JOINTS))
    torch.manual_seed(seed)
    start = torch.randn(shape)
    torch.manual_seed(seed + 1)
    noise = [start, *(torch.randn(shape) for _ in range(policy.diffusion.num_inference_steps - 1))]
    torch.manual_seed(seed + 1)
    chunk = source.answer(policy.predict_action_chunk(batch, noise=start))
    return chunk, {"noise": torch.cat(noise if config["noise_scheduler_type"] == "DDPM" else noise[:1]).numpy()}


@torch.no_grad()
def flow(source, sample, seed):
    """``predict_action_chunk`` from given noise, the prompt through the checkpoint's own processors."""
    sample.instruction = ("pick up the red cube", " fold_the shirt" if source.checkpoint.family == "pi05" else "fold the shirt\n", "cube")[seed]
    config = source.checkpoint.config
    noise = 0.5 * torch.randn(1, config["chunk_size"], config["max_action_dim"], generator=torch.Generator().manual_seed(seed))
    source.policy.reset()
    batch = source.preprocessor({**source.batch(sample), "task": sample.instruction})
    return source.answer(source.policy.predict_action_chunk(batch, noise=noise)), {"noise": noise[0].numpy()}


@torch.no_grad()
def fast(source, sample, seed):
    """``predict_action_chunk``; the ids that it generated on the way are compared as well."""
    from endplate_export.lerobot import pi0_fast

    sample.instruction = ("pick up the red cube", "fold_the shirt", "cube")[seed]
    batch = source.preprocessor({**source.batch(sample), "task": sample.instruction})
    tokens = pi0_fast.generated(source.policy, dict(batch))
    source.policy.reset()
    chunk = source.answer(source.policy.predict_action_chunk(dict(batch)))
    sample.tokens = tokens[: tokens.index(source.policy._paligemma_tokenizer.convert_tokens_to_ids("|")) + 1]
    return chunk, {}


REFERENCES = {"pi0_fast": fast, "act": act, "diffusion": diffusion, "smolvla": flow, "pi0": flow, "pi05": flow}


@pytest.mark.parametrize("engine", ["tract", "ort"])
def test_endplate_infer_gives_the_actions_of_lerobot(case, engine):
    name, source, folder = case
    width = statistics.action_range(source.checkpoint, source.embodiment.action)
    worst = 0.0
    for seed in range(3):
        sample = observation(source, slots(folder), 100 + seed)
        chunk, extra = REFERENCES[source.checkpoint.family](source, sample, seed)
        got = infer(folder / "bundle", engine, {**bundles.observed(sample), **extra}, folder)
        assert len(got) >= len(chunk)
        if source.checkpoint.family == "pi0_fast":
            assert np.load(folder / "out.npz")["tokens"].tolist() == sample.tokens
        worst = max(worst, float((np.abs(got[: len(chunk)] - chunk) / width).max()))
    at_camera_size = "-"
    if slots(folder) != source.sizes():
        sample = observation(source, source.sizes(), 200)
        smooth(sample)
        chunk, extra = REFERENCES[source.checkpoint.family](source, sample, 0)
        got = infer(folder / "bundle", engine, {**bundles.observed(sample), **extra}, folder)
        at_camera_size = f"{float((np.abs(got[: len(chunk)] - chunk) / width).max()):.1e}"
        # Frames are resampled to whole grey levels and LeRobot's to fractions of them.
        assert float(at_camera_size) < 1e-2
    print(f"\nthird-party | LeRobot {lerobot.__version__} | {name} | {engine} | {worst:.1e} | {at_camera_size}")
    assert worst <= ALLOWED


def smooth(sample: bundles.Sample) -> None:
    """Images as cameras take them: neighbouring pixels are alike."""
    for moment in (*sample.past, sample):
        for name, pixels in moment.images.items():
            y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]] / pixels.shape[1]
            waves = [127 + 100 * np.sin(2 * np.pi * (a * x + b * y) + i) for i, (a, b) in enumerate([(2, 1), (-1, 3), (3, 2)])]
            moment.images[name] = np.stack(waves, -1).round().astype(np.uint8)


# --- What is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return policies.act(tmp_path_factory.mktemp("tiny") / "checkpoint", tiny=True, seed=6)


def edit_json(file: str, edit):
    def apply(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        edit(values)
        (folder / file).write_text(json.dumps(values))

    return apply


def edit_tensor(file: str, name: str, edit):
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = next(folder.glob(file))
        values = load_file(path)
        if edit is None:
            del values[name]
        else:
            edit(values[name])
        save_file(values, path)

    return apply


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def put(value, *place):
    return lambda tensor: tensor.__setitem__(place, value)


def norm(state: str):
    def edit(values):
        for step in values["steps"]:
            step["config"].get("norm_map", {}).update(STATE=state)

    return edit_json("policy_preprocessor.json", edit)


def embodied(before, after):
    def edit(folder):
        path = folder / "embodiment.toml"
        path.write_text(path.read_text().replace(before, after, 1))

    return edit


def both(*edits):
    return lambda folder: [edit(folder) for edit in edits]


STATISTICS = "policy_preprocessor_step_*.safetensors"
OUTPUTS = "policy_postprocessor_step_*.safetensors"


@pytest.mark.parametrize("damage, words", [
    (truncate, ["model.safetensors", "truncated or damaged", "copy"]),
    (edit_json("config.json", lambda c: c.update(type="pi9")), ["config.json: type = 'pi9'", "act"]),
    (edit_json("config.json", lambda c: c.update(temporal_ensemble_coeff=0.01, n_action_steps=1)), ["temporal_ensemble_coeff = 0.01", "averages no predictions"]),
    (edit_json("config.json", lambda c: c.update(dim_model=48)), ["model.safetensors", "config.json"]),
    (edit_json("config.json", lambda c: c.update(feather="blue")), ["config.json", "feather"]),
    (edit_json("config.json", lambda c: c["input_features"].update({"observation.environment_state": {"type": "ENV", "shape": [3]}})), ["observation.environment_state", "ENV"]),
    (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "no JSON"]),
    (lambda folder: (folder / "policy_preprocessor.json").unlink(), ["policy_preprocessor.json", "missing", "save_pretrained"]),
    (edit_json("policy_preprocessor.json", lambda p: p["steps"].insert(0, {"registry_name": "crop_processor", "config": {}})), ["policy_preprocessor.json", "crop_processor"]),
    (edit_json("policy_preprocessor.json", lambda p: p["steps"].pop(3)), ["normalizer_processor", "0 of them"]),
    (edit_tensor("model.safetensors", "model.action_head.bias", None), ["model.safetensors", "action_head.bias"]),
    (edit_tensor("model.safetensors", "model.action_head.bias", put(float("nan"), 2)), ["model.safetensors", "model.action_head.bias", "not finite"]),
    (edit_tensor(STATISTICS, "observation.state.mean", put(float("nan"), 3)), ["policy_preprocessor.json", "observation.state.mean[3]", "nan", "finite"]),
    (edit_tensor(OUTPUTS, "action.std", put(float("inf"), 1)), ["policy_postprocessor.json", "action.std[1]", "inf"]),
    (edit_tensor(STATISTICS, "observation.state.std", put(0.0, 2)), ["observation.state[2]", "std 0.0", "never moved"]),
    (both(norm("MIN_MAX"), edit_tensor(STATISTICS, "observation.state.max", lambda t: t.copy_(t)), edit_tensor(STATISTICS, "observation.state.min", put(1e3, 4))), ["observation.state[4]", "min 1000.0", "never moved"]),
    (edit_tensor(STATISTICS, "observation.images.front.std", None), ["observation.images.front.std", "missing", "MEAN_STD"]),
    (lambda folder: (folder / "embodiment.toml").unlink(), ["embodiment.toml", "missing", "6 [[state]]"]),
    (lambda folder: (folder / "embodiment.toml").write_text('robot = "r"\nfps = 0\n'), ["[[state]] = 0 entries", "6 dimensions"]),
    (embodied('kind = "joint_abs"', 'kind = "ee_abs"'), ["action[0].component", "which number of the pose"]),
    (embodied('kind = "joint_abs"', 'kind = "ee_delta"\ncomponent = "yaw"'), ["action[0].frame", "base or tool"]),
    (embodied('kind = "joint_abs"', 'kind = "ee_abs"\ncomponent = "yaw"'), ["action.component", "each once"]),
])
def test_what_is_wrong_is_named_with_a_remedy_and_nothing_is_written(tiny, tmp_path, damage, words):
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny, copy)
    damage(copy)
    message = export(copy, tmp_path / "bundle")
    assert message is not None, "it was exported"
    for word in words:
        assert word in message, message
    assert message.startswith("endplate-export: ") and list(tmp_path.iterdir()) == [copy]


def test_graphs_that_give_other_actions_are_refused(tiny, tmp_path, monkeypatch):
    """The comparison is real: a statistic that the bundle and LeRobot disagree on stops the export."""
    monkeypatch.setattr(bundles, "denormalise", lambda kind, entry, value: value * entry["std"] * 1.0001 + entry["mean"])
    message = export(tiny, tmp_path / "bundle")
    assert "do not give LeRobot's actions" in message and not list(tmp_path.iterdir())
