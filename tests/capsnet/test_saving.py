"""Saving in parallel to training: what waits, what is retried, and when saving is given up."""

import errno
import io
import threading
import time

import pytest
from patience import PATIENCE, wait_until

from capsnet import checkpoint, saving
from capsnet.checkpoint import load
from capsnet.config import Checkpoint
from capsnet.keeper import Keeper
from capsnet.patience import SavingError, Trouble
from capsnet.progressbar import Lines
from capsnet.saving import Writer, due
from capsnet.snapshot import Snapshot
from capsnet.training import train


def taken(state):
    return Snapshot(state, "cpu")


def test_a_writer_saves_in_the_background_and_says_what_is_durable(state, path):
    writer = Writer(path)
    assert writer.durable is None
    writer.submit(taken(state))
    writer.wait()
    assert writer.durable == (1, 2)
    assert (load(path)["epoch"], load(path)["step"]) == (1, 2)
    writer.submit(taken(state | {"step": 3}))
    writer.close()
    assert writer.durable == (1, 3)
    assert load(path)["step"] == 3


@pytest.fixture
def slow_disk(monkeypatch):
    """Event that lets saving proceed once it is set; `saved` lists the (epoch, step) of saved states."""
    released, begun = threading.Event(), threading.Event()
    released.saved, released.begun = [], begun  # type: ignore[attr-defined]
    really = checkpoint.save

    def save_when_released(state, path):
        begun.set()
        assert released.wait(PATIENCE)
        really(state, path)
        released.saved.append((state["epoch"], state["step"]))  # type: ignore[attr-defined]

    monkeypatch.setattr(checkpoint, "save", save_when_released)
    return released


def test_the_newest_of_several_waiting_states_wins_but_kept_ones_are_all_written(
    state, at_end, path, slow_disk
):
    writer = Writer(path)
    writer.submit(taken(state))
    assert slow_disk.begun.wait(PATIENCE)
    for waiting in (state | {"step": 3}, at_end, at_end | {"step": 1}, at_end | {"step": 2}):
        writer.submit(taken(waiting))
    slow_disk.set()
    writer.close()
    assert slow_disk.saved == [(1, 2), (2, 0), (2, 2)]


def test_an_error_of_the_writer_is_raised_at_the_next_call(state, tmp_path):
    (tmp_path / "file").write_text("no folder")
    writer = Writer(tmp_path / "file" / "checkpoint.pt")
    writer.submit(taken(state))
    with pytest.raises(OSError, match="file"):
        writer.wait()
    with pytest.raises(OSError, match="file"):
        writer.submit(taken(state))
    with pytest.raises(OSError, match="file"):
        writer.close()
    assert writer.durable is None


def test_saving_is_due_after_the_interval_at_the_end_and_where_weights_are_kept():
    settings = Checkpoint(interval_seconds=30, keep_every=5)
    assert due(settings, ended=None, is_over=False, seconds=30)
    assert not due(settings, ended=None, is_over=False, seconds=29)
    assert not due(settings, ended=4, is_over=False, seconds=1)
    assert due(settings, ended=5, is_over=False, seconds=1)
    assert due(settings, ended=9, is_over=True, seconds=1)
    assert not due(Checkpoint(), ended=5, is_over=False, seconds=1)


@pytest.fixture
def full_disk():
    """A `save` that meets a full disk until this is cleared; `tries` counts how often."""

    class Full(threading.Event):
        tries = 0

        def save(self, state, path):
            self.tries += 1
            if self.is_set():
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            checkpoint.save(state, path)

    full = Full()
    full.set()
    return full


def test_what_could_not_be_saved_is_tried_again_or_a_newer_state_in_its_place(state, path, full_disk):
    heard = []
    writer = Writer(path, 20.0, heard.append, full_disk.save)
    before = time.time()
    writer.submit(taken(state))
    wait_until(lambda: full_disk.tries > 1)
    writer.submit(taken(state | {"step": 3}))
    [trouble] = heard
    assert trouble.reason == f"No space left on device: {path}"
    assert before - 1 < trouble.since < time.time()
    assert writer.durable is None
    full_disk.clear()
    writer.wait()
    assert heard == [trouble, None]
    assert writer.durable == (1, 3)
    writer.close()
    assert load(path)["step"] == 3 and not checkpoint.previous_path(path).exists()


def test_after_its_patience_a_writer_gives_up_and_says_why(state, path, full_disk):
    writer = Writer(path, 1.0, save=full_disk.save)
    writer.submit(taken(state))
    line = f"could not be saved for 1 s: No space left on device: {path}; what was saved before is kept"
    for call in (writer.wait, lambda: writer.submit(taken(state)), writer.look, writer.close):
        with pytest.raises(SavingError, match="could not") as raised:
            call()
        assert str(raised.value) == line
    assert full_disk.tries > 10


def test_who_leaves_in_a_hurry_waits_for_no_disk(state, path, full_disk):
    writer = Writer(path, 1000.0, save=full_disk.save)
    writer.submit(taken(state))
    wait_until(lambda: full_disk.tries)
    with pytest.raises(SavingError, match="No space left"):
        writer.close(patient=False)


def test_who_leaves_in_a_hurry_waits_a_moment_for_a_storage_that_hangs_and_nothing_follows(
    state, at_end, path, slow_disk, monkeypatch
):
    monkeypatch.setattr(saving, "HURRY_SECONDS", 0.3)
    others = threading.enumerate()
    writer = Writer(path, 1000.0)
    writer.submit(taken(state))
    assert slow_disk.begun.wait(PATIENCE)
    writer.submit(taken(at_end))
    began = time.monotonic()
    with pytest.raises(SavingError, match="the storage does not answer; what was saved before is kept"):
        writer.close(patient=False)
    assert 0.3 < time.monotonic() - began < 10
    assert not path.exists()
    slow_disk.set()
    wait_until(lambda: {*threading.enumerate()} <= {*others})
    assert slow_disk.saved == [(1, 2)] and load(path)["step"] == 2


def test_a_storage_that_hangs_is_told_and_not_waited_for_for_ever(state, path, monkeypatch):
    released, heard = threading.Event(), []
    monkeypatch.setattr(saving, "HUNG_SECONDS", 0.3)
    writer = Writer(path, 0.6, heard.append, lambda state, path: released.wait(PATIENCE))
    writer.submit(taken(state))
    with pytest.raises(SavingError, match="the storage does not answer"):
        writer.wait()
    assert [trouble.reason for trouble in heard] == ["the storage does not answer"]
    released.set()


def test_a_trouble_names_the_time_of_day():
    since = time.mktime((2026, 11, 21, 12, 3, 0, 0, 0, -1))
    assert (
        str(Trouble(since, "No space left on device")) == "cannot save since 12:03: No space left on device"
    )


def test_training_goes_on_while_nothing_can_be_saved_and_says_so(
    tmp_path, tiny_config, tiny_splits, full_disk
):
    config = tiny_config(checkpoint={"interval_seconds": 1.0})
    said, heard, place = io.StringIO(), [], tmp_path / "checkpoint.pt"
    keeper = Keeper(
        config, place, tmp_path / "board", None, Lines(said), save=full_disk.save, troubled=heard.append
    )
    with keeper:
        for progress in train(config, splits=tiny_splits):
            keeper.see(progress, last=progress.epoch == 1)
            wait_until(lambda: full_disk.tries)
            if progress.epoch == 2:
                full_disk.clear()
    assert keeper.durable == (config.num_epochs, 0)
    assert [bool(trouble) for trouble in heard] == [True, False]
    assert f"warning: {heard[0]}; training goes on\n" in said.getvalue()
    assert "saved again\n" in said.getvalue()


def test_a_file_in_the_way_is_not_waited_for(state, tmp_path):
    (tmp_path / "file").write_text("no folder")
    writer = Writer(tmp_path / "file" / "checkpoint.pt", patience_seconds=1000.0)
    writer.submit(taken(state))
    with pytest.raises(OSError, match="file"):
        writer.wait()


def test_who_leaves_because_of_an_error_hears_of_that_one_though_nothing_can_be_saved(
    full_disk, tiny_config, tiny_splits, tmp_path
):
    said = io.StringIO()
    config = tiny_config()
    keeper = Keeper(config, tmp_path / "a.pt", tmp_path / "board", None, Lines(said), save=full_disk.save)
    with pytest.raises(RuntimeError, match="another worker has gone"), keeper:
        keeper.see(next(train(config, splits=tiny_splits)), last=True)
        raise RuntimeError("another worker has gone")
    assert "No space left on device" in said.getvalue()
