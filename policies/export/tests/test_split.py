"""The two halves of a decoder, one after the other, give what the whole decoder gives, row by row."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from endplate_export.split import SplitError, add_split, main

BUNDLES = Path(__file__).parents[2] / "bundles"
K = 4
COSTS = (0.2, 0.15, 0.3)
#: Rows of the shipped graphs.
SHIPPED = {"pick_cube_bins": 8, "pick_cube_fast": 8}


def without_split(name: str, folder: Path) -> Path:
    """A copy of a shipped bundle as it was before it was split."""
    copy = folder / name
    shutil.copytree(BUNDLES / name, copy)
    text = (copy / "policy.toml").read_text()
    gone = ("split", '"decode_a', '"decode_b')
    (copy / "policy.toml").write_text("".join(l + "\n" for l in text.splitlines() if not l.startswith(gone)))
    for file in copy.glob("decode_[ab]*.onnx"):
        file.unlink()
    return copy


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, feed: dict) -> dict:
    names = [o.name for o in graph.get_outputs()]
    return dict(zip(names, graph.run(names, {i.name: feed[i.name] for i in graph.get_inputs()})))


@pytest.mark.parametrize("name", ["pick_cube_bins", "pick_cube_fast"])
def test_the_halves_give_what_the_whole_gives(name, tmp_path):
    bundle = without_split(name, tmp_path)
    whole, (shallow, deep_one, deep) = session(bundle / "decode_k1.onnx"), [session(bundle / f) for f in add_split(bundle, K, COSTS)]
    shapes = {i.name: i.shape for i in whole.get_inputs()}
    slab, width = shapes["mask"][3] - 1, shapes["x"][2]
    rng = np.random.default_rng(1)
    used = 20
    past = {n: np.zeros(s, np.float32) for n, s in shapes.items() if n.startswith("past")}
    for tensor in past.values():
        tensor[:, :, :used] = rng.normal(size=tensor[:, :, :used].shape)
    first = {n: t.copy() for n, t in past.items()}
    x = rng.normal(size=(1, K, width)).astype(np.float32)
    hidden, answers = [], []
    for row in range(K):
        mask = np.full((1, 1, 1, slab + 1), -1e4, np.float32)
        mask[..., : used + row] = 0
        mask[..., slab] = 0
        feed = {"x": x[:, row : row + 1], "positions": np.array([[50 + row]]), "mask": mask, **past}
        answer, half = run(whole, feed), run(shallow, feed)
        alone = run(deep_one, feed | {"hidden": half["hidden"]})
        np.testing.assert_allclose(alone["logits"], answer["logits"], atol=2e-5)
        assert half["logits"].shape == answer["logits"].shape and not np.allclose(half["logits"], answer["logits"], atol=0.1)
        both = half | alone
        for tensor in past:
            np.testing.assert_allclose(both[tensor.replace("past", "new")], answer[tensor.replace("past", "new")], atol=2e-5)
            past[tensor][:, :, used + row] = answer[tensor.replace("past", "new")][:, :, 0]
        hidden.append(half["hidden"])
        answers.append(answer)
    # The deep half catches up with all rows in one pass, over keys and values that hold none of them.
    mask = np.full((1, 1, K, slab + K), -1e4, np.float32)
    mask[..., :used] = 0
    for row in range(K):
        mask[0, 0, row, slab : slab + row + 1] = 0
    got = run(deep, {"hidden": np.concatenate(hidden, 1), "positions": np.arange(50, 50 + K)[None], "mask": mask, **first})
    for row, answer in enumerate(answers):
        np.testing.assert_allclose(got["logits"][:, row], answer["logits"][:, 0], atol=2e-4)
        for name, values in got.items():
            if name.startswith("new"):
                np.testing.assert_allclose(values[:, :, row], answer[name][:, :, 0], atol=2e-4)


def test_the_auxiliary_head_is_the_exit_norm_before_the_output_table(tmp_path):
    bundle = without_split("pick_cube_bins", tmp_path)
    shallow = session(bundle / add_split(bundle, K, COSTS)[0])
    from safetensors.numpy import load_file

    weights = {n: t.astype(np.float32) for n, t in load_file(bundle / "weights.safetensors").items()}
    rng = np.random.default_rng(2)
    feed = {i.name: np.zeros(i.shape, np.float32) for i in shallow.get_inputs()}
    feed |= {"x": rng.normal(size=feed["x"].shape).astype(np.float32), "positions": np.array([[7]])}
    got = run(shallow, feed)
    hidden = got["hidden"][0, 0].astype(np.float64)
    normed = hidden / np.sqrt((hidden**2).mean() + 1e-6) * weights["exit_norm"]
    np.testing.assert_allclose(got["logits"][0, 0], normed @ weights["head"], atol=1e-3)


def test_the_shipped_graphs_are_what_the_script_writes(tmp_path):
    for name, rows in SHIPPED.items():
        declared = tomllib.loads((BUNDLES / name / "policy.toml").read_text())["decoding"]
        for graph in add_split(without_split(name, tmp_path), rows, tuple(declared["split_ms"])):
            assert (tmp_path / name / graph).read_bytes() == (BUNDLES / name / graph).read_bytes()
        assert (tmp_path / name / "policy.toml").read_text() == (BUNDLES / name / "policy.toml").read_text()


def test_what_cannot_be_done_is_said(tmp_path, capsys):
    with pytest.raises(SplitError, match="quantise that"):
        add_split(without_split("pick_cube_fast_int8", tmp_path), K, COSTS)
    with pytest.raises(SplitError, match="no tokens"):
        add_split(BUNDLES / "pick_cube_flow", K, COSTS)
    with pytest.raises(SplitError, match="already"):
        add_split(BUNDLES / "pick_cube_bins", K, COSTS)
    bundle = without_split("pick_cube_fast", tmp_path)
    with pytest.raises(SplitError, match="2 or more"):
        add_split(bundle, 1, COSTS)
    text = (bundle / "policy.toml").read_text()
    (bundle / "policy.toml").write_text(text.replace("exit_layer = 2", "exit_layer = 4"))
    with pytest.raises(SplitError, match="leaves nothing to split"):
        add_split(bundle, K, COSTS)
    assert main(["--bundle", str(bundle), "--split-ms", "1,2"]) == 2
    assert "three numbers" in capsys.readouterr().err
