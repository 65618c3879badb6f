r"""Normalised chunks of a recorded dataset, as the tokenizer sees them: what the benchmarks run over.

    endplate dataset --out DATASET --scenes 6 --seed 1
    python tokenizers/bench/chunks.py DATASET policies/bundles/pick_cube_fast/policy.toml \
        tokenizers/bench/pick_cube_16x6.f32 400

Writes COUNT chunks, evenly spaced over the dataset, as little-endian f32 [COUNT, 16, 6], and prints their numbers.
Joints and gripper as the policy declares them (relative to the measured state or absolute), openpi's quantile form with
the policy's statistics: what its tokenizer is given.
"""

import sys
import tomllib
from pathlib import Path

import numpy as np

dataset, policy, out, count = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
actions = np.load(dataset / "actions.npy").astype(np.float64)
state = np.load(dataset / "state.npy").astype(np.float64)
declared = tomllib.loads(policy.read_text())["action"]
q01, q99 = (np.array([action[key] for action in declared]) for key in ("q01", "q99"))
is_relative = np.array([action["kind"] == "joint_rel" for action in declared])
values = actions - state[:, None, :] * is_relative
normalised = 2 * (values - q01) / (q99 - q01 + 1e-6) - 1
chosen = normalised[np.linspace(0, len(normalised) - 1, count).round().astype(int)]
chosen.astype("<f4").tofile(out)
print(f"{len(chosen)} of {len(normalised)} chunks of {chosen.shape[1]} x {chosen.shape[2]}, {out.stat().st_size} bytes")
