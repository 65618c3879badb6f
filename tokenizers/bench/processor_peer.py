"""The path users have today, as a peer for `endplate bench tokenizer --peer PYTHON`.

The released FAST processor's published form: `scipy.fft.dct` and the `tokenizers` package (third-party code), joined
by the few lines of Python that the processor itself consists of. It reads one JSON object a line and answers each with
one; calls are timed here, one by one, with `time.perf_counter_ns`.
"""

import json
import sys
import time

try:
    import numpy as np
    import scipy
    import tokenizers
    from scipy.fft import dct, idct
except ImportError as error:
    print(json.dumps({"error": f"{error}; pip install numpy scipy tokenizers"}), flush=True)
    sys.exit(1)


class Processor:
    def __init__(self, model, scale, min_token, horizon, dims):
        self.bpe = tokenizers.Tokenizer.from_str(model)
        self.scale, self.min_token, self.horizon, self.dims = scale, min_token, horizon, dims

    def encode(self, chunk):
        coefficients = np.around(dct(chunk[None, ...], axis=1, norm="ortho") * self.scale)
        tokens = []
        for element in coefficients:
            text = "".join(map(chr, np.maximum(element.flatten() - self.min_token, 0).astype(int)))
            tokens.append(self.bpe.encode(text).ids)
        return tokens[0]

    def decode(self, ids):
        text = self.bpe.decode(ids, skip_special_tokens=False)
        coefficients = np.array(list(map(ord, text))) + self.min_token
        coefficients = coefficients.reshape(-1, self.dims)
        assert coefficients.shape == (self.horizon, self.dims)
        return idct(coefficients / self.scale, axis=0, norm="ortho")


def timed(call, arguments, count, start):
    times = []
    for index in range(start, start + count):
        argument = arguments[index % len(arguments)]
        begin = time.perf_counter_ns()
        call(argument)
        times.append(time.perf_counter_ns() - begin)
    return times


processor, chunks, ids = None, [], []
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "load":
        shape = (request["horizon"], request["dims"])
        processor = Processor(request["model"], request["scale"], request["min_token"], *shape)
        chunks = [np.array(chunk, dtype=np.float64).reshape(shape) for chunk in request["chunks"]]
        ids = [processor.encode(chunk) for chunk in chunks]
        decoded = [processor.decode(each).flatten().tolist() for each in ids]
        versions = {
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "tokenizers": tokenizers.__version__,
        }
        answer = {"ids": ids, "decoded": decoded, "versions": versions}
    else:
        call, arguments = (processor.encode, chunks) if request["do"] == "encode" else (processor.decode, ids)
        answer = {"ns": timed(call, arguments, request["count"], request["start"])}
    print(json.dumps(answer), flush=True)
