"""Kernels for an iteration of routing by agreement and its gradients, in Triton, for a GPU.

Letters of shapes: I input capsules, K their dimension, J output capsules, D their dimension, B batch.
Capsules u [I, K, B], weight [J, I·K, D]; of the intermediate results, [J, I, B] goes through the GPU's memory
and little else. Each program works on a tile: some input capsules (their rows of the weight), some images. A
dimension that is no power of two is filled up to the next one.

Products of float32 are each made of three of TensorFloat-32 (errors of about 2^-21), or of one where PyTorch
is told so. Sums over many tiles are stored in pieces and added up in one order: always the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

# Of a tile. Compiled for compute capability 9.0 the kernels need 58 to 155 registers a thread and up to
# 32 KiB of shared memory, so that a multiprocessor has room for three programs or more. (Where the batch is
# no multiple of 16 it is up to 194 registers: for two.)
ROWS = 64  # of the weight: 8 input capsules of the paper's dimension
IMAGES = 32
STAGES = 2  # one is read while the other is computed

TILES = 4  # that one program adds up
LEAST = 16  # rows or columns of a factor that Triton multiplies


@triton.jit
def _rows(first, inputs, dim: tl.constexpr, dim_places: tl.constexpr, count: tl.constexpr):
    """Return for each row of `count` input capsules from `first` on: capsule, row, whether there is one."""
    place = tl.arange(0, count * dim_places)
    capsule, k = first + place // dim_places, place % dim_places
    return capsule, capsule * dim + k, (capsule < inputs) & (k < dim)


@triton.jit
def _tile(pointer, rows, are_rows, columns, are_columns, width):
    """Load rows and columns of a matrix with rows of `width` numbers; 0 where it has none."""
    are = are_rows[:, None] & are_columns[None, :]
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=are, other=0.0)


@triton.jit
def _agree(
    capsules,
    weight,
    outputs,
    agreement,
    inputs,
    batch,
    dim: tl.constexpr,
    dim_places: tl.constexpr,
    class_dim: tl.constexpr,
    class_places: tl.constexpr,
    count: tl.constexpr,
    images: tl.constexpr,
    precision: tl.constexpr,
):
    """Compute û·x = u·(W x) for one class, of outputs x [J, D, B]."""
    first, j = tl.program_id(0) * count, tl.program_id(2).to(tl.int64)
    b, d = tl.program_id(1) * images + tl.arange(0, images), tl.arange(0, class_places)
    _, rows, are = _rows(first, inputs, dim, dim_places, count)
    w = _tile(weight + j * inputs * dim * class_dim, rows, are, d, d < class_dim, class_dim)
    x = _tile(outputs + j * class_dim * batch, d, d < class_dim, b, b < batch, batch)
    u = _tile(capsules, rows, are, b, b < batch, batch)
    products = tl.dot(w, x, input_precision=precision) * u
    sums = tl.sum(tl.reshape(products, (count, dim_places, images)), 1)
    i = first + tl.arange(0, count)
    place = agreement + j * inputs * batch + i[:, None] * batch + b[None, :]
    tl.store(place, sums, mask=(i < inputs)[:, None] & (b < batch)[None, :])


@triton.jit
def _gather(
    capsules,
    weight,
    coupling,
    pieces,
    inputs,
    batch,
    dim: tl.constexpr,
    dim_places: tl.constexpr,
    class_dim: tl.constexpr,
    class_places: tl.constexpr,
    count: tl.constexpr,
    images: tl.constexpr,
    precision: tl.constexpr,
    tiles: tl.constexpr,
):
    """Compute Σᵢ cᵢ ûᵢ = Wᵀ (c ⊙ u) for one class, over the capsules of `tiles` tiles: one of the pieces."""
    piece, j = tl.program_id(0), tl.program_id(2).to(tl.int64)
    b, d = tl.program_id(1) * images + tl.arange(0, images), tl.arange(0, class_places)
    collected = tl.zeros((class_places, images), tl.float32)
    for tile in range(tiles):
        i, rows, are = _rows((piece * tiles + tile) * count, inputs, dim, dim_places, count)
        w = _tile(weight + j * inputs * dim * class_dim, rows, are, d, d < class_dim, class_dim)
        u = _tile(capsules, rows, are, b, b < batch, batch)
        c = _tile(coupling + j * inputs * batch, i, are, b, b < batch, batch)
        collected = tl.dot(tl.trans(w), c * u, collected, input_precision=precision)
    size = class_dim * batch
    place = pieces + (piece * tl.num_programs(2) + j) * size + d[:, None] * batch + b[None, :]
    tl.store(place, collected, mask=(d < class_dim)[:, None] & (b < batch)[None, :])


@triton.jit
def _of_weight(
    capsules,
    coupling,
    of_logits,
    gradient,
    outputs,
    of_weight,
    inputs,
    batch,
    dim: tl.constexpr,
    dim_places: tl.constexpr,
    class_dim: tl.constexpr,
    class_places: tl.constexpr,
    count: tl.constexpr,
    images: tl.constexpr,
    precision: tl.constexpr,
    constant: tl.constexpr,
):
    """Compute (c ⊙ u) gᵀ + (l ⊙ u) vᵀ for one class: its gradient g, that of the logits l, outputs v."""
    j, d = tl.program_id(1).to(tl.int64), tl.arange(0, class_places)
    i, rows, are = _rows(tl.program_id(0) * count, inputs, dim, dim_places, count)
    summed = tl.zeros((count * dim_places, class_places), tl.float32)
    for start in range(0, batch, images):
        b = start + tl.arange(0, images)
        u = _tile(capsules, rows, are, b, b < batch, batch)
        c = _tile(coupling + j * inputs * batch, i, are, b, b < batch, batch)
        g = _tile(gradient + j * class_dim * batch, d, d < class_dim, b, b < batch, batch)
        summed = tl.dot(c * u, tl.trans(g), summed, input_precision=precision)
        if not constant:
            of_logit = _tile(of_logits + j * inputs * batch, i, are, b, b < batch, batch)
            v = _tile(outputs + j * class_dim * batch, d, d < class_dim, b, b < batch, batch)
            summed = tl.dot(of_logit * u, tl.trans(v), summed, input_precision=precision)
    place = of_weight + j * inputs * dim * class_dim + rows[:, None] * class_dim + d[None, :]
    tl.store(place, summed, mask=are[:, None] & (d < class_dim)[None, :])


@triton.jit
def _of_capsules(
    weight,
    coupling,
    of_logits,
    gradient,
    outputs,
    of_capsules,
    inputs,
    batch,
    classes,
    dim: tl.constexpr,
    dim_places: tl.constexpr,
    class_dim: tl.constexpr,
    class_places: tl.constexpr,
    count: tl.constexpr,
    images: tl.constexpr,
    precision: tl.constexpr,
    constant: tl.constexpr,
):
    """Compute c ⊙ (W g) + l ⊙ (W v), summed over the classes."""
    b, d = tl.program_id(1) * images + tl.arange(0, images), tl.arange(0, class_places)
    i, rows, are = _rows(tl.program_id(0) * count, inputs, dim, dim_places, count)
    summed = tl.zeros((count * dim_places, images), tl.float32)
    for _ in range(classes):
        w = _tile(weight, rows, are, d, d < class_dim, class_dim)
        c = _tile(coupling, i, are, b, b < batch, batch)
        g = _tile(gradient, d, d < class_dim, b, b < batch, batch)
        summed += c * tl.dot(w, g, input_precision=precision)
        if not constant:
            of_logit = _tile(of_logits, i, are, b, b < batch, batch)
            v = _tile(outputs, d, d < class_dim, b, b < batch, batch)
            summed += of_logit * tl.dot(w, v, input_precision=precision)
        weight += inputs * dim * class_dim
        coupling += inputs * batch
        of_logits += inputs * batch
        gradient += class_dim * batch
        outputs += class_dim * batch
    place = of_capsules + rows[:, None] * batch + b[None, :]
    tl.store(place, summed, mask=are[:, None] & (b < batch)[None, :])


def precision() -> str:
    """Return Triton's name for the precision of a product of float32."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


class Tiles:
    """Capsules [I, K, B] and their weight [J, I·K, D], cut into tiles; launches the kernels on these.

    All tensors are float32, contiguous and on one GPU.
    """

    def __init__(self, capsules: torch.Tensor, weight: torch.Tensor) -> None:
        self._capsules, self._weight = capsules, weight
        inputs, dim, batch = capsules.shape
        self._classes, _, class_dim = weight.shape
        self._numbers = inputs, batch
        self._outputs = self._classes, class_dim, batch
        places = triton.next_power_of_2(dim)
        count, images = max(1, ROWS // places), max(LEAST, min(IMAGES, triton.next_power_of_2(batch)))
        self._grid = triton.cdiv(inputs, count), triton.cdiv(batch, images)
        self._options: dict[str, Any] = {
            "dim": dim,
            "dim_places": places,
            "class_dim": class_dim,
            "class_places": max(LEAST, triton.next_power_of_2(class_dim)),
            "count": count,
            "images": images,
            "precision": precision(),
            "num_stages": STAGES,
            "enable_fp_fusion": True,  # some versions warn where it is not said
        }

    def agree(self, outputs: torch.Tensor) -> torch.Tensor:
        """Compute û·x [J, I, B] for outputs x [J, D, B]."""
        agreement = self._capsules.new_empty(self._classes, *self._numbers)
        tensors = self._capsules, self._weight, outputs, agreement
        self._launch(_agree, (*self._grid, self._classes), *tensors, *self._numbers)
        return agreement

    def gather(self, coupling: torch.Tensor) -> torch.Tensor:
        """Compute Σᵢ cᵢ ûᵢ [J, D, B] for couplings c [J, I, B]."""
        rows, columns = self._grid
        count = triton.cdiv(rows, TILES)
        pieces = self._capsules.new_empty(count, *self._outputs)
        tensors = self._capsules, self._weight, coupling, pieces
        self._launch(_gather, (count, columns, self._classes), *tensors, *self._numbers, tiles=TILES)
        return pieces.sum(0)

    def of_weight(self, *tensors: torch.Tensor, constant: bool) -> torch.Tensor:
        """Compute the weight's gradient.

        `tensors`: couplings and the gradient of the logits [J, I, B], gradient and outputs [J, D, B].
        `constant`: the couplings are constant, and no gradient comes from the logits.
        """
        of_weight = torch.empty_like(self._weight)
        grid = self._grid[0], self._classes
        arguments = self._capsules, *tensors, of_weight, *self._numbers
        self._launch(_of_weight, grid, *arguments, constant=constant)
        return of_weight

    def of_capsules(self, *tensors: torch.Tensor, constant: bool) -> torch.Tensor:
        """Compute the capsules' gradient from the same tensors as `of_weight`."""
        of_capsules = torch.empty_like(self._capsules)
        arguments = self._weight, *tensors, of_capsules, *self._numbers, self._classes
        self._launch(_of_capsules, self._grid, *arguments, constant=constant)
        return of_capsules

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], *arguments: torch.Tensor | int, **options: Any
    ) -> None:
        kernel[grid](*arguments, **self._options, **options)
