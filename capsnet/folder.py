"""Your own images, in folders named after their classes.

    ROOT/train/CLASS/*.png
    ROOT/test/CLASS/*.png

They are found as torchvision's ImageFolder finds them: classes and files in the order of their names, files
by the endings below, also in folders inside a class's folder.

Letters of shapes: C channels, S pixels a side.
"""

from __future__ import annotations

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

PARTS = ("train", "test")
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
NAMED = 5  # folders in a message


def load(root: Path, dataset: config.Folder) -> tuple[Images, Images]:
    """The images in `root`/train and `root`/test; classes are numbered in the order of their names.

    Raises DataError when the folders do not fit each other or `dataset`, or an image cannot be read or is
    of another size.
    """
    try:
        import PIL  # noqa: F401  # what needs it below can rely on it
    except ImportError as error:
        raise DataError("images are read by Pillow: pip install pillow") from error
    classes = _classes(root, dataset)
    train, test = (_read(root / part, classes, dataset) for part in PARTS)
    return train, test


def _classes(root: Path, dataset: config.Folder) -> list[str]:
    """The classes, which both parts have."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder: dataset.root must name the one that holds train/ and test/")
    for part in PARTS:
        if not (root / part).is_dir():
            raise DataError(f"{root} has no folder {part}/: put images at {root}/{part}/CLASS/")
    train, test = (_folders(root / part) for part in PARTS)
    if len(train) < 2:
        found = f"only {train[0]}/" if train else "none"
        raise DataError(f"{root}/train must hold a folder for each class, two at least: there is {found}")
    if train != test:
        raise DataError(f"{root}: train/ and test/ must hold the same classes: {_difference(train, test)}")
    if len(train) != dataset.classes:
        raise DataError(f"{root}/train holds {len(train)} classes, but dataset.classes is {dataset.classes}")
    return train


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def _difference(train: list[str], test: list[str]) -> str:
    alone = {
        part: sorted(set(own) - set(other))
        for part, own, other in (("train/", train, test), ("test/", test, train))
    }
    return ", ".join(f"only {part} has {_listed(names)}" for part, names in alone.items() if names)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _read(folder: Path, classes: list[str], dataset: config.Folder) -> Images:
    found = [(path, label) for label, name in enumerate(classes) for path in _files(folder / name)]
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


def _files(folder: Path) -> list[Path]:
    """The images of a class, at least one."""
    found = [
        Path(inside, name)
        for inside, names in sorted(_walked(folder))
        for name in sorted(names)
        if name.lower().endswith(ENDINGS)
    ]
    if not found:
        raise DataError(f"{folder} holds no image; they are told by their endings: {', '.join(ENDINGS)}")
    return found


def _walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder in `folder`, with it, and the names of the files there; links to folders are followed."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for inside, _, names in os.walk(folder, onerror=fail, followlinks=True):
        around = Path(inside).relative_to(folder).parents
        if os.path.realpath(inside) in {os.path.realpath(folder / outer) for outer in around}:
            raise DataError(f"{inside} is a link to a folder around it, without an end: remove the link")
        yield inside, names


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
