"""A queue that is put back from a copy or deleted, while its runs' files stay; a home that is copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from end_to_end.harness import Service

from capsnet import checkpoint
from runner import local_ray
from runner.states import State
from runner.store import open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what MLflow does with SQLAlchemy
]


def files(folder: Path) -> dict[str, Any]:
    """All files of a run, with their content and times."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in found}


def put_back(service: Service, copy: Path) -> None:
    for file in service.home.root.glob("queue.db*"):
        file.unlink()
    if copy.exists():
        shutil.copy(copy, service.home.database)


def mlflow_runs(service: Service) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{service.home.mlflow_database}")
    (experiment,) = client.search_experiments(filter_string="name = 'capsnet'")
    return list(client.search_runs([experiment.experiment_id]))


def test_runs_after_the_copy_stay_whole_and_later_ones_get_other_numbers(
    service: Service, small: Path, tmp_path: Path
) -> None:
    small.write_text(small.read_text() + "num_epochs: 2\n")
    service.call("submit", small, "--wait")
    service.call("down")
    copy = Path(shutil.copy(service.home.database, tmp_path / "copy.db"))
    service.call("submit", small, "--wait")
    service.call("down")
    second = files(service.home.root / "2-small")

    put_back(service, copy)
    assert service.call("submit", small, "--set", "seed=9", "--wait").stdout == "3\n"
    service.call("down")
    put_back(service, tmp_path / "none")
    assert service.call("submit", small, "--wait").stdout == "4\n"
    service.call("down")

    assert files(service.home.root / "2-small") == second
    published = mlflow_runs(service)
    assert sorted(run.info.run_name for run in published) == [f"{number}-small" for number in (1, 2, 3, 4)]
    assert len({run.data.tags["runner.identity"] for run in published}) == 4
    assert all(run.data.metrics["epoch"] == 2 for run in published)


def test_a_run_that_went_on_after_the_copy_goes_on_from_its_newest_checkpoint(
    service: Service, small: Path, tmp_path: Path
) -> None:
    small.write_text(small.read_text() + "num_epochs: 1000000\n")
    number = service.submit(small)
    service.training(number)
    service.call("down")
    copy = Path(shutil.copy(service.home.database, tmp_path / "copy.db"))
    service.call("up")
    service.training(number, attempt=2)
    service.call("down")
    reached = checkpoint.load(service.home.run(number, "small").attempt(2).checkpoint)["epoch"]
    second = files(service.home.run(number, "small").attempt(2).folder)

    put_back(service, copy)
    service.call("up")
    run = service.wait_for(number, lambda run: run.from_epoch is not None and run.answered_at is not None)
    service.call("cancel", str(number))
    service.wait_for_state(number, State.CANCELLED)
    assert (run.attempt, run.from_epoch) == (3, reached)
    assert files(service.home.run(number, "small").attempt(2).folder) == second
    with open_store(service.home, create=False) as store:
        assert [attempt.number for attempt in store.attempts(number)] == [1, 3]


def test_no_command_in_a_copied_home_ends_what_serves_the_original(
    service: Service, small: Path, tmp_path: Path
) -> None:
    number = service.submit(small, "num_epochs=1000000", "runner.cpus=1")
    service.training(number)
    scheduler = service.scheduler_pid()
    copy = Service(tmp_path / "copy", service.variables)
    shutil.copytree(service.root, copy.root, symlinks=True)

    for words in (["down", "--force"], ["up"], ["submit", small]):
        refused = copy.call(*words, expect=2)
        assert refused.stderr.startswith(f"{copy.root} is a copy of {service.root}: ")
    for action in ("up", "down"):  # one that took the copy for a home that was moved would come so far
        done = launched(action, copy)
        said = f"the scheduler serves {service.root}, of which this queue is a copy: "
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(said)
    copy.call("adopt")
    copy.call("up")
    assert copy.scheduler_pid() not in (None, scheduler)
    copy.call("down")

    run = service.wait_for(number, lambda run: run.answered_at is not None)
    assert (run.state, run.attempt, service.scheduler_pid()) == (State.RUNNING, 1, scheduler)
    service.call("cancel", str(number))
    service.wait_for_state(number, State.CANCELLED)


def launched(action: str, service: Service) -> subprocess.CompletedProcess[str]:
    """Start or end the scheduler of a home as a command does after its checks have passed."""
    ray = local_ray.find()
    assert ray is not None
    command = [sys.executable, "-P", "-m", "runner.launch", action, ray.address, "local", service.root]
    environment = local_ray.environment(ray.token, os.environ)
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_run_whose_folder_is_another_ones_fails_in_one_line_and_its_removal_leaves_that_folder(
    service: Service, small: Path
) -> None:
    number = service.submit(small, "runner.cpus=999")
    paths = service.home.run(number, "small")
    paths.folder.mkdir()
    paths.identity.write_text("f" * 32)
    before = files(paths.folder)
    service.call("cancel", str(number))
    service.call("resume", str(number), "--set", "runner.cpus=1")
    failed = service.wait_for_state(number, State.FAILED)
    assert str(failed.reason).startswith(f"{paths.folder} holds another run, of a queue that was deleted or ")
    service.wait_for(number, lambda run: run.published_state is State.FAILED)
    service.call("rm", str(number), "--yes")
    assert files(paths.folder) == before
