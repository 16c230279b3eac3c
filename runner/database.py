"""Opening the queue's database: found or created once, checked, and every failure in one line."""

from __future__ import annotations

import fcntl
import glob
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError

from capsnet.files import sync_folder
from runner.tables import SCHEMA_VERSION, metadata, queue

BUSY_SECONDS = 30.0  # how long a writer waits for another one

ELSEWHERE = "set RUNNER_HOME to another folder"
ADVICE = {
    "unable to open database file": "cannot be opened: is its folder writable?",
    "attempt to write a readonly database": f"is read-only: make it writable, or {ELSEWHERE}",
    "file is not a database": f"is not a database: {ELSEWHERE}",
    "database is locked": f"another process has kept it busy for {BUSY_SECONDS:.0f} s: try again",
    "database or disk is full": "the disk is full: free some space and try again",
    "database disk image is malformed": f"is damaged: put back a copy of it, or {ELSEWHERE}",
}


class StoreError(Exception):
    """The queue cannot be used; one line that says what to do."""


class NoQueue(StoreError):  # noqa: N818 - the name says what happened
    """There is no queue yet where one was looked for."""


class Unreachable(StoreError):  # noqa: N818 - the name says what happened
    """The database server does not answer at the moment; one line."""


def open_database(place: str | Path, create: bool) -> tuple[Engine, str]:
    """The engine of the database at a path or URL, and the id of the queue in it.

    Where there is none it is created, or NoQueue raised; raises StoreError where it cannot be used.
    """
    file = Path(_url(place).database or "")
    engine = _sqlite_engine(file)
    try:
        with one_line_errors(file):
            return engine, _found_or_made(engine, file, create)
    except BaseException:
        engine.dispose()
        raise


@contextmanager
def one_line_errors(file: str | Path | None) -> Iterator[None]:
    """Turns what the database or the file system says into a StoreError of one line."""
    try:
        yield
    except DBAPIError as error:
        said = str(error.orig).splitlines()[0]
        raise StoreError(f"{file}: {ADVICE.get(said, said)}") from error
    except OSError as error:
        raise StoreError(f"{error.filename or file}: {error.strerror}: {ELSEWHERE}") from error


def _url(place: str | Path) -> URL:
    if isinstance(place, Path) or "://" not in place:
        return URL.create("sqlite", database=str(Path(place).absolute()))
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise StoreError(f"{place}: not the URL of a database: use sqlite:///PATH") from error
    if url.get_backend_name() != "sqlite":
        raise StoreError(f"{url.render_as_string()}: only SQLite is supported: use sqlite:///PATH")
    if url.database in (None, "", ":memory:"):
        raise StoreError(f"{place}: a queue must outlive this process: name a file")
    return url


def _sqlite_engine(file: Path) -> Engine:
    """An engine with SQLite's own settings; transactions begin as SQLAlchemy's documentation advises."""
    engine = create_engine(URL.create("sqlite", database=str(file)), connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def settings(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # no BEGIN of sqlite3's own: it would come too late, see below
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once where another one wrote in
        # between, whatever the timeout. So those that will write take their lock before they read.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _found_or_made(engine: Engine, file: Path, create: bool) -> str:
    identity = _identity(engine, file)
    if identity is None and create:
        _make(file)
        identity = _identity(engine, file)
    if identity is None:
        raise NoQueue(f"{file}: there is no queue yet: submit a run")
    return identity


def _identity(engine: Engine, file: Path) -> str | None:
    """The id of the queue in the file; None where there is no file, or an empty one."""
    if not file.exists() or file.stat().st_size == 0:
        return None
    with engine.connect() as connection:
        if not set(inspect(connection).get_table_names()) >= set(metadata.tables):
            raise StoreError(f"{file}: a database of something else: {ELSEWHERE}")
        identity, version = connection.execute(select(queue.c.id, queue.c.schema_version)).one()
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{file}: written by a newer version of this program (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): update this installation"
        )
    return identity


def _make(file: Path) -> None:
    """Makes the queue, once, however many processes find none at the same instant.

    It is made under another name and renamed when it is whole: nobody ever opens half a queue, and
    nobody reads it while its journal mode changes, at which SQLite would fail and not wait.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{file}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists() and file.stat().st_size:
            return
        for left_by_a_killed_process in file.parent.glob(f"{glob.escape(file.name)}.new*"):
            left_by_a_killed_process.unlink()
        draft = Path(f"{file}.new")
        engine = _sqlite_engine(draft)
        with engine.connect() as connection:
            connection.connection.execute("PRAGMA journal_mode=WAL")
        _fill(engine)
        engine.dispose()  # the last connection to close brings the journal back into the file
        for journal in ("-wal", "-shm"):  # of a database that was deleted: SQLite would replay it into ours
            Path(f"{file}{journal}").unlink(missing_ok=True)
        draft.replace(file)
        sync_folder(file.parent)


def _fill(engine: Engine) -> None:
    row = {"only_row": 1, "id": str(uuid.uuid4()), "schema_version": SCHEMA_VERSION, "epoch": 0}
    with engine.execution_options(writes=True).begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(queue).values(created_at=time.time(), **row))
