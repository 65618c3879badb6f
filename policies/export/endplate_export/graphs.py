"""Hand-built ONNX graphs of the policies (opset 17, static shapes but for ``decode``), sharing one weights file.

Weights are fp16 tensors of ``weights.safetensors``; a graph's initialiser is a window into that file (ONNX external
data: absolute offset and length) and goes through one ``Cast`` to f32, which engines fold when they load. Only
integers and scalars under 64 bytes are inline. No shape arithmetic: attention is 5-D and grouped. A reshape leaves a size
to be found (-1) only where that is the symbolic number of rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

WEIGHTS = "weights.safetensors"
OPSET, IR = 17, 8
CAMERAS = ("front", "wrist")
CELLS, MAPS, PATCHES, OCTAVES = 24, 12, 36, 3


@dataclass(frozen=True)
class Shape:
    """Sizes that the graphs fix. ``prefix`` is S, ``slab`` is Tmax."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    visual_tokens: int
    prefix: int
    slab: int
    vocabulary: int

    @classmethod
    def of(cls, policy: dict, weights: "Weights") -> "Shape":
        """Of a bundle: the sizes of its ``policy.toml``, the heads from the width of its queries."""
        m = policy["model"]
        heads = weights.values["layers.0.q"].shape[1] // m["head_dim"]
        return cls(m["width"], m["layers"], heads, m["kv_heads"], m["head_dim"], m["visual_tokens"], m["prefix"], m.get("slab", 0), m["vocabulary"])


def weights_of(policy) -> dict[str, np.ndarray]:
    """Every tensor of the bundle, fp16, by its bundle name. Linear weights are [in, out]; ``embedding`` is [V, d].

    ``policy`` is a plain policy (``Policy.plain()``). Training-only heads come along as ``aux.*``.
    """
    state = {k: v.detach().cpu().numpy() for k, v in policy.state_dict().items()}
    config, out = policy.config, {}
    out["embedding"] = state.pop("table")
    if config.family == "flow":
        out["aux.final_norm"] = state.pop("final_norm.gain")
        _expert_weights(state, config, out)
        out["flow.frequencies"] = policy.time_frequencies.cpu().numpy()
    else:
        out["head"] = state.pop("head").T
        out["final_norm"], out["exit_norm"] = state.pop("final_norm.gain"), state.pop("exit_norm.gain")
    out["rope"] = policy.frequencies.cpu().numpy()
    for camera in CAMERAS:
        stem = f"stems.{camera}."
        for name in ("conv1", "conv2", "conv3", "maps1", "maps2"):
            for part in ("weight", "bias"):
                out[f"vision.{camera}.{name}.{part}"] = state.pop(f"{stem}{name}.{part}")
        out[f"vision.{camera}.position"] = state.pop(stem + "position")
        out[f"vision.{camera}.keypoint.weight"] = state.pop(stem + "keypoint.weight").T
        out[f"vision.{camera}.keypoint.bias"] = state.pop(stem + "keypoint.bias") + state.pop(stem + "keypoint_position")  # [3, d]
    for layer in range(config.layers):
        _block_weights(state, config, f"blocks.{layer}.", f"layers.{layer}.", out)
    for key in list(state):
        if key.startswith("aux_"):
            value = state.pop(key)
            out["aux." + key[4:]] = value.T if value.ndim == 2 else value
    if state:
        raise ValueError(f"tensors without a place in the bundle: {sorted(state)}")
    return {k: np.ascontiguousarray(v.astype(np.float16)) for k, v in out.items()}


def _block_weights(state: dict[str, np.ndarray], config, block: str, name: str, out: dict[str, np.ndarray]) -> None:
    """Moves one layer's tensors from ``state`` to ``out``; q, k and v apart."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    qkv = state.pop(block + "qkv.weight")
    out[name + "q"], out[name + "k"], out[name + "v"] = qkv[:q].T, qkv[q : q + kv].T, qkv[q + kv :].T
    for part in ("out", "gate", "up", "down"):
        out[name + part] = state.pop(f"{block}{part}.weight").T
    for part in ("attention_norm", "mlp_norm"):
        out[name + part] = state.pop(f"{block}{part}.gain")


def _expert_weights(state: dict[str, np.ndarray], config, out: dict[str, np.ndarray]) -> None:
    """Moves the action expert's tensors."""
    for layer in range(config.layers):
        _block_weights(state, config, f"expert.{layer}.", f"expert.{layer}.", out)
    for part in ("enter", "time", "mix", "leave", "keep"):
        out[f"flow.{part}.weight"] = state.pop(f"{part}.weight").T
    for part in ("time", "mix", "keep"):
        out[f"flow.{part}.bias"] = state.pop(f"{part}.bias")
    out["flow.norm"] = state.pop("expert_norm.gain")
    for part in ("row", "row_mean", "row_scale"):
        out[f"flow.{part}"] = state.pop(part)


def trunk_state(values: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """The inverse of ``weights_of`` for a FAST bundle: f32 tensors by the network's names; ``table`` and ``head`` are plain."""
    f32 = {k: v.astype(np.float32) for k, v in values.items()}
    out = {"table": f32["embedding"], "head": f32["head"].T.copy(), "final_norm.gain": f32["final_norm"], "exit_norm.gain": f32["exit_norm"]}
    for camera in CAMERAS:
        bundle, stem = f"vision.{camera}.", f"stems.{camera}."
        for name in ("conv1", "conv2", "conv3", "maps1", "maps2"):
            for part in ("weight", "bias"):
                out[f"{stem}{name}.{part}"] = f32[f"{bundle}{name}.{part}"]
        out[stem + "position"] = f32[bundle + "position"]
        out[stem + "keypoint.weight"] = f32[bundle + "keypoint.weight"].T.copy()
        out[stem + "keypoint_position"] = f32[bundle + "keypoint.bias"]
        out[stem + "keypoint.bias"] = np.zeros(f32[bundle + "keypoint.bias"].shape[1], np.float32)
    for layer in range(layers):
        block, name = f"blocks.{layer}.", f"layers.{layer}."
        out[block + "qkv.weight"] = np.concatenate([f32[name + part].T for part in "qkv"])
        for part in ("out", "gate", "up", "down"):
            out[f"{block}{part}.weight"] = f32[name + part].T.copy()
        for part in ("attention_norm", "mlp_norm"):
            out[f"{block}{part}.gain"] = f32[name + part]
    for name in ("position", "patch", "chunk", "offset"):
        out[f"aux_{name}.weight"], out[f"aux_{name}.bias"] = f32[f"aux.{name}.weight"].T.copy(), f32[f"aux.{name}.bias"]
    return out


class Weights:
    """Where each tensor lies in the safetensors file (absolute byte offset), and its values as fp16."""

    def __init__(self, path: str | Path):
        raw = Path(path).read_bytes()
        header = int.from_bytes(raw[:8], "little")
        self.entries = {}
        self.values = {}
        for name, entry in json.loads(raw[8 : 8 + header]).items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "F16":
                raise ValueError(f"{path}: {name} is {entry['dtype']}, expected F16")
            start, end = (8 + header + o for o in entry["data_offsets"])
            self.entries[name] = (start, end - start, entry["shape"])
            self.values[name] = np.frombuffer(raw[start:end], "<f2").reshape(entry["shape"])


class Graph:
    """A small ONNX writer: inputs, nodes, initialisers, outputs."""

    def __init__(self, name: str, weights: Weights):
        self.name, self.weights = name, weights
        self.nodes, self.initialisers, self.inputs, self.outputs = [], [], [], []
        self.known: dict = {}

    def input(self, name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, shape: list[int]) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes) -> str:
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{len(self.nodes)}", **attributes))
        return name

    def small(self, value) -> str:
        """Inline constant: integers of any size, floats under 64 bytes."""
        value = np.asarray(value)
        if value.dtype.kind == "f" and value.nbytes >= 64:
            raise ValueError("float constants of 64 bytes or more belong in the weights file")
        key = (value.tobytes(), value.dtype.str, value.shape)
        if key not in self.known:
            self.known[key] = f"c{len(self.known)}"
            self.initialisers.append(numpy_helper.from_array(value, self.known[key]))
        return self.known[key]

    def ints(self, *values: int) -> str:
        return self.small(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.small(np.array(value, np.float32))

    def weight(self, name: str) -> str:
        """f32 view of one tensor of the weights file."""
        if name in self.known:
            return self.known[name]
        start, length, shape = self.weights.entries[name]
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", WEIGHTS), ("offset", str(start)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        self.initialisers.append(tensor)
        self.known[name] = self.op("Cast", name, out=f"{name}_f32", to=TensorProto.FLOAT)
        return self.known[name]

    def model(self) -> ModelProto:
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.initialisers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="endplate-export")

    # -- pieces -----------------------------------------------------------------------------------------------------
    def gelu(self, x: str) -> str:
        """Exact GELU by Erf."""
        return self.op("Mul", self.op("Mul", x, self.number(0.5)), self.op("Add", self.op("Erf", self.op("Mul", x, self.number(2**-0.5))), self.number(1.0)))

    def norm(self, x: str, gain: str) -> str:
        square = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        return self.op("Mul", self.op("Div", x, self.op("Sqrt", self.op("Add", square, self.number(1e-6)))), self.weight(gain))

    def conv(self, x: str, name: str, kernel: int, stride: int, pad: int) -> str:
        return self.op("Conv", x, self.weight(name + ".weight"), self.weight(name + ".bias"), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)


def vision(weights: Weights, shape: Shape, keypoint_order: list[int]) -> ModelProto:
    """``image`` f32 [2, 3, 96, 96] in 0..1 -> ``visual`` f32 [1, Nv, d]: patches front, patches wrist, keypoints front, keypoints wrist."""
    g = Graph("vision", weights)
    g.input("image", [len(CAMERAS), 3, 96, 96])
    centred = g.op("Sub", "image", g.number(0.5))
    # The grid -1..1 is even, so it is made from integer columns and rows, which may stand inline.
    cells = np.arange(CELLS * CELLS)
    grid = np.stack([cells % CELLS, cells // CELLS], 1).astype(np.int64)
    grid = g.op("Add", g.op("Mul", g.op("Cast", g.small(grid), to=TensorProto.FLOAT), g.number(2 / (CELLS - 1))), g.number(-1.0))
    patches, keypoints = [], []
    for i, camera in enumerate(CAMERAS):
        stem = f"vision.{camera}."
        image = g.op("Slice", centred, g.ints(i), g.ints(i + 1), g.ints(0))
        f = g.gelu(g.conv(image, stem + "conv1", 4, 4, 0))
        p = g.conv(g.gelu(g.conv(f, stem + "conv2", 3, 2, 1)), stem + "conv3", 3, 2, 1)
        p = g.op("Transpose", g.op("Reshape", p, g.ints(1, shape.width, PATCHES)), perm=[0, 2, 1])
        patches.append(g.op("Add", p, g.weight(stem + "position")))
        maps = g.conv(g.gelu(g.conv(f, stem + "maps1", 3, 1, 1)), stem + "maps2", 1, 1, 0)
        weight = g.op("Softmax", g.op("Reshape", maps, g.ints(1, MAPS, CELLS * CELLS)), axis=-1)
        xy = g.op("MatMul", weight, grid)
        waves = [xy, g.op("ReduceMax", weight, axes=[-1], keepdims=1)]
        for k in range(OCTAVES):
            angle = g.op("Mul", xy, g.number(np.pi * 2.0**k))
            waves += [g.op("Sin", angle), g.op("Cos", angle)]
        features = g.op("Gather", g.op("Concat", *waves, axis=2), g.ints(*keypoint_order), axis=1)
        features = g.op("Reshape", features, g.ints(1, 3, 4 * (3 + 4 * OCTAVES)))
        keypoints.append(g.op("Add", g.op("MatMul", features, g.weight(stem + "keypoint.weight")), g.weight(stem + "keypoint.bias")))
    g.op("Concat", *patches, *keypoints, axis=1, out="visual")
    g.output("visual", [1, shape.visual_tokens, shape.width])
    return g.model()


class _Rotary:
    """Splits rows into heads and turns them by their positions: cos and sin f32 [1, 1, s, hd/2]."""

    def __init__(self, g: Graph, shape: Shape, rows: int):
        """``rows`` is -1 where their number is symbolic."""
        self.g, self.rows, self.head_dim = g, rows, shape.head_dim
        angle = g.op("Mul", g.op("Reshape", g.op("Cast", "positions", to=TensorProto.FLOAT), g.ints(1, 1, rows, 1)), g.weight("rope"))
        self.cos, self.sin = g.op("Cos", angle), g.op("Sin", angle)

    def heads(self, t: str, n: int, out: str | None = None) -> str:
        """[1, s, n * hd] -> [1, n, s, hd]."""
        g = self.g
        return g.op("Transpose", g.op("Reshape", t, g.ints(1, self.rows, n, self.head_dim)), perm=[0, 2, 1, 3], out=out)

    def rotate(self, t: str, out: str | None = None) -> str:
        g, half = self.g, self.head_dim // 2
        left = g.op("Slice", t, g.ints(0), g.ints(half), g.ints(3))
        right = g.op("Slice", t, g.ints(half), g.ints(self.head_dim), g.ints(3))
        turned_left = g.op("Sub", g.op("Mul", left, self.cos), g.op("Mul", right, self.sin))
        turned_right = g.op("Add", g.op("Mul", right, self.cos), g.op("Mul", left, self.sin))
        return g.op("Concat", turned_left, turned_right, axis=3, out=out)


def _attended(g: Graph, shape: Shape, name: str, q: str, keys: str, values: str, bias: str, kept: int) -> str:
    """What grouped attention of ``kept`` rows gives; q [1, heads, kept, hd], keys and values [1, Hkv, rows, hd]."""
    hd = shape.head_dim
    q = g.op("Reshape", q, g.ints(1, shape.kv_heads, shape.heads // shape.kv_heads, kept, hd))
    keys = g.op("Unsqueeze", g.op("Transpose", keys, perm=[0, 1, 3, 2]), g.ints(2))
    scores = g.op("Add", g.op("Mul", g.op("MatMul", q, keys), g.number(hd**-0.5)), bias)
    a = g.op("MatMul", g.op("Softmax", scores, axis=-1), g.op("Unsqueeze", values, g.ints(2)))
    a = g.op("Reshape", g.op("Transpose", a, perm=[0, 3, 1, 2, 4]), g.ints(1, kept, shape.heads * hd))
    return g.op("MatMul", a, g.weight(name + "out"))


def _attention(g: Graph, shape: Shape, x: str, name: str, q: str, keys: str, values: str, bias: str, kept: int) -> str:
    """The same, added to ``x``."""
    return g.op("Add", x, _attended(g, shape, name, q, keys, values, bias, kept))


def _silu(g: Graph, x: str) -> str:
    return g.op("Mul", x, g.op("Sigmoid", x))


def _swiglu(g: Graph, x: str, name: str) -> str:
    h = g.norm(x, name + "mlp_norm")
    gate = _silu(g, g.op("MatMul", h, g.weight(name + "gate")))
    return g.op("Add", x, g.op("MatMul", g.op("Mul", gate, g.op("MatMul", h, g.weight(name + "up"))), g.weight(name + "down")))


def _past(g: Graph, shape: Shape, rows: int) -> None:
    for layer in range(shape.layers):
        for kind in "kv":
            g.input(f"past_{kind}_{layer}", [1, shape.kv_heads, rows, shape.head_dim])


def decoder(weights: Weights, shape: Shape, rows: int | None, past: int, logits: bool = True) -> ModelProto:
    """``prefill`` (rows = S, past = 0; logits of the last row only) or ``decode_kK`` (rows = K, past = Tmax; logits of every row).

    Without ``rows`` it is ``decode``: K and the width of the mask, past + K, are symbolic, and one graph is all of the above.
    Without ``logits`` (flow) the graph ends at the last layer's keys and values.
    """
    if rows is None and not past:
        raise ValueError("a graph of any number of rows has a slab: nothing else is symbolic in it")
    s, d, hd = ("K" if rows is None else rows), shape.width, shape.head_dim
    count = -1 if rows is None else rows
    g = Graph("prefill" if past == 0 else "decode" if rows is None else f"decode_k{rows}", weights)
    x = g.input("x", [1, s, d])
    g.input("positions", [1, s], TensorProto.INT64)
    g.input("mask", [1, 1, s, "T" if rows is None else past + s])
    if past:
        _past(g, shape, past)
    rotary = _Rotary(g, shape, count)
    mask = g.op("Unsqueeze", "mask", g.ints(2))
    for layer in range(shape.layers):
        name = f"layers.{layer}."
        last = layer == shape.layers - 1
        h = g.norm(x, name + "attention_norm")
        k = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "k")), shape.kv_heads), out=f"new_k_{layer}")
        v = rotary.heads(g.op("MatMul", h, g.weight(name + "v")), shape.kv_heads, out=f"new_v_{layer}")
        g.output(k, [1, shape.kv_heads, s, hd])
        g.output(v, [1, shape.kv_heads, s, hd])
        if last and not logits:
            return g.model()
        q = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "q")), shape.heads))
        kept, bias = count, mask
        if last and not past:  # nothing after the last layer's attention needs more than the last row
            kept = 1
            q = g.op("Slice", q, g.ints(s - 1), g.ints(s), g.ints(2))
            x = g.op("Slice", x, g.ints(s - 1), g.ints(s), g.ints(1))
            bias = g.op("Slice", mask, g.ints(s - 1), g.ints(s), g.ints(3))
        keys = g.op("Concat", f"past_k_{layer}", k, axis=2) if past else k
        values = g.op("Concat", f"past_v_{layer}", v, axis=2) if past else v
        x = _swiglu(g, _attention(g, shape, x, name, q, keys, values, bias, kept), name)
    g.op("MatMul", g.norm(x, "final_norm"), g.weight("head"), out="logits")
    g.output("logits", [1, s if past else 1, shape.vocabulary])
    return g.model()


def denoise(weights: Weights, shape: Shape, rows: int, dims: int, last_gap: float) -> ModelProto:
    """``noisy`` [1, H, D], ``time`` [1, H] (1 for committed rows) and the prefix's keys and values -> ``velocity`` [1, H, D].

    Keys are the S prefix rows, then the H rows themselves; ``mask`` [1, 1, H, S + H] is additive.
    """
    g = Graph("denoise", weights)
    g.input("noisy", [1, rows, dims])
    g.input("time", [1, rows])
    g.input("positions", [1, rows], TensorProto.INT64)
    g.input("mask", [1, 1, rows, shape.prefix + rows])
    _past(g, shape, shape.prefix)
    rotary = _Rotary(g, shape, rows)
    mask = g.op("Unsqueeze", "mask", g.ints(2))
    time = g.op("Reshape", "time", g.ints(1, rows, 1))
    angle = g.op("Mul", time, g.weight("flow.frequencies"))
    features = g.op("Concat", time, g.op("Sin", angle), g.op("Cos", angle), axis=2)

    def linear(x: str, name: str) -> str:
        return g.op("Add", g.op("MatMul", x, g.weight(name + ".weight")), g.weight(name + ".bias"))

    x = g.op("Add", g.op("Add", g.op("MatMul", "noisy", g.weight("flow.enter.weight")), linear(features, "flow.time")), g.weight("flow.row"))
    x = g.op("Add", x, linear(_silu(g, x), "flow.mix"))
    for layer in range(shape.layers):
        name = f"expert.{layer}."
        h = g.norm(x, name + "attention_norm")
        k = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "k")), shape.kv_heads))
        v = rotary.heads(g.op("MatMul", h, g.weight(name + "v")), shape.kv_heads)
        q = rotary.rotate(rotary.heads(g.op("MatMul", h, g.weight(name + "q")), shape.heads))
        keys, values = g.op("Concat", f"past_k_{layer}", k, axis=2), g.op("Concat", f"past_v_{layer}", v, axis=2)
        x = _swiglu(g, _attention(g, shape, x, name, q, keys, values, mask, rows), name)
    out = g.op("MatMul", g.norm(x, "flow.norm"), g.weight("flow.leave.weight"))
    chunk = g.op("Add", g.op("Add", g.weight("flow.row_mean"), g.op("Mul", g.weight("flow.row_scale"), out)), g.op("Mul", linear(features, "flow.keep"), "noisy"))
    gap = g.op("Max", g.op("Sub", g.number(1.0), time), g.number(last_gap))
    g.op("Div", g.op("Sub", chunk, "noisy"), gap, out="velocity")
    g.output("velocity", [1, rows, dims])
    return g.model()
