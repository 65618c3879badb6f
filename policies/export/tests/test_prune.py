"""A prefill in parts is the whole one, fewer rows are what masking the others makes, and numpy chooses the same rows."""

import argparse
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from endplate_export import bins
from endplate_export.graphs import WEIGHTS, Weights
from endplate_export.prune import PruneError, split
from endplate_export.quantise import write_toml

POLICIES = Path(__file__).parents[2]
BUNDLES, FIXTURES = POLICIES / "bundles", POLICIES / "tests" / "pruning"
MASKED = -1e4
#: Layer and numbers of the fixtures that the Rust tests run on.
MADE = {"pick_cube_bins": (1, [48, 24]), "pick_cube_flow": (2, [36])}


def copy_of(name: str, folder: Path) -> Path:
    shutil.copytree(BUNDLES / name, folder / name)
    return folder / name


def in_parts(name: str, folder: Path) -> Path:
    bundle = copy_of(name, folder)
    split(bundle, *MADE[name], None)
    return bundle


class Graphs:
    """The bundle's graphs by name, each a function from named inputs to named outputs."""

    def __init__(self, bundle: Path):
        self.bundle, self.sessions = bundle, {}

    def __call__(self, name: str, **inputs) -> dict[str, np.ndarray]:
        if name not in self.sessions:
            self.sessions[name] = onnxruntime.InferenceSession(self.bundle / f"{name}.onnx", providers=["CPUExecutionProvider"])
        session = self.sessions[name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs)))


def prefix_of(bundle: Path, graphs: Graphs, sample: int = 0):
    """x, positions, mask and where padding is, of a golden sample."""
    golden = np.load(bundle / "golden.npz")
    pixels = np.ascontiguousarray(golden[f"images_{sample}"].transpose(0, 3, 1, 2)).astype(np.float32) / 255
    visual = graphs("vision", image=pixels)["visual"]
    ids = golden[f"text_ids_{sample}"].astype(np.int64)
    embedding = Weights(bundle / WEIGHTS).values["embedding"].astype(np.float32)
    n, t, s = visual.shape[1], len(ids), 110
    x, positions, mask = np.zeros((1, s, visual.shape[2]), np.float32), np.zeros((1, s), np.int64), np.zeros((1, 1, s, s), np.float32)
    x[0, :n], x[0, s - t :] = visual[0], embedding[ids]
    positions[0, :n], positions[0, s - t :] = np.arange(n), n + np.arange(t)
    mask[..., n : s - t] = MASKED
    return x, positions, mask, slice(n, s - t), embedding


def contribution(x: np.ndarray) -> np.ndarray:
    """FlashVLA's score by singular values, of the smallest rank that holds 0.9 of their sum."""
    u, sigma, _ = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    rank = int(np.searchsorted(np.cumsum(sigma), 0.9 * sigma.sum())) + 1
    return np.abs(u[:, :rank] * sigma[:rank]).sum(1)


def kept_rows(scores: np.ndarray, tokens: int, rows: int) -> np.ndarray:
    """The highest, beside the six that are of no patch."""
    scores = np.where(np.arange(len(scores)) < 72, scores, np.inf)
    visual = np.sort(np.argsort(-scores, kind="stable")[:tokens])
    return np.concatenate([visual, np.arange(len(scores), rows)])


def pruned(bundle: Path, graphs: Graphs, tokens: int, sample: int = 0):
    """Rows kept, what the second part gives, and keys and values of every layer of those rows."""
    x, positions, mask, _, _ = prefix_of(bundle, graphs, sample)
    first = graphs("prefill_a", x=x, positions=positions, mask=mask)
    rows = kept_rows(contribution(first["attention"][0]), tokens, x.shape[1])
    second = graphs(f"prefill_b{tokens}", hidden=first["hidden"][:, rows], positions=positions[:, rows], mask=mask[:, :, rows][..., rows])
    cache = {k: v[:, :, rows] for k, v in first.items() if k.startswith("new")} | {k: v for k, v in second.items() if k.startswith("new")}
    return rows, second, cache


def generated(bundle: Path, graphs: Graphs, tokens: int) -> tuple[np.ndarray, list[int]]:
    """Rows kept and the bin tokens that follow, decoded one by one over the rows that are left."""
    rows, second, cache = pruned(bundle, graphs, tokens)
    _, _, _, padding, embedding = prefix_of(bundle, graphs)
    offset, values, slab = 280, 48, 158
    ids = len(np.load(bundle / "golden.npz")["text_ids_0"])
    past = {}
    for name, tensor in cache.items():
        past[name.replace("new", "past")] = np.zeros((1, tensor.shape[1], slab, tensor.shape[3]), np.float32)
        past[name.replace("new", "past")][:, :, : len(rows)] = tensor
    mask = np.full((1, 1, 1, slab + 1), MASKED, np.float32)
    mask[..., : len(rows)] = np.where((rows >= padding.start) & (rows < padding.stop), MASKED, 0)
    mask[..., -1] = 0
    logits, out = second["logits"][0, 0], []
    for step in range(values):
        out.append(int(logits[offset:].argmax()))
        answer = graphs("decode_k1", x=embedding[out[-1] + offset][None, None], positions=np.array([[78 + ids + step]]), mask=mask, **past)
        for name, tensor in answer.items():
            if name.startswith("new"):
                past[name.replace("new", "past")][:, :, len(rows) + step] = tensor[:, :, 0]
        mask[..., len(rows) + step] = 0
        logits = answer["logits"][0, 0]
    return rows, out


@pytest.mark.parametrize("name", MADE)
def test_all_tokens_in_parts_are_the_whole_prefill(name, tmp_path):
    bundle = in_parts(name, tmp_path)
    graphs = Graphs(bundle)
    x, positions, mask, _, _ = prefix_of(bundle, graphs)
    whole = graphs("prefill", x=x, positions=positions, mask=mask)
    first = graphs("prefill_a", x=x, positions=positions, mask=mask)
    second = graphs("prefill_b78", hidden=first["hidden"], positions=positions, mask=mask)
    for tensor, expected in whole.items():
        np.testing.assert_array_equal({**first, **second}[tensor], expected, err_msg=tensor)


@pytest.mark.parametrize("name", MADE)
def test_fewer_rows_are_what_masking_the_others_makes(name, tmp_path):
    bundle, tokens = in_parts(name, tmp_path), MADE[name][1][-1]
    graphs = Graphs(bundle)
    x, positions, mask, _, _ = prefix_of(bundle, graphs)
    rows, second, _ = pruned(bundle, graphs, tokens)
    first = graphs("prefill_a", x=x, positions=positions, mask=mask)
    mask[..., np.setdiff1d(np.arange(x.shape[1]), rows)] = MASKED
    masked = graphs("prefill_b78", hidden=first["hidden"], positions=positions, mask=mask)
    for tensor, got in second.items():
        expected = masked[tensor] if tensor == "logits" else masked[tensor][:, :, rows]
        np.testing.assert_allclose(got, expected, atol=2e-4, err_msg=tensor)


@pytest.mark.parametrize("name", MADE)
def test_over_the_cache_of_the_same_prefix_nothing_changes(name, tmp_path):
    bundle, tokens = in_parts(name, tmp_path), MADE[name][1][-1]
    graphs = Graphs(bundle)
    x, positions, mask, _, _ = prefix_of(bundle, graphs)
    whole = graphs("prefill", x=x, positions=positions, mask=mask)
    rows = np.concatenate([np.arange(10, 10 + tokens), np.arange(78, 110)])
    past = np.full((len(rows), 110), MASKED, np.float32)
    past[:, np.setdiff1d(np.arange(78), rows)] = 0
    over = np.concatenate([past, mask[0, 0][rows][:, rows]], 1)[None, None]
    kept = {k.replace("new", "past"): v for k, v in whole.items() if k.startswith("new")}
    got = graphs(f"prefill_c{tokens}", x=x[:, rows], positions=positions[:, rows], mask=over, **kept)
    for tensor, value in got.items():
        expected = whole[tensor] if tensor == "logits" else whole[tensor][:, :, rows]
        np.testing.assert_allclose(value, expected, atol=2e-4, err_msg=tensor)


def test_the_fixtures_are_what_the_script_writes(tmp_path):
    for name in MADE:
        bundle = in_parts(name, tmp_path)
        listed = (bundle / "policy.toml").read_text()
        assert listed.endswith((FIXTURES / name / "pruning.toml").read_text())
        graphs = sorted(path.name for path in bundle.glob("prefill_*.onnx"))
        assert graphs == sorted(path.name for path in (FIXTURES / name).glob("*.onnx"))
        for graph in graphs:
            assert (bundle / graph).read_bytes() == (FIXTURES / name / graph).read_bytes(), graph
            assert f'"{graph}" = ' in listed
    bundle = tmp_path / "pick_cube_bins"
    expected = json.loads((FIXTURES / "pick_cube_bins" / "expected.json").read_text())
    for tokens in MADE["pick_cube_bins"][1]:
        rows, out = generated(bundle, Graphs(bundle), tokens)
        assert expected[str(tokens)] == {"visual": [int(row) for row in rows if row < 78], "tokens": out}
    assert bins.COUNT == 256


def test_a_quantised_bundle_says_which_graph_its_parts_are_of_now(tmp_path):
    bundle = in_parts("pick_cube_bins", tmp_path)
    text = (bundle / "policy.toml").read_text()
    (bundle / "prefill.onnx").write_bytes(b"in other numbers")
    write_toml(bundle, text, argparse.Namespace(precision="int8", name=None), {}, {})
    policy = tomllib.loads((bundle / "policy.toml").read_text())
    assert policy["pruning"]["prefill"] == policy["files"]["prefill.onnx"] != tomllib.loads(text)["pruning"]["prefill"]
    assert policy["pruning"]["keep"] == [78, 48, 24]


def test_what_cannot_be_done_is_said(tmp_path):
    bundle = in_parts("pick_cube_bins", tmp_path)
    for name, layer, keep, costs, reason in [
        (bundle, 1, [48], None, "already"),
        (BUNDLES / "pick_cube_fast_int8", 1, [48], None, "quantise that"),
        (BUNDLES / "pick_cube_fast", 4, [48], None, "write 1 to 3"),
        (BUNDLES / "pick_cube_fast", 0, [48], None, "write 1 to 3"),
        (BUNDLES / "pick_cube_fast", 1, [78], None, "from 7 to 77"),
        (BUNDLES / "pick_cube_fast", 1, [48, 48], None, "different"),
        (BUNDLES / "pick_cube_fast", 1, [48, 24], [4.0], "1 costs for 2"),
        (POLICIES / "tests" / "bundles" / "lerobot_act", 1, [48], None, "no trunk"),
    ]:
        with pytest.raises(PruneError, match=reason):
            split(name, layer, keep, costs)
