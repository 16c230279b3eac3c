"""File systems without locks: one line, wherever one is wanted."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_harness import Lab

from capsnet import downloads
from capsnet.images import DataError
from capsnet.locks import LockRefused, lock, locked
from runner import code_cache, exits, held, local_ray, tracking
from runner.paths import Home
from runner.source import Source
from runner.store import StoreError, open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make `flock` fail with an error of the system and return the error's text."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return os.strerror(request.param)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a queue": (lambda folder: open_store(Home(folder)), "RUNNER_HOME"),
    "MLflow's store": (lambda folder: tracking.locked(folder / "mlflow.db.lock").__enter__(), "RUNNER_HOME"),
    "the code of runs": (lambda folder: code_cache.settle(Source({}).archive, folder), "RUNNER_RAY_DIR"),
    "a worker's files": (
        lambda folder: held.hold(folder / "scratch"),
        "RUNNER_SCRATCH, RUNNER_HOME or TMPDIR",
    ),
    "local Ray": (lambda folder: local_ray.ensure(), "RUNNER_RAY_DIR"),
    "a data set": (
        lambda folder: downloads.complete(folder, "mnist", lambda: ["labels"], lambda *_: folder),
        "dataset.root or CAPSNET_DATA",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_file_system_without_locks_is_one_line_that_names_the_folder_and_its_variable(
    no_locks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("RUNNER_RAY_DIR", str(tmp_path))
    want_lock, variable = PLACES[place]
    with pytest.raises((LockRefused, StoreError, DataError)) as caught:
        want_lock(tmp_path)
    line = f"its file system refuses locks ({no_locks}): mount it with locks, or set {variable} to a folder"
    assert re.search(rf"{tmp_path}\S*: {re.escape(line)} on another one", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_command_says_it_without_a_traceback(lab: Lab, no_locks: str) -> None:
    lab.close()
    lab.home.database.unlink()
    done = lab.call("submit", lab.file())
    assert done.code == exits.USAGE
    assert done.err.count("\n") == 1 and "refuses locks" in done.err


def test_one_process_has_an_exclusive_lock_and_several_a_shared_one(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with locked(file, "V"):
        other = os.open(file, os.O_RDONLY)
        assert not lock(other, file, "V", wait=False)
    assert lock(other, file, "V", shared=True, wait=False)
    third = os.open(file, os.O_RDONLY)
    assert lock(third, file, "V", shared=True, wait=False)
    assert not lock(os.open(file, os.O_RDONLY), file, "V", wait=False)


def test_other_errors_of_a_lock_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock(10_000, tmp_path, "V")


def test_nothing_else_calls_flock() -> None:
    files = [file for package in ("capsnet", "runner") for file in (ROOT / package).rglob("*.py")]
    assert [file.name for file in files if "flock(" in file.read_text()] == ["locks.py"]
