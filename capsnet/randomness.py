"""Random numbers as a pure function of the seed and of their purpose.

PyTorch's CPU generator keeps only the low 32 bits of what `manual_seed` is given, so that two of
some 65,000 epochs would be expected to share their numbers. The whole digest counts here: it is the
128-bit key of a Philox generator.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator that depends on `seed` and `purpose` only, e.g. `generator(0, "shifts", epoch)`."""
    words = repr((seed, *purpose)).encode()
    key = int.from_bytes(blake2b(words, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def permutation(seed: int, count: int, *purpose: str | int) -> torch.Tensor:
    """The numbers below `count` in random order, int64 [count], on the CPU."""
    return torch.from_numpy(generator(seed, *purpose).permutation(count))


def integers(seed: int, low: int, high: int, shape: tuple[int, ...], *purpose: str | int) -> torch.Tensor:
    """Whole numbers from `low` to `high`, both included, int64 of `shape`, on the CPU."""
    return torch.from_numpy(generator(seed, *purpose).integers(low, high, shape, endpoint=True))
