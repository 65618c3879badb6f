"""Bundles against LeRobot itself (third-party), and what a checkpoint is refused for.

The comparison runs ``endplate infer`` on both engines; the binary is ``$ENDPLATE`` or ``target/release/endplate``. Where
it is missing the comparison is skipped, unless ``ENDPLATE_REQUIRE=1`` makes that a failure. ``-s`` prints the table.
"""

import json
import os
import shutil
import subprocess
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
    """``actions`` of ``endplate infer``."""
    np.savez(scratch / "in.npz", **arrays)
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


def observation(source, seed: int) -> bundles.Sample:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (h, w, 3), np.uint8) for name, (h, w) in source.sizes().items()}
    kind, entries = statistics.vector(source.checkpoint, "observation.state", source.embodiment.state)
    state = np.array([bundles.denormalise(kind, entry, value) for entry, value in zip(entries, rng.uniform(-1, 1, len(entries)))])
    return bundles.Sample(images, state)


@pytest.mark.parametrize("engine", ["tract", "ort"])
def test_endplate_infer_gives_the_actions_of_lerobot(case, engine):
    name, source, folder = case
    width = statistics.action_range(source.checkpoint, source.embodiment.action)
    worst = 0.0
    for seed in range(3):
        sample = observation(source, 100 + seed)
        batch = source.preprocessor(source.batch(sample))
        source.policy.reset()
        with torch.no_grad():
            chunk = source.answer(source.policy.predict_action_chunk(dict(batch)))
            source.policy.reset()
            played = [source.robot_action(source.postprocessor(source.policy.select_action(dict(batch)))[0].numpy()) for _ in range(3)]
        got = infer(folder / "bundle", engine, {**sample.images, "state": sample.state}, folder)
        assert got.shape == chunk.shape
        worst = max(worst, float((np.abs(got - chunk) / width).max()), float((np.abs(got[:3] - played) / width).max()))
    print(f"\nthird-party | LeRobot {lerobot.__version__} | {name} | {engine} | {worst:.1e} of the action range")
    assert worst <= ALLOWED


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
