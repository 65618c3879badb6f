"""ONNX Runtime driven from Python, as a peer for `endplate bench decode --peer PYTHON`.

The same decoder graphs of the same bundle, on one thread, in the fastest form the Python interface has: every tensor
bound once (`io_binding`), inputs rewritten in place, nothing copied but one row per layer where the graph wants that.
It reads one JSON object a line and answers each with one; steps are timed here, one by one, with
`time.perf_counter_ns`, from one choice of a token to the next.
"""

import json
import sys
import time
import tomllib
from pathlib import Path

try:
    import numpy as np
    import onnxruntime
except ImportError as error:
    print(json.dumps({"error": f"{error}; pip install numpy onnxruntime"}), flush=True)
    sys.exit(1)

MASKED = -1e4


class Decoder:
    def __init__(self, folder, graph):
        m = tomllib.loads((folder / "policy.toml").read_text(encoding="utf-8"))["model"]
        self.offset, self.end = m["action_offset"], m["slab"]
        # As many rows as a policy has in use when it begins: all but the padding, of which there is some.
        self.start, self.prefix = m["prefix"] - m["visual_tokens"] // 8, m["prefix"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / graph, options, providers=["CPUExecutionProvider"])
        self.io = self.session.io_binding()
        self.embedding = np.random.default_rng(1).standard_normal((m["vocabulary"], m["width"]), dtype=np.float32)
        self.x = self.bind_in("x", (1, 1, m["width"]))
        self.logits = self.bind_out("logits", (1, 1, m["vocabulary"]))
        kv = (1, m["kv_heads"], m["slab"], m["head_dim"])
        names = [f"{kind}_{layer}" for layer in range(m["layers"]) for kind in "kv"]
        self.past = [self.bind_in(f"past_{name}", kv) for name in names]
        self.is_in_place = any(i.name == "rows" for i in self.session.get_inputs())
        if self.is_in_place:
            self.rows = self.bind_in("rows", (1,), np.int64)
            for name, past in zip(names, self.past):
                self.io.bind_ortvalue_output(f"present_{name}", onnxruntime.OrtValue.ortvalue_from_numpy(past))
        else:
            self.positions = self.bind_in("positions", (1, 1), np.int64)
            self.mask = self.bind_in("mask", (1, 1, 1, m["slab"] + 1))
            self.new = [self.bind_out(f"new_{name}", (1, m["kv_heads"], 1, m["head_dim"])) for name in names]
        self.reset()

    # An OrtValue on the CPU shares the memory of the array it is made from.
    def bind_in(self, name, shape, dtype=np.float32):
        array = np.zeros(shape, dtype)
        self.io.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        return array

    def bind_out(self, name, shape):
        array = np.full(shape, np.nan, np.float32)
        self.io.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        return array

    def reset(self):
        self.token, self.len = 0, self.start if self.is_in_place else self.prefix
        if not self.is_in_place:
            self.mask[...] = MASKED
            self.mask[..., : self.start] = 0
            self.mask[..., -1] = 0

    def step(self):
        if self.len >= self.end:
            self.reset()
        self.x[0, 0] = self.embedding[self.token + self.offset]
        if self.is_in_place:
            self.rows[0] = self.len + 1
        else:
            self.positions[0, 0] = self.len
        self.session.run_with_iobinding(self.io)
        if not self.is_in_place:
            for past, new in zip(self.past, self.new):
                past[:, :, self.len] = new[:, :, 0]
            self.mask[..., self.len] = 0
        self.len += 1
        self.token = int(self.logits[0, 0, self.offset :].argmax())

    def check(self):
        """The bound arrays really are the session's memory. Raises AssertionError."""
        before = self.len
        self.step()
        assert np.isfinite(self.logits).all(), "logits were not written to the bound array"
        for past in self.past:
            assert np.abs(past[:, :, before]).max() > 0, "a key or value was not written to the bound array"
            assert not past[:, :, before + 1 :].any(), "a row behind the last was written"
        self.reset()


def main():
    decoder = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                decoder = None  # before the next one is built: there may not be room for two
                decoder = Decoder(Path(request["folder"]), request["graph"])
                decoder.check()
                versions = {"python": sys.version.split()[0], "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
                answer = {"versions": versions}
            else:
                times = []
                for _ in range(request["count"]):
                    begin = time.perf_counter_ns()
                    decoder.step()
                    times.append(time.perf_counter_ns() - begin)
                answer = {"ns": times}
        except Exception as error:  # the other side shows it and ends
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
