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
def save(policy, folder: Path, stats, seed: int, gain: float = 1.0) -> Path:
    """Weights of visible size everywhere (LeRobot zeroes some, and starts the large networks so small that a tiny one hardly
    sees its inputs: ``gain``), then policy, processors and the embodiment."""
    random = torch.Generator().manual_seed(seed)
    for name, value in policy.named_parameters():
        if value.ndim > 1 and "action_out" not in name:
            value.mul_(gain)
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


#: A pose of the tool as LeRobot's end-effector processors name its numbers, and the gripper.
POSE = ["ee.x", "ee.y", "ee.z", "ee.wx", "ee.wy", "ee.wz"]


def act_ee(folder: Path, seed: int = 0, kind: str = "ee_abs", frame: str = "") -> Path:
    """ACT whose state is the tool's pose and whose actions are poses, or differences of them, and the gripper's joint. The
    statistics are of a tool that points down over the table of the simulated arm."""
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    torch.manual_seed(seed)
    inputs, outputs = features(32, 48)
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (7,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    config = ACTConfig(
        input_features=inputs, output_features=outputs, chunk_size=10, n_action_steps=8, n_heads=4, n_encoder_layers=1, n_decoder_layers=1, pretrained_backbone_weights=None, device="cpu",
        normalization_mapping=modes(), vision_backbone="resnet_tiny", dim_model=32, dim_feedforward=48, latent_dim=4, n_vae_encoder_layers=1,
    )
    given = statistics(seed)
    pose = torch.tensor([0.18, 0.0, 0.1, 0.0, 3.0, 0.0, 0.1])
    spread = torch.tensor([0.004, 0.004, 0.004, 0.02, 0.02, 0.02, 0.2])
    for name, mean in (("observation.state", pose), ("action", pose if kind == "ee_abs" else torch.tensor([0.0] * 6 + [0.1]))):
        given[name] = {"mean": mean, "std": spread, "min": mean - 3 * spread, "max": mean + 3 * spread}
    folder = save(ACTPolicy(config), folder, given, seed)
    lines = ['robot = "so101_sim"', "fps = 30.0"]
    for list_ in ("state", "action"):
        for name in POSE:
            component = name.split(".")[1]
            lines += ["", f"[[{list_}]]", f'name = "{name}"', f'component = "{component}"', f'unit = "{"rad" if "w" in component else "m"}"']
            lines += [f'kind = "{kind}"', *([f'frame = "{frame}"'] if frame else [])] if list_ == "action" else []
        lines += ["", f"[[{list_}]]", 'name = "gripper"', 'unit = "rad"', *(['kind = "gripper"'] if list_ == "action" else [])]
    (folder / "embodiment.toml").write_text("\n".join(lines) + "\n")
    return folder


def diffusion(folder: Path, tiny: bool = False, seed: int = 0, **changes) -> Path:
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    torch.manual_seed(seed)
    inputs, outputs = features(32, 64) if tiny else features(96, 128)
    size = dict(vision_backbone="resnet_tiny", down_dims=(8, 16), n_groups=4, diffusion_step_embed_dim=16, spatial_softmax_num_keypoints=4, kernel_size=3) if tiny else dict(vision_backbone="resnet18", down_dims=(64, 128), crop_shape=(84, 112))
    values = dict(
        input_features=inputs, output_features=outputs, n_obs_steps=2, horizon=16, n_action_steps=8, num_train_timesteps=50 if tiny else 100, num_inference_steps=5 if tiny else 10,
        noise_scheduler_type="DDIM", pretrained_backbone_weights=None, device="cpu", normalization_mapping=modes("MIN_MAX", "MIN_MAX"), **size,
    )
    return save(DiffusionPolicy(DiffusionConfig(**{**values, **changes})), folder, statistics(seed), seed)


def tokenizer(bos: bool, actions: int = 0):
    """A word tokenizer in the form of the large ones: numbers, a line feed, ``<bos>`` in front where the family has one."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<bos>", "<eos>", "<fake>", "<global>", "<image>"]
    words = ["Task", "State", "Action", ":", ",", ";", "\n", *"pick up the red cube fold shirt x".split(), *map(str, range(-1, 256))]
    # Behind the words the ids of FAST tokens, backwards, then some that the map skips, as in PaliGemma's vocabulary.
    words += ["|", *(f"fast{i}" for i in reversed(range(actions))), *(f"seg{i}" for i in range(SKIPPED))] if actions else []
    one = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + words)}, unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(" +"), "removed"), pre_tokenizers.Split(Regex("\\n"), "isolated"), pre_tokenizers.Split(Regex("[:,;|]"), "isolated"),
    ])
    if bos:
        one.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", special.index("<bos>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=one, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", model_max_length=64,
        extra_special_tokens={"fake_image_token": "<fake>", "global_image_token": "<global>", "image_token": "<image>"},
    )


VOCABULARY = 288  # that of ``tokenizer``, rounded up
SKIPPED = 4
FAST_ROWS = 3


def vla_sizes(tiny: bool, **changes):
    """What the three flow policies share."""
    inputs, outputs = features(24, 32) if tiny else features(96, 128)
    values = dict(input_features=inputs, output_features=outputs, chunk_size=6 if tiny else 20, n_action_steps=4 if tiny else 12, max_state_dim=8, max_action_dim=8, tokenizer_max_length=24, device="cpu")
    return {**values, **changes}


def smolvla(folder: Path, tiny: bool = False, seed: int = 0, **changes) -> Path:
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from transformers import SmolVLMConfig

    torch.manual_seed(seed)
    side, width, heads = (32, 8, 2) if tiny else (96, 96, 3)
    text = dict(model_type="llama", hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2 if tiny else 4, num_attention_heads=heads, num_key_value_heads=1, head_dim=width // heads, vocab_size=VOCABULARY, max_position_embeddings=256, pad_token_id=0)
    vision = dict(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1 if tiny else 2, num_attention_heads=heads, image_size=side, patch_size=8 if tiny else 16)
    vlm = folder / "vlm"
    SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, image_token_id=6, pad_token_id=0).save_pretrained(vlm)
    save_smolvlm_processor(vlm)
    values = vla_sizes(tiny, vlm_model_name=str(vlm), load_vlm_weights=False, num_vlm_layers=text["num_hidden_layers"], resize_imgs_with_padding=(side, side), num_steps=4 if tiny else 10, **changes)
    return save(SmolVLAPolicy(SmolVLAConfig(**values)).float(), folder, statistics(seed), seed, gain=4.0 if tiny else 1.0)


def save_smolvlm_processor(folder: Path) -> None:
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer(bos=False), SmolVLMVideoProcessor()).save_pretrained(folder)


def shrink(module, tiny: bool, only_prefix: bool = False, vocabulary: int = VOCABULARY) -> None:
    """Makes a π module of LeRobot build PaliGemma and its expert small: their sizes are not part of the configuration."""
    width, side, depth = (16, 32, 2) if tiny else (96, 96, 4)
    heads, head_dim = (2, 8) if tiny else (4, 32)
    sizes = lambda name: module.GemmaConfig(width=width if name == "gemma_2b" else width // 2, depth=depth, mlp_dim=2 * width, num_heads=heads, num_kv_heads=1, head_dim=head_dim)  # noqa: E731
    module.get_gemma_config = sizes
    original = getattr(module, "_unshrunk", None) or module.PaliGemmaForConditionalGenerationWithPiGemma
    module._unshrunk = original

    def paligemma(config):
        vision = config.vision_config
        vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers, vision.num_attention_heads = width, 2 * width, 1 if tiny else 2, 2
        vision.image_size, vision.patch_size, vision.projection_dim = side, 16, config.text_config.hidden_size
        config.text_config.vocab_size = config._vocab_size = vocabulary
        config.image_token_index, config.projection_dim = vocabulary - 1, vision.projection_dim
        return original(config=config)

    module.PaliGemmaForConditionalGenerationWithPiGemma = paligemma
    if not only_prefix:
        expert = getattr(module, "_unshrunk_expert", None) or module.PiGemmaForCausalLM
        module._unshrunk_expert = expert

        def gemma(config):
            config.vocab_size = VOCABULARY
            return expert(config=config)

        module.PiGemmaForCausalLM = gemma


def save_with_tokenizer(policy, folder: Path, seed: int, gain: float = 1.0) -> Path:
    """Like ``save``, with a local tokenizer in the place of PaliGemma's, which would have to be downloaded."""
    import json

    from lerobot.processor import tokenizer_processor

    words = tokenizer(bos=True)
    words.save_pretrained(folder / "words")
    original = tokenizer_processor.AutoTokenizer
    tokenizer_processor.AutoTokenizer = type("Local", (), {"from_pretrained": staticmethod(lambda name, **_: words)})
    try:
        save(policy, folder, statistics(seed), seed, gain)
    finally:
        tokenizer_processor.AutoTokenizer = original
    path = folder / "policy_preprocessor.json"
    steps = json.loads(path.read_text())
    for step in steps["steps"]:
        if step.get("registry_name") == "tokenizer_processor":
            step["config"]["tokenizer_name"] = str(folder / "words")
    path.write_text(json.dumps(steps))
    return folder


def fast_processor(folder: Path):
    """A FAST tokenizer of 128 one-byte tokens in the files of the published one, read by a class of its form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from endplate_export.fast import byte_of_char

    vocab = {char: byte for char, byte in byte_of_char().items() if byte < 128}
    one = Tokenizer(models.BPE(vocab, []))
    one.pre_tokenizer, one.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    folder.mkdir(parents=True)
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=one).save_pretrained(folder)
    name = "processing_small_fast"
    (folder / f"{name}.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n\n\nclass SmallFast:\n"
        "    def __init__(self, bpe_tokenizer):\n        self.bpe_tokenizer, self.scale, self.min_token = bpe_tokenizer, 40, -36\n\n"
        "    @classmethod\n    def from_pretrained(cls, folder, **_):\n        return cls(PreTrainedTokenizerFast.from_pretrained(folder))\n\n"
        "    @classmethod\n    def register_for_auto_class(cls, *_):\n        pass\n"
    )
    (folder / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "%s.SmallFast"}, "processor_class": "SmallFast"}' % name)
    return folder


def pi0_fast(folder: Path, tiny: bool = False, seed: int = 0, steps: int = 300, gap: int = 0, **changes) -> Path:
    """Trained for some steps, since a random network says no whole action: each token carries its place in the chunk and a
    choice of four that depends on state and instruction. ``gap``: 1 for openpi's answer, whose first id stands two positions
    behind the prompt and is not a ``<bos>``."""
    from lerobot.policies.pi0_fast import modeling_pi0_fast as module
    from lerobot.policies.pi0_fast.configuration_pi0_fast import PI0FastConfig

    words = tokenizer(bos=True, actions=128)
    words.save_pretrained(folder / "words")
    vocabulary = len(words) + 1
    shrink(module, tiny, only_prefix=True, vocabulary=vocabulary)
    torch.manual_seed(seed)
    side = 32 if tiny else 96
    values = vla_sizes(tiny, image_resolution=(side, side), dtype="float32", max_decoding_steps=32, fast_skip_tokens=SKIPPED, validate_action_token_prefix=True)
    values |= dict(
        chunk_size=FAST_ROWS, n_action_steps=FAST_ROWS, tokenizer_max_length=32, text_tokenizer_name=str(folder / "words"),
        action_tokenizer_name=str(fast_processor(folder / "fast")), normalization_mapping=modes("QUANTILES", "QUANTILES", "IDENTITY"), **changes,
    )
    for key in ("max_state_dim", "max_action_dim"):
        values.pop(key)
    policy = module.PI0FastPolicy(PI0FastConfig(**values))
    overfit(policy, words, seed, steps, gap)
    return save(policy, folder, statistics(seed), seed)


def gapped_loss(model, images, tokens, masks, answers, gap: int):
    """Cross entropy of an answer whose id ``t`` stands ``gap`` positions further than directly behind the prompt."""
    vlm = model.paligemma_with_expert
    visual = torch.cat([vlm.embed_image(image) for image in images], 1)
    x = torch.cat([visual, vlm.embed_language_tokens(tokens), vlm.embed_language_tokens(answers[:, :-1])], 1)
    n, said = visual.shape[1] + tokens.shape[1], answers.shape[1] - 1
    real = torch.cat([torch.ones(len(tokens), visual.shape[1]), masks.float()], 1)
    lengths = real.sum(1, keepdim=True)
    positions = torch.cat([(real.cumsum(1) - 1).clamp(min=0), lengths + gap + torch.arange(said)], 1).long()
    keys = torch.cat([real, torch.ones(len(tokens), said)], 1)
    mask = ((1 - keys) * -1e9)[:, None].repeat(1, n + said, 1)
    mask[:, :n, n:] = -1e9
    mask[:, n:, n:] = torch.triu(torch.full((said, said), -1e9), 1)
    (hidden, _), _ = vlm.forward(attention_mask=mask[:, None], position_ids=positions, past_key_values=None, inputs_embeds=[x, None], use_cache=False)
    last = masks.sum(1) - 1 + visual.shape[1]
    predicting = torch.cat([hidden[torch.arange(len(tokens)), last][:, None], hidden[:, n:]], 1)
    return torch.nn.functional.cross_entropy(vlm.paligemma.lm_head(predicting).flatten(0, 1), answers.flatten())


def overfit(policy, words, seed: int, steps: int, gap: int) -> None:
    """LeRobot's own loss on made-up observations, until the answers are whole."""
    random = torch.Generator().manual_seed(seed)
    model, config = policy.model, policy.config
    optimiser = torch.optim.Adam(policy.parameters(), 3e-3)
    zero = words.vocab_size - 1 - config.fast_skip_tokens
    start, end = [words.bos_token_id, *words.encode("Action: ", add_special_tokens=False)], words.convert_tokens_to_ids("|")
    sentences = ("pick up the red cube", "fold the shirt", "cube")
    count, batch = FAST_ROWS * len(JOINTS), 16
    policy.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, 2 * (1 - step / steps))
        tokens, masks = (torch.zeros(batch, config.tokenizer_max_length, dtype=torch.long) for _ in range(2))
        answers = torch.zeros(batch, len(start) + count + 1, dtype=torch.long)
        for i in range(batch):
            chosen = int(torch.randint(3, (1,), generator=random))
            bins = torch.randint(0, 256, (len(JOINTS),), generator=random)
            ids = words(f"Task: {sentences[chosen]}, State: {' '.join(map(str, bins.tolist()))};\n")["input_ids"]
            tokens[i, : len(ids)], masks[i, : len(ids)] = torch.tensor(ids), 1
            codes = [4 * n + (int(bins[n]) // 64 if n < len(JOINTS) else (n + chosen) % 4) for n in range(count)]
            answers[i] = torch.tensor([*start, *(zero - code for code in codes), end])
        images = [torch.rand(batch, 3, *config.image_resolution, generator=random) * 2 - 1 for _ in CAMERAS]
        present = [torch.ones(batch, dtype=torch.bool) for _ in CAMERAS]
        if gap:
            loss = gapped_loss(model, images, tokens, masks, answers[:, 1:], gap)
        else:
            loss = model(images, present, tokens, masks.bool(), answers, torch.ones_like(answers).bool())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    policy.eval()


def pi0(folder: Path, tiny: bool = False, seed: int = 0, **changes) -> Path:
    from lerobot.policies.pi0 import modeling_pi0 as module
    from lerobot.policies.pi0.configuration_pi0 import PI0Config

    shrink(module, tiny)
    torch.manual_seed(seed)
    side = 32 if tiny else 96
    values = vla_sizes(tiny, image_resolution=(side, side), num_inference_steps=4 if tiny else 10, dtype="float32", **changes)
    return save_with_tokenizer(module.PI0Policy(PI0Config(**values)), folder, seed, gain=3.0 if tiny else 1.0)


def pi05(folder: Path, tiny: bool = False, seed: int = 0, **changes) -> Path:
    from lerobot.policies.pi05 import modeling_pi05 as module
    from lerobot.policies.pi05.configuration_pi05 import PI05Config

    shrink(module, tiny)
    torch.manual_seed(seed)
    side = 32 if tiny else 96
    values = vla_sizes(tiny, image_resolution=(side, side), num_inference_steps=4 if tiny else 10, dtype="float32", **{"tokenizer_max_length": 32, **changes})
    return save_with_tokenizer(module.PI05Policy(PI05Config(**values)), folder, seed, gain=3.0 if tiny else 1.0)
