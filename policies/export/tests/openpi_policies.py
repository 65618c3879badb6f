"""Small checkpoints in openpi's PyTorch form, from the small LeRobot policies, whose tensors have the same names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lerobot_policies
from safetensors.torch import load_file, save_file


def openpi(folder: Path, family: str, seed: int = 0, **options) -> Path:
    """``model.safetensors``, ``config.json``, ``assets/made_up/norm_stats.json`` and the embodiment; ``words`` and, for
    π0-FAST, ``fast`` hold the tokenizers. Values of the statistics are padded as openpi pads them."""
    source = folder / "source"
    made = {"pi0": lerobot_policies.pi0, "pi05": lerobot_policies.pi05, "pi0_fast": lerobot_policies.pi0_fast}[family](source, tiny=True, seed=seed, **options)
    tensors = load_file(made / "model.safetensors")
    save_file({name.removeprefix("model."): values.contiguous() for name, values in tensors.items()}, folder / "model.safetensors")
    given = json.loads((made / "config.json").read_text())
    config = {"action_dim": given.get("max_action_dim", 6), "action_horizon": given["chunk_size"], "max_token_len": given["tokenizer_max_length"]}
    if family == "pi0_fast":
        config |= {"max_decoding_steps": given["max_decoding_steps"], "fast_skip_tokens": given["fast_skip_tokens"]}
    (folder / "config.json").write_text(json.dumps(config))
    statistics = {}
    for key, feature in (("state", "observation.state"), ("actions", "action")):
        values = lerobot_policies.statistics(seed)[feature]
        statistics[key] = {name: [*(values[name].double() * lerobot_policies.math.pi / 180).tolist(), 0.0, 0.0] for name in ("mean", "std", "q01", "q99")}
    (folder / "assets" / "made_up").mkdir(parents=True)
    (folder / "assets" / "made_up" / "norm_stats.json").write_text(json.dumps({"norm_stats": statistics}))
    for name in ("words", "fast"):
        if (made / name).exists():
            shutil.move(made / name, folder / name)
    lerobot_policies.write_embodiment(folder, scale=1.0)
    text = (folder / "embodiment.toml").read_text()
    (folder / "embodiment.toml").write_text(text.replace('kind = "joint_abs"', 'kind = "joint_rel"', 2))
    shutil.rmtree(source)
    return folder
