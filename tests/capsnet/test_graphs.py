"""What a recorded step reads; what only a GPU can record is in test_cuda.py."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from capsnet.augmentation import Batch
from capsnet.execution import Execution
from capsnet.graphs import held, refill
from capsnet.learner import adam
from capsnet.stepping import Stepper


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_step_takes_a_held_batch_without_being_compiled_again(small_config, small_network):
    execution = Execution("cpu", "float32", 1, "channels_last", False, compile=True)
    network = small_network().float().to(memory_format=torch.channels_last)
    config = small_config(batch_size=3)
    stepper = Stepper(network, adam(network, 0.0, "cpu"), config, execution, images=3)
    batch = batch_of(torch.rand(3, 2, 9, 8), apart=False)
    stepper.step(batch, None)
    stepper.step(batch, None)
    assert stepper.execution.compile
    compiled = counters["stats"]["unique_graphs"]
    stepper.step(held(batch), None)
    assert counters["stats"]["unique_graphs"] == compiled
    stepper.step(Batch(batch.inputs, batch.targets.clone(), batch.labels), None)
    assert counters["stats"]["unique_graphs"] == compiled + 1  # so the count would tell
