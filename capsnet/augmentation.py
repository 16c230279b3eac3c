"""Random changes to training images, computed on the images' device, and the batches that a network takes.

Everything random is drawn for a whole epoch at once, one row for each image, before any of it is applied.

Letters of shapes: N images of an epoch, B batch, L labels of an image, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from capsnet import distortion, randomness
from capsnet.affine import looked_up
from capsnet.config import Dataset, Distorted, MultiMNIST, Photographs
from capsnet.images import Images, ImageShape, shape

Draws = dict[str, torch.Tensor]  # by what they decide, each [N, ...]
LIGHT = ("brightness", "contrast")
SCALED_AT_ONCE = 1024  # images


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and labels that a network is trained or tested on.

    inputs float32 [B, C, H, W]; targets, what a decoder should show, in [0, 1] and of the same shape;
    labels int64 [B]. Where an image shows L classes, labels [B, L] and targets [B, L, C, H, W].
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def draw(dataset: Dataset, seed: int, epoch: int, count: int) -> Draws:
    """Draw the random numbers that `dataset` asks for, for the `count` images of an epoch, on the CPU."""
    draws: Draws = {}
    if dataset.shift:
        draws["shifts"] = draw_shifts(seed, epoch, count, dataset.shift, digits=shape(dataset).labels)
    if isinstance(dataset, Distorted):
        draws |= _distortions(dataset, seed, epoch, count, shape(dataset))
    if not isinstance(dataset, Photographs):
        return draws
    if dataset.crop:
        draws["crops"] = _uniform(seed, epoch, "crops", (count, 2), 0, 1)
    if dataset.flip:
        draws["flips"] = _uniform(seed, epoch, "flips", (count,), 0, 1) < 0.5
    if dataset.brightness:
        most = dataset.brightness if dataset.standardise == "first" else dataset.brightness / 255
        draws["brightness"] = _uniform(seed, epoch, "brightness", (count,), -most, most)
    if dataset.contrast != (1.0, 1.0):
        draws["contrast"] = _uniform(seed, epoch, "contrast", (count,), *dataset.contrast)
    return draws


def _distortions(dataset: Distorted, seed: int, epoch: int, count: int, size: ImageShape) -> Draws:
    draws: Draws = {}
    if dataset.rotate:
        draws["turns"] = distortion.draw_turns(seed, epoch, count, dataset.rotate)
    if dataset.roam:
        draws["roams"] = distortion.draw_roams(seed, epoch, count)
    if dataset.squeeze:
        draws["squeezes"] = distortion.draw_squeezes(seed, epoch, count, dataset.squeeze)
    if dataset.erase:
        draws["erasures"] = distortion.draw_erasures(
            seed, epoch, count, dataset.erase, size.height, size.width
        )
    return draws


def draw_shifts(seed: int, epoch: int, count: int, pixels: int, digits: int = 1) -> torch.Tensor:
    """Draw a shift for each image of an epoch, (down, right) from -pixels to pixels: int64 [N, 2], CPU.

    With several digits to an image, a shift for each digit: [N, digits, 2].
    """
    size = (count, 2) if digits == 1 else (count, digits, 2)
    return randomness.integers(seed, -pixels, pixels, size, "shifts", epoch)


def _uniform(
    seed: int, epoch: int, purpose: str, size: tuple[int, ...], low: float, high: float
) -> torch.Tensor:
    """Draw float32 numbers from `low` to `high`, on the CPU."""
    numbers = randomness.generator(seed, purpose, epoch).uniform(low, high, size)
    return torch.from_numpy(numbers).float()


def augment(images: Images, draws: Draws, dataset: Dataset) -> Batch:
    """Return the batch to train on: the picked training images, changed by their rows of `draws`."""
    if isinstance(dataset, MultiMNIST):
        return _prepared(overlaid(images, draws.get("shifts"), dataset.shift), dataset, {})
    pixels = images.images
    if "turns" in draws:
        pixels = looked_up(pixels, draws["turns"])
    if "roams" in draws:
        pixels = shift(pixels, distortion.roaming(pixels, draws["roams"]), max(pixels.shape[2:]))
    if "shifts" in draws:
        pixels = shift(pixels, draws["shifts"], dataset.shift)
    if "squeezes" in draws:
        pixels = distortion.squeeze(pixels, draws["squeezes"])
    if isinstance(dataset, Distorted) and dataset.erase:
        pixels = distortion.erase(pixels, draws["erasures"], dataset.erase)
    if isinstance(dataset, Photographs) and dataset.crop:
        pixels = crop(pixels, draws["crops"], dataset.crop)
    if "flips" in draws:
        pixels = torch.where(draws["flips"][:, None, None, None], pixels.flip(3), pixels)
    first = isinstance(dataset, Photographs) and dataset.standardise == "first"
    scale = _whole_scale(images) if first else None
    return _prepared(Images(pixels, images.labels, scale=scale), dataset, draws)


def cropped(images: Images, dataset: Dataset) -> Images:
    """Crop whole images to their middle, of the size that a network takes in a test."""
    size = shape(dataset)
    if images.images.shape[2:] == (size.height, size.width):
        return images
    pixels = centre(images.images, size.height, size.width).contiguous()
    return Images(pixels, images.labels, scale=_whole_scale(images))


def for_test(images: Images, dataset: Dataset) -> Batch:
    """Return the batch to test on, from images of the size that the network takes; nothing is random."""
    return _prepared(images, dataset, {})


def _prepared(images: Images, dataset: Dataset, draws: Draws) -> Batch:
    """Light images, and give them the form that a network takes.

    Targets are the images as they are lit, in [0, 1] and before they are standardised.
    """
    pixels = images.images.float() / 255
    targets = shown = _lit(pixels, images.scale, dataset, draws)
    if isinstance(dataset, Photographs) and not draws.keys().isdisjoint(LIGHT):
        targets = shown.clamp(0, 1)
        shown = targets if dataset.clip else shown
    inputs = as_inputs(shown, dataset, images.scale)
    return Batch(inputs, targets if images.parts is None else images.parts.float() / 255, images.labels)


def _lit(pixels: torch.Tensor, scale: torch.Tensor | None, dataset: Dataset, draws: Draws) -> torch.Tensor:
    """Pixels [B, C, H, W] in [0, 1] with other brightness and contrast, as far as these were drawn.

    With `standardise: first` brightness counts standard deviations of an image. It is multiplied by them
    here, which gives the same as adding it to standardised images.
    """
    if "brightness" in draws:
        added = draws["brightness"]
        if isinstance(dataset, Photographs) and dataset.standardise == "first":
            assert scale is not None, "training images have it"
            added = added * scale[:, 1]
        pixels = pixels + added[:, None, None, None]
    if "contrast" in draws:
        mean = pixels.mean((2, 3), keepdim=True)
        pixels = mean + (pixels - mean) * draws["contrast"][:, None, None, None]
    return pixels


def as_inputs(pixels: torch.Tensor, dataset: Dataset, scale: torch.Tensor | None = None) -> torch.Tensor:
    """Return the inputs of a network that is trained on `dataset`, from pixels [B, C, H, W] in [0, 1].

    `scale` [B, 2]: means and deviations of the whole images, as in `Images`; None: those of `pixels`.
    """
    match dataset.standardise if isinstance(dataset, Photographs) else False:
        case "first":
            return standardised(pixels, scale)
        case "last":
            return standardised(pixels)
    return pixels


def standardised(images: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
    """Each image [B, C, H, W] in [0, 1] with mean 0 and standard deviation 1 over all its values.

    With `scale` [B, 2] by those means and deviations instead.
    """
    mean, deviation = (scale_of(images) if scale is None else scale)[:, :, None, None, None].unbind(1)
    return (images - mean) / deviation


def scale_of(images: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of images [B, C, H, W] in [0, 1] over all values of each: [B, 2].

    An image of (almost) one value is not blown up: the deviation counts as at least one over the root of
    the number of values, in units of 1/255, as where tf.image.per_image_standardization has whole pixels.
    """
    values = images.flatten(1)
    deviation = values.std(1, correction=0).clamp(min=values.shape[1] ** -0.5 / 255)
    return torch.stack([values.mean(1), deviation], dim=1)


def _whole_scale(images: Images) -> torch.Tensor:
    """`scale_of` whole images uint8 [N, C, H, W], some at once: as float32 all would take much memory."""
    return torch.cat([scale_of(part.float() / 255) for part in images.images.split(SCALED_AT_ONCE)])


def shift(images: torch.Tensor, shifts: torch.Tensor, pixels: int) -> torch.Tensor:
    """Move each image by its own shift and fill what comes in with zeros.

    images [B, C, H, W]; shifts int64 [B, 2], (down, right), none larger than `pixels`.
    Gathers from padded images, so it waits for nothing and fits into a CUDA graph.
    """
    if pixels == 0:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (pixels, pixels, pixels, pixels))
    return _window(padded, pixels - shifts, height, width)


def crop(images: torch.Tensor, places: torch.Tensor, side: int) -> torch.Tensor:
    """Cut `side`×`side` pixels out of each image [B, C, H, W]; places [B, 2]: 0 top or left, 1 opposite."""
    room = images.shape[2] - side, images.shape[3] - side  # no tensor: it would have to be copied
    corners = [(places[:, axis] * (most + 1)).long().clamp(max=most) for axis, most in enumerate(room)]
    return _window(images, torch.stack(corners, dim=1), side, side)


def _window(images: torch.Tensor, corners: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut height×width pixels below and right of its corner int64 [B, 2] out of each image [B, C, H, W]."""
    batch, channels, _, stride = images.shape
    top, left = corners.unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)  # [B, height]
    columns = left[:, None] + torch.arange(width, device=images.device)  # [B, width]
    rows = rows[:, None, :, None].expand(batch, channels, height, stride)
    columns = columns[:, None, None, :].expand(batch, channels, height, width)
    return images.gather(2, rows).gather(3, columns)


def centre(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle height×width pixels of images [..., H, W]; where that is uneven, nearer to the top left."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    assert top >= 0 and left >= 0, f"no {height}×{width} pixels in images of {tuple(images.shape)}"
    return images[..., top : top + height, left : left + width]


def overlaid(digits: Images, shifts: torch.Tensor | None, pixels: int) -> Images:
    """Digits uint8 [B, L, C, H, W], each moved by its own shift [B, L, 2], in one image each.

    Pixels are added and cut off at 255; the moved digits are the `parts`.
    """
    parts = digits.images
    if shifts is not None:
        parts = shift(parts.flatten(0, 1), shifts.flatten(0, 1), pixels).view_as(parts)
    sums = parts.sum(1, dtype=torch.int16).clamp(max=255).to(torch.uint8)
    return Images(sums, digits.labels, parts)
