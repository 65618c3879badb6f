"""A saved LeRobot policy becomes a bundle: ``endplate-export lerobot PATH --out bundle/``.

| module | what it does |
|---|---|
| ``checkpoint`` | reads and checks what ``save_pretrained`` wrote: config, weights, processors, statistics |
| ``embodiment`` | reads what a checkpoint does not say: joint names, units, rows a second |
| ``statistics`` | LeRobot's normalisation modes as the bundle writes them |
| ``graphs`` | torch modules to ONNX graphs with static shapes that share ``weights.bin`` |
| ``bundle`` | golden samples, ``policy.toml``, digests, and the comparison that may refuse all of it |
| ``act`` … | one module a family |

Shapes: ``B`` batch, ``H`` rows of a chunk, ``D`` action dimensions, ``S`` state dimensions, ``h w`` image.
"""

from __future__ import annotations

#: The version whose files and arithmetic this package was written against.
LEROBOT = "0.6.1"


class ExportError(ValueError):
    """The checkpoint cannot become a bundle; nothing is written. Says file, field, value and remedy."""

    def __init__(self, file, field: str, value, remedy: str):
        super().__init__(f"{file}: {field} = {value}: {remedy}" if field else f"{file}: {remedy}")
