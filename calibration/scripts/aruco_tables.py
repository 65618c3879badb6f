"""Writes the marker tables of OpenCV's predefined dictionaries: `calibration/src/camera/board/aruco_*.txt`.

    python calibration/scripts/aruco_tables.py calibration/src/camera/board

One marker a line in the order of ids: its bits row by row, 1 is white, as hexadecimal. The 50 and 100 markers of the smaller
dictionaries are the first of these 250. Needs `opencv-python-headless<5`, whose data these are (Apache-2.0).
"""

import sys
from pathlib import Path

import cv2

for size in (4, 5, 6):
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{size}X{size}_250"))
    lines = []
    for entry in dictionary.bytesList:
        bits = cv2.aruco.Dictionary.getBitsFromByteList(entry[None], size)
        lines.append(f"{int(''.join(str(int(bit)) for bit in bits.ravel()), 2):0{-(-size * size // 4)}x}")
    Path(sys.argv[1], f"aruco_{size}x{size}_250.txt").write_text("\n".join(lines) + "\n")
