"""The files of each data set: which, where, and whether they are downloaded. Imports no PyTorch.

So a command can say at once what a run would lack. The modules that read files have their names from here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from capsnet import folder_files
from capsnet.dataset_sections import AffNIST, Dataset, Digits, Folder
from capsnet.images import DataError


@dataclass(frozen=True)
class Published:
    """A published data set: its files below the folder of data, and how many images it has to train on."""

    folder: str
    names: tuple[str, ...]
    training_images: int
    source: str | None = None  # the page to get them from by hand; None: they are downloaded where absent
    gzipped: bool = False  # each may be packed: NAME.gz
    in_root: bool = False  # each may also lie in the folder of data itself, where torchvision puts it

    def find(self, root: Path, name: str) -> Path | None:
        """The file of this name, or with .gz at its end, below the folder of data `root`."""
        folders = (root / self.folder, root) if self.in_root else (root / self.folder,)
        endings = ("", ".gz") if self.gzipped else ("",)
        places = (folder / f"{name}{ending}" for folder in folders for ending in endings)
        return next((place for place in places if place.is_file()), None)

    def path(self, root: Path, name: str) -> Path:
        """The file of this name or, where there is none, where it is looked for first."""
        return self.find(root, name) or root / self.folder / name

    def missing(self, root: Path) -> list[str]:
        """The names of the files that are not there."""
        return [name for name in self.names if self.find(root, name) is None]

    def require(self, root: Path) -> None:
        """Raise DataError where missing files are not downloaded, or cannot be downloaded to `root`."""
        if not (missing := self.missing(root)):
            return
        if self.source is not None:
            raise DataError(
                f"{root / self.folder} lacks {', '.join(missing)}: get them from {self.source} and "
                f"{ways_out(self.folder, self.gzipped)}"
            )
        require_place(root, self.folder)


def _of_mnist(folder: str) -> Published:
    parts, kinds = ("train", "t10k"), ("images-idx3", "labels-idx1")
    names = tuple(f"{part}-{kind}-ubyte" for part in parts for kind in kinds)
    return Published(folder, names, training_images=60_000, gzipped=True)


DIGITS = 1797  # scikit-learn's, which are no files of ours
DIGITS_FOR_TEST = 360  # the last ones: other writers than the first 1,437
MNIST = _of_mnist("MNIST/raw")
FASHION_MNIST = _of_mnist("FashionMNIST/raw")
CIFAR10 = Published(
    "cifar-10-batches-py",
    (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
    training_images=50_000,
)
SVHN = Published("SVHN", ("train_32x32.mat", "test_32x32.mat"), training_images=73_257, in_root=True)
SMALLNORB_PARTS = {  # the numbers are the toys: five classes with instances 4, 6, 7, 8, 9 or 0, 1, 2, 3, 5
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
SMALLNORB = Published(
    "smallnorb",
    tuple(f"{part}-{kind}.mat" for part in SMALLNORB_PARTS.values() for kind in ("dat", "cat")),
    training_images=24_300,
    source="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
    gzipped=True,
)
AFFNIST = "affNIST"  # the folder of its test images; it is trained on MNIST
AFFNIST_SOURCE = "http://www.cs.toronto.edu/~tijmen/affNIST/32x/transformed/"

TRAINED_ON: dict[str, Published] = {  # by the name of the data set
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "shifted_mnist": MNIST,
    "affnist": MNIST,
    "affine_mnist": MNIST,
    "multi_mnist": MNIST,
    "cifar10": CIFAR10,
    "svhn": SVHN,
    "smallnorb": SMALLNORB,
}


def require(dataset: Dataset, root: Path) -> None:
    """Raise DataError where a data set is not below `root` and cannot be downloaded there."""
    if isinstance(dataset, Folder):
        folder_files.training_images(root, dataset, enough=0)
        return
    if isinstance(dataset, AffNIST):
        affnist_files(root)
    if not isinstance(dataset, Digits):
        TRAINED_ON[dataset.name].require(root)


def training_images(dataset: Dataset, root: Path, enough: int) -> int:
    """How many images a data set has to train on, without reading one; of folders counted up to `enough`.

    Raises DataError when folders of images are not as they should be.
    """
    if isinstance(dataset, Digits):
        return DIGITS - DIGITS_FOR_TEST
    if isinstance(dataset, Folder):
        return folder_files.training_images(root, dataset, enough)
    return TRAINED_ON[dataset.name].training_images


def affnist_files(root: Path) -> list[Path]:
    """affNIST's test.mat, or the files of its test_batches by their numbers. Raises DataError."""
    folder = root / AFFNIST
    whole, batches = folder / "test.mat", folder / "test_batches"
    if whole.is_file():
        return [whole]
    files = [file for file in batches.glob("*.mat") if file.is_file()]
    if not files:
        raise DataError(
            f"there is neither {whole} nor any {batches}/*.mat: unpack test.mat.zip or test_batches.zip of "
            f"{AFFNIST_SOURCE} in {folder}"
        )
    return sorted(files, key=_numbers)


def _numbers(file: Path) -> tuple[list[int], str]:
    """Return a key to sort by, so that 2.mat comes before 10.mat."""
    return [int(number) for number in re.findall(r"\d+", file.stem)], file.name


def require_place(root: Path, place: str) -> None:
    """Raise DataError unless `root` and its folder `place` for downloads are folders, or can be made."""
    for folder in (root, *(root / part for part in reversed(Path(place).parents)), root / place):
        if os.path.lexists(folder) and not folder.is_dir():
            raise DataError(f"{folder} is no folder to put {place} in: correct dataset.root or CAPSNET_DATA")
    if not root.parent.is_dir():  # a misspelt path rather than a new place for data
        raise DataError(
            f"there is no folder {root.parent} to put {root.name}/{place} in: correct dataset.root or "
            "CAPSNET_DATA, or make that folder"
        )


def ways_out(place: str, gzipped: bool = False) -> str:
    """Return advice for a user who has the files of the folder `place`, or can get them."""
    packed = ", gzipped or not" if gzipped else ""
    return (
        f"put the files there{packed}, or set dataset.root or CAPSNET_DATA to the folder that holds {place}"
    )
