"""Database of a queue, of any kind: its operations, and each failure as an error of one line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, Transaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from capsnet.locks import LockRefused
from runner import schema


class StoreError(Exception):
    """The queue cannot be used; one line that says what to do."""


class NoQueue(StoreError):  # noqa: N818 - the name says what happened
    """There is no queue yet where one was looked for."""


class Unreachable(StoreError):  # noqa: N818 - the name says what happened
    """The database server does not answer at the moment; one line."""


class Database(ABC):
    """An open database.

    Every transaction of `reader` sees one state of it. In one of `writer`, a row that was read FOR UPDATE
    stays as it was read until the transaction ends.
    """

    name: str  # in messages about it; never with a password
    elsewhere: str  # how to use another one
    reader: Engine
    writer: Engine

    def close(self) -> None:
        self.writer.dispose()

    def look(self) -> schema.Found | None:
        """Return the queue, None in an empty database.

        Raises StoreError where the database is not one of this program, or its schema is newer.
        """
        with self.reader.connect() as connection:
            try:
                return schema.look(connection)
            except schema.SomethingElse:
                raise StoreError(f"{self.name}: a database of something else: {self.elsewhere}") from None
            except schema.Newer as newer:
                raise StoreError(
                    f"{self.name}: written by a newer version of this program (schema {newer.revision}, "
                    f"this one knows {schema.SCHEMA_VERSION}): update this installation"
                ) from None

    @abstractmethod
    def make(self) -> None:
        """Make a queue where there is nothing: once, however many processes find none at the same instant."""

    @abstractmethod
    def upgrade(self) -> None:
        """Bring an older schema up to this one: the whole way or not at all, and once."""

    @abstractmethod
    def take_turn(self, connection: Connection) -> None:
        """Make the transaction wait for the end of every other one that has taken its turn."""

    @abstractmethod
    def number_above(self, connection: Connection, number: int) -> None:
        """Let the next run have a number above this one, and above all that there have been."""

    @abstractmethod
    def place(self) -> str:
        """Return where the database is, as text for `original`."""

    @abstractmethod
    def original(self, place: str, queue_id: str) -> str | None:
        """Return the queue of which this one is a copy, for people to read; None where it is none.

        `place`: of a queue with this id, as that one's `place` says.
        """

    @abstractmethod
    def now(self) -> float:
        """Return the time, in unix seconds, of the clock that all hosts of this database use."""

    @abstractmethod
    def explain(self, error: DBAPIError) -> StoreError:
        """Return the driver's error as a StoreError, in one line that says what to do."""

    def commit(self, transaction: Transaction) -> None:
        """End a transaction; where the connection breaks meanwhile, its outcome is not known here."""
        try:
            transaction.commit()
        except DBAPIError as error:
            explained = self.explain(error)
            if isinstance(explained, Unreachable):
                doubt = "what was asked for may be done or not: look before you ask again"
                explained = Unreachable(f"{explained} ({doubt})")
            raise explained from error

    @contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """Turn an error of the database or the file system into a StoreError of one line."""
        try:
            yield
        except DBAPIError as error:
            raise self.explain(error) from error
        except PoolTimeout as error:  # other threads of this process hold all connections, and wait
            raise Unreachable(f"{self.name}: does not answer: try again") from error
        except LockRefused as error:  # which says itself what to do
            raise StoreError(str(error)) from error
        except OSError as error:
            raise StoreError(f"{error.filename or self.name}: {error.strerror}: {self.elsewhere}") from error
