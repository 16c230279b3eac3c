"""MNIST and the data sets that come in its format: found, downloaded where absent, read, checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from capsnet import downloads, idx
from capsnet.images import MNIST_SIDE, DataError, Images

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
CLASSES = 10
NAMES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def load(root: Path, name: str = "mnist") -> tuple[Images, Images]:
    """The training and the test images of "mnist" or "fashion_mnist", which lie under `root`/MNIST/raw.

    Raises DataError when a file is missing and cannot be downloaded, or is damaged.
    """
    folder = FOLDERS[name]
    raw = root / folder / "raw"
    downloads.complete(
        root,
        f"{folder}/raw",
        missing=lambda: [name for name in NAMES if idx.find(raw, name) is None],
        fetch=lambda temporary, names: _fetch(temporary, folder, names),
        gzipped=True,
    )
    return _read(raw, "train"), _read(raw, "t10k")


def _read(raw: Path, part: str) -> Images:
    images = _array(raw, f"{part}-images-idx3-ubyte", 3)
    labels = _array(raw, f"{part}-labels-idx1-ubyte", 1)
    if images.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        size = "×".join(map(str, images.shape[1:]))
        raise DataError(f"{raw}: {part} images are {size} pixels, not {MNIST_SIDE}×{MNIST_SIDE}")
    if len(images) != len(labels) or len(images) == 0:
        raise DataError(f"{raw}: {part} has {len(images)} images and {len(labels)} labels")
    if labels.max() >= CLASSES:
        raise DataError(f"{raw}: {part} has the label {labels.max()}, the last class is {CLASSES - 1}")
    return Images(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long())


def _array(raw: Path, name: str, dimensions: int) -> np.ndarray:
    path = idx.find(raw, name) or raw / name
    try:
        return idx.read(path, dimensions)
    except idx.IdxError as error:
        raise DataError(f"{path} {error}: {downloads.REPLACE}") from error


def _fetch(folder: Path, name: str, missing: list[str]) -> Path:
    import torchvision  # takes a second, and nothing else here needs it

    kind = getattr(torchvision.datasets, name)
    data = kind.__new__(kind)  # without __init__, which would go on to read all four files
    data.root = folder
    data.resources = [(file, md5) for file, md5 in kind.resources if Path(file).stem in missing]
    data.download()
    return folder / name / "raw"
