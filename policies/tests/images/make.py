"""Reference images for `tests/images.rs`, from the libraries that training uses (all third-party).

    python make.py                       small ones, into `small.npz` beside this file (seed fixed, committed)
    python make.py --sharp               bicubic and Lanczos, small, into `sharp.npz` (needs jax as well)
    python make.py --camera-size OUT     640x480 frames at model resolutions; then
    ENDPLATE_IMAGE_VECTORS=OUT cargo test --release -p endplate-policies --test images -- --ignored --nocapture

Needs pillow, opencv-python-headless, torch, torchvision; with LeRobot its two `resize_with_pad` as well.
`pip install pillow opencv-python-headless torch torchvision lerobot==0.6.1`.

Every case is `src_N` u8 `[h, w, 3]`, `ref_N` `[slot h, slot w, 3]` (u8, or f32 in grey levels where the library does not
round) and a line of JSON in `cases`.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as vision

SMALL = [((64, 48), (24, 18)), ((40, 30), (60, 44)), ((37, 23), (16, 16)), ((9, 31), (20, 12)), ((50, 40), (50, 13))]
CAMERA = [((640, 480), size) for size in [(96, 96), (224, 224), (256, 256), (320, 240), (384, 384), (720, 544)]]


def pil(source, size):
    return np.asarray(Image.fromarray(source).resize(size, Image.Resampling.BILINEAR))


def opencv(source, size):
    return cv2.resize(source, size, interpolation=cv2.INTER_LINEAR)


def torchvision_antialiased(source, size):
    image = torch.from_numpy(source).permute(2, 0, 1)
    out = vision.resize(image, [size[1], size[0]], interpolation=vision.InterpolationMode.BILINEAR, antialias=True)
    return out.permute(1, 2, 0).numpy()


def torch_plain(source, size):
    image = torch.from_numpy(source).permute(2, 0, 1)[None].float()
    out = torch.nn.functional.interpolate(image, size=(size[1], size[0]), mode="bilinear", align_corners=False)
    return out[0].permute(1, 2, 0).numpy()


REFERENCES = [
    ("bilinear_antialiased", "none", f"Pillow {PIL.__version__}", pil),
    ("bilinear_antialiased", "none", f"torchvision {torchvision.__version__}", torchvision_antialiased),
    ("bilinear", "none", f"OpenCV {cv2.__version__}", opencv),
    ("bilinear", "none", f"torch {torch.__version__}", torch_plain),
]
try:
    import lerobot
    from lerobot.policies.common.vla_utils import resize_with_pad, resize_with_pad_torch

    def lerobot_centre(source, size):
        image = torch.from_numpy(source).float()[None] / 255
        return resize_with_pad_torch(image, size[1], size[0])[0].numpy() * np.float32(255)

    def lerobot_top_left(source, size):
        image = torch.from_numpy(source).permute(2, 0, 1)[None].float()
        return resize_with_pad(image, size[1], size[0], pad_value=0)[0].permute(1, 2, 0).numpy()

    REFERENCES += [
        ("bilinear", "centre", f"LeRobot {lerobot.__version__} resize_with_pad_torch", lerobot_centre),
        ("bilinear", "top_left", f"LeRobot {lerobot.__version__} resize_with_pad", lerobot_top_left),
    ]
except ImportError as error:
    print(f"without LeRobot: {error}")


def pictures(rng, size):
    """Noise, the worst for a resampler, and edges with a gradient, what a camera sees."""
    width, height = size
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[0:height, 0:width]
    edges = np.stack([(x * 255) // width, (y * 255) // height, np.where((x // 7 + y // 5) % 2 == 0, 0, 255)], -1)
    return [noise, edges.astype(np.uint8)]


def sharp():
    """The filters that overshoot: OpenVLA's processor resizes with PIL's bicubic, its LIBERO and OFT evaluation with
    TensorFlow's antialiased Lanczos, which JAX has too (`scale_and_translate`)."""
    import jax

    def pil_bicubic(source, size):
        # Where an image shrinks down and grows across, Pillow 13 goes down first, and differs from torchvision (and from
        # the Pillow before it) by the cut in between: up to 14 levels on these pictures. No camera is resized so.
        if size[1] < source.shape[0] and size[0] > source.shape[1]:
            return None
        return np.asarray(Image.fromarray(source).resize(size, Image.Resampling.BICUBIC))

    def torchvision_bicubic(source, size):
        image = torch.from_numpy(source).permute(2, 0, 1)
        out = vision.resize(image, [size[1], size[0]], interpolation=vision.InterpolationMode.BICUBIC, antialias=True)
        return out.permute(1, 2, 0).numpy()

    def jax_lanczos(source, size):
        out = jax.image.resize(source.astype(np.float32), (size[1], size[0], 3), "lanczos3", antialias=True)
        return np.clip(np.round(np.asarray(out)), 0, 255).astype(np.uint8)

    return [
        ("bicubic_antialiased", "none", f"Pillow {PIL.__version__}", pil_bicubic),
        ("bicubic_antialiased", "none", f"torchvision {torchvision.__version__}", torchvision_bicubic),
        ("lanczos3_antialiased", "none", f"JAX {jax.__version__}", jax_lanczos),
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--camera-size", type=Path)
    parser.add_argument("--sharp", action="store_true")
    arguments = parser.parse_args()
    references = sharp() if arguments.sharp else REFERENCES
    rng = np.random.default_rng(5)
    arrays, cases = {}, []
    for size, slot in CAMERA if arguments.camera_size else SMALL:
        for picture in pictures(rng, size):
            source = f"src_{sum(name.startswith('src_') for name in arrays)}"
            arrays[source] = picture
            for resize, pad, library, reference in references:
                name = f"ref_{len(cases)}"
                answer = reference(picture, slot)
                if answer is None:
                    continue
                arrays[name] = np.ascontiguousarray(answer)
                if arrays[name].dtype != np.uint8:
                    arrays[name] = np.round(arrays[name], 2).astype(np.float32)  # compresses; far below a grey level
                assert arrays[name].shape == (slot[1], slot[0], 3), arrays[name].shape
                case = {"source": source, "reference": name, "width": slot[0], "height": slot[1]}
                cases.append(json.dumps(case | {"resize": resize, "pad": pad, "library": library}))
    arrays["cases"] = np.frombuffer("\n".join(cases).encode(), np.uint8)
    out = arguments.camera_size or Path(__file__).with_name("sharp.npz" if arguments.sharp else "small.npz")
    np.savez_compressed(out, **arrays)
    print(f"{out}: {len(cases)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
