"""Writes the small bundles of the family conformance suite, `policies/tests/bundles/`.

    python policies/export/tests/make_fixtures.py

Random weights from the seeds below; needs `pip install './policies/export[lerobot]'`. The files depend on the versions
of torch and LeRobot only in their last bits, and the suite compares against the golden outputs in them.
"""

import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import lerobot_policies  # noqa: E402
import openpi_policies  # noqa: E402
import openvla_policies  # noqa: E402

from endplate_export import cli  # noqa: E402

OUT = HERE.parent.parent / "tests" / "bundles"


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def command(name: str, checkpoint: Path) -> list[str]:
    """The arguments that export a fixture."""
    if name.startswith("openvla"):
        return ["openvla", "--max-text-tokens", "24", *(["--cameras", "wrist,front", "--horizon", "4"] if name == "openvla_oft" else ["--cameras", "wrist"])]
    if name.startswith("openpi"):
        fast = ["--fast", str(checkpoint / "fast")] if name == "openpi_pi0_fast" else []
        return ["openpi", "--cameras", "wrist,front", "--tokenizer", str(checkpoint / "words"), "--resolution", "32", *fast]
    return ["lerobot"]


#: Name -> how the policy is made.
FIXTURES = {
    "lerobot_act": lambda folder: lerobot_policies.act(folder, tiny=True, seed=1),
    "lerobot_act_ee": lambda folder: lerobot_policies.act_ee(folder, seed=4),
    "lerobot_diffusion_ddim": lambda folder: lerobot_policies.diffusion(folder, tiny=True, seed=1),
    "lerobot_diffusion_ddpm": lambda folder: lerobot_policies.diffusion(folder, tiny=True, seed=2, noise_scheduler_type="DDPM", n_obs_steps=1, prediction_type="sample", beta_schedule="scaled_linear"),
    "lerobot_smolvla": lambda folder: lerobot_policies.smolvla(folder, tiny=True, seed=1),
    "lerobot_pi0": lambda folder: lerobot_policies.pi0(folder, tiny=True, seed=1),
    "openpi_pi0": lambda folder: openpi_policies.openpi(made(folder), "pi0", seed=1),
    "openpi_pi0_fast": lambda folder: openpi_policies.openpi(made(folder), "pi0_fast", seed=1, gap=1),
    "openvla": lambda folder: openvla_policies.openvla(folder, seed=1),
    "openvla_oft": lambda folder: openvla_policies.oft(folder, seed=1),
    "lerobot_pi0_fast": lambda folder: lerobot_policies.pi0_fast(folder, tiny=True, seed=1),
    "lerobot_pi05": lambda folder: lerobot_policies.pi05(folder, tiny=True, seed=1),
}


def main(names) -> int:
    for name in names or FIXTURES:
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = FIXTURES[name](Path(scratch) / name)
            shutil.rmtree(OUT / name, ignore_errors=True)
            if code := cli.main([*command(name, checkpoint), str(checkpoint), "--out", str(OUT / name), "--description", "Random weights, for tests."]):
                return code
        print(f"{name}: {sum(p.stat().st_size for p in (OUT / name).rglob('*') if p.is_file()) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
