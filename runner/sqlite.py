"""A queue in an SQLite file: for one machine, and all processes on it that share its disk."""

from __future__ import annotations

import glob
import platform
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from capsnet.files import sync_folder
from capsnet.locks import locked
from runner import schema
from runner.database import Database, StoreError
from runner.paths import DATABASE
from runner.place import holds, is_copy, of_file, read_file_place
from runner.run_files import file_mode
from runner.tables import runs

BUSY_SECONDS = 30.0  # how long a writer waits for another one

ELSEWHERE = "set RUNNER_HOME to another folder"
ADVICE = {
    "unable to open database file": "cannot be opened: is its folder writable?",
    "attempt to write a readonly database": f"is read-only: make it writable, or {ELSEWHERE}",
    "file is not a database": f"is not a database: {ELSEWHERE}",
    "database is locked": f"another process has kept it busy for {BUSY_SECONDS:.0f} s: try again",
    "locking protocol": f"its file system refuses locks: {ELSEWHERE}, on another file system",
    "database or disk is full": "the disk is full: free some space and try again",
    "database disk image is malformed": f"is damaged: put back a copy of it, or {ELSEWHERE}",
}


class SqliteDatabase(Database):
    """The queue in a file."""

    elsewhere = ELSEWHERE

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        self._file = file
        self.reader = _engine(file)
        self.writer = self.reader.execution_options(writes=True)

    def look(self) -> schema.Found | None:
        """Return the queue; None where the file is missing or still empty."""
        return super().look() if _has_content(self._file) else None

    def make(self) -> None:
        """Make the queue under another name and rename it when it is whole.

        So no process opens half a queue, and none reads it while its journal mode changes, at which
        SQLite would fail and not wait.
        """
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            if _has_content(self._file):
                return
            for left_by_a_killed_process in self._file.parent.glob(f"{glob.escape(self._file.name)}.new*"):
                left_by_a_killed_process.unlink()
            draft = Path(f"{self._file}.new")
            draft.touch(mode=file_mode(self._file.parent))  # which its journals get too
            engine = _engine(draft)
            with engine.connect() as connection:
                connection.connection.execute("PRAGMA journal_mode=WAL")
            with engine.execution_options(writes=True).begin() as connection:
                schema.fill(connection)
            engine.dispose()  # the last connection to close brings the journal back into the file
            for journal in (
                "-wal",
                "-shm",
            ):  # of a database that was deleted: SQLite would replay it into ours
                Path(f"{self._file}{journal}").unlink(missing_ok=True)
            draft.replace(self._file)
            sync_folder(self._file.parent)

    def upgrade(self) -> None:
        """Migrate the file in one transaction, after a copy of it was kept as `queue.db.schema-<n>`."""
        with self._alone():
            found = self.look()
            if found is None or not found.is_old:
                return
            with self.writer.begin() as connection:  # no other process writes between the copy and the change
                self._keep_copy(Path(f"{self._file}.schema-{found.revision}"))
                schema.upgrade(connection)

    def _keep_copy(self, copy: Path) -> None:
        draft = Path(f"{copy}.new")
        draft.unlink(missing_ok=True)
        draft.touch(mode=file_mode(copy.parent))
        with closing(sqlite3.connect(self._file)) as source, closing(sqlite3.connect(draft)) as target:
            try:
                source.backup(target)
            except sqlite3.Error as error:
                raise StoreError(f"{copy}: no copy can be kept before the migration: {error}") from error
        draft.replace(copy)
        sync_folder(copy.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with locked(Path(f"{self._file}.lock"), "RUNNER_HOME"):
            yield

    def take_turn(self, connection: Connection) -> None:
        """Do nothing: a transaction that writes has the whole file to itself."""

    def number_above(self, connection: Connection, number: int) -> None:
        """Raise the last number that SQLite remembers of an AUTOINCREMENT column."""
        remembered = {"number": number, "table": runs.name}
        update = "UPDATE sqlite_sequence SET seq = max(seq, :number) WHERE name = :table"
        if not connection.execute(text(update), remembered).rowcount:
            insert = "INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :number)"
            connection.execute(text(insert), remembered)

    def place(self) -> str:
        """Path, host, and which file it is."""
        return of_file(self._file).text

    def original(self, place: str, queue_id: str) -> str | None:
        """Return the path of another file that holds the same queue."""
        noted = read_file_place(place)
        if noted is None or not is_copy(noted, of_file(self._file), lambda file: holds(file, queue_id)):
            return None
        file = Path(noted.file)
        elsewhere = f" on {noted.host}" if noted.host not in (None, platform.node()) else ""
        return f"{file.parent if file.name == DATABASE else file}{elsewhere}"

    def now(self) -> float:
        """Return this machine's time, which every process that opens the file uses."""
        return time.time()

    def explain(self, error: DBAPIError) -> StoreError:
        """Return SQLite's error as a StoreError, with advice in place of its text where there is some."""
        said = str(error.orig).splitlines()[0]
        return StoreError(f"{self.name}: {ADVICE.get(said, said)}")


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _engine(file: Path) -> Engine:
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
