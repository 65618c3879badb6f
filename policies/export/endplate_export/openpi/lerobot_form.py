"""openpi's checkpoint as LeRobot would have saved it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..lerobot import ExportError
from ..lerobot.checkpoint import ACTION, STATE
from .checkpoint import WEIGHTS, OpenPi


def write(given: OpenPi, folder: Path, cameras: list[str], tokenizer: Path, fast: Path | None, resolution: tuple[int, int]) -> None:
    """Writes config, weights, processors and statistics to ``folder``."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.factory import make_policy_config, make_pre_post_processors
    from lerobot.processor import tokenizer_processor

    if not (tokenizer / "tokenizer.json").exists():
        raise ExportError(tokenizer / "tokenizer.json", "", "", "missing; --tokenizer names a folder with PaliGemma's tokenizer in Hugging Face's form")
    mode = NormalizationMode.MEAN_STD if given.family == "pi0" else NormalizationMode.QUANTILES
    inputs = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *resolution)) for name in cameras}
    values = {
        "input_features": inputs | {STATE: PolicyFeature(FeatureType.STATE, (len(given.statistics["state"]["mean"]),))},
        "output_features": {ACTION: PolicyFeature(FeatureType.ACTION, (len(given.statistics["actions"]["mean"]),))},
        "normalization_mapping": {"VISUAL": NormalizationMode.IDENTITY, "STATE": mode, "ACTION": mode},
        "chunk_size": given.config["action_horizon"], "n_action_steps": given.config["action_horizon"], "dtype": "float32", "device": "cpu", "image_resolution": resolution,
        "paligemma_variant": given.config.get("paligemma_variant", "gemma_2b"), "tokenizer_max_length": given.config.get("max_token_len", {"pi0": 48, "pi05": 200, "pi0_fast": 250}[given.family]),
    }
    if given.family == "pi0_fast":
        if fast is None:
            raise ExportError("--fast", "", "missing", "name the folder of the FAST tokenizer the policy was trained with")
        values |= {"text_tokenizer_name": str(tokenizer), "action_tokenizer_name": str(fast), "max_decoding_steps": given.config.get("max_decoding_steps", 256)}
        values |= {key: given.config[key] for key in ("fast_skip_tokens",) if key in given.config}
    else:
        width = given.config["action_dim"]
        values |= {"action_expert_variant": given.config.get("action_expert_variant", "gemma_300m"), "max_action_dim": width, "max_state_dim": width}
    config = make_policy_config(given.family, **values)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    statistics = {feature: {name: torch.from_numpy(array).float() for name, array in given.statistics[key].items()} for feature, key in ((STATE, "state"), (ACTION, "actions"))}
    original = tokenizer_processor.AutoTokenizer
    tokenizer_processor.AutoTokenizer = type("Local", (), {"from_pretrained": staticmethod(lambda name, **options: original.from_pretrained(str(tokenizer), **options))})
    try:
        for processor in make_pre_post_processors(config, dataset_stats=statistics):
            processor.save_pretrained(folder)
    finally:
        tokenizer_processor.AutoTokenizer = original
    path = folder / "policy_preprocessor.json"
    steps = json.loads(path.read_text())
    for step in steps["steps"]:
        if step.get("registry_name") == "tokenizer_processor":
            step["config"]["tokenizer_name"] = str(tokenizer)
    path.write_text(json.dumps(steps))
    tensors = load_file(given.folder / WEIGHTS)
    save_file({name if name.startswith("model.") else f"model.{name}": values.float().contiguous() for name, values in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
