"""Your own images, in folders named after their classes.

    ROOT/train/CLASS/*.png
    ROOT/test/CLASS/*.png

They are found as torchvision's ImageFolder finds them: classes and files in the order of their names, files
by the endings below, also in folders inside a class's folder. Unlike there, hidden files and folders are
skipped, such as Jupyter's `.ipynb_checkpoints` and the `._cat.png` of macOS, and counted in the log.

Letters of shapes: C channels, S pixels a side.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from capsnet import config, downloads
from capsnet.images import DataError, Images

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

PARTS = ("train", "test")
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
HIDDEN = ("__MACOSX", "@eaDir")  # in archives made by macOS, and on Synology's file servers
NAMED = 5  # folders in a message


def load(root: Path, dataset: config.Folder) -> tuple[Images, Images]:
    """The images in `root`/train and `root`/test; classes are numbered in the order of their names.

    Logs how many files and folders were skipped as hidden. Raises DataError when the folders do not fit each
    other or `dataset`, or an image cannot be read or is of another size.
    """
    try:
        import PIL  # noqa: F401  # what needs it below can rely on it
    except ImportError as error:
        raise DataError("images are read by Pillow: pip install pillow") from error
    skipped: list[Path] = []
    classes = _classes(root, dataset, skipped)
    found = {part: [_files(root / part / name, skipped) for name in classes] for part in PARTS}
    if skipped:
        log.info("%s: skipped %s, such as %s", root, _hidden(len(skipped)), min(skipped).relative_to(root))
    train, test = (_read(root / part, found[part], dataset) for part in PARTS)
    return train, test


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the data."""
    return name.startswith(".") or name in HIDDEN


def _hidden(count: int) -> str:
    return "1 hidden file or folder" if count == 1 else f"{count} hidden files and folders"


def _classes(root: Path, dataset: config.Folder, skipped: list[Path]) -> list[str]:
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


def _read(folder: Path, files: list[list[Path]], dataset: config.Folder) -> Images:
    """The images of a part, from the files of each class."""
    found = [(path, label) for label, of_class in enumerate(files) for path in of_class]
    images = _room(folder, (len(found), dataset.channels, dataset.size, dataset.size))
    for image, (path, _) in zip(images, found, strict=True):
        image[:] = _pixels(path, dataset)
    return Images(torch.from_numpy(images), torch.tensor([label for _, label in found]))


def _room(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Memory for images uint8 [N, C, S, S]."""
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        count, *size = shape
        raise DataError(
            f"{folder} holds {count} images of {'×'.join(map(str, size))} bytes, "
            f"{math.prod(shape) / 1e9:.1f} GB together, which is more memory than there is: "
            "set a smaller dataset.size, with dataset.resize: true"
        ) from error


def _files(folder: Path, skipped: list[Path]) -> list[Path]:
    """The images of a class, at least one; what is hidden beside them is added to `skipped`."""
    before = len(skipped)
    found = [
        Path(inside, name)
        for inside, names in sorted(_walked(folder, skipped))
        for name in sorted(names)
        if name.lower().endswith(ENDINGS)
    ]
    if not found:
        hidden = len(skipped) - before
        beside = f" beside {_hidden(hidden)}" if hidden else ""
        endings = ", ".join(ENDINGS)
        raise DataError(f"{folder} holds no image{beside}; they are told by their endings: {endings}")
    return found


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


def _pixels(path: Path, dataset: config.Folder) -> np.ndarray:
    """One image, uint8 [C, S, S]."""
    from PIL import ImageOps
    from PIL.Image import Resampling

    image = _decoded(path, "L" if dataset.channels == 1 else "RGB")
    size = dataset.size, dataset.size
    if image.size != size:
        if not dataset.resize:
            raise DataError(
                f"{path} is {image.width}×{image.height} pixels, not {dataset.size}×{dataset.size}: "
                "give all images the size dataset.size, or set dataset.resize: true to scale and crop them"
            )
        image = ImageOps.fit(image, size, Resampling.BILINEAR)
    return np.asarray(image).reshape(*size, dataset.channels).transpose(2, 0, 1)


def _decoded(path: Path, mode: str) -> Image:
    """An image in grey ("L") or colour ("RGB"), turned as the camera says that it was held (EXIF)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return _converted(ImageOps.exif_transpose(image), mode)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no image that Pillow knows: replace or remove it") from error
    except Exception as error:  # Pillow's readers meet damage with whatever error it leads to
        raise DataError(f"{path} cannot be read ({downloads.cause(error)}): replace or remove it") from error


def _converted(image: Image, mode: str) -> Image:
    """With 8 bits a colour: of 16 bits the upper 8; opacity is ignored."""
    from PIL.Image import fromarray

    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel; save it with 8")
    if image.mode.startswith("I;16"):  # where Pillow, by its version, would cut off at 255
        image = fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the straight way
    return image.convert(mode)
