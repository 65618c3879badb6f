"""Vectors of LeRobot's own calibration file and units, or a check of 10,000 random values against them.

    python calibration/scripts/lerobot_vectors.py write          # calibration/tests/data (committed)
    python calibration/scripts/lerobot_vectors.py check ENDPLATE # third-party check of the binary

Needs LeRobot (0.6.1 wrote the committed files) with its Feetech and Dynamixel extras.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import draccus
import lerobot
from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.motors.motors_bus import SerialMotorsBus

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
MODES = [MotorNormMode.RANGE_0_100, MotorNormMode.RANGE_M100_100, MotorNormMode.DEGREES]


class Units:
    """What LeRobot's bus needs of itself to normalise; its two methods are called as they are."""

    model_resolution_table = {"sts3215": 4096}
    _normalize = SerialMotorsBus._normalize
    _unnormalize = SerialMotorsBus._unnormalize

    def __init__(self, motor, mode, apply_drive_mode):
        self.calibration = {"motor": motor}
        self.motors = {"motor": Motor(motor.id, "sts3215", mode)}
        self.apply_drive_mode = apply_drive_mode

    def _id_to_name(self, _):
        return "motor"

    def _id_to_model(self, _):
        return "sts3215"


def cases(count, seed):
    rng = random.Random(seed)
    out = []
    for index in range(count):
        low = rng.randint(0, 4000)
        motor = MotorCalibration(rng.randint(0, 252), rng.randint(0, 1), rng.randint(-2047, 2047), low, rng.randint(low + 1, 4095))
        mode = MODES[index % 3]
        applies = rng.random() < 0.7
        raw = rng.randint(-500, 4600)
        value = rng.uniform(-260, 260)
        units = Units(motor, mode, applies)
        out.append(
            {
                "drive_mode": motor.drive_mode,
                "range_min": motor.range_min,
                "range_max": motor.range_max,
                "mode": mode.value,
                "apply_drive_mode": applies,
                "count": raw,
                "normalised": repr(float(units._normalize({motor.id: raw})[motor.id])),
                "value": repr(value),  # as text: not every JSON reader keeps the last bit
                "unnormalised": units._unnormalize({motor.id: value})[motor.id],
            }
        )
    return out


def calibration_file(path):
    motors = {
        "shoulder_pan": MotorCalibration(1, 0, -1470, 758, 3292),
        "shoulder_lift": MotorCalibration(2, 0, 157, 840, 3210),
        "elbow_flex": MotorCalibration(3, 0, 1032, 866, 3070),
        "wrist_flex": MotorCalibration(4, 0, -53, 870, 3182),
        "wrist_roll": MotorCalibration(5, 0, 12, 0, 4095),
        "gripper": MotorCalibration(6, 1, 1399, 2037, 3500),
        "pince \u00e9\U0001f916\"\\": MotorCalibration(7, 0, 0, 0, 1),
    }
    with open(path, "w") as f, draccus.config_type("json"):
        draccus.dump(motors, f, indent=4)


def main():
    if sys.argv[1:] == ["write"]:
        DATA.mkdir(parents=True, exist_ok=True)
        calibration_file(DATA / "lerobot_so101.json")
        (DATA / "lerobot_units.json").write_text(json.dumps(cases(240, 1), separators=(",", ":")).replace("},{", "},\n{"))
        return
    binary = sys.argv[2]
    asked = cases(10_000, 2)
    lines = "".join(json.dumps(case) + "\n" for case in asked)
    done = subprocess.run([binary, "calibrate", "units"], input=lines, capture_output=True, text=True, check=True)
    wrong = 0
    for case, line in zip(asked, done.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        wrong += float(answer["normalised"]) != float(case["normalised"]) or answer["unnormalised"] != case["unnormalised"]
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder, "theirs.json"), Path(folder, "ours.json")
        calibration_file(theirs)
        subprocess.run([binary, "calibrate", "file", theirs, "--write", ours], check=True, capture_output=True)
        same = theirs.read_bytes() == ours.read_bytes()
    print(f"LeRobot {lerobot.__version__}: {len(asked)} random values, {wrong} differ in any bit; file byte for byte: {same}")
    sys.exit(wrong > 0 or not same)


main()
