"""Ending before the last epoch, for want of a gain on the validation split."""

from __future__ import annotations

import io
from itertools import islice

import pytest

from capsnet.config import Config
from capsnet.keeper import Keeper
from capsnet.progressbar import Lines
from capsnet.snapshot import tensors
from capsnet.stopping import is_over, stopped_early
from capsnet.training import train


def history(*accuracies: float) -> list[dict[str, float]]:
    return [
        {"epoch": number, "validation/accuracy": value, "test/accuracy": number / 100}
        for number, value in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "over"),
    [
        ((), False),
        ((0.5,), False),
        ((0.5, 0.5), False),
        ((0.5, 0.5, 0.5), True),  # as high is no gain
        ((0.5, 0.4, 0.6), False),
        ((0.5, 0.4, 0.6, 0.6, 0.5), True),
        ((0.5, 0.6, 0.7, 0.8, 0.9), False),
    ],
)
def test_training_ends_after_two_epochs_without_a_gain(accuracies, over):
    assert is_over(history(*accuracies), 10, 2) is over
    assert (stopped_early(history(*accuracies), 10, 2) is not None) is over
    assert not is_over(history(*accuracies), 10, None)


def test_the_reason_names_the_epochs_and_what_was_best():
    assert stopped_early(history(0.5, 0.75, 0.7, 0.75), 9, 2) == (
        "stopped early after epoch 4 of 9: no gain on the validation split since epoch 2"
    )


def test_a_run_that_has_trained_all_its_epochs_did_not_stop_early():
    assert is_over(history(0.5, 0.5, 0.5), 3, 2)
    assert stopped_early(history(0.5, 0.5, 0.5), 3, 2) is None


def test_the_test_set_stops_nothing():
    rows = [{"epoch": number, "test/accuracy": 0.5} for number in range(1, 9)]
    assert stopped_early(rows, 20, 2) is None


# ---- while training


@pytest.fixture
def config(tiny_config) -> Config:
    """Configuration with a learning rate of almost 0, so that the first epoch stays the best."""
    return tiny_config(num_epochs=6, stop_after_epochs_without_gain=2, optim={"lr": 1e-12})


def end(config, splits, state=None):
    *_, progress = train(config, state, splits, interval_seconds=0)
    return progress.snapshot()


def test_training_stops_after_the_epoch_and_keeps_the_best_weights(config, tiny_splits):
    state = end(config, tiny_splits)
    assert [row["epoch"] for row in state["history"]] == [1, 2, 3]
    assert (state["epoch"], state["step"], state["best"]["epoch"]) == (3, 0, 1)
    assert list(train(config, state, tiny_splits)) == []


def test_a_run_broken_off_anywhere_stops_where_it_would_have_stopped(config, tiny_splits):
    undisturbed = end(config, tiny_splits)
    for place in (3, 8, 9, 15, 18, 24):  # 9 yields an epoch
        *_, progress = islice(train(config, splits=tiny_splits, interval_seconds=0), place)
        resumed = end(config, tiny_splits, progress.snapshot())
        assert resumed["epoch"] == 3
        for one, other in zip(tensors(undisturbed["model"]), tensors(resumed["model"]), strict=True):
            assert one.equal(other)


def test_a_run_that_may_go_longer_goes_on_as_if_it_had_never_stopped(config, tiny_splits):
    stopped = end(config, tiny_splits)
    for allowed in (4, None):
        longer = config.model_copy(update={"stop_after_epochs_without_gain": allowed})
        extended, at_once = end(longer, tiny_splits, stopped), end(longer, tiny_splits)
        assert extended["epoch"] == at_once["epoch"] == (5 if allowed else 6)
        for one, other in zip(tensors(extended["model"]), tensors(at_once["model"]), strict=True):
            assert one.equal(other)


def test_the_end_is_saved_and_said_and_counts_as_complete(config, tiny_splits, tmp_path):
    shown = io.StringIO()
    path = tmp_path / "checkpoint.pt"
    with Keeper(config, path, tmp_path / "tensorboard", None, Lines(shown)) as keeper:
        for progress in train(config, splits=tiny_splits):
            keeper.see(progress, last=False)
            assert keeper.complete is (progress.epoch == 3 and progress.metrics is not None)
    assert keeper.durable == (3, 0)
    lines = [line for line in shown.getvalue().splitlines() if "stopped early" in line]
    assert lines == [keeper.stopped_early]
