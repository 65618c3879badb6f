"""Writes the JPEG frames of the decoder's test and their pixels as libjpeg-turbo (through Pillow) decodes them.

Run in this folder: python make.py  (Pillow; upsampling is libjpeg's default, "fancy").
"""
import io
import math

from PIL import Image

WIDTH, HEIGHT = 48, 32

image = Image.new("RGB", (WIDTH, HEIGHT))
for y in range(HEIGHT):
    for x in range(WIDTH):
        wave = math.sin(x / 5) * math.cos(y / 7)
        image.putpixel((x, y), (int(128 + 100 * wave), 5 * x + y, 255 - 6 * y - x))
for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, subsampling=subsampling)
    with open(f"{name}.jpg", "wb") as file:
        file.write(buffer.getvalue())
    with open(f"{name}.rgb", "wb") as file:
        file.write(Image.open(buffer).convert("RGB").tobytes())
