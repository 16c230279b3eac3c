"""Records that an attempt keeps beyond those of every training, where the queue can find them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from capsnet import checkpoint
from capsnet.guard import Guard
from capsnet.keeper import Keeper
from capsnet.overwriting import require_board, require_checkpoint
from capsnet.patience import Trouble
from capsnet.progressbar import Lines
from runner import run_files, storage
from runner.rows import ProgressFields
from runner.system_metrics import Sampler, visible_gpus

if TYPE_CHECKING:
    from capsnet.config import Config
    from capsnet.history import Row
    from capsnet.state import State
    from capsnet.training import Progress
    from runner.paths import AttemptPaths
    from runner.workplace import Workplace

SAMPLE_SECONDS = 10.0
LOG_SECONDS = 30.0  # between two lines within an epoch: logs of long epochs are kept and copied
LEAVE_SECONDS = 5.0  # for which a driver or a disk that hangs is waited for at the end
NOT_WRITTEN = "system metrics cannot be written"


class AttemptKeeper:
    """Saver of an attempt, given each `Progress`; the last state is durable when its `with` block ends."""

    def __init__(
        self,
        place: Workplace,
        attempt: AttemptPaths,
        config: Config,
        state: State | None,
        label: str,
        troubled: Callable[[Trouble | None], None],
        kept: Callable[[Row | None], None],
        identity: str | None = None,
    ) -> None:
        """`label`: what pictures call the run.

        `troubled` is called with the reason why nothing can be saved at the moment, and with None when that
        is over; `kept`, at the end, with the newest epoch that is durable.
        `identity`: of the run; its checkpoints carry it.
        """
        named, run = config.checkpoint, place.run
        lines = Lines(sys.stdout, LOG_SECONDS)
        guard = Guard(lines.line)
        board = run.tensorboard
        if named.log_dir:
            require_board(Path(named.log_dir))
            board = Path(named.log_dir).resolve()
            with guard(f"{run.tensorboard} cannot lead to {board}, where `runner ui` would look"):
                _lead(run.tensorboard, board)
        self._place = place
        self._kept = kept
        self._begun = 0 if state is None else state["epoch"]
        self._identity = identity
        self._target: Path | None = None
        if named.model_path:
            require_checkpoint(checkpoint.locate(named.model_path))
            self._target = checkpoint.locate(named.model_path).resolve()
        self._written: State | None = None
        self._keeper = Keeper(
            config,
            attempt.checkpoint,
            board,
            state,
            lines,
            label=label,
            save=self._save,
            troubled=troubled,
        )
        self._sampling = Sampling(attempt.system, guard)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._keeper)
        self._stack.enter_context(self._sampling)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._stack.__exit__(*error)
        finally:  # whichever way the attempt ends, the row shows what is durable then
            self._kept(self._newest_kept())

    def _newest_kept(self) -> Row | None:
        """The newest epoch that is durable, in this attempt's checkpoint or in the one it began with."""
        epoch = self._begun if self._keeper.durable is None else self._keeper.durable[0]
        return next((row for row in self._keeper.history if row["epoch"] == epoch), None)

    @property
    def complete(self) -> bool:
        return self._keeper.complete

    @property
    def stopped_early(self) -> str | None:
        """Why training has ended before its last epoch, in one line."""
        return self._keeper.stopped_early

    @property
    def durable(self) -> ProgressFields:
        """The position of the newest checkpoint that is durable."""
        if self._keeper.durable is None:
            return ProgressFields()
        epoch, step = self._keeper.durable
        return ProgressFields(durable_epoch=epoch, durable_step=step)

    def see(self, progress: Progress, last: bool) -> None:
        """Note the progress of training; save it when that is due, or when training is over (`last`)."""
        self._keeper.see(progress, last)

    def settle(self) -> None:
        """Wait until what was saved last is durable, in the file that the YAML names too."""
        self._keeper.settle()

    def draw(self, progress: Progress) -> None:
        """Draw what the finished run has learnt."""
        self._keeper.draw(progress)

    def _save(self, state: State, path: Path) -> None:
        """Write a state, make it durable, and let the file that the YAML names hold it too."""
        if self._written is not state:  # tried again after an error, it would take the previous one's place
            checkpoint.save(owned(state, self._identity), path, run_files.file_mode(path.parent))
            self._written = state
        self._place.save()
        if self._target is not None:
            require_checkpoint(self._target)
            storage.mirror(path, self._target)


def owned(state: State, identity: str | None) -> State:
    """Return the state with the identity of the run that it belongs to."""
    return state | {"run": identity}


def _lead(name: Path, board: Path) -> None:
    """Link a name to TensorBoard's folder, unless a file or folder has the name."""
    if name.is_symlink() or not name.exists():
        storage.link(name, board)


class Sampling:
    """A thread that samples this process and its GPUs into a file."""

    def __init__(self, path: Path, guard: Guard) -> None:
        self._path = path
        self._guard = guard
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(LEAVE_SECONDS)

    def _work(self) -> None:
        with self._guard("system metrics cannot be measured"):
            sampler = Sampler(os.getpid(), visible_gpus())
            while not self._ended.wait(SAMPLE_SECONDS):
                row = sampler.sample(time.time())
                with self._guard(NOT_WRITTEN) as tried:
                    storage.append_row(self._path, row)
                if tried.error is None:  # the one after a full disk's may fit again
                    self._guard.over(NOT_WRITTEN)
