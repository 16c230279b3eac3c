"""Runs of several workers: placed, saved, interrupted, lost and found again as one."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from end_to_end.harness import Service
from patience import wait_until

from capsnet import checkpoint, training
from capsnet.snapshot import tensors
from runner import loading
from runner.rows import Run
from runner.states import State

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3  # of ‖a - b‖ / ‖b‖ for each tensor of weights, after 3 epochs of 360 steps in float32
TWO = ("runner.workers=2", "runner.gpus=0", "threads=1")
ENDLESS = "num_epochs=100000"


def folder(service: Service, run: Run, attempt: int | None = None) -> Path:
    return service.home.run(run.id, run.name).attempt(attempt or run.attempt).folder


def follower_pid(service: Service, run: Run) -> int:
    """The process of rank 1 in the run's newest attempt."""
    log = folder(service, run) / "log.rank-1.txt"
    found = wait_until(lambda: re.search(r"pid (\d+), joins", log.read_text()), str(log))
    return int(found[1])


def two_processes(service: Service, number: int, attempt: int = 1) -> tuple[Run, int, int]:
    """The run in training, and its two workers."""
    run = service.training(number, attempt)
    assert run.pid is not None
    return run, run.pid, follower_pid(service, run)


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), f"the end of {pids}")


def state_of(service: Service, number: int) -> dict[str, Any]:
    run = service.run(number)
    return checkpoint.load(folder(service, run) / "checkpoint.pt")


def assert_as_alone(state: dict[str, Any], small: Path) -> None:
    """Assert that the weights at the end are those of one worker, up to rounding."""
    epochs = state["epoch"]
    config = loading.load(small, [f"num_epochs={epochs}", "threads=1", "use_cuda=false"]).config
    *_, progress = training.train(config)
    alone = progress.snapshot()
    assert (state["epoch"], state["step"]) == (alone["epoch"], alone["step"]) == (epochs, 0)
    for one, other in zip(tensors(alone["model"]), tensors(state["model"]), strict=True):
        assert float((one - other).norm() / one.norm()) < TOLERANCE


def test_two_workers_finish_with_the_weights_of_one(service: Service, small: Path) -> None:
    number = service.submit(small, "num_epochs=3", *TWO)
    run = service.wait_for_state(number, State.FINISHED, State.FAILED)
    assert run.state is State.FINISHED
    state = state_of(service, number)
    assert state["execution"]["workers"] == 2
    assert_as_alone(state, small)
    log = (folder(service, run) / "log.txt").read_text()
    assert log.count("epoch 1/3") == 1
    assert "for 2 workers" in service.call("show", str(number)).stdout


def test_logical_gpus_are_one_for_each_worker_and_shown(service: Service, small: Path) -> None:
    number = service.submit(small, "num_epochs=100000", "runner.gpus=3", "threads=1")
    run = service.wait_for(number, lambda run: len(run.devices) == 3)
    assert len(set(run.devices)) == 3
    service.call("cancel", str(number))
    service.wait_for_state(number, State.CANCELLED)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_goes_on_from_its_checkpoint_when_either_worker_was_killed(
    service: Service, small: Path, rank: int
) -> None:
    number = service.submit(small, ENDLESS, *TWO)
    _, *pids = two_processes(service, number)
    os.kill(pids[rank], signal.SIGKILL)
    run, *_ = two_processes(service, number, attempt=2)
    wait_until_gone(*pids)
    assert "from epoch" in (folder(service, run) / "log.txt").read_text()
    if rank:
        shown = service.call("show", str(number)).stdout
        assert "its worker of rank 1: its process was killed or crashed" in shown
    service.call("cancel", str(number))
    service.wait_for_state(number, State.CANCELLED)


def test_an_interrupted_run_frees_both_workers_and_goes_on_with_one_to_the_same_weights(
    service: Service, small: Path
) -> None:
    number = service.submit(small, ENDLESS, *TWO)
    _, *pids = two_processes(service, number)
    service.call("interrupt", str(number))
    service.wait_for_state(number, State.INTERRUPTED)
    wait_until_gone(*pids)
    reached = state_of(service, number)
    assert reached["execution"]["workers"] == 2
    epochs = f"num_epochs={reached['epoch'] + 1}"
    service.call("resume", str(number), "--set", epochs, "--set", "runner.workers=1")
    run = service.wait_for_state(number, State.FINISHED, State.FAILED)
    assert (run.state, run.workers) == (State.FINISHED, 1)
    assert not (folder(service, run) / "log.rank-1.txt").exists()
    state = state_of(service, number)
    assert state["epoch"] > reached["epoch"]
    assert state["execution"]["workers"] == 1
    assert_as_alone(state, small)


def test_a_scheduler_that_was_killed_finds_both_workers_again(service: Service, small: Path) -> None:
    number = service.submit(small, ENDLESS, *TWO)
    _, first, follower = two_processes(service, number)
    scheduler = service.scheduler_pid()
    assert scheduler is not None
    os.kill(scheduler, signal.SIGKILL)
    wait_until(lambda: service.scheduler_pid() not in (None, scheduler), "another scheduler")
    before = service.run(number).durable_epoch or 0
    run = service.wait_for(number, lambda run: (run.durable_epoch or 0) > before + 1)
    assert (run.attempt, run.pid) == (1, first)
    assert psutil.pid_exists(follower)
    os.kill(follower, signal.SIGKILL)  # the new one watches both
    service.wait_for(number, lambda run: run.attempt == 2)
    service.call("cancel", str(number))
    service.wait_for_state(number, State.CANCELLED)


def test_a_batch_smaller_than_the_workers_is_refused_at_submit(service: Service, small: Path) -> None:
    said = service.call("submit", small, "--set", "runner.workers=5", expect=2).stderr
    assert "batch_size: a batch of 4 images cannot be shared by 5 workers: raise it, or set" in said
