"""Small LeRobot policies with random weights, saved exactly as training saves them. Needs ``lerobot``.

Two cameras of different names, six joints in degrees in the dataset and in rad on the robot, so that orders and units
show. ``tiny`` swaps the ResNet for one of a few thousand parameters behind the same LeRobot code, for bundles small
enough to commit.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torchvision
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from torch import nn

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
CAMERAS = ["wrist", "front"]


class TinyResNet(nn.Module):
    """The outside of a torchvision ResNet: ``layer4`` of stride 32 and ``fc.in_features``."""

    def __init__(self, replace_stride_with_dilation=None, weights=None, norm_layer=nn.BatchNorm2d, channels=16):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 4, 3, bias=False), norm_layer(8)
        self.relu = nn.ReLU()
        self.layer4 = nn.Sequential(nn.Conv2d(8, channels, 3, 4, 1, bias=False), norm_layer(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1))
        self.fc = nn.Linear(channels, 1)

    def forward(self, x):
        return self.fc(self.layer4(self.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


torchvision.models.resnet_tiny = TinyResNet


def features(height: int, width: int, cameras=CAMERAS):
    inputs = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, height, width)) for name in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (len(JOINTS),))
    return inputs, {"action": PolicyFeature(FeatureType.ACTION, (len(JOINTS),))}


def statistics(seed: int, cameras=CAMERAS) -> dict[str, dict[str, torch.Tensor]]:
    """Statistics of a made-up dataset in degrees."""
    random = torch.Generator().manual_seed(seed)
    result = {}
    for name in ("observation.state", "action"):
        mean, std = 20 * torch.randn(6, generator=random), 15 + 10 * torch.rand(6, generator=random)
        result[name] = {"mean": mean, "std": std, "min": mean - 2.6 * std, "max": mean + 2.4 * std, "q01": mean - 2.1 * std, "q99": mean + 2.2 * std, "q10": mean - 1.3 * std, "q90": mean + 1.2 * std}
    for i, name in enumerate(cameras):
        shape = (3, 1, 1)
        result[f"observation.images.{name}"] = {"mean": torch.tensor([0.48, 0.45, 0.40]).view(shape) + 0.02 * i, "std": torch.tensor([0.23, 0.22, 0.25]).view(shape), "min": torch.zeros(shape), "max": torch.ones(shape)}
    return result


def modes(state: str = "MEAN_STD", action: str = "MEAN_STD", visual: str = "MEAN_STD") -> dict[str, NormalizationMode]:
    return {"VISUAL": NormalizationMode(visual), "STATE": NormalizationMode(state), "ACTION": NormalizationMode(action)}


@torch.no_grad()
def save(policy, folder: Path, stats, seed: int) -> Path:
    """Weights of visible size everywhere (LeRobot zeroes some), then policy, processors and the embodiment."""
    random = torch.Generator().manual_seed(seed)
    for value in policy.parameters():
        if float(value.std() if value.numel() > 1 else 0) < 1e-6:
            value.add_(0.1 * torch.randn(value.shape, generator=random))
    for name, value in policy.named_buffers():
        if name.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape, generator=random))
    folder.mkdir(parents=True, exist_ok=True)
    policy.eval().save_pretrained(folder)
    for processor in make_pre_post_processors(policy.config, dataset_stats=stats):
        processor.save_pretrained(folder)
    write_embodiment(folder)
    return folder


def write_embodiment(folder: Path, scale: float = math.pi / 180) -> None:
    lines = ['robot = "so101_sim"', "fps = 30.0"]
    for name in JOINTS:
        lines += ["", "[[state]]", f'name = "{name}"', 'unit = "rad"', f"scale = {scale!r}"]
    for name in JOINTS:
        lines += ["", "[[action]]", f'name = "{name}"', f'kind = "{"gripper" if name == "gripper" else "joint_abs"}"', 'unit = "rad"', f"scale = {scale!r}"]
    (folder / "embodiment.toml").write_text("\n".join(lines) + "\n")


def act(folder: Path, tiny: bool = False, seed: int = 0, **changes) -> Path:
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    torch.manual_seed(seed)
    inputs, outputs = features(32, 48) if tiny else features(96, 128)
    size = dict(vision_backbone="resnet_tiny", dim_model=32, dim_feedforward=48, latent_dim=4, n_vae_encoder_layers=1) if tiny else dict(vision_backbone="resnet18", dim_model=128, dim_feedforward=256)
    values = dict(
        input_features=inputs, output_features=outputs, chunk_size=10 if tiny else 20, n_action_steps=8, n_heads=4, n_encoder_layers=1 if tiny else 2, n_decoder_layers=1,
        pretrained_backbone_weights=None, device="cpu", normalization_mapping=modes(), **size,
    )
    return save(ACTPolicy(ACTConfig(**{**values, **changes})), folder, statistics(seed), seed)


def diffusion(folder: Path, tiny: bool = False, seed: int = 0, **changes) -> Path:
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    torch.manual_seed(seed)
    inputs, outputs = features(32, 48) if tiny else features(96, 128)
    size = dict(vision_backbone="resnet_tiny", down_dims=(16, 24), n_groups=4, diffusion_step_embed_dim=16, spatial_softmax_num_keypoints=4, kernel_size=3) if tiny else dict(vision_backbone="resnet18", down_dims=(64, 128), crop_shape=(84, 112))
    values = dict(
        input_features=inputs, output_features=outputs, n_obs_steps=2, horizon=16, n_action_steps=8, num_train_timesteps=50 if tiny else 100, num_inference_steps=5 if tiny else 10,
        noise_scheduler_type="DDIM", pretrained_backbone_weights=None, device="cpu", normalization_mapping=modes("MIN_MAX", "MIN_MAX"), **size,
    )
    return save(DiffusionPolicy(DiffusionConfig(**{**values, **changes})), folder, statistics(seed), seed)
