"""Affine maps of images: rotation, shear, scale, shift.

A point is (down, right), in pixels from the middle of the image. A map is what happens to points: it takes
p to A·p + t, and is held as [A | t], a matrix of 2×3.

Letters of shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

IMAGES_AT_ONCE = 512  # bounds the memory that the sampling points take


def affine_maps(
    degrees: torch.Tensor | float = 0.0,
    shear: torch.Tensor | float = 0.0,
    scale: torch.Tensor | tuple[float, float] = (1.0, 1.0),
    shift: torch.Tensor | tuple[float, float] = (0.0, 0.0),
) -> torch.Tensor:
    """Maps that scale, then shear, then rotate, then shift: float64 [B, 2, 3], on the CPU.

    degrees [B], counterclockwise as one sees it; shear [B]: how far to the right a point goes for each pixel
    that it lies below the middle; scale [B, 2], vertical and horizontal; shift [B, 2], down and right, in
    pixels. A number stands for all B; numbers only give one map, [1, 2, 3].
    """
    angles = torch.as_tensor(degrees, dtype=torch.float64).deg2rad().reshape(-1)
    slopes = torch.as_tensor(shear, dtype=torch.float64).reshape(-1)
    scales = torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 2)
    shifts = torch.as_tensor(shift, dtype=torch.float64).reshape(-1, 2)
    cos, sin, one, zero = angles.cos(), angles.sin(), torch.ones_like(slopes), torch.zeros_like(slopes)
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    shearing = torch.stack([one, zero, slopes, one], dim=1).view(-1, 2, 2)
    linear = rotation @ shearing @ scales.diag_embed()
    count = max(len(linear), len(shifts))
    return torch.cat([linear.expand(count, 2, 2), shifts.expand(count, 2).unsqueeze(2)], dim=2)


def warp(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Images [B, C, H, W] under maps [B, 2, 3], or one for all [1, 2, 3], in frames of the same size.

    uint8 or float, and the same comes back, on the images' device. Each pixel is looked up where the inverse
    map has it, between four pixels bilinearly; what comes from outside is 0.
    """
    back = inverse(maps.double().cpu()).expand(len(images), 2, 3).to(images.device)
    pairs = zip(images.split(IMAGES_AT_ONCE), back.split(IMAGES_AT_ONCE), strict=True)
    return torch.cat([looked_up(part, maps) for part, maps in pairs])


def inverse(maps: torch.Tensor) -> torch.Tensor:
    """Return the inverse maps [B, 2, 3]."""
    linear, shifts = maps.split([2, 1], dim=2)
    inverted = torch.linalg.inv(linear)
    return torch.cat([inverted, -inverted @ shifts], dim=2)


def looked_up(images: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Each pixel of images [B, C, H, W] taken from where `back` float64 [B, 2, 3] leads, as `warp` says."""
    height, width = images.shape[2:]
    rows, columns = _from_middle(height, images.device)[:, None], _from_middle(width, images.device)
    # One product after the other, and no matrix product, whose last bits differ from machine to machine.
    down, right = (
        along[:, 0, None, None] * rows + along[:, 1, None, None] * columns + along[:, 2, None, None]
        for along in back.unbind(1)
    )
    # grid_sample wants (right, down), 1 being the image's edge.
    grid = torch.stack([right / (width / 2), down / (height / 2)], dim=3)
    values = _as_numbers(images)
    found = F.grid_sample(
        values, grid.to(values.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return found.to(images.dtype) if images.is_floating_point() else found.round().to(images.dtype)


def _as_numbers(images: torch.Tensor) -> torch.Tensor:
    """Return bytes as float64, so that they are rounded alike everywhere; floats as grid_sample takes."""
    if not images.is_floating_point():
        return images.double()
    return images if images.dtype in (torch.float32, torch.float64) else images.float()


def _from_middle(side: int, device: torch.device) -> torch.Tensor:
    """Return the positions of a side's pixels from its middle, float64 [side]."""
    return torch.arange(side, dtype=torch.float64, device=device) - (side - 1) / 2
