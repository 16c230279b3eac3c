"""`priority`: give runs another place in the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runner.commands.options import Json, Runs
from runner.output import emit_json

if TYPE_CHECKING:
    from runner.rows import Run

LARGEST = 1_000_000  # priority, as in the YAML

Number = Annotated[
    int,
    typer.Argument(metavar="N", min=-LARGEST, max=LARGEST, help="Higher starts first.", show_default=False),
]


def priority(runs: Runs, number: Number, json: Json = False) -> None:
    """Give each queued RUN another place: the highest priority starts first, equal ones in order of number.

    A run that does not wait is named on stderr, and the others are moved.

    \b
    Examples:
      python -m runner priority 7 10
      python -m runner priority 3 5-9 -5
    """
    from runner.commands.access import open_queue
    from runner.commands.listing import documents
    from runner.commands.results import Results
    from runner.commands.selection import chosen

    results = Results()
    with open_queue() as access:
        store = access.store
        queued = chosen(store, runs)
        moved = store.set_priority_each([run.id for run in queued], number)
        results.take(store, queued, moved, lambda _: f"$runs $have priority {number}", _has_no_place)
        results.tell()
        if json:
            emit_json(documents(access, results.numbers))
        results.end()


def _has_no_place(run: Run) -> str:
    return f"$runs $are {run.state}: only a queued run has a place to change"
