"""A run whose files are in an object store alone: killed, resumed with nothing local left, read, deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import s3
import torch
from end_to_end.harness import SMALL, Service
from patience import wait_until

from capsnet import checkpoint, training
from capsnet.snapshot import tensors
from runner import loading, storage
from runner.objects import Objects
from runner.rows import Run
from runner.states import State

ENDLESS = "num_epochs=100000"  # for whatever must be met while it trains, however fast the machine


@pytest.fixture
def remote(s3_server: s3.Server, ray_folder: Path, tmp_path: Path) -> Iterator[Service]:
    """A service whose runs lie in an object store, and work in a scratch folder of their own."""
    url, scratch = s3_server.new_url(), str(tmp_path / "scratch")
    service = Service(tmp_path / "home", {"RUNNER_STORAGE": url, "RUNNER_SCRATCH": scratch})
    yield service
    service.call("down", "--force")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL + "threads: 1\n")
    return file


def storage_of(service: Service) -> storage.Storage:
    return storage.of(replace(service.home, storage=service.variables["RUNNER_STORAGE"]))


def lose_everything_local(service: Service, run: Run) -> None:
    """Delete the run's local files; only those that another host could read are left."""
    shutil.rmtree(service.variables["RUNNER_SCRATCH"], ignore_errors=True)
    shutil.rmtree(service.home.run(run.id, run.name).folder, ignore_errors=True)


def assert_as_undisturbed(service: Service, run: Run, file: Path, epochs: int) -> None:
    """Weights and optimizer bit for bit, and every metric that is not a time."""
    *_, last = training.train(loading.load(file, [f"num_epochs={epochs}"]).config)
    expected = last.snapshot()
    with storage_of(service).checkpoint(run) as saved:
        assert saved is not None
        state = checkpoint.load(saved)
    for part in ("model", "optimizer"):
        for tensor, other in zip(tensors(state[part]), tensors(expected[part]), strict=True):
            assert torch.equal(tensor, other)
    for row, other in zip(state["history"], expected["history"], strict=True):
        measured = {key for key in row if key.startswith(("train/", "test/"))}
        assert {key: row[key] for key in measured} == {key: other[key] for key in measured}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what MLflow does with SQLAlchemy
def test_a_run_goes_on_from_the_object_store_alone_and_ends_as_if_nobody_had_disturbed_it(
    remote: Service, file: Path, tmp_path: Path
) -> None:
    number = remote.submit(file, ENDLESS)
    first = remote.wait_for(number, lambda run: (run.durable_epoch or 0) >= 2)
    psutil.Process(first.pid).kill()
    second = remote.wait_for(
        number, lambda run: run.attempt == 2 and (run.durable_epoch or 0) > (first.durable_epoch or 0)
    )
    remote.call("interrupt", str(number))
    run = remote.wait_for_state(number, State.INTERRUPTED)
    wait_until(lambda: not psutil.pid_exists(second.pid or 0), "the second worker's end")
    lose_everything_local(remote, run)
    epochs = (run.durable_epoch or 0) + 2
    remote.call("resume", str(number), "--set", f"num_epochs={epochs}")
    run = remote.wait_for(number, lambda run: run.published_state is State.FINISHED)
    lose_everything_local(remote, run)
    assert_as_undisturbed(remote, run, file, epochs)

    log = remote.log(number)
    assert "--- attempt 3 ---" in log
    assert f"epoch {epochs}/{epochs}" in log and "from epoch" in log
    drawn = Path(remote.call("figures", str(number), "confusion").stdout.strip())
    assert drawn.is_file() and drawn.parent.name == "figures"
    shown = remote.call("show", str(number)).stdout
    assert f"{remote.variables['RUNNER_STORAGE']}/{number}-small" in shown
    assert_published(remote, run, epochs)

    store = Objects(remote.variables["RUNNER_STORAGE"])
    kept = store.list(f"{number}-small")
    assert {f"{number}-small/attempts/3/{name}" for name in ("history.csv", "outcome.json", "log.txt")} <= {
        *kept
    }
    assert sum(key.endswith(".pt") for key in kept) <= 4, "two of this attempt, and of the one before"
    remote.call("rm", str(number), "--yes")
    assert store.list(f"{number}-small") == {}


def assert_published(service: Service, run: Run, epochs: int) -> None:
    """MLflow has every epoch once, and the files of the run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{service.home.mlflow_database}")
    assert run.mlflow_run_id is not None
    points = client.get_metric_history(run.mlflow_run_id, "test/accuracy")
    assert sorted(point.step for point in points) == list(range(1, epochs + 1))
    artifacts = {item.path for item in client.list_artifacts(run.mlflow_run_id)}
    assert {"config.yaml", "history.csv", "attempts"} <= artifacts
    of_attempt = {item.path for item in client.list_artifacts(run.mlflow_run_id, "attempts/3")}
    assert of_attempt == {"attempts/3/log.txt", "attempts/3/figures"}


@pytest.mark.rehearsal
def test_a_run_whose_worker_dies_while_the_store_is_away_waits_until_it_is_known_how_it_ended(
    remote: Service, file: Path, s3_process: s3.Server
) -> None:
    # Patient for 100 s; a request that hangs takes 20 s.
    number = remote.submit(file, "checkpoint.interval_seconds=5", ENDLESS)
    run = remote.wait_for(number, lambda run: (run.durable_epoch or 0) >= 2)
    s3_process.stop()
    try:
        troubled = remote.wait_for(number, lambda run: run.reason)
        assert "does not answer" in (troubled.reason or "")
        assert "cannot save since" in remote.call("queue").stdout
        psutil.Process(run.pid).kill()
        unknown = f"how run {number} ended is not known"
        wait_until(lambda: unknown in remote.call("status").stdout, "a word of the scheduler")
        assert remote.run(number).attempt == 1 and remote.run(number).state is State.RUNNING
    finally:
        s3_process.go_on()
    assert remote.wait_for(number, lambda run: run.attempt == 2).losses == 1
    remote.call("cancel", str(number))


def test_a_bucket_that_is_not_there_is_one_line_and_nothing_is_queued(
    s3_server: s3.Server, tmp_path: Path, file: Path
) -> None:
    alone = {"XDG_STATE_HOME": str(tmp_path / "state")}  # a new home says where others are up
    service = Service(tmp_path / "home", {"RUNNER_STORAGE": "s3://no-such-bucket/runs", **alone})
    for words in (("submit", file), ("up",)):
        said = service.call(*words, expect=2)
        assert (said.stdout, said.stderr) == ("", "s3://no-such-bucket/runs: there is no such bucket\n")
    assert service.runs() == []
