"""What an attempt keeps of its training, beyond what every training keeps: where the queue can find it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from capsnet import checkpoint
from capsnet.keeper import Keeper
from capsnet.progressbar import Lines
from runner import storage
from runner.rows import ProgressFields
from runner.system_metrics import Sampler, visible_gpus

if TYPE_CHECKING:
    from capsnet.config import Config
    from capsnet.state import State
    from capsnet.training import Progress
    from runner.paths import AttemptPaths, RunPaths

SAMPLE_SECONDS = 10.0


class AttemptKeeper:
    """Sees every `Progress` of an attempt; what it saved last is on disk when its `with` block ends."""

    def __init__(self, run: RunPaths, attempt: AttemptPaths, config: Config, state: State | None) -> None:
        named = config.checkpoint
        board = run.tensorboard
        if named.log_dir:
            board = Path(named.log_dir)
            if run.tensorboard.is_symlink() or not run.tensorboard.exists():
                storage.link(run.tensorboard, board)  # where `runner ui` looks
        self._source = attempt.checkpoint
        self._target = checkpoint.locate(named.model_path) if named.model_path else None
        self._mirrored: tuple[int, int] | None = None
        self._keeper = Keeper(config, attempt.checkpoint, board, state, Lines(sys.stdout))
        self._sampling = Sampling(attempt.system)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self._follow)
        self._stack.enter_context(self._keeper)
        self._stack.enter_context(self._sampling)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def complete(self) -> bool:
        return self._keeper.complete

    @property
    def durable(self) -> ProgressFields:
        """The position of the newest checkpoint that is on disk."""
        if self._keeper.durable is None:
            return ProgressFields()
        epoch, step = self._keeper.durable
        return ProgressFields(durable_epoch=epoch, durable_step=step)

    def see(self, progress: Progress, last: bool) -> None:
        """Take note of where training is; save it when that is due, or when it goes no further."""
        self._keeper.see(progress, last)
        self._follow()

    def settle(self) -> None:
        """Return when what was saved last is on disk, in the file that the YAML names too."""
        self._keeper.settle()
        self._follow()

    def draw(self, progress: Progress) -> None:
        """Draw what the finished run has learnt."""
        self._keeper.draw(progress)

    def _follow(self) -> None:
        """Let the file that the YAML names hold the newest checkpoint that is on disk."""
        durable = self._keeper.durable
        if self._target is not None and durable != self._mirrored:
            storage.mirror(self._source, self._target)
            self._mirrored = durable


class Sampling:
    """A thread that samples this process and its GPUs into a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sampler = Sampler(os.getpid(), visible_gpus())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            storage.append_row(self._path, self._sampler.sample(time.time()))
