"""What an attempt keeps of its training: checkpoints, TensorBoard, log lines, samples of the machine."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from capsnet import checkpoint
from capsnet.tensorboard import Board
from runner import storage
from runner.rows import ProgressFields
from runner.system_metrics import Sampler, visible_gpus

if TYPE_CHECKING:
    from capsnet.config import Config
    from capsnet.state import State
    from capsnet.training import Progress
    from runner.paths import AttemptPaths, RunPaths

SAMPLE_SECONDS = 10.0


class Keeper:
    """Sees every `Progress` of an attempt; what it was given is durable when its `with` block ends."""

    def __init__(self, run: RunPaths, attempt: AttemptPaths, config: Config, state: State | None) -> None:
        settings = config.checkpoint
        self._config = config
        self._writer = checkpoint.Writer(attempt.checkpoint)
        self._board = Board(Path(settings.log_dir or run.tensorboard), purge_step=_next_epoch(state))
        self._mirror = checkpoint.locate(settings.model_path) if settings.model_path else None
        self._mirrored: tuple[int, int] | None = None
        self._saved_at = time.monotonic()
        self._sampling = Sampling(attempt.system)
        self.complete = state is not None and state["epoch"] >= config.num_epochs

    def __enter__(self) -> Self:
        self._sampling.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sampling.stop()
        self._board.close()
        self._writer.close()
        if kind is None:
            self._follow()

    @property
    def durable(self) -> ProgressFields:
        """The position of the newest checkpoint that is on disk."""
        if self._writer.durable is None:
            return ProgressFields()
        epoch, step = self._writer.durable
        return ProgressFields(durable_epoch=epoch, durable_step=step)

    def see(self, progress: Progress, last: bool) -> None:
        """Take note of where training is; save it when that is due, or when it goes no further."""
        ended = progress.epoch if progress.metrics is not None else None
        if progress.metrics is not None:
            self._board.epoch(progress.epoch, progress.metrics)
            print(epoch_line(progress), flush=True)
        self.complete = ended == self._config.num_epochs
        seconds = time.monotonic() - self._saved_at
        if last or checkpoint.due(self._config.checkpoint, ended, self._config.num_epochs, seconds):
            self._writer.submit(progress.snapshot())
            self._saved_at = time.monotonic()
        self._follow()

    def _follow(self) -> None:
        """Let the file that the YAML names hold the newest checkpoint that is on disk."""
        durable = self._writer.durable
        if self._mirror is not None and durable != self._mirrored:
            storage.mirror(self._writer.path, self._mirror)
            self._mirrored = durable


class Sampling:
    """A thread that samples this process and its GPUs into a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sampler = Sampler(os.getpid(), visible_gpus())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            storage.append_row(self._path, self._sampler.sample(time.time()))


def epoch_line(progress: Progress) -> str:
    """One line of the log for a finished epoch."""
    metrics = progress.metrics or {}
    parts = [
        f"{name} {metrics[key]:.4f}"
        for name, key in {
            "loss": "train/loss",
            "validation accuracy": "validation/accuracy",
            "test accuracy": "test/accuracy",
        }.items()
        if key in metrics
    ]
    return f"epoch {progress.epoch}/{progress.num_epochs}: {', '.join(parts)}"


def _next_epoch(state: State | None) -> int | None:
    """The first epoch that is to be measured again, whose points TensorBoard must forget."""
    return None if state is None else state["epoch"] + 1
