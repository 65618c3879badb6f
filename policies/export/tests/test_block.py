"""A decoder graph of several rows gives what the graph of one row gives, row by row; one of any number what all of them give."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from endplate_export import block
from endplate_export.block import BlockError, add_block, main, make_dynamic

BUNDLES = Path(__file__).parents[2] / "bundles"
K = 4
#: Rows of the shipped graphs.
SHIPPED = {"pick_cube_bins": 8, "pick_cube_fast": 16, "pick_cube_fast_int8": 16}


def without_block(name: str, folder: Path) -> Path:
    """A copy of a shipped bundle as it was before it had a block."""
    copy = folder / name
    shutil.copytree(BUNDLES / name, copy)
    text = (copy / "policy.toml").read_text()
    (copy / "policy.toml").write_text("".join(l + "\n" for l in text.splitlines() if not l.startswith(("block", f'"decode_k{SHIPPED[name]}', '"thresholds'))))
    (copy / f"decode_k{SHIPPED[name]}.onnx").unlink()
    (copy / "thresholds.toml").unlink(missing_ok=True)
    return copy


@pytest.mark.parametrize("name", ["pick_cube_bins", "pick_cube_fast"])
def test_rows_agree_with_one_row(name, tmp_path):
    bundle = without_block(name, tmp_path)
    graph = add_block(bundle, K, 1.0)
    block, one = (onnxruntime.InferenceSession(bundle / file, providers=["CPUExecutionProvider"]) for file in (graph, "decode_k1.onnx"))
    shapes = {i.name: i.shape for i in one.get_inputs()}
    slab, width = shapes["mask"][3] - 1, shapes["x"][2]
    rng = np.random.default_rng(1)
    past = {n: np.zeros(s, np.float32) for n, s in shapes.items() if n.startswith("past")}
    used = 20
    for tensor in past.values():
        tensor[:, :, :used] = rng.normal(size=tensor[:, :, :used].shape)
    x = rng.normal(size=(1, K, width)).astype(np.float32)
    mask = np.full((1, 1, K, slab + K), -1e4, np.float32)
    mask[..., :used] = 0
    for row in range(K):
        mask[0, 0, row, slab : slab + row + 1] = 0
    names = [o.name for o in block.get_outputs()]
    got = dict(zip(names, block.run(names, {"x": x, "positions": np.arange(50, 50 + K)[None], "mask": mask, **past})))
    assert got["logits"].shape == (1, K, one.get_outputs()[-1].shape[2])
    for row in range(K):
        mask = np.full((1, 1, 1, slab + 1), -1e4, np.float32)
        mask[..., : used + row] = 0
        mask[..., slab] = 0
        answer = dict(zip(names, one.run(names, {"x": x[:, row : row + 1], "positions": np.array([[50 + row]]), "mask": mask, **past})))
        np.testing.assert_allclose(got["logits"][:, row], answer["logits"][:, 0], atol=2e-4)
        for name, tensor in past.items():
            tensor[:, :, used + row] = answer[name.replace("past", "new")][:, :, 0]


def test_the_shipped_graphs_are_what_the_script_writes(tmp_path):
    for name in ("pick_cube_bins", "pick_cube_fast"):
        graph = add_block(without_block(name, tmp_path), SHIPPED[name], 1.0)
        assert (tmp_path / name / graph).read_bytes() == (BUNDLES / name / graph).read_bytes()


def test_what_cannot_be_done_is_said(tmp_path):
    copy = without_block("pick_cube_fast_int8", tmp_path)
    with pytest.raises(BlockError, match="quantise that"):
        add_block(copy, 16, 1.0)
    with pytest.raises(BlockError, match="no tokens"):
        add_block(BUNDLES / "pick_cube_flow", 16, 1.0)
    with pytest.raises(BlockError, match="already"):
        add_block(BUNDLES / "pick_cube_bins", 16, 1.0)


MODELS = Path(__file__).parents[2] / "tests" / "models"


def shipped(name: str, folder: Path) -> Path:
    copy = folder / name
    shutil.copytree(BUNDLES / name, copy)
    return copy


@pytest.mark.parametrize("name", ["pick_cube_bins", "pick_cube_fast"])
def test_one_graph_takes_the_place_of_all_and_is_the_one_of_the_tests(name, tmp_path, capsys):
    copy = shipped(name, tmp_path)
    assert main(["--bundle", str(copy), "--dynamic"]) == 0
    said = capsys.readouterr().out
    assert all(f"{rows} rows against" in said for rows in (1, SHIPPED[name], 110)), said
    # The halves of the decoder are no graphs of all its layers.
    assert sorted(path.name for path in copy.glob("*.onnx") if path.name[:8] not in ("decode_a", "decode_b")) == ["decode.onnx", "vision.onnx"]
    policy = tomllib.loads((copy / "policy.toml").read_text())
    assert policy["decoding"]["rows"] == [1, SHIPPED[name], 110]
    assert set(policy["files"]) == {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file() and p.name != "policy.toml"}
    assert (copy / "decode.onnx").read_bytes() == (MODELS / f"{name}_decode.onnx").read_bytes()
    session = onnxruntime.InferenceSession(copy / "decode.onnx", providers=["CPUExecutionProvider"])
    assert {i.name: i.shape for i in session.get_inputs() if "past" not in i.name} == {"x": [1, "K", 128], "positions": [1, "K"], "mask": [1, 1, "K", "T"]}
    with pytest.raises(BlockError, match="already"):
        make_dynamic(copy)
    with pytest.raises(BlockError, match="already"):
        add_block(copy, 4, 1.0)


def test_the_prefix_can_keep_its_own_graph(tmp_path):
    copy = shipped("pick_cube_bins", tmp_path)
    make_dynamic(copy, keep_prefill=True)
    assert (copy / "prefill.onnx").exists()
    assert tomllib.loads((copy / "policy.toml").read_text())["decoding"]["rows"] == [1, 8]


def test_a_graph_that_answers_differently_is_refused_and_the_bundle_is_left_alone(tmp_path, monkeypatch):
    copy = shipped("pick_cube_bins", tmp_path)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    monkeypatch.setattr(block, "TOLERANCE", 1e-9)
    with pytest.raises(BlockError, match="differs from prefill.onnx, and at most 1e-09"):
        make_dynamic(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_what_cannot_be_one_graph_is_said(tmp_path):
    with pytest.raises(BlockError, match="quantise that"):
        make_dynamic(shipped("pick_cube_fast_int8", tmp_path))
    with pytest.raises(BlockError, match="no tokens"):
        make_dynamic(BUNDLES / "pick_cube_flow")
    copy = without_block("pick_cube_bins", tmp_path)
    with pytest.raises(BlockError, match="only one row is ever run"):
        make_dynamic(copy, keep_prefill=True)
    text = (copy / "policy.toml").read_text()
    (copy / "policy.toml").write_text(text.replace("[files]\n", '[files]\n"decode_gqa.onnx" = ""\n'))
    with pytest.raises(BlockError, match="start from a bundle without"):
        make_dynamic(copy)
    with pytest.raises(SystemExit):
        main(["--bundle", str(copy)])
