"""openpi and OpenVLA: bundles against what their exporters compare with, on other observations, through ``endplate infer``; and
what a checkpoint is refused for. See ``test_lerobot`` for where the binary is looked for."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot", reason="needs LeRobot: pip install './policies/export[lerobot,openvla,test]' (Python 3.12)")

import make_fixtures as fixtures  # noqa: E402
import openpi_policies  # noqa: E402
import openvla_policies  # noqa: E402
import torch  # noqa: E402
from test_lerobot import ALLOWED, infer, observation, slots  # noqa: E402

from endplate_export import cli  # noqa: E402
from endplate_export.lerobot import bundle as bundles, statistics  # noqa: E402
from endplate_export.lerobot.bundle import Incomplete  # noqa: E402

CASES = {
    "openpi_pi0": lambda folder: openpi_policies.openpi(fixtures.made(folder), "pi0", seed=21),
    "openpi_pi05": lambda folder: openpi_policies.openpi(fixtures.made(folder), "pi05", seed=26),
    "openpi_pi0_fast": lambda folder: openpi_policies.openpi(fixtures.made(folder), "pi0_fast", seed=23, gap=1),
    "openvla": lambda folder: openvla_policies.openvla(folder, seed=24),
    "openvla_ee": lambda folder: openvla_policies.openvla(folder, seed=27, poses=True),
    "openvla_oft": lambda folder: openvla_policies.oft(folder, seed=25),
}
INSTRUCTIONS = ("pick up the red cube", "Fold the shirt", "the red cube")


def arguments(name: str, checkpoint: Path, out: Path) -> list[str]:
    return [*fixtures.command(name, checkpoint), str(checkpoint), "--out", str(out)]


def export(*given: str) -> str:
    """The refusal; empty when a bundle was written."""
    message = io.StringIO()
    with contextlib.redirect_stderr(message), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(list(given))
    return message.getvalue() if code else ""


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = CASES[request.param](folder / "checkpoint")
    given = arguments(request.param, checkpoint, folder / "bundle")
    assert export(*given) == ""
    args = cli.parse(given)
    source, family = args.prepare(args, tmp_path_factory.mktemp("again"))
    return request.param, source, family, folder


@pytest.mark.parametrize("engine", ["tract", "ort"])
def test_endplate_infer_gives_the_actions_of_the_source(case, engine):
    name, source, family, folder = case
    width = statistics.action_range(source.checkpoint, source.embodiment.action)
    worst, compared = 0.0, 0
    for seed in range(8):
        sample = observation(source, slots(folder), 100 + seed)
        # LeRobot's π0.5 does not lower the case and its small tokenizer knows small words alone.
        sample.instruction = INSTRUCTIONS[seed % 3] if name in ("openvla", "openvla_oft", "openpi_pi0_fast") else INSTRUCTIONS[2 * (seed % 2)]
        try:
            family.reference(sample)
        except Incomplete:
            continue
        noise = {"noise": sample.arrays["noise"]} if "noise" in sample.arrays else {}
        got = infer(folder / "bundle", engine, {**bundles.observed(sample), **noise}, folder)
        if "tokens" in sample.arrays:
            assert np.load(folder / "out.npz")["tokens"].tolist() == sample.arrays["tokens"].tolist()
        worst, compared = max(worst, float((np.abs(got - sample.actions - source.anchor(sample)) / width).max())), compared + 1
        if compared == 3:
            break
    print(f"\n{source.origin} | {name} | {engine} | {worst:.1e}")
    assert compared == 3 and worst <= ALLOWED


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return {name: CASES[name](folder / name) for name in ("openpi_pi0", "openvla_oft")}


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def edit(file: str, change):
    def apply(folder: Path) -> None:
        path = next(folder.glob(file))
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return apply


def orbax(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder / "params").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("conftest.py"), folder / "params" / "_METADATA")


def without(name: str):
    def apply(folder: Path) -> None:
        for path in folder.glob(name):
            path.unlink()

    return apply


def rename(old: str, new: str):
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        values = load_file(folder / "model.safetensors")
        save_file({name.replace(old, new): tensor for name, tensor in values.items()}, folder / "model.safetensors")

    return apply


@pytest.mark.parametrize("name, damage, words", [
    ("openpi_pi0", truncate, ["model.safetensors", "truncated or damaged"]),
    ("openpi_pi0", lambda folder: (shutil.copy(folder / "embodiment.toml", folder.parent / "e.toml"), orbax(folder), shutil.copy(folder.parent / "e.toml", folder / "embodiment.toml")), ["Orbax", "convert_jax_model_to_pytorch.py"]),
    ("openpi_pi0", rename("action_time_mlp_in", "other"), ["neither π0", "time_mlp_in"]),
    ("openpi_pi0", without("assets/*/norm_stats.json"), ["norm_stats.json", "0 files"]),
    ("openpi_pi0", edit("assets/*/norm_stats.json", lambda v: v["norm_stats"]["actions"]["std"].__setitem__(2, float("nan"))), ["action.std[2]", "nan"]),
    ("openpi_pi0", edit("assets/*/norm_stats.json", lambda v: v["norm_stats"]["state"]["std"].__setitem__(1, -1e-6)), ["observation.state[1]", "never moved"]),
    ("openvla_oft", truncate, ["model.safetensors", "truncated or damaged"]),
    ("openvla_oft", edit("config.json", lambda c: c.update(model_type="llava")), ["model_type = 'llava'", "openvla"]),
    ("openvla_oft", edit("config.json", lambda c: c.update(image_resize_strategy="letterbox")), ["image_resize_strategy", "letterbox", "resize-naive"]),
    ("openvla_oft", edit("config.json", lambda c: c["norm_stats"].update(second=c["norm_stats"]["made_up"])), ["--dataset", "made_up, second"]),
    ("openvla_oft", edit("config.json", lambda c: c["norm_stats"]["made_up"]["action"]["q99"].__setitem__(0, float("inf"))), ["action.q99[0]", "inf"]),
    ("openvla_oft", edit("config.json", lambda c: c["norm_stats"]["made_up"]["action"].update(q99=c["norm_stats"]["made_up"]["action"]["q01"])), ["action[0]", "never moved"]),
    ("openvla_oft", rename("projector.fc1", "projector_fc1"), ["projector_fc1", "unknown"]),
    ("openvla_oft", without("tokenizer.json"), ["tokenizer.json", "missing"]),
    ("openvla_oft", without("action_head*"), ["--cameras", "one camera"]),
])
def test_what_is_wrong_is_named_with_a_remedy_and_nothing_is_written(made, tmp_path, name, damage, words):
    copy = tmp_path / "checkpoint"
    shutil.copytree(made[name], copy)
    given = arguments(name, copy, tmp_path / "bundle")
    damage(copy)
    message = export(*given)
    for word in words:
        assert word in message, message
    assert message.startswith("endplate-export: ") and not (tmp_path / "bundle").exists()


def test_graphs_that_give_other_actions_are_refused(made, tmp_path, monkeypatch):
    from endplate_export.openvla.network import OpenVla

    plain = OpenVla.actions
    monkeypatch.setattr(OpenVla, "actions", lambda self, hidden: plain(self, hidden) * (1.001 if torch.onnx.is_in_onnx_export() else 1.0))
    message = export(*arguments("openvla_oft", made["openvla_oft"], tmp_path / "bundle"))
    assert "do not give" in message and not (tmp_path / "bundle").exists()
