"""Writes the tiny ONNX models of the engine conformance suite into `models/` (run it with the `onnx` package).

`mix.onnx`  x f32 [1,2,3], positions i64 [1,2] -> logits f32 [1,2,4] = x @ W + rows of E gathered by positions.
            W (fp16, through a Cast) and E (f32) are external data in `weights.bin`, W behind 8 bytes of padding.
`grow.onnx` x f32 [1,1,2,3] -> new f32 [1,1,2,3] = 2 x, same f32 [1,1,2,3] = x (an input returned unchanged).
`half.onnx` x f16 [2] -> y f32 [2], an input type no contract asks for.
`free.onnx` x f32 [n,3] -> y f32 [n,3], a shape that is not static.
`div.onnx`  x f32 [2], y f32 [2] -> z f32 [2] = x / y: not finite where y is 0, which an engine must not hide.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

OUT = Path(__file__).parent / "models"


def tensor(name, dtype, shape):
    return h.make_tensor_value_info(name, dtype, shape)


def external(name, array, offset):
    t = nh.from_array(array, name)
    t.ClearField("raw_data")
    t.data_location = T.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", array.nbytes)):
        t.external_data.add(key=key, value=str(value))
    return t


def save(name, nodes, inputs, outputs, initialisers=()):
    graph = h.make_graph(nodes, name, inputs, outputs, list(initialisers))
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    (OUT / f"{name}.onnx").write_bytes(model.SerializeToString())


def main():
    OUT.mkdir(exist_ok=True)
    w = (np.arange(12, dtype=np.float16) / 8 - 0.5).reshape(3, 4)
    e = np.arange(20, dtype=np.float32).reshape(5, 4) * 10
    (OUT / "weights.bin").write_bytes(b"\0" * 8 + w.tobytes() + e.tobytes())
    save(
        "mix",
        [
            h.make_node("Cast", ["W"], ["W32"], to=T.FLOAT),
            h.make_node("MatMul", ["x", "W32"], ["xw"]),
            h.make_node("Gather", ["E", "positions"], ["rows"], axis=0),
            h.make_node("Add", ["xw", "rows"], ["logits"]),
        ],
        [tensor("x", T.FLOAT, [1, 2, 3]), tensor("positions", T.INT64, [1, 2])],
        [tensor("logits", T.FLOAT, [1, 2, 4])],
        [external("W", w, 8), external("E", e, 8 + w.nbytes)],
    )
    save(
        "grow",
        [h.make_node("Add", ["x", "x"], ["new"]), h.make_node("Identity", ["x"], ["same"])],
        [tensor("x", T.FLOAT, [1, 1, 2, 3])],
        [tensor("new", T.FLOAT, [1, 1, 2, 3]), tensor("same", T.FLOAT, [1, 1, 2, 3])],
    )
    save("half", [h.make_node("Cast", ["x"], ["y"], to=T.FLOAT)], [tensor("x", T.FLOAT16, [2])], [tensor("y", T.FLOAT, [2])])
    save("free", [h.make_node("Neg", ["x"], ["y"])], [tensor("x", T.FLOAT, ["n", 3])], [tensor("y", T.FLOAT, ["n", 3])])
    save(
        "div",
        [h.make_node("Div", ["x", "y"], ["z"])],
        [tensor("x", T.FLOAT, [2]), tensor("y", T.FLOAT, [2])],
        [tensor("z", T.FLOAT, [2])],
    )


if __name__ == "__main__":
    main()
