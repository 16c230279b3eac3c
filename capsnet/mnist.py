"""MNIST and the data sets that come in its format: found, downloaded where absent, read, checked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from capsnet import downloads, idx
from capsnet.dataset_files import TRAINED_ON, Published
from capsnet.images import MNIST_SIDE, DataError, Images

CLASSES = 10


def load(root: Path, name: str = "mnist") -> tuple[Images, Images]:
    """The training and the test images of "mnist" or "fashion_mnist", which lie under `root`/MNIST/raw.

    Raises DataError when a file is missing and cannot be downloaded, or is damaged.
    """
    files = TRAINED_ON[name]
    downloads.complete(
        root,
        files.folder,
        missing=partial(files.missing, root),
        fetch=partial(_fetch, files.folder),
        gzipped=True,
    )
    return _read(root, files, "train"), _read(root, files, "t10k")


def _read(root: Path, files: Published, part: str) -> Images:
    raw = root / files.folder
    images = _array(files.path(root, f"{part}-images-idx3-ubyte"), 3)
    labels = _array(files.path(root, f"{part}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        size = "×".join(map(str, images.shape[1:]))
        raise DataError(f"{raw}: {part} images are {size} pixels, not {MNIST_SIDE}×{MNIST_SIDE}")
    if len(images) != len(labels) or len(images) == 0:
        raise DataError(f"{raw}: {part} has {len(images)} images and {len(labels)} labels")
    if labels.max() >= CLASSES:
        raise DataError(f"{raw}: {part} has the label {labels.max()}, the last class is {CLASSES - 1}")
    return Images(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long())


def _array(path: Path, dimensions: int) -> np.ndarray:
    try:
        return idx.read(path, dimensions)
    except idx.IdxError as error:
        raise DataError(f"{path} {error}: {downloads.REPLACE}") from error


def _fetch(place: str, folder: Path, missing: list[str]) -> Path:
    import torchvision  # takes a second, and nothing else here needs it

    kind = getattr(torchvision.datasets, Path(place).parts[0])  # its class has the name of its folder
    data = kind.__new__(kind)  # without __init__, which would go on to read all four files
    data.root = folder
    data.resources = [(file, md5) for file, md5 in kind.resources if Path(file).stem in missing]
    data.download()
    return folder / place
