"""Recording of a run: shows, logs and saves between two training steps, and draws at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from capsnet.config import Config
from capsnet.figures import output, rendering
from capsnet.figures.gallery import gallery
from capsnet.figures.subject import Subject
from capsnet.guard import Guard
from capsnet.history import metrics_of, results
from capsnet.overwriting import require_board
from capsnet.patience import TRIES, SavingError, Trouble
from capsnet.progressbar import Numbers, View
from capsnet.saving import Save, Writer, due
from capsnet.state import State
from capsnet.stopping import is_over, stopped_early
from capsnet.tensorboard import Board
from capsnet.training import Progress

NO_FIGURES = "not all figures were drawn"
NO_BOARD = "TensorBoard's log cannot be written"


class Keeper:
    """Shows, logs and saves each `Progress` of a run; the last save is on disk when its `with` block ends."""

    def __init__(
        self,
        config: Config,
        checkpoint: Path,
        tensorboard: Path,
        state: State | None,
        shown: View,
        *,
        label: str | None = None,
        save: Save | None = None,
        troubled: Callable[[Trouble | None], None] = lambda trouble: None,
    ) -> None:
        """`tensorboard`: a folder; `state`: what training goes on from, None for a new run.

        `label`: the run's name in pictures, if not its own.
        `save`: saves a state, if not to a file at `checkpoint` alone. `troubled` is called, beside `shown`,
        with the reason why nothing can be saved at the moment, and with None when that is over.

        Raises CheckpointError where something else lies in the folder `tensorboard`. It is checked here, as
        the first write may be hours later, at an epoch's end.
        """
        require_board(tensorboard)
        with suppress(OSError):  # such as a full disk, which may be over at the first epoch's end
            tensorboard.mkdir(parents=True, exist_ok=True)
        self._guard = Guard(shown.line)
        self._config = config
        self._label = label
        self._shown = shown
        self._troubled = troubled
        self._tensorboard = tensorboard
        patience = TRIES * config.checkpoint.interval_seconds
        self._writer = Writer(checkpoint, patience, self._tell, save)
        self._figures = output.folder_of(checkpoint)
        self._saved_at = time.monotonic()
        self.history = [] if state is None else list(state["history"])
        self._board: Board | None = None
        self._boards = True  # TensorBoard can be used, as far as is known
        self._logged = len(self.history)  # epochs that the board has

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        try:
            self._shown.__exit__()
        finally:
            try:
                self._close_board()
            finally:
                self._end_saving(error)

    def _end_saving(self, first: BaseException | None) -> None:
        """Save what is pending; after a `first` error do not wait long for a disk."""
        try:
            self._writer.close(patient=first is None)
        except SavingError as error:
            if first is None:
                raise
            if not isinstance(first, SavingError):
                self._shown.line(f"warning: {error}")

    @property
    def durable(self) -> tuple[int, int] | None:
        """The position (epoch, step) of the newest checkpoint that is on disk; None before the first."""
        return self._writer.durable

    @property
    def complete(self) -> bool:
        """Whether no epoch is left to train."""
        allowed = self._config.stop_after_epochs_without_gain
        return is_over(self.history, self._config.num_epochs, allowed)

    @property
    def stopped_early(self) -> str | None:
        """Reason why training has ended before its last epoch, in one line; otherwise None."""
        allowed = self._config.stop_after_epochs_without_gain
        return stopped_early(self.history, self._config.num_epochs, allowed)

    def see(self, progress: Progress, last: bool) -> None:
        """Show and log the run's progress; save it when a save is due or no step follows (`last`)."""
        self._shown.show(_numbers(progress))
        self._writer.look()
        if progress.metrics is not None:
            self.history.append({"epoch": progress.epoch, "time": time.time(), **progress.metrics})
            self._shown.line(_epoch_line(progress, progress.metrics))
            if self.stopped_early:
                self._shown.line(self.stopped_early)
            # Before the checkpoint, never after it: a board that is ahead is put right (purge_step), but an
            # epoch that only the checkpoint knew of would be a hole in the curves. Where this fails, the
            # board gets it at a later epoch's end, and only a process that ends before that leaves the hole.
            self._log(progress)
        ended = None if progress.metrics is None else progress.epoch
        seconds = time.monotonic() - self._saved_at
        if last or due(self._config.checkpoint, ended, self.complete, seconds):
            self._writer.submit(progress.start_snapshot())
            self._saved_at = time.monotonic()

    def look(self) -> None:
        """Report storage trouble that is new, or over. Raises SavingError when it has lasted too long."""
        self._writer.look()

    def settle(self) -> None:
        """Wait until the last save is on disk."""
        self._writer.wait()

    def _tell(self, trouble: Trouble | None) -> None:
        self._shown.line("saved again" if trouble is None else f"warning: {trouble}; training goes on")
        self._troubled(trouble)

    def draw(self, progress: Progress) -> None:
        """Write the pictures of the finished run beside its checkpoint, and show them on the board.

        Takes some seconds and a pass over the test images, after the last save is on disk. Errors, Ctrl-C
        included, are reported and change nothing else: training has ended well.
        """
        self.settle()
        try:
            with self._guard(NO_FIGURES):
                self._draw(progress)
        except KeyboardInterrupt:
            self._shown.line("stopped drawing; `python -m capsnet figures` draws what is missing")

    def _draw(self, progress: Progress) -> None:
        try:
            rendering.import_matplotlib()
        except ModuleNotFoundError:
            self._shown.line("no figures: pip install matplotlib")
            return
        config = self._config
        subject = Subject(config, progress.network, progress.execution, self._label, progress.epoch)
        with rendering.defaults():
            for name, figure in gallery(subject, progress.test, self.history, config.seed):
                content = rendering.png(figure)
                output.save(content, self._figures / f"{name}.png")
                self._on_board(lambda board, name=name, png=content: board.picture(progress.epoch, name, png))

    def _log(self, progress: Progress) -> None:
        """Write to the board what is new, and what could not be written before."""
        self._on_board(lambda board: self._fill(board, progress))

    def _on_board(self, show: Callable[[Board], None]) -> None:
        """Show something on the board, where there is one; a full disk is tried again at the next call."""
        with self._guard(NO_BOARD) as tried:
            if board := self._opened_board():
                show(board)
        if tried.error is None:
            self._guard.over(NO_BOARD)
            return
        self._close_board()  # what follows goes to a new file: this one may end in half a record
        self._boards = isinstance(tried.error, OSError)

    def _fill(self, board: Board, progress: Progress) -> None:
        for row in self.history[self._logged :]:
            board.epoch(int(row["epoch"]), metrics_of(row), row["time"])
        self._logged = len(self.history)
        if examples := progress.examples():
            board.images(progress.epoch, *examples)
        if self.complete:
            board.hparams(self._config, results(self.history), progress.epoch)

    def _opened_board(self) -> Board | None:
        """Return the board, opened when first used, as importing takes seconds; None if not installed."""
        if self._board is None and self._boards:
            try:
                self._board = Board(self._tensorboard, purge_step=self._logged + 1)
            except ModuleNotFoundError as error:
                if error.name != "tensorboard":
                    raise
                self._shown.line("no TensorBoard log: pip install tensorboard")
                self._boards = False
        return self._board

    def _close_board(self) -> None:
        board, self._board = self._board, None
        if board is not None:
            with self._guard(NO_BOARD):
                board.close()


def _numbers(progress: Progress) -> Numbers:
    return Numbers(**{name: getattr(progress, name) for name in Numbers.__dataclass_fields__})


def _epoch_line(progress: Progress, metrics: Mapping[str, float]) -> str:
    parts = [f"epoch {progress.epoch}/{progress.num_epochs}", f"loss {metrics['train/loss']:.4f}"]
    parts += [
        f"{part} {metrics[f'{part}/accuracy']:.2%}"
        for part in ("train", "validation", "test")
        if f"{part}/accuracy" in metrics
    ]
    if "images_per_second" in metrics:
        parts.append(f"{metrics['images_per_second']:,.0f} images/s")
    return "  ".join(parts)
