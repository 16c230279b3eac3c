"""Speeds and warnings of a process that resumes another process's run."""

import io
import warnings

import pytest

from capsnet.cpus import available_cpus
from capsnet.execution import resolve
from capsnet.history import read_history
from capsnet.keeper import Keeper
from capsnet.progressbar import Lines
from capsnet.training import train


@pytest.mark.parametrize("phase", ["validation", "test"])
def test_an_epoch_whose_steps_an_earlier_process_took_has_no_speed(tiny_config, tiny_splits, tmp_path, phase):
    config, path, printed = tiny_config(num_epochs=2), tmp_path / "checkpoint.pt", io.StringIO()
    progresses = train(config, splits=tiny_splits, interval_seconds=0)
    state = next(p for p in progresses if p.phase == phase).snapshot()
    with Keeper(config, path, tmp_path / "tensorboard", state, Lines(printed)) as keeper:
        for progress in train(config, state, tiny_splits):
            keeper.see(progress, last=False)
    first, second = read_history(tmp_path / "history.csv")
    assert "images_per_second" not in first
    assert second["images_per_second"] > 0
    assert ["images/s" in line for line in printed.getvalue().splitlines()] == [False, True]


def test_more_threads_than_this_machine_has_cpus_are_warned_of(tiny_config):
    cpus = available_cpus()
    stored = resolve(tiny_config()).as_dict()
    with pytest.warns(UserWarning, match=rf"with the {cpus + 1} threads that it began with, .* {cpus} CPUs"):
        assert resolve(tiny_config(threads=None), stored | {"threads": cpus + 1}).threads == cpus + 1


def test_as_many_threads_as_cpus_are_no_reason_to_warn(tiny_config):
    cpus = available_cpus()
    stored = resolve(tiny_config()).as_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(tiny_config(threads=None), stored | {"threads": cpus}).threads == cpus
