"""Stages of a command that takes seconds: lines or, on a terminal, one line that changes and then goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from capsnet.streams import interactive
from runner.output import hint, shown

if TYPE_CHECKING:
    from runner.local_ray import Tell


@contextmanager
def stages() -> Iterator[Tell]:
    """Yield a function that shows on stderr which stage begins."""
    if not interactive(sys.stderr):
        yield hint
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    progress = Progress(*columns, console=Console(file=sys.stderr), transient=True)
    line = progress.add_task("", total=None)

    def tell(stage: str) -> None:
        progress.reset(line, description=shown(stage))
        progress.start()  # now, for where there is no stage nothing is to be drawn

    try:
        yield tell
    finally:
        progress.stop()
