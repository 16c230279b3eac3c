"""Schema of a queue's database: reading its revision, filling a new database, migrating an older one.

The truth is the revision that Alembic notes in the database. A new queue is made from the tables of
`runner.tables` and not by the migrations: that needs no Alembic, which takes longer to import than all the
rest of a command, and makes one step of what a migration does in many. A test holds that both ways lead
to the same schema.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select

from runner.tables import SCHEMA_VERSION, alembic_version, complete, metadata, queue

FIRST_TABLES = frozenset({"runs", "attempts", "queue"})  # what every schema since the first one has


class SomethingElse(Exception):  # noqa: N818 - the name says what happened
    """The database holds tables, but no queue."""


class Newer(Exception):  # noqa: N818 - the name says what happened
    """The database has a schema that only a newer version of this program knows."""

    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.revision = revision


@dataclass(frozen=True)
class Found:
    """The queue in a database."""

    queue_id: str
    revision: int

    @property
    def is_old(self) -> bool:
        return self.revision < SCHEMA_VERSION


def look(connection: Connection) -> Found | None:
    """Return the queue in a database, None in an empty one. Raises SomethingElse and Newer."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if not tables >= FIRST_TABLES:
        raise SomethingElse
    queue_id, first_revision = connection.execute(select(queue.c.id, queue.c.schema_version)).one()
    noted = first_revision  # the first schema knew no Alembic
    if alembic_version.name in tables:
        noted = connection.execute(select(alembic_version.c.version_num)).scalar_one()
    try:
        revision = int(noted)
    except ValueError:
        raise SomethingElse from None
    if revision > SCHEMA_VERSION:
        raise Newer(revision)
    return Found(queue_id, revision)


def fill(connection: Connection) -> None:
    """Make a queue in an empty database."""
    complete(connection.dialect.name)
    metadata.create_all(connection)
    alembic_version.create(connection)
    connection.execute(insert(alembic_version).values(version_num=str(SCHEMA_VERSION)))
    row = {"only_row": 1, "id": str(uuid.uuid4()), "schema_version": SCHEMA_VERSION, "epoch": 0}
    connection.execute(insert(queue).values(created_at=time.time(), **row))


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Migrate an older schema, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    tables = set(inspect(connection).get_table_names())
    if tables and alembic_version.name not in tables:
        command.stamp(config, "1")  # the first schema knew no Alembic
    command.upgrade(config, revision)
