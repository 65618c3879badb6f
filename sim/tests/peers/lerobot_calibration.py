"""LeRobot and `endplate` on one calibrated bus: python lerobot_calibration.py ENDPLATE PATH (a Python with lerobot[feetech])

A file that `calibrate joints --load` put into the servos is one LeRobot calls calibrated; a calibration that LeRobot writes into
them afterwards is named by `doctor` as stale, and LeRobot's own file is taken for the servos' again.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import draccus
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.motors.motors_bus import Motor, MotorCalibration, MotorNormMode

ENDPLATE, PATH = sys.argv[1:]
NAMES = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def connect(calibration):
    motors = {name: Motor(n + 1, "sts3215", MotorNormMode.DEGREES) for n, name in enumerate(NAMES)}
    bus = FeetechMotorsBus(PATH, motors, calibration)
    bus.connect()
    return bus


def calibration(base):
    return {
        name: MotorCalibration(id=n + 1, drive_mode=0, homing_offset=base + 7 * n, range_min=150 - base, range_max=3950 - base)
        for n, name in enumerate(NAMES)
    }


def write(path, entries):
    """As LeRobot's Robot._save_calibration does."""
    with open(path, "w") as file, draccus.config_type("json"):
        draccus.dump(entries, file, indent=4)


def endplate(*arguments):
    return subprocess.run([ENDPLATE, *arguments], capture_output=True, text=True)


with tempfile.TemporaryDirectory() as folder:
    robot, file = Path(folder, "robot.toml"), Path(folder, "arm.json")
    text = Path("hal/robots/so101.toml").read_text().replace("on_silence", 'calibration = "arm.json"\non_silence', 1)
    text = text.replace("/dev/serial/by-id/CHANGE-ME", PATH).replace(", zero_count = 2047.5, min_count = 0, max_count = 4095", "")
    robot.write_text(text)
    write(file, calibration(40))
    done = endplate("calibrate", "joints", "--robot", str(robot), "--load", str(file))
    assert done.returncode == 0, done.stderr
    bus = connect(calibration(40))
    assert bus.is_calibrated, bus.read_calibration()
    other = calibration(-50)
    bus.disable_torque()
    bus.write_calibration(other)
    bus.disconnect()

    def found():
        lines = endplate("doctor", "--json", "--robot", str(robot)).stdout.splitlines()
        return next(line for line in map(json.loads, lines) if line["check"] == "servo bus")

    line = found()
    assert not line["pass"] and line["found"].count("and the calibration file says") == 6, line
    write(file, other)
    line = found()
    assert line["pass"], line
print("LeRobot calibration: loaded by endplate and calibrated to LeRobot; written by LeRobot, stale and sound to endplate as it should be")
