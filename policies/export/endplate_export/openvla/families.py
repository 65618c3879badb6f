"""OpenVLA: ``vision``, ``prefill``, ``decode_k1``. OFT: ``regress``. Their golden samples come from whole sequences in torch,
without a cache and in the published order of rows, which the graphs do not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from ..lerobot import ExportError, graphs
from ..lerobot.bundle import Incomplete, Sample, Source, Table
from ..lerobot.vla import cache_of, pairs_of
from ..player import Player
from .checkpoint import TOKENIZER
from .network import STOP, OpenVla

MASKED = -1e4
INSTRUCTION = "pick up the red cube"


def prompt(instruction: str) -> str:
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


class Text:
    """The prompt's tokenizer: ``<s>`` before, the empty piece (29871 in LLaMA's) behind."""

    def __init__(self, folder: Path):
        path = folder / TOKENIZER
        if not path.exists():
            raise ExportError(path, "", "", "missing; save the fast tokenizer (tokenizer.json) into the folder")
        self.content = path.read_text(encoding="utf-8")
        self.tokenizer = Tokenizer.from_str(self.content)
        self.bos, self.empty = self.tokenizer.token_to_id("<s>"), self.tokenizer.token_to_id("\u2581")
        for token, found in (("<s>", self.bos), ("\u2581", self.empty)):
            if found is None:
                raise ExportError(TOKENIZER, "vocab", token, "is missing: OpenVLA's prompt needs it")

    def ids(self, instruction: str) -> list[int]:
        return [self.bos, *self.tokenizer.encode(prompt(instruction), add_special_tokens=False).ids, self.empty]

    def save(self, folder: Path) -> None:
        (folder / "text").mkdir()
        (folder / "text" / "tokenizer.json").write_text(self.content, encoding="utf-8")


class Decoder(torch.nn.Module):
    """``vision``, ``prefill`` or ``decode_k1``."""

    def __init__(self, network: OpenVla, part: str):
        super().__init__()
        self.network, self.part = network, part

    def forward(self, *inputs):
        if self.part == "vision":
            return self.network.vision(inputs[0])
        x, positions, mask, *past = inputs
        rows = x.shape[1]
        done = self.network.language.model(inputs_embeds=x, attention_mask=mask, position_ids=positions, past_key_values=cache_of(past) if past else None, use_cache=True)
        logits = self.network.language.lm_head(done.last_hidden_state[:, rows - 1 : rows])
        return logits, *(values[:, :, values.shape[2] - rows :] for values in pairs_of(done.past_key_values))


class Regress(torch.nn.Module):
    """OFT in one graph: ``image_i``, ``tokens``, ``token_mask``, perhaps ``state``. Rows stand as images, state, prompt (right
    aligned), empty actions, stop; positions are the published ones."""

    def __init__(self, network: OpenVla, cameras: int, rows: int):
        super().__init__()
        self.network, self.cameras, self.rows = network, cameras, rows

    def forward(self, *inputs):
        *images, tokens, mask = inputs[: self.cameras + 2]
        seen = [self.network.vision(image) for image in images] + [self.network.state_token(state) for state in inputs[self.cameras + 2 :]]
        visual = torch.cat(seen, 1)
        n, width = visual.shape[1], visual.shape[2]
        empty = torch.zeros(1, self.rows, width)
        x = torch.cat([visual, self.network.embed(tokens), empty, self.network.embed(torch.tensor([[STOP]]))], 1)
        said = mask.float()
        # The first id stands before the images, the others behind them.
        order = torch.cumsum(said, 1) - 1
        text = torch.where(order > 0.5, order + n, torch.zeros_like(order))
        behind = said.sum() + n + torch.arange(self.rows + 1).float()
        positions = torch.cat([torch.arange(1, n + 1).float()[None], text, behind[None]], 1).long()
        keys = torch.cat([torch.ones(1, n), said, torch.ones(1, self.rows + 1)], 1)
        additive = ((1 - keys) * MASKED)[:, None, None, :].expand(1, 1, x.shape[1], x.shape[1])
        hidden = self.network.language.model(inputs_embeds=x, attention_mask=additive, position_ids=positions, use_cache=False).last_hidden_state
        start = n + tokens.shape[1] - 1
        return self.network.actions(hidden[:, start : start + self.rows])


class Common:
    """What the two families share; see ``bundle.Family``."""

    def __init__(self, source: Source, room: int, resize: str):
        self.source, self.network, self.room, self.resize = source, source.policy, room, resize
        self.text = Text(source.checkpoint.folder)
        self.dims = len(source.embodiment.action)
        if len(self.text.ids(INSTRUCTION)) > room:
            raise ExportError("--max-text-tokens", "", room, f"the prompt of {INSTRUCTION!r} has {len(self.text.ids(INSTRUCTION))}")
        self.player: Player | None = None

    def images(self, sample: Sample) -> torch.Tensor:
        """[n, 3, h, w] in 0..1."""
        return torch.stack([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 for pixels in sample.images.values()])

    def play(self, folder: Path, sample: Sample):
        if self.player is None:
            cameras = [{"name": name, "width": w, "height": h} for name, (h, w) in self.source.sizes().items()]
            state = [{"low": -1.0, "high": 1.0}] * len(self.source.embodiment.state)
            self.player = Player(folder, spec={
                "family": self.source.checkpoint.family, "cameras": cameras, "state": state, "chunk": {"horizon": self.table.horizon}, "action": [{}] * self.dims, **self.table.tables,
            })
        return self.player.play({**sample.images, **sample.arrays, "state": self.source.normalised_state(sample)})

    def absolute(self, rows: np.ndarray) -> np.ndarray:
        """The published way back, ``0.5 (y + 1) (q99 - q01) + q01``, then the robot's units."""
        low, high = (self.source.checkpoint.action_statistics[key] for key in ("q01", "q99"))
        return self.source.robot_action(0.5 * (rows + 1) * (high - low) + low)


class OneByOne(Common):
    """OpenVLA."""

    def __init__(self, source: Source, room: int, resize: str):
        super().__init__(source, room, resize)
        config = source.checkpoint.config
        with torch.no_grad():
            self.embedding = self.network.embed(torch.arange(self.network.language.config.vocab_size)).numpy()
            image = torch.zeros(len(source.sizes()), 3, *next(iter(source.sizes().values())))
            self.visual_tokens = self.network.vision(image).shape[1]
        vocabulary = len(self.embedding)
        self.end = vocabulary - config.get("pad_to_multiple_of", 64)
        self.prefix = self.visual_tokens + room
        self.slab = self.prefix + self.dims
        text = self.network.language.config
        layers = text.num_hidden_layers
        self.kv = [f"{kind}_{layer}" for layer in range(layers) for kind in "kv"]
        self.heads, self.head_dim = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
        self.table = Table(
            1, 1, resize=resize, instruction=INSTRUCTION, candidates=16,
            tables={
                "prompt": {"max_text_tokens": room, "bos": self.text.bos, "suffix": [self.text.empty]},
                "answer": {"prefix": [], "end": [], "action_zero": self.end - 1, "position_gap": 0},
                "model": {
                    "width": text.hidden_size, "layers": layers, "kv_heads": self.heads, "head_dim": self.head_dim, "visual_tokens": self.visual_tokens, "prefix": self.prefix,
                    "vocabulary": vocabulary, "max_tokens": self.dims, "slab": self.slab, "exit_layer": layers,
                },
                "decoding": {"strategy": "greedy"},
            },
            costs=("vision_ms", "prefill_ms", "token_ms"), probes=("visual", "logits"), arrays={"logits": "prefill_logits"},
        )

    def write(self, folder: Path, shared: graphs.Shared) -> None:
        self.text.save(folder)
        save_file({"embedding": self.embedding}, folder / "weights.safetensors")
        image = torch.zeros(len(self.source.sizes()), 3, *next(iter(self.source.sizes().values())))
        graphs.export(Decoder(self.network, "vision"), {"image": image}, ["visual"], folder / "vision.onnx", shared)
        outputs = ["logits", *(f"new_{name}" for name in self.kv)]
        for part, rows, past in (("prefill", self.prefix, 0), ("decode_k1", 1, self.slab)):
            inputs = {"x": torch.zeros(1, rows, self.embedding.shape[1]), "positions": torch.zeros(1, rows, dtype=torch.int64), "mask": torch.zeros(1, 1, rows, past + rows)}
            if past:
                inputs |= {f"past_{name}": torch.zeros(1, self.heads, past, self.head_dim) for name in self.kv}
            graphs.export(Decoder(self.network, part), inputs, outputs, folder / f"{part}.onnx", shared)

    @torch.no_grad()
    def reference(self, sample: Sample) -> None:
        ids = self.text.ids(sample.instruction)
        visual = self.network.vision(self.images(sample))
        embedded = self.network.embed(torch.tensor([ids]))
        x = torch.cat([embedded[:, :1], visual, embedded[:, 1:]], 1)
        tokens, first = [], None
        for _ in range(self.dims):
            logits = self.network.language(inputs_embeds=x, use_cache=False).logits[0, -1]
            first = logits if first is None else first
            tokens.append(int(logits.argmax()))
            x = torch.cat([x, self.network.embed(torch.tensor([[tokens[-1]]]))], 1)
        if not all(self.end - 256 <= token < self.end for token in tokens):
            raise Incomplete("the model answers with words, which the published code takes for the nearest bin and a bundle refuses")
        sample.arrays |= {
            "text_ids": np.array(ids, np.int64), "tokens": np.array(tokens, np.int64), "visual": visual[0].numpy(), "prefill_logits": first.numpy(),
        }
        # `predict_action`: vocabulary end - id, minus 1, at most 254, the centre between two of 256 edges.
        edges = np.linspace(-1, 1, 256)
        centres = (edges[:-1] + edges[1:]) / 2
        bins = np.clip(self.end - np.array(tokens) - 1, 0, 254)
        sample.actions = self.absolute(centres[bins][None])

    def replay(self, folder: Path, sample: Sample):
        played = self.play(folder, sample)
        wanted = sample.arrays["tokens"].tolist()
        if played.tokens != wanted:
            raise ExportError(self.source.checkpoint.folder, "", "", f"the graphs do not give the model's tokens: {played.tokens} in the place of {wanted}")
        times = {f"{key}_ms": float(np.mean(played.times.get(graph, [0.0]))) for key, graph in (("vision", "vision"), ("prefill", "prefill"), ("token", "decode_k1"))}
        return {"visual": played.visual, "logits": played.head}, played.rows, times


class OnePass(Common):
    """OpenVLA-OFT."""

    def __init__(self, source: Source, room: int, resize: str, horizon: int):
        super().__init__(source, room, resize)
        self.values = horizon * self.dims
        head = self.network.head
        width = self.network.language.config.hidden_size
        if tuple(head.model_fc1_weight.shape)[1] != self.dims * width or head.model_fc2_weight.shape[0] != self.dims:
            raise ExportError("action_head", "fc1, fc2", [list(head.model_fc1_weight.shape), list(head.model_fc2_weight.shape)], f"the statistics have {self.dims} action dimensions and the network is {width} wide")
        self.reads_state = self.network.proprio is not None
        self.table = Table(
            horizon, horizon, resize=resize, instruction=INSTRUCTION,
            tables={"oft": {"vocabulary": self.network.language.config.vocab_size, "max_text_tokens": room, "bos": self.text.bos, "suffix": [self.text.empty], "reads_state": self.reads_state}},
            costs=("forward_ms",), probes=("output",),
        )

    def write(self, folder: Path, shared: graphs.Shared) -> None:
        self.text.save(folder)
        inputs = {f"image_{i}": torch.zeros(1, 3, h, w) for i, (h, w) in enumerate(self.source.sizes().values())}
        inputs |= {name: torch.ones(1, self.room, dtype=torch.int64) for name in ("tokens", "token_mask")}
        if self.reads_state:
            inputs["state"] = torch.zeros(1, len(self.source.embodiment.state))
        graphs.export(Regress(self.network, len(self.source.sizes()), self.values), inputs, ["actions"], folder / "regress.onnx", shared)

    @torch.no_grad()
    def reference(self, sample: Sample) -> None:
        """The published order: first id, images, state, prompt, empty actions, stop; nothing padded, nothing masked."""
        ids = self.text.ids(sample.instruction)
        visual = self.network.vision(self.images(sample))
        if self.reads_state:
            visual = torch.cat([visual, self.network.state_token(torch.from_numpy(self.source.normalised_state(sample))[None])], 1)
        embedded = self.network.embed(torch.tensor([[*ids, STOP]]))
        empty = torch.zeros(1, self.values, visual.shape[2])
        x = torch.cat([embedded[:, :1], visual, embedded[:, 1:-1], empty, embedded[:, -1:]], 1)
        everything = torch.zeros(1, 1, x.shape[1], x.shape[1])
        hidden = self.network.language.model(inputs_embeds=x, attention_mask=everything, use_cache=False).last_hidden_state
        start = visual.shape[1] + len(ids) - 1
        rows = self.network.actions(hidden[:, start : start + self.values])[0].numpy()
        sample.arrays |= {"text_ids": np.array(ids, np.int64), "output": rows}
        sample.actions = self.absolute(rows.astype(np.float64))

    def replay(self, folder: Path, sample: Sample):
        played = self.play(folder, sample)
        return {"output": played.head}, played.rows, {"forward_ms": float(np.mean(played.times["regress"]))}


