"""Graphs in other numbers stay close to f32, and what cannot be is refused. Needs onnxruntime alone."""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from endplate_export import cli, quantise

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "pick_cube_fast"
ROOM = {"int8_weights": 0.02, "int8": 0.05, "qdq": 0.05, "fp16": 0.002, "int4_weights": 0.3}


def linear(weight: np.ndarray) -> onnx.ModelProto:
    """``y = x @ weight``, x [4, n]."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, rows])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, columns])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, inputs: dict) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@pytest.mark.parametrize("precision", quantise.PRECISIONS)
def test_every_precision_stays_close_to_f32(precision):
    rng = np.random.default_rng(1)
    model = linear(rng.normal(0, 1, (64, 32)))
    captured = [{"x": rng.normal(0, 1, (4, 64)).astype(np.float32)} for _ in range(8)]
    exact = run(model, captured[0])
    other = quantise.quantised(onnx.load_from_string(model.SerializeToString()), "linear.onnx", precision, captured)
    error = np.abs(run(other, captured[0]) - exact).max() / np.abs(exact).max()
    assert 0 < error < ROOM[precision]
    if precision != "fp16":
        assert "w" not in {tensor.name for tensor in other.graph.initializer}, "the f32 weights are gone"


def test_weights_are_scaled_channel_by_channel():
    weight = np.array([[1.0, 1000.0], [0.5, -500.0]])
    model = quantise.weights_only(linear(weight))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.allclose(values["w.scale1"], [1 / 127, 1000 / 127])
    assert values["w.int81"].tolist() == [[127, 127], [64, -64]]


def test_a_weight_that_overflows_fp16_is_refused():
    with pytest.raises(quantise.QuantiseError, match="weight w reaches 1e.05.*int8_weights"):
        quantise.quantised(linear(np.full((4, 4), 1e5)), "linear.onnx", "fp16", [{"x": np.zeros((4, 4), np.float32)}])


def test_an_output_that_overflows_fp16_is_refused():
    captured = [{"x": np.full((4, 4), 1e3, np.float32)}] * 2
    with pytest.raises(quantise.QuantiseError, match="y reaches 4e.06 on captured inputs"):
        quantise.quantised(linear(np.full((4, 4), 1e3)), "linear.onnx", "fp16", captured)


def test_an_output_that_is_not_finite_is_refused():
    captured = [{"x": np.full((4, 4), np.nan, np.float32)}] * 2
    with pytest.raises(quantise.QuantiseError, match="output y is not finite on captured inputs"):
        quantise.check_outputs(linear(np.ones((4, 4))), "linear.onnx", captured)


def test_the_graphs_of_a_bundle_are_read_with_their_weights_widened():
    model = quantise.load(BUNDLE, "decode_k1.onnx")
    assert not any(tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("edit, words", [
    (dict(bundle=Path("/nonexistent")), "policy.toml: missing"),
    (dict(recording=Path("/nonexistent.mcap")), "record one with"),
    (dict(keep=["visoin"]), "no such graph"),
    (dict(bundle=BUNDLE.parent / "pick_cube_fast_int8"), "start from the f32 bundle"),
    (dict(out=BUNDLE), "exists already"),
    (dict(endplate="/nonexistent/endplate"), "cargo build --release"),
])
def test_what_cannot_be_is_refused_and_leaves_nothing(edit, words, tmp_path, capsys):
    values = dict(bundle=BUNDLE, precision="int8", recording=BUNDLE / "policy.toml", out=tmp_path / "out", keep=[], engine=None, sets=4, observations=4, endplate="endplate", ort_library=None, robot=None, name=None)
    assert quantise.main(argparse.Namespace(**{**values, **edit})) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_line_knows_it():
    args = cli.parse(["quantise", "bundle", "--precision", "qdq", "--recording", "r.mcap", "--out", "out"])
    assert args.sets == 64 and args.run is quantise.main


def test_sets_of_a_graph_of_any_number_of_rows_are_read_in_turn(tmp_path):
    np.savez(tmp_path / "vision.npz", image=np.arange(3.0))
    np.savez(tmp_path / "decode.k1.npz", x=np.zeros((3, 1)))
    np.savez(tmp_path / "decode.k8.npz", x=np.zeros((1, 8)))
    assert [one["image"].item() for one in quantise.captured_sets(tmp_path, "vision")] == [0.0, 1.0, 2.0]
    assert [len(one["x"]) for one in quantise.captured_sets(tmp_path, "decode")] == [1, 8, 1, 1]
    assert quantise.captured_sets(tmp_path, "prefill") == []
