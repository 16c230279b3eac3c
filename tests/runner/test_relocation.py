"""A home that is really moved: the paths in its MLflow store are adapted."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runner import record, tracking
from runner.paths import Home
from runner.tracking import Record, Tracker, TrackingError


def opened(home: Home, **environ: str) -> Tracker:
    tracker = Tracker(tracking.target(home, environ))
    tracker.check()
    return tracker


def published(tracker: Tracker, home: Home, number: int) -> Record:
    """A run in MLflow with a file and a model."""
    tags = {record.IDENTITY: f"queue/{number}", record.FOLDER: str(home.root / f"{number}-tiny")}
    run = tracker.open(None, f"{number}-tiny", 1.0, tags)
    (note := home.root / "note.txt").write_text(f"of run {number}")
    tracker.add_file(run, note)
    tracker.add_model(run, "tiny", 1, [], lambda folder, _: folder.mkdir(parents=True))
    return run


def paths_in(database: Path) -> list[str]:
    """Every text in the store, whatever the table."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        rows = [row for table in tables for row in connection.execute(f"SELECT * FROM {table}")]
    return [value for row in rows for value in row if isinstance(value, str) and "/" in value]


@pytest.fixture
def moved(tmp_path: Path, new_mlflow_store: Path) -> tuple[Home, Home, str]:
    """The home at its old place, the same home at its new one, and the MLflow run in it."""
    before, after = Home(tmp_path / "runs"), Home(tmp_path / "elsewhere" / "my runs")
    before.root.mkdir()
    shutil.copy(new_mlflow_store, before.mlflow_database)
    run = published(opened(before), before, 1)
    after.root.parent.mkdir()
    before.root.rename(after.root)
    return before, after, run.id


def test_files_of_before_are_found_and_new_ones_are_kept_in_the_new_place(
    moved: tuple[Home, Home, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, run_id = moved
    tracker = opened(after)
    assert f"no longer in {before.root}" in capsys.readouterr().out
    assert Path(tracker.client.download_artifacts(run_id, "note.txt")).read_text() == "of run 1"
    published(tracker, after, 2)
    assert not before.root.exists()
    assert not [text for text in paths_in(after.mlflow_database) if f"{before.root}/" in text]
    run = tracker.client.get_run(run_id)
    assert run.data.tags["runner.folder"] == str(after.root / "1-tiny")
    assert run.info.artifact_uri == f"{after.artifacts.as_uri()}/{run_id}/artifacts"


def test_what_has_moved_once_stays_as_it_is_at_the_next_start(
    moved: tuple[Home, Home, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, after, _ = moved
    opened(after)
    content = paths_in(after.mlflow_database)
    capsys.readouterr()
    opened(after)
    assert paths_in(after.mlflow_database) == content
    assert capsys.readouterr().out == ""


def test_it_may_move_again_and_back(moved: tuple[Home, Home, str]) -> None:
    before, after, run_id = moved
    opened(after)
    after.root.rename(before.root)
    tracker = opened(before)
    assert Path(tracker.client.download_artifacts(run_id, "note.txt")).read_text() == "of run 1"


def test_a_copy_names_its_own_files_and_the_original_is_left_alone(
    moved: tuple[Home, Home, str], tmp_path: Path
) -> None:
    _, original, run_id = moved
    opened(original)
    copy = Home(tmp_path / "copy")
    shutil.copytree(original.root, copy.root)
    tracker = opened(copy)
    (copy.artifacts / run_id / "artifacts" / "note.txt").write_text("of the copy")
    assert Path(tracker.client.download_artifacts(run_id, "note.txt")).read_text() == "of the copy"
    there = opened(original)
    assert Path(there.client.download_artifacts(run_id, "note.txt")).read_text() == "of run 1"


def test_another_path_to_the_same_home_changes_nothing(moved: tuple[Home, Home, str], tmp_path: Path) -> None:
    _, home, _ = moved
    opened(home)
    content = paths_in(home.mlflow_database)
    (tmp_path / "link").symlink_to(home.root)
    opened(Home(tmp_path / "link"))
    assert paths_in(home.mlflow_database) == content


def test_an_experiment_that_somebody_made_with_files_elsewhere_keeps_them(
    moved: tuple[Home, Home, str], tmp_path: Path
) -> None:
    before, after, _ = moved
    foreign = (tmp_path / "theirs" / "artifacts").as_uri()
    before.root.symlink_to(after.root)  # so that it has not moved yet
    experiment = opened(before).client.create_experiment("theirs", foreign)
    opened(before).client.create_run(experiment)
    before.root.unlink()
    found = opened(after).client.get_experiment(experiment)
    assert found.artifact_location == foreign


def test_in_a_store_elsewhere_a_home_that_is_gone_is_said(tmp_path: Path, new_mlflow_store: Path) -> None:
    shared = tmp_path / "shared.db"
    shutil.copy(new_mlflow_store, shared)
    environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{shared}", "MLFLOW_EXPERIMENT_NAME": "thesis"}
    before, after = Home(tmp_path / "runs"), Home(tmp_path / "moved")
    before.root.mkdir()
    opened(before, **environ)
    opened(after, **environ)  # another home may use the first one's experiment
    before.root.rename(after.root)
    with pytest.raises(TrackingError, match=r"keeps its files in .*/runs/artifacts, which is not there"):
        opened(after, **environ)
