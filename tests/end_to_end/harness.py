"""A real service under test: real Ray, scheduler, workers and database, driven as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from patience import PATIENCE, wait_until
from typer.core import TyperGroup

from runner.cli import app
from runner.paths import Home
from runner.rows import Run
from runner.states import ENDED, State
from runner.store import NoQueue, Unreachable, open_store

SMALL = """
dataset: {name: digits, size: 16}
batch_size: 4
model: {conv_channels: 8, kernel_size: 5, primary_types: 2, class_dim: 4, decoder: {hidden: [16]}}
checkpoint: {interval_seconds: 0.3}
"""


@dataclass
class Service:
    """One home of one user, driven through the command line as a person would."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    directory: Path | None = None  # in which commands are given; None: that of the tests

    @property
    def home(self) -> Home:
        return Home(self.root, self.variables.get("RUNNER_DATABASE_URL"))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RUNNER_HOME": str(self.root), **self.variables}

    def command(self, *words: str | Path | int) -> list[str]:
        return [sys.executable, "-m", "runner", *map(str, words)]

    def call(self, *words: str | Path | int, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == expect, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def submit(self, file: Path, *settings: str, **options: Any) -> int:
        words = [word for setting in settings for word in ("--set", setting)]
        words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        return int(self.call("submit", file, *words).stdout.strip())

    def run(self, number: int) -> Run:
        run = self.find(number)
        assert run is not None
        return run

    def find(self, number: int) -> Run | None:
        try:
            with open_store(self.home, create=False) as store:
                return store.run(number)
        except (NoQueue, Unreachable):  # not yet, or for a moment not
            return None

    def runs(self) -> list[Run]:
        with open_store(self.home, create=False) as store:
            return store.runs()

    def wait_for(self, number: int, condition: Callable[[Run], Any]) -> Run:
        def found() -> Run | None:
            run = self.find(number)
            return run if run is not None and condition(run) else None

        # To open a queue on a server costs more than to open a file.
        return wait_until(
            found, lambda: self.find(number) or f"run {number}", 0.3 if self.home.shared else 0.05
        )

    def wait_for_state(self, number: int, *states: State) -> Run:
        """Wait until the run is in one of the states; fail as soon as it has ended in another one."""
        run = self.wait_for(number, lambda run: run.state in {*states, *ENDED})
        assert run.state in states, (
            f"run {number} is {run.state} after epoch {run.durable_epoch}: {run.reason}"
        )
        return run

    def training(self, number: int, attempt: int = 1) -> Run:
        """Wait until the attempt trains, has finished an epoch, and has a checkpoint."""

        def trains(run: Run) -> bool:
            checkpoint = self.home.run(run.id, run.name).attempt(attempt).checkpoint
            return run.attempt == attempt and run.answered_at is not None and checkpoint.exists()

        return self.wait_for(number, lambda run: trains(run) and (run.durable_epoch or 0) > 0)

    def log(self, number: int) -> str:
        return self.call("logs", str(number)).stdout

    def scheduler_pid(self) -> int | None:
        """The scheduler's process; None for a moment after one has taken over."""
        with open_store(self.home, create=False) as store:
            beat = store.scheduler_beat()
        return beat.pid if beat else None


def understand(name: str, words: Sequence[str]) -> None:
    """Parse the arguments of one of our commands as the command line does; raises where it cannot."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    with group.make_context("runner", [name, *words], resilient_parsing=True) as context:
        found = group.get_command(context, name)
        assert found is not None
        found.make_context(name, list(words), parent=context)
