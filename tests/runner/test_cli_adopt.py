"""A home that was copied, moved, or put back: which commands do what there, and `adopt`."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Lab

from runner import exits
from runner.paths import Home
from runner.states import State
from runner.storage import MARKER
from runner.store import Store, open_store


def queue_row(home: Home) -> dict[str, Any]:
    """Read the only row of the table `queue` in a home's database."""
    with closing(sqlite3.connect(home.database)) as connection:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute("SELECT * FROM queue").fetchone())


def everything(folder: Path) -> dict[str, bytes]:
    """All files of a folder but SQLite's own journals."""
    files = (
        file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(("-wal", "-shm"))
    )
    return {str(file): file.read_bytes() for file in files}


@pytest.fixture
def original(lab: Lab) -> Home:
    """A home with a queued run, a running one, and a finished one."""
    lab.serve(home=lab.home.record)
    lab.ended()
    lab.start(lab.submit())
    lab.submit()
    return lab.home


@pytest.fixture
def copy(lab: Lab, original: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the home, which commands use from now on."""
    lab.close()
    return copied(original, lab.folder / "copy", monkeypatch)


def copied(home: Home, target: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copytree(home.root, target)
    monkeypatch.setenv("RUNNER_HOME", str(target))
    return Home(target)


REFUSED = [
    "submit tiny.yaml",
    "up",
    "down",
    "down --force",
    "cancel 2",
    "interrupt 2",
    "resume 1 --set num_epochs=20",
    "priority 3 5",
    "rm 1 --yes",
    "prune --yes",
    "wait 1",
    "watch 1",
    "figures 1",
]
LOOKS = ["queue", "queue --json", "show 1", "status", "status --json", "logs 1", "code 1"]


@pytest.mark.parametrize("command", REFUSED)
def test_in_a_copy_a_command_that_changes_something_is_one_line_and_changes_nothing(
    lab: Lab, original: Home, copy: Home, command: str
) -> None:
    before = everything(original.root), everything(copy.root)
    done = lab.call(*command.split())
    assert (done.code, done.out) == (exits.USAGE, "")
    advice = "`python -m runner adopt` makes it one of its own, which leaves the original as it is"
    assert done.err == f"{copy.root} is a copy of {original.root}: {advice}\n"
    assert (everything(original.root), everything(copy.root)) == before


@pytest.mark.parametrize("command", LOOKS)
def test_in_a_copy_a_command_that_only_looks_says_so_and_goes_on(
    lab: Lab, original: Home, copy: Home, command: str
) -> None:
    before = everything(original.root), everything(copy.root)
    done = lab.call(*command.split())
    assert done.code == exits.OK
    assert done.err.startswith(f"{copy.root} is a copy of {original.root}: ")
    if "--json" in command:
        json.loads(done.out)
    assert (everything(original.root), everything(copy.root)) == before


def states(store: Store) -> list[State]:
    return [run.state for run in store.runs()]


def test_an_adopted_copy_is_a_queue_of_its_own_and_the_original_is_left_as_it_is(
    lab: Lab, original: Home, copy: Home
) -> None:
    before = everything(original.root)
    with open_store(copy) as store:
        identities, ids = [run.identity for run in store.runs()], store.queue_id
    done = lab.call("adopt")
    assert done.code == exits.OK
    assert f"{copy.root} is a home of its own now; {original.root} is left as it is\n" in done.err
    assert "runs 2 and 3 INTERRUPTED here" in done.err
    assert everything(original.root) == before
    with open_store(copy) as store:
        assert states(store) == [State.FINISHED, State.INTERRUPTED, State.INTERRUPTED]
        assert [run.identity for run in store.runs()] == identities
        assert store.queue_id != ids
        assert store.scheduler_beat() is None
        [attempt] = store.attempts(2)
        assert (attempt.outcome, attempt.reason) == ("stopped", store.runs()[1].reason)
        assert str(attempt.reason) == f"it may go on in {original.root}, of which this is a copy"
        assert store.recorded_home() == copy.record
    assert lab.call("priority", "3", "1").code == exits.USAGE  # it is no longer queued, and that is all
    again = lab.call("adopt", "--json")
    assert again.err == f"{copy.root} is a home of its own already: nothing to do\n"
    assert json.loads(again.out)["interrupted"] == []


def test_in_an_adopted_copy_runs_go_on_and_numbers_do(lab: Lab, copy: Home) -> None:
    lab.call("adopt")
    assert lab.call("resume", "2").code == exits.NOT_STARTED  # no Ray answers here
    done = lab.call("submit", lab.file())
    assert done.out == "4\n"
    with open_store(copy) as store:
        assert states(store) == [State.FINISHED, State.QUEUED, State.INTERRUPTED, State.QUEUED]


def test_a_home_that_was_renamed_goes_on_without_a_word(
    lab: Lab, original: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.close()
    moved = Home(lab.folder / "moved")
    original.root.rename(moved.root)
    monkeypatch.setenv("RUNNER_HOME", str(moved.root))
    for _ in range(2):
        done = lab.call("priority", "3", "5")
        assert (done.code, done.err) == (exits.OK, "run 3 has priority 5\n")
    assert json.loads(queue_row(moved)["place"])["file"] == str(moved.database)


def test_a_home_that_was_moved_to_another_disk_goes_on_and_so_does_one_whose_old_place_has_a_new_queue(
    lab: Lab, original: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.close()
    moved = copied(original, lab.folder / "moved", monkeypatch)
    shutil.rmtree(original.root)
    open_store(original).close()
    done = lab.call("priority", "3", "5")
    assert (done.code, done.err) == (exits.OK, "run 3 has priority 5\n")
    assert json.loads(queue_row(moved)["place"])["file"] == str(moved.database)


def test_a_queue_that_was_put_back_from_a_copy_in_its_home_is_no_copy(lab: Lab, original: Home) -> None:
    lab.close()
    kept = lab.folder / "kept.db"
    shutil.copy(original.database, kept)
    for file in original.root.glob("queue.db*"):
        file.unlink()
    kept.replace(original.database)
    done = lab.call("priority", "3", "5")
    assert (done.code, done.err) == (exits.OK, "run 3 has priority 5\n")


def test_a_copy_whose_original_was_made_by_an_earlier_version_is_told_by_its_schedulers_home(
    lab: Lab, original: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.close()
    with closing(sqlite3.connect(original.database)) as connection:
        connection.execute("UPDATE queue SET place = NULL")
        connection.commit()
    copied(original, lab.folder / "copy", monkeypatch)
    assert "is a copy of" in lab.call("down").err


def test_a_copy_of_the_queue_alone_whose_runs_lie_elsewhere_is_adopted_with_a_copy_of_them(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = lab.folder / "shared"
    shared.mkdir()
    monkeypatch.setenv("RUNNER_STORAGE", str(shared))
    lab.serve(home=f"{lab.home.root}\n{shared}")
    lab.submit()
    with open_store(lab.home) as store:
        before = store.queue_id
    (shared / MARKER).write_text(json.dumps({"queue": before}))
    lab.close()
    monkeypatch.delenv("RUNNER_STORAGE")
    copy = copied(lab.home, lab.folder / "copy", monkeypatch)
    refused = lab.call("adopt")
    assert refused.code == exits.USAGE
    assert refused.err.startswith(
        f"the runs' files in {shared} are those of {lab.home.root}: copy them, too, "
    )
    with open_store(copy) as store:
        assert store.queue_id == before

    shutil.copytree(shared, lab.folder / "shared copy")
    monkeypatch.setenv("RUNNER_STORAGE", str(lab.folder / "shared copy"))
    assert lab.call("adopt").code == exits.OK
    with open_store(copy) as store:
        owners = [
            json.loads((folder / MARKER).read_text())["queue"]
            for folder in (shared, lab.folder / "shared copy")
        ]
        assert owners == [before, store.queue_id]


@pytest.mark.parametrize(("tracking", "kept"), [(None, "m1"), ("http://mlflow:5000", None)])
def test_what_a_tracking_server_has_of_a_copied_run_stays_the_originals(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tracking: str | None, kept: str | None
) -> None:
    lab.serve(home=lab.home.record, tracking=tracking)
    number = lab.ended()
    lab.store.bind(number, None, "m1")
    lab.store.published(number, epoch=10, state=State.FINISHED)
    lab.close()
    copy = copied(lab.home, lab.folder / "copy", monkeypatch)
    lab.call("adopt")
    with open_store(copy) as store:
        run = store.run(number)
        assert run is not None and run.mlflow_run_id == kept
        assert not store.anything_unpublished()


def test_adopt_in_a_home_that_is_no_copy_changes_nothing(lab: Lab, original: Home) -> None:
    before = queue_row(original)
    done = lab.call("adopt")
    assert (done.code, done.err) == (
        exits.OK,
        f"{original.root} is a home of its own already: nothing to do\n",
    )
    assert queue_row(original) == before
