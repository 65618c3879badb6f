"""Corners of a ChArUco board or a chessboard in images, for `endplate calibrate camera`; and a check against OpenCV.

    python calibration/scripts/board_corners.py find 'images/*.png' corners.json --squares 11x8 --square-m 0.02 [--marker-m 0.015]
    python calibration/scripts/board_corners.py check ENDPLATE

With `--marker-m` the board is ChArUco (dictionary `--dictionary`, default DICT_4X4_250), without it a chessboard;
`--squares` counts squares, across x down. `check` renders ChArUco views of a known camera, finds their corners, and holds the
binary's fit against the known camera and against OpenCV's own (third-party).

Needs `opencv-python-headless<5` and NumPy.
"""

import argparse
import glob
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np


def charuco_board(squares, square_m, marker_m, dictionary):
    return cv2.aruco.CharucoBoard(squares, square_m, marker_m, cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary)))


def find_charuco(image, board):
    corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(image)
    if ids is None:
        return []
    points = board.getChessboardCorners()
    return [(points[i][:2].tolist(), pixel.ravel().tolist()) for i, pixel in zip(ids.ravel(), corners)]


def find_chessboard(image, squares, square_m):
    inner = (squares[0] - 1, squares[1] - 1)
    found, corners = cv2.findChessboardCornersSB(image, inner)
    if not found:
        return []
    return [([(i % inner[0]) * square_m, (i // inner[0]) * square_m], c.ravel().tolist()) for i, c in enumerate(corners)]


def document(size, views):
    return {
        "width": size[0],
        "height": size[1],
        "views": [{"image": name, "corners": [{"object_m": o, "pixel": p} for o, p in corners]} for name, corners in views],
    }


def find(arguments):
    squares = tuple(int(n) for n in arguments.squares.split("x"))
    views, size = [], None
    for path in sorted(glob.glob(arguments.images)):
        image = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        if image is None:
            sys.exit(f"{path}: not an image")
        if size not in (None, image.shape[::-1]):
            sys.exit(f"{path}: {image.shape[::-1]} pixels and the images before {size}: give images of one size")
        size = image.shape[::-1]
        if arguments.marker_m:
            corners = find_charuco(image, charuco_board(squares, arguments.square_m, arguments.marker_m, arguments.dictionary))
        else:
            corners = find_chessboard(image, squares, arguments.square_m)
        print(f"{path}: {len(corners)} corners")
        views.append((Path(path).name, corners))
    if not views:
        sys.exit(f"{arguments.images}: no image")
    Path(arguments.out).write_text(json.dumps(document(size, views)))


def render(board_image, board_size_m, rotation, translation, camera, distortion, size):
    """A view of the board, four times supersampled, through the exact camera model."""
    factor = 4
    u, v = np.meshgrid((np.arange(size[0] * factor) + 0.5) / factor - 0.5, (np.arange(size[1] * factor) + 0.5) / factor - 0.5)
    rays = cv2.undistortPointsIter(
        np.stack([u.ravel(), v.ravel()], 1)[:, None].astype(np.float64), camera, distortion, None, None,
        (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 60, 1e-12),
    )[:, 0]
    plane = np.linalg.inv(np.column_stack([rotation[:, 0], rotation[:, 1], translation]))
    on_board = np.column_stack([rays, np.ones(len(rays))]) @ plane.T
    x, y = on_board[:, 0] / on_board[:, 2], on_board[:, 1] / on_board[:, 2]
    scale = board_image.shape[1] / board_size_m[0]
    map_x = (x * scale - 0.5).reshape(u.shape).astype(np.float32)
    map_y = (y * scale - 0.5).reshape(u.shape).astype(np.float32)
    big = cv2.remap(board_image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=170)
    return cv2.resize(big, size, interpolation=cv2.INTER_AREA)


def check(arguments):
    rng = np.random.default_rng(3)
    size = (640, 480)
    camera = np.array([[612.3, 0, 326.4], [0, 609.8, 236.9], [0, 0, 1]])
    distortion = np.array([-0.28, 0.09, 0.0012, -0.0007, 0.01])
    squares, square_m = (11, 8), 0.02
    board = charuco_board(squares, square_m, 0.015, "DICT_4X4_250")
    board_image = board.generateImage((squares[0] * 120, squares[1] * 120), marginSize=0)
    views = []
    while len(views) < arguments.views:
        rotation = cv2.Rodrigues(np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(-0.3, 0.3)]))[0]
        middle = np.array([squares[0] * square_m / 2, squares[1] * square_m / 2, 0])
        at = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.09, 0.09), rng.uniform(0.25, 0.4)])
        image = render(board_image, (squares[0] * square_m, 0), rotation, at - rotation @ middle, camera, distortion, size)
        image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        corners = find_charuco(image, board)
        if len(corners) >= 20:
            views.append((f"{len(views)}.png", corners))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document(size, views), file)
        file.flush()
        done = subprocess.run([arguments.endplate, "calibrate", "camera", file.name, "--json"], capture_output=True, text=True, check=True)
    ours = json.loads(done.stdout)
    objects = [np.array([[*o, 0] for o, _ in corners], np.float32) for _, corners in views]
    pixels = [np.array([p for _, p in corners], np.float32) for _, corners in views]
    rms, theirs, _, _, _ = cv2.calibrateCamera(objects, pixels, size, None, None)
    print(f"OpenCV {cv2.__version__}, {len(views)} rendered ChArUco views, {sum(len(c) for _, c in views)} corners")
    print(f"rms px: endplate {ours['rms_px']:.4f} ({ours['rejected']} corners rejected), OpenCV {rms:.4f} (none rejected)")
    print(f"{'':4} {'true':>10} {'endplate':>10} {'OpenCV':>10} {'off true':>9} {'off OpenCV':>11}")
    worst = 0
    for name, true, other in [("fx", camera[0, 0], theirs[0, 0]), ("fy", camera[1, 1], theirs[1, 1]), ("cx", camera[0, 2], theirs[0, 2]), ("cy", camera[1, 2], theirs[1, 2])]:
        value = ours["camera"][name]
        worst = max(worst, abs(value / true - 1))
        print(f"{name:4} {true:10.3f} {value:10.3f} {other:10.3f} {100 * (value / true - 1):8.3f}% {100 * (value / other - 1):10.3f}%")
    sys.exit(int(worst > 0.002))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    finder = commands.add_parser("find")
    finder.add_argument("images")
    finder.add_argument("out")
    finder.add_argument("--squares", required=True)
    finder.add_argument("--square-m", type=float, required=True)
    finder.add_argument("--marker-m", type=float)
    finder.add_argument("--dictionary", default="DICT_4X4_250")
    finder.set_defaults(run=find)
    checker = commands.add_parser("check")
    checker.add_argument("endplate")
    checker.add_argument("--views", type=int, default=20)
    checker.set_defaults(run=check)
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
