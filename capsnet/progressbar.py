"""A run's progress: a bar on a terminal, plain lines elsewhere. Imports no PyTorch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol, Self, TextIO

from capsnet.printable import LINES, printable, say
from capsnet.streams import interactive

PLAIN_SECONDS = 10.0  # between two plain lines within an epoch
BAR_WIDTH = 4  # cells at least
GIVES_WAY = ("speed", "loss", "accuracy", "left")  # beside the bar of a narrow terminal, in this order


@dataclass(frozen=True)
class Numbers:
    """Where a run stands, as plain numbers."""

    epoch: int  # from 1
    num_epochs: int
    step: int
    steps_per_epoch: int
    loss: float
    accuracy: float | None  # None: not measured yet
    images_per_second: float
    seconds_left: float

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return (self.epoch - 1 + self.step / self.steps_per_epoch) / self.num_epochs

    @property
    def epochs(self) -> str:
        return epochs_done(self.epoch - 1, self.step, self.steps_per_epoch, self.num_epochs)

    @property
    def text(self) -> str:
        return "  ".join(self._parts.values())

    def text_within(self, width: int) -> str:
        """The text without what `width` cells have no room for, which gives way in a fixed order."""
        parts = self._parts
        for name in GIVES_WAY:
            if len("  ".join(parts.values())) > width:
                parts.pop(name, None)
        return "  ".join(parts.values())

    @property
    def _parts(self) -> dict[str, str]:
        parts = {
            "loss": f"loss {self.loss:.4f}",
            "accuracy": "" if self.accuracy is None else f"accuracy {self.accuracy:.2%}",
            "speed": f"{self.images_per_second:,.0f} images/s",
            "left": f"{duration(self.seconds_left)} left",
        }
        return {name: part for name, part in parts.items() if part}


def epochs_done(finished: int, step: int, steps_per_epoch: int | None, num_epochs: int) -> str:
    """Epochs done, of all: "2/10", "2.5/10" in the middle of the third.

    The share of an unfinished epoch's steps counts in whole tenths, at most 9: 3 epochs are done when the
    third has been evaluated.
    """
    tenths = min(9, 10 * step // steps_per_epoch) if steps_per_epoch else 0
    return f"{finished}.{tenths}/{num_epochs}" if tenths else f"{finished}/{num_epochs}"


def duration(seconds: float) -> str:
    """ "0:07", "12:30", "3:05:00"; "?" where it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class View(Protocol):
    """Shows the progress of one run."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def show(self, numbers: Numbers) -> None:
        """Show where the run stands now."""
        ...

    def line(self, text: str) -> None:
        """Print a line that stays."""
        ...


def view(stream: TextIO) -> View:
    """A bar where `stream` is a terminal that can redraw it and rich is installed, else plain lines."""
    if interactive(stream):
        try:
            return Bar(stream)
        except ImportError:
            pass
    return Lines(stream)


class Lines:
    """Plain lines: those that stay and, within an epoch, one at most every `seconds`."""

    def __init__(self, stream: TextIO, seconds: float = PLAIN_SECONDS) -> None:
        self._stream = stream
        self._seconds = seconds
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, numbers: Numbers) -> None:
        if time.monotonic() - self._last >= self._seconds:
            where = f"epoch {numbers.epoch}/{numbers.num_epochs}, {numbers.step}/{numbers.steps_per_epoch}"
            self.line(f"{where}  {numbers.text}")

    def line(self, text: str) -> None:
        say(text, self._stream)
        self._last = time.monotonic()


class Bar:
    """One line that redraws itself, below those that stay."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.table import Column
        from rich.text import Text

        console = Console(file=stream, highlight=False)

        class NumbersColumn(ProgressColumn):
            """The numbers for which the terminal, as wide as it is now, has room."""

            def render(self, task: Task) -> Text:
                numbers: Numbers | None = task.fields["numbers"]
                taken = len(f"{task.fields['epochs']} epochs ") + BAR_WIDTH + 1
                return Text("" if numbers is None else numbers.text_within(console.width - taken))

        self._progress = Progress(
            TextColumn("{task.fields[epochs]} epochs", markup=False),
            BarColumn(bar_width=None),
            NumbersColumn(Column(no_wrap=True)),
            console=console,
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("", total=1.0, epochs="", numbers=None)
        self._width = console.width

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, numbers: Numbers) -> None:
        self._erase_wrapped()
        self._progress.update(self._task, completed=numbers.share, epochs=numbers.epochs, numbers=numbers)

    def _erase_wrapped(self) -> None:
        """Erase the lines into which a terminal that became narrower broke the bar, up to the first."""
        from rich.control import Control
        from rich.segment import ControlType

        before, self._width = self._width, max(1, self._progress.console.width)
        for _ in range((before - 1) // self._width):
            up = Control((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            self._progress.console.control(up)

    def line(self, text: str) -> None:
        self._progress.console.print(printable(text, LINES), markup=False, soft_wrap=True)
