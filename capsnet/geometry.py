"""The sizes of networks in pixels: arithmetic that needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from capsnet.model_sections import (
    CapsNetModel,
    CNNModel,
    EfficientCapsNetModel,
    MatrixCapsNetModel,
)

PRIMARY_STRIDE = 2  # pixels, of the paper's second convolution
MATRIX_CONV = (5, 2)  # kernel and stride in pixels, of the first convolution before matrix capsules
MATRIX_KERNEL = 3  # pixels, of every layer of matrix capsules
MATRIX_FIRST_STRIDE = 2  # pixels, of the first of these layers; the others have 1

DECONVOLUTIONS = ((9, 2), (9, 1), (2, 1))  # kernel and stride in pixels, of a decoder's transposed ones

Sides = tuple[int, int]  # height, width

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
SHOWN_STEPS = 4  # of the arithmetic in a message, before what comes last


@dataclass(frozen=True)
class Window:
    """A convolution or pooling as it slides along one side of an image.

    `same`: zeros around the image give it a step for each `stride` pixels, as SAME does in TensorFlow.
    """

    kernel: int
    stride: int = 1
    same: bool = False

    def zeros(self, side: int) -> tuple[int, int]:
        """Return how many zeros go before and behind the image; of an odd number the one more goes behind."""
        if not self.same:
            return 0, 0
        count = max((self.over(side) - 1) * self.stride + self.kernel - side, 0)
        return count // 2, count - count // 2

    def over(self, side: int) -> int:
        """Return the number of steps over a side; 0 or less where the window does not fit."""
        return -(-side // self.stride) if self.same else (side - self.kernel) // self.stride + 1

    def needs(self, steps: int) -> int:
        """Return the shortest side that leaves `steps`."""
        return (steps - 1) * self.stride + (1 if self.same else self.kernel)


@dataclass(frozen=True)
class Chain:
    """The windows of a network, in order; `key` is the YAML's key to blame where they leave nothing."""

    key: str
    value: str
    left: str  # the part of the network that would have no size left
    windows: tuple[Window, ...]
    counted: str = "convolution"  # the kind of the windows that make an image smaller

    def grids(self, height: int, width: int) -> list[Sides]:
        """Rows and columns after each window; ValueError, with the arithmetic, where nothing is left."""
        rows, columns = self._along(height), self._along(width)
        if rows[-1] < 1 or columns[-1] < 1:
            raise ValueError(
                f"{self.key} {self.value} leaves no {self.left} of images of {height}×{width} pixels: "
                f"{self._arithmetic(min(height, width))}; images need at least {self._least()} pixels a side"
            )
        return list(zip(rows, columns, strict=True))

    def centres(self, side: int) -> list[float]:
        """The middle of what each step of the last window sees of an image, from 0 to 1 along its side."""
        middle, step, steps = 0.5, 1, side  # in pixels: of the first step, and from one to the next
        for window in self.windows:
            middle += step * ((window.kernel - 1) / 2 - window.zeros(steps)[0])
            step, steps = step * window.stride, window.over(steps)
        return [(middle + step * number) / side for number in range(steps)]

    def seen(self, side: int, number: int) -> tuple[int, int]:
        """The first pixel that a step of the last window sees, and the one behind the last it sees.

        Zeros around the image are not counted.
        """
        first, end = number, number + 1
        sides = [side, *self._along(side)]
        for window, before in zip(reversed(self.windows), reversed(sides[:-1]), strict=True):
            first = first * window.stride - window.zeros(before)[0]
            end = (end - 1) * window.stride - window.zeros(before)[0] + window.kernel
        return max(first, 0), min(end, side)

    def _along(self, side: int) -> list[int]:
        sides = []
        for window in self.windows:
            side = window.over(side)
            sides.append(side)
        return sides

    def _arithmetic(self, side: int) -> str:
        steps: list[str] = []
        for window in self.windows:
            if window.same:  # which leaves a step of any image
                side = window.over(side)
                continue
            before = f"{side} - {window.kernel}"
            counted = before if window.stride == 1 else f"({before}) // {window.stride}"
            side = window.over(side)
            place = _ordinal(len(steps)) if steps else f"{ORDINALS[0]} {self.counted}"
            steps.append(f"{counted} + 1 = {side} after the {place}")
            if side < 1 and len(steps) > 1:
                break
        if len(steps) > SHOWN_STEPS + 1:
            steps[SHOWN_STEPS:-1] = ["…"]
        return ", ".join(steps)

    def _least(self) -> int:
        steps = 1
        for window in reversed(self.windows):
            steps = window.needs(steps)
        return steps


def _ordinal(number: int) -> str:
    """Return an ordinal number, counted from 0; in words where ORDINALS has one."""
    if number < len(ORDINALS):
        return ORDINALS[number]
    number += 1
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def chain(model: CapsNetModel | MatrixCapsNetModel | EfficientCapsNetModel | CNNModel) -> Chain:
    """The windows of a model. Those of a CNN come in pairs: a convolution, then its pooling."""
    match model:
        case CapsNetModel():
            windows = (
                Window(model.kernel_size, same=model.padding == "same"),
                Window(model.kernel_size, PRIMARY_STRIDE, same=model.primary_padding == "same"),
            )
            return Chain("model.kernel_size", str(model.kernel_size), "capsules", windows)
        case MatrixCapsNetModel():
            layers = len(model.capsule_types)
            strides = (MATRIX_FIRST_STRIDE, *[1] * (layers - 1))
            windows = Window(*MATRIX_CONV), *(Window(MATRIX_KERNEL, stride) for stride in strides)
            types = f"[{', '.join(map(str, model.capsule_types))}]"
            return Chain("model.capsule_types", types, "capsules", windows)
        case EfficientCapsNetModel():
            first = Window(model.first_kernel_size, model.first_stride)
            middle = [Window(3)] * (len(model.conv_channels) - 2)
            size = str(model.first_kernel_size)
            return Chain("model.first_kernel_size", size, "capsules", (first, *middle, Window(3, 2)))
        case CNNModel():
            pairs = [
                (Window(kernel, same=True), Window(model.pool, model.pool)) for kernel in model.kernel_sizes
            ]
            windows = tuple(window for pair in pairs for window in pair)
            return Chain("model.pool", str(model.pool), "pixels", windows, counted="pooling")


def deconvolved(side: int) -> int:
    """Return the length of a grid's side after the transposed convolutions of a decoder: 6 becomes 28."""
    for kernel, stride in DECONVOLUTIONS:
        side = Window(kernel, stride).needs(side)
    return side


def grid_before(side: int) -> int:
    """The side of the smallest grid from which a decoder's transposed convolutions cover `side` pixels."""
    return next(grid for grid in range(1, side + 1) if deconvolved(grid) >= side)
