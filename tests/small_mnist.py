"""Files in MNIST's format with a few drawn signs for digits, for tests of data sets made from MNIST."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

SIDE = 28
PARTS = {"train": 50, "t10k": 20}


def signs(labels: np.ndarray, seed: int) -> np.ndarray:
    """A sign for each label, uint8 [N, 28, 28]: a bar with a dash to one side, higher than wide, never twice
    the same; like MNIST's digits it lies in the middle 20×20 pixels.
    """
    random = np.random.default_rng(seed)
    images = np.zeros((len(labels), SIDE, SIDE), np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 5 + 4 * (label % 5), 8 if label < 5 else 16
        image[5:23, 13:16] = random.integers(150, 220, (18, 3))
        image[top : top + 2, left : left + 5] = random.integers(200, 256, (2, 5))
    return images


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as MNIST's files hold it."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(root: Path, **counts: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four files under `root`/MNIST/raw; what is in them: {"train": (images, labels), "t10k": ...}."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (part, count) in enumerate((PARTS | counts).items()):
        labels = np.arange(count) * 7 % 10
        images = signs(labels, seed)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
        written[part] = images, labels
    return written
