"""The queue: every read and every move of it, each move in one transaction.

The command line and the publisher write freely; what the scheduler writes carries its epoch
and is refused (Superseded) once another scheduler has taken over, and what concerns an attempt carries
its number and is refused once that attempt has ended.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, Unpack

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from capsnet.history import Row
from runner import moves, sources
from runner.database import Database, NoQueue, StoreError, Unreachable
from runner.filters import Filter
from runner.moves import Changes
from runner.opening import as_url, open_database
from runner.paths import Home, recorded
from runner.place import FilePlace
from runner.protocol import SPOKEN
from runner.queries import (
    all_runs,
    attempts_of,
    locked_run,
    matching,
    one_run,
    run_in_attempt,
    scheduler_epoch,
    write,
    write_attempt,
)
from runner.rows import (
    Attempt,
    Beat,
    Down,
    Intent,
    Machine,
    NewRun,
    Origin,
    Outcome,
    ProgressFields,
    Run,
    Title,
    Waiting,
    Wants,
)
from runner.source import Source
from runner.states import UNFINISHED, Event, IllegalMove, State
from runner.tables import BEAT, BEHIND, RUN, WAITING, attempts, log_pieces, queue, runs

__all__ = [
    "NoQueue",
    "Occupied",
    "Store",
    "StoreError",
    "Superseded",
    "UnknownRun",
    "Unreachable",
    "open_store",
]

KEPT_BY_A_COPY = {"only_row", "id", "schema_version", "created_at", "epoch", "place", "home"}
IN_ORDER = (runs.c.priority.desc(), runs.c.id)  # in which queued runs are to start
# The runs that tracking knows: a run appears there when its first attempt starts (an earlier version made
# it when it was submitted), and one that is being deleted is published no more.
TOLD = ((runs.c.attempt > 0) | runs.c.mlflow_run_id.is_not(None)) & runs.c.intent.is_distinct_from("remove")
AT_ONCE = 200  # runs that are changed in one transaction, lest a scheduler wait long for its turn
LATEST_FIRST = (runs.c.ended_at.desc(), runs.c.id.desc())


class UnknownRun(StoreError):  # noqa: N818 - the name says what happened
    """There is no run of this number."""


class Occupied(StoreError):  # noqa: N818 - the name says what happened
    """The scheduler of another cluster is alive."""


class Superseded(Exception):  # noqa: N818 - the name says what happened
    """Another scheduler has taken over: this one must write nothing more, and leave."""


Moved = State | IllegalMove | UnknownRun  # the state of a run after a move, or why it was not allowed


def open_store(place: Home | Path | str, create: bool = True, upgrade: bool = True) -> Store:
    """The queue of a home, or in the database at a path or URL (`sqlite:///...`, `postgresql+psycopg://...`).

    It is made where there is none, unless `create` is false (raises NoQueue, a StoreError), and migrated
    where its schema is an older one, unless `upgrade` is false (raises StoreError). Raises StoreError, in
    one line, where it cannot be used; Unreachable where the server may answer again.
    """
    if isinstance(place, Home):
        place = as_url(place.database_url) if place.database_url else place.database
    return Store(*open_database(place, create, upgrade))


class Store:
    """An open queue. Thread-safe; close it, or use it as a context manager.

    Every call may raise Unreachable where the queue lies on a server; the next one may succeed.
    """

    def __init__(self, database: Database, queue_id: str) -> None:
        self.queue_id = queue_id  # made with the queue; names it to Ray and to MLflow
        self._database = database

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def now(self) -> float:
        """Return the time, in unix seconds, by the clock that all hosts of this queue go by."""
        return self._database.now()

    # Reads, for any process.

    def run(self, run_id: int) -> Run | None:
        """Return the run of this number; None where there is none."""
        with self._reading() as connection:
            return one_run(connection, run_id)

    def runs(self, states: Collection[State] | None = None) -> list[Run]:
        """Return the runs in these states (None: in any), by number."""
        query = select(*RUN).order_by(runs.c.id)
        with self._reading() as connection:
            return all_runs(connection, query if states is None else query.where(runs.c.state.in_(states)))

    def named(self, name: str) -> list[Run]:
        """Return the runs of this name, by number."""
        query = select(*RUN).where(runs.c.name == name).order_by(runs.c.id)
        with self._reading() as connection:
            return all_runs(connection, query)

    def matching(self, wanted: Filter) -> list[Run]:
        """Return the runs that a filter admits, by number."""
        with self._reading() as connection:
            return matching(connection, wanted)

    def queue(self, at_most: int | None = None) -> list[Run]:
        """Return the QUEUED runs, or the first of them, in the order in which they are to start."""
        query = select(*RUN).where(runs.c.state == State.QUEUED).order_by(*IN_ORDER)
        with self._reading() as connection:
            return all_runs(connection, query.limit(at_most))

    def line(self) -> list[Waiting]:
        """Return all QUEUED runs in the same order, with no more than placement must know."""
        query = select(*WAITING).where(runs.c.state == State.QUEUED).order_by(*IN_ORDER)
        with self._reading() as connection:
            return [Waiting._make(row) for row in connection.execute(query)]

    def latest(self, at_most: int) -> list[Run]:
        """Return the runs that ended last, by number."""
        # By this condition and not by the states, which would make the database sort all that have ended.
        ended = select(*RUN).where(runs.c.ended_at.is_not(None)).order_by(*LATEST_FIRST)
        with self._reading() as connection:
            return sorted(all_runs(connection, ended.limit(at_most)), key=lambda run: run.id)

    def titles(self) -> list[Title]:
        """Number, name and state of every run, the newest first: little, for there may be many."""
        query = select(runs.c.id, runs.c.name, runs.c.state).order_by(runs.c.id.desc())
        with self._reading() as connection:
            return [Title._make(row) for row in connection.execute(query)]

    def counts(self) -> dict[State, int]:
        """Return how many runs there are in each state."""
        query = select(runs.c.state, func.count()).group_by(runs.c.state)
        with self._reading() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def attempts(self, run_id: int) -> list[Attempt]:
        """Return the attempts of a run, the oldest first."""
        with self._reading() as connection:
            return attempts_of(connection, run_id)

    def scheduler_beat(self) -> Beat | None:
        """The last sign of life of a scheduler; None before the first, and after one that left in order."""
        with self._reading() as connection:
            row = connection.execute(select(*BEAT)).mappings().one()
        return None if row["at"] is None else Beat(**row)

    def recorded_home(self) -> str | None:
        """Return the folder of the runs as the newest scheduler has named it, also when it has left."""
        with self._reading() as connection:
            return connection.execute(select(queue.c.home)).scalar_one()

    def recorded_tracking(self) -> str | None:
        """Return where the newest scheduler has published to, also when it has left; without a password."""
        with self._reading() as connection:
            return connection.execute(select(queue.c.tracking)).scalar_one()

    def place(self) -> str:
        """Return where this queue is, as text that `original` compares."""
        with self._database.one_line_errors():
            return self._database.place()

    def original(self, place: str | None = None) -> str | None:
        """Return the queue of which this one is a copy, for people to read; None where it is none.

        `place`: where a queue with this id is; by default what this one has noted.
        """
        if place is None:
            with self._reading() as connection:
                place, home = connection.execute(select(queue.c.place, queue.c.home)).one()
            if place is None and home is not None:  # of before queues noted their place
                place = FilePlace(str(recorded(home).database)).text
        if place is None:
            return None
        with self._database.one_line_errors():
            return self._database.original(place, self.queue_id)

    def down_requested(self) -> Down | None:
        """Return the request that the scheduler go down, where there is one."""
        with self._reading() as connection:
            at, force = connection.execute(select(queue.c.down_at, queue.c.down_force)).one()
        return None if at is None else Down(at=at, force=bool(force))

    def log(self, run_id: int, attempt: int, position: int = 0) -> bytes:
        """Return the part of an attempt's log that is kept here, from the byte at `position` on."""
        start = log_pieces.c.position
        pieces = select(start, log_pieces.c.data).where(_of_attempt(run_id, attempt))
        last = select(func.max(start)).where(_of_attempt(run_id, attempt), start <= position)
        # A piece that ends there adds nothing, and a command that follows the log would fetch it each time.
        reaches = start + func.length(log_pieces.c.data) > position
        before = pieces.where(start == last.correlate(None).scalar_subquery(), reaches)
        after = pieces.where(start > position).order_by(start)
        with self._reading() as connection:
            found = [*connection.execute(before), *connection.execute(after)]
        return b"".join(data[max(0, position - first) :] for first, data in found)

    def log_size(self, run_id: int, attempt: int) -> int:
        """Return how many bytes of an attempt's log are kept here."""
        with self._reading() as connection:
            return _log_end(connection, run_id, attempt)[0]

    def log_whole(self, run_id: int, attempt: int) -> bool:
        """Return whether all of an attempt's log is kept here that ever will be."""
        with self._reading() as connection:
            return _log_end(connection, run_id, attempt)[1]

    def source(self, code: str) -> sources.Kept | None:
        """Return the source of this digest, where it is kept here."""
        with self._reading() as connection:
            return sources.find(connection, code)

    # Writes that the user asks for.

    def add(
        self, new_runs: Sequence[NewRun], now: float, source: Source | None = None, above: int = 0
    ) -> list[int]:
        """Queue all of these runs or, on any error, none; return their numbers, above `above`, in this order.

        `source`: that which their `code` names; it is kept with them.
        """
        if not new_runs:
            return []
        with self._writing() as connection:
            self._database.take_turn(connection)  # numbers follow each other, and appear in their order
            if above:
                self._database.number_above(connection, above)
            if source is not None:
                sources.keep(connection, source)
            query = insert(runs).returning(runs.c.id, sort_by_parameter_order=True)
            rows = [moves.added(new, uuid.uuid4().hex, now) for new in new_runs]
            return list(connection.execute(query, rows).scalars())

    def number_above(self, number: int) -> None:
        """Let the next run have a number above this one, which something outside of the queue has."""
        with self._writing() as connection:
            self._database.take_turn(connection)
            self._database.number_above(connection, number)

    def note_place(self) -> None:
        """Note where this queue is, which is no copy."""
        here = self.place()
        with self._reading() as connection:
            noted = connection.execute(select(queue.c.place)).scalar_one()
        if noted != here:
            with self._writing() as connection:
                connection.execute(update(queue).values(place=here))

    def adopt(self, now: float, home: str, reason: str, keeps_tracking: bool) -> list[int]:
        """Make a copy a queue with an id of its own; return the numbers of the runs that this stops.

        `home`: the folder of the runs. What had not ended is INTERRUPTED, with the `reason`: it may go on in
        the original. `keeps_tracking`: tracking has a copy of the runs, too; otherwise they are made anew
        there once there is something to publish.
        """
        queue_id, here = str(uuid.uuid4()), self.place()
        with self._writing() as connection:
            unfinished = select(*RUN).where(runs.c.state.in_(UNFINISHED)).order_by(runs.c.id)
            stopped = all_runs(connection, unfinished)
            for run in stopped:
                write(connection, run, moves.adopted(run, now, reason))
                ended = {"ended_at": now, "outcome": "stopped", "reason": reason}
                open_ = (attempts.c.run == run.id) & attempts.c.ended_at.is_(None)
                connection.execute(update(attempts).where(open_).values(ended))
            if not keeps_tracking:
                connection.execute(update(runs).values(mlflow_run_id=None))
            nobody = {column.name: None for column in queue.c if column.name not in KEPT_BY_A_COPY}
            connection.execute(update(queue).values(**nobody, id=queue_id, place=here, home=home))
        self.queue_id = queue_id
        return [run.id for run in stopped]

    def ask(self, run_id: int, intent: Intent, grace_seconds: float, now: float) -> State:
        """Interrupt or cancel: a queued run at once, a running one by its intent; return the state after.

        Raises UnknownRun, and IllegalMove for a run that has ended.
        """
        with self._writing() as connection:
            run = _expected(connection, run_id)
            return write(connection, run, moves.asked(run, intent, grace_seconds, now))

    def resume(
        self,
        run_id: int,
        config: str | None = None,
        num_epochs: int | None = None,
        use_best: bool = False,
        wants: Wants | None = None,
        origin: Origin | None = None,
        source: Source | None = None,
        *,
        longer: bool = False,
        overrides: tuple[str, ...] | None = None,
        now: float,
    ) -> None:
        """Queue an ended run again, with another configuration and other code where they are given.

        `wants`: what it needs by that configuration; `source`: that which `origin` names; `longer`: it may
        go on for longer without a gain on the validation split than before; `overrides`: every `--set` that
        holds then.

        Raises UnknownRun, and IllegalMove for a run that has not ended, or has FINISHED and gets no
        more epochs.
        """
        with self._writing() as connection:
            if source is not None:
                self._database.take_turn(connection)
                sources.keep(connection, source)
            run = _expected(connection, run_id)
            changes = moves.resumed(run, now, config, num_epochs, use_best, wants, longer, overrides)
            write(connection, run, changes | (vars(origin) if origin else {}))
            if source is not None and run.code is not None:
                sources.drop(connection, [run.code])

    def ask_each(
        self, run_ids: Collection[int], intent: Intent, grace_seconds: float, now: float
    ) -> dict[int, Moved]:
        """Ask as `ask` does of each run that allows it; return, by run, the state after, or why not."""
        return self._each(run_ids, lambda run: moves.asked(run, intent, grace_seconds, now))

    def set_priority_each(self, run_ids: Collection[int], priority: int) -> dict[int, Moved]:
        """Give each run that is queued another place; return its state, or why not."""
        return self._each(run_ids, lambda run: moves.placed(run, priority))

    def tag(self, run_ids: Collection[int], tags: Mapping[str, str | None]) -> dict[int, Moved]:
        """Give runs of any state tags, and take away those that are None; return each state, or why not."""
        return self._each(run_ids, lambda run: moves.tagged(run, tags))

    def note(self, run_ids: Collection[int], text: str | None) -> dict[int, Moved]:
        """Give runs of any state a note; None takes it away. Return each one's state, or why not."""
        return self._each(run_ids, lambda run: moves.noted(run, text))

    def _each(self, run_ids: Collection[int], move: Callable[[Run], Changes]) -> dict[int, Moved]:
        """Make a move with every run that allows it, many in one transaction, for each waits for the disk."""
        numbers, moved = sorted(set(run_ids)), {}
        for start in range(0, len(numbers), AT_ONCE):
            with self._writing() as connection:
                for number in numbers[start : start + AT_ONCE]:
                    moved[number] = _moved(connection, number, move)
        return moved

    def begin_removal(self, run_ids: Collection[int], now: float) -> None:
        """Bar these ended runs, all or none, from a resume: their files are about to be deleted.

        Raises UnknownRun, and IllegalMove for an unfinished one.
        """
        with self._writing() as connection:
            for run_id in sorted(run_ids):  # in one order, lest two of us wait for each other
                run = _expected(connection, run_id)
                write(connection, run, moves.going(run, now))

    def remove(self, run_ids: Collection[int]) -> None:
        """Delete the rows of ended runs, all of these or none, and code that no other run needs.

        Raises UnknownRun, and IllegalMove for an unfinished one.
        """
        with self._writing() as connection:
            self._database.take_turn(connection)
            needless: set[str] = set()
            for run_id in sorted(run_ids):
                moves.require_ended(_expected(connection, run_id))
                needless |= sources.of(connection, run_id)
                connection.execute(delete(runs).where(runs.c.id == run_id))
            sources.drop(connection, needless)

    def ask_down(self, now: float, force: bool = False) -> None:
        """Ask the scheduler to save what runs, queue it again and leave; `force`: without saving."""
        with self._writing() as connection:
            connection.execute(update(queue).values(down_at=now, down_force=force))

    def clear_down(self) -> None:
        """Withdraw the request of `ask_down`."""
        with self._writing() as connection:
            connection.execute(update(queue).values(down_at=None, down_force=None))

    # Reads and writes of the publisher.

    def unpublished(self) -> list[Run]:
        """Return the runs of which tracking may lack something, by number; none that has not started."""
        query = select(*RUN).where(BEHIND, TOLD).order_by(runs.c.id)
        with self._reading() as connection:
            return all_runs(connection, query)

    def behind(self, after: int, at_most: int) -> list[Run]:
        """Return the next runs as of `unpublished` that do not run, after a number and by number."""
        query = select(*RUN).where(BEHIND, TOLD, runs.c.state != State.RUNNING, runs.c.id > after)
        with self._reading() as connection:
            return all_runs(connection, query.order_by(runs.c.id).limit(at_most))

    def anything_unpublished(self) -> bool:
        """Return whether there is a run for `unpublished`; this takes less time than to list them."""
        with self._reading() as connection:
            return connection.execute(select(runs.c.id).where(BEHIND, TOLD).limit(1)).first() is not None

    def publish_errors(self) -> dict[str, int]:
        """Return why runs could not be published, each reason with the number of runs."""
        failed = runs.c.publish_error.is_not(None)
        query = select(runs.c.publish_error, func.count()).where(BEHIND, TOLD, failed)
        with self._reading() as connection:
            found = connection.execute(query.group_by(runs.c.publish_error).order_by(func.count().desc()))
            return {row[0]: row[1] for row in found}

    def published(
        self,
        run_id: int,
        *,
        attempt: int | None = None,
        epoch: int | None = None,
        state: State | None = None,
        annotations: int | None = None,
        error: str | None = None,
    ) -> None:
        """Note how far tracking has come; arguments that are None change nothing, except `error`.

        `attempt` is the one that was published: where another has begun meanwhile, the state is not noted.
        """
        known = {"published_epoch": epoch, "published_state": state, "published_annotations": annotations}
        changes = {name: value for name, value in known.items() if value is not None}
        with self._writing() as connection:
            run = locked_run(connection, run_id)
            if run is None:
                return
            if attempt not in (None, run.attempt):
                changes.pop("published_state", None)
            write(connection, run, {**changes, "publish_error": error})

    def bind(self, run_id: int, before: str | None, mlflow_run_id: str) -> str | None:
        """Note the MLflow run of a run whose noted one was `before`; return the one that counts.

        That is another one where another publisher has noted it meanwhile; None for a removed run.
        """
        with self._writing() as connection:
            run = locked_run(connection, run_id)
            if run is None or run.mlflow_run_id != before:
                return run and run.mlflow_run_id
            write(connection, run, {"mlflow_run_id": mlflow_run_id})
            return mlflow_run_id

    def add_log(self, run_id: int, attempt: int, position: int, data: bytes) -> int:
        """Keep a piece of an attempt's log if it begins at the end of what is kept; return the end after.

        An empty piece marks the log as whole, after which nothing is added. A piece that is not kept
        leaves the end where it is; that of a run which was removed is 0.
        """
        with self._writing() as connection:
            if locked_run(connection, run_id) is None:
                return 0
            end, whole = _log_end(connection, run_id, attempt)
            if whole or position != end:
                return end
            row = {"run": run_id, "attempt": attempt, "position": position, "data": data}
            connection.execute(insert(log_pieces).values(row))
            return end + len(data)

    # Writes of the scheduler of an epoch.

    def take_over(
        self,
        now: float,
        cluster: str,
        version: str,
        tracking: str | None = None,
        home: str | None = None,
        stale_after: float = 30.0,
        code: str | None = None,
    ) -> int:
        """Begin a scheduler epoch, and so end the one before; return its number.

        `home` is the folder of the runs, `code` the digest of the scheduler's own source.

        Raises Occupied where the scheduler of another cluster has beaten in the last `stale_after` seconds.
        """
        with self._writing() as connection:
            row = connection.execute(select(*BEAT).with_for_update()).mappings().one()
            if row["at"] is not None and row["cluster"] != cluster and now - row["at"] < stale_after:
                raise Occupied(
                    f"this queue is served by {row['cluster']} (host {row['host']}, last seen "
                    f"{max(0.0, now - row['at']):.0f} s ago): use that one, or `runner down` there first"
                )
            nobody = dict.fromkeys(("pid", "host", "cores", "gpus", "machines", "message"))
            values = {
                "epoch": row["epoch"] + 1,
                "at": now,
                "cluster": cluster,
                "version": version,
                "tracking": tracking,
                "home": home,
                "code": code,
                "protocol": max(SPOKEN),
                **nobody,
            }
            connection.execute(update(queue).values(values))
            return values["epoch"]

    def beat(
        self,
        epoch: int,
        now: float,
        *,
        pid: int | None = None,
        host: str | None = None,
        machines: Sequence[Machine] = (),
        message: str | None = None,
    ) -> None:
        """Note that the scheduler is alive, where, with which machines, and its message of one line."""
        values = {
            "at": now,
            "pid": pid,
            "host": host,
            "cores": sum(machine["cpus"] for machine in machines),
            "gpus": sum(machine["gpus"] for machine in machines),
            "machines": machines,
            "message": message,
        }
        with self._scheduling(epoch, own_row=True) as connection:
            connection.execute(update(queue).values(values))

    def leave(self, epoch: int) -> None:
        """Note that the scheduler has left in order: any cluster may take over at once."""
        with self._scheduling(epoch, own_row=True) as connection:
            connection.execute(update(queue).values(at=None))

    def claim(
        self, epoch: int, run_id: int, now: float, gpus: float, cpus: float, after: int = 0
    ) -> Attempt | None:
        """Start the next attempt of a queued run, with a number above `after`; None if it is not queued."""
        with self._scheduling(epoch) as connection:
            run = locked_run(connection, run_id)
            if run is None or run.state is not State.QUEUED:
                return None
            changes = moves.claimed(run, now, gpus, after)
            write(connection, run, changes)
            row = {"run": run_id, "number": changes["attempt"], "started_at": changes["started_at"]}
            row |= {"gpus": gpus, "cpus": cpus, "code": run.code}
            connection.execute(insert(attempts).values(row))
            return attempts_of(connection, run_id)[-1]

    def report(
        self, epoch: int, run_id: int, attempt: int, now: float, /, **progress: Unpack[ProgressFields]
    ) -> bool:
        """Note the answer of an attempt's worker; return False, noting nothing, if the attempt has ended."""
        with self._scheduling(epoch) as connection:
            run = run_in_attempt(connection, run_id, attempt)
            if run is None:
                return False
            write(connection, run, moves.reported(run, now, progress))
            kept = {name: value for name, value in progress.items() if name in moves.OF_ATTEMPT}
            if kept:
                write_attempt(connection, run_id, attempt, kept)
            return True

    def end(
        self,
        epoch: int,
        run_id: int,
        attempt: int,
        event: Event,
        now: float,
        outcome: Outcome,
        reason: str | None = None,
        epochs: int | None = None,
        kept: Row | None = None,
    ) -> State | None:
        """End an attempt and move its run; return the state after, None if the attempt has ended before.

        `event` is what happened; a pending intent and the number of losses may replace it (`moves.settled`).
        `epochs`: how many are behind a run that has finished, where that is known; `kept`: the newest epoch
        of its metric history that is durable, likewise.
        """
        with self._scheduling(epoch) as connection:
            run = run_in_attempt(connection, run_id, attempt)
            if run is None:
                return None
            ended_at = max(now, run.started_at or now)
            ending = {"ended_at": ended_at, "outcome": outcome, "reason": reason}
            write_attempt(connection, run_id, attempt, ending)
            return write(connection, run, moves.ended(run, event, ended_at, reason, epochs, kept))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._database.one_line_errors(), self._database.reader.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            self._database.one_line_errors(),
            self._database.writer.connect() as connection,
            connection.begin() as transaction,
        ):
            yield connection
            self._database.commit(transaction)

    @contextmanager
    def _scheduling(self, epoch: int, own_row: bool = False) -> Iterator[Connection]:
        """Begin a transaction that only the newest epoch's scheduler may have; `own_row`: for its beat."""
        with self._writing() as connection:
            newest = scheduler_epoch(connection, to_write=own_row)
            if newest != epoch:
                raise Superseded(f"the scheduler of epoch {newest} has taken over from that of epoch {epoch}")
            yield connection


def _expected(connection: Connection, run_id: int) -> Run:
    run = locked_run(connection, run_id)
    if run is None:
        raise UnknownRun(f"there is no run {run_id}")
    return run


def _moved(connection: Connection, run_id: int, move: Callable[[Run], Changes]) -> Moved:
    """Return the state of a run after a move, or why the move is not allowed."""
    try:
        run = _expected(connection, run_id)
        changes = move(run)
    except (IllegalMove, UnknownRun) as error:
        return error
    return write(connection, run, changes) if changes else run.state


def _of_attempt(run_id: int, attempt: int) -> ColumnElement[bool]:
    return (log_pieces.c.run == run_id) & (log_pieces.c.attempt == attempt)


def _log_end(connection: Connection, run_id: int, attempt: int) -> tuple[int, bool]:
    """Return the byte after the last one that is kept of an attempt's log, and whether no more will come."""
    position, size = log_pieces.c.position, func.length(log_pieces.c.data)
    pieces = select(position, size).where(_of_attempt(run_id, attempt))
    last = connection.execute(pieces.order_by(position.desc()).limit(1)).first()
    return (last[0] + last[1], last[1] == 0) if last else (0, False)
