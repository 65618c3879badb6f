"""FAST action tokens to actions: an exact, refusing decoder (arXiv 2501.09747, "FAST").

ids -> vocabulary entries -> GPT-2 bytes -> UTF-8 -> coefficients (row-major [H, D], low frequencies first)
-> inverse orthonormal DCT-II over time, all in f64. Encoding is the runtime's job; only decoding is needed here.
Nothing is repaired: an unknown id, broken UTF-8 or a wrong count is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class FastError(ValueError):
    """The ids do not decode to exactly one chunk."""


def byte_of_char() -> dict[str, int]:
    """GPT-2's printable-byte table, inverted: character -> byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in kept}
    moved = (b for b in range(256) if b not in set(kept))
    table.update({chr(256 + i): b for i, b in enumerate(moved)})
    return table


def dct_matrix(rows: int) -> np.ndarray:
    """Orthonormal DCT-II, f64 [rows, rows]: ``C = M @ A`` over time, ``A = M.T @ C``."""
    k = np.arange(rows)[:, None]
    i = np.arange(rows)[None, :]
    matrix = np.cos(np.pi * (2 * i + 1) * k / (2 * rows)) * np.sqrt(2.0 / rows)
    matrix[0] /= np.sqrt(2.0)
    return matrix


@dataclass(frozen=True)
class Fast:
    """A FAST tokenizer, decode side. ``pieces[id]`` holds the bytes of one id."""

    pieces: tuple[bytes, ...]
    scale: float
    min_token: int

    @classmethod
    def load(cls, folder: str | Path) -> "Fast":
        """Reads ``tokenizer.json`` and ``processor_config.json`` of a Hugging Face FAST tokenizer."""
        folder = Path(folder)
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        if model.get("type") != "BPE":
            raise FastError(f"{folder / 'tokenizer.json'}: model.type is {model.get('type')!r}, expected 'BPE'")
        vocab = model["vocab"]
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise FastError(f"{folder / 'tokenizer.json'}: model.vocab ids are not 0..{len(vocab)}")
        byte = byte_of_char()
        pieces: list[bytes] = [b""] * len(vocab)
        for text, index in vocab.items():
            if any(c not in byte for c in text):
                raise FastError(f"{folder / 'tokenizer.json'}: entry {index} is not a byte-level token")
            pieces[index] = bytes(byte[c] for c in text)
        return cls(tuple(pieces), float(config["scale"]), int(config["min_token"]))

    def __len__(self) -> int:
        return len(self.pieces)

    def bytes_of(self, ids) -> bytes:
        """Concatenated bytes of ``ids``. Raises FastError on an unknown id."""
        out = bytearray()
        for a in ids:
            a = int(a)
            if not 0 <= a < len(self.pieces):
                raise FastError(f"id {a} is outside 0..{len(self.pieces)}")
            out += self.pieces[a]
        return bytes(out)

    def coefficients(self, ids) -> list[int]:
        """Rounded DCT coefficients carried by ``ids``; broken UTF-8 (also a cut last character) raises FastError."""
        try:
            text = self.bytes_of(ids).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FastError(f"invalid UTF-8 at byte {error.start}") from error
        return [ord(c) + self.min_token for c in text]

    def length(self, ids) -> int | None:
        """Number of complete coefficients so far, or None while the last character is incomplete or broken."""
        try:
            return len(self.coefficients(ids))
        except FastError:
            return None

    def decode(self, ids, rows: int, dims: int) -> np.ndarray:
        """Normalised chunk, f64 [rows, dims]. Raises FastError unless there are exactly rows*dims coefficients."""
        flat = self.coefficients(ids)
        if len(flat) != rows * dims:
            raise FastError(f"{len(flat)} coefficients, {rows} x {dims} = {rows * dims} needed")
        return dct_matrix(rows).T @ (np.asarray(flat, np.float64).reshape(rows, dims) / self.scale)


def unnormalise(y: np.ndarray, q01: np.ndarray, q99: np.ndarray) -> np.ndarray:
    """Inverse of ``y = 2 (x - q01) / (q99 - q01 + 1e-6) - 1``, per last dimension, no clipping."""
    return (y + 1.0) / 2.0 * (q99 - q01 + 1e-6) + q01


def normalise(x: np.ndarray, q01: np.ndarray, q99: np.ndarray) -> np.ndarray:
    """``y = 2 (x - q01) / (q99 - q01 + 1e-6) - 1``, per last dimension, no clipping (as openpi)."""
    return 2.0 * (x - q01) / (q99 - q01 + 1e-6) - 1.0


def absolute_actions(y: np.ndarray, state: np.ndarray, q01: np.ndarray, q99: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Normalised chunk [H, D] to absolute rad: un-normalise, then add the measured ``state`` [D] where ``relative`` [D]."""
    return unnormalise(y, q01, q99) + np.where(relative, state, 0.0)
