"""Faults under a run, such as a killed worker or a truncated file: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from end_to_end.harness import SMALL, Service
from patience import wait_until

from capsnet import checkpoint, training
from capsnet.snapshot import tensors
from runner import loading, local_ray
from runner.states import State
from runner.store import open_store

ENDLESS = "num_epochs=100000"


class Undisturbed:
    """The same run without faults, trained in this process up to any step."""

    def __init__(self, file: Path) -> None:
        self._config = loading.load(file, [ENDLESS, "threads=1"]).config
        self._steps = training.train(self._config, interval_seconds=0)
        self._at = (0, 0)

    def at(self, epoch: int, step: int) -> dict[str, Any]:
        """Return the state after `epoch` finished epochs and `step` steps of the next one."""
        if self._at >= (epoch, step):  # past it: from the beginning
            self._steps = training.train(self._config, interval_seconds=0)
        for progress in self._steps:
            ended = progress.metrics is not None
            self._at = (progress.epoch, 0) if ended else (progress.epoch - 1, progress.step)
            if self._at == (epoch, step):
                return progress.snapshot()
        raise AssertionError("training ended")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    file = tmp_path_factory.mktemp("undisturbed") / "small.yaml"
    file.write_text(SMALL)
    return Undisturbed(file)


def submit(service: Service, small: Path) -> int:
    return service.submit(small, ENDLESS, "threads=1")


def stop(service: Service, number: int, command: str = "interrupt") -> None:
    service.call(command, str(number))
    service.wait_for_state(number, State.INTERRUPTED, State.CANCELLED)


def assert_as_undisturbed(service: Service, number: int, undisturbed: Undisturbed) -> None:
    """Assert that its newest checkpoint has the undisturbed run's weights, optimizer state and metrics."""
    run = service.run(number)
    state = checkpoint.load(service.home.run(run.id, run.name).attempt(run.attempt).checkpoint)
    expected = undisturbed.at(state["epoch"], state["step"])
    for tensor, other in zip(tensors(state["model"]), tensors(expected["model"]), strict=True):
        assert torch.equal(tensor, other)
    for tensor, other in zip(tensors(state["optimizer"]), tensors(expected["optimizer"]), strict=True):
        assert torch.equal(tensor, other)
    assert state["history"], "it was stopped before its first epoch had ended"
    for row, other in zip(state["history"], expected["history"], strict=True):
        measured = {key for key in row if key.startswith(("train/", "test/"))}
        assert measured
        assert {key: row[key] for key in measured} == {key: other[key] for key in measured}


def kill_in_mid_epoch(worker: psutil.Process, file: Path) -> dict[str, Any]:
    """Kill the worker when its last saved state is no epoch's end; return that state."""

    def saved_in_mid_epoch() -> dict[str, Any] | None:
        worker.suspend()
        state = checkpoint.load(file)
        if state["step"]:
            return state
        worker.resume()
        return None

    state = wait_until(saved_in_mid_epoch, "a checkpoint in mid-epoch")
    worker.kill()
    return state


def test_a_worker_killed_in_mid_epoch_is_requeued_and_ends_with_the_same_weights(
    service: Service, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    worker = service.training(number).pid
    assert worker is not None
    first = kill_in_mid_epoch(psutil.Process(worker), service.home.run(number, "small").attempt(1).checkpoint)
    lost = service.wait_for(number, lambda run: run.trained_seconds)
    [kept] = [row for row in first["history"] if row["epoch"] == lost.durable_epoch]
    assert lost.accuracy == kept["test/accuracy"], "the row shows what was lost with the worker"
    service.training(number, attempt=2)
    assert f"from epoch {first['epoch'] + 1}, step {first['step']}" in service.log(number)
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)


@pytest.mark.slow
def test_an_interrupted_run_releases_its_gpu_and_resumes_where_it_was(
    service: Service, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    service.training(number)
    stop(service, number)
    service.call("resume", str(number))
    service.training(number, attempt=2)
    stop(service, number, "cancel")
    assert_as_undisturbed(service, number, undisturbed)


@pytest.mark.slow
def test_a_killed_scheduler_comes_back_and_adopts_what_runs(service: Service, small: Path) -> None:
    number = service.submit(small, ENDLESS)
    worker = service.training(number).pid
    before = service.scheduler_pid()
    assert before is not None
    killed_at = time.time()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: service.scheduler_pid() not in (None, before), "a new scheduler")
    run = service.wait_for(number, lambda run: (run.answered_at or 0) > killed_at + 1)
    assert (run.attempt, run.pid) == (1, worker)
    service.call("cancel", str(number))
    assert service.wait_for_state(number, State.CANCELLED).attempt == 1


@pytest.mark.slow
def test_a_scheduler_that_raises_comes_back(service: Service, small: Path) -> None:
    from sqlalchemy import create_engine, text

    service.call("up")
    before = service.scheduler_pid()
    engine = create_engine(f"sqlite:///{service.home.database}")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE runs RENAME TO hidden"))
    wait_until(lambda: "unexpected error" in service.home.scheduler_log.read_text(), "an error")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO runs"))
    engine.dispose()
    wait_until(lambda: service.scheduler_pid() not in (None, before), "a new scheduler")
    number = service.submit(small, "num_epochs=1")
    service.wait_for_state(number, State.FINISHED)


@pytest.mark.rehearsal
def test_a_stopped_worker_that_wakes_after_its_run_went_on_changes_nothing(
    service: Service, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    first = service.training(number)
    assert first.pid is not None
    zombie = psutil.Process(first.pid)
    zombie.suspend()
    silent = service.wait_for(number, lambda run: time.time() - (run.answered_at or 0) > 2)
    assert silent.state is State.RUNNING
    service.call("interrupt", str(number), "--grace", "1")
    interrupted = service.wait_for_state(number, State.INTERRUPTED)
    assert "killed" in (interrupted.reason or "")
    service.call("resume", str(number))
    service.wait_for(number, lambda run: run.attempt == 2)
    if zombie.is_running():
        zombie.resume()
    service.training(number, attempt=2)
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)
    with open_store(service.home, create=False) as store:
        assert [attempt.outcome for attempt in store.attempts(number)] == ["lost", "stopped"]


@pytest.mark.slow
def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    service: Service, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    run = service.training(number)
    paths = service.home.run(run.id, run.name).attempt(1)
    wait_until(lambda: checkpoint.previous_path(paths.checkpoint).exists(), "two checkpoints")
    service.call("interrupt", str(number))
    service.wait_for_state(number, State.INTERRUPTED)
    whole = paths.checkpoint.read_bytes()
    paths.checkpoint.write_bytes(whole[: len(whole) // 2])
    service.call("resume", str(number))
    service.training(number, attempt=2)
    stop(service, number)
    assert "checkpoint.previous.pt" in service.log(number)
    assert_as_undisturbed(service, number, undisturbed)


@pytest.mark.slow
def test_down_queues_what_runs_and_up_goes_on_with_it(
    service: Service, small: Path, undisturbed: Undisturbed
) -> None:
    number = submit(service, small)
    service.training(number)
    service.call("down")
    assert service.run(number).state is State.QUEUED
    assert local_ray.find() is None
    service.call("up")
    service.training(number, attempt=2)
    assert service.run(number).losses == 0
    stop(service, number)
    assert_as_undisturbed(service, number, undisturbed)


@pytest.mark.slow
def test_after_a_kill_of_all_of_ray_the_next_up_goes_on_with_every_run(
    service: Service, small: Path, undisturbed: Undisturbed
) -> None:
    service.call("up")
    numbers = [submit(service, small), submit(service, small)]
    for number in numbers:
        service.training(number)
    ray = local_ray.find()
    assert ray is not None
    processes = [psutil.Process(ray.pid), *psutil.Process(ray.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=10)
    service.call("up")
    for number in numbers:
        service.training(number, attempt=2)
        stop(service, number)
        assert_as_undisturbed(service, number, undisturbed)


@pytest.mark.slow
def test_what_cannot_train_fails_with_its_reason_and_the_queue_goes_on(
    service: Service, small: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    no_data = tmp_path / "no_data.yaml"
    no_data.write_text(f"dataset: {{name: mnist, root: {tmp_path / 'empty'}}}\n")
    overflowing = service.submit(small, "optim.lr=1e30", "num_epochs=3")
    missing = service.submit(no_data)
    fine = service.submit(small, "num_epochs=1")
    assert service.wait_for_state(fine, State.FINISHED).state is State.FINISHED
    reason = service.wait_for_state(overflowing, State.FAILED).reason or ""
    assert "epoch 1, step" in reason
    reason = service.wait_for_state(missing, State.FAILED).reason or ""
    assert str(tmp_path / "empty") in reason
    assert "Traceback" not in service.log(missing)


@pytest.mark.slow
def test_a_run_whose_folder_cannot_be_written_waits_and_the_others_go_on(
    service: Service, small: Path
) -> None:
    service.call("up")
    next_number = max((run.id for run in service.runs()), default=0) + 1
    (service.root / f"{next_number}-small").write_text("in the way")
    blocked = service.submit(small, "num_epochs=1")
    fine = service.submit(small, "num_epochs=1")
    assert blocked == next_number
    service.wait_for_state(fine, State.FINISHED)
    run = service.run(blocked)
    assert run.state is State.QUEUED and "cannot be written" in (run.reason or "")
    service.call("cancel", str(blocked))
