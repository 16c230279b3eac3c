"""SVHN's cropped digits (Netzer et al. 2011): two MATLAB files, downloaded where absent, read and checked.

Letters of shapes: N images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from capsnet import downloads, mat5
from capsnet.dataset_files import SVHN
from capsnet.images import DataError, Images

NAMES: dict[str, str] = dict(zip(("train", "test"), SVHN.names, strict=True))
IMAGE = (32, 32, 3)  # height, width, channels
DIGITS = 10  # labels run from 1 to 10, which means 0


def load(root: Path) -> tuple[Images, Images]:
    """Load the training images, without the "extra" ones, and the test images.

    The files lie in `root`/SVHN, or in `root` itself, where torchvision puts them. Raises DataError when
    one is missing and cannot be downloaded, or is damaged.
    """
    downloads.complete(
        root,
        SVHN.folder,
        missing=partial(SVHN.missing, root),
        fetch=_fetch,
    )
    return _read(root, "train"), _read(root, "test")


def _read(root: Path, part: str) -> Images:
    path = SVHN.path(root, NAMES[part])
    pixels, labels = _matrices(path)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, np.ndarray):
        name = "y" if isinstance(pixels, np.ndarray) else "X"
        raise DataError(f"{path} holds no matrix {name} of numbers: {downloads.REPLACE}")
    if fault := _fault(pixels, labels):
        raise DataError(f"{path} {fault}: {downloads.REPLACE}")
    images = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
    digits = labels.reshape(-1).astype(np.int64) % DIGITS
    return Images(torch.from_numpy(images), torch.from_numpy(digits))


def _matrices(path: Path) -> list[mat5.Value | None]:
    """Read X and y of a file, None where it lacks one."""
    try:
        found = mat5.read(path, ("X", "y"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({downloads.cause(error)}): {downloads.REPLACE}") from error
    except mat5.MatError as error:
        raise DataError(f"{path} {error}: {downloads.REPLACE}") from error
    return [found.get("X"), found.get("y")]


def _fault(pixels: np.ndarray, labels: np.ndarray) -> str | None:
    """Return the fault of pixels that should be uint8 [32, 32, 3, N] and labels [N, 1]; None without one."""
    if pixels.ndim != 4 or pixels.shape[:3] != IMAGE or pixels.dtype != np.uint8:
        return f"holds {pixels.dtype} images of {'×'.join(map(str, pixels.shape))}, not uint8 of 32×32×3×N"
    count = pixels.shape[3]
    if count == 0 or labels.size != count:
        return f"has {count} images and {labels.size} labels"
    if wrong := [label for label in np.unique(labels) if label not in range(1, DIGITS + 1)]:
        return f"has the label {wrong[0]}; they go from 1 to {DIGITS}"
    return None


def _fetch(folder: Path, names: list[str]) -> Path:
    import torchvision  # takes a second, and nothing else here needs it

    kind = torchvision.datasets.SVHN
    for part, name in NAMES.items():
        if name in names:
            data = kind.__new__(kind)  # without __init__, which would go on to read the file
            data.root, data.split, data.filename = str(folder), part, name
            data.url = kind.split_list[part][0]
            data.download()
    return folder
