"""The files of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from capsnet.files import previous_path
from runner import run_files
from runner.paths import Home, RunPaths


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return Home(tmp_path).run(7, "digits")


def test_an_ending_reads_back_and_its_absence_is_none(run: RunPaths) -> None:
    run_files.prepare(run, 1, "seed: 1\n")
    assert run_files.read_ending(run.attempt(1)) is None
    ending = run_files.Ending(1, "failed", "loss is nan", 12.5)
    run_files.write_ending(run.attempt(1), ending)
    assert run_files.read_ending(run.attempt(1)) == ending


@pytest.mark.parametrize("text", ["", '{"attempt": 1', '{"attempt": 1, "odd": 2}', "[]"])
def test_an_outcome_that_nobody_can_read_counts_as_none(run: RunPaths, text: str) -> None:
    run_files.prepare(run, 1, "")
    run.attempt(1).outcome.write_text(text)
    assert run_files.read_ending(run.attempt(1)) is None


def test_an_attempt_begins_without_an_outcome(run: RunPaths) -> None:
    run_files.write_ending(run.attempt(1), run_files.Ending(1, "finished", None, 1.0))
    run_files.prepare(run, 1, "")
    assert run_files.read_ending(run.attempt(1)) is None


def test_the_run_folder_shows_the_newest_attempt(run: RunPaths) -> None:
    for attempt in (1, 2):
        run_files.prepare(run, attempt, "seed: 1\n")
        run.attempt(attempt).log.write_text(f"attempt {attempt}")
    assert (run.folder / "log.txt").read_text() == "attempt 2"
    assert run.config.read_text() == "seed: 1\n"


def test_the_pictures_of_a_run_are_those_of_the_newest_attempt_that_has_any(run: RunPaths) -> None:
    run_files.prepare(run, 1, "")
    assert run_files.figures(run, 1) == []
    for attempt, names in ((1, ["old.png"]), (2, ["b.png", "a.gif", ".c.png.tmp"]), (3, [".c.png.tmp"])):
        run_files.prepare(run, attempt, "")
        run.attempt(attempt).figures.mkdir()
        for name in names:
            (run.attempt(attempt).figures / name).write_text("")
    folder = run.attempt(2).figures
    assert run_files.figures(run, 3) == [folder / "a.gif", folder / "b.png"]
    assert (run.folder / "figures").resolve() == run.attempt(3).figures


def test_checkpoints_are_kept_until_a_later_attempt_has_two_of_its_own(run: RunPaths) -> None:
    first, second = run.attempt(1).checkpoint, run.attempt(2).checkpoint
    run_files.prepare(run, 1, "")
    run_files.prepare(run, 2, "")
    for file in (first, previous_path(first), second):
        file.write_text("weights")
    run_files.prepare(run, 3, "")
    assert first.exists() and previous_path(first).exists()
    previous_path(second).write_text("weights")
    run_files.prepare(run, 4, "")
    assert first.exists(), "attempt 3 has none yet"
    for file in (run.attempt(3).checkpoint, previous_path(run.attempt(3).checkpoint)):
        file.write_text("weights")
    run_files.prepare(run, 4, "")
    assert not first.exists() and not second.exists()


def test_a_link_leads_to_the_newest_target(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run_files.link(tmp_path / "tensorboard", tmp_path / name)
    assert (tmp_path / "tensorboard").resolve() == tmp_path / "second"


def test_a_mirror_replaces_the_file_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "checkpoint.pt", tmp_path / "deep" / "model.pt"
    source.write_text("one")
    run_files.mirror(source, target)
    with target.open() as reader:
        source.unlink()
        source.write_text("two")
        run_files.mirror(source, target)
        assert (reader.read(), target.read_text()) == ("one", "two")
    assert [path.name for path in target.parent.iterdir()] == ["model.pt"]


def test_a_file_with_two_names_counts_once_and_delete_leaves_nothing(run: RunPaths) -> None:
    run_files.prepare(run, 1, "")
    empty = run_files.size(run)
    run.attempt(1).checkpoint.write_bytes(os.urandom(100_000))
    run_files.mirror(run.attempt(1).checkpoint, run.attempt(1).folder / "second.pt")
    assert 100_000 <= run_files.size(run) - empty < 120_000
    run_files.delete(run)
    assert not run.folder.exists()
    run_files.delete(run)


def test_rows_append_under_one_header(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        run_files.append_row(tmp_path / "system.csv", {"time": value, "load": 0.5})
    assert (tmp_path / "system.csv").read_text().split() == ["time,load", "1.0,0.5", "2.0,0.5"]


APPENDS = """
import resource, signal, sys
from pathlib import Path
from runner.run_files import append_row
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails as it does on a full disk
for limit, value in ((-1, 1.0), (20, 2.0), (-1, 3.0)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        append_row(Path(sys.argv[1]), {"time": value, "load": 0.5})
    except OSError as error:
        print(error.strerror)
"""


def test_a_row_that_does_not_fit_leaves_no_half_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPENDS, str(tmp_path / "system.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert (tmp_path / "system.csv").read_text().split() == ["time,load", "1.0,0.5", "3.0,0.5"]
