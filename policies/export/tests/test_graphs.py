"""The ONNX graphs compute what torch computes, on a random network. Needs torch: pip install ./policies/export[train,test]."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install ./policies/export[train,test]")

import synthetic  # noqa: E402

from endplate_export import bundle, data as datasets, train  # noqa: E402
from endplate_export.data import COLOURS, DatasetError  # noqa: E402
from endplate_export.fast import Fast  # noqa: E402
from endplate_export.graphs import WEIGHTS, Weights  # noqa: E402
from endplate_export.model import Config, Policy, action_features  # noqa: E402
from endplate_export.text import build_layout, build_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return datasets.load(synthetic.write(tmp_path_factory.mktemp("data") / "set", frames=120, scenes=40))


@pytest.fixture(scope="module")
def network(data):
    torch.manual_seed(3)
    fast = Fast.load(data.tokenizer_folder)
    tokenizer = build_tokenizer(data.meta["phrases"], COLOURS)
    layout = build_layout(tokenizer, len(fast))
    policy = Policy(Config.of(layout), action_features(fast)).eval()
    with torch.no_grad():  # random gains and heads, so that a forgotten gain or table shows
        for name, p in policy.named_parameters():
            if name.endswith("gain") or name in ("action_head", "head"):
                p.add_(0.2 * torch.randn_like(p))
    return policy, tokenizer, layout, fast


def test_graphs_and_torch_give_the_same_tokens_and_numbers(data, network, tmp_path):
    policy, tokenizer, layout, _ = network
    plain = policy.plain()
    shape = bundle.shape_of(policy.config, 32, 24)
    bundle.write_graphs(tmp_path, plain, shape)
    embedding = Weights(tmp_path / WEIGHTS).values["embedding"].astype(np.float32)
    for frame in range(0, 120, 40):
        sample = bundle.observe(data, tokenizer, frame, data.meta["phrases"][frame // 40])
        a, b = (bundle.generate(*runners, embedding, sample, shape, layout.action_offset, lambda ids: False, 24)
                for runners in (bundle.torch_runners(plain), bundle.ort_runners(tmp_path, shape.layers)))
        assert np.array_equal(a.tokens, b.tokens)
        assert np.abs(a.visual - b.visual).max() < 1e-4
        assert np.abs(a.logits - b.logits).max() < 1e-3


def test_the_slab_layout_equals_the_training_layout(data, network):
    policy, tokenizer, layout, _ = network
    plain = policy.plain()
    shape = bundle.shape_of(policy.config, 32, 12)
    sample = bundle.observe(data, tokenizer, 5, data.meta["phrases"][0])
    embedding = plain.table.detach().numpy()
    slab = bundle.generate(*bundle.torch_runners(plain), embedding, sample, shape, layout.action_offset, lambda ids: False, 12)
    images, text = torch.from_numpy(sample.pixels)[None], torch.from_numpy(sample.text_ids)[None]
    assert plain.greedy(images, text, 12)[0].tolist() == slab.tokens.tolist()
    with torch.no_grad():  # teacher forcing over those tokens predicts the same tokens
        out = plain(images, text, torch.from_numpy(slab.tokens)[None] + layout.action_offset)
    assert (out["final"][0, :12] @ out["head"].T).argmax(-1).sub(layout.action_offset).tolist() == slab.tokens.tolist()


def test_int8_graphs_run_and_stay_close(data, network, tmp_path):
    policy, tokenizer, layout, _ = network
    shape = bundle.shape_of(policy.config, 32, 8)
    bundle.write_graphs(tmp_path, policy.plain(), shape)
    embedding = Weights(tmp_path / WEIGHTS).values["embedding"].astype(np.float32)
    sample = bundle.observe(data, tokenizer, 5, data.meta["phrases"][0])
    exact = bundle.generate(*bundle.ort_runners(tmp_path, shape.layers), embedding, sample, shape, layout.action_offset, lambda ids: False, 2)
    bundle.quantise_graphs(tmp_path, shape)
    assert set(Weights(tmp_path / WEIGHTS).entries) >= {"embedding"} and (tmp_path / "weights.bin").stat().st_size < 2_000_000
    rough = bundle.generate(*bundle.ort_runners(tmp_path, shape.layers), embedding, sample, shape, layout.action_offset, lambda ids: False, 2)
    assert np.abs(exact.logits - rough.logits).max() < 0.2 * exact.logits.std() + 0.5


def test_a_dataset_of_another_robot_is_refused_by_name(data, tmp_path):
    import json
    import shutil

    copy = tmp_path / "other"
    shutil.copytree(data.folder, copy)
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps({**meta, "robot": "aloha"}))
    with pytest.raises(DatasetError, match="meta.json: robot is 'aloha'"):
        datasets.load(copy)
    (copy / "meta.json").write_text(json.dumps(meta))
    np.save(copy / "state.npy", np.zeros((120, 5), np.float32))
    with pytest.raises(DatasetError, match="state.npy: shape is"):
        datasets.load(copy)
    (copy / "tokens.npy").unlink()
    np.save(copy / "state.npy", np.asarray(data.state))
    with pytest.raises(DatasetError, match="tokens.npy: missing"):
        datasets.load(copy)


def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    def run(out, *extra):
        assert train.main(["--data", str(data.folder), "--out", str(tmp_path / out), "--batch", "8", "--threads", "1", "--no-bf16", "--every", "1e9", *extra]) == 0
        return train.load_checkpoint(tmp_path / out)

    whole = run("whole.pt", "--steps", "4")
    half = train.parse(["--data", str(data.folder), "--out", str(tmp_path / "half.pt"), "--batch", "8", "--threads", "1", "--no-bf16", "--every", "1e9", "--steps", "4"])
    trainer = train.Trainer(half, [data])
    trainer.dataset_digests, trainer.init_digest = [data.digest()], None
    progress = trainer.progress
    trainer.progress = lambda: 1.0 if trainer.step >= 2 else progress()
    trainer.run(tmp_path / "half.pt")
    resumed = run("half.pt", "--steps", "4", "--resume")
    for name, value in whole["average"].items():
        assert torch.equal(value, resumed["average"][name]), name


def test_map_targets_average_to_the_exact_position():
    uv = torch.tensor([[2.0, 94.0], [50.3, 17.9]])
    weight = train.map_targets(uv).view(2, 24, 24)
    centre = torch.arange(24) * 4.0 + 2.0
    assert torch.allclose(weight.sum((1, 2)), torch.ones(2))
    assert torch.allclose(torch.stack([weight.sum(1) @ centre, weight.sum(2) @ centre], 1), uv, atol=1e-4)
