"""The convolutional networks that capsules are compared with (Sabour et al. 2017, sections 5 and 6).

Letters of shapes: B batch, C channels, H height, W width, J classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from capsnet.config import CNNModel
from capsnet.geometry import chain
from capsnet.images import ImageShape
from capsnet.layers import Dropout, SameConv2d
from capsnet.network import Network, Output


class CNN(Network):
    """Convolutions, each with its max-pooling, fully connected layers, one logit for each class."""

    def __init__(
        self,
        convolutions: list[SameConv2d],
        pool: int,
        hidden: list[nn.Linear],
        dropout: float,
        last: nn.Linear,
        one_class: bool,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.pool = pool
        self.hidden = nn.ModuleList(hidden)
        self.dropout = Dropout(dropout)
        self.last = last
        self.one_class = one_class
        self.decoder = None

    def forward(self, images: torch.Tensor) -> Output:
        """Images [B, C, H, W] -> logits and probabilities, and capsules of no dimension.

        The probabilities exclude each other (softmax) where an image shows one class, else they do not.
        """
        features = images
        for convolution in self.convolutions:
            features = F.relu(convolution(features))
            if self.pool > 1:
                features = F.max_pool2d(features, self.pool)
        features = features.flatten(1)
        for layer in self.hidden:
            features = F.relu(layer(features))
        logits = self._logits(self.dropout(features))
        probabilities = logits.softmax(1) if self.one_class else logits.sigmoid()
        return Output(logits[..., None][..., :0], probabilities, logits)

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """Without autocast: bfloat16 would round a logit of 10 to sixteenths."""
        with torch.autocast(features.device.type, enabled=False):
            return self.last(features.to(self.last.weight.dtype))


def build(model: CNNModel, shape: ImageShape) -> CNN:
    """The network for images of `shape`; ValueError where the poolings leave nothing of them."""
    rows, columns = chain(model).grids(shape.height, shape.width)[-1]
    channels = (shape.channels, *model.conv_channels)
    sizes = (rows * columns * channels[-1], *model.hidden)
    return CNN(
        convolutions=[
            SameConv2d(size, following, kernel)
            for (size, following), kernel in zip(pairwise(channels), model.kernel_sizes, strict=True)
        ],
        pool=model.pool,
        hidden=[nn.Linear(size, following) for size, following in pairwise(sizes)],
        dropout=model.dropout,
        last=nn.Linear(sizes[-1], shape.classes),
        one_class=shape.labels == 1,
    )
