"""Snapshots: states of a run that are copied so that they can be saved."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from capsnet.snapshot import Snapshot, tensors
from capsnet.training import TrainingError, train


@pytest.fixture
def progresses(tiny_config, tiny_splits):
    return train(tiny_config(), splits=tiny_splits, interval_seconds=0)


def test_what_is_trained_afterwards_does_not_reach_it(progresses):
    *_, progress = islice(progresses, 3)
    snapshot, before = progress.start_snapshot(), progress.snapshot()
    for _ in islice(progresses, 6):
        pass
    assert (snapshot.epoch, snapshot.step) == (before["epoch"], before["step"])
    for tensor, other in zip(tensors(snapshot.state()), tensors(before), strict=True):
        assert torch.equal(tensor, other)


def test_a_weight_that_is_not_finite_is_found_by_who_asks_for_the_state(progresses):
    progress = next(progresses)
    with torch.no_grad():
        next(progress.network.parameters())[0] = torch.inf
    snapshot = progress.start_snapshot()
    with pytest.raises(TrainingError, match="weights are not finite at epoch 1, step 1"):
        snapshot.state()


def test_the_first_step_whose_loss_was_not_finite_is_named(progresses):
    *_, progress = islice(progresses, 4)
    state = progress.snapshot()
    assert state["step"] > 2
    state["sums"][1, 0] = torch.nan
    state["sums"][2, 0] = torch.inf
    with pytest.raises(TrainingError, match="loss is nan at epoch 1, step 2"):
        Snapshot(state, "cpu").state()
