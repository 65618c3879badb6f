"""The ONNX graphs compute what torch computes, on a random network. Needs torch: pip install ./policies/export[train,test]."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install ./policies/export[train,test]")

import synthetic  # noqa: E402

from endplate_export import bins, bundle, data as datasets, replay, source, train  # noqa: E402
from endplate_export.data import COLOURS, DatasetError  # noqa: E402
from endplate_export.fast import Fast  # noqa: E402
from endplate_export.flow import FlowPolicy  # noqa: E402
from endplate_export.graphs import WEIGHTS, Weights, trunk_state, weights_of  # noqa: E402
from endplate_export.model import Config, Policy, action_features, bin_features  # noqa: E402
from endplate_export.text import build_layout, build_tokenizer  # noqa: E402

UNIT = {"q01": np.full(6, -1.0), "q99": np.ones(6)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return datasets.load(synthetic.write(tmp_path_factory.mktemp("data") / "set", frames=120, scenes=40))


def network_of(data, family: str):
    """A random network of one family, its text tokenizer and the id layout."""
    torch.manual_seed(3)
    fast = Fast.load(data.tokenizer_folder)
    tokenizer = build_tokenizer(data.meta["phrases"], COLOURS)
    layout = build_layout(tokenizer, {"fast": len(fast), "bins": bins.COUNT, "flow": 0}[family])
    config = Config.of(layout, family, 8 if family == "bins" else 16)
    policy = FlowPolicy(config, smooth=True) if family == "flow" else Policy(config, action_features(fast) if family == "fast" else bin_features())
    with torch.no_grad():  # random gains, heads and scales, so that a forgotten one shows
        for name, p in policy.named_parameters():
            if name.endswith("gain") or name in ("action_head", "head") or name.startswith(("keep", "leave")):
                p.add_(0.2 * torch.randn_like(p))
        if family == "flow":
            policy.set_rows(np.random.default_rng(0).normal(0.2, 0.5, (50, 16, 6)))
    return policy.eval(), tokenizer, layout


@pytest.fixture(scope="module")
def network(data):
    return network_of(data, "fast")


class Anything:
    """A codec that takes any ids: random networks do not speak FAST."""

    def __init__(self, limit: int):
        self.limit = limit

    def stop(self, ids):
        return False

    def decode(self, ids):
        return np.zeros((16, 6))


@pytest.mark.parametrize("family", ["fast", "bins"])
def test_graphs_and_torch_give_the_same_tokens_and_numbers(data, family, tmp_path):
    policy, tokenizer, layout = network_of(data, family)
    plain = policy.plain()
    shape = bundle.shape_of(policy.config, 32, 48)
    bundle.write_graphs(tmp_path, plain, shape)
    embedding = Weights(tmp_path / WEIGHTS).values["embedding"].astype(np.float32)
    codec = replay.BinCodec(8) if family == "bins" else Anything(24)
    tokens = replay.TokenReplay(shape, embedding, UNIT, policy.config.horizon, codec, layout.action_offset)
    for frame in range(0, 120, 40):
        sample = replay.observe(data, tokenizer, frame, data.meta["phrases"][frame // 40])
        a, b = (tokens.run(runners, sample) for runners in (replay.torch_runners(plain), replay.ort_runners(tmp_path, shape.layers)))
        assert np.array_equal(a.tokens, b.tokens)
        assert np.abs(a.visual - b.visual).max() < 1e-4
        assert np.abs(a.logits - b.logits).max() < 1e-3


def test_the_flow_graphs_and_torch_give_the_same_velocity_and_chunk(data, tmp_path):
    policy, tokenizer, _ = network_of(data, "flow")
    plain = policy.plain()
    shape = bundle.shape_of(policy.config, 32, 0)
    bundle.write_graphs(tmp_path, plain, shape)
    embedding = Weights(tmp_path / WEIGHTS).values["embedding"].astype(np.float32)
    flow = replay.FlowReplay(shape, embedding, UNIT, 16)
    runners, graphs = replay.torch_runners(plain), replay.ort_runners(tmp_path, shape.layers)
    for frame in range(0, 120, 40):
        sample = flow.start(replay.observe(data, tokenizer, frame, data.meta["phrases"][frame // 40]), frame)
        a, b = flow.run(runners, sample), flow.run(graphs, sample)
        assert np.abs(a.velocity - b.velocity).max() < 1e-3 and np.abs(a.actions - b.actions).max() < 1e-3
        # The padded layout and the training layout are the same function.
        images, text = torch.from_numpy(sample.pixels)[None], torch.from_numpy(sample.text_ids)[None]
        chunk = plain.sample(images, text, torch.from_numpy(sample.noise)[None])[0].numpy()
        assert np.abs(flow.rad(chunk.astype(np.float64), sample.state) - a.actions).max() < 1e-4


def test_committed_rows_reach_the_denoise_graph_by_their_own_time(data, tmp_path):
    policy, tokenizer, _ = network_of(data, "flow")
    plain = policy.plain()
    shape = bundle.shape_of(policy.config, 32, 0)
    bundle.write_graphs(tmp_path, plain, shape)
    embedding = Weights(tmp_path / WEIGHTS).values["embedding"].astype(np.float32)
    sample = replay.observe(data, tokenizer, 3, data.meta["phrases"][0])
    rng = np.random.default_rng(1)
    noisy, time = rng.normal(size=(1, 16, 6)).astype(np.float32), np.full((1, 16), 0.3, np.float32)
    time[:, :4] = 1.0
    n, t, s = shape.visual_tokens, len(sample.text_ids), shape.prefix
    mask = np.zeros((1, 1, 16, s + 16), np.float32)
    mask[..., n : s - t] = replay.MASKED
    positions = n + t + np.arange(16)[None]
    answers = []
    for runners in (replay.torch_runners(plain), replay.ort_runners(tmp_path, shape.layers)):
        past = runners[1](*replay.prefill_inputs(runners[0](sample.pixels), embedding, sample.text_ids, shape))
        answers += [runners[2](noisy, time, positions, mask, past), runners[2](noisy, np.full_like(time, 0.3), positions, mask, past)]
    assert np.abs(answers[0] - answers[2]).max() < 1e-3 * np.abs(answers[0]).max()
    assert np.abs(answers[0][:, 4:] - answers[1][:, 4:]).max() > 1e-2


def test_noise_draws_of_one_observation_do_not_see_each_other(data):
    policy, tokenizer, _ = network_of(data, "flow")
    sample = replay.observe(data, tokenizer, 3, data.meta["phrases"][0])
    images, text = torch.from_numpy(sample.pixels)[None], torch.from_numpy(sample.text_ids)[None]
    noisy, time = torch.randn(1, 3, 16, 6), torch.rand(1, 3, 1).expand(1, 3, 16)
    with torch.no_grad():
        together = policy(images, text, noisy, time)["chunk"]
        alone = torch.cat([policy(images, text, noisy[:, i : i + 1], time[:, i : i + 1])["chunk"] for i in range(3)], 1)
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["fast", "bins"])
def test_the_slab_layout_equals_the_training_layout(data, family):
    policy, tokenizer, layout = network_of(data, family)
    plain = policy.plain()
    shape = bundle.shape_of(policy.config, 32, 12)
    sample = replay.observe(data, tokenizer, 5, data.meta["phrases"][0])
    embedding = plain.table.detach().numpy()
    slab = replay.generate(*replay.torch_runners(plain), embedding, sample, shape, layout.action_offset, lambda ids: False, 12)
    images, text = torch.from_numpy(sample.pixels)[None], torch.from_numpy(sample.text_ids)[None]
    assert plain.greedy(images, text, 12)[0].tolist() == slab.tokens.tolist()
    with torch.no_grad():  # teacher forcing over those tokens predicts the same tokens
        out = plain(images, text, torch.from_numpy(slab.tokens)[None] + layout.action_offset)
    assert (out["final"][0, :12] @ out["head"].T).argmax(-1).sub(layout.action_offset).tolist() == slab.tokens.tolist()


@pytest.mark.parametrize("family", ["bins", "flow"])
def test_a_trunk_survives_the_way_through_a_bundle(data, network, family):
    fast, _, _ = network
    plain = fast.plain()
    state = {k: torch.from_numpy(v) for k, v in trunk_state(weights_of(plain), plain.config.layers).items()}
    policy, tokenizer, _ = network_of(data, family)
    taken = policy.start_from(state)
    assert {"blocks.3.down.weight", "stems.wrist.maps2.bias", "aux_patch.weight", "final_norm.gain"} <= taken
    assert not any(name.startswith(("expert", "action_")) for name in taken)
    sample = replay.observe(data, tokenizer, 7, data.meta["phrases"][1])
    images, text = torch.from_numpy(sample.pixels)[None], torch.from_numpy(sample.text_ids)[None]
    with torch.no_grad():
        assert (policy.prefix(images, text)["final"] - plain.prefix(images, text)["final"]).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["fast", "bins", "flow"])
def test_a_resumed_run_equals_an_uninterrupted_one(data, family, tmp_path):
    def run(out, *extra):
        assert train.main(["--data", str(data.folder), "--out", str(tmp_path / out), "--family", family, "--batch", "8", "--threads", "1", "--no-bf16", "--every", "1e9", *extra]) == 0
        return train.load_checkpoint(tmp_path / out)

    whole = run("whole.pt", "--steps", "4")
    half = train.parse(["--data", str(data.folder), "--out", str(tmp_path / "half.pt"), "--family", family, "--batch", "8", "--threads", "1", "--no-bf16", "--every", "1e9", "--steps", "4"])
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
    weight = source.map_targets(uv).view(2, 24, 24)
    centre = torch.arange(24) * 4.0 + 2.0
    assert torch.allclose(weight.sum((1, 2)), torch.ones(2))
    assert torch.allclose(torch.stack([weight.sum(1) @ centre, weight.sum(2) @ centre], 1), uv, atol=1e-4)


def test_a_checkpoint_of_another_family_is_refused_by_name(data, tmp_path, capsys):
    arguments = ["--data", str(data.folder), "--batch", "8", "--threads", "1", "--no-bf16", "--every", "1e9", "--steps", "1"]
    assert train.main([*arguments, "--out", str(tmp_path / "flow.pt"), "--family", "flow"]) == 0
    assert train.main([*arguments, "--out", str(tmp_path / "bins.pt"), "--family", "bins", "--init", str(tmp_path / "flow.pt")]) == 2
    assert "is of family flow, --family says bins" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["bins", "flow"])
def test_an_untrained_checkpoint_becomes_a_complete_bundle(data, family, tmp_path):
    import tomllib

    arguments = ["--data", str(data.folder), "--batch", "8", "--threads", "1", "--no-bf16", "--every", "1e9", "--steps", "40" if family == "bins" else "1"]
    assert train.main([*arguments, "--out", str(tmp_path / "policy.pt"), "--family", family, "--warmup", "1"]) == 0
    assert bundle.main(["--checkpoint", str(tmp_path / "policy.pt"), "--data", str(data.folder), "--out", str(tmp_path / "bundle")]) == 0
    toml = tomllib.loads((tmp_path / "bundle" / "policy.toml").read_text())
    golden = np.load(tmp_path / "bundle" / "golden.npz")
    assert toml["family"] == family and set(toml["files"]) == {p.relative_to(tmp_path / "bundle").as_posix() for p in (tmp_path / "bundle").rglob("*") if p.is_file()} - {"policy.toml"}
    if family == "bins":
        assert toml["bins"] == {"scheme": "openvla", "count": 256} and toml["decoding"] == {"strategy": "greedy"}
        assert golden["tokens_0"].shape == (48,) and 0 <= golden["tokens_0"].min() and golden["tokens_0"].max() < 256
        y = bins.decode_chunk(golden["tokens_0"], 8, 6)
        low, high = (np.array([a[q] for a in toml["action"]]) for q in ("q01", "q99"))
        relative = golden["actions_0"] - np.where(datasets.RELATIVE, golden["state_0"], 0)
        assert np.abs((y + 1) / 2 * (high - low + 1e-6) + low - relative).max() < 1e-9
    else:
        assert toml["flow"] == {"steps": 10, "time": "per_row", "max_prefix_rows": 6} and "decoding" not in toml
        assert set(toml["model"]) == {"width", "layers", "kv_heads", "head_dim", "visual_tokens", "prefix", "vocabulary"}
        assert golden["noise_0"].shape == golden["velocity_0"].shape == (16, 6) and golden["actions_0"].shape == (16, 6)
