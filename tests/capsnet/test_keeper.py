"""Checkpoints, logs and figures that a real training run writes."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from capsnet.checkpoint import load
from capsnet.keeper import Keeper
from capsnet.patience import SavingError
from capsnet.progressbar import Lines
from capsnet.tensorboard import Board
from capsnet.training import train


@pytest.fixture
def keeper(tmp_path):
    """Function that makes the keeper of each attempt of one run."""

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
    """Read the curve of a metric from TensorBoard's log: a list of (epoch, value)."""
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
    """Train to the end, draw the figures, and return the printed text."""
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
    assert f"warning: not all figures were drawn: File exists: {tmp_path}/figures\n" in printed
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1


class ThreadPanic(BaseException):
    """An error that is no `Exception`, like the panics that extensions in Rust raise."""


BROKEN = TypeError("broken\nand more")


@pytest.mark.parametrize(
    ("place", "error"),
    [(place, BROKEN) for place in ("__init__", "epoch", "images", "hparams", "picture", "close")]
    + [("epoch", error) for error in (SystemExit(1), ThreadPanic(), OSError())],
)
def test_whatever_goes_wrong_with_tensorboard_is_one_warning_and_the_run_ends_well(
    keeper, tiny_config, tiny_splits, tmp_path, monkeypatch, place, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Board, place, fail)
    printed = kept(keeper, tiny_config(num_epochs=2), tiny_splits)
    assert printed.count("warning") == 1
    assert "warning: TensorBoard's log cannot be written: " in printed and "and more" not in printed
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == FIGURES
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 2


def test_a_tensorboard_that_lacks_a_library_says_which_and_only_its_own_absence_what_to_install(
    keeper, tiny_config, tiny_splits, monkeypatch
):
    def without(name):
        def fail(*_, **__):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(Board, "__init__", fail)
        return kept(keeper, tiny_config(num_epochs=1), tiny_splits)

    assert "no TensorBoard log: pip install tensorboard\n" in without("tensorboard")
    printed = without("google.protobuf")
    assert "written: ModuleNotFoundError: No module named 'google.protobuf'\n" in printed
    assert "pip install" not in printed


@pytest.mark.parametrize("error", [SystemExit(1), ThreadPanic("out of bounds")])
def test_drawing_that_ends_the_process_or_panics_is_a_warning(
    keeper, tiny_config, tiny_splits, tmp_path, monkeypatch, error
):
    def fail(*_):
        raise error

    monkeypatch.setattr("capsnet.keeper.gallery", fail)
    printed = kept(keeper, tiny_config(num_epochs=1), tiny_splits)
    assert printed.count(f"warning: not all figures were drawn: {type(error).__name__}: ") == 1
    assert load(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_what_cannot_be_saved_is_no_matter_of_pictures(keeper, tiny_config, tiny_splits, monkeypatch):
    def fail(*_):
        raise SavingError("could not be saved for 600 s: No space left on device")

    monkeypatch.setattr("capsnet.saving.Writer.wait", fail)
    with pytest.raises(SavingError, match="No space left"):
        kept(keeper, tiny_config(num_epochs=1), tiny_splits)


NOTEBOOK = "module://matplotlib_inline.backend_inline"


@pytest.mark.parametrize(("backend", "kept"), [(NOTEBOOK, "None"), ("svg", "svg")])
def test_pictures_are_drawn_whatever_backend_the_environment_names(backend, kept):
    """Jupyter and Colab set MPLBACKEND for every `!command`."""
    code = (
        "import os, sys; from capsnet.figures import rendering\n"
        "with rendering.defaults():\n"
        "    from matplotlib.figure import Figure; content = rendering.png(Figure())\n"
        "assert content.startswith(b'\\x89PNG') and 'matplotlib.pyplot' not in sys.modules\n"
        "import matplotlib; print(os.environ['MPLBACKEND'])\n"
        "print(matplotlib.get_backend(auto_select=False))"
    )
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [backend, kept]


@pytest.mark.slow
def test_a_broken_tensorflow_and_a_notebooks_backend_leave_a_run_with_one_warning(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("raise TypeError('Descriptors cannot be created')")
    (tmp_path / "tiny.yaml").write_text(
        "{num_epochs: 2, threads: 1, dataset: {name: digits, size: 20}, "
        "model: {conv_channels: 8, primary_types: 2, kernel_size: 7, decoder: {hidden: [16]}}}"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MPLBACKEND": NOTEBOOK}
    command = [sys.executable, "-m", "capsnet", "train", "tiny.yaml"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    warnings = [line for line in done.stdout.splitlines() if "warning" in line]
    cause = "TypeError: Descriptors cannot be created"
    assert warnings == [f"warning: TensorBoard's log cannot be written: {cause}"]
    assert sorted(file.name for file in (tmp_path / "out/tiny/figures").iterdir()) == FIGURES


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
