"""affNIST (Tieleman 2013): MNIST's digits under affine maps, on 40×40 pixels. Here the test set only.

http://www.cs.toronto.edu/~tijmen/affNIST/ has it as MATLAB files, each a struct `affNISTdata` with the
fields `image`, uint8 [1600, N], a column an image, and `label_int` [1, N], among others.

Letters of shapes: N images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from capsnet import config, downloads, mat5, mnist
from capsnet.dataset_files import AFFNIST_SOURCE, affnist_files
from capsnet.framed_mnist import framed
from capsnet.images import AFFNIST_SIDE, MNIST_SIDE, DataError, Images

STRUCT = "affNISTdata"
PAD = (AFFNIST_SIDE - MNIST_SIDE) // 2  # pixels on each side of the digits that are trained on
JUDGED = 1000  # images by which it is decided how the pixels of all run


def load(root: Path, dataset: config.AffNIST) -> tuple[Images, Images]:
    """MNIST's training images in the middle of 40×40 pixels, and affNIST's test images.

    These are in `root`/affNIST/test.mat, or else in the files of `root`/affNIST/test_batches, which are all
    read: half a gigabyte, where all 320,000 images are there. Raises DataError when there are none, or a
    file is damaged.
    """
    files = affnist_files(root)
    train, originals = (framed(digits, PAD) for digits in mnist.load(root))
    parts = [_read(file) for file in files]
    images, labels = (_joined(list(arrays)) for arrays in zip(*parts, strict=True))
    test = Images(torch.from_numpy(_upright(images)).unsqueeze(1), torch.from_numpy(labels))
    if torch.equal(test.images[:JUDGED], originals.images[: min(JUDGED, len(test))]):
        raise DataError(
            f"{files[0]} has MNIST's digits as they are, not transformed: take the files of "
            f"{AFFNIST_SOURCE} instead"
        )
    return train, test


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # which would copy the only one, too


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 40, 40], whose pixels are read row by row, and labels int64 [N]."""
    fields = _struct(file)
    if not {"image", "label_int"} <= fields.keys():
        raise _fault(file, f"{STRUCT} has no image and label_int in it")
    images, labels = fields["image"], fields["label_int"].ravel()
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[0] != AFFNIST_SIDE**2:
        size = "×".join(map(str, images.shape))
        raise _fault(file, f"its images are {size} of {images.dtype}, not {AFFNIST_SIDE**2}×N of uint8")
    if images.shape[1] != len(labels) or len(labels) == 0:
        raise _fault(file, f"it has {images.shape[1]} images and {len(labels)} labels")
    if not np.isin(labels, np.arange(mnist.CLASSES)).all():
        raise _fault(file, "it has labels that are no digits")
    pixels = np.ascontiguousarray(images.T).reshape(-1, AFFNIST_SIDE, AFFNIST_SIDE)
    return pixels, labels.astype(np.int64)


def _struct(file: Path) -> dict[str, np.ndarray]:
    """The fields of the struct in a MATLAB file that are matrices of numbers."""
    try:
        found = mat5.read(file, (STRUCT,)).get(STRUCT)
    except OSError as error:
        raise _fault(file, f"it cannot be read ({downloads.cause(error)})") from error
    except mat5.MatError as error:
        raise _fault(file, f"it {error}") from error
    if not isinstance(found, dict):
        raise _fault(file, f"it holds no struct {STRUCT}")
    return found


def _fault(file: Path, fault: str) -> DataError:
    return DataError(
        f"{file} is no file of affNIST's: {fault}; put an undamaged copy there ({AFFNIST_SOURCE})"
    )


def _upright(images: np.ndarray) -> np.ndarray:
    """Images [N, 40, 40] turned over their diagonals where the digits lie on their sides.

    Nothing in the files says whether a column holds an image row by row, as most who read them take it,
    or column by column, as MATLAB has matrices; taken the wrong way each digit is its mirror image, lying.
    The digits tell: written ones are higher than wide, and up to 20 degrees do not change that.
    """
    some = images[:JUDGED].astype(np.float64)
    height, width = _spread(some.sum(2)), _spread(some.sum(1))
    return images if height >= width else np.ascontiguousarray(images.transpose(0, 2, 1))


def _spread(profiles: np.ndarray) -> float:
    """The sum over the images of the variance of where ink is, by how much is at each place: [N, 40]."""
    ink = profiles.sum(1)
    weights = profiles[ink > 0] / ink[ink > 0, None]
    places = np.arange(profiles.shape[1])
    means = weights @ places
    return float((weights @ places**2 - means**2).sum())
