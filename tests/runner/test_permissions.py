"""Permissions of a home: only its user or the group it is given to may read it, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_user import as_another_user, needs_another_user, shared_folder

from capsnet.history import write_history
from runner import run_files, storage
from runner.paths import Home
from runner.rows import NewRun
from runner.store import open_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what MLflow does with SQLAlchemy


@pytest.fixture(params=[0o000, 0o022, 0o002, 0o077], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def bits(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o777


def write_a_home(root: Path) -> Home:
    """A queue with a run whose attempt has saved."""
    home = Home(root)
    with open_store(home) as store:
        (number,) = store.add([NewRun(name="r", config="", num_epochs=3)], store.now())
    run = home.run(number, "r")
    storage.prepare(run, 1, "num_epochs: 3\n")
    write_history([{"epoch": 1}], run.attempt(1).history, run_files.file_mode(run.attempt(1).folder))
    return home


def test_a_new_home_is_its_users_alone(tmp_path: Path, umask: int) -> None:
    home = write_a_home(tmp_path / "home")
    run = home.run(1, "r")
    attempt = run.attempt(1)
    folders = [home.root, run.folder, run.attempts, attempt.folder]
    files = [home.database, run.config, attempt.history]
    assert {bits(folder) for folder in folders} == {0o700}
    assert {bits(file) for file in files} == {0o600}


def test_what_is_new_in_a_home_that_others_may_read_is_private_and_the_home_is_left_alone(
    tmp_path: Path, umask: int
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o755)
    home = write_a_home(tmp_path / "home")
    assert bits(home.root) == 0o755
    assert bits(home.run(1, "r").folder) == 0o700
    assert bits(home.database) == 0o600


def test_a_home_that_was_given_to_a_group_stays_the_groups_and_nobody_elses(
    tmp_path: Path, umask: int
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o2770)
    home = write_a_home(tmp_path / "home")
    run = home.run(1, "r")
    for folder in (run.folder, run.attempts, run.attempt(1).folder):
        assert bits(folder) == 0o770 and folder.stat().st_mode & stat.S_ISGID
    for file in (home.database, run.config, run.attempt(1).history):
        assert bits(file) == 0o660 & ~umask


@needs_another_user
def test_another_user_reads_nothing_of_a_home() -> None:
    with shared_folder() as shared:
        home = write_a_home(shared / "home")
        for attempt in ("ls $1", "cat $1/queue.db", "ls $1/1-r", "cat $1/1-r/config.yaml", "echo > $1/new"):
            assert as_another_user(attempt, home.root).returncode != 0, attempt


def test_mlflows_store_is_as_private_as_the_queue(new_mlflow_store: Path) -> None:
    assert bits(new_mlflow_store) == 0o600
