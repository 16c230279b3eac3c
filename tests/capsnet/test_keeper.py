"""What is saved and logged while training, from real training."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest

from capsnet.checkpoint import load
from capsnet.keeper import Keeper
from capsnet.progressbar import Lines
from capsnet.training import train


@pytest.fixture
def keeper(tmp_path):
    """Makes the keeper of each attempt of one run."""

    def make(config, state=None):
        return Keeper(
            config, tmp_path / "checkpoint.pt", tmp_path / "tensorboard", state, Lines(io.StringIO())
        )

    return make


@pytest.fixture
def clock(monkeypatch):
    """The keeper's clock: `clock.seconds` is what it shows."""
    shown = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("capsnet.keeper.time", SimpleNamespace(monotonic=lambda: shown.seconds))
    return shown


def curve(folder, name):
    """What TensorBoard would show: (epoch, value) of a metric."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(name)]


def test_epochs_that_a_crashed_attempt_logged_but_did_not_save_are_on_the_board_once(
    keeper, tiny_config, tiny_splits, tmp_path
):
    states = []
    with keeper(tiny_config()) as crashed:
        for progress in train(tiny_config(), splits=tiny_splits):
            crashed.see(progress, last=False)
            if progress.metrics is not None:
                states.append(progress.snapshot())
            if len(states) == 2:
                break
    config = tiny_config(optim={"lr": 0.01})  # its second epoch gives other figures
    with keeper(config, states[0]) as resumed:
        for progress in train(config, states[0], tiny_splits):
            resumed.see(progress, last=False)
    measured = [(row["epoch"], row["test/loss"]) for row in resumed.history]
    assert [epoch for epoch, _ in measured] == [1, 2, 3]
    assert curve(tmp_path / "tensorboard", "test/loss") == measured
    assert curve(tmp_path / "tensorboard", "test/loss")[1][1] != crashed.history[1]["test/loss"]


def test_a_state_is_saved_each_time_the_interval_has_passed(
    keeper, clock, tiny_config, tiny_splits, tmp_path
):
    config = tiny_config(checkpoint={"interval_seconds": 30.0})
    taken = []
    with keeper(config) as kept:
        moments = zip(
            train(config, splits=tiny_splits, interval_seconds=0), (1029, 1030, 1059, 1060), strict=False
        )
        for progress, clock.seconds in moments:

            def snapshot(progress=progress):
                taken.append(clock.seconds)
                return progress.snapshot()

            kept.see(replace(progress, snapshot=snapshot), last=False)
    assert taken == [1030, 1060]
    assert kept.durable == (0, 4)
    assert load(tmp_path / "checkpoint.pt")["step"] == 4


def test_what_is_seen_last_is_saved_before_the_interval_has_passed(
    keeper, tiny_config, tiny_splits, tmp_path
):
    config = tiny_config(checkpoint={"interval_seconds": 3600.0})
    progresses = train(config, splits=tiny_splits, interval_seconds=0)
    with keeper(config) as kept:
        kept.see(next(progresses), last=False)
        kept.see(next(progresses), last=True)
    assert kept.durable == (0, 2)
    assert load(tmp_path / "checkpoint.pt")["step"] == 2
