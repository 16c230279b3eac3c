"""MNIST and the data sets that come in its format: found, downloaded where absent, read, checked."""

from __future__ import annotations

import fcntl
import shutil
import sys
import tempfile
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from capsnet import idx
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
    if missing := _missing(raw):
        _download(root, folder, missing)
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
        advice = "put an undamaged copy there, or delete it to have it downloaded again"
        raise DataError(f"{path} {error}: {advice}") from error


def _missing(raw: Path) -> list[str]:
    return [name for name in NAMES if idx.find(raw, name) is None]


def _download(root: Path, folder: str, missing: list[str]) -> None:
    """Let torchvision download the files; they appear in their place whole or not at all."""
    raw = root / folder / "raw"
    try:
        with _locked(root):
            if still := _missing(raw):  # otherwise another run has downloaded them meanwhile
                with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
                    _fetch(Path(temporary), folder, still)
                    raw.mkdir(parents=True, exist_ok=True)
                    for name in still:
                        shutil.move(Path(temporary) / folder / "raw" / name, raw / name)
    except (OSError, HTTPException, RuntimeError, ImportError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(
            f"{raw} lacks {', '.join(missing)}, and downloading failed ({cause}): put the files there, "
            f"gzipped or not, or set dataset.root or CAPSNET_DATA to the folder that holds {folder}/raw"
        ) from error


def _fetch(folder: Path, name: str, missing: list[str]) -> None:
    import torchvision  # takes a second, and nothing else here needs it

    kind = getattr(torchvision.datasets, name)
    data = kind.__new__(kind)  # without __init__, which would go on to read all four files
    data.root = folder
    data.resources = [(file, md5) for file, md5 in kind.resources if Path(file).stem in missing]
    with redirect_stdout(sys.stderr):  # its progress is no output of ours
        data.download()


@contextmanager
def _locked(root: Path):
    """Hold a lock on `root`, so that runs which start together download once."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".download.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
