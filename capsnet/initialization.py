"""The weights that a network starts from: a pure function of the seed and of each layer's name.

Every tensor draws from its own generator, so that building a network disturbs no random state, and two
networks that share a layer (with and without decoder, say) start from the same weights there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from capsnet import randomness
from capsnet.capsules import ClassCapsules

CLASS_WEIGHT_STD = 0.1
AUTHORS_STD = 0.1
AUTHORS_FIRST_STD = 0.05
AUTHORS_BIAS = 0.1
CUT_OFF_STD = 0.87962566  # standard deviation of standard normal numbers, those beyond ±2 drawn again


@torch.no_grad()
def initialise(network: nn.Module, scheme: Literal["paper", "authors"], seed: int) -> None:
    """Set every parameter of `network`, whatever it holds now; those of batch normalisation to 1 and 0.

    A layer that begins in its own way has a static method `initial`, of what `_paper` below takes.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
            continue
        for key, parameter in module.named_parameters(name, recurse=False):
            generator = randomness.generator(seed, "weights", key)
            draw = getattr(module, "initial", None) or (_paper if scheme == "paper" else _authors)
            values = draw(module, key, tuple(parameter.shape), generator)
            parameter.copy_(torch.from_numpy(values))


def _paper(module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """The paper names no initialisation. Ours: PyTorch's for convolutions and fully connected layers,
    U(±1/√fan_in), where a transposed convolution's fan_in is that of its gradient; N(0, 0.1²) for W, which
    keeps the first couplings soft; no bias at first.
    """
    if isinstance(module, ClassCapsules):
        std = CLASS_WEIGHT_STD if key.endswith("weight") else 0.0
        return std * generator.standard_normal(shape, np.float32)
    bound = next(module.parameters(recurse=False))[0].numel() ** -0.5
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def _authors(
    module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray:
    """The authors' code: normal, cut off at two standard deviations, which are 0.05 for the first
    convolution and 0.1 elsewhere; every bias 0.1.
    """
    if key.endswith("bias"):
        return np.full(shape, AUTHORS_BIAS, np.float32)
    std = AUTHORS_FIRST_STD if isinstance(module, nn.Conv2d) else AUTHORS_STD
    return std * truncated_normal(shape, generator)


def truncated_normal(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Standard normal numbers of which those beyond ±2 are drawn again."""
    values = generator.standard_normal(shape, np.float32)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = generator.standard_normal(int(beyond.sum()), np.float32)
    return values


def he_normal(shape: tuple[int, ...], fan_in: int, generator: np.random.Generator) -> np.ndarray:
    """Normal numbers after He et al. 2015, cut off at two standard deviations as Keras does.

    They are drawn wider before, so that their standard deviation is √(2 / fan_in) in the end.
    """
    return (2 / fan_in) ** 0.5 / CUT_OFF_STD * truncated_normal(shape, generator)


def glorot_normal(
    shape: tuple[int, ...], fan_in: int, fan_out: int, generator: np.random.Generator
) -> np.ndarray:
    """Normal numbers after Glorot and Bengio 2010, cut off likewise: their fan is the mean of the two."""
    return he_normal(shape, fan_in + fan_out, generator)
