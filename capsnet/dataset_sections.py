"""The `dataset` section of a run's YAML, one class for each data set.

Each kind has the keys that mean something for it, and its recipe's augmentation as their defaults. What
concerns training images only says so; the others hold for the test too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Tag

from capsnet.sections import NotNegative, PathText, Section, tagged

Side = Annotated[int, Field(ge=4, le=512)]  # pixels


def _pair(bounds: Any) -> Any:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ValueError("must be a list of 2, as in [0.2, 1.8]")
    return bounds


def _range(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be a lower and an upper bound, as in [0.2, 1.8]")
    return bounds


Range = Annotated[
    tuple[NotNegative, NotNegative], Field(strict=False), BeforeValidator(_pair), AfterValidator(_range)
]


def _order(value: Any) -> Any:
    if value is True:  # in files of before there was one order
        return "last"
    if value is False or value in ("first", "last"):
        return value
    raise ValueError("must be first, last or false")


# Whether each image gets mean 0 and standard deviation 1, as the network sees it. "first": by the mean and
# the deviation of the whole image, before it is cropped and lit. "last": of what is left after that.
Standardise = Annotated[Literal["first", "last"] | bool, BeforeValidator(_order)]


class ImageDataset(Section):
    """Settings that all data sets of images have."""

    validation: int = Field(default=0, ge=0)  # images taken from the training set by seed; they decide "best"
    shift: int = Field(default=2, ge=0, le=64)  # in pixels, at most, in each direction; training only


class StoredDataset(ImageDataset):
    """A data set that lies in files."""

    root: PathText | None = None  # folder of the files; None: $CAPSNET_DATA, else ./data


class Distorted(ImageDataset):
    """Distortions of digits in training (Mazzia et al. 2021), applied in this order; off by default."""

    rotate: float = Field(default=0.0, ge=0, le=180)  # degrees, at most, either way; every other image
    roam: bool = False  # an image moves within its empty margins, instead of by `shift`
    squeeze: int = Field(default=0, ge=0, le=511)  # pixels, at most, that an image gets narrower
    erase: int = Field(default=0, ge=0, le=255)  # pixels a side of a black square


class Digits(Distorted):
    """scikit-learn's 1,797 handwritten digits; the last 360, by other writers, are the test set."""

    name: Literal["digits"] = "digits"
    size: int = Field(default=28, ge=8, le=512)  # pixels a side; the 8×8 originals are upscaled


class MNIST(StoredDataset, Distorted):
    name: Literal["mnist"] = "mnist"


class FashionMNIST(StoredDataset, Distorted):
    name: Literal["fashion_mnist"] = "fashion_mnist"


class FramedMNIST(StoredDataset):
    """MNIST in a black frame, in which training images are placed at random (Sabour et al. 2017, 5.1)."""

    pad: int = Field(default=6, ge=0, le=64)  # pixels on each side
    shift: int = Field(default=6, ge=0, le=64)


class ShiftedMNIST(FramedMNIST):
    """MNIST on 40×40 pixels; in the test the digits stay in the middle."""

    name: Literal["shifted_mnist"] = "shifted_mnist"


class AffNIST(StoredDataset):
    """Trained as `shifted_mnist`, tested on the affNIST files (Tieleman 2013), which are 40×40 pixels."""

    name: Literal["affnist"] = "affnist"
    shift: int = Field(default=6, ge=0, le=64)


class AffineMNIST(FramedMNIST):
    """Trained as `shifted_mnist`, tested on MNIST's test images under affine maps drawn here: not affNIST."""

    name: Literal["affine_mnist"] = "affine_mnist"
    test_seed: int = Field(default=0, ge=0, le=2**63 - 1)  # of the maps; the test set does not follow `seed`


class MultiMNIST(StoredDataset):
    """Two digits of different classes, overlaid (Sabour et al. 2017, section 6)."""

    name: Literal["multi_mnist"] = "multi_mnist"
    pad: int = Field(default=4, ge=0, le=64)  # pixels on each side: 36×36
    shift: int = Field(default=4, ge=0, le=64)  # of each digit, in the test too
    test_seed: int = Field(default=0, ge=0, le=2**63 - 1)  # of the 10,000 test pairs, whatever `seed`


class Photographs(StoredDataset):
    """Settings that all data sets of photographs have: crops, flips, light."""

    shift: int = Field(default=0, ge=0, le=64)
    crop: Side | None = None  # pixels a side; at test from the centre; None: the whole image
    flip: bool = False  # left and right, at random; training only
    # Light changes training images only. `standardise: last` undoes its changes but for what `clip` cuts off
    # and, with contrast, how far the channels are apart.
    # Of 255; with `standardise: first` in standard deviations of the image.
    brightness: float = Field(default=0.0, ge=0, le=255)  # added, at most, either way
    contrast: Range = (1.0, 1.0)  # times the distance from each channel's mean
    clip: bool = True  # cut off at black and white what light makes darker or brighter
    standardise: Standardise = False


class CIFAR10(Photographs):
    """Crops, flips and light of the authors' code, which does what `clip: false` does here."""

    name: Literal["cifar10"] = "cifar10"
    crop: Side | None = 24
    flip: bool = True
    brightness: float = Field(default=63.0, ge=0, le=255)
    contrast: Range = (0.2, 1.8)
    standardise: Standardise = "last"


class SVHN(Photographs):
    """House numbers: digits cut out of photographs; the 73,257 training images, without the "extra" ones."""

    name: Literal["svhn"] = "svhn"


class SmallNORB(Photographs):
    """Toys in five classes, other toys in the test; the two cameras are two channels.

    Light is that of the authors' code, which does what `clip: false` does here, and crops after it.
    """

    name: Literal["smallnorb"] = "smallnorb"
    size: int = Field(default=48, ge=4, le=96)  # pixels a side that the 96×96 originals are scaled to
    crop: Side | None = 32
    brightness: float = Field(default=63.0, ge=0, le=255)
    contrast: Range = (0.2, 1.8)
    standardise: Standardise = "last"


class Folder(Photographs):
    """Your own images: ROOT/train/CLASS/*.png and ROOT/test/CLASS/*.png, or .jpg, .bmp, .tif, .webp."""

    name: Literal["folder"] = "folder"
    root: PathText  # type: ignore[assignment]  # no other folder could be meant
    size: Side  # pixels a side that all images have, or with `resize` get
    classes: int = Field(ge=2, le=10_000)  # how many; their names are those of the folders
    channels: Literal[1, 3] = 3  # grey or colour, whatever the files hold
    resize: bool = False  # scale other sizes by the shorter side, crop the middle; without they are errors


Dataset = Annotated[
    Annotated[Digits, Tag("digits")]
    | Annotated[MNIST, Tag("mnist")]
    | Annotated[FashionMNIST, Tag("fashion_mnist")]
    | Annotated[ShiftedMNIST, Tag("shifted_mnist")]
    | Annotated[AffNIST, Tag("affnist")]
    | Annotated[AffineMNIST, Tag("affine_mnist")]
    | Annotated[MultiMNIST, Tag("multi_mnist")]
    | Annotated[CIFAR10, Tag("cifar10")]
    | Annotated[SVHN, Tag("svhn")]
    | Annotated[SmallNORB, Tag("smallnorb")]
    | Annotated[Folder, Tag("folder")],
    tagged("name", "mnist"),
]
