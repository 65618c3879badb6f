"""OpenVLA's arithmetic over the tensors of its checkpoint (Kim et al., arXiv 2406.09246; OFT: arXiv 2502.19645).

Vision: two transformers of timm's names (DINOv2 with registers, SigLIP), of whose blocks the last is left out, side by side
through three linear maps; ``language_model`` is transformers' Llama.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear

from ..lerobot import ExportError
from ..lerobot.checkpoint import Checkpoint

#: Of both transformers, large and so400m.
HEADS = 16
EPSILON = 1e-6
#: Mean and deviation of each transformer's pixels.
PIXELS = {"featurizer": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "fused_featurizer": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}
STOP = 2


class Vision(nn.Module):
    """One transformer: images [n, 3, h, w] in 0..1 to the patches of the last block but one, [n, P, d]."""

    def __init__(self, tensors: dict[str, torch.Tensor], prefix: str):
        super().__init__()
        self.names = {}
        for name, values in tensors.items():
            if name.startswith(f"vision_backbone.{prefix}."):
                short = name.removeprefix(f"vision_backbone.{prefix}.")
                self.names[short] = short.replace(".", "_")
                self.register_buffer(self.names[short], values)
        self.depth = 1 + max(int(name.split(".")[1]) for name in self.names if name.startswith("blocks."))
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in PIXELS[prefix])
        self.register_buffer("pixel_mean", mean)
        self.register_buffer("pixel_deviation", deviation)

    def get(self, name: str) -> torch.Tensor | None:
        return getattr(self, self.names[name]) if name in self.names else None

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.get(f"{name}.weight")
        return layer_norm(x, weight.shape, weight, self.get(f"{name}.bias"), EPSILON)

    def map(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.get("patch_embed.proj.weight")
        x = nn.functional.conv2d((image - self.pixel_mean) / self.pixel_deviation, patches, self.get("patch_embed.proj.bias"), stride=patches.shape[-1])
        x = x.flatten(2).transpose(1, 2) + self.get("pos_embed")
        before = [values.expand(x.shape[0], -1, -1) for name in ("cls_token", "reg_token") if (values := self.get(name)) is not None]
        x = torch.cat([*before, x], 1)
        for block in range(self.depth - 1):
            name = f"blocks.{block}"
            x = x + self.scaled(self.attend(self.norm(x, f"{name}.norm1"), f"{name}.attn"), f"{name}.ls1")
            x = x + self.scaled(self.map(gelu(self.map(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2"), f"{name}.ls2")
        return x[:, sum(values.shape[1] for values in before) :]

    def scaled(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale = self.get(f"{name}.scale_factor")
        return x if scale is None else x * scale

    def attend(self, x: torch.Tensor, name: str) -> torch.Tensor:
        n, p, d = x.shape
        q, k, v = self.map(x, f"{name}.qkv").reshape(n, p, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (d // HEADS) ** -0.5, -1)
        return self.map((weights @ v).transpose(1, 2).reshape(n, p, d), f"{name}.proj")


class Sequence(nn.Module):
    """Linear maps by name, from a state dict."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        self.names = {name: name.replace(".", "_") for name in tensors}
        for name, values in tensors.items():
            self.register_buffer(self.names[name], values)

    def map(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, getattr(self, self.names[f"{name}.weight"]), getattr(self, self.names[f"{name}.bias"]))

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = getattr(self, self.names[f"{name}.weight"])
        return layer_norm(x, weight.shape, weight, getattr(self, self.names[f"{name}.bias"]), 1e-5)


class OpenVla(nn.Module):
    """The whole network; ``head`` and ``proprio`` are OFT's."""

    def __init__(self, checkpoint: Checkpoint):
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        folder, config = checkpoint.folder, checkpoint.config
        tensors = _tensors(folder)
        self.features = nn.ModuleList(Vision(tensors, name) for name in PIXELS if f"vision_backbone.{name}.pos_embed" in tensors)
        if not self.features:
            raise ExportError("model.safetensors", "vision_backbone.featurizer.pos_embed", "missing", "this command knows OpenVLA's own vision backbones")
        self.projector = Sequence({name.removeprefix("projector."): values for name, values in tensors.items() if name.startswith("projector.")})
        text = {key: value for key, value in (config.get("text_config") or {}).items() if key not in ("model_type", "torch_dtype", "dtype")}
        given = {name.removeprefix("language_model."): values for name, values in tensors.items() if name.startswith("language_model.")}
        text.setdefault("vocab_size", given["model.embed_tokens.weight"].shape[0])
        self.language = LlamaForCausalLM(LlamaConfig(**text))
        try:
            self.language.load_state_dict({name: values for name, values in given.items() if not name.endswith("rotary_emb.inv_freq")})
        except RuntimeError as error:
            raise ExportError("model.safetensors", "", "", f"does not hold the tensors that config.json describes: {error}") from None
        unknown = [name for name in tensors if not name.startswith(("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.", "projector.", "language_model."))]
        if unknown:
            raise ExportError("model.safetensors", unknown[0], "unknown", "the network has no such tensor: merge adapters and save again")
        self.language.config._attn_implementation = "eager"
        self.head, self.proprio = (_beside(folder, name) for name in ("action_head", "proprio_projector"))

    def vision(self, image: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] in 0..1 to [1, n*P, d]."""
        x = torch.cat([features(image) for features in self.features], -1)
        x = gelu(self.projector.map(x, "fc1"))
        x = self.projector.map(x, "fc2")
        if "fc3.weight" in self.projector.names:
            x = self.projector.map(gelu(x), "fc3")
        return x.reshape(1, -1, x.shape[-1])

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.language.model.embed_tokens(ids)

    def actions(self, hidden: torch.Tensor) -> torch.Tensor:
        """OFT's head: hidden rows [1, K*D, d] to [1, K, D]."""
        head = self.head
        dims = head.model_fc2_weight.shape[0]
        x = hidden.reshape(1, -1, dims * hidden.shape[-1])
        x = torch.relu(head.map(head.norm(x, "model.layer_norm1"), "model.fc1"))
        block = 0
        while f"model.mlp_resnet_blocks.{block}.ffn.1.weight" in head.names:
            name = f"model.mlp_resnet_blocks.{block}.ffn"
            x = x + torch.relu(head.map(head.norm(x, f"{name}.0"), f"{name}.1"))
            block += 1
        return head.map(head.norm(x, "model.layer_norm2"), "model.fc2")

    def state_token(self, state: torch.Tensor) -> torch.Tensor:
        """[1, S] to [1, 1, d]."""
        return self.proprio.map(gelu(self.proprio.map(state, "fc1")), "fc2")[:, None]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    result = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                values = file.get_tensor(name)
                if values.is_floating_point() and not torch.isfinite(values).all():
                    raise ExportError(path.name, name, "not finite", "use another checkpoint")
                result[name] = values.float()
    return result


def _beside(folder: Path, name: str) -> Sequence | None:
    files = sorted(folder.glob(f"{name}--*_checkpoint.pt"))
    if len(files) > 1:
        raise ExportError(folder, name, [path.name for path in files], "several steps: keep one")
    if not files:
        return None
    tensors = torch.load(files[0], map_location="cpu", weights_only=True)
    return Sequence({key.removeprefix("module."): values.float() for key, values in tensors.items()})
