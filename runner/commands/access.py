"""From what the user typed to the queue and the runs in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from runner.output import PROGRAM, CommandError
from runner.wording import listed

if TYPE_CHECKING:
    from runner.paths import Home
    from runner.rows import Run
    from runner.store import Store


class Access(NamedTuple):
    home: Home
    store: Store


@contextmanager
def open_queue(create: bool = False) -> Iterator[Access]:
    """The queue of this home; one that does not exist is made only where `create` says so."""
    from runner.paths import home
    from runner.store import open_store

    place = home()
    with open_store(place, create=create) as store:
        yield Access(place, store)


def named(store: Store, text: str) -> Run:
    """The run of this number, or the only one of this name. Raises CommandError in one line."""
    if text.isdecimal():
        run = store.run(int(text)) if int(text) < 2**63 else None
        if run is None:
            raise CommandError(f"there is no run {text}: `{PROGRAM} queue --all` lists the runs")
        return run
    runs = [run for run in store.runs() if run.name == text]
    if not runs:
        raise CommandError(f"there is no run {text!r}: `{PROGRAM} queue --all` lists the runs")
    if len(runs) > 1:
        numbers = listed([run.id for run in runs])
        raise CommandError(f"{len(runs)} runs are named {text!r}: {numbers}; say which by its number")
    return runs[0]


def all_named(store: Store, texts: Sequence[str]) -> list[Run]:
    """The runs that `texts` name, in their order, none twice; the unknown ones are one error."""
    runs: dict[int, Run] = {}
    unknown: list[str] = []
    for text in texts:
        try:
            run = named(store, text)
        except CommandError as error:
            unknown.append(str(error))
        else:
            runs[run.id] = run
    if unknown:
        raise CommandError("\n".join(unknown))
    return list(runs.values())
