"""What whoever trains does between two steps: show, log, save; and at the end, draw."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Self

from capsnet.checkpoint import Writer, due
from capsnet.config import Config
from capsnet.figures import output, sheet
from capsnet.figures.gallery import gallery
from capsnet.history import results
from capsnet.progressbar import Numbers, View
from capsnet.state import CheckpointError, State
from capsnet.tensorboard import Board
from capsnet.training import Progress


class Keeper:
    """Sees every `Progress` of a run; what it saved last is on disk when its `with` block ends."""

    def __init__(
        self, config: Config, checkpoint: Path, tensorboard: Path, state: State | None, shown: View
    ) -> None:
        """`tensorboard`: a folder; `state`: what training goes on from.

        Raises CheckpointError where a file is in that folder's way: an epoch may take hours to show it.
        """
        _make(tensorboard)
        self._config = config
        self._shown = shown
        self._tensorboard = tensorboard
        self._next_epoch = 1 if state is None else state["epoch"] + 1
        self._writer = Writer(checkpoint)
        self._figures = output.folder_of(checkpoint)
        self._closing = ExitStack()
        self._closing.callback(self._writer.close)
        self._saved_at = time.monotonic()
        self.history = [] if state is None else list(state["history"])

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        with self._closing:
            self._shown.__exit__()

    @property
    def durable(self) -> tuple[int, int] | None:
        """The position (epoch, step) of the newest checkpoint that is on disk; None before the first."""
        return self._writer.durable

    @property
    def complete(self) -> bool:
        return len(self.history) == self._config.num_epochs

    def see(self, progress: Progress, last: bool) -> None:
        """Take note of where the run stands; save when that is due or nothing follows."""
        self._shown.show(_numbers(progress))
        if progress.metrics is not None:
            self.history.append({"epoch": progress.epoch, **progress.metrics})
            self._shown.line(_epoch_line(progress, progress.metrics))
            # Before the checkpoint, never after it: a board that is ahead is put right (purge_step), but an
            # epoch that only the checkpoint knew of would be a hole in the curves for ever. Where this
            # fails, the checkpoint from within the epoch, `interval_seconds` old at most, goes on with it.
            self._log(progress, progress.metrics)
        ended = None if progress.metrics is None else progress.epoch
        seconds = time.monotonic() - self._saved_at
        if last or due(self._config.checkpoint, ended, self._config.num_epochs, seconds):
            self._writer.submit(progress.start_snapshot())
            self._saved_at = time.monotonic()

    def settle(self) -> None:
        """Return when what was saved last is on disk."""
        self._writer.wait()

    @cached_property
    def _board(self) -> Board | None:
        """Opened at the first epoch's end, as importing it takes seconds; None where it is not installed."""
        try:
            board = Board(self._tensorboard, purge_step=self._next_epoch)
        except ImportError:
            self._shown.line("no TensorBoard log: pip install tensorboard")
            return None
        self._closing.callback(board.close)
        return board

    def draw(self, progress: Progress) -> None:
        """Write the pictures of the finished run beside its checkpoint, and show them on the board.

        Takes some seconds and a pass over the test images, after what was trained is safe. Whatever goes
        wrong, Ctrl-C included, is said and changes nothing else: training has ended well.
        """
        self.settle()
        try:
            import matplotlib  # noqa: F401 - told apart from an import that fails for another reason
        except ImportError:
            self._shown.line("no figures: pip install matplotlib")
            return
        try:
            with sheet.defaults():
                self._write_pictures(progress)
        except KeyboardInterrupt:
            self._shown.line("stopped drawing; `python -m capsnet figures` draws what is missing")
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._shown.line(f"warning: not all figures were drawn: {type(error).__name__}: {cause}")

    def _write_pictures(self, progress: Progress) -> None:
        drawn = gallery(self._config, progress.network, progress.test, progress.execution, self.history)
        for name, figure in drawn:
            content = sheet.png(figure)
            output.save(content, self._figures / f"{name}.png")
            if self._board is not None:
                self._board.picture(progress.epoch, name, content)

    def _log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        if self._board is None:
            return
        self._board.epoch(progress.epoch, metrics)
        if examples := progress.examples():
            self._board.images(progress.epoch, *examples)
        if self.complete:
            self._board.hparams(self._config, results(self.history), progress.epoch)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{folder} cannot be TensorBoard's folder, a file is in its way: "
            "move it, or set checkpoint.log_dir"
        ) from error


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
