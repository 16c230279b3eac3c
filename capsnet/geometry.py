"""The sizes of a capsule network in pixels: arithmetic that needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

PRIMARY_STRIDE = 2  # pixels, of the second convolution


@dataclass(frozen=True)
class Grid:
    """Rows and columns after the first and the second convolution."""

    features: tuple[int, int]
    capsules: tuple[int, int]


def grid(kernel_size: int, height: int, width: int) -> Grid:
    """What the two convolutions of a capsule network leave of height×width pixels.

    Raises ValueError, with the arithmetic, where nothing is left.
    """
    rows, columns = _sides(kernel_size, height), _sides(kernel_size, width)
    shortest, (features, capsules) = min((height, rows), (width, columns))
    if capsules < 1:
        raise ValueError(
            f"model.kernel_size {kernel_size} leaves no capsules of images of {height}×{width} pixels: "
            f"{shortest} - {kernel_size} + 1 = {features} after the first convolution, "
            f"({features} - {kernel_size}) // {PRIMARY_STRIDE} + 1 = {capsules} after the second; "
            f"images need at least {2 * kernel_size - 1} pixels a side"
        )
    return Grid(features=(rows[0], columns[0]), capsules=(rows[1], columns[1]))


def _sides(kernel_size: int, side: int) -> tuple[int, int]:
    features = side - kernel_size + 1
    return features, (features - kernel_size) // PRIMARY_STRIDE + 1
