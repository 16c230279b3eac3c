"""Random shifts of training images, computed where the images are.

Letters of shapes: N images of an epoch, B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from capsnet import randomness


def draw_shifts(seed: int, epoch: int, count: int, pixels: int) -> torch.Tensor:
    """One shift for each image of an epoch, (down, right) from -pixels to pixels: int64 [N, 2], CPU."""
    return randomness.integers(seed, -pixels, pixels, (count, 2), "shifts", epoch)


def shift(images: torch.Tensor, shifts: torch.Tensor, pixels: int) -> torch.Tensor:
    """Move each image by its own shift and fill what comes in with zeros.

    images [B, C, H, W]; shifts int64 [B, 2], (down, right), none larger than `pixels`.
    Gathers from padded images, so it waits for nothing and fits into a CUDA graph.
    """
    if pixels == 0:
        return images
    batch, channels, height, width = images.shape
    padded = F.pad(images, (pixels, pixels, pixels, pixels))
    down, right = (pixels - shifts).unbind(1)
    rows = down[:, None] + torch.arange(height, device=images.device)  # [B, H]
    columns = right[:, None] + torch.arange(width, device=images.device)  # [B, W]
    rows = rows[:, None, :, None].expand(batch, channels, height, padded.shape[3])
    columns = columns[:, None, None, :].expand(batch, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)
