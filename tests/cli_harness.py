"""The runner's command line under test: a real home and a real store; the test plays the scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from patience import PATIENCE

import capsnet
from capsnet.history import Row
from runner import source
from runner.paths import Home
from runner.rows import Machine, Outcome, Run
from runner.states import Event, State
from runner.store import Store, open_store
from runner.tracking import target

TINY = "dataset: {name: digits}\nnum_epochs: 10\n"
ELSEWHERE = "192.0.2.1:6379"  # a cluster of which only the scheduler's beat is ever looked at
FAR_AHEAD = 3600.0  # seconds: a beat from then is fresh for the whole test

ENDINGS: dict[State, tuple[Event, Outcome]] = {
    State.FINISHED: (Event.FINISH, "finished"),
    State.FAILED: (Event.FAIL, "failed"),
    State.CANCELLED: (Event.CANCEL, "stopped"),
    State.INTERRUPTED: (Event.INTERRUPT, "stopped"),
}


class Done(NamedTuple):
    """A finished command: its exit code and the text of stdout and stderr."""

    code: int
    out: str
    err: str


class Lab:
    """A directory to submit from, and a home in it."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        database_url: str | None = None,
    ):
        self.folder = folder
        self.home = Home(folder / "home", database_url)
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._store: Store | None = None
        self._epoch = 0
        monkeypatch.chdir(folder)
        monkeypatch.setenv("RUNNER_HOME", str(self.home.root))
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))  # in which homes are noted
        monkeypatch.setenv("RAY_ADDRESS", ELSEWHERE)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if database_url is not None:
            monkeypatch.setenv("RUNNER_DATABASE_URL", database_url)

    def become_a_laptop(self) -> None:
        """Leave nothing on this host of the cluster that serves the queue and of the runs' folders."""
        self._monkeypatch.delenv("RUNNER_HOME")
        self._monkeypatch.delenv("RAY_ADDRESS")
        self._monkeypatch.setenv("RUNNER_RAY_DIR", str(self.folder / "ray"))

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = open_store(self.home)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def call(self, *words: object) -> Done:
        """Run a command in this process, from its words to its exit code."""
        from runner.cli import main

        self._monkeypatch.setattr(sys, "argv", ["runner", *map(str, words)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, out, err)

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "runner", *map(str, words)]

    def process(self, *words: object, **variables: str) -> Done:
        """Run a command in a process of its own, without a terminal."""
        return self.finish(self.command(*words), **variables)

    def finish(self, command: Sequence[str], **variables: str) -> Done:
        """Run any process to its end."""
        environment = {**os.environ, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        return Done(done.returncode, done.stdout, done.stderr)

    def file(self, name: str = "tiny.yaml", text: str = TINY) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    # The scheduler's part.

    def serve(
        self,
        gpus: float = 0,
        cores: float = 2,
        machines: Sequence[Machine] = (),
        tracking: str | None = None,
        home: str | None = None,
        ahead: float = FAR_AHEAD,
    ) -> None:
        """Act as a scheduler that is alive, and stays so for at least `ahead` seconds."""
        now = self.store.now() + ahead
        tracking = tracking or target(self.home, {}).uri
        code = source.here().digest
        self._epoch = self.store.take_over(now, "lab", capsnet.__version__, tracking, home, code=code)
        bench = Machine(name="bench", gpus=int(gpus), cpus=cores, leaving=False)
        self.store.beat(self._epoch, now, pid=1, host="bench", machines=machines or [bench])

    def submit(self, text: str = TINY, **options: object) -> int:
        """Queue a run and return its number."""
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        done = self.call("submit", self.file(text=text), *words)
        assert done.code == 0, done.err
        return int(done.out)

    def run(self, number: int) -> Run:
        run = self.store.run(number)
        assert run is not None
        return run

    def start(self, number: int, gpus: float = 0) -> None:
        assert self.store.claim(self._epoch, number, time.time(), gpus=gpus, cpus=2)

    def leave(self) -> None:
        """End the scheduler in an orderly way."""
        self.store.leave(self._epoch)

    def report(self, number: int, seconds_ago: float = 0.0, **progress: Any) -> None:
        run = self.run(number)
        assert self.store.report(self._epoch, number, run.attempt, time.time() - seconds_ago, **progress)

    def end(self, number: int, state: State, reason: str | None = None, epochs: int | None = None) -> None:
        event, outcome = ENDINGS[state]
        run = self.run(number)
        now = time.time()
        after = self.store.end(self._epoch, number, run.attempt, event, now, outcome, reason, epochs)
        assert after is state

    def lose(self, number: int, reason: str, kept: Row | None = None) -> None:
        """Record that the run's process died; `kept`: the last row of its metric history."""
        run = self.run(number)
        self.store.end(self._epoch, number, run.attempt, Event.LOSE, time.time(), "lost", reason, kept=kept)

    def ended(self, state: State = State.FINISHED, accuracy: float | None = None, text: str = TINY) -> int:
        """Submit, start, train and end a run; return its number."""
        number = self.submit(text)
        self.start(number)
        metrics = {"test/accuracy": accuracy or 0.0}
        self.report(number, epoch=10, accuracy=accuracy, metrics=metrics, durable_epoch=10, durable_step=0)
        self.end(number, state)
        return number
