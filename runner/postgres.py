"""A queue in a PostgreSQL database: for several hosts, and a network that may break at any moment.

What writes runs at READ COMMITTED, where SELECT ... FOR UPDATE waits for a transaction that changes the row
and then reads the changed row: every move reads its run so before it decides. What only reads runs at
REPEATABLE READ, so that several statements see one state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Row,
    create_engine,
    event,
    extract,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from runner import postgres_errors, schema
from runner.clock import ServerClock
from runner.database import Database, StoreError, Unreachable

CONNECT_SECONDS = 5  # for each address of the host
ANSWER_SECONDS = 15.0  # in which a server that is asked something must give a sign of life
UPGRADE_SECONDS = 600.0  # the same for a migration, which may have to build an index
LOCK_SECONDS = 10  # how long a writer waits for another one
IDLE_SECONDS = 30  # after which the server ends the transaction of a client that is stopped or gone
TURN = 0xCA95_0E7  # our number among the advisory locks of the database

# A host that is gone says nothing; left to itself, the kernel finds that out after many minutes.
SETTINGS: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": int(1000 * ANSWER_SECONDS),
    "application_name": "runner",
    "client_encoding": "utf8",
}
LIMITS = f"-c lock_timeout={LOCK_SECONDS}s -c idle_in_transaction_session_timeout={IDLE_SECONDS}s"


class PostgresDatabase(Database):
    """The queue in a database of a server."""

    elsewhere = "make another one with `createdb` and name it in RUNNER_DATABASE_URL"

    def __init__(self, url: URL) -> None:
        self.name = _without_password(url)
        self._engine = _engine(url)
        self.reader = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self.writer = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._clock = ServerClock(self._server_time)

    def make(self) -> None:
        """Make the tables in one transaction."""
        with self.writer.begin() as connection:
            self.take_turn(connection)
            if not inspect(connection).get_table_names():
                schema.fill(connection)

    def upgrade(self) -> None:
        """Migrate in one transaction."""
        with self.writer.begin() as connection:
            self.take_turn(connection)
            found = schema.look(connection)  # now, when a process that migrated before this one is done
            if found is not None and found.is_old:
                with _patience(connection, UPGRADE_SECONDS):
                    schema.upgrade(connection)

    def take_turn(self, connection: Connection) -> None:
        """Wait for PostgreSQL's advisory lock of our number, which the transaction then holds to its end."""
        connection.execute(select(func.pg_advisory_xact_lock(TURN)))

    def number_above(self, connection: Connection, number: int) -> None:
        """Raise the last number of the sequence from which PostgreSQL takes them."""
        sequence = "pg_get_serial_sequence('runs', 'id')::regclass"
        is_behind = f"coalesce(pg_sequence_last_value({sequence}), 0) < :number"
        connection.execute(text(f"SELECT setval({sequence}, :number) WHERE {is_behind}"), {"number": number})

    def place(self) -> str:
        """Return which server it is, and which database there: hosts may reach it by different names."""
        [[database]] = self._asked("SELECT oid FROM pg_database WHERE datname = current_database()")
        try:
            [[server]] = self._asked("SELECT system_identifier FROM pg_control_system()")
        except Unreachable:
            raise
        except StoreError:  # this user may not ask
            server = None
        return json.dumps({"server": server, "database": database})

    def original(self, place: str, queue_id: str) -> str | None:
        """Another database of this server from which this one was made; other servers are not known here."""
        try:
            noted = json.loads(place)
            server, database = noted["server"], int(noted["database"])
        except (KeyError, TypeError, ValueError):
            return None
        if server != json.loads(self.place())["server"]:  # put back on a new server, say
            return None
        others = "SELECT datname FROM pg_database WHERE oid = :database AND datname <> current_database()"
        found = self._asked(others, database=database)
        return f"the database {found[0][0]}" if found else None

    def _asked(self, query: str, **values: Any) -> Sequence[Row[Any]]:
        """Return the rows of a query, which runs in a transaction of its own."""
        with self.one_line_errors(), self.reader.connect() as connection:
            return connection.execute(text(query), values).all()

    def now(self) -> float:
        """Return the server's time, without asking it each time."""
        return self._clock.now()

    def _server_time(self) -> float:
        with self.one_line_errors(), self.reader.connect() as connection:
            return float(connection.execute(select(extract("epoch", func.clock_timestamp()))).scalar_one())

    def explain(self, error: DBAPIError) -> StoreError:
        """Return the server's or the driver's error: Unreachable where it may pass, else StoreError."""
        said, passes = postgres_errors.explain(str(error.orig), getattr(error.orig, "sqlstate", None))
        return (Unreachable if passes else StoreError)(f"{self.name}: {said}")


def _without_password(url: URL) -> str:
    shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return shown.render_as_string()


def _engine(url: URL) -> Engine:
    """Return an engine whose every wait ends: for a connection, an answer, a lock, a place in the pool."""
    try:
        import psycopg
    except ImportError as error:
        raise StoreError(
            f"a queue on PostgreSQL needs psycopg: pip install 'psycopg[binary]' ({error})".splitlines()[0]
        ) from error

    class PatientConnection(psycopg.Connection[Any]):
        """Connection that gives up a stopped server, whose kernel goes on answering TCP's keepalives."""

        patience_seconds = ANSWER_SECONDS

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().wait(_impatient(gen, self.patience_seconds), *args, **kwargs)
            except TimeoutError:
                self.pgconn.finish()  # what it may still answer would be taken for another answer
                raise psycopg.OperationalError("connection timeout expired") from None

    engine = create_engine(
        url, pool_pre_ping=True, pool_size=2, max_overflow=6, pool_timeout=ANSWER_SECONDS, pool_recycle=1800
    )

    @event.listens_for(engine, "do_connect")
    def connect(_: object, __: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        limits = f"{LIMITS} {named.get('options', '')}".strip()
        return PatientConnection.connect(*arguments, **{**SETTINGS, **named, "options": limits})

    return engine


@contextmanager
def _patience(connection: Connection, seconds: float) -> Iterator[None]:
    """Let the server be silent for longer."""
    driver: Any = connection.connection.driver_connection
    driver.patience_seconds, before = seconds, driver.patience_seconds
    try:
        yield
    finally:
        driver.patience_seconds = before


def _impatient(steps: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """Yield the driver's own steps, as long as the server gives a sign of life in so many seconds.

    Raises TimeoutError. The driver goes on with a false value where nothing has come for a moment.
    """
    last_sign = time.monotonic()
    try:
        wanted = next(steps)
        while True:
            sign = yield wanted
            if sign:
                last_sign = time.monotonic()
            elif time.monotonic() - last_sign > seconds:
                raise TimeoutError
            wanted = steps.send(sign)
    except StopIteration as end:
        return end.value
