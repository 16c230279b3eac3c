"""Views of runs that go on: plain lines for a pipe, a bar or a table that redraws itself on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from capsnet.layout import Cells, fit, wrapped
from capsnet.progressbar import PLAIN_SECONDS
from runner import narration
from runner.narration import Moment
from runner.output import PROGRAM, cells, lacks_width, say, styled, table_lines
from runner.redaction import redacted
from runner.states import ENDED, UNFINISHED, State
from runner.wording import plural

if TYPE_CHECKING:
    from rich.text import Text

    from capsnet.progressbar import Numbers
    from runner.notes import Situation
    from runner.rows import Run

FIRST = {State.RUNNING: 0, State.QUEUED: 1}  # what a table that is too long shows first


class View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def show(self, runs: Sequence[Run], situation: Situation) -> None:
        """Show how the runs stand now."""
        ...


class Lines:
    """Plain lines: one for each change and each epoch's end, within an epoch one every 10 s at most.

    With `news_only` there are none about runs that had ended before the first look.
    """

    def __init__(self, stream: TextIO, news_only: bool = False) -> None:
        self._stream = stream
        self._news_only = news_only
        self._seen: dict[int, Moment] = {}
        self._told: dict[int, Moment] = {}  # the last look that had a line
        self._served = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, runs: Sequence[Run], situation: Situation) -> None:
        unfinished = any(run.state in UNFINISHED for run in runs)
        if self._served and not situation.served and unfinished:
            say(narration.unserved(situation), self._stream)
        self._served = situation.served
        for run in runs:
            before, after = self._seen.get(run.id), Moment.of(run, situation)
            self._seen[run.id] = after
            if before is None and self._news_only and run.state in ENDED:
                continue
            lines = narration.finished_epoch(before, after) + narration.changes(before, after)
            if before is None or (not lines and self._is_due(after)):
                lines += narration.unfinished_epoch(run)
            for line in lines:
                say(line, self._stream)
            if lines:
                self._told[run.id] = after

    def _is_due(self, after: Moment) -> bool:
        """Return whether the run has gone on since its last line, and long enough ago."""
        told = self._told.get(after.run.id)
        return told is None or (
            after.at - told.at >= PLAIN_SECONDS
            and (after.run.epoch, after.run.step) != (told.run.epoch, told.run.step)
        )


class Bar:
    """One run: epoch, loss, accuracy, images per second, time left; above it a line for each change."""

    def __init__(self, stream: TextIO) -> None:
        from capsnet import progressbar

        self._bar = progressbar.Bar(stream)
        self._before: Moment | None = None

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__(*_)

    def show(self, runs: Sequence[Run], situation: Situation) -> None:
        for run in runs:
            before, self._before = self._before, Moment.of(run, situation)
            for line in narration.changes(before, self._before):
                self._bar.line(redacted(line))
            if numbers := _numbers(run):
                self._bar.show(numbers)


def _numbers(run: Run) -> Numbers | None:
    """Return the numbers of a running run's bar; None while it is not running or training has not begun."""
    from capsnet.progressbar import Numbers

    if run.state is not State.RUNNING or run.epoch is None or run.loss is None or not run.steps_per_epoch:
        return None
    return Numbers(
        epoch=run.epoch,
        num_epochs=run.num_epochs,
        step=run.step or 0,
        steps_per_epoch=run.steps_per_epoch,
        loss=run.loss,
        accuracy=run.accuracy,
        images_per_second=run.images_per_second or 0.0,
        seconds_left=math.nan if run.seconds_left is None else run.seconds_left,
    )


class Table:
    """The table of `queue`, drawn anew at each look; as many runs as the terminal has lines for."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._runs: Sequence[Run] = ()
        self._rows: Mapping[int, Cells] = {}
        self._begin()

    def _begin(self) -> None:
        """Prepare to draw below what the terminal shows now."""
        from rich.live import Live

        self._size = self._console.size
        self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._picture)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, runs: Sequence[Run], situation: Situation) -> None:
        from runner.commands.listing import rows

        self._runs = runs
        shown = most_current(runs, self._console.height)
        self._rows = {run.id: row for run, row in zip(shown, cells(rows(shown, situation)), strict=True)}
        if self._console.size != self._size:
            self._start_over()
        self._live.refresh()

    def _start_over(self) -> None:
        """Clear the screen, where the terminal has broken the lines of the last table anew."""
        self._live.stop()
        self._console.clear()
        self._begin()
        self._live.start()

    def _picture(self) -> Text:
        width, height = self._console.size
        picture = styled(frame(self._runs, self._rows, width, height - 1))  # the last line is the cursor's
        picture.no_wrap, picture.overflow = True, "ignore"
        return picture


def frame(runs: Sequence[Run], rows: Mapping[int, Cells], width: int, height: int) -> list[Cells]:
    """Return the lines of a table of the most current runs, as many as `height` lines have room for.

    `rows`: the cells of those that may be shown. What is not shown is named below.
    """
    lines: list[Cells] = []
    for count in range(min(len(rows), height), 0, -1):
        lines = _frame_of(most_current(runs, count), len(runs) - count, rows, width)
        if len(lines) <= height:
            break
    return lines[: max(1, height)]


def _frame_of(shown: Sequence[Run], others: int, rows: Mapping[int, Cells], width: int) -> list[Cells]:
    from runner.commands.listing import COLUMNS, ELSEWHERE, GIVES_WAY

    fitted = fit(COLUMNS, [rows[run.id] for run in shown], width, GIVES_WAY)
    below = [lacks_width(fitted.left_out, ELSEWHERE)] if fitted.left_out else []
    if others:
        below.append(f"{plural(others, 'more run')}: `{PROGRAM} queue` lists them")
    return table_lines(fitted) + [[line] for text in below for line in wrapped(text, width)]


def most_current(runs: Sequence[Run], at_most: int) -> list[Run]:
    """The runs worth a line: those that run, then those that wait, then those that ended last; by number."""

    def rank(run: Run) -> tuple[int, float]:
        return FIRST.get(run.state, 2), -(run.ended_at or 0.0)

    return sorted(sorted(runs, key=rank)[: max(1, at_most)], key=lambda run: run.id)
