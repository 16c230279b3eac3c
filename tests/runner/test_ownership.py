"""Folders and objects of another run of the same number in a run's place: they are left untouched."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import s3
from cli_harness import Lab

from runner import ownership, run_files, storage
from runner.objects import Objects
from runner.ownership import AttemptKept, ForeignRun, PlaceTaken
from runner.paths import Home, RunPaths
from runner.rows import NewRun, Run
from runner.run_files import Ending
from runner.store import open_store
from runner.workplace import Workplace
from runner.workplace import of as workplace_of

CONFIG = "num_epochs: 3\n"
SUBMITTED_AT = 1_800_000_000.0


def a_run(folder: Path) -> Run:
    """A run of number 1 whose first attempt has begun, of a queue of its own."""
    with open_store(folder / f"{os.urandom(4).hex()}.db") as store:
        [number] = store.add([NewRun(name="digits", config=CONFIG, num_epochs=3)], SUBMITTED_AT)
        store.claim(store.take_over(1.0, "here", "1"), number, SUBMITTED_AT, gpus=0, cpus=1)
        run = store.run(number)
    assert run is not None
    return run


@dataclass
class Place:
    """Where runs of number 1 keep their files."""

    home: Home

    @property
    def storage(self) -> storage.Storage:
        return storage.of(self.home)

    def begin(self, run: Run, rank: int = 0) -> Workplace:
        """Begin the run's newest attempt, as scheduler and worker do."""
        self.storage.prepare(run)
        place = workplace_of(
            self.home, run.id, run.name, run.attempt, run.config, rank, identity=run.identity
        )
        place.open()
        try:
            place.claim(0.0, lambda trouble: None)
        except PlaceTaken:
            place.settle(0.0, lambda trouble: None)
            place.end(Ending(run.attempt, "failed", "its place was taken", 2.0))
            place.leave()
            raise
        return place

    def finish(self, run: Run) -> None:
        """Have the run's newest attempt leave files of each kind."""
        place = self.begin(run)
        attempt = place.run.attempt(run.attempt)
        for file in (attempt.checkpoint, attempt.history, attempt.log):
            file.write_text(f"of {run.identity}")
        place.save()
        place.settle(0.0, lambda trouble: None)
        place.end(Ending(run.attempt, "finished", None, 2.0))
        place.leave()

    def everything(self) -> dict[str, object]:
        """Return all stored files or objects, by name."""
        if self.home.remote:
            return dict(Objects(str(self.home.storage)).list(""))
        files = (file for file in self.home.runs.rglob("*") if file.is_file())
        return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture(params=["home", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    url = request.getfixturevalue("s3_server").new_url() if request.param == "s3" else None
    monkeypatch.setenv("RUNNER_SCRATCH", str(tmp_path / "scratch"))
    home = Home(tmp_path / "home", storage=url)
    home.root.mkdir()
    return Place(home)


@pytest.fixture
def older(place: Place, tmp_path: Path) -> Run:
    """A run that has finished there."""
    run = a_run(tmp_path)
    place.finish(run)
    return run


@pytest.fixture
def newer(older: Run, tmp_path: Path) -> Run:
    """Another run of the same number and name."""
    run = a_run(tmp_path)
    assert run.identity != older.identity
    return run


def test_a_run_whose_place_another_one_has_begins_nothing_and_leaves_the_other_as_it_is(
    place: Place, newer: Run
) -> None:
    before = place.everything()
    with pytest.raises(ForeignRun, match="holds another run") as caught:
        place.begin(newer)
    assert "1-digits" in str(caught.value) and "\n" not in str(caught.value)
    assert place.everything() == before


def test_it_has_no_files_and_its_deletion_leaves_those_of_the_other(
    place: Place, older: Run, newer: Run
) -> None:
    before = place.everything()
    assert place.storage.size(older) > place.storage.size(newer) == 0
    assert place.storage.ending(newer) is None
    assert place.storage.newest_attempt(newer) == 0
    with place.storage.checkpoint(newer) as checkpoint:
        assert checkpoint is None
    with pytest.raises(ForeignRun):
        place.storage.read(newer, "metrics", storage.Log())
    place.storage.delete(newer)
    assert place.everything() == before
    place.storage.delete(older)
    assert place.everything() == {}


def test_the_owner_goes_on_with_its_next_attempt(place: Place, older: Run) -> None:
    again = replace(older, attempt=2)
    place.finish(again)
    assert place.storage.ending(again) == Ending(2, "finished", None, 2.0)
    read = place.storage.read(again, storage.Log())
    assert read.attempt(1).log.read_text() == read.attempt(2).log.read_text() == f"of {older.identity}"


def test_the_highest_number_is_that_of_the_files_that_are_there(place: Place, older: Run) -> None:
    assert place.storage.highest_number() == 1
    for number in (9, 12):
        place.finish(replace(older, id=number))
    assert place.storage.highest_number() == 12


def test_of_several_workers_none_writes_to_another_runs_place(place: Place, newer: Run) -> None:
    before = place.everything()
    with pytest.raises(ForeignRun):
        place.begin(newer, rank=1)
    assert place.everything() == before


def test_an_attempt_that_is_in_the_store_already_is_not_written_over(
    s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue restored from a copy repeats numbers; in folders the scheduler sees that and takes the next."""
    monkeypatch.setenv("RUNNER_SCRATCH", str(tmp_path / "scratch"))
    place, run = Place(Home(tmp_path / "home", storage=s3_server.new_url())), a_run(tmp_path)
    place.finish(run)
    before = place.everything()
    with pytest.raises(AttemptKept, match=r"1-digits/attempts/1 holds an attempt .* `resume` goes on with"):
        place.begin(run)
    assert place.everything() == before
    place.finish(replace(run, attempt=2))


# Folders of earlier versions, which knew no identities.


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def prepared(home: Home, seconds_after_submission: float) -> RunPaths:
    """Prepare a folder without an identity, the given seconds after the run's submission."""
    paths = home.run(1, "digits")
    run_files.prepare(paths, 1, CONFIG)
    at = SUBMITTED_AT + seconds_after_submission
    os.utime(paths.config, (at, at))
    return paths


def test_a_folder_that_is_older_than_the_run_is_another_ones(home: Home, tmp_path: Path) -> None:
    paths, run = prepared(home, -3600.0), a_run(tmp_path)
    with pytest.raises(ForeignRun):
        storage.of(home).prepare(run)
    storage.of(home).delete(run)
    assert paths.config.exists() and not paths.identity.exists()


def test_a_folder_that_an_earlier_scheduler_made_for_the_run_becomes_its_own(
    home: Home, tmp_path: Path
) -> None:
    paths, run = prepared(home, 5.0), a_run(tmp_path)
    storage.of(home).prepare(replace(run, attempt=2))
    assert paths.identity.read_text() == f"{run.identity}\n"
    assert storage.of(home).newest_attempt(run) == 2


def test_a_run_of_an_earlier_version_keeps_its_folder_and_takes_no_newer_ones(
    home: Home, tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    before = replace(run, identity=None)
    paths = prepared(home, -3600.0)
    storage.of(home).prepare(before)
    assert not paths.identity.exists()
    ownership.claim(paths, run.identity, submitted_at=0.0)
    with pytest.raises(ForeignRun):
        storage.of(home).prepare(before)


def test_of_claims_at_one_instant_one_succeeds(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, start = home.run(1, "digits"), threading.Barrier(8)
    claimed: list[str] = []
    really: Callable[..., bool] = ownership.is_own

    def at_once(*arguments: Any) -> bool:
        found = really(*arguments)
        start.wait()
        return found

    def claim(identity: str) -> None:
        try:
            ownership.claim(paths, identity, SUBMITTED_AT)
        except ForeignRun:
            return
        claimed.append(identity)

    monkeypatch.setattr(ownership, "is_own", at_once)
    threads = [threading.Thread(target=claim, args=(f"{number:032x}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claimed == [ownership.owner(paths)]
    assert [file.name for file in paths.folder.iterdir()] == ["identity"]


def test_what_else_lies_in_a_home_has_no_number(home: Home) -> None:
    for name in ("20261128-notes", "7", "8-file"):
        (home.root / name).mkdir()
    (home.root / "9-file").touch()
    assert run_files.highest_number(home.runs) == 0
    assert run_files.highest_number(home.root / "absent") == 0
    (home.root / "5-tiny/attempts").mkdir(parents=True)
    assert run_files.highest_number(home.runs) == 5


def test_submit_takes_a_number_above_the_folders_that_are_there(lab: Lab) -> None:
    (lab.home.root / "7-tiny/attempts/1").mkdir(parents=True)
    assert lab.submit() == 8
    assert lab.submit() == 9
