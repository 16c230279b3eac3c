"""The statements on a run and its attempts that several moves share, inside a transaction of the caller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, or_, select, type_coerce, update

from runner.filters import Filter, like
from runner.moves import Changes
from runner.rows import Attempt, Run
from runner.states import State
from runner.tables import ATTEMPT, RUN, attempts, queue, runs


def all_runs(connection: Connection, query: Select[Any]) -> list[Run]:
    """Return the runs that a query for the columns RUN finds."""
    # Not Run(**row) over .mappings(), which takes twice as long: a listing may have ten thousand rows.
    names = [field.name for field in fields(Run)]
    return [Run(**dict(zip(names, row, strict=True))) for row in connection.execute(query)]


def matching(connection: Connection, wanted: Filter) -> list[Run]:
    """Return the runs that a filter admits, by number."""
    query = select(*RUN).where(*_conditions(wanted)).order_by(runs.c.id)
    return [run for run in all_runs(connection, query) if wanted.admits(run)]


def _conditions(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    """Return conditions that every admitted run meets, and perhaps others: LIKE ignores case in SQLite."""
    if wanted.states:
        yield runs.c.state.in_(wanted.states)
    if wanted.names:
        yield or_(*(runs.c.name.like(like(pattern), escape="\\") for pattern in wanted.names))
    for tag in wanted.tags:
        value = "" if tag.value is None else json.dumps(tag.value)
        yield type_coerce(runs.c.tags, Text).contains(f"{json.dumps(tag.key)}: {value}", autoescape=True)
    if wanted.submitted_since is not None:
        yield runs.c.submitted_at >= wanted.submitted_since
    if wanted.numbers is not None:
        yield runs.c.id.between(*wanted.numbers)


def one_run(connection: Connection, run_id: int) -> Run | None:
    """Return the run of this number."""
    return _first(all_runs(connection, select(*RUN).where(runs.c.id == run_id)))


def locked_run(connection: Connection, run_id: int) -> Run | None:
    """Return the run of this number, locked: no other process may change it before this transaction ends.

    SQLite ignores FOR UPDATE: there the whole database is this transaction's already.
    """
    return _first(all_runs(connection, select(*RUN).where(runs.c.id == run_id).with_for_update()))


def write(connection: Connection, run: Run, changes: Changes) -> State:
    """Write changes of a run's row; return its state after."""
    connection.execute(update(runs).where(runs.c.id == run.id).values(changes))
    return changes.get("state", run.state)


def run_in_attempt(connection: Connection, run_id: int, number: int) -> Run | None:
    """Return the run, where it is RUNNING in exactly this attempt."""
    run = locked_run(connection, run_id)
    return run if run is not None and run.state is State.RUNNING and run.attempt == number else None


def attempts_of(connection: Connection, run_id: int) -> list[Attempt]:
    """Return the attempts of a run, the oldest first."""
    query = select(*ATTEMPT).where(attempts.c.run == run_id).order_by(attempts.c.number)
    return [Attempt(**row) for row in connection.execute(query).mappings()]


def write_attempt(connection: Connection, run_id: int, number: int, changes: Changes) -> None:
    """Write changes of an attempt's row."""
    this = (attempts.c.run == run_id) & (attempts.c.number == number)
    connection.execute(update(attempts).where(this).values(changes))


def scheduler_epoch(connection: Connection, to_write: bool = False) -> int:
    """Return the epoch of the scheduler that may write, which stays so for this transaction.

    `to_write`: the row itself is to be written. Two that first share it would wait for each other then.
    """
    return connection.execute(select(queue.c.epoch).with_for_update(read=not to_write)).scalar_one()


def _first(found: list[Run]) -> Run | None:
    return found[0] if found else None
