"""The batch that a recorded step reads; recording itself needs a GPU and is tested in test_cuda.py."""

from __future__ import annotations

import pytest
import torch

from capsnet.augmentation import Batch
from capsnet.graphs import held, refill


def batch_of(pixels: torch.Tensor, apart: bool) -> Batch:
    return Batch(pixels, pixels / 2 if apart else pixels, torch.arange(len(pixels)))


@pytest.mark.parametrize("apart", [False, True])
def test_a_held_batch_takes_what_another_one_has(apart):
    first, second = (batch_of(torch.rand(3, 1, 4, 4), apart) for _ in range(2))
    own = held(first)
    assert torch.equal(own.inputs, first.inputs) and own.inputs is not first.inputs
    places = [tensor.data_ptr() for tensor in (own.inputs, own.targets, own.labels)]
    refill(own, second)
    assert places == [tensor.data_ptr() for tensor in (own.inputs, own.targets, own.labels)]
    for name in ("inputs", "targets", "labels"):
        assert torch.equal(getattr(own, name), getattr(second, name)), name
