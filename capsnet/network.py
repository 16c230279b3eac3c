"""Base class and output of all networks.

Letters of shapes: B batch, C channels, H height, W width, J classes, D dimension of a class capsule.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import nn

from capsnet.capsules import mask


class Output(NamedTuple):
    """Output of a network for a batch.

    Class capsules [B, J, D]; their lengths [B, J] in [0, 1], the scores by which classes are predicted. A
    network without capsules has D = 0, probabilities for lengths, and the logits [B, J] that they come from.
    Self-routing has activations beside the capsules, for lengths, and their logarithms for logits.
    """

    capsules: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor | None = None


class Network(nn.Module):
    """A network from images to class capsules and, where it has a decoder, back to images."""

    # Set last: the order of the parameters is that of the optimizer's state in a checkpoint.
    decoder: nn.Module | None

    @abstractmethod
    def forward(self, images: torch.Tensor) -> Output:
        """Images [B, C, H, W] -> class capsules and lengths."""

    def reconstruct(self, capsules: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Reconstruct images [B, C, H, W] from the capsules [B, J, D] of the images' classes [B].

        The classes are the labels in training and those of the longest capsules at test.
        """
        if self.decoder is None:
            raise ValueError("this network was built without a decoder (loss.with_reconstruction is false)")
        return self.decoder(mask(capsules, classes))
