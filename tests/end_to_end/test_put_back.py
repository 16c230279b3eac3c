"""A queue that is put back from a copy, or deleted, while the files of its runs stay."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from end_to_end.harness import Service

from capsnet import checkpoint
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
    copy = shutil.copy(service.home.database, tmp_path / "copy.db")
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
    copy = shutil.copy(service.home.database, tmp_path / "copy.db")
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
