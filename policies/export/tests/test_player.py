"""The bundles in the repository, played from their files alone."""

from pathlib import Path

import numpy as np
import pytest

from endplate_export.player import Player, PlayError, samples

POLICIES = Path(__file__).resolve().parents[2]
BUNDLES = [path for folder in ("bundles", "tests/bundles") for path in sorted((POLICIES / folder).iterdir()) if path.is_dir()]


@pytest.mark.parametrize("bundle", [path for path in BUNDLES if "diffusion" not in path.name], ids=lambda path: path.name)
def test_every_family_is_played_as_its_golden_samples_say(bundle):
    player = Player(bundle)
    for sample in samples(bundle / "golden.npz"):
        played = player.play(sample)
        head = next(sample[name] for name in ("prefill_logits", "velocity", "output") if name in sample)
        assert np.abs(played.head - head.reshape(played.head.shape)).max() < 1e-4
        assert played.tokens == sample.get("tokens", np.array([])).tolist()


def test_what_cannot_be_played_is_named(tmp_path):
    with pytest.raises(PlayError, match="family = diffusion"):
        Player(POLICIES / "tests/bundles/lerobot_diffusion_ddim")
    np.savez(tmp_path / "empty.npz", x=np.zeros(1))
    with pytest.raises(PlayError, match="state_0"):
        samples(tmp_path / "empty.npz")
    player = Player(POLICIES / "tests/bundles/lerobot_pi0")
    sample = samples(player.folder / "golden.npz")[0]
    for missing in ("noise", "text_ids", "wrist"):
        with pytest.raises(PlayError, match=missing):
            player.play({name: values for name, values in sample.items() if name != missing})
