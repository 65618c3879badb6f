"""Holds the JPEG decoder against libjpeg-turbo (through Pillow) on 108 noisy images of six sizes.

    python hal/tests/jpeg/compare.py        # from the repository's root; needs Pillow and NumPy
"""
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageFile

ImageFile.MAXBLOCK = 1 << 24
rng = np.random.default_rng(1)
with tempfile.TemporaryDirectory() as folder:
    names = []
    for width, height in ((640, 480), (161, 123), (33, 17), (5, 3), (2, 2), (17, 64)):
        y, x = np.mgrid[0:height, 0:width]
        wave, ramp, board = 128 + 100 * np.sin(x / 9) * np.cos(y / 7), (5 * x + y) % 256, 255 * ((x // 16 + y // 16) % 2)
        pixels = np.stack([wave, ramp, board], -1) + rng.normal(0, 8, (height, width, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        for subsampling, sampling in (("444", 0), ("422", 1), ("420", 2)):
            for quality in (30, 75, 100):
                for restart in (0, 3):
                    buffer = io.BytesIO()
                    more = {"restart_marker_blocks": restart} if restart else {"optimize": True}
                    image.save(buffer, "JPEG", quality=quality, subsampling=sampling, **more)
                    name = Path(folder, f"{width}_{subsampling}_{quality}_{restart}")
                    name.with_suffix(".jpg").write_bytes(buffer.getvalue())
                    name.with_suffix(".rgb").write_bytes(Image.open(buffer).convert("RGB").tobytes())
                    names.append(str(name))
    print(f"Pillow {PIL.__version__}, {len(names)} images")
    command = ["cargo", "run", "--release", "-q", "-p", "endplate-hal", "--features", "mjpeg", "--example", "decode_jpeg", "--"]
    sys.exit(subprocess.run(command + names).returncode)
