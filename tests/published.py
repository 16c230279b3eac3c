"""A scheduler's moves and a worker's files, for tests of publishing; and reading from MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capsnet.history import write_history
from runner import storage
from runner.paths import Home, RunPaths
from runner.rows import Run
from runner.states import Event
from runner.store import Store
from runner.tracking import Tracker

CONFIG = """
name: tiny
num_epochs: 3
optim: {lr: 0.001, milestone: [2]}
dataset: {root: null}
runner: {gpus: 0}
"""


class Scheduler:
    """The moves of the scheduler: one method for each."""

    def __init__(self, store: Store, home: Home) -> None:
        self.store, self.home = store, home
        self.epoch = store.take_over(1.0, "here", "1")
        self.clock = 10.0

    def start(self, run_id: int) -> int:
        self.clock += 10
        claimed = self.store.claim(self.epoch, run_id, self.clock, gpus=0, cpus=1)
        assert claimed is not None
        attempt = claimed.number
        self.store.report(self.epoch, run_id, attempt, self.clock, host="box", pid=1, devices=("cpu",))
        return attempt

    def end(self, run_id: int, event: Event, reason: str | None = None, epochs: int | None = None) -> None:
        run = self.run(run_id)
        outcome = {Event.FINISH: "finished", Event.FAIL: "failed", Event.LOSE: "lost"}.get(event, "stopped")
        at = run.submitted_at + 90
        self.store.end(self.epoch, run_id, run.attempt, event, at, outcome, reason, epochs)  # pyright: ignore[reportArgumentType] - one of the four

    def run(self, run_id: int) -> Run:
        run = self.store.run(run_id)
        assert run is not None
        return run

    def paths(self, run_id: int) -> RunPaths:
        return self.home.run(run_id, self.run(run_id).name)

    def measure(self, run_id: int, attempt: int, epochs: Sequence[int], at: float = 50.0) -> None:
        """Write the history that follows a checkpoint after the last of these epochs."""
        rows = [{"epoch": n, "time": at + n, "train/loss": 1 / n, "test/accuracy": n / 10} for n in epochs]
        write_history(rows, self.paths(run_id).attempt(attempt).history)


def mlflow_runs(tracker: Tracker) -> list[Any]:
    experiment = tracker.client.get_experiment_by_name("test")
    assert experiment is not None
    return list(tracker.client.search_runs([experiment.experiment_id]))


def mlflow_run(tracker: Tracker) -> Any:
    [run] = mlflow_runs(tracker)
    return run


def points(tracker: Tracker, key: str) -> list[tuple[int, float, int]]:
    """Every point of a metric: step, value, time in ms."""
    history = tracker.client.get_metric_history(mlflow_run(tracker).info.run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in history)


def steps(tracker: Tracker, key: str = "test/accuracy") -> list[int]:
    return [step for step, _, _ in points(tracker, key)]


def files(tracker: Tracker, folder: str | None = None) -> set[str]:
    return {file.path for file in tracker.client.list_artifacts(mlflow_run(tracker).info.run_id, folder)}


def append_samples(
    scheduler: Scheduler, run_id: int, attempt: int, rows: Sequence[Mapping[str, float]]
) -> None:
    path = scheduler.paths(run_id).attempt(attempt).system
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        storage.append_row(path, row)


def draw(scheduler: Scheduler, run_id: int, attempt: int, *names: str) -> None:
    folder = scheduler.paths(run_id).attempt(attempt).figures
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"attempt {attempt}")
