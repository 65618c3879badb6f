"""Hand-eye poses with noise and OpenCV's answers to them.

    python calibration/scripts/hand_eye_vectors.py write          # calibration/tests/data/hand_eye_opencv.json
    python calibration/scripts/hand_eye_vectors.py check ENDPLATE # third-party check of the binary, 100 sets

Needs `opencv-python-headless<5` (4.14.0 wrote the committed file; 5.0 has no calibrateHandEye), NumPy and SciPy.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

DATA = Path(__file__).resolve().parent.parent / "tests" / "data" / "hand_eye_opencv.json"
METHODS = {"tsai": cv2.CALIB_HAND_EYE_TSAI, "park": cv2.CALIB_HAND_EYE_PARK, "daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS}


def matrix(rotation, translation):
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation.as_matrix(), translation
    return out


def pose(transform):
    return {
        "translation_m": transform[:3, 3].tolist(),
        "rotation_xyzw": Rotation.from_matrix(transform[:3, :3]).as_quat().tolist(),
    }


def case(seed, count=12):
    rng = np.random.default_rng(seed)
    camera = matrix(Rotation.random(random_state=seed), rng.uniform(-0.1, 0.1, 3))
    board = matrix(Rotation.random(random_state=seed + 10_000), rng.uniform(-0.4, 0.4, 3))
    poses = []
    for _ in range(count):
        gripper = matrix(Rotation.from_rotvec(rng.uniform(-0.6, 0.6, 3)), rng.uniform(-0.3, 0.3, 3))
        seen = np.linalg.inv(gripper @ camera) @ board
        noise = matrix(Rotation.from_rotvec(rng.normal(0, 0.003, 3)), rng.normal(0, 0.001, 3))
        poses.append((gripper, seen @ noise))
    answers = {}
    for name, method in METHODS.items():
        rotation, translation = cv2.calibrateHandEye(
            [g[:3, :3] for g, _ in poses], [g[:3, 3] for g, _ in poses],
            [c[:3, :3] for _, c in poses], [c[:3, 3] for _, c in poses], method=method,
        )
        answer = np.eye(4)
        answer[:3, :3], answer[:3, 3] = rotation, translation[:, 0]
        answers[name] = answer
    asked = {"poses": [{"base_from_gripper": pose(g), "camera_from_target": pose(c)} for g, c in poses]}
    return asked, answers


def main():
    if sys.argv[1:] == ["write"]:
        sets = []
        for seed in range(3):
            asked, answers = case(seed)
            asked["opencv"] = {name: answer[:3].tolist() for name, answer in answers.items()}
            sets.append(asked)
        DATA.write_text(json.dumps(sets).replace('}}, {"base', '}},\n{"base'))
        return
    worst = dict.fromkeys(METHODS, 0.0)
    for seed in range(100, 200):
        asked, answers = case(seed)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(asked, file)
            file.flush()
            for name, answer in answers.items():
                command = [sys.argv[2], "calibrate", "hand-eye", file.name, "--method", name, "--json"]
                done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                ours = matrix(Rotation.from_quat(done["rotation_xyzw"]), done["translation_m"])
                worst[name] = max(worst[name], np.abs(ours - answer).max())
    print(f"OpenCV {cv2.__version__}, 100 sets of 12 noisy poses, largest difference in any entry:")
    for name, apart in worst.items():
        print(f"  {name:<12} {apart:.2e}")
    sys.exit(int(max(worst.values()) > 1e-5))


main()
