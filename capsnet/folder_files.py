"""The files of a `folder` data set: its classes, and the images of each. Imports no PyTorch and no Pillow.

    ROOT/train/CLASS/*.png
    ROOT/test/CLASS/*.png

They are found as torchvision's ImageFolder finds them: classes and files in the order of their names, files
by the endings below, also in folders inside a class's folder. Unlike there, hidden files and folders are
skipped, such as Jupyter's `.ipynb_checkpoints` and the `._cat.png` of macOS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from capsnet.dataset_sections import Folder
from capsnet.images import DataError

PARTS = ("train", "test")
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
HIDDEN = ("__MACOSX", "@eaDir")  # in archives made by macOS, and on Synology's file servers
NAMED = 5  # folders in a message


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the data."""
    return name.startswith(".") or name in HIDDEN


def hidden(count: int) -> str:
    """Say how many files and folders are hidden."""
    return "1 hidden file or folder" if count == 1 else f"{count} hidden files and folders"


def classes(root: Path, dataset: Folder, skipped: list[Path]) -> list[str]:
    """The classes, which both parts have; what is hidden beside them is added to `skipped`."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder: dataset.root must name the one that holds train/ and test/")
    for part in PARTS:
        if not (root / part).is_dir():
            raise DataError(f"{root} has no folder {part}/: put images at {root}/{part}/CLASS/")
    train, test = (_folders(root / part, skipped) for part in PARTS)
    if len(train) < 2:
        found = f"only {train[0]}/" if train else "none"
        raise DataError(f"{root}/train must hold a folder for each class, two at least: there is {found}")
    if train != test:
        raise DataError(f"{root}: train/ and test/ must hold the same classes: {_difference(train, test)}")
    if len(train) != dataset.classes:
        raise DataError(f"{root}/train holds {len(train)} classes, but dataset.classes is {dataset.classes}")
    return train


def _folders(folder: Path, skipped: list[Path]) -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(_shown(folder, names, skipped))


def _shown(folder: Path, names: list[str], skipped: list[Path]) -> list[str]:
    """The names in a folder that are not hidden; the others are added to `skipped`."""
    skipped += sorted(folder / name for name in names if is_hidden(name))
    return [name for name in names if not is_hidden(name)]


def _difference(train: list[str], test: list[str]) -> str:
    alone = {
        part: sorted(set(own) - set(other))
        for part, own, other in (("train/", train, test), ("test/", test, train))
    }
    return ", ".join(f"only {part} has {_listed(names)}" for part, names in alone.items() if names)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def files(folder: Path, skipped: list[Path]) -> list[Path]:
    """The images of a class, at least one; what is hidden beside them is added to `skipped`."""
    return [Path(inside, name) for inside, name in sorted(_images(folder, skipped))]


def training_images(root: Path, dataset: Folder, enough: int) -> int:
    """How many images there are to train on, counted up to `enough`; no image is opened.

    Raises DataError when a class or a part of one is missing.
    """
    names = classes(root, dataset, [])
    for part in PARTS:
        for name in names:
            next(_images(root / part / name, []))  # raises DataError where there is none
    found = (image for name in names for image in _images(root / "train" / name, []))
    return sum(1 for _ in islice(found, enough))


def _images(folder: Path, skipped: list[Path]) -> Iterator[tuple[str, str]]:
    """The folder and the name of each image of a class, in any order; DataError at the end of none."""
    before, found = len(skipped), False
    for inside, names in _walked(folder, skipped):
        for name in names:
            if name.lower().endswith(ENDINGS):
                found = True
                yield inside, name
    if not found:
        count = len(skipped) - before
        beside = f" beside {hidden(count)}" if count else ""
        endings = ", ".join(ENDINGS)
        raise DataError(f"{folder} holds no image{beside}; they are told by their endings: {endings}")


def _walked(folder: Path, skipped: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """Each folder in `folder`, with it, and the names of the files there; links to folders are followed.

    What is hidden is left out, and added to `skipped`.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for inside, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        around = Path(inside).relative_to(folder).parents
        if os.path.realpath(inside) in {os.path.realpath(folder / outer) for outer in around}:
            raise DataError(f"{inside} is a link to a folder around it, without an end: remove the link")
        folders[:] = _shown(Path(inside), folders, skipped)
        yield inside, _shown(Path(inside), names, skipped)
