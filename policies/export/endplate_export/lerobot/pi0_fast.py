"""π0-FAST: ``vision`` and ``prefill`` once, ``decode_k1`` once a token, the tokens chosen in the runtime.

LeRobot pads the prompt to ``tokenizer_max_length``, puts a second ``<bos>`` behind it and lets the model say ``Action: ``,
the FAST ids and ``|`` at contiguous positions. Padding is masked and takes no position, so the runtime may put it elsewhere.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from ..fast import Fast, FastError
from ..player import Player
from . import ExportError, graphs
from .bundle import Incomplete, Sample, Source, Table
from .checkpoint import CONFIG, PREPROCESSOR
from .vla import MASK, TOKENS, Text, cache_of, pairs_of


class Network(torch.nn.Module):
    """One of the three graphs of a policy; ``forward`` is chosen by ``part``."""

    def __init__(self, model: torch.nn.Module, part: str):
        super().__init__()
        self.vlm, self.part = model.paligemma_with_expert, part

    def forward(self, *inputs):
        if self.part == "vision":
            features = self.vlm.embed_image(inputs[0] * 2.0 - 1.0)
            return features.reshape(1, -1, features.shape[-1])
        x, positions, mask, *past = inputs
        (hidden, _), cache = self.vlm.forward(
            attention_mask=mask, position_ids=positions, past_key_values=cache_of(past) if past else None, inputs_embeds=[x, None], use_cache=True
        )
        rows = x.shape[1]
        return self.vlm.paligemma.lm_head(hidden[:, rows - 1 : rows]), *(values[:, :, values.shape[2] - rows :] for values in pairs_of(cache))


class Pi0Fast:
    """See ``bundle.Family``."""

    form = "lerobot"

    def __init__(self, source: Source):
        checkpoint, config = source.checkpoint, source.checkpoint.config
        self.source, self.config = source, config
        for key, wanted in (("use_relative_actions", False), ("empty_cameras", 0), ("temperature", 0.0)):
            if config.get(key, wanted) != wanted:
                raise ExportError(CONFIG, key, config[key], f"bundles of this family are built for {wanted}")
        if (config.get("rtc_config") or {}).get("enabled"):
            raise ExportError(CONFIG, "rtc_config.enabled", True, "chunks are handed over by the runtime: switch it off")
        if config["n_action_steps"] != config["chunk_size"]:
            raise ExportError(
                CONFIG, "n_action_steps", config["n_action_steps"],
                f"tokens carry the {config['chunk_size']} rows of chunk_size and LeRobot decodes n_action_steps rows from them: set both alike",
            )
        for camera in checkpoint.cameras:
            if checkpoint.mode(camera) != "IDENTITY":
                raise ExportError(PREPROCESSOR, f"norm_map of {camera}", checkpoint.mode(camera), "this family maps images to -1..1 itself: use IDENTITY")
        self.text = Text(source)
        if self.text.bos is None:
            raise ExportError(PREPROCESSOR, "tokenizer_processor.tokenizer_name", "no id before a text", "this family's prompt begins with <bos>: use a tokenizer that puts it there")
        policy = source.policy
        self.model, words, fast = policy.model, policy._paligemma_tokenizer, policy.action_tokenizer
        self.model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
        self.prefix_ids = words.encode("Action: ", add_special_tokens=False)
        self.end = words.convert_tokens_to_ids("|")
        self.ends = [self.end]
        self.zero = words.vocab_size - 1 - config["fast_skip_tokens"]
        self.fast_files = {
            "tokenizer.json": fast.bpe_tokenizer.backend_tokenizer.to_str(),
            "processor_config.json": json.dumps({"scale": fast.scale, "min_token": fast.min_token, "vocab_size": len(fast.bpe_tokenizer)}),
        }
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in self.fast_files.items():
                (Path(scratch) / name).write_text(content, encoding="utf-8")
            try:
                self.fast = Fast.load(scratch)
            except FastError as error:
                raise ExportError(CONFIG, "action_tokenizer_name", config["action_tokenizer_name"], f"is no FAST tokenizer: {error}") from None
        with torch.no_grad():
            table = self.model.paligemma_with_expert.embed_language_tokens
            vocabulary = self.model.paligemma_with_expert.paligemma.model.language_model.get_input_embeddings().num_embeddings
            self.embedding = table(torch.arange(vocabulary)).numpy()
            self.visual_tokens = Network(self.model, "vision")(self._inputs("vision")["image"]).shape[1]
        self.rows = config["chunk_size"]
        room = self.text.length + 1
        self.prefix, self.most = self.visual_tokens + room, config["max_decoding_steps"]
        self.slab = self.prefix + self.most
        probe = self._probe()
        _, heads, _, head_dim = probe[1].shape
        layers = (len(probe) - 1) // 2
        self.kv = [f"{kind}_{layer}" for layer in range(layers) for kind in "kv"]
        self.table = Table(
            self.rows, self.rows, resize="bilinear", pad="centre", instruction="pick up the red cube", candidates=16,
            tables={
                "prompt": {"max_text_tokens": room, "state_bins": 256, "form": self.form, "bos": self.text.bos, "suffix": [words.bos_token_id]},
                "answer": {"prefix": self.prefix_ids, "end": self.ends, "action_zero": self.zero, "position_gap": 0},
                "model": {
                    "width": self.embedding.shape[1], "layers": layers, "kv_heads": heads, "head_dim": head_dim, "visual_tokens": self.visual_tokens, "prefix": self.prefix,
                    "vocabulary": vocabulary, "max_tokens": self.most, "slab": self.slab, "exit_layer": layers,
                },
                "decoding": {"strategy": "greedy"},
            },
            costs=("vision_ms", "prefill_ms", "token_ms"), probes=("visual", "logits"), arrays={"logits": "prefill_logits"},
        )
        self.player: Player | None = None

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {name: tuple(self.config["image_resolution"]) for name in self.source.sizes()}

    def _inputs(self, part: str) -> dict[str, torch.Tensor]:
        if part == "vision":
            h, w = next(iter(self.sizes().values()))
            return {"image": torch.zeros(len(self.sizes()), 3, h, w)}
        rows, past = (self.prefix, 0) if part == "prefill" else (1, self.slab)
        width = self.embedding.shape[1]
        inputs = {"x": torch.zeros(1, rows, width), "positions": torch.zeros(1, rows, dtype=torch.int64), "mask": torch.zeros(1, 1, rows, past + rows)}
        if past:
            inputs |= {f"past_{name}": torch.zeros(1, values.shape[1], past, values.shape[3]) for name, values in zip(self.kv, self._probe()[1:])}
        return inputs

    @torch.no_grad()
    def _probe(self) -> tuple[torch.Tensor, ...]:
        return Network(self.model, "prefill").eval()(*self._inputs("prefill").values())

    def write(self, folder: Path, shared: graphs.Shared) -> None:
        self.text.save(folder)
        (folder / "tokenizer").mkdir()
        for name, content in self.fast_files.items():
            (folder / "tokenizer" / name).write_text(content, encoding="utf-8")
        save_file({"embedding": self.embedding}, folder / "weights.safetensors")
        graphs.export(Network(self.model, "vision"), self._inputs("vision"), ["visual"], folder / "vision.onnx", shared)
        outputs = ["logits", *(f"new_{name}" for name in self.kv)]
        for part in ("prefill", "decode_k1"):
            graphs.export(Network(self.model, part), self._inputs(part), outputs, folder / f"{part}.onnx", shared)

    @torch.no_grad()
    def reference(self, sample: Sample) -> None:
        policy, vlm = self.source.policy, self.model.paligemma_with_expert
        batch = self.source.preprocessor({**self.source.batch(sample), "task": sample.instruction})
        ids = batch[TOKENS][0][batch[MASK][0].bool()].tolist()
        visual, logits = [], []
        embed, head = vlm.embed_image, vlm.paligemma.lm_head
        hook = head.register_forward_hook(lambda _, __, output: logits.append(output))
        vlm.embed_image = lambda image: visual.append(embed(image)) or visual[-1]
        try:
            tokens = generated(policy, dict(batch))
        finally:
            hook.remove()
            del vlm.embed_image
        if self.end not in tokens:
            raise Incomplete(f"LeRobot's own answer has no end within {self.most} tokens")
        tokens = tokens[: tokens.index(self.end) + 1]
        try:
            self.decoded(tokens)
        except FastError as error:
            raise Incomplete(f"LeRobot's own answer is no whole action ({error}), which LeRobot pads or cuts and a bundle refuses") from None
        sample.arrays |= {
            "text_ids": np.array([*ids, self.source.policy._paligemma_tokenizer.bos_token_id], np.int64), "tokens": np.array(tokens, np.int64),
            "visual": torch.cat(visual, 1)[0].numpy(), "prefill_logits": logits[0][0, -1].numpy(),
        }
        rows = policy.detokenize_actions(torch.tensor([tokens]), self.rows, len(self.source.embodiment.action))
        sample.actions = self.source.answer(rows)

    def decoded(self, tokens: list[int]) -> np.ndarray:
        """An answer's normalised rows [H, D], f64. Raises FastError."""
        said = len(self.prefix_ids)
        if tokens[:said] != self.prefix_ids or tokens[-1] not in self.ends:
            raise FastError("it does not begin with `Action: ` and end with `|`")
        return self.fast.decode([self.zero - token for token in tokens[said:-1]], self.rows, len(self.source.embodiment.action))

    def replay(self, folder: Path, sample: Sample) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
        if self.player is None:
            cameras = [{"name": name, "width": w, "height": h} for name, (h, w) in self.sizes().items()]
            self.player = Player(folder, spec={
                "family": "pi0_fast", "cameras": cameras, "chunk": {"horizon": self.rows}, "action": [{}] * len(self.source.embodiment.action), **self.table.tables,
            })
        played = self.player.play({**sample.images, **sample.arrays})
        wanted = sample.arrays["tokens"].tolist()
        if played.tokens != wanted:
            raise ExportError(self.source.checkpoint.folder, "", "", f"the graphs do not give LeRobot's tokens: {played.tokens} in the place of {wanted}")
        times = {f"{key}_ms": float(np.mean(played.times.get(graph, [0.0]))) for key, graph in (("vision", "vision"), ("prefill", "prefill"), ("token", "decode_k1"))}
        return {"visual": played.visual, "logits": played.head}, played.rows, times


def generated(policy, batch: dict) -> list[int]:
    """The model ids that ``predict_action_chunk`` generates, zeros behind the end included."""
    kept = []
    names = ("sample_actions_fast_kv_cache", "sample_actions_fast")
    originals = {name: getattr(policy.model, name) for name in names}
    for name, original in originals.items():
        setattr(policy.model, name, lambda *args, original=original, **kwargs: kept.append(original(*args, **kwargs)) or kept[-1])
    try:
        policy.reset()
        policy.predict_action_chunk(batch)
    except (AssertionError, OverflowError, TypeError, ValueError):
        pass  # what LeRobot makes of tokens that are no action is not asked here
    finally:
        for name in names:
            delattr(policy.model, name)
    return kept[0][0].tolist()
