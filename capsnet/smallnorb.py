"""SmallNORB (LeCun, Huang, Bottou 2004): toys in front of two cameras, read from its matrix files.

Letters of shapes: N images, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from capsnet import binary_matrix
from capsnet.dataset_files import SMALLNORB, SMALLNORB_PARTS
from capsnet.images import DataError, Images

REPLACE = f"put an undamaged copy there, from {SMALLNORB.source}"
Part = Literal["train", "test"]
CAMERAS, SIDE = 2, 96  # as published
CLASSES = 5  # four-legged animals, human figures, airplanes, trucks, cars
INFO = ("instance", "elevation", "azimuth", "lighting")  # 0 to 9; 0 to 8; 0, 2, ... 34; 0 to 5


def load(root: Path, size: int) -> tuple[Images, Images]:
    """The training and the test images under `root`/smallnorb, scaled from 96 to `size` pixels a side.

    A pixel is the mean of those that it covers, for 48 of 2×2. The two cameras are two channels. Raises
    DataError when a file is missing or damaged.
    """
    SMALLNORB.require(root)
    return _read(root, "train", size), _read(root, "test", size)


def read_info(root: Path, part: Part) -> torch.Tensor:
    """Read how each image of a part was taken, in the order of the images: int64 [N, 4], columns as in INFO.

    Training does not use it; it is here for the analysis of a network's errors, as by elevation and azimuth.
    """
    name = _name(part, "info")
    replace(SMALLNORB, names=(name,)).require(root)
    return _integers(SMALLNORB.path(root, name), (len(INFO),))


def _read(root: Path, part: Part, size: int) -> Images:
    dat, cat = SMALLNORB.path(root, _name(part, "dat")), SMALLNORB.path(root, _name(part, "cat"))
    labels = _integers(cat, ())
    if wrong := [label for label in labels.unique().tolist() if not 0 <= label < CLASSES]:
        raise DataError(f"{cat} has the label {wrong[0]}, the last class is {CLASSES - 1}: {REPLACE}")
    with _named(dat):
        parts = binary_matrix.parts(dat, binary_matrix.BYTES, (CAMERAS, SIDE, SIDE))
        images = torch.cat([_scaled(pixels, size) for pixels in parts])  # in parts: the whole has 450 MB
    if len(images) != len(labels):
        raise DataError(f"{dat} has {len(images)} images, but {cat.name} {len(labels)} labels: {REPLACE}")
    return Images(images, labels)


def _integers(path: Path, row: tuple[int, ...]) -> torch.Tensor:
    """int64 [N, *row]."""
    with _named(path):
        return torch.from_numpy(binary_matrix.read(path, binary_matrix.INTEGERS, row)).long()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn MatrixError into DataError that names the file."""
    try:
        yield
    except binary_matrix.MatrixError as error:
        raise DataError(f"{path} {error}: {REPLACE}") from error


def _scaled(pixels: np.ndarray, size: int) -> torch.Tensor:
    """uint8 [N, 2, 96, 96] -> uint8 [N, 2, S, S]."""
    images = torch.from_numpy(pixels)
    if size == SIDE:
        return images
    return F.interpolate(images.float(), size=(size, size), mode="area").round().to(torch.uint8)


def _name(part: str, kind: str) -> str:
    return f"{SMALLNORB_PARTS[part]}-{kind}.mat"
