"""Tags and notes that the user gives runs at any time: kept in the queue, and published to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from runner.output import emit_json, hint

if TYPE_CHECKING:
    from runner.store import Moved, Store


def annotate(
    words: Sequence[str],
    write: Callable[[Store, Collection[int]], dict[int, Moved]],
    described: str,
    json: bool,
) -> None:
    """Let `write` change the runs that are named; `described`: what each of them has afterwards, in words."""
    from runner.commands.access import how_to_start, open_queue
    from runner.commands.listing import documents
    from runner.commands.results import GONE, Results, literal
    from runner.commands.selection import chosen
    from runner.service import is_alive

    results = Results()
    with open_queue() as access:
        home, store = access
        runs = chosen(store, words)
        moved = write(store, [run.id for run in runs])
        results.take(store, runs, moved, lambda _: f"$runs $have {literal(described)}", lambda _: GONE)
        results.tell()
        after = [run for number in results.numbers if (run := store.run(number)) is not None]
        is_news = any(run.annotations != run.published_annotations for run in after)
        if is_news and not is_alive(store, store.now()):
            hint(f"MLflow gets it when a scheduler runs: {how_to_start(home)}")
        if json:
            emit_json(documents(access, results.numbers))
        results.end()
