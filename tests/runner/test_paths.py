"""Where things lie in the home."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.paths import Home, home, recorded, run_number


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("3-tiny", 3),
        ("12-a-b", 12),
        ("3", 0),
        ("3-", 0),
        ("03-tiny", 0),
        ("x3-tiny", 0),
        ("2147483648-tiny", 0),
        ("\u0663-tiny", 0),
    ],
)
def test_the_number_of_a_run_is_in_its_folders_name(name: str, number: int) -> None:
    assert run_number(name) == number


def test_the_files_of_an_attempt_lie_in_its_own_folder() -> None:
    run = Home(Path("/lab")).run(12, "mnist_3iter")
    attempt = run.attempt(2)
    assert run.folder == Path("/lab/12-mnist_3iter")
    assert run.config == Path("/lab/12-mnist_3iter/config.yaml")
    assert run.tensorboard == Path("/lab/12-mnist_3iter/tensorboard")
    assert attempt.folder == Path("/lab/12-mnist_3iter/attempts/2")
    files = [attempt.checkpoint, attempt.history, attempt.log, attempt.outcome, attempt.system]
    assert {file.parent for file in files} == {attempt.folder}
    assert len(set(files)) == len(files)


def test_the_stores_lie_beside_the_runs() -> None:
    lab = Home(Path("/lab"))
    assert (lab.database, lab.mlflow_database) == (Path("/lab/queue.db"), Path("/lab/mlflow.db"))
    assert lab.artifacts == Path("/lab/artifacts")


def test_the_home_is_runs_in_the_current_folder_unless_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert home({}) == Home(tmp_path / "runs")
    assert home({"RUNNER_HOME": ""}) == Home(tmp_path / "runs")
    assert home({"RUNNER_HOME": "lab/../shared"}) == Home(tmp_path / "shared")
    assert home({"RUNNER_HOME": "/data/lab"}) == Home(Path("/data/lab"))


def test_a_tilde_that_no_shell_has_expanded_means_the_users_folder() -> None:
    assert home({"RUNNER_HOME": "~/lab"}) == Home(Path.home().resolve() / "lab")


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///lab/queue.db", "sqlite:///{here}/lab/queue.db"),
        ("sqlite:////data/queue.db", "sqlite:////data/queue.db"),
        ("sqlite+pysqlite:////data/queue.db?timeout=3", "sqlite:////data/queue.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://ada:secret@host/queue", "postgresql://ada:secret@host/queue"),
    ],
)
def test_a_queue_in_a_file_is_the_same_one_for_processes_of_other_directories(
    url: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = home({"RUNNER_DATABASE_URL": url})
    assert found.database_url == absolute.format(here=tmp_path)
    assert found.shared is url.startswith("postgresql")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "3-mnist"),
        ("../../etc/passwd", "3-etc-passwd"),
        ("lr=0.01 r=3", "3-lr=0.01-r=3"),
        ("..", "3-run"),
        ("Größe", "3-Gr-e"),
        ("", "3-run"),
    ],
)
def test_a_name_that_no_file_can_bear_is_made_one(name: str, folder: str) -> None:
    assert Home(Path("/lab")).run(3, name).folder == Path("/lab") / folder


@given(st.text(), st.integers(min_value=1))
def test_no_name_leads_out_of_the_home(name: str, number: int) -> None:
    folder = Home(Path("/lab")).run(number, name).folder
    assert folder.parent == Path("/lab")
    assert folder.name.startswith(f"{number}-")
    assert len(folder.name.encode()) <= 255


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("s3://bucket/runs/", "s3://bucket/runs"),
        ("file:///shared/runs", "/shared/runs"),
        ("/shared/runs/", "/shared/runs"),
        ("", None),
        ("/home/me/runs", None),
        ("file:///home/me/runs", None),
    ],
)
def test_a_storage_is_a_url_or_an_absolute_folder_and_the_home_itself_is_none(
    named: str, kept: str | None
) -> None:
    found = home({"RUNNER_HOME": "/home/me/runs", "RUNNER_STORAGE": named})
    assert found.storage == kept
    assert found.remote == named.startswith("s3://")
    assert recorded(found.record) == found


def test_the_folders_of_runs_lie_in_the_storage_and_copies_of_an_object_stores_in_the_home() -> None:
    root = Path("/home/me/runs")
    assert Home(root).run(3, "a").folder == root / "3-a"
    assert Home(root, storage="/shared").run(3, "a").folder == Path("/shared/3-a")
    remote = Home(root, storage="s3://bucket/runs")
    assert (remote.run(3, "a").folder, remote.place(3, "a")) == (root / "3-a", "s3://bucket/runs/3-a")
