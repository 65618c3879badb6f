"""The table family × engine × precision: error, speed, and what both are compared with.

    cargo build --release
    PYTHON policies/export/tests/families_table.py [--endplate FILE] [--ort-library FILE] [--only NAME,…] [--out FILE]

f32 rows: the golden observations through `infer` against the source the bundle was exported from, and the time of an
inference (`bench pipeline`, p50). Other precisions: `endplate-export quantise` on an episode recorded with the bundle itself,
against the f32 bundle on the same engine. Where that cannot be done the row says why. Needs `pip install ./policies/export`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "policies" / "export"))

from endplate_export.quantise import PRECISIONS  # noqa: E402

SOURCES = {
    "lerobot": "LeRobot 0.6.1, third-party", "openpi_pi0": "openpi through LeRobot's port, third-party", "openpi_pi0_fast": "own reference",
    "openvla": "own reference", "openvla_oft": "own reference", "pick_cube": "torch, own training code",
}
INSTRUCTION = "pick up the red cube"


def said(args, *words) -> tuple[str, str]:
    """Output and, where it failed, the reason in one line."""
    done = subprocess.run([str(args.endplate), *map(str, words)], capture_output=True, text=True, timeout=900)
    return done.stdout, "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1].strip()


def source(name: str) -> str:
    return SOURCES.get(name) or next(words for prefix, words in SOURCES.items() if name.startswith(prefix))


def robot(policy: dict, path: Path) -> Path:
    """The simulated arm with cameras of the bundle's sizes."""
    text = (ROOT / "hal/robots/so101_sim.toml").read_text()
    for camera in policy["cameras"]:
        form = rf'(name = "{camera["name"]}"\ndriver = "sim"\n)width = \d+\nheight = \d+'
        text = re.sub(form, rf'\g<1>width = {camera["width"]}\nheight = {camera["height"]}', text)
    path.write_text(text)
    return path


def golden(policy: dict, arrays: dict, index: int) -> dict[str, np.ndarray]:
    """A golden observation as `infer` reads it."""
    keys = ("state", "instruction", "noise", *(camera["name"] for camera in policy["cameras"]))
    found = {key: arrays[f"{key}_{index}"] for key in keys if f"{key}_{index}" in arrays}
    if f"images_{index}" in arrays:  # the demonstration policies keep all cameras in one array
        found |= {camera["name"]: image for camera, image in zip(policy["cameras"], arrays[f"images_{index}"])}
    return found


def plain(args, bundle: Path, engine: str, scratch: Path) -> tuple[str, str]:
    """Error and time of an f32 bundle."""
    policy, arrays = tomllib.loads((bundle / "policy.toml").read_text()), dict(np.load(bundle / "golden.npz"))
    worst, index = 0.0, 0
    while f"actions_{index}" in arrays:
        np.savez(scratch / "in.npz", **golden(policy, arrays, index))
        _, failed = said(args, "infer", "--bundle", bundle, "--engine", engine, *args.library, "--inputs", scratch / "in.npz", "--outputs", scratch / "out.npz")
        if failed:
            return failed, "–"
        worst = max(worst, float(np.abs(np.load(scratch / "out.npz")["actions"] - arrays[f"actions_{index}"]).max()))
        index += 1
    error = f"{worst:.1e}"
    rows = scratch / "pipeline.jsonl"
    _, failed = said(args, "bench", "pipeline", "--bundle", bundle, "--engine", engine, *args.library, "--calls", 50, "--json", rows)
    if failed:
        return error, failed.split("error: ")[-1]
    total = next(row for row in map(json.loads, rows.read_text().splitlines()) if row.get("what") == "total")
    return error, f"{(total['engine_p50_us'] + total['host_p50_us']) / 1e3:.2f} ms"


def changed(args, bundle: Path, precision: str, recording: Path, description: Path, out: Path) -> tuple[dict, str]:
    """Error and speed against f32 of every engine that runs it, and how many observations were compared; or why not."""
    command = ["quantise", bundle, "--precision", precision, "--recording", recording, "--out", out, "--sets", 16, "--observations", args.observations, "--endplate", args.endplate, "--robot", description, *args.library]
    program = "import sys; from endplate_export import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", program, *map(str, command)], capture_output=True, text=True, cwd=ROOT / "policies/export")
    if done.returncode:
        return {}, f"not measured: {done.stderr.strip().splitlines()[-1].split('error: ')[-1]}"
    found, observations = {}, 0
    for measured in tomllib.loads((out / "policy.toml").read_text())["quantisation"]:
        alike = f", {100 * measured['argmax_agreement']:.1f} % of tokens alike" if "argmax_agreement" in measured else ""
        found[measured["engine"].split()[0]] = f"{measured['action_error_max_rad']:.1e}{alike}", f"{measured['speed']:.2f}"
        observations = measured["observations"]
    return found, f"f32, {observations} observations"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endplate", type=Path, default=ROOT / "target/release/endplate")
    parser.add_argument("--ort-library", default="")
    parser.add_argument("--only", default="", help="bundles, by name")
    parser.add_argument("--precision", default=",".join(PRECISIONS), help="beside f32; empty for f32 alone")
    parser.add_argument("--observations", type=int, default=30)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.library = ["--ort-library", args.ort_library] if args.ort_library else []
    folders = [*sorted((ROOT / "policies/tests/bundles").iterdir()), *sorted((ROOT / "policies/bundles").glob("pick_cube_*"))]
    lines = ["| bundle (family) | precision | tract: error, rad | speed | ort: error, rad | speed | compared with |", "|---|---|---|---|---|---|---|"]

    def row(name: str, precision: str, found: dict[str, tuple[str, str]], against: str) -> None:
        cells = [cell for engine in ("tract", "ort") for cell in found.get(engine, ("–", "–"))]
        lines.append("| " + " | ".join([name, precision, *cells, against]) + " |")
        print(lines[-1], flush=True)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n")

    for bundle in folders:
        policy = tomllib.loads((bundle / "policy.toml").read_text())
        if policy["precision"] != "f32" or (args.only and bundle.name not in args.only.split(",")):
            continue
        name = f"`{bundle.name}` ({policy['family']})"
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            row(name, "f32", {engine: plain(args, bundle, engine, scratch) for engine in policy["engines"]}, source(bundle.name))
            precisions = list(filter(None, args.precision.split(",")))
            if not precisions:
                continue
            description, recording = robot(policy, scratch / "robot.toml"), scratch / "recording.mcap"
            _, failed = said(args, "run", "--bundle", bundle, "--robot", description, "--episodes", 1, "--instruction", INSTRUCTION, "--record", recording)
            if failed:
                row(name, "others", {}, f"not measured: {failed.split(': take')[0]}")
                continue
            for precision in precisions:
                row(name, precision, *changed(args, bundle, precision, recording, description, scratch / precision))
    return 0


if __name__ == "__main__":
    sys.exit(main())
