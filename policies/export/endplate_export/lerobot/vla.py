"""SmolVLA, π0 and π0.5: ``flow_prefix.onnx`` once, ``flow_denoise.onnx`` once an Euler step, the steps in the runtime.

| family | state | prompt |
|---|---|---|
| smolvla | a token of the prefix | the instruction and a line feed |
| pi0 | beside the noisy actions | the instruction and a line feed |
| pi05 | 256 bins in the prompt | ``Task: …, State: …;\\nAction: `` |

Prompts are padded on the right to ``tokenizer_max_length``; LeRobot pads SmolVLA's to nothing at batch size one, which
gives the same numbers, since padding is masked and positions skip it.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch

from ..fast import byte_of_char
from . import ExportError, graphs, statistics
from .bundle import Sample, Source, Table, timed
from .checkpoint import CONFIG, PREPROCESSOR, STATE

TOKENS, MASK = "observation.language.tokens", "observation.language.attention_mask"
#: Sentences the tokenizer is tried with.
PROBES = ("pick up the red cube", "Task: fold the shirt, State: 0 128 255;\nAction: ", "x\n")


class Text:
    """The prompt's tokenizer as the checkpoint's processor holds it."""

    def __init__(self, source: Source):
        from lerobot.processor import TokenizerProcessorStep

        steps = [step for step in source.preprocessor.steps if isinstance(step, TokenizerProcessorStep)]
        if len(steps) != 1:
            raise ExportError(PREPROCESSOR, "steps.tokenizer_processor", f"{len(steps)} of them", "this family has exactly one")
        step = steps[0]
        tokenizer = step.input_tokenizer
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ExportError(PREPROCESSOR, "tokenizer_processor.tokenizer_name", step.tokenizer_name, "the runtime reads tokenizer.json files: use a tokenizer that has one")
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        if model.get("unk_token") is None and model.get("unk_id") is None and not all(char in model.get("vocab", {}) for char in byte_of_char()):
            raise ExportError(PREPROCESSOR, "tokenizer_processor.tokenizer_name", step.tokenizer_name, "the runtime needs a tokenizer with an unknown token or one with all 256 bytes, so that no word vanishes")
        if step.padding_side != "right":
            raise ExportError(PREPROCESSOR, "tokenizer_processor.padding_side", step.padding_side, "these families pad on the right")
        self.length, self.tokenizer = step.max_length, tokenizer
        self.bos = self._bos()

    def _bos(self) -> int | None:
        """The one id that the tokenizer puts before a text, if it does; it must add nothing else."""
        found = set()
        for text in PROBES:
            full, plain = self.tokenizer(text)["input_ids"], self.tokenizer(text, add_special_tokens=False)["input_ids"]
            before = full[: len(full) - len(plain)]
            if full != before + plain or len(before) > 1:
                raise ExportError(PREPROCESSOR, "tokenizer_processor", full, f"the tokenizer may add one id before a text and nothing else; {text!r} alone is {plain}")
            found.add(tuple(before))
        if len(found) != 1:
            raise ExportError(PREPROCESSOR, "tokenizer_processor", sorted(found), "the tokenizer must add the same id before every text")
        return next(iter(found))[0] if next(iter(found)) else None

    def padded(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """``tokens`` and ``token_mask``, i64 [1, T]."""
        tokens, mask = (np.zeros((1, self.length), np.int64) for _ in range(2))
        tokens[0, : len(ids)], mask[0, : len(ids)] = ids, 1
        return tokens, mask

    def save(self, folder: Path) -> None:
        (folder / "text").mkdir()
        (folder / "text" / "tokenizer.json").write_text(self.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")


def cache_of(kv: tuple[torch.Tensor, ...]):
    """A transformers cache of (k, v) pairs."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(len(kv) // 2):
        cache.update(kv[2 * layer], kv[2 * layer + 1], layer)
    return cache


def pairs_of(cache) -> tuple[torch.Tensor, ...]:
    return tuple(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


class SplitLinear(torch.nn.Module):
    """A linear map of ``[action, time]``, the second half of whose columns is the same in every row: one product each
    (tract's simplifications make a mistake about the product of the concatenation)."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        half = linear.in_features // 2
        self.half, self.bias = half, linear.bias
        self.action, self.time = (torch.nn.Parameter(part.clone()) for part in (linear.weight[:, :half], linear.weight[:, half:]))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        action, time = values[..., : self.half], values[:, :1, self.half :]
        return torch.nn.functional.linear(action, self.action, self.bias) + torch.nn.functional.linear(time, self.time)


class Network(torch.nn.Module):
    """Both graphs of one policy; ``forward`` is chosen by ``part``."""

    def __init__(self, family: Vla, part: str):
        super().__init__()
        self.images, self.model, self.part = graphs.Images(family.source.checkpoint), family.model, part
        self.family, self.cameras, self.pad = family.name, len(family.source.checkpoint.cameras), family.state_pad
        self.visual = family.visual_tokens

    def forward(self, *inputs):
        return self.prefix(*inputs) if self.part == "prefix" else self.denoise(*inputs)

    def padded(self, state: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(state, (0, self.pad - state.shape[-1]))

    def masks(self) -> list[torch.Tensor]:
        return [torch.ones(1, dtype=torch.bool) for _ in range(self.cameras)]

    def prefix(self, *inputs):
        from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d

        images = [self.images(i, image) * 2.0 - 1.0 for i, image in enumerate(inputs[: self.cameras])]
        *state, tokens, mask = inputs[self.cameras :]
        extra = {"state": self.padded(state[0])} if self.family == "smolvla" else {}
        embedded, pad, attention = self.model.embed_prefix(images, self.masks(), tokens, mask.bool(), **extra)
        both, positions = make_att_2d_masks(pad, attention), torch.cumsum(pad, 1) - 1
        if self.family == "smolvla":
            _, cache = self.model.vlm_with_expert.forward(attention_mask=both, position_ids=positions, past_key_values=None, inputs_embeds=[embedded, None], use_cache=True)
        else:
            _, cache = self.model.paligemma_with_expert.forward(
                attention_mask=prepare_attention_masks_4d(both), position_ids=positions, past_key_values=None, inputs_embeds=[embedded, None], use_cache=True
            )
        return pairs_of(cache)

    def denoise(self, noisy, time, mask, *rest):
        state, kv = ([self.padded(rest[0])], rest[1:]) if self.family == "pi0" else ([], rest)
        pad = [torch.ones(1, self.visual, dtype=torch.bool), mask.bool()]
        if self.family == "smolvla":
            pad.append(torch.ones(1, 1, dtype=torch.bool))
        return self.model.denoise_step(*state, torch.cat(pad, 1), cache_of(kv), noisy, time)


class Vla:
    """See ``bundle.Family``."""

    def __init__(self, source: Source, clean: bool = False):
        """``clean``: openpi's π0 strips the instruction and takes ``_`` and line feeds for spaces."""
        checkpoint, config = source.checkpoint, source.checkpoint.config
        self.source, self.config, self.name = source, config, checkpoint.family
        for key, wanted in (("adapt_to_pi_aloha", False), ("use_relative_actions", False), ("empty_cameras", 0), ("prefix_length", -1)):
            if config.get(key, wanted) != wanted:
                raise ExportError(CONFIG, key, config[key], f"bundles of this family are built for {wanted}")
        if (config.get("rtc_config") or {}).get("enabled"):
            raise ExportError(CONFIG, "rtc_config.enabled", True, "chunks are handed over by the runtime: switch it off")
        for camera in checkpoint.cameras:
            if checkpoint.mode(camera) != "IDENTITY":
                raise ExportError(PREPROCESSOR, f"norm_map of {camera}", checkpoint.mode(camera), "this family maps images to -1..1 itself: use IDENTITY")
        self.text = Text(source)
        self.model = copy.deepcopy(source.policy.model)
        if self.name == "smolvla":
            _fix_vision(self.model.vlm_with_expert)
        else:
            for part in (self.model.paligemma_with_expert.paligemma.model.language_model, self.model.paligemma_with_expert.gemma_expert.model):
                part.config._attn_implementation = "eager"
        if self.name != "pi05":
            self.model.action_time_mlp_in = SplitLinear(self.model.action_time_mlp_in)
        self.steps = config["num_steps"] if self.name == "smolvla" else config["num_inference_steps"]
        self.rows, self.width, self.state_pad = config["chunk_size"], config["max_action_dim"], config["max_state_dim"]
        with torch.no_grad():
            h, w = next(iter(self.sizes().values()))
            expert = self.model.vlm_with_expert if self.name == "smolvla" else self.model.paligemma_with_expert
            extra = 3 if config.get("add_image_special_tokens") else 0
            self.visual_tokens = len(checkpoint.cameras) * (expert.embed_image(torch.zeros(1, 3, h, w)).shape[1] + extra)
        probe = self._probe()
        _, heads, prefix, head_dim = probe[0].shape
        vocabulary = self._vocabulary()
        self.kv = [f"{kind}_{layer}" for layer in range(len(probe) // 2) for kind in "kv"]
        table = {
            "layers": len(probe) // 2, "kv_heads": heads, "head_dim": head_dim, "prefix": prefix, "vocabulary": vocabulary, "max_text_tokens": self.text.length,
            "action_width": self.width, "steps": self.steps,
        }
        if self.text.bos is not None:
            table["bos"] = self.text.bos
        if clean:
            table["clean_instruction"] = True
        self.table = Table(
            self.rows, config["n_action_steps"], resize="bilinear", pad="top_left" if self.name == "smolvla" else "centre",
            tables={"vla": table}, costs=("prefill_ms", "step_ms"), probes=("velocity",), instruction="pick up the red cube",
        )
        self.sessions = None

    def _vocabulary(self) -> int:
        if self.name == "smolvla":
            return self.model.vlm_with_expert.get_vlm_model().text_model.get_input_embeddings().num_embeddings
        return self.model.paligemma_with_expert.paligemma.model.language_model.get_input_embeddings().num_embeddings

    def sizes(self) -> dict[str, tuple[int, int]]:
        """SmolVLA keeps its size as (width, height), the others as (height, width)."""
        if self.name == "smolvla":
            given = self.config["resize_imgs_with_padding"]
            if given is None:
                return self.source.sizes()
            return {name: (given[1], given[0]) for name in self.source.sizes()}
        return {name: tuple(self.config["image_resolution"]) for name in self.source.sizes()}

    def _inputs(self, part: str) -> dict[str, torch.Tensor]:
        length, states = self.text.length, len(self.source.embodiment.state)
        state = {"state": torch.zeros(1, states)}
        mask = {"token_mask": torch.ones(1, length, dtype=torch.int64)}
        if part == "prefix":
            images = {f"image_{i}": torch.zeros(1, 3, h, w) for i, (h, w) in enumerate(self.sizes().values())}
            return images | (state if self.name == "smolvla" else {}) | {"tokens": torch.ones(1, length, dtype=torch.int64)} | mask
        past = {f"past_{name}": tensor for name, tensor in zip(self.kv, self._probe())}
        return {"noisy": torch.zeros(1, self.rows, self.width), "time": torch.ones(1)} | mask | (state if self.name == "pi0" else {}) | past

    @torch.no_grad()
    def _probe(self) -> tuple[torch.Tensor, ...]:
        return Network(self, "prefix").eval()(*self._inputs("prefix").values())

    def write(self, folder: Path, shared: graphs.Shared) -> None:
        self.text.save(folder)
        graphs.export(Network(self, "prefix"), self._inputs("prefix"), [f"new_{name}" for name in self.kv], folder / "flow_prefix.onnx", shared)
        graphs.export(Network(self, "denoise"), self._inputs("denoise"), ["velocity"], folder / "flow_denoise.onnx", shared)

    @torch.no_grad()
    def reference(self, sample: Sample) -> None:
        # Half its usual size: an untrained network leaves most of it in its rows, and the runtime refuses rows far out.
        noise = torch.from_numpy(np.random.default_rng(int(abs(sample.state.sum()) * 1e6)).normal(0, 0.5, (1, self.rows, self.width)).astype(np.float32))
        policy = self.source.policy
        batch = self.source.preprocessor({**self.source.batch(sample), "task": sample.instruction})
        ids = batch[TOKENS][0][batch[MASK][0].bool()].tolist()
        velocities = []
        step = policy.model.denoise_step
        policy.model.denoise_step = lambda *args, **kwargs: velocities.append(step(*args, **kwargs)) or velocities[-1]
        try:
            policy.reset()
            rows = policy.predict_action_chunk(dict(batch), noise=noise)
        finally:
            del policy.model.denoise_step
        sample.arrays |= {"noise": noise[0].numpy(), "velocity": velocities[0][0].numpy(), "text_ids": np.array(ids, np.int64)}
        sample.actions = self.source.answer(rows)

    def replay(self, folder: Path, sample: Sample) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
        if self.sessions is None:
            self.sessions = tuple(graphs.session(folder / f"flow_{name}.onnx") for name in ("prefix", "denoise"))
        tokens, mask = self.text.padded(sample.arrays["text_ids"].tolist())
        state = self.source.normalised_state(sample)[None]
        inputs = {f"image_{i}": pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255 for i, pixels in enumerate(sample.images.values())}
        inputs |= {"tokens": tokens, "token_mask": mask} | ({"state": state} if self.name == "smolvla" else {})
        times: dict[str, float] = {}
        kv = timed(times, "prefill_ms", lambda: self.sessions[0].run([f"new_{name}" for name in self.kv], inputs))
        fixed = {f"past_{name}": values for name, values in zip(self.kv, kv)} | {"token_mask": mask} | ({"state": state} if self.name == "pi0" else {})
        x, first = sample.arrays["noise"][None].copy(), None
        for index in range(self.steps):
            feed = {"noisy": x, "time": np.array([1.0 - index / self.steps], np.float32), **fixed}
            velocity = timed(times, "step_ms", lambda feed=feed: self.sessions[1].run(["velocity"], feed))[0]
            first = velocity[0] if first is None else first
            x = x + np.float32(-1.0 / self.steps) * velocity
        times["step_ms"] /= self.steps
        return {"velocity": first}, x[0, :, : len(self.source.embodiment.action)], times


def _fix_vision(vlm) -> None:
    """SmolVLM finds the positions of patches from a mask at run time; for a whole image they are 0, 1, 2, …"""
    vision, connector = vlm.get_vlm_model().vision_model, vlm.get_vlm_model().connector

    def embed_image(image):
        patches = vision.embeddings.patch_embedding(image).flatten(2).transpose(1, 2)
        hidden = patches + vision.embeddings.position_embedding.weight[None, : patches.shape[1]]
        return connector(vision.post_layernorm(vision.encoder(inputs_embeds=hidden, attention_mask=None)[0]))

    vlm.embed_image = embed_image
