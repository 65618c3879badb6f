"""Small OpenVLA and OFT checkpoints with random weights, in the files of the published ones. Needs ``transformers``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
SIZE, PATCH, WIDTH, PAD, BINS = 28, 14, 32, 64, 256


def tokenizer() -> dict:
    """Words, then 256 pieces that stand for bins, as at the end of LLaMA's vocabulary."""
    words = ["<unk>", "<s>", "</s>", "\u2581", *"In : What action should the robot take to ? Out pick up red cube fold shirt".split()]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    vocab |= {f"rare{i}": len(vocab) + i for i in range(BINS)}
    special = [{"id": vocab[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for token in ("<unk>", "<s>", "</s>")]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Removed", "invert": False}, {"type": "Split", "pattern": {"Regex": "[:?]"}, "behavior": "Isolated", "invert": False},
        ]},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }


def transformer(prefix: str, width: int, registers: bool, random) -> dict[str, torch.Tensor]:
    """timm's names, with OpenVLA's for the layer scale."""
    normal = lambda *shape, size=0.2: size * torch.randn(*shape, generator=random)  # noqa: E731
    tensors = {"pos_embed": normal(1, (SIZE // PATCH) ** 2, width), "patch_embed.proj.weight": normal(width, 3, PATCH, PATCH, size=0.03), "patch_embed.proj.bias": normal(width)}
    if registers:
        tensors |= {"cls_token": normal(1, 1, width), "reg_token": normal(1, 4, width)}
    for block in range(3):
        name = f"blocks.{block}."
        for norm in ("norm1", "norm2"):
            tensors |= {f"{name}{norm}.weight": 1 + normal(width), f"{name}{norm}.bias": normal(width)}
        for part, rows, columns in (("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("mlp.fc1", 2 * width, width), ("mlp.fc2", width, 2 * width)):
            tensors |= {f"{name}{part}.weight": normal(rows, columns), f"{name}{part}.bias": normal(rows)}
        if registers:
            tensors |= {f"{name}ls1.scale_factor": 1 + normal(width), f"{name}ls2.scale_factor": 1 + normal(width)}
    tensors |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return {f"vision_backbone.{prefix}.{key}": values for key, values in tensors.items()}


def linear(name: str, rows: int, columns: int, random) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.randn(rows, columns, generator=random) / math.sqrt(columns), f"{name}.bias": 0.1 * torch.randn(rows, generator=random)}


#: OpenVLA's own action: small differences of the tool's pose in the base frame, and the gripper, open 1, closed 0.
POSE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


def openvla(folder: Path, seed: int = 0, poses: bool = False) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    words = tokenizer()
    vocabulary = len(words["model"]["vocab"]) + PAD
    text = dict(hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, vocab_size=vocabulary, max_position_embeddings=256, rms_norm_eps=1e-6)
    language = LlamaForCausalLM(LlamaConfig(**text)).state_dict()
    language = {name: values.clone() * (8 if values.ndim > 1 else 1) for name, values in language.items()}
    # What the network says are bins.
    language["lm_head.weight"][: -PAD - BINS] *= 0.01
    language["lm_head.weight"][-PAD:] *= 0.01
    tensors = {f"language_model.{name}": values for name, values in language.items()}
    tensors |= transformer("featurizer", 32, True, random) | transformer("fused_featurizer", 16, False, random)
    for name, rows, columns in (("fc1", 4 * 48, 48), ("fc2", WIDTH, 4 * 48), ("fc3", WIDTH, WIDTH)):
        tensors |= linear(f"projector.{name}", rows, columns, random)
    save_file({name: values.contiguous() for name, values in tensors.items()}, folder / "model.safetensors")
    dims = 7 if poses else 6
    centre, half = torch.linspace(-0.5, 0.5, dims, dtype=torch.float64), torch.linspace(0.4, 1.4, dims, dtype=torch.float64)
    if poses:
        centre, half = centre * 0.002, half * 0.02
    statistics = {"q01": (centre - half).tolist(), "q99": (centre + half).tolist(), "mask": [True] * (dims - 1) + [False]}
    config = {
        "model_type": "openvla", "architectures": ["OpenVLAForActionPrediction"], "n_action_bins": BINS, "pad_to_multiple_of": PAD, "image_sizes": [SIZE, SIZE],
        "use_fused_vision_backbone": True, "text_config": {"model_type": "llama", **text}, "norm_stats": {"made_up": {"action": statistics, "proprio": statistics}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(words))
    lines = ['robot = "so101_sim"', "fps = 5.0"]
    for kind in ("state", "action"):
        for name in [] if poses and kind == "action" else JOINTS:
            lines += ["", f"[[{kind}]]", f'name = "{name}"', 'unit = "rad"', *([f'kind = "{"gripper" if name == "gripper" else "joint_abs"}"'] if kind == "action" else [])]
    for name in POSE if poses else []:
        pose = ['kind = "ee_delta"', f'component = "{name}"', 'frame = "base"', f'unit = "{"m" if len(name) == 1 else "rad"}"']
        # The fraction open is the simulated gripper's -0.5 to 0.5 rad.
        lines += ["", "[[action]]", f'name = "{name}"', *(pose if name != "gripper" else ['kind = "gripper"', "scale = 1.0", "offset = -0.5"])]
    (folder / "embodiment.toml").write_text("\n".join(lines) + "\n")
    return folder


def oft(folder: Path, seed: int = 0, proprio: bool = True) -> Path:
    """The same with OFT's heads beside it."""
    openvla(folder, seed)
    random = torch.Generator().manual_seed(seed + 1)
    dims = len(JOINTS)
    head = {}
    for name, width in (("layer_norm1", dims * WIDTH), ("layer_norm2", WIDTH), *((f"mlp_resnet_blocks.{i}.ffn.0", WIDTH) for i in range(2))):
        head |= {f"{name}.weight": 1 + 0.1 * torch.randn(width, generator=random), f"{name}.bias": 0.1 * torch.randn(width, generator=random)}
    for name, rows, columns in (("fc1", WIDTH, dims * WIDTH), ("fc2", dims, WIDTH), *((f"mlp_resnet_blocks.{i}.ffn.1", WIDTH, WIDTH) for i in range(2))):
        head |= linear(name, rows, columns, random)
    torch.save({f"module.model.{name}": values for name, values in head.items()}, folder / "action_head--100_checkpoint.pt")
    if proprio:
        state = {**linear("fc1", WIDTH, dims, random), **linear("fc2", WIDTH, WIDTH, random)}
        torch.save({f"module.{name}": values for name, values in state.items()}, folder / "proprio_projector--100_checkpoint.pt")
    return folder
