"""The decoder that writes in place gives the logits and the keys and values of the portable one."""

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch")

from endplate_export import in_place, synthetic  # noqa: E402
from endplate_export.graphs import WEIGHTS, Weights  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "bundle"
    assert synthetic.main(["--out", str(out), "--width", "64", "--layers", "2", "--heads", "4", "--hidden", "96"]) == 0
    return out


def test_both_decoders_agree_over_a_growing_cache(bundle):
    shape = in_place.shape_of(bundle, Weights(bundle / WEIGHTS))
    portable, shared = (onnxruntime.InferenceSession(bundle / f"{name}.onnx", providers=["CPUExecutionProvider"]) for name in ("decode_k1", in_place.GRAPH))
    names = [f"{kind}_{layer}" for layer in range(shape.layers) for kind in "kv"]
    rng = np.random.default_rng(3)
    slab = {f"past_{name}": np.zeros((1, shape.kv_heads, shape.slab, shape.head_dim), np.float32) for name in names}
    io = shared.io_binding()
    own = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(array)) for name, array in slab.items()}
    logits = np.zeros((1, 1, shape.vocabulary), np.float32)
    for name, value in own.items():
        io.bind_ortvalue_input(name, value)
        io.bind_ortvalue_output(name.replace("past", "present"), value)
    io.bind_ortvalue_output("logits", onnxruntime.OrtValue.ortvalue_from_numpy(logits))
    mask = np.full((1, 1, 1, shape.slab + 1), -1e4, np.float32)
    mask[..., -1] = 0
    for step in range(12):
        x = rng.standard_normal((1, 1, shape.width), dtype=np.float32)
        outputs = portable.run(["logits", *(f"new_{name}" for name in names)], {"x": x, "positions": np.array([[step]]), "mask": mask, **slab})
        for name, new in zip(names, outputs[1:]):
            slab[f"past_{name}"][:, :, step] = new[:, :, 0]
        mask[..., step] = 0
        io.bind_cpu_input("x", x)
        io.bind_cpu_input("rows", np.array([step + 1]))
        shared.run_with_iobinding(io)
        np.testing.assert_allclose(logits, outputs[0], atol=2e-5)
        for name, value in own.items():
            np.testing.assert_allclose(value.numpy(), slab[name], atol=2e-5)


def test_adding_it_twice_lists_it_once_and_another_bundle_is_refused(bundle, tmp_path):
    before = (bundle / "policy.toml").read_text()
    assert in_place.main([str(bundle)]) == 0
    after = (bundle / "policy.toml").read_text()
    assert sorted(before.splitlines()) == sorted(after.splitlines())
    (tmp_path / "policy.toml").write_text("[model]\nwidth = 1\n")
    (tmp_path / WEIGHTS).write_bytes((bundle / WEIGHTS).read_bytes())
    assert in_place.main([str(tmp_path)]) == 2
