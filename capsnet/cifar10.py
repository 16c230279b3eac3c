"""CIFAR-10 as it is published for Python: six pickles of 10,000 images each, whose checksums are known.

Letters of shapes: N images.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from capsnet import downloads, pickled
from capsnet.dataset_files import CIFAR10
from capsnet.images import DataError, Images

MD5 = (  # of the files, in their order
    "c99cafc152244af753f735de768cd75f",
    "d4bba439e000b95fd0a9bffe97cbabec",
    "54ebc095f3ab1f0389bbae665268c751",
    "634d18415352ddfa80567beed471001a",
    "482c414d41f54cd18b22e5b47cb7c3cb",
    "40351d587109b95175f43aff81a1287e",
)
SUMS = dict(zip(CIFAR10.names, MD5, strict=True))
TRAIN = {name: SUMS[name] for name in CIFAR10.names[:-1]}
TEST = {name: SUMS[name] for name in CIFAR10.names[-1:]}
IMAGE = (3, 32, 32)  # channels, height, width; a row of the file is one image in this order
CLASSES = 10


def load(root: Path) -> tuple[Images, Images]:
    """The training and the test images, which lie under `root`/cifar-10-batches-py.

    Raises DataError when a file is missing and cannot be downloaded, or is not as it was published.
    """
    folder = root / CIFAR10.folder
    downloads.complete(
        root,
        CIFAR10.folder,
        missing=partial(CIFAR10.missing, root),
        fetch=lambda temporary, _: _fetch(temporary),
    )
    return _read(folder, TRAIN), _read(folder, TEST)


def _read(folder: Path, sums: dict[str, str]) -> Images:
    batches = [_batch(folder / name, md5) for name, md5 in sums.items()]
    images = np.concatenate([images for images, _ in batches])
    labels = [label for _, labels in batches for label in labels]
    return Images(torch.from_numpy(images), torch.tensor(labels))


def _batch(path: Path, md5: str) -> tuple[np.ndarray, list[int]]:
    """The images uint8 [N, 3, 32, 32] and labels of one file."""
    try:
        return _parsed(_content(path, md5))
    except pickled.PickledError as error:
        raise DataError(f"{path} {error}: {downloads.REPLACE}") from error


def _content(path: Path, md5: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise pickled.PickledError(f"({len(content)} bytes) has the MD5 sum {found}, not {md5}")
    return content


def _parsed(content: bytes) -> tuple[np.ndarray, list[int]]:
    batch = pickled.load(content)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise pickled.PickledError("does not hold the data and the labels of a batch")
    images, labels = pickled.array(batch[b"data"]), batch[b"labels"]
    if images.ndim != 2 or images.shape[1] != np.prod(IMAGE):
        shape = "×".join(map(str, images.shape))
        raise pickled.PickledError(f"holds {shape} values, not {np.prod(IMAGE)} for each image")
    if not isinstance(labels, list) or len(labels) != len(images) or not labels:
        count = len(labels) if isinstance(labels, list) else "no"
        raise pickled.PickledError(f"has {len(images)} images and {count} labels")
    if wrong := [label for label in labels if type(label) is not int or not 0 <= label < CLASSES]:
        raise pickled.PickledError(f"has the label {wrong[0]}, the last class is {CLASSES - 1}")
    return images.reshape(-1, *IMAGE), labels


def _fetch(folder: Path) -> Path:
    import torchvision  # takes a second, and nothing else here needs it

    kind = torchvision.datasets.CIFAR10
    data = kind.__new__(kind)  # without __init__, which would go on to read the files
    data.root = str(folder)
    data.download()
    return folder / CIFAR10.folder
