"""Matrix capsules with EM routing (Hinton, Sabour, Frosst 2018).

A capsule is a 4×4 pose and an activation. It votes for the pose of every parent by a learned 4×4 matrix,
and parents become active where votes agree. Here the 16 numbers of a pose, row by row, and the logarithm of
the activation lie in one tensor.

Letters of shapes: B batch, C channels, Y rows and X columns of a grid of capsules, Q = Y·X of the children,
P = Y·X of the parents, S places in the window of a parent, I types of children, J types of parents.

Parameters for images of 2 channels and 5 classes: 1,632 in the first convolution, 17,952 in the primary
capsules, twice 147,520 in the capsule layers (3·3·32·32 matrices of 16 numbers, and 2·32 β) and 2,570 at
the classes, together 317,194. The paper says 310K; its matrices and convolutions alone, without any bias
and any β, are 316,480.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from capsnet import em
from capsnet.config import MatrixCapsNetModel
from capsnet.geometry import MATRIX_CONV, MATRIX_FIRST_STRIDE, MATRIX_KERNEL, Sides, chain
from capsnet.images import ImageShape
from capsnet.network import Network, Output

SIDE = 4  # of a pose
POSE = SIDE**2  # numbers in a pose
PRIMARY_GAIN = 5.0  # makes the first poses about 1 in size
MATRIX_STD = 0.25
# Where the costs begin near 0, activations begin near a half, where they have a slope. Votes of the first
# matrices differ by a σ of about 1/e.
FIRST_BETA_U = 1.0


class PrimaryMatrixCapsules(nn.Module):
    """A 1×1 convolution to poses, which are linear, and activations, which go through a sigmoid."""

    def __init__(self, channels: int, types: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(types * (POSE + 1), channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(types * (POSE + 1)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, C, Y, X] -> capsules [B, Y, X, J, 17], in float32 under autocast too."""
        outputs = F.conv2d(features, self.weight, self.bias).permute(0, 2, 3, 1)
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        poses, logits = outputs.unflatten(3, (-1, POSE + 1)).split((POSE, 1), dim=4)
        return torch.cat([poses, F.logsigmoid(logits)], dim=4)

    @staticmethod
    def initial(
        module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        """Draw from N(0, 5²/C); a bias is 0."""
        if key.endswith("bias"):
            return np.zeros(shape, np.float32)
        return generator.standard_normal(shape, np.float32) * np.float32(PRIMARY_GAIN * shape[1] ** -0.5)


class MatrixCapsules(nn.Module):
    """A layer of matrix capsules, routed from the layer below.

    `windows` int64 [P, S] are the positions of children that each position of parents sees, which lie on
    `grid` rows and columns. Matrices belong to a place in the window, or, where `offsets` [S, 16] are given,
    to a type only, and the votes from each place are told apart by its offset.
    """

    windows: torch.Tensor
    offsets: torch.Tensor | None
    child: torch.Tensor
    places: torch.Tensor
    seen: torch.Tensor

    def __init__(
        self,
        windows: torch.Tensor,
        grid: Sides,
        children: int,
        types: int,
        iterations: int,
        offsets: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.iterations = iterations
        self.vote_numbers = windows.numel() * children * types * POSE  # for one image
        matrices = children * (windows.shape[1] if offsets is None else 1)
        # Three dimensions, not five: Module.to(memory_format=channels_last) permutes what has four or five.
        self.weight = nn.Parameter(torch.empty(matrices, SIDE, types * SIDE))
        self.beta_u = nn.Parameter(torch.empty(types))
        self.beta_a = nn.Parameter(torch.empty(types))
        self.register_buffer("windows", windows, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        overlap = em.Overlap.of(windows)
        for name in ("child", "places", "seen"):  # as buffers, they go where the weights go
            self.register_buffer(name, getattr(overlap, name), persistent=False)

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Capsules [B, Y, X, I, 17] of the children -> [B, Y, X, J, 17] of the parents.

        Autocast is off: bfloat16 would round away the differences between votes that agree.
        """
        with torch.autocast(capsules.device.type, enabled=False):
            return em.in_parts(self._routed, capsules, self.vote_numbers * capsules.element_size())

    def _routed(self, capsules: torch.Tensor) -> torch.Tensor:
        children = capsules.flatten(1, 2).index_select(1, self.windows.flatten())
        poses, log_active = children.unflatten(1, self.windows.shape).split((POSE, 1), dim=4)
        overlap = em.Overlap(self.child, self.places, self.seen, len(self.windows))
        ballot = em.Ballot(self.votes(poses), log_active.flatten(2), self.beta_u, self.beta_a, overlap)
        poses, log_active = em.route(ballot, self.iterations)
        return torch.cat([poses, log_active[..., None]], dim=3).unflatten(1, self.grid)

    def votes(self, poses: torch.Tensor) -> torch.Tensor:
        """Poses [B, P, S, I, 16] of the children in each window -> their votes [B, P, J, S·I, 16]."""
        poses = poses.unflatten(4, (SIDE, SIDE))
        if self.offsets is None:
            matrices = self.weight.view(poses.shape[2], poses.shape[3], SIDE, -1, SIDE)
            votes = torch.einsum("bpsirk,sikjc->bpjsirc", poses, matrices).flatten(5)
        else:
            matrices = self.weight.view(poses.shape[3], SIDE, -1, SIDE)
            votes = torch.einsum("bpsirk,ikjc->bpjsirc", poses, matrices).flatten(5)
            votes = votes + self.offsets[:, None]
        return votes.flatten(3, 4)

    @staticmethod
    def initial(
        module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        """Draw matrices from N(0, 0.25²); β_u = 1, β_a = 0."""
        if key.endswith("weight"):
            return generator.standard_normal(shape, np.float32) * np.float32(MATRIX_STD)
        return np.full(shape, FIRST_BETA_U if key.endswith("beta_u") else 0.0, np.float32)


class MatrixCapsNet(Network):
    """Figure 1: a convolution, primary capsules, layers of capsules that slide, a capsule for each class."""

    def __init__(
        self,
        conv: nn.Conv2d,
        primary: PrimaryMatrixCapsules,
        layers: list[MatrixCapsules],
        classes: MatrixCapsules,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.primary = primary
        self.layers = nn.ModuleList(layers)
        self.classes = classes
        self.decoder = None

    def forward(self, images: torch.Tensor) -> Output:
        """Images [B, C, H, W] -> poses [B, J, 16] of the classes, and their activations as lengths."""
        capsules = self.primary(F.relu(self.conv(images)))
        for layer in self.layers:
            capsules = layer(capsules)
        poses, active = self.classes(capsules)[:, 0, 0].split((POSE, 1), dim=2)
        below_1 = 1 - torch.finfo(active.dtype).eps / 2  # a sigmoid may round to 1
        return Output(poses, active[..., 0].exp().clamp(max=below_1))


def build(model: MatrixCapsNetModel, iterations: int, shape: ImageShape) -> MatrixCapsNet:
    """The network for images of `shape`; ValueError where the windows leave nothing of them."""
    kernel, stride = MATRIX_CONV
    convolved, *grids = chain(model).grids(shape.height, shape.width)
    below, children, layers = convolved, model.primary_types, []
    for number, (types, grid) in enumerate(zip(model.capsule_types, grids, strict=True)):
        windows = em.sliding(*below, MATRIX_KERNEL, 1 if number else MATRIX_FIRST_STRIDE)
        layers.append(MatrixCapsules(windows, grid, children, types, iterations))
        below, children = grid, types
    return MatrixCapsNet(
        conv=nn.Conv2d(shape.channels, model.conv_channels, kernel, stride),
        primary=PrimaryMatrixCapsules(model.conv_channels, model.primary_types),
        layers=layers,
        classes=_classes(model, iterations, shape, below, children),
    )


def _classes(
    model: MatrixCapsNetModel, iterations: int, shape: ImageShape, grid: Sides, children: int
) -> MatrixCapsules:
    """Make the class capsules, which see all positions; "coordinate addition" tells their votes apart."""
    everywhere = torch.arange(grid[0] * grid[1])[None]
    offsets = coordinates(model, shape) if model.coordinates else torch.zeros(everywhere.numel(), POSE)
    return MatrixCapsules(everywhere, (1, 1), children, shape.classes, iterations, offsets)


def coordinates(model: MatrixCapsNetModel, shape: ImageShape) -> torch.Tensor:
    """Return the offsets that are added to the votes of the last layer's positions, float [Q, 16].

    The centre of what a capsule sees of the image, (row, column) from 0 to 1, goes to the first two numbers
    of the pose's right-hand column; the other numbers are 0.
    """
    rows, columns = chain(model).centres(shape.height), chain(model).centres(shape.width)
    offsets = torch.zeros(len(rows), len(columns), SIDE, SIDE)
    offsets[:, :, 0, -1] = torch.tensor(rows)[:, None]
    offsets[:, :, 1, -1] = torch.tensor(columns)
    return offsets.view(-1, POSE)
