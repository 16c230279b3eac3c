"""Your own images, in folders named after their classes (`capsnet.folder_files`).

Letters of shapes: C channels, S pixels a side.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from capsnet import config, downloads
from capsnet.folder_files import PARTS, classes, files, hidden
from capsnet.images import DataError, Images

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


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
    names = classes(root, dataset, skipped)
    found = {part: [files(root / part / name, skipped) for name in names] for part in PARTS}
    if skipped:
        log.info("%s: skipped %s, such as %s", root, hidden(len(skipped)), min(skipped).relative_to(root))
    train, test = (_read(root / part, found[part], dataset) for part in PARTS)
    return train, test


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
    """Convert to 8 bits a colour: of 16 bits the upper 8; opacity is ignored."""
    from PIL.Image import fromarray

    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel; save it with 8")
    if image.mode.startswith("I;16"):  # where Pillow, by its version, would cut off at 255
        image = fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the straight way
    return image.convert(mode)
