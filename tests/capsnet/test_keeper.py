"""What is saved and logged while training, from real training."""

import io
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from capsnet.checkpoint import load
from capsnet.keeper import Keeper
from capsnet.progressbar import Lines
from capsnet.training import train


@pytest.fixture
def keeper(tmp_path):
    """Makes the keeper of each attempt of one run."""

    def make(config, state=None, shown=None):
        lines = Lines(shown or io.StringIO())
        return Keeper(config, tmp_path / "checkpoint.pt", tmp_path / "tensorboard", state, lines)

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
                return progress.start_snapshot()

            kept.see(replace(progress, start_snapshot=snapshot), last=False)
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


FIGURES = ["confusion.png", "couplings.png", "curves.png", "perturb.png", "reconstruct.png"]


def kept(keeper, config, splits):
    """Train to the end and draw; what was printed."""
    shown = io.StringIO()
    with keeper(config, shown=shown) as kept:
        for progress in train(config, splits=splits):
            kept.see(progress, last=False)
            if kept.complete:
                kept.draw(progress)
    assert kept.complete
    return shown.getvalue()


def test_the_pictures_of_a_finished_run_lie_beside_its_checkpoint_and_on_the_board(
    keeper, tiny_config, tiny_splits, tmp_path
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    printed = kept(keeper, tiny_config(num_epochs=2), tiny_splits)
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == FIGURES
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    tags = [f"figures/{name.removesuffix('.png')}" for name in FIGURES]
    assert sorted(board.Tags()["images"]) == [*tags, "reconstructions"]
    (event,) = board.Images("figures/confusion")
    drawn, logged = (
        Image.open(file).convert("RGB")
        for file in (tmp_path / "figures/confusion.png", io.BytesIO(event.encoded_image_string))
    )
    assert event.step == 2 and drawn.tobytes() == logged.tobytes()
    assert "warning" not in printed


def test_a_run_that_goes_on_later_has_no_pictures_yet(keeper, tiny_config, tiny_splits, tmp_path):
    progresses = train(tiny_config(), splits=tiny_splits)
    with keeper(tiny_config()) as stopped:
        for progress in progresses:
            stopped.see(progress, last=progress.metrics is not None)
            if progress.metrics is not None:
                break
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1
    assert not (tmp_path / "figures").exists()


def test_a_picture_that_fails_is_a_warning_and_the_checkpoint_is_there_before_it(
    keeper, tiny_config, tiny_splits, tmp_path, monkeypatch
):
    saved = []

    def failing(*_):
        yield "confusion", Figure(figsize=(1, 1))
        saved.append(load(tmp_path / "checkpoint.pt")["epoch"])
        raise RuntimeError("out of memory\nand so on")

    monkeypatch.setattr("capsnet.keeper.gallery", failing)
    printed = kept(keeper, tiny_config(), tiny_splits)
    assert "warning: not all figures were drawn: RuntimeError: out of memory\n" in printed
    assert saved == [3]
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["confusion.png"]


def test_ctrl_c_while_drawing_leaves_pictures_out_and_nothing_else(
    keeper, tiny_config, tiny_splits, tmp_path, monkeypatch
):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("capsnet.keeper.gallery", stopped)
    printed = kept(keeper, tiny_config(num_epochs=1), tiny_splits)
    assert "stopped drawing; `python -m capsnet figures` draws what is missing\n" in printed
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_a_file_in_the_way_of_the_pictures_is_a_warning(keeper, tiny_config, tiny_splits, tmp_path):
    (tmp_path / "figures").write_text("")
    printed = kept(keeper, tiny_config(num_epochs=1), tiny_splits)
    assert "warning: not all figures were drawn: FileExistsError: " in printed
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_without_matplotlib_a_run_ends_as_well(keeper, tiny_config, tiny_splits, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    printed = kept(keeper, tiny_config(num_epochs=1), tiny_splits)
    assert "no figures: pip install matplotlib\n" in printed
    assert not (tmp_path / "figures").exists()


def test_drawing_changes_nothing_about_what_was_trained(keeper, tiny_config, tiny_splits, tmp_path):
    kept(keeper, tiny_config(num_epochs=2), tiny_splits)
    *_, last = train(tiny_config(num_epochs=2), splits=tiny_splits)
    weights = load(tmp_path / "checkpoint.pt")["model"]
    assert all(torch.equal(value, weights[name]) for name, value in last.snapshot()["model"].items())
